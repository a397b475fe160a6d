"""The tokens of mask training's steps: running text, or i.i.d. tokens drawn flatter than they occur and weighted back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.text.corpus import TokenCorpus
from bigramlib.training.config import SparsifyConfig


def flattened_sample(
    probability: Float[np.ndarray, " vocab"], power: float, n: int, generator: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Draw n tokens, flattened, as evenly as possible, with weights that undo the flattening.

    Systematic sampling with expected counts in proportion to p^power, so that no token's count is off its expectation by more
    than one. While n is below the number of tokens that occur the expected counts are capped at 1: no token is drawn again
    while others could be.

    Returns:
        (tokens, weights): [n] ids in random order; [n] importance weights p / expected count, which sum to about 1.
    """
    tokens = np.flatnonzero(probability)
    wish = probability[tokens] ** power
    cap = 1.0 if n < len(tokens) else float(n)
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


def batches(
    corpus: TokenCorpus, config: SparsifyConfig, generator: np.random.Generator, begun: int = 0
) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that draws (ids, weights), both [batch, pos]; the weights of a batch sum to 1.

    Weights of flattened draws are divided by their sum: a ratio estimator, whose bias vanishes as that sum varies less.

    Args:
        corpus: training text.
        config: how to draw.
        generator: what to draw by.
        begun: batches of the same run that were drawn before.
    """
    shape = (config.batch_size, config.sequence_length)
    power = config.flattening
    if power is None:
        uniform = torch.full(shape, 1 / math.prod(shape), dtype=torch.float32, device="cpu")
        if config.with_replacement:
            return lambda: (torch.from_numpy(corpus.sample(*shape, generator)), uniform)
        sequences = each_once(corpus, config.sequence_length, int(generator.integers(2**62)), begun * config.batch_size)
        return lambda: (torch.from_numpy(np.stack(list(islice(sequences, config.batch_size)))), uniform)
    probability = corpus.unigram_counts / len(corpus)

    def draw() -> tuple[Tensor, Tensor]:
        tokens, weights = flattened_sample(probability, power, math.prod(shape), generator)
        weights = torch.from_numpy(weights / weights.sum()).float()
        return torch.from_numpy(tokens).view(shape), weights.view(shape)

    return draw


def on_device(batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch on a device. A GPU copies it from pinned memory while the program goes on."""
    gpu = device.type == "cuda"
    ids, weights = ((part.pin_memory() if gpu else part).to(device, non_blocking=gpu) for part in batch)
    return ids, weights


def each_once(corpus: TokenCorpus, sequence_length: int, seed: int, begin: int = 0) -> Iterator[Int[np.ndarray, " pos"]]:
    """The running text as sequences that do not overlap, each once in shuffled order; then once more, in another order.

    Args:
        corpus: the text.
        sequence_length: tokens of a sequence.
        seed: of the orders.
        begin: the first so many sequences are left out.
    """
    n = len(corpus) // sequence_length
    if n < 1:
        raise ValueError(
            f"The corpus {corpus.name!r} has {len(corpus)} tokens, fewer than one sequence of {sequence_length}; "
            "give more text or a smaller sequence_length."
        )
    first, place = divmod(begin, n)
    for number in count(first):
        order = np.random.default_rng([seed, number]).permutation(n)
        for sequence in order[place if number == first else 0 :] * sequence_length:
            yield np.asarray(corpus.ids[sequence : sequence + sequence_length]).astype(np.int64)
