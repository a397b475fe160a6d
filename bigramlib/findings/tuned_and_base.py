"""Notebook 11: whether a tuned model's performance follows its base's in-context performance, and what controls leave of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bigramlib.findings.claims import INHERENT_LIMITS, Claim, Verdict, check, untestable
from bigramlib.findings.style import BLUE, GREY, ORANGE, RED, write_above
from bigramlib.instruction.agreement import Agreement, PartnerControl, agreement, partner_control
from bigramlib.instruction.boundary import Beyond, beyond
from bigramlib.instruction.pairs import (
    FEW_SHOT,
    GIVEN_EXAMPLES,
    HELD_OUT,
    OTHER_TASK,
    READ_FEW_SHOT,
    RELEASED,
    TUNED,
    WRITES_EXAMPLES,
    ZERO_SHOT,
    Items,
    base_scores,
    facts,
    read_scores,
    released_scores,
    scores,
    tuned_halves,
    tuned_scores,
    written_scores,
)
from bigramlib.instruction.resampling import draw_tasks, interval
from bigramlib.instruction.scores import by_task
from bigramlib.instruction.tuning_config import TuneConfig
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.loading import WORLD_BASES

COLOURS = {"rule": BLUE, "fact": ORANGE, "other": GREY}
CLAIMS = {
    "floor": Claim(
        "The base, given the instruction alone, is at the floor; demonstrations lift it",
        "base zero-shot close to chance",
        "{zero:.2f} by instruction, {few:.2f} by demonstrations",
        lambda zero, few: zero <= 0.1 and few >= zero + 0.2,
        source=INHERENT_LIMITS,
    ),
    "follows": Claim(
        "Over tasks that it was tuned on, the tuned model follows its base's in-context performance",
        "significant correlation over tasks, models and scales",
        "Spearman {rho:.2f} ({low:.2f} to {high:.2f}), p {p:.2g}, {n} tasks; {true:.2f} with endless items",
        lambda rho, low, p, **_: rho >= 0.5 and low > 0 and p < 0.01,
        judged_by_interval=True,
        source=INHERENT_LIMITS,
    ),
    "not guessing": Claim(
        "This is not explained by how often one answer is right or how long answers are",
        "not stated",
        "partial Spearman {partial:.2f} ({low:.2f} to {high:.2f})",
        lambda partial, **_: partial >= 0.3,
        judged_by_interval=True,
        source=INHERENT_LIMITS,
    ),
    "own": Claim(
        "The base's own in-context performance explains more than another model's",
        "not stated",
        "{own:.2f} with its own, {partner:.2f} with that of {name}: difference {difference:+.2f} ({low:+.2f} to {high:+.2f})",
        lambda difference, low, **_: difference > 0 and low > 0,
        judged_by_interval=True,
        source=INHERENT_LIMITS,
    ),
    "held out follows": Claim(
        "Over tasks that were held out of tuning, the tuned model follows its base's in-context performance too",
        "whole tasks held out",
        "Spearman {rho:.2f} ({low:.2f} to {high:.2f}), p {p:.2g}; mean score {mean:.2f}",
        lambda rho, p, **_: rho > 0 and p < 0.05,
        judged_by_interval=True,
        source=INHERENT_LIMITS,
    ),
    "tuning data": Claim(
        "Tuning data matter: a task is done better by the model that was tuned on it than by one tuned on others",
        "added influence of the tuning data",
        "{difference:+.2f} ({low:+.2f} to {high:+.2f}), Wilcoxon p {p:.2g}",
        lambda difference, p, **_: difference > 0 and p < 0.01,
        source=INHERENT_LIMITS,
    ),
    "written examples": Claim(
        "Given the examples that the tuned model wrote, the base does well where the tuned model does",
        "SampleGen: the base given these examples",
        "Spearman {rho:.2f} ({low:.2f} to {high:.2f}), p {p:.2g}; means {base:.2f} and {tuned:.2f}",
        lambda rho, **_: rho >= 0.5,
        judged_by_interval=True,
        source=INHERENT_LIMITS,
    ),
}


@dataclass(frozen=True)
class Comparison:
    """How the arms of a pair agree.

    Attributes:
        scores: of each item in each arm, and of each tuning seed.
        facts: of each task.
        tuned: the arm of the tuned model: `TUNED`, or `RELEASED`.
        partner: the name of the unrelated model.
        follows: the tuned arm against demonstrations.
        control: the same with the unrelated model's demonstrations.
        held_out: held-out tasks against demonstrations; None for a released model.
        written: the tuned model that writes examples against the base that is given them; None for a released model.
        data: the tuned arm less held-out tasks; None for a released model.
    """

    scores: pd.DataFrame
    facts: pd.DataFrame
    tuned: str
    partner: str
    follows: Agreement
    control: PartnerControl
    held_out: Agreement | None
    written: Agreement | None
    data: Beyond | None


def default_partner(base: str) -> str:
    """The name of a model that has nothing to do with a base: one that saw other tasks, or one of another family."""
    if base in WORLD_BASES:
        return next(name for name in WORLD_BASES if name[:-1] != base[:-1] and name[-1] == base[-1])
    return "smollm2-135m-instruct" if "smollm2" not in base.lower() else "gemma-3-270m"


def pair_scores(
    base: LanguageModel, items: Items, seeds: Sequence[int] = (0, 1, 2), instruct: LanguageModel | None = None
) -> pd.DataFrame:
    """All arms of a pair.

    Args:
        base: the base model.
        items: what is asked.
        seeds: of tuning; each divides the tasks into other halves. The arms with written examples use the first.
        instruct: a released model that was tuned from the base; by default it is tuned here.

    Returns:
        What `scores` returns, with a column seed for the arms of models tuned here.
    """
    if instruct is not None:
        return pd.concat([base_scores(base, items), released_scores(base, instruct, items)], ignore_index=True)
    found = [base_scores(base, items)]
    for seed in seeds:
        pair = tuned_halves(base, items, TuneConfig.suited(base, seed))
        found.append(tuned_scores(pair, items).assign(seed=seed))
    found.append(written_scores(base, items, TuneConfig.suited(base, seeds[0])).assign(seed=seeds[0]))
    return pd.concat(found, ignore_index=True)


def compare(table: pd.DataFrame, items: Items, partner: LanguageModel) -> Comparison:
    """How the arms of a pair agree, and how much of it an unrelated model's in-context performance gives as well.

    Args:
        table: what `pair_scores` returns.
        items: what was asked.
        partner: the unrelated model.
    """
    known, arms = facts(items.tasks), set(table.arm)
    tuned = RELEASED if RELEASED in arms else TUNED
    context = READ_FEW_SHOT if tuned == RELEASED else FEW_SHOT
    read = read_scores if tuned == RELEASED else scores
    unrelated = read(partner, context, items, items.few_shot)
    here = HELD_OUT in arms
    return Comparison(
        scores=table,
        facts=known,
        tuned=tuned,
        partner=partner.name,
        follows=agreement(table, context, tuned, known),
        control=partner_control(table, context, tuned, unrelated),
        held_out=agreement(table, FEW_SHOT, HELD_OUT, known) if here else None,
        written=agreement(table, GIVEN_EXAMPLES, WRITES_EXAMPLES, known) if here else None,
        data=beyond(table, TUNED, HELD_OUT) if here else None,
    )


def arms(table: pd.DataFrame, draws: int = 2000) -> pd.DataFrame:
    """The mean score of each arm over tasks, with a 95 % interval from resampled tasks (columns score, low, high)."""
    rows = {}
    for arm, values in by_task(table).items():
        known = values.dropna().to_numpy()
        low, high = interval(known[draw_tasks(len(known), 0, draws)].mean(-1), len(known))
        rows[arm] = known.mean(), low, high
    order = [ZERO_SHOT, OTHER_TASK, FEW_SHOT, TUNED, HELD_OUT, GIVEN_EXAMPLES, WRITES_EXAMPLES, READ_FEW_SHOT, RELEASED]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=["score", "low", "high"])
    return found.reindex([arm for arm in order if arm in rows])


def correlations(comparison: Comparison) -> pd.DataFrame:
    """What is left of the correlation under each control: Spearman's rho and its 95 % interval (columns rho, low, high)."""
    follows, control = comparison.follows, comparison.control
    rows = {
        "its base in context": (follows.rho, *follows.interval),
        "the same, given majority share and answer length": (follows.partial, *follows.partial_interval),
        f"another model in context ({comparison.partner})": (control.partner, *control.partner_interval),
    }
    if comparison.held_out is not None:
        rows["held-out tasks: its base in context"] = (comparison.held_out.rho, *comparison.held_out.interval)
    if comparison.written is not None:
        rows["tuned to write examples: its base given them"] = (comparison.written.rho, *comparison.written.interval)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["rho", "low", "high"])


def judge(folder: Path | None, comparison: Comparison) -> list[Verdict]:
    """The claims of notebook 11; for a released model those on held-out tasks and written examples cannot be tested."""
    means = by_task(comparison.scores).mean()
    follows, control = comparison.follows, comparison.control
    low, high = follows.interval
    partial_low, partial_high = follows.partial_interval
    verdicts = [
        check(folder, CLAIMS["floor"], zero=means[ZERO_SHOT], few=means[FEW_SHOT]),
        check(
            folder, CLAIMS["follows"], rho=follows.rho, low=low, high=high, p=follows.p, n=follows.n, true=follows.disattenuated
        ),
        check(folder, CLAIMS["not guessing"], partial=follows.partial, low=partial_low, high=partial_high),
        check(
            folder, CLAIMS["own"], own=control.own, partner=control.partner, name=comparison.partner,
            difference=control.difference, low=control.difference_interval[0], high=control.difference_interval[1],
        ),
    ]  # fmt: skip
    return [*verdicts, *_judge_tuned_here(folder, comparison, means)]


def _judge_tuned_here(folder: Path | None, comparison: Comparison, means: pd.Series) -> list[Verdict]:
    held_out, data, written = comparison.held_out, comparison.data, comparison.written
    if held_out is None or data is None or written is None:
        reason = "a released model says not which tasks it was tuned on, and was not tuned to write examples"
        return [untestable(folder, CLAIMS[key], reason) for key in ("held out follows", "tuning data", "written examples")]
    return [
        check(
            folder, CLAIMS["held out follows"], rho=held_out.rho, low=held_out.interval[0], high=held_out.interval[1],
            p=held_out.p, mean=means[HELD_OUT],
        ),
        check(
            folder, CLAIMS["tuning data"], difference=data.mean, low=data.interval[0], high=data.interval[1], p=data.p
        ),
        check(
            folder, CLAIMS["written examples"], rho=written.rho, low=written.interval[0], high=written.interval[1], p=written.p,
            base=means[GIVEN_EXAMPLES], tuned=means[WRITES_EXAMPLES],
        ),
    ]  # fmt: skip


def plot_pairs(axes: Sequence[Axes], comparison: Comparison) -> None:
    """Draw each task's score in context (horizontal) against the tuned model's: tasks in tuning, and held-out tasks."""
    table = by_task(comparison.scores).join(comparison.facts[["kind"]])
    context = FEW_SHOT if comparison.tuned == TUNED else READ_FEW_SHOT
    panels = [(comparison.tuned, comparison.follows)] + [(HELD_OUT, comparison.held_out)] * (comparison.held_out is not None)
    for place, (arm, found) in zip(axes, panels, strict=False):
        assert found is not None
        place.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
        for kind, rows in table.groupby("kind"):
            place.scatter(rows[context], rows[arm], s=28, color=COLOURS.get(kind, GREY), alpha=0.8, label=kind, clip_on=False)
        low, high = found.interval
        place.set(
            xlabel="base with demonstrations (share right)", ylabel=f"{arm} (share right)", xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02), title=f"{arm}: rho {found.rho:.2f} ({low:.2f} to {high:.2f})",
        )  # fmt: skip
        place.legend(frameon=False, loc="upper left")


def plot_arms(axes: Axes, table: pd.DataFrame) -> None:
    """Draw what `arms` returns."""
    rows = table.iloc[::-1]
    axes.errorbar(rows.score, range(len(rows)), xerr=np.abs(rows[["low", "high"]].T - rows.score), fmt="o", color=BLUE)
    for position, value in enumerate(rows.score):
        write_above(axes, value, position)
    axes.set_yticks(range(len(rows)), rows.index)
    axes.set(xlabel="share right, mean over tasks", xlim=(0, 1), ylim=(-0.5, len(rows) - 0.3), title="How well each arm does")


def plot_correlations(axes: Axes, table: pd.DataFrame) -> None:
    """Draw what `correlations` returns."""
    rows = table.iloc[::-1]
    colours = [RED if "another model" in name else BLUE for name in rows.index]
    for position, (row, colour) in enumerate(zip(rows.itertuples(), colours, strict=True)):
        axes.plot([row.low, row.high], [position, position], color=colour)
        axes.plot(row.rho, position, "o", color=colour)
        write_above(axes, row.rho, position)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows.index)
    axes.set(xlabel="Spearman's rho over tasks", xlim=(-1, 1), ylim=(-0.5, len(rows) - 0.3))
    axes.set_title("What the tuned model's scores follow")
