"""Notebook 05: whether bigram subnetworks and optimal pruning keep the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bigramlib.analysis.overlap import jaccard, nearest_in_size, overlap_test, row_shuffle_moments
from bigramlib.findings.claims import Claim, Verdict, check
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, ORANGE, RED
from bigramlib.numeric import percent
from bigramlib.subnetworks.subnetwork import Subnetwork

CLAIMS = {
    "overlap": Claim(
        "Bigram and optimally pruned subnetworks of about the same size share far more weights than by chance",
        "far above chance",
        "{contained:.0%} of the smaller one at {density:.1%} kept: {flat:.1f} times chance (p < 1e{flat_log10_p:.0f}), "
        "{rows:.1f} times shuffled rows (p about 1e{rows_log10_p:.0f})",
        lambda flat, rows, flat_log10_p, rows_log10_p, **_: min(flat, rows) > 2 and max(flat_log10_p, rows_log10_p) < -6,
    ),
    "overlap, yardstick": Claim(
        "Two masks of one target agree more than masks of the two targets: the targets differ beyond training noise",
        "not stated",
        "Jaccard {bigram:.2f} of bigram seeds, {pruned:.2f} of pruning seeds, {across:.2f} across; chance {chance:.2f}",
        lambda bigram, pruned, across, **_: min(bigram, pruned) > across,
    ),
}


def sizes(study: Study, bigram: Mapping[float, Subnetwork], pruned: Mapping[float, Subnetwork]) -> pd.DataFrame:
    """How much bigram and optimally pruned subnetworks keep, and how well they predict held-out text.

    Returns:
        One row for each: target, sparsity_penalty, kept (the share of maskable weights), first_mlp (the share of the kept
        weights that is in the first layer's MLP), r (see `Evaluation`) and cross_entropy in nats per token.
    """
    rows = []
    for target, family in {"bigram table": bigram, "full model": pruned}.items():
        for penalty, found in family.items():
            measured = study.evaluate(found)
            rows.append({
                "target": target, "sparsity_penalty": penalty, "kept": found.density, "first_mlp": found.first_mlp_share(),
                "r": measured.r, "cross_entropy": measured.cross_entropy,
            })  # fmt: skip
    return pd.DataFrame(rows)


def compare(bigram: Mapping[float, Subnetwork], pruned: Mapping[float, Subnetwork]) -> dict[float, pd.DataFrame]:
    """What `overlap_test` returns for each bigram subnetwork and the pruned one nearest in size, by the former's penalty."""
    return {penalty: overlap_test(found, pruned[nearest_in_size(found, pruned)]) for penalty, found in bigram.items()}


def whole_overlaps(tests: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """The rows of `compare` about whole subnetworks, with columns sparsity_penalty and pair (both kept shares, as a text)."""
    pairs = pd.concat([test.iloc[[-1]].assign(sparsity_penalty=penalty) for penalty, test in tests.items()], ignore_index=True)
    pairs["pair"] = [
        f"{percent(row.kept_a / row.total, 1)} / {percent(row.kept_b / row.total, 1)}" for row in pairs.itertuples()
    ]
    return pairs


def shuffle_check(one: Subnetwork, other: Subnetwork, shuffles: int = 300) -> dict[str, bool]:
    """Whether really shuffling the rows of one matrix gives the mean and spread that `row_shuffle_moments` computes.

    The matrix is "mlp in" of the first layer. The mean may differ by up to four standard errors, the spread by a fifth.
    """
    part = next(part for part in one.architecture.components if part.name == "mlp in")
    rows, others = (part.of(found.masks[part.parameter]).numpy() for found in (one, other))
    generator = np.random.default_rng(0)
    shuffled = [np.count_nonzero(rows[generator.permutation(len(rows))] & others) for _ in range(shuffles)]
    mean, variance = row_shuffle_moments(rows, others)
    return {
        "same mean": bool(abs(np.mean(shuffled) - mean) < 4 * np.sqrt(variance / shuffles)),
        "same spread": bool(0.8 < np.std(shuffled) / np.sqrt(variance) < 1.2),
    }


def agreement(bigram: Sequence[Subnetwork], pruned: Sequence[Subnetwork]) -> pd.Series:
    """Jaccard similarities of masks for the same target (two seeds), for different targets, and with a random mask."""
    return pd.Series({
        "two bigram seeds": jaccard(*bigram),
        "two pruning seeds": jaccard(*pruned),
        "bigram and pruning": np.mean([jaccard(a, b) for a in bigram for b in pruned]),
        "bigram and random of the pruned size": jaccard(bigram[0], pruned[0].random_like(0)),
    })  # fmt: skip


def judge(folder: Path | None, pairs: pd.DataFrame, headline: float, agreed: pd.Series) -> list[Verdict]:
    """The claims of notebook 05.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        pairs: what `whole_overlaps` returns.
        headline: the sparsity penalty of the bigram subnetwork that is judged.
        agreed: what `agreement` returns.
    """
    row = pairs[pairs.sparsity_penalty == headline].iloc[0]
    times = {null: row.overlap / row[f"{null}_expected"] for null in ("flat", "rows")}
    chances = {f"{null}_log10_p": row[f"{null}_log10_p"] for null in ("flat", "rows")}
    kept = {"contained": row.contained, "density": row.kept_a / row.total}
    bigram, pruned, across, chance = agreed
    seeds = {"bigram": bigram, "pruned": pruned, "across": across, "chance": chance}
    return [check(folder, CLAIMS["overlap"], **kept, **times, **chances), check(folder, CLAIMS["overlap, yardstick"], **seeds)]


def plot_overlap(axes: Axes, pairs: pd.DataFrame) -> None:
    """Draw the share of weights that pairs of subnetworks have in common, and what chance would give.

    Args:
        axes: where to draw.
        pairs: what `whole_overlaps` returns.
    """
    smaller = pairs[["kept_a", "kept_b"]].min(axis=1)
    axes.bar(pairs.pair, pairs.contained, color=BLUE, width=0.5, label="shared")
    for null, marker, colour in (("flat", "_", RED), ("rows", "_", ORANGE)):
        name = {"flat": "chance: same number in each matrix", "rows": "chance: rows shuffled"}[null]
        axes.plot(pairs.pair, pairs[f"{null}_expected"] / smaller, marker, color=colour, markersize=28, mew=2.5, label=name)
    axes.set(xlim=(-0.8, len(pairs) - 0.2), ylim=(0, 1), ylabel="share of the smaller subnetwork's weights")
    axes.legend(frameon=False, fontsize="small")


def plot_overlap_by_component(axes: Axes, overlap: pd.DataFrame) -> None:
    """Draw the overlap of two subnetworks as a multiple of chance (flat), by layer and component, as a heat map."""
    parts = overlap[overlap.layer.notna()].astype({"layer": int}).assign(times=lambda row: row.overlap / row.flat_expected)
    grid = parts.pivot(index="layer", columns="component", values="times")[list(dict.fromkeys(parts.component))]
    shown = {"annot": True, "fmt": ".0f", "annot_kws": {"fontsize": min(10, 200 / len(grid))}}  # deep models have narrow rows
    sns.heatmap(grid, ax=axes, cmap="Blues", vmin=0, cbar_kws={"label": "times the chance overlap"}, **shown)
    axes.set(xlabel="", ylabel="layer", title="Where they agree")
    axes.tick_params(left=False, bottom=False, rotation=0)


def plot_agreement(axes: Axes, agreement: pd.Series) -> None:
    """Draw the Jaccard similarity of pairs of subnetworks, one bar each."""
    axes.barh(agreement.index[::-1], agreement[::-1], color=BLUE)
    for position, value in enumerate(agreement[::-1]):
        axes.text(value + 0.01, position, f"{value:.2f}", va="center", fontsize="small")
    axes.set(xlim=(0, 1), xlabel="Jaccard similarity of the kept weights", title="How stable is a mask?")
