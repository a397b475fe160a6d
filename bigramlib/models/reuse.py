"""Passes over the same tokens that differ in a few weights: what gets the same inputs again is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bigramlib.models.architectures import Architecture
from bigramlib.models.left_out import blocks_left_out
from bigramlib.models.locks import lock_of


@dataclass
class Reuse:
    """What each attention and MLP module took and gave when it was computed last.

    So of a pass that differs from the one before in a few weights only the module that holds them is computed, and what gets
    other inputs by that: mostly what comes after. The results have the same bits. What modules took and gave stays in memory,
    four residual streams for each layer.

    Attributes:
        hf: the model.
        architecture: its layout.
        calls: by the module's name its inputs and its output.
    """

    hf: PreTrainedModel
    architecture: Architecture
    calls: dict[str, tuple[object, object]] = field(default_factory=dict)

    def forget(self, parameters: Iterable[str]) -> None:
        """Have the modules computed again that hold these parameters, since their values are others now."""
        for name in parameters:
            for block in [block for block in self.calls if name.startswith(f"{block}.")]:
                del self.calls[block]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the context modules that get the inputs of their last call give what they gave then."""
        blocks = self.architecture.blocks.keys() - set(blocks_left_out(self.hf, self.architecture))
        modules = {block: self.hf.get_submodule(block) for block in blocks}
        with lock_of(self.hf):
            before = {block: vars(module).get("forward") for block, module in modules.items()}
            try:
                for block, module in modules.items():
                    module.forward = self._remembering(block, module.forward)
                yield
            finally:
                for block, module in modules.items():
                    del module.forward
                    if before[block] is not None:
                        module.forward = before[block]

    def _remembering(self, block: str, forward: Callable) -> Callable:
        """The forward pass of a module, computed only for inputs that are not those of its last call."""

        def remembered(*inputs: object, **named: object) -> object:
            if block not in self.calls or not _same(self.calls[block][0], (inputs, named)):
                self.calls[block] = (inputs, named), forward(*inputs, **named)
            return _copied(self.calls[block][1])

        return remembered


def _same(before: object, now: object) -> bool:
    """Whether inputs of a module are the same, tensors by their values."""
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        return before is now or torch.equal(before, now)
    if isinstance(before, tuple | list) and isinstance(now, tuple | list):
        return len(before) == len(now) and all(map(_same, before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        return before.keys() == now.keys() and all(_same(before[key], now[key]) for key in before)
    return before is now or (type(before) is type(now) and isinstance(now, bool | int | float | str) and before == now)


def _copied(output: object) -> object:
    """What a module gave, in new memory, so that no later module can change it in place."""
    if isinstance(output, Tensor):
        return output.clone()
    return tuple(map(_copied, output)) if isinstance(output, tuple) else output
