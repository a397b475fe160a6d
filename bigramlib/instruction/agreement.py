"""Whether one arm's scores follow another's over tasks, and how much of it is the pair's own.

Mostly the arms are a base model in context and the model tuned from it. Two things make such a correlation look better or worse
than it is: difficulty, since what is hard for one model is hard for most (`partner_control`, and `within_task` where there are
several bases), and the luck of few inputs (reliability, and the correlation after correction for it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from bigramlib.instruction.resampling import (
    UNKNOWN,
    draw_means,
    draw_tasks,
    interval,
    partial_r,
    permutation_p,
    shifted_interval,
    spearman,
)
from bigramlib.instruction.scores import PairedScores, by_task, check_arms

FACTS = ["majority", "answer_length"]
SPLITS = 200
"""How many times inputs are split into halves."""


@dataclass(frozen=True)
class Agreement:
    """How two arms agree over tasks.

    Attributes:
        n: tasks that both arms have.
        rho: Spearman's.
        p: of a rho at least as high if tasks are shuffled (one-sided, never 0).
        interval: 95 % interval of rho.
        reliability_x, reliability_y: the rank correlation expected of each arm with itself on as many other inputs.
        disattenuated: rho as it would be with endless inputs, at most 1; NaN where a reliability is not above 0.
        partial: rho given majority share and answer length.
        partial_interval: its 95 % interval.
    """

    n: int
    rho: float
    p: float
    interval: tuple[float, float]
    reliability_x: float
    reliability_y: float
    disattenuated: float
    partial: float
    partial_interval: tuple[float, float]


def agreement(scores: pd.DataFrame, x: str, y: str, facts: pd.DataFrame, seed: int = 0, draws: int = 2000) -> Agreement:
    """Compare two arms over tasks.

    Intervals are explained in `resampling`. Reliability is that of random halves of the inputs, in ranks, stepped up to all
    inputs (Spearman-Brown, 2 r / (1 + |r|)). The correction for it (Spearman 1904) compares halves as well: the correlation of
    one arm's half with the other arm's other half, over the root of the two arms' correlations of their own halves. No input
    is on both sides, so inputs that are hard in both arms do not count as agreement.

    Args:
        scores: a table of scores (see `scores`), of one base.
        x: one arm.
        y: the other.
        facts: of each task (the index), the columns majority and answer_length.
        seed: of resampling, shuffling and splitting.
        draws: how many times to resample and to shuffle.

    Returns:
        What was found. NaN is what cannot be known, such as rho where all tasks have the same score.

    Raises:
        ValueError: as `PairedScores.of`, or a task has no facts.
    """
    paired = PairedScores.of(scores, x, y)
    known = _facts(facts, paired.tasks)
    tasks = draw_tasks(len(paired.tasks), seed, draws)
    n, (mean_x, mean_y) = len(paired.tasks), paired.means
    rho, partial = float(spearman(mean_x, mean_y)), float(spearman(mean_x, mean_y, *known))
    drawn_x, drawn_y = draw_means(paired, tasks, seed)
    reliability_x, reliability_y, disattenuated = _split_halves(paired, seed)
    return Agreement(
        n=n,
        rho=rho,
        p=permutation_p(mean_x, mean_y, seed, draws),
        interval=shifted_interval(rho, spearman(drawn_x, drawn_y), n),
        reliability_x=reliability_x,
        reliability_y=reliability_y,
        disattenuated=disattenuated,
        partial=partial,
        partial_interval=shifted_interval(partial, spearman(drawn_x, drawn_y, *(fact[tasks] for fact in known)), n),
    )


@dataclass(frozen=True)
class PartnerControl:
    """How an arm of a pair agrees with the pair's own other arm, and with that of an unrelated model, its partner.

    Attributes:
        n: tasks that all have.
        own, partner: Spearman's rho of y with the own x and with the partner's x.
        between: rho of the own x with the partner's x.
        own_given_partner, partner_given_own: partial rho of y with one x given the other.
        difference: own less partner.
        own_interval, partner_interval, difference_interval, own_given_partner_interval, partner_given_own_interval: 95 %.
        own_reliability, partner_reliability: of the two x. The less reliable one agrees less for that alone.
    """

    n: int
    own: float
    partner: float
    between: float
    own_given_partner: float
    partner_given_own: float
    difference: float
    own_interval: tuple[float, float]
    partner_interval: tuple[float, float]
    difference_interval: tuple[float, float]
    own_given_partner_interval: tuple[float, float]
    partner_given_own_interval: tuple[float, float]
    own_reliability: float
    partner_reliability: float


def partner_control(
    scores: pd.DataFrame, x: str, y: str, partner_scores: pd.DataFrame, seed: int = 0, draws: int = 2000
) -> PartnerControl:
    """Compare an agreement with the one that an unrelated model's x gives.

    Difficulty alone makes both agree with y, and, as neither x is difficulty without noise, leaves something of each when the
    other is given. So what tells of the pair's own is the difference. Its interval resamples tasks, not inputs: the scores of
    tasks have the luck of their inputs already, and no shift (see `resampling`) is needed.

    Args:
        scores: a table of scores, of one base.
        x: the arm of the base, which the partner has as well.
        y: the arm of the tuned model.
        partner_scores: a table of scores of the unrelated model.
        seed: of resampling.
        draws: how many times to resample.

    Raises:
        ValueError: as `PairedScores.of`, for either table.
    """
    own, partner = PairedScores.of(scores, x, y), PairedScores.of(partner_scores, x, x)
    common = own.tasks.intersection(partner.tasks)
    kept_own, kept_partner = own.tasks.get_indexer(common), partner.tasks.get_indexer(common)
    (own_x, own_y), other_x = own.means[:, kept_own], partner.means[0, kept_partner]
    n = len(common)
    tasks = draw_tasks(n, seed, draws)
    found = [float(figure) for figure in _compared(own_x, other_x, own_y)]
    intervals = [
        UNKNOWN if np.isnan(figure) else interval(resampled, n)
        for figure, resampled in zip(found, _compared(own_x[tasks], other_x[tasks], own_y[tasks]), strict=True)
    ]
    return PartnerControl(
        n=n,
        own=found[0],
        partner=found[1],
        between=float(spearman(own_x, other_x)),
        own_given_partner=found[3],
        partner_given_own=found[4],
        difference=found[2],
        own_interval=intervals[0],
        partner_interval=intervals[1],
        difference_interval=intervals[2],
        own_given_partner_interval=intervals[3],
        partner_given_own_interval=intervals[4],
        own_reliability=_split_halves(PairedScores(common, own.x[kept_own], own.y[kept_own]), seed)[0],
        partner_reliability=_split_halves(PairedScores(common, partner.x[kept_partner], partner.y[kept_partner]), seed)[0],
    )


def _compared(own: np.ndarray, partner: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What is resampled in a partner control: rho with own and with partner, their difference, each given the other."""
    with_own, with_partner = spearman(own, y), spearman(partner, y)
    return np.stack([with_own, with_partner, with_own - with_partner, spearman(own, y, partner), spearman(partner, y, own)])


@dataclass(frozen=True)
class WithinTask:
    """How two arms agree over bases within tasks.

    Attributes:
        n: pairs of a task and a base.
        tasks: how many tasks.
        bases: how many bases.
        r: Pearson's, after removal of each task's mean over bases.
        p: of an r at least as high if bases are shuffled within each task (one-sided, never 0).
        interval: 95 % interval of r, from resampled tasks (it held r in .90 to .94 of simulations with 14 and 37 tasks).
        without_base_means: r after removal of each base's mean over tasks as well: what is left if one base is
            better in all. Near scores of 0 and 1 such a base gains less, and that is not removed.
    """

    n: int
    tasks: int
    bases: int
    r: float
    p: float
    interval: tuple[float, float]
    without_base_means: float


def within_task(scores: pd.DataFrame, x: str, y: str, seed: int = 0, draws: int = 2000) -> WithinTask:
    """Whether the base that is better at a task in one arm is also better at it in the other; difficulty plays no part.

    Args:
        scores: a table of scores with a column base. Tasks that some base lacks in one of the arms are left out.
        x: one arm.
        y: the other.
        seed: of resampling and shuffling.
        draws: how many times to resample, and to shuffle.

    Returns:
        What was found; NaN where scores do not vary within tasks.

    Raises:
        ValueError: as `by_input`; also if there are fewer than two bases, or an arm is missing.
    """
    if "base" not in scores or scores["base"].nunique() < 2:
        raise ValueError("Scores within a task need a column 'base' with at least two bases; measure several.")
    check_arms(scores, x, y)
    tables = [by_task(scores)[arm].unstack("base") for arm in (x, y)]
    kept = tables[0].notna().all(axis=1) & tables[1].notna().all(axis=1)
    values = np.stack([table[kept].to_numpy() for table in tables])
    _, tasks, bases = values.shape
    centred = values - values.mean(-1, keepdims=True)
    centred[np.abs(centred) < 1e-9] = 0.0
    both = centred - centred.mean(1, keepdims=True) if tasks else centred
    r = float(partial_r(*centred.reshape(2, -1)))
    drawn = centred[:, draw_tasks(tasks, seed, draws)].reshape(2, draws, -1)
    return WithinTask(
        n=tasks * bases,
        tasks=tasks,
        bases=bases,
        r=r,
        p=_within_p(centred, seed, draws) if np.isfinite(r) else float("nan"),
        interval=interval(partial_r(*drawn), tasks) if np.isfinite(r) else UNKNOWN,
        without_base_means=float(partial_r(*both.reshape(2, -1))),
    )


def _within_p(centred: np.ndarray, seed: int, draws: int) -> float:
    x, y = centred
    generator = np.random.default_rng([seed, 3])
    shuffled = generator.permuted(np.broadcast_to(y, (draws, *y.shape)), axis=-1)
    hits = np.sum(np.sum(shuffled * x, axis=(1, 2)) >= np.sum(x * y) - 1e-9)
    return float((hits + 1) / (draws + 1))


def _facts(facts: pd.DataFrame, tasks: pd.Index) -> list[np.ndarray]:
    """Majority share and answer length of each task."""
    if missing := [column for column in FACTS if column not in facts]:
        raise ValueError(f"The table of facts has no column {missing[0]!r}; it needs {' and '.join(FACTS)}.")
    known = facts.reindex(tasks)[FACTS].astype(float)
    if known.isna().any(axis=None):
        raise ValueError(
            f"The task {known.index[known.isna().any(axis=1)][0]!r} lacks facts; give {' and '.join(FACTS)} for it."
        )
    return [known[column].to_numpy() for column in FACTS]


def _split_halves(paired: PairedScores, seed: int) -> tuple[float, float, float]:
    """Reliability of both arms, and the disattenuated rho (see `agreement`)."""
    sides = np.stack([paired.x, paired.y])
    present = ~np.isnan(sides)
    order = np.random.default_rng([seed, 4]).random((SPLITS, *paired.x.shape))
    places = rankdata(np.where(present.any(0), order, 2.0), method="ordinal", axis=-1)
    first = places <= present.any(0).sum(-1, keepdims=True) // 2
    filled = np.where(present, sides, 0.0)
    halves = []
    for half in (first, ~first):
        counts, totals = (np.einsum("kti,sti->skt", half.astype(float), values.astype(float)) for values in (present, filled))
        halves.append(np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0).round(12))
    (x, y), (other_x, other_y) = halves
    own_x, own_y = _mean(spearman(x, other_x)), _mean(spearman(y, other_y))
    crossed = (_mean(spearman(x, other_y)) + _mean(spearman(y, other_x))) / 2
    usable = own_x > 0 and own_y > 0
    disattenuated = float(np.clip(crossed / np.sqrt(own_x * own_y), -1, 1)) if usable else float("nan")
    return 2 * own_x / (1 + abs(own_x)), 2 * own_y / (1 + abs(own_y)), disattenuated


def _mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN of nothing."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
