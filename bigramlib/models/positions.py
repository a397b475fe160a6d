"""How long a sequence a model can read."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from bigramlib.models.discovery import decoder_of

log = logging.getLogger(__name__)


@dataclass
class Positions:
    """The positions that a model has for the tokens of a sequence.

    Attributes:
        hf: the model.
        name: what the user calls it, for messages.
        prefix_length: tokens that stand before every sequence.
        warned: whether a warning of long sequences was logged already; it is logged once.
    """

    hf: PreTrainedModel
    name: str
    prefix_length: int
    warned: bool = False

    @property
    def count(self) -> int | None:
        """How many tokens a sequence may have, prefix included; None where the configuration does not say."""
        return getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)

    def check(self, sequence_length: int) -> None:
        """Raise ValueError if sequences of so many tokens and the prefix are longer than the model can read.

        Models that compute positions can read on beyond what they were made for, so there a warning is logged instead.
        """
        length = self.prefix_length + sequence_length
        if self.count is None or length <= self.count:
            return
        if has_table_of_positions(self.hf, self.count):
            before = f" and the {self.prefix_length} that its tokenizer puts before them" if self.prefix_length else ""
            raise ValueError(
                f"{self.name!r} has {self.count} positions, too few for sequences of {sequence_length} tokens{before}; "
                f"use a sequence_length of at most {self.count - self.prefix_length}."
            )
        if not self.warned:
            self.warned = True
            log.warning(
                "Sequences of %d tokens are longer than the %d positions that %r was made for; it may read them badly.",
                length,
                self.count,
                self.name,
            )


def has_table_of_positions(hf: PreTrainedModel, positions: int) -> bool:
    """Whether a model looks positions up in a table, which has an end (GPT-2, OPT, GPT-J), instead of computing them.

    XGLM has a table too, but makes it longer when it has to.
    """
    embedding = hf.get_input_embeddings()
    modules = [part for part in decoder_of(hf)[1].modules() if part is not embedding and not hasattr(part, "make_weights")]
    tables = [part.weight for part in modules if isinstance(part, torch.nn.Embedding)]
    tables += [buffer for part in modules for buffer in part.buffers(recurse=False) if buffer.ndim == 2]
    return any(positions <= len(table) <= positions + 2 for table in tables)
