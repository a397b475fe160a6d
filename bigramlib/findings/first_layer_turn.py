"""Notebook 06: how the residual stream turns from the current token to the next one across the first layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bigramlib.analysis.lenses import LENS_TOKENS
from bigramlib.analysis.residual import MOMENT_TOKENS, ResidualMoments
from bigramlib.findings.claims import Claim, Verdict, check
from bigramlib.findings.study import Study
from bigramlib.subnetworks.subnetwork import Subnetwork

FULL, BIGRAM, RANDOM = "full model", "bigram subnetwork", "random subnetwork"
CLAIMS = {
    "turn": Claim(
        "The next token becomes readable across the first layer above all, in the full model and in the subnetwork",
        "sharp change at layer 1",
        "lens r rises most at layer {full_layer:d} (by {full:.2f}, to {r:.2f}, {low:.2f} to {high:.2f}) "
        "and at layer {layer:d} (by {bigram:.2f})",
        lambda full_layer, full, layer, bigram, **_: full_layer == layer == 1 and min(full, bigram) > 0,
    ),
    "current token fades": Claim(
        "Across the first layer the current token stops being readable through a linear map",
        "recall of the input falls at layer 1",
        "recall@1 by dot product (the release's measure) {before:.3f} to {after:.3f} ({low:.3f} to {high:.3f}), "
        "{last:.3f} at the last layer; by centred cosine {cosine_before:.3f} to {cosine_after:.3f}, {cosine_last:.3f}; "
        "without a map {direct_before:.2f} to {direct_after:.2f}",
        lambda before, after, **_: after < before - 0.2,
    ),
    "no turn in random weights": Claim(
        "A random subnetwork of the same size shows none: its layers' covariances are all alike",
        "everything similar",
        "lowest similarity {random:.2f}; bigram subnetwork {bigram:.2f}",
        lambda random, bigram: random > 0.8 and bigram < random - 0.3,
    ),
    "embeddings apart": Claim(
        "The embeddings' covariance is unlike that of every later layer, which are alike from one to the next",
        "layer 0 unlike all later ones",
        "embeddings to later layers at most {first:.2f}; later neighbours at least {later:.2f}",
        lambda first, later: first < later,
    ),
}


def moments_of(study: Study, subnetwork: Subnetwork, max_tokens: int = MOMENT_TOKENS) -> dict[str, ResidualMoments]:
    """Moments of the residual stream of the full model, of a subnetwork, and of a random subnetwork of the same size."""
    parts = {FULL: None, BIGRAM: subnetwork, RANDOM: subnetwork.random_like(0)}
    return {name: study.moments(part, max_tokens=max_tokens) for name, part in parts.items()}


def lens_reports(study: Study, moments: Mapping[str, ResidualMoments], max_tokens: int = LENS_TOKENS) -> pd.DataFrame:
    """What `lens_report` returns for each of the moments, with a column model."""
    return pd.concat([study.lens_report(found, max_tokens=max_tokens).assign(model=name) for name, found in moments.items()])


def long_table(similarities: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The similarities as a table with one row for each pair of layer boundaries: model, layer, other, value."""
    tables = {
        name: pd.DataFrame(grid).rename_axis("layer").melt(ignore_index=False, var_name="other")
        for name, grid in similarities.items()
    }
    return pd.concat(tables, names=["model"]).reset_index()


def judge(folder: Path | None, report: pd.DataFrame, similarities: Mapping[str, np.ndarray]) -> list[Verdict]:
    """The claims of notebook 06.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        report: what `lens_reports` returns.
        similarities: `covariance_similarity` of the full model, the subnetwork and the random subnetwork.
    """
    lowest = {name: float(grid.min()) for name, grid in similarities.items()}
    grid = similarities[FULL]
    apart = {"first": float(grid[0, 1:].max()), "later": float(grid[1:-1, 2:].diagonal().min())}
    return [
        check(folder, CLAIMS["turn"], **_turn(report)),
        check(folder, CLAIMS["current token fades"], **_recalls(report[report.model == FULL])),
        check(folder, CLAIMS["no turn in random weights"], random=lowest[RANDOM], bigram=lowest[BIGRAM]),
        check(folder, CLAIMS["embeddings apart"], **apart),
    ]


def steepest(report: pd.DataFrame) -> tuple[dict[str, int], dict[str, float]]:
    """The layer across which r rises most, and by how much, for each model of `lens_reports`."""
    rises = report.pivot(index="layer", columns="model", values="r").diff().iloc[1:].fillna(0.0)
    return rises.idxmax().astype(int).to_dict(), rises.max().to_dict()


def _turn(report: pd.DataFrame) -> dict[str, int | float]:
    """The layer across which r rises most, and by how much, in both models; the full model's r after its layer."""
    layers, most = steepest(report)
    reached = report[report.model == FULL].set_index("layer").loc[layers[FULL]]
    turns = {"full_layer": layers[FULL], "full": most[FULL], "layer": layers[BIGRAM], "bigram": most[BIGRAM]}
    return turns | {"r": reached.r, "low": reached.r_low, "high": reached.r_high}


def _recalls(lenses: pd.DataFrame) -> dict[str, float]:
    """Recall of the current token before the first layer, after it, and after the last layer, by three measures."""
    measures = {"": "dot_recall_1", "cosine_": "recall_1", "direct_": "direct_recall_1"}
    places = {"before": 0, "after": 1, "last": -1}
    found = {f"{name}{place}": lenses[column].iloc[row] for name, column in measures.items() for place, row in places.items()}
    return found | {"low": lenses.dot_recall_1_low.iloc[1], "high": lenses.dot_recall_1_high.iloc[1]}


def plot_similarities(axes: Sequence[Axes], similarities: dict[str, np.ndarray]) -> None:
    """Layer-by-layer covariance similarity of several models, one heat map each on a common scale."""
    for place, (name, grid) in zip(axes, similarities.items(), strict=True):
        look = {"annot": len(grid) <= 8, "fmt": ".2f", "cbar": False, "square": True}
        every = 1 + len(grid) // 12
        sns.heatmap(grid, ax=place, vmin=0, vmax=1, cmap="magma", xticklabels=every, yticklabels=every, **look)
        place.set(title=name, xlabel="layer boundary (0: embeddings)")
        place.tick_params(left=False, bottom=False, rotation=0)


def plot_turn(axes: Sequence[Axes], report: pd.DataFrame) -> None:
    """Draw what linear lenses read at each layer boundary, one line for each model.

    Args:
        axes: four: the next token (r); the current token through a map (recall@1 by dot product; pale lines by cosine); the
            current token without a map; the rotation.
        report: what `lens_reports` returns.
    """
    panels = {
        "r": "next token: r with the own output",
        "dot_recall_1": "current token: recall@1 (pale: cosine)",
        "direct_recall_1": "the same, without a map",
        "rotation_final": "rotation to the final residual (°)",
    }
    for place, (column, title) in zip(axes, panels.items(), strict=True):
        for (name, line), style in zip(report.groupby("model", sort=False), ("o-", "s--", "x:"), strict=False):
            place.plot(line.layer, line[column], style, label=name)
            if column == "dot_recall_1":
                place.plot(line.layer, line.recall_1, style, color=place.lines[-1].get_color(), alpha=0.3)
        place.set(title=title, xlabel="layer boundary (0: embeddings)", ylim=(0, None))
        place.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(frameon=False, fontsize="small")
