"""Weights that do not change the loss, such as those of a dead layer, named at the first step of a search."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from bigramlib.models.language_model import LanguageModel

log = logging.getLogger(__name__)


@contextmanager
def gradients_watched(masked: Mapping[str, Tensor], model: LanguageModel) -> Iterator[None]:
    """Watch a step: warn of matrices of which no weight changes the loss, and raise if no matrix does.

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
