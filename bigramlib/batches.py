"""The tokens of mask training's steps: running text, or i.i.d. tokens drawn flatter than they occur and weighted back."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.config import SparsifyConfig
from bigramlib.corpus import TokenCorpus


def flattened_sample(
    probability: Float[np.ndarray, " vocab"], power: float, n: int, generator: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Draw n tokens, flattened, as evenly as possible, with weights that undo the flattening.

    Systematic sampling with expected counts min(cap, c p^power): frequent tokens are not drawn again while rarer ones
    could be (the cap is 1 while n is below the number of tokens that occur), and no token's count is off its expectation
    by more than one.

    Returns:
        (tokens, weights): [n] ids in random order; [n] importance weights p / expected count, which sum to about 1.
    """
    tokens = np.flatnonzero(probability)
    wish = probability[tokens] ** power
    cap = max(1.0, n / len(tokens))
    low, high = 0.0, cap / wish.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(cap, middle * wish).sum() < n else (low, middle)
    expected = np.minimum(cap, high * wish)
    order = generator.permutation(len(tokens))
    edges = np.cumsum(expected[order])
    points = (generator.random() + np.arange(n)) * (edges[-1] / n)
    drawn = order[np.minimum(np.searchsorted(edges, points, side="right"), len(tokens) - 1)]
    drawn = drawn[generator.permutation(n)]
    return tokens[drawn], probability[tokens[drawn]] / expected[drawn]


def batches(corpus: TokenCorpus, config: SparsifyConfig, generator: np.random.Generator) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that draws (ids, weights), both [batch, pos]; the weights of a batch sum to 1."""
    shape = (config.batch_size, config.sequence_length)
    power = config.flattening
    if power is None:
        uniform = torch.full(shape, 1 / math.prod(shape))
        return lambda: (torch.from_numpy(corpus.sample(*shape, generator)), uniform)
    probability = corpus.unigram_counts / len(corpus)

    def draw() -> tuple[Tensor, Tensor]:
        tokens, weights = flattened_sample(probability, power, math.prod(shape), generator)
        weights = torch.from_numpy(weights / weights.sum()).float()
        return torch.from_numpy(tokens).view(shape), weights.view(shape)

    return draw
