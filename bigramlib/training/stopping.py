"""When mask training ends, and how a run is judged.

1. A run ends when its gates are decided (`count_gates`, `are_decided`), or after `SparsifyConfig.steps` steps. A block whose
   gates are all closed is dropped before that (`count_gates`).
2. A run whose losses jumped and stayed high is unstable (`is_unstable`), and is repeated (`SparsifyConfig.attempts`).
3. The first step names the matrices of which no weight changes the loss, and fails if all are such (`gradients_watched`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bigramlib.models.language_model import LanguageModel
from bigramlib.training.gates import Gates

CHECK_EVERY = 10
"""Steps between two looks at the losses, and at whether the gates are decided."""
CLOSED_GATE = 1e-3
"""A block without a gate above it is dropped for good: it writes next to nothing, and reopening gains only in second order."""
JUDGED_TOKENS = 4096
"""Tokens of which the mean loss tells whether a run is stable."""
log = logging.getLogger(__name__)


@torch.no_grad()
def count_gates(gates: Gates, beta: float) -> tuple[int, int, list[str]]:
    """Look at all gates, at this beta and the logits of now.

    Returns:
        kept: how many gates lie above 0.9.
        undecided: how many lie between 0.1 and 0.9.
        closed: the blocks that have no gate above `CLOSED_GATE`, by module name; but one block always counts as open.
    """
    threshold, open_from = math.log(9) / beta, math.log(CLOSED_GATE / (1 - CLOSED_GATE)) / beta
    logits = [block.logits for block in gates.blocks.values()]
    counts = [
        torch.stack([(part > threshold).sum(), (part.abs() < threshold).sum(), (part > open_from).sum()]) for part in logits
    ]
    rows = gates.ranks.sum(torch.stack(counts)).tolist()
    kept, undecided, _ = map(sum, zip(*rows, strict=True))
    closed = [name for name, (_, _, is_open) in zip(gates.blocks, rows, strict=True) if not is_open]
    return kept, undecided, closed[: len(rows) - 1]


def are_decided(kept: int, undecided: int, undecided_share: float) -> bool:
    """Whether undecided gates (0.1 to 0.9) are at most this share of the kept ones (above 0.9), which ends a run."""
    return undecided <= undecided_share * kept


def is_unstable(losses: list[float], tokens: int = JUDGED_TOKENS) -> bool:
    """Whether the losses of a run jumped and stayed high (the rule of the paper's release, whose steps have 4,096 tokens).

    The losses of smaller steps are noise to such a rule, so they are averaged over as many steps as have 4,096 tokens, and each
    mean counts as a step. A jump is a rise by 0.25 nats, or by a quarter, over the mean of the 10 steps before (of all before,
    where they are fewer). It can come from the second step on. It is forgiven if a loss as low as that mean comes again before
    the last 100 of the run's own steps.

    Args:
        losses: the cross-entropy with the target at each step, nats.
        tokens: of each step.
    """
    together = max(1, JUDGED_TOKENS // tokens)
    whole = len(losses) // together
    curve = np.asarray(losses[: whole * together], dtype=float).reshape(whole, together).mean(axis=1)
    steps = np.arange(1, len(curve))
    sums = np.concatenate([[0.0], np.cumsum(curve)])
    first = np.maximum(0, steps - 10)
    before = (sums[steps] - sums[first]) / (steps - first)
    jumps = np.flatnonzero((curve[1:] > before + 0.25) | (curve[1:] > before * 1.25))
    settled = curve[: max(0, len(curve) - 100 // together)]
    return any(not (settled[1 + jump :] <= before[jump]).any() for jump in jumps)


@contextmanager
def gradients_watched(masked: Mapping[str, Tensor], model: LanguageModel) -> Iterator[None]:
    """Within the block, watch the gradients of one step; at its end, warn of matrices of which no weight changes the loss.

    Args:
        masked: the masked weights by parameter name, leaves of the step's backward passes.
        model: the model whose weights they mask.

    Raises:
        FloatingPointError: no weight changes the loss.
    """
    alive: set[str] = set()

    def note(name: str, gradient: Tensor) -> None:
        if name not in alive and bool((gradient * model.maskable[name]).any()):
            alive.add(name)

    hooks = [tensor.register_hook(partial(note, name)) for name, tensor in masked.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    dead = [name for name in masked if name not in alive]
    if len(dead) == len(masked):
        raise FloatingPointError(
            f"No weight of {model.name!r} changes the loss: its logits are the same for every token, or its layers do not "
            "reach them; check that the model is loaded whole."
        )
    if dead:
        log.warning(
            "No weight in %d of %d matrices of %r changes the loss (all zero, or a dead layer), so only the sparsity penalty "
            "decides on them: %s.",
            len(dead),
            len(masked),
            model.name,
            ", ".join(dead),
        )
