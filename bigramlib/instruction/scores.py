"""Tables of scores: a row for each answer, averaged over equal inputs, then over the inputs of a task.

A table has the columns task, arm, input and correct (0 or 1, or a score between). An arm is one way to ask one model, such as
"base, demonstrations" or "tuned on it". The column base, if there is one, names the base model; other columns do not matter.
Rows with the same input (other demonstrations, instructions, tuning seeds) are averaged first, because inputs, not rows, are
what might have been other ones. Means are rounded to 12 digits: equal scores are then equal in whatever order they are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

COLUMNS = ["task", "arm", "input", "correct"]
DIGITS = 12


def by_input(scores: pd.DataFrame) -> pd.Series:
    """The mean score of each input.

    Args:
        scores: a table of scores.

    Returns:
        Scores in [0, 1], by base (if there is that column), task, arm and input, in sorted order.

    Raises:
        ValueError: a column is missing, or a score is not a number from 0 to 1.
    """
    if missing := [column for column in COLUMNS if column not in scores]:
        raise ValueError(f"The table of scores has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}.")
    correct = pd.to_numeric(scores["correct"], errors="coerce").astype(float)
    if not correct.between(0, 1).all():
        wrong = scores["correct"][~correct.between(0, 1)].iloc[0]
        raise ValueError(f"The column 'correct' has {wrong!r}; give 0 for a wrong answer and 1 for a right one.")
    keys = ["base"] * ("base" in scores) + COLUMNS[:-1]
    return correct.groupby([scores[key] for key in keys]).mean().round(DIGITS)


def by_task(scores: pd.DataFrame) -> pd.DataFrame:
    """The mean score of each task in each arm, over inputs.

    Returns:
        A row for each task, or for each base and task if the table has several bases; a column for each arm, in the order in
        which arms first occur. NaN where a task was not measured in an arm.

    Raises:
        ValueError: as `by_input`.
    """
    means = by_input(scores)
    if "base" in means.index.names and means.index.unique("base").size < 2:
        means = means.droplevel("base")
    keys = [name for name in means.index.names if name != "input"]
    return means.groupby(keys).mean().round(DIGITS).unstack("arm")[list(dict.fromkeys(scores["arm"]))]


@dataclass(frozen=True)
class PairedScores:
    """The scores of two arms in the tasks that have both, input by input.

    Attributes:
        tasks: their names, sorted.
        x: the score of each input in the first arm; NaN if it was not measured there, and after a task's last input.
        y: of the same inputs in the second arm.
    """

    tasks: pd.Index
    x: Float[np.ndarray, "tasks inputs"]
    y: Float[np.ndarray, "tasks inputs"]

    @classmethod
    def of(cls, scores: pd.DataFrame, x: str, y: str) -> PairedScores:
        """From a table of scores of one base.

        Raises:
            ValueError: as `by_input`; also if the table has several bases, or lacks one of the arms.
        """
        means = by_input(scores)
        if "base" in means.index.names:
            if means.index.unique("base").size > 1:
                bases = ", ".join(map(str, means.index.unique("base")))
                raise ValueError(f"The scores are of several bases ({bases}); give those of one.")
            means = means.droplevel("base")
        arms = means.unstack("arm")
        check_arms(scores, x, y)
        measured = arms[[x, y]].notna().groupby("task").any().all(axis=1)
        tasks = measured.index[measured]
        arms = arms[arms.index.get_level_values("task").isin(tasks)]
        row, column = tasks.get_indexer(arms.index.get_level_values("task")), arms.groupby("task").cumcount().to_numpy()
        sides = np.full((2, len(tasks), column.max(initial=0) + 1), np.nan)
        for side, arm in zip(sides, (x, y), strict=True):
            side[row, column] = arms[arm]
        return cls(tasks, *sides)

    @property
    def means(self) -> Float[np.ndarray, "2 tasks"]:
        """The mean score of each task in each arm."""
        sides = np.stack([self.x, self.y])
        return (np.nansum(sides, axis=-1) / np.sum(~np.isnan(sides), axis=-1)).round(DIGITS)


def check_arms(scores: pd.DataFrame, *arms: str) -> None:
    """Refuse arms that a table of scores has not.

    Raises:
        ValueError: it lacks one.
    """
    if missing := [arm for arm in arms if arm not in set(scores["arm"])]:
        known = ", ".join(map(repr, dict.fromkeys(scores["arm"])))
        raise ValueError(f"The scores have no arm {missing[0]!r}; choose from {known}.")
