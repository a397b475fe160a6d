"""Notebook 10: all models that have figures, side by side, from the tables that notebooks 02, 04 and 06 wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from bigramlib.analysis.controls import smallest_reaching
from bigramlib.findings.first_layer_turn import FULL, steepest
from bigramlib.findings.style import COLOURS, PAPER_R, correlation_axis, figure_folder, read_tables

FRONTIER, ABLATION, TURN = TABLES = ("02_frontier", "04_ablation", "06_turn")
"""The tables that models are compared by."""
SAME_SIZE = 0.02
"""Two searches of one lambda, on two machines or with two seeds, differ in size by less than this share."""
MARKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))
"""Markers and lines of models: the next ones where all colours are taken."""
Tables = Mapping[str, pd.DataFrame]


def surveyed(root: Path, wanted: Sequence[str] = ()) -> dict[str, Tables]:
    """The tables of models by the names of their folders; those of notebooks that were not run are empty.

    Args:
        root: the folder of all figures.
        wanted: names of models; all that notebook 02 was run on if it is empty.

    Raises:
        ValueError: notebook 02 was not run on a wanted model, or on none.
    """
    folders = {name: folder for name in wanted if (folder := figure_folder(name, root))}
    folders = folders or {file.parent.name: file.parent for file in sorted(root.glob(f"*/{FRONTIER}.csv"))}
    found: dict[str, Tables] = {folder.name: read_tables(folder, TABLES) for folder in folders.values()}
    lacking = next((name for name, folder in folders.items() if found[folder.name][FRONTIER].empty), None)
    if lacking or not found:
        raise ValueError(f"{str(root)!r} has no {FRONTIER}.csv of {lacking or 'any model'}; run notebook 02 on it first.")
    return found


def frontiers(models: Mapping[str, Tables]) -> pd.DataFrame:
    """The full model, the empty one and the subnetworks of each of `surveyed`, as notebook 02 has them, with a column model."""
    rows = [tables[FRONTIER].query("model == 'trained'").assign(model=name) for name, tables in models.items()]
    points = pd.concat(rows, ignore_index=True)
    return points[points.case != "random subnetwork"].reset_index(drop=True)


def summary(models: Mapping[str, Tables]) -> pd.DataFrame:
    """A row for each of `surveyed`, about its smallest subnetwork with r > 0.95; if there is none, the one with the highest r.

    Returns:
        By model: maskable (number of weights), full r, kept, share kept, r, in first MLP (share of the kept weights), the rise
        in cross-entropy without the subnetwork and without random weights (nats per token), and the layer across which the r
        of the lenses rises most in the full model, counted from 1. What was not measured is NaN.
    """
    rows = {name: _row(tables) for name, tables in models.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _row(tables: Tables) -> dict[str, float | int]:
    points = tables[FRONTIER].query("model == 'trained'")
    best = smallest_reaching(points, PAPER_R)
    rises = _rises(tables[ABLATION], int(best.kept))
    layers = steepest(tables[TURN])[0] if len(tables[TURN]) else {}
    return {
        "maskable": int(best.total),
        "full r": points.set_index("case").r["full"],
        "kept": int(best.kept),
        "share kept": best.kept / best.total,
        "r": best.r,
        "in first MLP": best.first_mlp_share,
        "without it, nats": rises.get("full - subnetwork", np.nan),
        "without random, nats": rises.get("full - random", np.nan),
        "turn at layer": layers.get(FULL, np.nan),
    }


def _rises(removed: pd.DataFrame, kept: int) -> pd.Series:
    """By case, the rises of a table of notebook 04 for the subnetwork of this size; none where none is so large."""
    if removed.empty:
        return pd.Series(dtype=float)
    apart = (removed[removed.case == "subnetwork"].set_index("subnetwork").kept / kept - 1).abs()
    alike = apart.index[apart <= SAME_SIZE]
    return removed[removed.subnetwork.isin(alike[:1])].set_index("case").rise


def judge(summary: pd.DataFrame) -> dict[str, bool]:
    """The verdicts of notebook 10 by question, from what `summary` returns."""
    removed = summary.dropna(subset="without it, nats")
    damage = removed["without it, nats"] > removed["without random, nats"]
    return {
        "mini reaches r > 0.95": "mini" in summary[summary.r > PAPER_R].index,
        "removing the subnetwork costs more than removing random weights, in every model": bool(len(damage) and damage.all()),
    }


def plot_models(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """Draw the bigram correlation of several models' subnetworks over their size.

    Args:
        axes: two: over kept weights, and over their share of the maskable weights.
        points: what `frontiers` returns.
    """
    found = points[points.case == "subnetwork"].sort_values("kept")
    for number, (model, line) in enumerate(found.groupby("model", sort=False)):
        marker, dashes = MARKS[number // len(COLOURS) % len(MARKS)]
        bars = np.maximum(0, (line.r - line.r_low, line.r_high - line.r))
        for place, size in zip(axes, (line.kept, line.kept / line.total), strict=True):
            place.errorbar(size, line.r, bars, fmt=marker + dashes * (len(line) > 1), label=model)
    for place, label in zip(axes, ("kept weights", "share of the maskable weights"), strict=True):
        place.axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
        place.set(xscale="log", xlabel=label, ylabel="bigram correlation r, held-out text")
        correlation_axis(place)
        place.xaxis.set_minor_formatter(NullFormatter())
    axes[1].legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
