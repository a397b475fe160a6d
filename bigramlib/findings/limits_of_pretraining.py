"""Notebook 12: what bases of the small world, whose pretraining is known, reach in context and by tuning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bigramlib.findings.claims import Claim, Verdict, check, untestable
from bigramlib.instruction.agreement import WithinTask, within_task
from bigramlib.instruction.boundary import beyond
from bigramlib.instruction.pairs import FEW_SHOT, HELD_OUT, TUNED, Items, base_scores, facts, tuned_halves, tuned_scores
from bigramlib.instruction.resampling import UNKNOWN, draw_tasks, interval, spearman
from bigramlib.instruction.scores import by_task
from bigramlib.instruction.tuning import TuneConfig
from bigramlib.instruction.world import exposures, world_tasks
from bigramlib.models.loading import WORLD_BASES, load_model

FLOOR = 0.05
DRAWS = 2000
SHOWN, NEVER = "shown in pretraining", "never shown in pretraining"
ALL_TASKS, SHOWN_TASKS = "all tasks", "tasks that pretraining showed"
TWIN, SEEDS = "in context: the other seed's base", "one exposure, two seeds"
BASES_AGREE = "in context, one seed's base with the other's"
BOUNDED = "Bigoulaeva et al.: pretraining data set the limit of tuned models as well"
NOT_STATED = "not stated"

CLAIMS = {
    "never shown, never reached": Claim(
        "What pretraining never showed is reached neither in context nor by tuning on other tasks",
        BOUNDED,
        "in context {context:.3f} ({context_low:.3f} to {context_high:.3f}), tuned on other tasks {held_out:.3f} "
        "({held_out_low:.3f} to {held_out_high:.3f})",
        lambda context, held_out, **_: max(context, held_out) <= FLOOR,
    ),
    "tuning reaches rules, not facts": Claim(
        "Tuning that shows a task reaches rules that pretraining never showed, but not facts",
        "Bigoulaeva et al.: a limit by pretraining, with the added influence of the tuning data",
        "rules {rules:.2f} ({rules_low:.2f} to {rules_high:.2f}); facts {facts:.3f} ({facts_low:.3f} to {facts_high:.3f}), "
        "where the most frequent answer gives {majority:.3f}",
        lambda rules, facts, majority, **_: rules >= 0.5 and facts <= majority + FLOOR,
    ),
    "within a task": Claim(
        "Within a task, the base that is better in context is the one that is better after tuning",
        NOT_STATED,
        "r {r:.2f} ({low:.2f} to {high:.2f}); {own:.2f} without the means of bases, {shown:.2f} over the tasks shown to a base; "
        "{twin:.2f} with the in-context scores of the other seed's base",
        lambda r, **_: r >= 0.4,
    ),
    "context follows exposure": Claim(
        "How well a task is done in context follows how often pretraining showed it",
        "Bigoulaeva et al.: bases use what pretraining showed",
        "Spearman {rho:.2f} ({low:.2f} to {high:.2f}), the mean over bases; {shown:.2f} over the tasks shown to a base",
        lambda rho, **_: rho >= 0.5,
    ),
    "others' tuning adds nothing": Claim(
        "Tuning on other tasks does not beat demonstrations",
        "Bigoulaeva et al.: tuned models have no abilities that their bases lack in context",
        "beyond demonstrations by 2 standard errors in {exceeding} of {n} pairs of task and base ({share:.1%}), below them in "
        "{falling_short}",
        lambda share, **_: share <= FLOOR,
    ),
}


def check_bases(names: Iterable[str]) -> None:
    """Refuse models whose pretraining is not known.

    Raises:
        ValueError: one of them is no base of the small world.
    """
    for name in names:
        if name not in WORLD_BASES:
            raise ValueError(f"{name!r} is no base of the small world; choose from {', '.join(WORLD_BASES)}.")


def measure(models: Sequence[str], items: int, seed: int = 0, device: str = "cpu", tuning: TuneConfig | None = None) -> pd.DataFrame:
    """Exact match of bases in context, and of the models tuned from each on either half of the tasks.

    Args:
        models: names of bases of the small world.
        items: tested inputs of each task.
        seed: of what is drawn for tests and for tuning.
        device: where the models are.
        tuning: how to tune; by default what suits the model.

    Returns:
        A table of scores (see `instruction.scores`) with the columns base, task, kind, cluster, arm, input, correct.

    Raises:
        ValueError: a model is no base of the small world.
    """
    check_bases(models)
    found = []
    for name in models:
        base = load_model(name, device)
        asked = Items.suited(base, count=items, seed=seed)
        pair = tuned_halves(base, asked, tuning or TuneConfig.suited(base, seed))
        found.append(pd.concat([base_scores(base, asked), tuned_scores(pair, asked)]).assign(base=name))
    return pd.concat(found, ignore_index=True)


def task_means(scores: pd.DataFrame) -> pd.DataFrame:
    """The mean score of each task in each arm, for each base, with what the base has seen of it.

    Returns:
        Columns base, task, kind, majority (what the most frequent answer would score), exposure (0 for a task that pretraining
        never showed), pretraining (`SHOWN` or `NEVER`), and one for each arm.
    """
    known = facts(world_tasks())
    parts = []
    for base, rows in scores.groupby("base", sort=False):
        means = by_task(rows).reset_index()
        exposure = means["task"].map(exposures(_letter(str(base))))
        more = {name: means["task"].map(known[name]) for name in ("kind", "majority")}
        parts.append(means.assign(base=base, exposure=exposure, **more))
    table = pd.concat(parts, ignore_index=True)
    table["pretraining"] = np.where(table["exposure"] > 0, SHOWN, NEVER)
    first = ["base", "task", "kind", "majority", "exposure", "pretraining"]
    return table[first + [name for name in table if name not in first]]


def group_means(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean scores of rules and of facts, and of both, that pretraining showed or never showed.

    Args:
        table: what `task_means` returns.
        seed: of resampling.

    Returns:
        Columns pretraining, kind ("rule", "fact" or "all"), arm, n (pairs of task and base), mean, low and high: the 95 %
        interval over tasks, which are resampled with all their bases. The arm "majority" is the most frequent answer.
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
    seen = pd.Series([exposures(_letter(base))[task] > 0 for base, task in zip(bases, scores["task"], strict=True)], scores.index)
    shown = scores[seen]
    rank = shown[["task", "base"]].drop_duplicates().assign(rank=lambda rows: rows.groupby("task").cumcount())
    shown = shown.merge(rank, on=["task", "base"]).assign(base=lambda rows: rows["rank"])
    twins = scores[(scores["arm"] == FEW_SHOT) & bases.map(_twin).isin(set(bases))]
    twins = twins.assign(base=twins["base"].map(_twin))
    exposed = scores.assign(task=bases.map(_letter) + " " + scores["task"], base=bases.str[7:])
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
    everything = draw_tasks(exposure.shape[1], seed, DRAWS)
    rows = {}
    for case in (ALL_TASKS, SHOWN_TASKS):
        own, drawn = {}, []
        for base in table["base"].unique():
            x, y = exposure.loc[base].to_numpy(), score.loc[base].to_numpy()
            kept = (x > 0) | (case == ALL_TASKS)
            own[base] = float(spearman(x[kept], y[kept]))
            drawn.append([spearman(x[tasks[kept[tasks]]], y[tasks[kept[tasks]]]) for tasks in everything])
        low, high = interval(np.mean(drawn, axis=0), exposure.shape[1])
        rows[case] = {"rho": float(np.mean(list(own.values()))), "low": low, "high": high, **own}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tasks")


def beyond_demonstrations(scores: pd.DataFrame) -> pd.DataFrame:
    """Where tuning on other tasks beats demonstrations: the rows of `Beyond.tasks`, with columns base, kind and pretraining.

    In it, x is the score with demonstrations and y that of the model tuned on other tasks.
    """
    found = {base: beyond(rows, HELD_OUT, FEW_SHOT).tasks for base, rows in scores.groupby("base", sort=False)}
    table = pd.concat(found, names=["base", "task"]).reset_index()
    return table.merge(task_means(scores)[["base", "task", "kind", "pretraining"]], on=["base", "task"])


def judge(
    folder: Path | None, groups: pd.DataFrame, within: pd.DataFrame, followed: pd.DataFrame, lifted: pd.DataFrame
) -> list[Verdict]:
    """The claims of notebook 12.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        groups: what `group_means` returns.
        within: what `within_tasks` returns.
        followed: what `exposure_agreement` returns.
        lifted: what `beyond_demonstrations` returns.
    """
    never = groups[groups["pretraining"] == NEVER].set_index(["kind", "arm"])

    def mean(kind: str, arm: str, name: str) -> dict[str, float]:
        row = never.loc[(kind, arm)]
        return {name: row["mean"], f"{name}_low": row["low"], f"{name}_high": row["high"]}

    majority = never.loc[("fact", "majority"), "mean"]
    r, row = within["r"], within.loc[ALL_TASKS]
    whole = followed.loc[ALL_TASKS]
    exceeding, n = int(lifted["exceeds"].sum()), len(lifted)
    if np.isnan(row["r"]):
        within_verdict = untestable(folder, CLAIMS["within a task"], "it takes two bases whose scores differ")
    else:
        own, shared = row["without_base_means"], {"shown": r[SHOWN_TASKS], "twin": r[TWIN]}
        measured = {"r": row["r"], "low": row["low"], "high": row["high"], "own": own, **shared}
        within_verdict = check(folder, CLAIMS["within a task"], **measured)
    return [
        check(folder, CLAIMS["never shown, never reached"], **mean("all", FEW_SHOT, "context"), **mean("all", HELD_OUT, "held_out")),
        check(
            folder, CLAIMS["tuning reaches rules, not facts"],
            **mean("rule", TUNED, "rules"), **mean("fact", TUNED, "facts"), majority=majority,
        ),
        within_verdict,
        check(
            folder, CLAIMS["context follows exposure"],
            rho=whole["rho"], low=whole["low"], high=whole["high"], shown=followed.loc[SHOWN_TASKS, "rho"],
        ),
        check(
            folder, CLAIMS["others' tuning adds nothing"],
            exceeding=exceeding, n=n, share=exceeding / n, falling_short=int(lifted["falls_short"].sum()),
        ),
    ]  # fmt: skip


def _letter(base: str) -> str:
    """Which third of the tasks a base never saw."""
    return base.removeprefix("world-")[0]


def _twin(base: str) -> str:
    """The base of the same exposure and the other seed."""
    return base[:-1] + {"0": "1", "1": "0"}[base[-1]]
