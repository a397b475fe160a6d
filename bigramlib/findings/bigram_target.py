"""Notebook 01: what the bigram table looks like, and how closely the full model follows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bigramlib.analysis.evaluate import MAX_TOKENS
from bigramlib.findings import pretrain_mini
from bigramlib.findings.claims import Claim, Verdict, check, untestable
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, ORANGE, pretraining_axis
from bigramlib.progress import tqdm

CLAIMS = {
    "model is not bigram": Claim(
        "The full model's surprisals follow the bigram table only loosely",
        "r well below the subnetworks'",
        "r {r:.3f}",
        lambda r: r < 0.9,
    ),
    "early bigram": Claim(
        "Early in pretraining the full model is most bigram-like, later less",
        "bigram-like early in pretraining",
        "r {peak:.3f} at step {step:d}, {last:.3f} at the end",
        lambda peak, step, last: peak > last + 0.02,
    ),
}


def table_facts(study: Study, seen: float) -> pd.Series:
    """Size, entropy and coverage of the bigram table, as texts.

    Args:
        study: the model, its text and its bigram table.
        seen: the share of held-out tokens whose bigram was seen in training.
    """
    table = study.table
    return pd.Series({
        "training tokens": f"{len(study.train):,}",
        "vocabulary": f"{table.vocabulary_size:,}",
        "distinct bigrams": f"{table.counts.nnz:,}",
        "mean entropy of P, over training tokens": f"{np.average(table.entropy, weights=table.unigram_counts):.2f} nats",
        "held-out tokens whose bigram was seen": f"{seen:.1%}",
    })  # fmt: skip


def likeliest_successors(study: Study, ranks: list[int], successors: int = 5) -> pd.DataFrame:
    """The most likely next tokens, with their probabilities, after some frequent tokens.

    Args:
        study: the model, its text and its bigram table.
        ranks: which tokens to show, by rank in frequency; the most frequent token has rank 0.
        successors: how many next tokens to show.
    """
    table, decode = study.table, study.model.tokenizer.decode
    contexts = np.argsort(-table.unigram_counts)[ranks]
    rows = table.probabilities(contexts)
    spelled = [[f"{decode([j])!r} {row[j]:.2f}" for j in np.argsort(-row)[:successors]] for row in rows]
    columns = [f"{place}." for place in range(1, successors + 1)]
    return pd.DataFrame(spelled, index=[repr(decode([context])) for context in contexts], columns=columns)


def along_pretraining(study: Study, max_tokens: int = MAX_TOKENS) -> pd.DataFrame:
    """How well each pretraining checkpoint of the full model predicts held-out text and the bigram table.

    Returns:
        One row for each checkpoint: step, r and r_clipped (see `Evaluation`), kl from the table's prediction to the model's and
        cross_entropy, both in nats per token, and tokens (how many were measured).
    """
    rows = []
    for step, checkpoint in tqdm(study.checkpoints().items(), desc="checkpoints", unit="checkpoint"):
        found = checkpoint.evaluate(max_tokens=max_tokens)
        rows.append((step, found.r, found.r_clipped, found.kl, found.cross_entropy, found.tokens))
    return pd.DataFrame(rows, columns=["step", "r", "r_clipped", "kl", "cross_entropy", "tokens"])


def judge(folder: Path | None, along: pd.DataFrame, references: dict[str, float]) -> list[Verdict]:
    """The claims of notebook 01.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        along: what `along_pretraining` returns.
        references: what `table_cross_entropies` returns.
    """
    last = along.iloc[-1]
    yardsticks = {"bigram": references["bigram"], "unigram": references["unigram"]}
    verdicts = [
        check(folder, pretrain_mini.CLAIMS["language model"], model=last.cross_entropy, **yardsticks),
        check(folder, CLAIMS["model is not bigram"], r=last.r),
    ]
    if len(along) == 1:
        return [*verdicts, untestable(folder, CLAIMS["early bigram"], "this model has no pretraining checkpoints")]
    peak = along.loc[along.r.idxmax()]
    return [*verdicts, check(folder, CLAIMS["early bigram"], peak=peak.r, step=int(peak.step), last=last.r)]


def plot_checkpoints(axes: Axes, table: pd.DataFrame, references: dict[str, float]) -> None:
    """Draw the bigram correlation and the held-out cross-entropy over pretraining steps.

    Args:
        axes: where to draw.
        table: columns step, r, cross_entropy; one row for each checkpoint.
        references: cross-entropies of the "bigram" and "unigram" table, nats per token.
    """
    blue, orange = BLUE, ORANGE
    axes.plot(table.step, table.r, "o-", color=blue)
    pretraining_axis(axes, table.step)
    axes.set(ylim=(0, 1), title="How bigram-like the full model is")
    axes.set_ylabel("bigram correlation r", color=blue)
    twin = axes.twinx()
    twin.plot(table.step, table.cross_entropy, "s--", color=orange)
    for name in ("bigram", "unigram"):
        twin.axhline(references[name], color=orange, linewidth=0.8, linestyle=":")
        twin.text(table.step.max(), references[name], f"{name} table", color=orange, fontsize="small", ha="right", va="bottom")
    twin.set_ylabel("held-out cross-entropy (nats)", color=orange)
    twin.spines["right"].set_visible(True)
