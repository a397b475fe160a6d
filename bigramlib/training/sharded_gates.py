"""Gates of one search over several processes: each keeps a part of every matrix's logits and of AdamW's two moments.

All that is done to gates is elementwise, so each process does it to its part, as `gates.BlockGates` does it to the whole. Only
here do they exchange something: masked weights are put together when a block's are made (all-gather), and where each process
takes a part of the batch, their gradients are summed (reduce-scatter). The weights themselves lie whole in each process.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bigramlib.models.language_model import LanguageModel
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.gates import BlockGates, Gates, Workspace
from bigramlib.training.ranks import Ranks


class ShardedGates(Gates):
    """The part of the gates that this process keeps; every process calls the same methods in the same order."""

    def __init__(self, model: LanguageModel, config: SparsifyConfig, ranks: Ranks) -> None:
        self.ranks = ranks
        super().__init__(model, config)

    def blocks_of(self, weights: dict[str, dict[str, Tensor]], config: SparsifyConfig) -> dict[str, BlockGates]:
        """As in `Gates`, for the parts that this process keeps."""
        sizes = [sum(self.ranks.part_size(weight.numel()) for weight in block.values()) for block in weights.values()]
        self.workspace = Workspace(max(sizes), max(sizes) * self.ranks.count, config.dtype, self.model.device)
        divided = self.ranks.divide(config.batch_size)
        return {name: ShardedBlockGates(block, config, self.workspace, self.ranks, divided) for name, block in weights.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue with a `state` that rank 0 has; the others give an empty one."""
        for module, block in self.blocks.items():
            prefix = f"{module}."
            block.restore({name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)})


class ShardedBlockGates(BlockGates):
    """The part of one block's gates that this process keeps. Its `weights` are views of the model's, flat."""

    def __init__(
        self, weights: dict[str, Tensor], config: SparsifyConfig, workspace: Workspace, ranks: Ranks, divided: bool
    ) -> None:
        """Begin with gates at 1/2.

        Args:
            weights: the whole matrices of the block.
            config: learning rate and precision.
            workspace: shared by all blocks.
            ranks: the processes.
            divided: each process takes a part of the batch, so that gradients are summed.
        """
        self.ranks, self.divided = ranks, divided
        self.shapes = {name: weight.shape for name, weight in weights.items()}
        super().__init__({name: ranks.part(weight) for name, weight in weights.items()}, config, workspace)

    def matrices(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The name of each matrix, and where it lies, whole, in the workspace's masked weights."""
        begin = 0
        for name, shape in self.shapes.items():
            yield name, flat[begin : begin + shape.numel()].view(shape)
            begin += self.ranks.part_size(shape.numel()) * self.ranks.count

    def multiply(self, gate: Tensor, weight: Tensor, masked: Tensor) -> None:
        """Write the product of a part of a matrix with its gates, and those of the other processes, into the workspace."""
        size = self.ranks.part_size(masked.numel())
        mine = masked.new_empty(size)
        torch.mul(gate, weight, out=mine[: len(weight)])
        self.ranks.gather(mine, masked.as_strided((size * self.ranks.count,), (1,)))

    def part(self, whole: Tensor) -> Tensor:
        """The part of what belongs to a matrix that belongs to the logits here, flat."""
        return self.ranks.part(whole)

    def own(self, gradient: Tensor) -> Tensor:
        """The part of a matrix's gradient that belongs to the logits here, summed over the processes' parts of the batch."""
        return self.ranks.sum_part(gradient) if self.divided else self.part(gradient)

    def masks(self) -> dict[str, Tensor]:
        """The masks s > 0 of its matrices, whole, on the CPU."""
        kept = (self.logits > 0).to(torch.uint8)
        return {
            name: self.ranks.whole(part, self.shapes[name].numel()).view(self.shapes[name]).bool().cpu()
            for name, part in self.split(kept)
        }

    def state(self) -> dict[str, Tensor]:
        """Logits and optimizer state as one process would have them, on the CPU of rank 0; nothing elsewhere."""
        found = {}
        for name, flat in super().state().items():
            wholes = [self._whole(part, self.shapes[of].numel()) for of, part in self.split(flat)] if flat.ndim else [flat]
            found[name] = torch.cat(wholes) if flat.ndim else flat
        return found if self.ranks.leads else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue with a `state` that rank 0 has; the others give an empty one."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        mine = {}
        for name, flat in super().state().items():
            if not flat.ndim:
                mine[name] = self.ranks.send(state[name].to(flat.device) if state else flat.clone())
                continue
            wholes = state[name].split(sizes) if state else [None] * len(sizes)
            mine[name] = torch.cat([self._part(whole, size) for whole, size in zip(wholes, sizes, strict=True)])
        super().restore(mine)

    def _whole(self, part: Tensor, weights: int) -> Tensor:
        """The numbers of a whole matrix, flat, on the CPU of rank 0; none elsewhere."""
        whole = self.ranks.whole(part, weights)
        return whole.cpu() if self.ranks.leads else whole.new_empty(0)

    def _part(self, whole: Tensor | None, weights: int) -> Tensor:
        """This process's part of the numbers of a whole matrix, flat, which rank 0 gives."""
        device = self.logits.device
        sent = torch.empty(weights, device=device) if whole is None else whole.to(device).contiguous()
        return self.ranks.part(self.ranks.send(sent)).clone()
