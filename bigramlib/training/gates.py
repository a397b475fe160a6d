"""The gates of mask training: a logit for each searched weight, updated block by block while the backward pass runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bigramlib.models.language_model import LanguageModel
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.optimizer import LogitOptimizer

ZERO_WEIGHT_LOGIT = -1e6
LOWEST_GATE = 1e-20
"""Gates below it are zero: they change no sum in float32, but make subnormal numbers, which slow products down 20 times."""


class _Gates:
    """Mask logits of a model's maskable matrices, with their optimizers.

    Above the model itself a weight costs its logit and AdamW's two moments. Masked weights exist for one attention block or
    MLP at a time: they are made in its forward pass and again in its backward pass, in memory that all blocks share.
    """

    def __init__(self, model: LanguageModel, config: SparsifyConfig) -> None:
        self.model = model
        self.n = sum(weight.numel() for weight in model.maskable.values())
        self.penalty = config.sparsity_penalty / self.n
        self.shapes = {name: weight.shape for name, weight in model.maskable.items()}
        searched = set(model.architecture.within(config.layers, config.attention))
        kept = {block: names for block, names in model.architecture.blocks.items() if not searched.isdisjoint(names)}
        self.dropped = [block for block in model.architecture.blocks if block not in kept]
        largest = max(sum(self.shapes[name].numel() for name in names) for names in kept.values())
        self.workspace = _Workspace(largest, config.dtype, model.device)
        self.blocks = {
            block: _BlockGates({name: model.maskable[name] for name in names}, config, self.workspace)
            for block, names in kept.items()
        }
        self.masked = {name: masked for block in self.blocks.values() for name, masked in block.masked.items()}

    def close(self, beta: float) -> None:
        """Begin a step at this beta; the backward pass that follows updates the logits."""
        self.workspace.owner = None
        for block in self.blocks.values():
            block.close(beta, self.penalty)

    def hidden(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The last hidden state of the masked model, whose backward pass makes the masked weights again."""
        with ExitStack() as stack:
            for name, block in self.blocks.items():
                hook = self.model.hf.get_submodule(name).register_forward_pre_hook(partial(_BlockGates.open, block))
                stack.callback(hook.remove)
            stack.enter_context(self.model.skipping(self.dropped))
            stack.enter_context(saved_tensors_hooks(self.workspace.pack, self.workspace.unpack))
            return self.model.hidden(ids, self.masked)

    def await_gradients(self, passes: int) -> None:
        """Update the logits in the last of so many backward passes; a block that was updated in this step is not again.

        Where memory ran out after that, further passes of the same step see the block as updated.
        """
        for block in self.blocks.values():
            block.await_gradients(passes)

    def state(self) -> dict[str, Tensor]:
        """Logits and optimizer state, by name; `restore` takes them back."""
        return {f"{module}.{name}": part for module, block in self.blocks.items() for name, part in block.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state` of gates of the same model and config."""
        for module, block in self.blocks.items():
            block.restore({name: state[f"{module}.{name}"] for name in block.state()})

    def mean(self) -> float:
        """The mean gate of this step over all maskable weights."""
        return sum(float(block.total) for block in self.blocks.values()) / self.n

    def masks(self) -> dict[str, Tensor]:
        """The hard masks s > 0, on the CPU; nothing is kept of matrices that were not searched."""
        masks = {name: torch.zeros(shape, dtype=torch.bool, device="cpu") for name, shape in self.shapes.items()}
        for block in self.blocks.values():
            for name, part in block.split(block.logits > 0):
                masks[name] = part.cpu().clone()
        return masks


class _Workspace:
    """Memory for the gates and masked weights of one block at a time, filled again where autograd asks for another's."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.gates = torch.zeros(size, dtype=torch.float32, device=device)
        self.masked = torch.zeros(size, dtype=dtype, device=device)
        self.owner: _BlockGates | None = None

    def pack(self, saved: Tensor) -> tuple[_BlockGates | None, Tensor]:
        """What autograd keeps of a tensor: of masked weights, the block that can make them again."""
        ours = saved.untyped_storage().data_ptr() == self.masked.untyped_storage().data_ptr()
        return self.owner if ours else None, saved.detach()

    def unpack(self, packed: tuple[_BlockGates | None, Tensor]) -> Tensor:
        """A kept tensor, its block's masked weights in place."""
        owner, saved = packed
        if owner is not None:
            owner.fill()
        return saved


class _BlockGates:
    """The gates of an attention block or MLP: flat logits with their optimizer, and masked weights whose gradients drive it."""

    def __init__(self, weights: dict[str, Tensor], config: SparsifyConfig, workspace: _Workspace) -> None:
        self.weights, self.workspace = weights, workspace
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        self.logits = torch.nn.Parameter(torch.zeros_like(flat).masked_fill_(flat == 0, ZERO_WEIGHT_LOGIT))
        self.optimizer = LogitOptimizer(self.logits, config.learning_rate)
        self.masked = {name: part.detach().requires_grad_() for name, part in self.split(workspace.masked)}
        block = weakref.proxy(self)  # a tensor's hooks are invisible to the garbage collector
        for name, masked in self.masked.items():
            masked.register_post_accumulate_grad_hook(partial(_BlockGates._arrived, block, name))

    def split(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The part of each matrix in a flat tensor, as views."""
        pieces = flat[: len(self.logits)].split([weight.numel() for weight in self.weights.values()])
        for (name, weight), piece in zip(self.weights.items(), pieces, strict=True):
            yield name, piece.view(weight.shape)

    def close(self, beta: float, penalty: float) -> None:
        """Begin a step."""
        self.beta, self.penalty = beta, penalty
        self.updated = False
        self.await_gradients(1)

    def open(self, *_: object) -> None:
        """Make the masked weights for a forward pass (the hook before its module)."""
        self.total = self.fill().sum()

    @torch.no_grad()
    def fill(self) -> Tensor:
        """Have this block's gates, sigmoid(beta s), and masked weights in the workspace; returns the gates, flat."""
        gates = self.workspace.gates[: len(self.logits)]
        if self.workspace.owner is not self:
            torch.mul(self.logits, self.beta, out=gates).sigmoid_()
            torch.threshold_(gates, LOWEST_GATE, 0.0)
            for (name, gate), (_, masked) in zip(self.split(gates), self.split(self.workspace.masked), strict=True):
                torch.mul(gate, self.weights[name], out=masked)
            self.workspace.owner = self
        return gates

    def await_gradients(self, passes: int) -> None:
        """Forget gradients that have come, and step after so many of each matrix, unless this step has been made."""
        self.gradient: Tensor | None = None
        self.passes, self.awaited = passes, dict.fromkeys(self.weights, passes)
        for masked in self.masked.values():
            masked.grad = None

    def state(self) -> dict[str, Tensor]:
        """Logits and optimizer state."""
        return {"logits": self.logits.detach()} | self.optimizer.state()

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back a `state`."""
        on_device = {name: part.to(self.logits.device) for name, part in state.items()}
        self.logits.copy_(on_device.pop("logits"))
        self.optimizer.restore(on_device)

    @torch.no_grad()
    def _arrived(self, name: str, masked: Tensor) -> None:
        """Take over the gradient of one masked matrix; after the last one, turn them into those of the logits and step."""
        gradient, masked.grad = masked.grad, None
        if self.updated:
            return
        if self.gradient is None:
            self.gradient = torch.empty_like(self.logits)
        part = dict(self.split(self.gradient))[name]
        before = part if self.awaited[name] < self.passes else part.new_tensor(self.beta * self.penalty)
        torch.addcmul(before, gradient, self.weights[name], value=self.beta, out=part)
        self.awaited[name] -= 1
        if not any(self.awaited.values()):
            gate = self.fill()
            self.workspace.owner = None
            self.gradient.mul_(gate.addcmul_(gate, gate, value=-1))
            gradient, self.gradient = self.gradient, None
            self.optimizer.step(gradient)
            self.updated = True
