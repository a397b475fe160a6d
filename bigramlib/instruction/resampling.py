"""Rank correlations over tasks, their intervals and p values, computed for many resamples at a time.

The interval of a correlation resamples tasks, with repetition, and then inputs within each task that was drawn, for both arms
together, since an input that is hard in one arm is often hard in the other. The scores of tasks have the luck of their inputs
already. Resampling adds it a second time, which moves correlations towards 0 (Davison & Hinkley 1997, section 3.8). Therefore
the resampled correlations are shifted back, on Fisher's scale z = artanh r, until their median is the measured one. The range
of the middle 95 % is then cut somewhat further out, as far as Student's t is wider than the normal curve, because tasks are
few (Hesterberg 2015, "What Teachers Should Know About the Bootstrap").

What such an interval is about: the correlation that endless tasks would give, each measured with as many inputs as these.

Measured coverage, by simulation with 10, 19 and 37 tasks, 20 and 50 inputs each, and true rho of 0, .5 and .9: intervals of rho
hold it in .93 to .98 of cases, those of a partial rho in .93 to .99, the wider ones with 10 tasks. Without the shift they miss
on one side alone, being too low.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm, permutation_test, rankdata, t

from bigramlib.instruction.scores import PairedScores

ROUNDING = 1e-12
"""What varies by a smaller share of its variance (or, before anything is removed, of its mean square) is constant."""
FEWEST_TASKS = 4
"""With fewer tasks intervals are unknown."""
AT_ONCE = 1_000_000
"""So many resampled scores of inputs are kept in memory at a time."""
UNKNOWN = (float("nan"), float("nan"))


def partial_r(x: np.ndarray, y: np.ndarray, *given: np.ndarray) -> np.ndarray:
    """Pearson's r over the last axis, after linear regression of both on what is given; NaN where nothing varies any more.

    What is given is removed one after another, each after the removal of those before it. A constant removes nothing.
    """
    if not x.shape[-1]:
        return np.full(x.shape[:-1], np.nan)
    left, sizes = [], []
    for values in (*given, x, y):
        centred = values - values.mean(-1, keepdims=True)
        left.append(np.where(_square(centred) > ROUNDING * _square(values), centred, 0.0))
        sizes.append(_square(left[-1]))
    for place in range(len(given)):
        removed = np.where(_square(left[place]) > ROUNDING * sizes[place], left[place], 0.0)
        norms = _square(removed)
        for later in range(place + 1, len(left)):
            slope = np.sum(left[later] * removed, -1, keepdims=True) / np.where(norms > 0, norms, 1.0)
            left[later] = left[later] - slope * removed
    (a, b), defined = left[-2:], np.ones_like(sizes[0], dtype=bool)
    for values, size in zip((a, b), sizes[-2:], strict=True):
        defined = defined & (_square(values) > ROUNDING * size)
    scale = np.sqrt(np.where(defined, _square(a) * _square(b), 1.0))
    r = np.clip(np.sum(a * b, -1, keepdims=True) / scale, -1, 1)
    return np.asarray(np.where(defined, r, np.nan)[..., 0])


def spearman(x: np.ndarray, y: np.ndarray, *given: np.ndarray) -> np.ndarray:
    """Spearman's rho over the last axis; with something given, the partial one (r of ranks, after regression on ranks).

    `scipy.stats.spearmanr` has no partial rho, takes one resample at a time, and warns where there is no rho.
    """
    return partial_r(*(rankdata(values, axis=-1) for values in (x, y, *given)))


def permutation_p(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], seed: int, draws: int) -> float:
    """How often Spearman's rho is at least as high if the values of y are shuffled (one-sided).

    Returns:
        (hits + 1) / (draws + 1), or the exact share where there are no more permutations than draws; so never 0. NaN without
        a rho.
    """
    if np.isnan(spearman(x, y)):
        return float("nan")
    ranks = rankdata(x) - (len(x) + 1) / 2

    def covariance(shuffled: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.moveaxis(shuffled, axis, -1) @ ranks)

    found = permutation_test(
        (rankdata(y),),
        covariance,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=draws,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def draw_tasks(k: int, seed: int, draws: int) -> Int[np.ndarray, "draws k"]:
    """So many draws of k tasks out of k, with repetition."""
    return np.random.default_rng([seed, 1]).integers(k, size=(draws, k))


def draw_means(
    paired: PairedScores, drawn: Int[np.ndarray, "draws tasks"], seed: int
) -> tuple[Float[np.ndarray, "draws tasks"], Float[np.ndarray, "draws tasks"]]:
    """The mean scores of drawn tasks in both arms, over inputs that are drawn anew within each, for both arms together."""
    means = list(_drawn_means(paired, drawn, np.random.default_rng([seed, 2])))
    x, y = (np.concatenate([part[side] for part in means]) for side in (0, 1))
    return x, y


def _drawn_means(
    paired: PairedScores, drawn: np.ndarray, generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    sides = np.stack([paired.x, paired.y])
    present = ~np.isnan(sides)
    filled, means = np.where(present, sides, 0.0), paired.means
    sizes = present.any(0).sum(-1)
    chances = present.any(0) / np.maximum(1, sizes)[:, None]
    at_once = max(1, AT_ONCE // max(1, drawn.shape[1] * sides.shape[-1]))
    for begin in range(0, len(drawn), at_once):
        tasks = drawn[begin : begin + at_once]
        times = generator.multinomial(sizes[tasks], chances[tasks])
        counts, totals = (np.einsum("dti,sdti->sdt", times, values[:, tasks].astype(float)) for values in (present, filled))
        x, y = np.where(counts > 0, totals / np.maximum(1, counts), means[:, tasks])
        yield x, y


def interval(drawn: Float[np.ndarray, " draws"], tasks: int) -> tuple[float, float]:
    """The range of the middle 95 % of resampled figures, widened for few tasks (see the module); NaN is left out."""
    drawn = drawn[~np.isnan(drawn)]
    if tasks < FEWEST_TASKS or not len(drawn):
        return UNKNOWN
    outside = norm.sf(np.sqrt(tasks / (tasks - 1)) * t.ppf(0.975, tasks - 1))
    low, high = np.quantile(drawn, [outside, 1 - outside])
    return float(low), float(high)


def shifted_interval(r: float, drawn: Float[np.ndarray, " draws"], tasks: int) -> tuple[float, float]:
    """The interval of a correlation from resamples of tasks and inputs, shifted so that their median is the measured r."""
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(r) or not len(drawn):
        return UNKNOWN
    measured, resampled = (np.arctanh(np.clip(values, -0.999, 0.999)) for values in (r, drawn))
    low, high = np.tanh(interval(resampled - np.median(resampled) + measured, tasks))
    return float(np.minimum(low, r)), float(np.maximum(high, r))


def _square(values: np.ndarray) -> np.ndarray:
    return np.sum(values * values, -1, keepdims=True)
