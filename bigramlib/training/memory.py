"""How much memory a search takes in each of its processes, foretold from the shapes of a model."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import prod

from bigramlib.models.architectures import Architecture
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.ranks import Ranks

FLOAT32 = 4
"""Bytes of a number."""


@dataclass(frozen=True)
class SearchMemory:
    """Bytes in each process, without activations, the target and what Python and torch take themselves.

    Attributes:
        model: its float32 weights.
        gates: logits and AdamW's two moments.
        workspace: the gates and masked weights of one block.
        gradients: those of one block, and of one matrix as it comes from the backward pass.
    """

    model: int
    gates: int
    workspace: int
    gradients: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))


def search_memory(
    architecture: Architecture, others: int, config: SparsifyConfig, ranks: Ranks | None = None, whole: bool = False
) -> SearchMemory:
    """What a search takes.

    Args:
        architecture: of the model.
        others: how many weights the model has beside its attention and MLP matrices.
        config: of the search.
        ranks: the processes that search together; one, if not given.
        whole: the whole model is in memory, also what the search never computes (`load_model` without layers and attention).
    """
    ranks = ranks or Ranks()
    searched = set(architecture.within(config.layers, config.attention))
    sizes = {name: prod(shape) for name, shape in architecture.shapes.items()}
    blocks = [[sizes[name] for name in names] for names in architecture.blocks.values() if not searched.isdisjoint(names)]
    largest, matrix, size = max(map(sum, blocks)), max(map(max, blocks)), config.dtype.itemsize
    part = largest // ranks.count
    summed = FLOAT32 * (matrix + matrix // ranks.count) if ranks.divide(config.batch_size) else 0
    return SearchMemory(
        model=FLOAT32 * (others + (architecture.size if whole else sum(map(sum, blocks)))),
        gates=3 * FLOAT32 * sum(ranks.part_size(weights) for block in blocks for weights in block),
        workspace=FLOAT32 * part + size * largest,
        gradients=FLOAT32 * part + size * matrix + summed,
    )
