"""The processes that make one search together, as torchrun starts them, and what they tell each other.

Each has a rank, from 0. Of every matrix it keeps one part, which begins at a multiple of 64 weights, so that elementwise
operations round as on the whole matrix. Rank 0 leads: it alone looks into the store and writes there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
ALIGNED = 64
"""Each part of a matrix but the last has a multiple of so many weights."""
LONGEST_WAIT = timedelta(days=1)
"""How long a rank waits for another one, which may look into the store or write a state meanwhile."""


class OtherOutOfMemoryError(MemoryError):
    """Memory ran out on another rank."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that make one search together; by itself it is the only one.

    Attributes:
        rank: of this process.
        count: of processes.
        whole_batch: each takes the whole batch, even where it could be divided, so that the bits are those of one process.
        control: the group of processes that talks over the CPU; None where there is one process.
    """

    rank: int = 0
    count: int = 1
    whole_batch: bool = False
    control: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process looks into the store and writes there."""
        return self.rank == 0

    def divide(self, batch_size: int) -> bool:
        """Whether each process takes a part of a batch of so many sequences; otherwise it takes the whole."""
        return self.count > 1 and not self.whole_batch and batch_size % self.count == 0

    def share(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What this process takes of a batch: its part of the sequences, or all of them."""
        ids, weights = batch
        if self.divide(len(ids)):
            ids, weights = (whole.tensor_split(self.count)[self.rank] for whole in batch)
        return ids, weights

    def part_size(self, weights: int) -> int:
        """How many of so many weights one process keeps at most."""
        return -(-weights // (ALIGNED * self.count)) * ALIGNED

    def part(self, matrix: Tensor) -> Tensor:
        """The part of a matrix, flat, that this process keeps: a view, if the matrix lies in one piece. It may be empty."""
        size = self.part_size(matrix.numel())
        return matrix.reshape(-1)[self.rank * size : (self.rank + 1) * size]

    def gather(self, part: Tensor, out: Tensor) -> None:
        """Write the parts of all processes, each filled up to its `part_size`, one after the other into a flat tensor."""
        self.check()
        with _others_alive():
            _all_gather(out, part)

    def whole(self, part: Tensor, weights: int) -> Tensor:
        """A flat tensor of so many numbers, of which each process gives its part."""
        size = self.part_size(weights)
        out = part.new_empty(size * self.count)
        self.gather(torch.nn.functional.pad(part, (0, size - len(part))), out)
        return out[:weights]

    def sum_part(self, matrix: Tensor) -> Tensor:
        """This process's part of the sum of all processes' matrices, in float32."""
        size = self.part_size(matrix.numel())
        flat = torch.nn.functional.pad(matrix.reshape(-1).float(), (0, size * self.count - matrix.numel()))
        out = flat.new_empty(size)
        self.check()
        with _others_alive():
            _reduce_scatter(out, flat)
        return out[: len(self.part(matrix))]

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum of all processes' tensors of one shape."""
        if self.count > 1:
            self.check()
            with _others_alive():
                dist.all_reduce(numbers)
        return numbers

    def send(self, numbers: Tensor) -> Tensor:
        """The tensor of rank 0; the others give one of its shape to write it into."""
        self.check()
        with _others_alive():
            dist.broadcast(numbers, 0)
        return numbers

    def tell(self, message: dict | None = None) -> dict:
        """What rank 0 says, as JSON can hold it; the others say nothing."""
        if self.count == 1:
            return message or {}
        content = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        size = torch.tensor(len(content), device="cpu")
        with _others_alive():
            dist.broadcast(size, 0, group=self.control)
            content = content if self.leads else torch.empty(int(size), dtype=torch.uint8, device="cpu")
            dist.broadcast(content, 0, group=self.control)
        return json.loads(bytes(content.tolist()))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether it is set in any process."""
        if self.count == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.int32, device="cpu")
        with _others_alive():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.control)
        return tuple(map(bool, found.tolist()))

    def check(self, out_of_memory: bool = False) -> None:
        """Before each exchange on the device, and once a step is done: has any process run out of memory since the last one?

        A process that has says so by this too, in place of the exchange that the others wait for.

        Raises:
            OtherOutOfMemoryError: another one has.
        """
        if self.any(out_of_memory)[0] and not out_of_memory:
            raise OtherOutOfMemoryError


ALONE = Ranks()


@contextmanager
def joined(device: str, whole_batch: bool = False) -> Iterator[tuple[Ranks, str]]:
    """Within the block the processes that torchrun started are joined: yields this one, and its device.

    Args:
        device: "cuda" gives each process of a machine its own GPU.
        whole_batch: see `Ranks`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE, device
        return
    gpu = device == "cuda"
    if gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", timeout=LONGEST_WAIT)
    try:
        control = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        yield Ranks(dist.get_rank(), dist.get_world_size(), whole_batch, control), device
    finally:
        dist.destroy_process_group()


@contextmanager
def _others_alive() -> Iterator[None]:
    """Say in one sentence that another process ended, where an exchange with it fails."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConnectionError(
            f"Another process of this search has ended or does not answer ({str(error).splitlines()[0][:200]}); see what "
            "it said, then start the same command again: it goes on from the state that was saved last."
        ) from error
