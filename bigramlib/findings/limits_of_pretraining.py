"""Notebook 13: what bases of the small world, whose pretraining is known, reach in context and by tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bigramlib.findings.claims import INHERENT_LIMITS, Claim, Verdict, check, untestable
from bigramlib.findings.style import BLUE, GREY, ORANGE, RED, write_above
from bigramlib.instruction.exposure import ALL_TASKS, BASES_AGREE, MAJORITY, NEVER, SHOWN, SHOWN_TASKS, TWIN
from bigramlib.instruction.pairs import FEW_SHOT, HELD_OUT, TUNED, ZERO_SHOT, Items, base_scores, tuned_halves, tuned_scores
from bigramlib.instruction.tuning import TuneConfig
from bigramlib.models.loading import WORLD_BASES, load_model

FLOOR = 0.05
ARMS = {
    ZERO_SHOT: "instruction\nalone",
    FEW_SHOT: "demon-\nstrations",
    HELD_OUT: "tuned on\nother tasks",
    TUNED: "tuned on\nthe task",
}
KINDS = {"rule": ("rules", BLUE, -0.2), "fact": ("facts", ORANGE, 0.2)}
"""How tasks of each kind are drawn: what they are called, their colour, and how far they lie beside an arm's place."""
COLOURS = {SHOWN: BLUE, NEVER: RED}
PANELS = {SHOWN: "What pretraining showed", NEVER: "What pretraining never showed"}
NEVER_AT = 1 / 100
"""Where tasks that were never shown stand on the logarithmic axis of exposure."""

CLAIMS = {
    "never shown, never reached": Claim(
        "What pretraining never showed is reached neither in context nor by tuning on other tasks",
        "pretraining data set the limit of tuned models as well",
        "in context {context:.3f} ({context_low:.3f} to {context_high:.3f}), tuned on other tasks {held_out:.3f} "
        "({held_out_low:.3f} to {held_out_high:.3f})",
        lambda context, held_out, **_: max(context, held_out) <= FLOOR,
        source=INHERENT_LIMITS,
    ),
    "tuning reaches rules, not facts": Claim(
        "Tuning that shows a task reaches rules that pretraining never showed, but not facts",
        "a limit by pretraining, with the added influence of the tuning data",
        "rules {rules:.2f} ({rules_low:.2f} to {rules_high:.2f}); facts {facts:.3f} ({facts_low:.3f} to {facts_high:.3f}), "
        "where the most frequent answer gives {majority:.3f}",
        lambda rules, facts, majority, **_: rules >= 0.5 and facts <= majority + FLOOR,
        source=INHERENT_LIMITS,
    ),
    "within a task": Claim(
        "Within a task, the base that is better in context is the one that is better after tuning",
        "not stated",
        "r {r:.2f} ({low:.2f} to {high:.2f}); {own:.2f} without the means of bases, {shown:.2f} over the tasks shown "
        "to a base; {twin:.2f} with the in-context scores of the other seed's base",
        lambda r, **_: r >= 0.4,
        source=INHERENT_LIMITS,
    ),
    "context follows exposure": Claim(
        "How well a task is done in context follows how often pretraining showed it",
        "bases use priors from pretraining data",
        "Spearman {rho:.2f} ({low:.2f} to {high:.2f}), the mean over bases; {shown:.2f} over the tasks shown to a base",
        lambda rho, **_: rho >= 0.5,
        source=INHERENT_LIMITS,
    ),
    "others' tuning adds nothing": Claim(
        "Tuning on other tasks does not beat demonstrations",
        "tuned models have no abilities that their bases lack in context",
        "beyond demonstrations by 2 standard errors in {exceeding} of {n} pairs of task and base ({share:.1%}), below them in "
        "{falling_short}",
        lambda share, **_: share <= FLOOR,
        source=INHERENT_LIMITS,
    ),
}


def check_bases(names: Sequence[str]) -> None:
    """Refuse models whose pretraining is not known.

    Raises:
        ValueError: one of them is no base of the small world, or there are none.
    """
    if not names:
        raise ValueError(f"There are no models to compare; give some of {', '.join(WORLD_BASES)}.")
    for name in names:
        if name not in WORLD_BASES:
            raise ValueError(f"{name!r} is no base of the small world; choose from {', '.join(WORLD_BASES)}.")


def in_context(models: Sequence[str], items: int, seed: int = 0, device: str = "cpu") -> pd.DataFrame:
    """Exact match of bases that are given an instruction, demonstrations, or demonstrations of another task.

    Args:
        models: names of bases of the small world.
        items: tested inputs of each task.
        seed: of what is drawn for tests.
        device: where the models are.

    Returns:
        A table of scores (see `instruction.scores`) with the columns base, task, kind, cluster, arm, input, correct.

    Raises:
        ValueError: a model is no base of the small world.
    """
    check_bases(models)
    bases = [load_model(name, device) for name in models]
    found = [base_scores(base, Items.suited(base, count=items, seed=seed)).assign(base=base.name) for base in bases]
    return pd.concat(found, ignore_index=True)


def after_tuning(
    models: Sequence[str], items: int, seed: int = 0, device: str = "cpu", steps: int | None = None
) -> pd.DataFrame:
    """As `in_context`, of the models tuned from each base on either half of the tasks, given an instruction.

    Args:
        models: names of bases of the small world.
        items: tested inputs of each task.
        seed: of what is drawn for tests and for tuning.
        device: where the models are.
        steps: of tuning; by default as many as suit the model.
    """
    check_bases(models)
    found = []
    for name in models:
        base = load_model(name, device)
        asked, tuning = Items.suited(base, count=items, seed=seed), TuneConfig.suited(base, seed)
        pair = tuned_halves(base, asked, replace(tuning, steps=steps or tuning.steps))
        found.append(tuned_scores(pair, asked).assign(base=name))
    return pd.concat(found, ignore_index=True)


def judge(
    folder: Path | None, groups: pd.DataFrame, within: pd.DataFrame, followed: pd.DataFrame, lifted: pd.DataFrame
) -> list[Verdict]:
    """The claims of notebook 13.

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

    majority = never.loc[("fact", MAJORITY), "mean"]
    whole, exceeding, n = followed.loc[ALL_TASKS], int(lifted["exceeds"].sum()), len(lifted)
    return [
        check(
            folder, CLAIMS["never shown, never reached"],
            **mean("all", FEW_SHOT, "context"), **mean("all", HELD_OUT, "held_out"),
        ),
        check(
            folder, CLAIMS["tuning reaches rules, not facts"],
            **mean("rule", TUNED, "rules"), **mean("fact", TUNED, "facts"), majority=majority,
        ),
        _judge_within(folder, within),
        check(
            folder, CLAIMS["context follows exposure"],
            rho=whole["rho"], low=whole["low"], high=whole["high"], shown=followed.loc[SHOWN_TASKS, "rho"],
        ),
        check(
            folder, CLAIMS["others' tuning adds nothing"],
            exceeding=exceeding, n=n, share=exceeding / n, falling_short=int(lifted["falls_short"].sum()),
        ),
    ]  # fmt: skip


def _judge_within(folder: Path | None, within: pd.DataFrame) -> Verdict:
    row, r, claim = within.loc[ALL_TASKS], within["r"], CLAIMS["within a task"]
    if np.isnan(row["r"]):
        return untestable(folder, claim, "it takes two bases whose scores differ within a task")
    own = {"r": row["r"], "low": row["low"], "high": row["high"], "own": row["without_base_means"]}
    return check(folder, claim, **own, shown=r[SHOWN_TASKS], twin=r[TWIN])


def plot_reached(axes: Sequence[Axes], table: pd.DataFrame, groups: pd.DataFrame) -> None:
    """Draw how well tasks are done in each arm: first what pretraining showed, then what it never showed.

    A dot is a task in a base. Diamonds are means with their intervals; a dotted line is what the most frequent answer scores.

    Args:
        axes: two places.
        table: what `task_means` returns.
        groups: what `group_means` returns.
    """
    for place, (pretraining, title) in zip(axes, PANELS.items(), strict=True):
        for kind, (name, colour, _) in KINDS.items():
            rows, means = (part[(part["pretraining"] == pretraining) & (part["kind"] == kind)] for part in (table, groups))
            _plot_arms(place, rows, means.set_index("arm"), kind)
            place.plot([], [], "D", color=colour, label=name)
        place.plot([], [], ":", color="black", label="most frequent answer")
        place.set_xticks(range(len(ARMS)), list(ARMS.values()))
        place.set(ylim=(0, 1), xlim=(-0.5, len(ARMS) - 0.3), ylabel="share right", title=title)
    axes[-1].legend(frameon=False, loc="upper left")


def _plot_arms(axes: Axes, rows: pd.DataFrame, means: pd.DataFrame, kind: str) -> None:
    _, colour, shift = KINDS[kind]
    generator = np.random.default_rng(0)
    for position, (arm, row) in enumerate(means.loc[list(ARMS)].iterrows()):
        middle = position + shift
        places = middle + generator.uniform(-0.12, 0.12, len(rows))
        axes.scatter(places, rows[arm], s=10, color=colour, alpha=0.3, linewidth=0, clip_on=False)
        axes.vlines(middle, row["low"], row["high"], color=colour, linewidth=2)
        axes.plot(middle, row["mean"], "D", color=colour, markeredgecolor="white", markersize=8, clip_on=False, zorder=3)
        label = f"{row['mean']:.2f}"
        axes.annotate(label, (middle, row["mean"]), xytext=(7, 4), textcoords="offset points", fontsize="small", weight="bold")
        axes.hlines(means.loc[MAJORITY, "mean"], middle - 0.17, middle + 0.17, color="black", linestyle=":", linewidth=1)


def plot_exposure(axes: Axes, table: pd.DataFrame, followed: pd.DataFrame) -> None:
    """Draw how often pretraining showed a task (horizontal, logarithmic) against how well it is done in context.

    A dot is a task in a base; the line joins the means of five groups of exposure and of the tasks never shown.

    Args:
        axes: where to draw.
        table: what `task_means` returns.
        followed: what `exposure_agreement` returns.
    """
    exposure = table["exposure"].where(table["exposure"] > 0, NEVER_AT)
    jitter = np.where(table["exposure"] > 0, 1.0, np.exp(np.random.default_rng(0).uniform(-0.25, 0.25, len(table))))
    for kind, (name, colour, _) in KINDS.items():
        own = table["kind"] == kind
        axes.scatter(
            (exposure * jitter)[own],
            table[FEW_SHOT][own],
            s=18,
            color=colour,
            alpha=0.5,
            linewidth=0,
            label=name,
            clip_on=False,
        )
    octave = np.ceil(np.log2(exposure)).clip(-5)
    groups = table.assign(x=np.log(exposure)).groupby(np.where(table["exposure"] > 0, octave, -9))[["x", FEW_SHOT]].mean()
    axes.plot(np.exp(groups["x"]), groups[FEW_SHOT], "o-", color="black", label="mean")
    ticks = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    rho, low, high = followed.loc[ALL_TASKS, ["rho", "low", "high"]]
    axes.set_xscale("log")
    axes.set_xticks([NEVER_AT, *ticks], ["never", *(f"1/{round(1 / tick)}" for tick in ticks[:-1]), "1"])
    axes.minorticks_off()
    axes.set(
        xlabel="how often pretraining showed the task (in relation to the others)", ylabel="share right with demonstrations",
        ylim=(0, 1), title=f"Shown more often, better in context (Spearman {rho:.2f}, {low:.2f} to {high:.2f})",
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left")


def plot_within(axes: Axes, differences: pd.DataFrame, within: pd.DataFrame) -> None:
    """Draw, for each task and base, how much better than the other bases it is in context (horizontal) and after tuning.

    Args:
        axes: where to draw.
        differences: what `centred` returns.
        within: what `within_tasks` returns.
    """
    for (pretraining, colour), label in zip(COLOURS.items(), ("the base saw the task", "it never did"), strict=True):
        rows = differences[differences["pretraining"] == pretraining]
        axes.scatter(rows["in_context"], rows["tuned"], s=22, color=colour, alpha=0.6, linewidth=0, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(0, color="black", linewidth=0.8)
    row = within.loc[ALL_TASKS]
    axes.set(
        xlabel="with demonstrations: above the task's mean over bases", ylabel="tuned on the task: above the mean over bases",
        title=f"Better in context, better after tuning (r {row['r']:.2f}, {row['low']:.2f} to {row['high']:.2f})",
    )  # fmt: skip
    axes.legend(frameon=False, loc="upper left")


def plot_comparisons(axes: Axes, within: pd.DataFrame) -> None:
    """Draw the r of each comparison of `within_tasks`, with its interval."""
    for position, (case, row) in enumerate(within.iloc[::-1].iterrows()):
        colour = GREY if case == BASES_AGREE else BLUE
        axes.hlines(position, row["low"], row["high"], color=colour, linewidth=2)
        axes.plot(row["r"], position, "o", color=colour)
        write_above(axes, row["r"], position)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(within)), list(within.index[::-1]))
    axes.set(xlim=(-0.4, 1), xlabel="r within a task", title="The same r under controls")
