"""Notebook 14: many searches at once, and how much size and r depend on the seed. Also `make sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from bigramlib.cluster.searches import Search, find_subnetworks
from bigramlib.cluster.sweep import grid, measured
from bigramlib.cluster.workers import workers
from bigramlib.disk import written_whole
from bigramlib.findings.claims import Claim, Verdict, check, untestable
from bigramlib.findings.parameters import PARAMETERS, checked, read_parameters
from bigramlib.findings.style import BLUE, PAPER_R
from bigramlib.models.loading import architecture_named

GRID = ("models", "corpora", "penalties", "seeds", "checkpoints", "targets", "controls", "device", "text_column", "settings")
"""What a sweep's file may name: the arguments of `grid`."""
SHOWN = ["model", "corpus", "target", "control", "sparsity_penalty", "seed", "kept", "density", "r", "kl", "converged"]
"""Columns of the table of a sweep that are printed; its file has all."""
CLAIMS = {
    "seeds agree": Claim(
        "Another seed finds a subnetwork of the same size (within 5 %) and the same r (within 0.01), at each lambda",
        "not stated",
        "over {seeds} seeds of {penalties} lambdas, sizes differ by at most {size:.1%}, r by at most {r:.4f}",
        lambda size, r, **_: size <= 0.05 and r <= 0.01,
    ),
}


def sweep(file: Path, scheduler: str = "", processes: int | None = None) -> str:
    """Find all subnetworks of a sweep, measure them, and write the table beside its file, as .csv.

    Args:
        file: YAML that names arguments of `grid`, one `name: value` a line.
        scheduler: of Dask, as in `workers`.
        processes: as in `workers`.

    Returns:
        The table as text, and where it lies.

    Raises:
        ValueError: there is no such file, or it names something that cannot be searched.
        ExceptionGroup: searches failed, and all others have ended.
    """
    searches = read_sweep(file)
    weights = max(architecture_named(model).size for model in {search.model for search in searches})
    with workers(scheduler, processes, searches[0].device, weights) as executor:
        find_subnetworks(searches, executor)
        table = measured(searches, executor)
    place = file.with_suffix(".csv")
    with written_whole(place) as temporary:
        table.to_csv(temporary, index=False)
    return f"{table[SHOWN].to_string(index=False, float_format='%.4g')}\n\nAll columns: {place}"


def read_sweep(file: Path) -> list[Search]:
    """The searches of a sweep's file; see `sweep`."""
    if not file.is_file():
        raise ValueError(
            f"There is no file {str(file)!r}; write one that names models, penalties and seeds, one `name: value` a line, "
            "and give it as SWEEP."
        )
    given = read_parameters(file)
    if unknown := sorted(set(given) - set(GRID)):
        raise ValueError(f"{str(file)!r} has {unknown[0]!r}; a sweep can have {', '.join(GRID)}.")
    if not given.get("models"):
        raise ValueError(f"{str(file)!r} names no models; add a line such as `models: [mini]`.")
    unchecked = {name: value for name, value in given.items() if name not in PARAMETERS or name == "device"}
    values: dict[str, Any] = checked({name: value for name, value in given.items() if name not in unchecked}) | unchecked
    return grid(**values)


def spread(points: pd.DataFrame) -> pd.DataFrame:
    """How far the seeds of each sparsity penalty are apart.

    Args:
        points: what `measured` returns for one model and text.

    Returns:
        One row for each penalty: sparsity_penalty, seeds (their number), density, density_low, density_high, r, r_low and
        r_high: the mean over the seeds, the lowest and the highest.
    """
    rows = []
    for penalty, group in points.groupby("sparsity_penalty"):
        row = {"sparsity_penalty": penalty, "seeds": len(group)}
        for name in ("density", "r"):
            row |= {name: group[name].mean(), f"{name}_low": group[name].min(), f"{name}_high": group[name].max()}
        rows.append(row)
    return pd.DataFrame(rows)


def judge(folder: Path | None, bands: pd.DataFrame) -> list[Verdict]:
    """The claim of notebook 14, judged by what `spread` returns."""
    if bands.seeds.max() < 2:
        return [untestable(folder, CLAIMS["seeds agree"], "there is one seed alone")]
    size = ((bands.density_high - bands.density_low) / bands.density).max()
    facts = {"seeds": int(bands.seeds.max()), "penalties": len(bands), "size": size, "r": (bands.r_high - bands.r_low).max()}
    return [check(folder, CLAIMS["seeds agree"], **facts)]


def plot_bands(axes: Axes, bands: pd.DataFrame, points: pd.DataFrame) -> None:
    """Draw r over the share of kept weights: each subnetwork, their mean for each lambda, and the band between the seeds."""
    bands = bands.sort_values("density")
    axes.fill_between(bands.density, bands.r_low, bands.r_high, color=BLUE, alpha=0.25, linewidth=0, label="lowest to highest")
    axes.plot(bands.density, bands.r, color=BLUE, label=f"mean of {bands.seeds.max()} seeds")
    axes.plot(points.density, points.r, ".", color="black", markersize=4, label="one search")
    for row in bands.itertuples():
        axes.annotate(f"λ {row.sparsity_penalty:g}", (row.density, row.r_low), xytext=(4, -12), textcoords="offset points")
    axes.axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="share of maskable weights that are kept", ylabel="bigram correlation r, held-out text")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.margins(0.12)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
