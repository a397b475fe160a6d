"""What one arm reaches beyond another, task by task: what tuning adds to in-context learning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t, wilcoxon

from bigramlib.instruction.resampling import UNKNOWN
from bigramlib.instruction.scores import DIGITS, PairedScores

ERRORS = 2.0
"""By how many standard errors a task exceeds."""


@dataclass(frozen=True)
class Beyond:
    """How far arm y is above arm x.

    Attributes:
        tasks: for each task (the index) the columns x, y, difference (y - x), standard_error, exceeds and falls_short (by more
            than 2 standard errors). Without any difference between arms, 2.3 % of tasks exceed by luck; somewhat more where
            inputs are few and scores are near 0 or 1.
        n: how many tasks.
        exceeding, falling_short: how many of them exceed or fall short.
        mean: the mean difference.
        interval: its 95 % interval over tasks, by Student's t.
        p: of the Wilcoxon signed-rank test over tasks, two-sided (Wilcoxon 1945); NaN if no task differs.
    """

    tasks: pd.DataFrame
    n: int
    exceeding: int
    falling_short: int
    mean: float
    interval: tuple[float, float]
    p: float


def beyond(scores: pd.DataFrame, y: str, x: str) -> Beyond:
    """Compare two arms task by task.

    The standard error of a difference takes inputs as units. An input that both arms have counts as a pair, so what is hard in
    both does not add to the error.

    Args:
        scores: a table of scores (see `scores`), of one base.
        y: the arm that might reach further.
        x: the arm to compare with.

    Raises:
        ValueError: as `PairedScores.of`.
    """
    paired = PairedScores.of(scores, x, y)
    mean_x, mean_y = paired.means
    difference = (mean_y - mean_x).round(DIGITS)
    error = _standard_errors(paired)
    tasks = pd.DataFrame({"x": mean_x, "y": mean_y, "difference": difference, "standard_error": error}, index=paired.tasks)
    tasks["exceeds"], tasks["falls_short"] = difference > ERRORS * error, -difference > ERRORS * error
    n = len(tasks)
    return Beyond(
        tasks=tasks,
        n=n,
        exceeding=int(tasks["exceeds"].sum()),
        falling_short=int(tasks["falls_short"].sum()),
        mean=float(difference.mean()) if n else float("nan"),
        interval=_mean_interval(difference),
        p=float(wilcoxon(difference).pvalue) if difference.any() else float("nan"),
    )


def _standard_errors(paired: PairedScores) -> np.ndarray:
    """Of y - x for each task; NaN (neither exceeds nor falls short) where an arm has a single input.

    Each input moves the difference by its distance from the mean over the number of inputs, in one arm or in both.
    """
    moved, present = [], []
    for side, mean in zip((paired.x, paired.y), paired.means, strict=True):
        present.append(~np.isnan(side))
        counts = present[-1].sum(-1, keepdims=True)
        distance = np.where(present[-1], side - mean[:, None], 0.0)
        moved.append(distance / np.sqrt(np.maximum(1, counts * (counts - 1))))
    single = np.minimum(present[0].sum(-1), present[1].sum(-1)) < 2
    return np.where(single, np.nan, np.sqrt(((moved[1] - moved[0]) ** 2).sum(-1)))


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) < 2:
        return UNKNOWN
    reach = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)
