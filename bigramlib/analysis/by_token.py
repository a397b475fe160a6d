"""Passes of models in which a prediction depends on the current token alone: each token is computed once, wherever it stands.

A subnetwork that keeps nothing of attention is such a model, and most bigram subnetworks are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from bigramlib.models.architectures import held
from bigramlib.models.components import ATTENTION_COMPONENTS
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.logits import agree

Pass = Callable[[Tensor], tuple[Tensor, ...]]
"""Takes token ids [batch, pos] and gives tensors [batch, pos, ...]."""
COMPARED = 2
"""How many sequences are computed in the usual way as well, to see whether they give the same."""
ROUNDING = 1e-4
"""By how much, of the largest number, tensors may differ that are the same but for rounding."""


def without_attention(model: LanguageModel) -> bool:
    """Whether all attention weights of a model are zero, as it is at this moment; those that are left out count as zero."""
    attention = (weight for name, weight in model.maskable.items() if held(name)[0] in ATTENTION_COMPONENTS)
    return not any(bool(weight.any()) for weight in attention if not weight.is_meta)


def token_by_token(passed: Pass, ids: Int[Tensor, "batch pos"], tokens: Int[Tensor, " tokens"]) -> Pass:
    """A pass that computes each token once, if predictions depend on the current token alone; otherwise the usual one.

    They do not where positions have embeddings or layers have more than attention and an MLP, which is tried out.

    Args:
        passed: the usual pass.
        ids: some sequences, to try it out.
        tokens: all that will be asked for, each once, in ascending order.
    """
    once = _Once(passed, tokens)
    same = [agree(usual, found, ROUNDING) for usual, found in zip(passed(ids[:COMPARED]), once(ids[:COMPARED]), strict=True)]
    return once if all(same) else passed


class _Once:
    """A pass that remembers what each token gave."""

    def __init__(self, passed: Pass, tokens: Int[Tensor, " tokens"]) -> None:
        self.passed, self.tokens = passed, tokens
        self.known = torch.zeros_like(tokens, dtype=torch.bool)
        self.given: list[Tensor] = []

    def __call__(self, ids: Int[Tensor, "batch pos"]) -> tuple[Tensor, ...]:
        places = torch.searchsorted(self.tokens, ids)
        new = places.unique()
        new = new[~self.known[new]]
        if len(new):
            parts = self.passed(self.tokens[new][:, None])
            self.given = self.given or [part.new_empty(len(self.tokens), *part.shape[2:]) for part in parts]
            for whole, part in zip(self.given, parts, strict=True):
                whole[new] = part[:, 0]
            self.known[new] = True
        return tuple(whole[places] for whole in self.given)
