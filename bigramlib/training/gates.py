"""The gates of mask training: how continuous sparsification (Savarese et al. 2020) is computed.

Each weight W that may be dropped has a logit s and is multiplied by its gate sigmoid(beta s). The loss is the mean KL to the
target plus lambda (`SparsifyConfig.sparsity_penalty`) times the mean gate. beta grows from step to step, which drives the gates
to 0 or 1; at the end the mask is s > 0.

One search, by the functions that do it:

1. All logits start at 0, gates at 1/2, unless the search starts from a subnetwork (`BlockGates.start_from`). A weight that is
   exactly 0 does nothing and starts dropped.
2. A step sets beta (`Gates.begin_step`), and in how many backward passes its gradients come (`Gates.expect_passes`).
3. The forward pass runs the model with W * sigmoid(beta s) for W (`Gates.hidden`). Before the first matrix of each attention
   block or MLP runs, the block's masked weights are made (`BlockGates.before_forward`, `BlockGates.make_masked_weights`). All
   blocks make them in the same memory (`Workspace`), so that there is never more than one block's.
4. The caller computes the KL from the hidden state (`step.OptimizerStep`) and calls `backward`. Where autograd needs masked
   weights that another block has overwritten since, they are made again (`Workspace.pack`, `Workspace.unpack`).
5. As soon as autograd has the gradient g of the KL by a masked matrix, the chain rule turns it into that by the logits, and the
   gradient of the penalty is added: (g * W + lambda / n) * beta * gate * (1 - gate), where n is the number of weights. When
   a block's gradients are complete, its logits are updated at once and the gradients freed (`BlockGates.take_gradient`,
   `optimizer.LogitOptimizer.step`), while the backward pass goes on to the blocks below.
6. The caller lets beta grow and repeats from 2 until the gates are decided (`loop.train`, `stopping.are_decided`); a search
   that starts from a subnetwork, where they are decided at once, takes all steps. A block whose gates are all closed is dropped
   from the next step on (`stopping.count_gates`, `Gates.drop`).
7. The mask is s > 0 (`Gates.masks`).

So a step costs what a plain fine-tuning step costs, plus a few elementwise passes over one block at a time. The memory above
that of the model is for the logits and AdamW's two moments.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from bigramlib.models.architectures import holder
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.left_out import check_loaded
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.optimizer import LogitOptimizer
from bigramlib.training.ranks import ALONE, Ranks

ZERO_WEIGHT_LOGIT = -1e6
KEPT_GATE, DROPPED_GATE = 0.9, 0.05
"""Where the gates start in a search that starts from a subnetwork: near its mask, and near enough to change."""
LOWEST_GATE = 1e-20
"""Gates below it are set to zero: they change no float32 sum, but make subnormal numbers, which slow products down 20 times."""


class Gates:
    """The gates of all weights of a model that are searched, in blocks; blocks that are not searched are dropped whole.

    Attributes:
        model: the frozen model.
        total: the number of maskable weights, searched or not.
        penalty_per_weight: what one open gate adds to the loss, nats: lambda / `total`.
        dropped: the attention blocks and MLPs that are skipped, by module name: not searched, or closed.
        blocks: the gates of the others, by module name.
        masked: the masked weights by parameter name: leaves for autograd, whose values lie in the workspace.
        ranks: the processes that keep them together.
    """

    ranks: Ranks = ALONE

    def __init__(self, model: LanguageModel, config: SparsifyConfig) -> None:
        self.model = model
        self.total = sum(weight.numel() for weight in model.maskable.values())
        self.penalty_per_weight = config.sparsity_penalty / self.total
        self.shapes = {name: weight.shape for name, weight in model.maskable.items()}
        searched = set(model.architecture.within(config.layers, config.attention))
        kept = {block: names for block, names in model.architecture.blocks.items() if not searched.isdisjoint(names)}
        check_loaded(model.hf, model.architecture, model.name, kept)
        self.dropped = [block for block in model.architecture.blocks if block not in kept]
        self.blocks = self.blocks_of(
            {block: {name: model.maskable[name] for name in names} for block, names in kept.items()}, config
        )
        self.masked = {name: masked for block in self.blocks.values() for name, masked in block.masked.items()}

    def blocks_of(self, weights: dict[str, dict[str, Tensor]], config: SparsifyConfig) -> dict[str, BlockGates]:
        """The gates of each block, given its weights by parameter name; they share one workspace."""
        largest = max(sum(map(Tensor.numel, block.values())) for block in weights.values())
        self.workspace = Workspace(largest, largest, config.dtype, self.model.device)
        return {name: BlockGates(block, config, self.workspace) for name, block in weights.items()}

    def start_from(self, masks: Mapping[str, Tensor], beta: float) -> None:
        """Set all gates near a mask, which keeps nothing outside of what is searched.

        Args:
            masks: by parameter name.
            beta: of the first step.
        """
        for block in self.blocks.values():
            block.start_from(masks, beta)

    def drop(self, blocks: Iterable[str]) -> None:
        """Skip some blocks from now on, and forget their gates; the mask keeps nothing of them."""
        for name in blocks:
            self.dropped.append(name)
            for parameter in self.blocks.pop(name).masked:
                del self.masked[parameter]

    def begin_step(self, beta: float) -> None:
        """Use gates sigmoid(beta s) from now on, until the backward pass updates the logits.

        That is the next backward pass, unless `expect_passes` is called for more.
        """
        self.workspace.owner = None
        for block in self.blocks.values():
            block.begin_step(beta, self.penalty_per_weight)

    def hidden(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The last hidden state of the masked model; its backward pass makes masked weights again and updates the logits."""
        with ExitStack() as stack:
            for block in self.blocks.values():
                for module in dict.fromkeys(holder(name) for name in block.weights):
                    hook = self.model.hf.get_submodule(module).register_forward_pre_hook(
                        partial(BlockGates.before_forward, block)
                    )
                    stack.callback(hook.remove)
            stack.enter_context(self.model.skipping(self.dropped))
            stack.enter_context(saved_tensors_hooks(self.workspace.pack, self.workspace.unpack))
            return self.model.hidden(ids, self.masked)

    def expect_passes(self, passes: int) -> None:
        """Update the logits in the last of so many backward passes; gradients that have come so far are forgotten.

        No block is updated twice in a step. If memory runs out after some blocks were updated, the step is repeated in more
        passes, which use the updated logits of those blocks, and update the others.
        """
        for block in self.blocks.values():
            block.expect_passes(passes)

    def state(self) -> dict[str, Tensor]:
        """The logits and the optimizers' state by name, to be saved; no copies."""
        return {f"{module}.{name}": part for module, block in self.blocks.items() for name, part in block.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue with a `state` that was saved from gates of the same model and config."""
        for module, block in self.blocks.items():
            block.restore({name: state[f"{module}.{name}"] for name in block.state()})

    def masks(self) -> dict[str, Tensor]:
        """The masks s > 0 by parameter name, on the CPU; of matrices that were not searched nothing is kept."""
        masks = {name: torch.zeros(shape, dtype=torch.bool, device="cpu") for name, shape in self.shapes.items()}
        for block in self.blocks.values():
            masks |= block.masks()
        return masks


class Workspace:
    """Memory that all blocks share, for the gates and masked weights of one of them at a time: of its `owner`."""

    def __init__(self, gates: int, weights: int, dtype: torch.dtype, device: torch.device) -> None:
        self.gates = torch.zeros(gates, dtype=torch.float32, device=device)
        self.masked = torch.zeros(weights, dtype=dtype, device=device)
        self.owner: BlockGates | None = None

    def pack(self, saved: Tensor) -> tuple[BlockGates | None, Tensor]:
        """For `saved_tensors_hooks`: of masked weights, autograd saves with the tensor the block that can make them again."""
        ours = saved.untyped_storage().data_ptr() == self.masked.untyped_storage().data_ptr()
        return self.owner if ours else None, saved.detach()

    def unpack(self, packed: tuple[BlockGates | None, Tensor]) -> Tensor:
        """For `saved_tensors_hooks`: the saved tensor; if it is of masked weights, they are made again where they were."""
        owner, saved = packed
        if owner is not None:
            owner.make_masked_weights()
        return saved


class BlockGates:
    """The gates of one attention block or MLP: the logits of its matrices in one flat tensor, and their optimizer."""

    def __init__(self, weights: dict[str, Tensor], config: SparsifyConfig, workspace: Workspace) -> None:
        self.weights, self.workspace = weights, workspace
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        self.logits = torch.nn.Parameter(torch.zeros_like(flat).masked_fill_(flat == 0, ZERO_WEIGHT_LOGIT))
        self.optimizer = LogitOptimizer(self.logits, config.learning_rate, config.second_moment_decay)
        self.masked = {name: part.detach().requires_grad_() for name, part in self.matrices(workspace.masked)}
        block = weakref.proxy(self)  # a tensor's hooks are invisible to the garbage collector
        for name, masked in self.masked.items():
            masked.register_post_accumulate_grad_hook(partial(BlockGates.take_gradient, block, name))

    def split(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The name of each matrix, and its part of a flat tensor as a view of its shape."""
        pieces = flat[: len(self.logits)].split([weight.numel() for weight in self.weights.values()])
        for (name, weight), piece in zip(self.weights.items(), pieces, strict=True):
            yield name, piece.view(weight.shape)

    def matrices(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The name of each matrix, and where it lies in the workspace's masked weights."""
        return self.split(flat)

    @torch.no_grad()
    def start_from(self, masks: Mapping[str, Tensor], beta: float) -> None:
        """Set gates to `KEPT_GATE` where a mask keeps a weight, and to `DROPPED_GATE` elsewhere; of weights that are 0 to 0."""
        kept, dropped = (math.log(gate / (1 - gate)) / beta for gate in (KEPT_GATE, DROPPED_GATE))
        for name, logits in self.split(self.logits):
            started = torch.where(self.part(masks[name].to(logits.device)), kept, dropped)
            logits.copy_(torch.where(self.weights[name] == 0, ZERO_WEIGHT_LOGIT, started))

    def begin_step(self, beta: float, penalty_per_weight: float) -> None:
        """Set beta and what one open gate adds to the loss (nats), and expect one backward pass."""
        self.beta, self.penalty_per_weight = beta, penalty_per_weight
        self.updated = False
        self.expect_passes(1)

    def before_forward(self, *_: object) -> None:
        """The hook that torch calls before a module with weights of this block runs: make its masked weights."""
        self.make_masked_weights()

    @torch.no_grad()
    def make_masked_weights(self) -> Tensor:
        """Write the gates sigmoid(beta s) and the masked weights into the workspace, if it does not hold them already.

        Returns:
            The gates, flat, as a view of the workspace.
        """
        gates = self.workspace.gates[: len(self.logits)]
        if self.workspace.owner is not self:
            self.workspace.owner = None
            torch.mul(self.logits, self.beta, out=gates).sigmoid_()
            torch.threshold_(gates, LOWEST_GATE, 0.0)
            for (name, gate), (_, masked) in zip(self.split(gates), self.matrices(self.workspace.masked), strict=True):
                self.multiply(gate, self.weights[name], masked)
            self.workspace.owner = self
        return gates

    def multiply(self, gate: Tensor, weight: Tensor, masked: Tensor) -> None:
        """Write the product of a matrix with its gates."""
        torch.mul(gate, weight, out=masked)

    def expect_passes(self, passes: int) -> None:
        """Forget the gradients that have come so far, and update the logits when so many of each matrix have come."""
        self.gradient: Tensor | None = None
        self.passes, self.awaited = passes, dict.fromkeys(self.weights, passes)
        for masked in self.masked.values():
            masked.grad = None

    def state(self) -> dict[str, Tensor]:
        """Logits and optimizer state."""
        return {"logits": self.logits.detach()} | self.optimizer.state()

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue with a `state` that was saved."""
        on_device = {name: part.to(self.logits.device) for name, part in state.items()}
        self.logits.copy_(on_device.pop("logits"))
        self.optimizer.restore(on_device)

    def masks(self) -> dict[str, Tensor]:
        """The masks s > 0 of its matrices, on the CPU."""
        return {name: part.cpu().clone() for name, part in self.split(self.logits > 0)}

    def part(self, whole: Tensor) -> Tensor:
        """The part of what belongs to a matrix, such as its mask, that belongs to the logits here: all of it."""
        return whole

    def own(self, gradient: Tensor) -> Tensor:
        """The part of a matrix's gradient that belongs to the logits here: all of it."""
        return gradient

    @torch.no_grad()
    def take_gradient(self, name: str, masked: Tensor) -> None:
        """The hook that torch calls when the gradient by a masked matrix has come; after the last one, update the logits.

        Args:
            name: of the matrix.
            masked: its masked weights, whose gradient is taken over, so that it is freed at once.
        """
        gradient, masked.grad = masked.grad, None
        if self.updated:
            return
        gradient = self.own(gradient)
        if self.gradient is None:
            self.gradient = torch.empty_like(self.logits)
        part = dict(self.split(self.gradient))[name]
        before = part if self.awaited[name] < self.passes else part.new_full((), self.beta * self.penalty_per_weight)
        torch.addcmul(before, gradient, self.weights[name], value=self.beta, out=part)
        self.awaited[name] -= 1
        if not any(self.awaited.values()):
            gate = self.make_masked_weights()
            self.workspace.owner = None
            self.gradient.mul_(gate.addcmul_(gate, gate, value=-1))
            gradient, self.gradient = self.gradient, None
            self.optimizer.step(gradient)
            self.updated = True
