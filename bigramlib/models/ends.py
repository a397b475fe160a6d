"""Both ends of a model: what tokens go through before the first layer, and how logits are made of what the last one writes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from bigramlib.models.discovery import decoder_of
from bigramlib.models.layers import recorded
from bigramlib.models.logits import Readout, agree


@dataclass(frozen=True)
class Ends:
    """What comes before and after the layers of a model, as found by running it.

    Attributes:
        before: names of the modules that tokens go through one after the other, from the embedding layer on, until positions
            are added or the layers begin.
        after: names of the modules that take the last layer's output to the last hidden state, in order.
        cap, scale: of the logits (see `Readout`).
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    cap: float | None
    scale: float

    @classmethod
    @torch.no_grad()
    def of(cls, hf: PreTrainedModel, ids: Int[Tensor, "batch pos"], vocabulary_size: int, name: str) -> Ends:
        """Run a model on a few tokens and see.

        Args:
            hf: the model.
            ids: any tokens.
            vocabulary_size: logits beyond it, which only pad the vocabulary, are not looked at.
            name: what the user calls the model, for messages.

        Raises:
            ValueError: its logits are not linear in its last hidden states, up to a scale and a cap, or these are not what its
                last layer writes, up to a norm.
        """
        own = hf(ids).logits[..., :vocabulary_size]
        with recorded(hf) as seen:
            hidden = decoder_of(hf)[1](ids).last_hidden_state
        if not agree(hidden, in_turn(hf, tuple(seen.after))(seen.stream[-1])):
            raise ValueError(f"The last hidden state of {name!r} is not the final norm of what its last layer writes.")
        readout = Readout.of(hf, vocabulary_size).measured(own, hidden)
        if not agree(own, readout.logits(hidden)):
            raise ValueError(f"The logits of {name!r} are not its unembedding of the last hidden state.")
        return cls(tuple(seen.before), tuple(seen.after), readout.cap, readout.scale)

    def embedding(self, hf: PreTrainedModel) -> nn.Module:
        """What takes tokens to what they bring into the residual stream."""
        return in_turn(hf, self.before)

    def norm(self, hf: PreTrainedModel) -> nn.Module:
        """What takes the last layer's output to the last hidden state."""
        return in_turn(hf, self.after)

    def readout(self, hf: PreTrainedModel, vocabulary_size: int) -> Readout:
        """What turns last hidden states into logits, as the model has it now."""
        return replace(Readout.of(hf, vocabulary_size), cap=self.cap, scale=self.scale)


def in_turn(hf: PreTrainedModel, names: tuple[str, ...]) -> nn.Module:
    """The modules of these names, one after the other."""
    modules = [hf.get_submodule(name) for name in names]
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
