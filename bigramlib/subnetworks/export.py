"""A model of which only a subnetwork is kept, as an ordinary Hugging Face folder that knows nothing of this library."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from bigramlib.disk import written_whole
from bigramlib.subnetworks.cards import CARD

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


def write_model(folder: Path, model: LanguageModel, card: str) -> None:
    """Write a model as it is now, within `Subnetwork.applied`, with its tokenizer and a card; whole or not at all.

    Args:
        folder: made by this; if it is there, it must be empty.
        model: the model.
        card: the text of its model card.

    Raises:
        ValueError: there is something in the folder.
        OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"There is already something at {str(folder)!r}; name a new folder, or an empty one.")
    config = copy.deepcopy(model.hf.config)
    config.get_text_config().use_cache = model.use_cache
    try:
        with written_whole(folder) as temporary:
            model.hf.save_pretrained(temporary)
            config.architectures = model.hf.config.architectures
            config.save_pretrained(temporary)
            model.tokenizer.save_pretrained(temporary)
            (temporary / CARD).write_text(card, encoding="utf-8")
    except SafetensorError as error:
        raise OSError(f"The model could not be written to {str(folder)!r} ({error}); make room there.") from error
