"""The gates of mask training: a logit for each searched weight, updated block by block while the backward pass runs."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from bigramlib.config import SparsifyConfig
from bigramlib.models import LanguageModel

ZERO_WEIGHT_LOGIT = -1e6


class _Gates:
    """Mask logits and masked weights of a model's maskable matrices, updated block by block during the backward pass.

    Above the model itself a weight costs its logit, AdamW's two moments and the masked weight: gradients live for one
    attention block or MLP at a time, and gates are computed where they are needed.
    """

    def __init__(self, model: LanguageModel, config: SparsifyConfig) -> None:
        self.n = sum(weight.numel() for weight in model.maskable.values())
        self.penalty = config.sparsity_penalty / self.n
        self.shapes = {name: weight.shape for name, weight in model.maskable.items()}
        searched = set(model.architecture.within(config.layers, config.attention))
        blocks = model.architecture.blocks
        self.dropped = [block for block, names in blocks.items() if searched.isdisjoint(names)]
        kept = [names for names in blocks.values() if not searched.isdisjoint(names)]
        self.blocks = [_BlockGates({name: model.maskable[name] for name in names}, config) for names in kept]
        self.masked = {name: masked for block in self.blocks for name, masked in block.masked.items()}

    def close(self, beta: float) -> None:
        """Refresh the masked weights for a step; the backward pass that follows updates the logits."""
        for block in self.blocks:
            block.close(beta, self.penalty)

    def await_gradients(self, passes: int) -> None:
        """Update the logits in the last of so many backward passes; a block that was updated in this step is not again."""
        for block in self.blocks:
            block.await_gradients(passes)

    def state(self) -> dict[str, Tensor]:
        """Logits and optimizer state, by name; `restore` takes them back."""
        return {f"{place}.{name}": part for place, block in enumerate(self.blocks) for name, part in block.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state` of gates of the same model and config."""
        for place, block in enumerate(self.blocks):
            block.restore({name: state[f"{place}.{name}"] for name in ("logits", "step", "exp_avg", "exp_avg_sq")})

    def mean(self) -> float:
        """The mean gate of this step over all maskable weights."""
        return sum(float(block.open) for block in self.blocks) / self.n

    @torch.no_grad()
    def decided(self, beta: float) -> tuple[int, int]:
        """(gates above 0.9, gates between 0.1 and 0.9) for the logits as they are now."""
        threshold = math.log(9) / beta
        on = sum(int((block.logits > threshold).sum()) for block in self.blocks)
        return on, sum(int((block.logits.abs() < threshold).sum()) for block in self.blocks)

    def masks(self) -> dict[str, Tensor]:
        """The hard masks s > 0, on the CPU; nothing is kept of matrices that were not searched."""
        masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in self.shapes.items()}
        for block in self.blocks:
            for name, part in block.split(block.logits > 0):
                masks[name] = part.cpu().clone()
        return masks


class _BlockGates:
    """The gates of an attention block or MLP: flat logits with their optimizer, and masked weights whose gradients drive it."""

    def __init__(self, weights: dict[str, Tensor], config: SparsifyConfig) -> None:
        self.weights = weights
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        self.logits = torch.nn.Parameter(torch.zeros_like(flat).masked_fill_(flat == 0, ZERO_WEIGHT_LOGIT))
        self.optimizer = torch.optim.AdamW([self.logits], lr=config.learning_rate, fused=True)
        zeros = {name: torch.zeros_like(flat) for name in ("exp_avg", "exp_avg_sq")}
        self.optimizer.state[self.logits] = {"step": flat.new_zeros(()), **zeros}
        self.masked = {name: torch.zeros_like(weight, dtype=config.dtype).requires_grad_() for name, weight in weights.items()}
        block = weakref.proxy(self)  # a tensor's hooks are invisible to the garbage collector
        for name, masked in self.masked.items():
            masked.register_post_accumulate_grad_hook(partial(_BlockGates._arrived, block, name))

    def split(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The part of each matrix in a flat tensor, as views."""
        pieces = flat.split([weight.numel() for weight in self.weights.values()])
        for (name, weight), piece in zip(self.weights.items(), pieces, strict=True):
            yield name, piece.view(weight.shape)

    def gate(self) -> Tensor:
        """sigmoid(beta s), flat."""
        return torch.mul(self.logits.detach(), self.beta).sigmoid_()

    @torch.no_grad()
    def close(self, beta: float, penalty: float) -> None:
        """Refresh the masked weights, and get ready for their gradients."""
        self.beta, self.penalty = beta, penalty
        flat = self.gate()
        self.open = flat.sum()
        for name, gate in self.split(flat):
            self.masked[name].copy_(gate.mul_(self.weights[name]))
        self.updated = False
        self.await_gradients(1)

    def await_gradients(self, passes: int) -> None:
        """Forget gradients that have come, and step after so many of each matrix, unless this step has been made."""
        self.gradient: Tensor | None = None
        self.passes, self.awaited = passes, dict.fromkeys(self.weights, passes)
        for masked in self.masked.values():
            masked.grad = None

    def state(self) -> dict[str, Tensor]:
        """Logits and AdamW's state."""
        return {"logits": self.logits.detach()} | self.optimizer.state[self.logits]

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back a `state`."""
        on_device = {name: part.to(self.logits.device) for name, part in state.items()}
        self.logits.copy_(on_device.pop("logits"))
        self.optimizer.state[self.logits] = on_device

    @torch.no_grad()
    def _arrived(self, name: str, masked: Tensor) -> None:
        """Take over the gradient of one masked matrix; after the last one, turn them into those of the logits and step."""
        gradient, masked.grad = masked.grad, None
        if self.updated:
            return
        if self.gradient is None:
            self.gradient = torch.empty_like(self.logits)
        part = dict(self.split(self.gradient))[name]
        if self.awaited[name] == self.passes:
            torch.mul(gradient, self.weights[name], out=part)
        else:
            part.addcmul_(gradient, self.weights[name])
        self.awaited[name] -= 1
        if not any(self.awaited.values()):
            gate = self.gate()
            self.gradient.add_(self.penalty).mul_(gate).mul_(gate.neg_().add_(1)).mul_(self.beta)
            self.logits.grad, self.gradient = self.gradient, None
            self.optimizer.step()
            self.logits.grad = None
            self.updated = True
