"""A model seen through TransformerLens."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from bigramlib.models.architectures import Architecture, held, holder
from bigramlib.models.left_out import check_loaded

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def bridged(hf: PreTrainedModel, architecture: Architecture, name: str) -> TransformerBridge:
    """A TransformerLens bridge around a copy of a model; the bridge rewrites what it wraps (it splits fused QKV matrices).

    Args:
        hf: the model.
        architecture: its layout.
        name: what the user calls it, for messages.

    Raises:
        ValueError: TransformerLens cannot show such a model.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module  # slow to import

    check_loaded(hf, architecture, name)
    hf = copy.deepcopy(hf)
    _add_fused_biases(hf, architecture)
    hf.config.architectures = [type(hf).__name__]
    try:
        return build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None)
    except Exception as error:  # whatever TransformerLens stumbles over in a model that it does not know
        raise ValueError(f"TransformerLens cannot show the model {name!r} ({in_short(error)}).") from error


def in_short(error: Exception) -> str:
    """The kind of an error of another library, and the first sentence of what it says."""
    said = re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _add_fused_biases(hf: PreTrainedModel, architecture: Architecture) -> None:
    """Give fused QKV matrices that have no bias one of zeros, in place: TransformerLens cannot split them without."""
    for component in architecture.components:
        matrix = hf.get_submodule(holder(component.parameter))
        if component.name == "q" and len(held(component.parameter)) > 1 and matrix.bias is None:
            matrix.bias = nn.Parameter(matrix.weight.new_zeros(matrix.weight.shape[component.axis]))
