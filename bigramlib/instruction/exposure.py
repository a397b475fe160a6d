"""What bases of the small world have seen of each task, and how their scores depend on it.

Bases whose names share a letter saw the same tasks equally often; the digit is the seed of pretraining.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from bigramlib.instruction.agreement import WithinTask, within_task
from bigramlib.instruction.boundary import beyond
from bigramlib.instruction.pairs import FEW_SHOT, HELD_OUT, TUNED, facts
from bigramlib.instruction.resampling import UNKNOWN, draw_tasks, interval, spearman
from bigramlib.instruction.scores import by_task
from bigramlib.instruction.world import BASES, exposures, world_tasks

SHOWN, NEVER = "shown in pretraining", "never shown in pretraining"
ALL_TASKS, SHOWN_TASKS = "all tasks", "tasks that pretraining showed"
TWIN, SEEDS = "in-context scores of the other seed's base", "between two seeds of one exposure"
BASES_AGREE = "yardstick: in context, a base and the other seed's"
MAJORITY = "majority"
DRAWS = 2000


def seen_tasks(bases: Iterable[str]) -> pd.DataFrame:
    """What bases of the small world have seen.

    Args:
        bases: their names.

    Returns:
        A row for each base and task: base, task, kind, majority (what the most frequent answer would score), exposure (0 for a
        task that pretraining never showed), pretraining (`SHOWN` or `NEVER`).
    """
    known = facts(world_tasks())[["kind", MAJORITY]].rename_axis("task").reset_index()
    table = pd.concat([known.assign(base=base, exposure=known["task"].map(exposures(_letter(base)))) for base in bases])
    table["pretraining"] = np.where(table["exposure"] > 0, SHOWN, NEVER)
    return table[["base", "task", "kind", MAJORITY, "exposure", "pretraining"]].reset_index(drop=True)


def task_means(scores: pd.DataFrame) -> pd.DataFrame:
    """The mean score of each task in each arm, for each base, with what the base has seen of it.

    Returns:
        What `seen_tasks` returns, with a column for each arm.
    """
    parts = [by_task(rows).reset_index().assign(base=base) for base, rows in scores.groupby("base", sort=False)]
    return seen_tasks(scores["base"].unique()).merge(pd.concat(parts), on=["base", "task"])


def group_means(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean scores of rules and of facts, and of both, that pretraining showed or never showed.

    Args:
        table: what `task_means` returns.
        seed: of resampling.

    Returns:
        Columns pretraining, kind ("rule", "fact" or "all"), arm, n (pairs of task and base), mean, low and high: the 95 %
        interval over tasks, which are resampled with all their bases. The arm `MAJORITY` is the most frequent answer.
    """
    fixed = {"base", "task", "kind", "exposure", "pretraining"}
    rows = []
    for (pretraining, kind), group in pd.concat([table, table.assign(kind="all")]).groupby(["pretraining", "kind"], sort=False):
        tasks = group.groupby("task")
        drawn = draw_tasks(tasks.ngroups, seed, DRAWS)
        sizes = tasks.size().to_numpy()[drawn].sum(1)
        for arm in (name for name in table if name not in fixed):
            low, high = interval(tasks[arm].sum().to_numpy()[drawn].sum(1) / sizes, tasks.ngroups)
            rows.append((pretraining, kind, arm, len(group), group[arm].mean(), low, high))
    return pd.DataFrame(rows, columns=["pretraining", "kind", "arm", "n", "mean", "low", "high"])


def within_tasks(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Whether the base that is better at a task in context is also better at it after tuning, and what that comes from.

    Returns:
        A row for each comparison (see `WithinTask` for the columns tasks, bases, r, low, high, p and without_base_means):

        - `ALL_TASKS`: each task over all bases.
        - `SHOWN_TASKS`: each task over those bases whose pretraining showed it.
        - `TWIN`: as the first, but with the in-context scores of the base of the same exposure and the other seed. As high
          an r as the first means that exposure explains all.
        - `SEEDS`: each task of each exposure over the seeds alone: what exposure cannot explain.
        - `BASES_AGREE`: in-context scores with those of the other seed's base: how alike two pretrainings are.

        NaN where the bases do not allow the comparison.
    """
    bases = scores["base"].astype(str)
    exposed = scores.assign(task=bases.map(_letter) + " " + scores["task"], base=bases.str[-1])
    seen = {f"{letter} {task}" for letter in BASES for task, share in exposures(letter).items() if share}
    shown = scores[exposed["task"].isin(seen)]
    rank = shown[["task", "base"]].drop_duplicates().assign(rank=lambda rows: rows.groupby("task").cumcount())
    shown = shown.merge(rank, on=["task", "base"]).assign(base=lambda rows: rows["rank"])
    twins = scores[(scores["arm"] == FEW_SHOT) & bases.map(_twin).isin(set(bases))]
    twins = twins.assign(base=twins["base"].map(_twin))
    cases = {
        ALL_TASKS: scores,
        SHOWN_TASKS: shown,
        TWIN: pd.concat([twins, scores[scores["arm"] == TUNED]]),
        SEEDS: exposed,
        BASES_AGREE: pd.concat([scores[scores["arm"] == FEW_SHOT], twins.assign(arm=TUNED)]),
    }
    return pd.DataFrame([_within(case, rows, seed) for case, rows in cases.items()]).set_index("case")


def _within(case: str, scores: pd.DataFrame, seed: int) -> dict[str, object]:
    testable = scores["base"].nunique() > 1 and {FEW_SHOT, TUNED} <= set(scores["arm"])
    nothing = WithinTask(0, 0, 0, np.nan, np.nan, UNKNOWN, np.nan)
    found = within_task(scores, FEW_SHOT, TUNED, seed) if testable else nothing
    low, high = found.interval
    return {
        "case": case, "tasks": found.tasks, "bases": found.bases, "r": found.r, "low": low, "high": high, "p": found.p,
        "without_base_means": found.without_base_means,
    }  # fmt: skip


def centred(table: pd.DataFrame) -> pd.DataFrame:
    """In-context and tuned scores less the task's mean over bases, as `within_task` compares them.

    Args:
        table: what `task_means` returns.

    Returns:
        Columns base, task, kind, pretraining, in_context, tuned.
    """
    means = table.groupby("task")[[FEW_SHOT, TUNED]].transform("mean")
    centred = (table[[FEW_SHOT, TUNED]] - means).set_axis(["in_context", "tuned"], axis=1)
    return table[["base", "task", "kind", "pretraining"]].join(centred)


def exposure_agreement(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Spearman's rho of a task's exposure with its score in context, the mean over bases.

    Args:
        table: what `task_means` returns.
        seed: of resampling.

    Returns:
        For `ALL_TASKS` and `SHOWN_TASKS` rho, low and high (the 95 % interval over tasks, the same ones resampled for all
        bases), and a column for the rho of each base.
    """
    exposure, score = (table.pivot(index="base", columns="task", values=name) for name in ("exposure", FEW_SHOT))
    drawn, rows = draw_tasks(exposure.shape[1], seed, DRAWS), {}
    for case in (ALL_TASKS, SHOWN_TASKS):
        own, resampled = {}, []
        for base in table["base"].unique():
            x, y = exposure.loc[base].to_numpy(), score.loc[base].to_numpy()
            kept = (x > 0) | (case == ALL_TASKS)
            own[base] = float(spearman(x[kept], y[kept]))
            resampled.append(_resampled_rho(x, y, kept, drawn))
        low, high = interval(np.mean(resampled, axis=0), exposure.shape[1])
        rows[case] = {"rho": float(np.mean(list(own.values()))), "low": low, "high": high, **own}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tasks")


def _resampled_rho(x: np.ndarray, y: np.ndarray, kept: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Spearman's rho over those tasks of each draw that are kept."""
    sizes, found = kept[drawn].sum(1), np.full(len(drawn), np.nan)
    for size in np.unique(sizes):
        alike = drawn[sizes == size]
        tasks = alike[kept[alike]].reshape(len(alike), size)
        found[sizes == size] = spearman(x[tasks], y[tasks])
    return found


def lengths_of_tuning(scores: pd.DataFrame, longer: pd.DataFrame) -> pd.DataFrame:
    """Mean scores after tuning as usual and after longer tuning, over the bases that had both.

    Args:
        scores: a table of scores of bases of the small world; only the arms of tuned models matter.
        longer: one of models that were tuned for more steps.

    Returns:
        Columns "as usual" and "longer", by pretraining, kind and arm.
    """
    usual = scores[scores["base"].isin(longer["base"].unique()) & scores["arm"].isin([TUNED, HELD_OUT])]
    tables = {"as usual": usual, "longer": longer}
    keys = ["pretraining", "kind", "arm"]
    means = {length: group_means(task_means(table)).set_index(keys)["mean"] for length, table in tables.items()}
    return pd.DataFrame(means).drop(index="all", level="kind")


def beyond_demonstrations(scores: pd.DataFrame) -> pd.DataFrame:
    """Where tuning on other tasks beats demonstrations: the rows of `Beyond.tasks`, with columns base, kind and pretraining.

    In it, x is the score with demonstrations and y that of the model tuned on other tasks.
    """
    found = {base: beyond(rows, HELD_OUT, FEW_SHOT).tasks for base, rows in scores.groupby("base", sort=False)}
    table = pd.concat(found, names=["base", "task"]).reset_index()
    return table.merge(task_means(scores)[["base", "task", "kind", "pretraining"]], on=["base", "task"])


def _letter(base: str) -> str:
    """Which third of the tasks a base never saw."""
    return base.removeprefix("world-")[0]


def _twin(base: str) -> str:
    """The base of the same exposure and the other seed."""
    return base[:-1] + {"0": "1", "1": "0"}[base[-1]]
