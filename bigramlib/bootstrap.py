"""95 % intervals by resampling whole documents (Efron & Tibshirani 1993): the tokens of one document are not independent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

DRAWS = 2000


def mean_interval(values: Float[np.ndarray, " n"], documents: Int[np.ndarray, " n"], seed: int = 0) -> tuple[float, float]:
    """The interval of a mean.

    Args:
        values: of each token.
        documents: the document that each token belongs to.
        seed: of the resampling.

    Returns:
        (low, high): the 2.5 % and 97.5 % quantiles; the mean itself twice if there is only one document.
    """
    return _interval([np.ones(len(values)), values], documents, lambda n, total: total / n, seed)


def correlation_interval(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], documents: Int[np.ndarray, " n"], seed: int = 0
) -> tuple[float, float]:
    """The interval of Pearson's r of two values of each token; otherwise as `mean_interval`."""
    a, b = a - a.mean(), b - b.mean()

    def correlations(n: np.ndarray, *sums: np.ndarray) -> np.ndarray:
        mean_a, mean_b, square_a, square_b, product = (total / n for total in sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (product - mean_a * mean_b) / np.sqrt((square_a - mean_a**2) * (square_b - mean_b**2))

    return _interval([np.ones(len(a)), a, b, a * a, b * b, a * b], documents, correlations, seed)


def _interval(
    columns: list[np.ndarray], documents: np.ndarray, statistic: Callable[..., np.ndarray], seed: int
) -> tuple[float, float]:
    """The interval of a statistic of sums over tokens; resampled sums are counts [draws, documents] times sums by document."""
    _, place = np.unique(documents, return_inverse=True)
    sums = np.stack([np.bincount(place, column) for column in columns], axis=1)
    n = len(sums)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    low, high = np.quantile(statistic(*(counts @ sums).T), [0.025, 0.975])
    return float(low), float(high)
