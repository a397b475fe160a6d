"""Notebook 03: in which layers, components, heads and MLP dimensions the kept weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bigramlib.findings.claims import Claim, Verdict, check
from bigramlib.findings.style import BLUE
from bigramlib.models.components import ATTENTION_COMPONENTS
from bigramlib.subnetworks.places import first_mlp_dimensions, gini
from bigramlib.subnetworks.subnetwork import Subnetwork

NAMED_SHARE = 0.03
"""A part of the model is named in the figure if it has at least this share of the kept weights at some size."""
CLAIMS = {
    "first mlp": Claim(
        "A subnetwork with r > 0.95 lies mostly in the first layer's MLP",
        "concentrated in the first MLP",
        "{share:.0%} of kept weights (seeds {low:.0%} to {high:.0%}); the first MLP holds {uniform:.0%} of those searched",
        lambda share, **_: share > 0.5,
    ),
    "first mlp, every size": Claim(
        "At every size the first layer's MLP holds far more than its share, the more the smaller the subnetwork",
        "concentrated in the first MLP",
        "{least:.0%} at least, {smallest:.0%} in the smallest ({uniform:.0%} of maskable weights)",
        lambda least, smallest, uniform: least > 1.5 * uniform and smallest > least + 0.1,
    ),
    "few dimensions": Claim(
        "Kept weights of the first MLP are gathered in some of its dimensions",
        "not stated",
        "Gini {gini:.2f}; random weights {random:.2f}",
        lambda gini, random: gini > random + 0.1,
    ),
}


def by_family(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of several models as one table, with a column model."""
    return pd.concat(tables, names=["model"]).reset_index("model")


def searched_rows(subnetwork: Subnetwork, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one of its tables (columns layer, component) about matrices that its search could keep weights of."""
    config = subnetwork.provenance.get("config") or {}
    architecture = subnetwork.architecture
    names = architecture.within(config.get("layers"), config.get("attention", True))
    places = {(part.layer, part.name) for part in architecture.components if part.parameter in names}
    return table[[place in places for place in zip(table.layer, table.component, strict=True)]]


def searched_table(subnetwork: Subnetwork) -> pd.DataFrame:
    """The rows of `Subnetwork.table` about matrices that were searched."""
    return searched_rows(subnetwork, subnetwork.table())


def head_units(subnetwork: Subnetwork) -> pd.DataFrame:
    """The rows of `Subnetwork.units` about attention heads that were searched."""
    units = searched_rows(subnetwork, subnetwork.units())
    return units[units.component.isin(ATTENTION_COMPONENTS)]


def dimension_counts(subnetworks: Mapping[str, Subnetwork]) -> pd.DataFrame:
    """Kept weights in each dimension of the first layer's MLP: where it is (unit, of which expert), and each subnetwork's."""
    return pd.DataFrame({name: first_mlp_dimensions(found.units()) for name, found in subnetworks.items()}).reset_index()


def judge(
    folder: Path | None,
    subnetworks: Mapping[float, Subnetwork],
    headline: float,
    by_seed: Sequence[Subnetwork],
    dimensions: pd.DataFrame,
) -> list[Verdict]:
    """The claims of notebook 03.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        subnetworks: those of the trained model, by sparsity penalty.
        headline: the sparsity penalty of the subnetwork that the first claim is about.
        by_seed: subnetworks for this penalty, found with several seeds.
        dimensions: what `dimension_counts` returns for "bigram subnetwork" and "random subnetwork".
    """
    table = subnetworks[headline].table()
    first_mlp = table[(table.layer == 0) & table.component.str.startswith("mlp")].total.sum()
    uniform = first_mlp / subnetworks[headline].searched()
    seeds = [found.first_mlp_share() for found in by_seed]
    by_size = {found.kept: found.first_mlp_share() for found in subnetworks.values()}
    measured = {"share": np.mean(seeds), "low": min(seeds), "high": max(seeds)}
    shares = {"least": min(by_size.values()), "smallest": by_size[min(by_size)]}
    coefficients = {name: gini(dimensions[f"{name} subnetwork"]) for name in ("bigram", "random")}
    return [
        check(folder, CLAIMS["first mlp"], uniform=uniform, **measured),
        check(folder, CLAIMS["first mlp, every size"], uniform=uniform, **shares),
        check(folder, CLAIMS["few dimensions"], gini=coefficients["bigram"], random=coefficients["random"]),
    ]


def plot_each(axes: Sequence[Axes], tables: Mapping[str, pd.DataFrame], plot: Callable[[Axes, pd.DataFrame], None]) -> None:
    """Draw the table of each model with the function `plot`, side by side, with the model's name as the title."""
    for place, (name, table) in zip(axes, tables.items(), strict=True):
        plot(place, table)
        place.set_title(name)


def plot_layer_shares(axes: Axes, shares: pd.DataFrame) -> None:
    """Draw each part's share of the kept weights over the size of the subnetwork, or as bars if there is a single size.

    Parts with a small share are grey lines, and have no bars.

    Args:
        axes: where to draw.
        shares: columns kept (weights of the subnetwork), layer, kind ("attention" or "mlp"), share.
    """
    if shares.kept.nunique() == 1:
        named = shares[shares.share >= NAMED_SHARE]
        axes.bar([f"layer {row.layer} {row.kind}" for row in named.itertuples()], named.share, color=BLUE)
        axes.tick_params(axis="x", rotation=45)
        axes.set(ylim=(0, 1), xlabel=f"parts of {shares.kept.iloc[0]:,} kept weights", ylabel="share of the kept weights")
        return
    order = [(layer, kind) for layer in sorted(shares.layer.unique()) for kind in ("mlp", "attention")]
    palette = sns.color_palette("viridis", shares.layer.nunique())
    for layer, kind in order:
        line = shares[(shares.layer == layer) & (shares.kind == kind)].sort_values("kept")
        style = "o-" if kind == "mlp" else "x:"
        if line.share.max() >= NAMED_SHARE:
            axes.plot(line.kept, line.share, style, color=palette[layer], label=f"layer {layer} {kind}")
        else:
            axes.plot(line.kept, line.share, style[1:], color="#cccccc", zorder=1)
    axes.plot([], [], color="#cccccc", label=f"others, each below {NAMED_SHARE:.0%}")
    highest = max(panel.dataLim.y1 for panel in axes.figure.axes)
    axes.set(xscale="log", xlabel="kept weights", ylabel="share of the kept weights")
    axes.set_ylim(0, min(1, 1.5 * highest))  # with room for the legend
    sizes = sorted(shares.kept.unique())
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize="small", ncols=2)


def plot_lorenz(axes: Axes, dimensions: pd.DataFrame) -> None:
    """Draw Lorenz curves of `dimension_counts`: the share of the kept weights that is in the fullest dimensions."""
    for (name, kept), style in zip(
        dimensions.drop(columns=["expert", "unit"], errors="ignore").items(), ("-", "--", "-.", ":"), strict=False
    ):
        share = np.concatenate([[0], np.sort(kept)[::-1].cumsum() / max(1, kept.sum())])
        axes.plot(np.linspace(0, 1, len(share)), share, style, label=f"{name} (Gini {gini(kept):.2f})")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.set(xlabel="share of MLP dimensions, fullest first", ylabel="share of kept weights", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small")


def plot_heads(axes: Axes, units: pd.DataFrame) -> None:
    """Draw what `head_units` returns: the share of its weights that each head keeps (q, k, v, o together), as a heat map."""
    if units.empty:
        axes.set(xticks=[], yticks=[], xlabel="attention was not searched")
        axes.spines[:].set_visible(False)
        return
    heads = units.groupby(["layer", "unit"])[["kept", "total"]].sum()
    grid = (heads.kept / heads.total).unstack() * 100
    scale = {"vmin": 0, "vmax": float(grid.to_numpy().max()) or 1.0, "cbar_kws": {"label": "% of weights kept"}}
    sns.heatmap(grid, ax=axes, cmap="Blues", annot=grid.size <= 64, fmt=".1g", **scale)
    axes.set(xlabel="head", ylabel="layer", title="Attention heads")
    axes.tick_params(left=False, bottom=False)
    axes.tick_params(axis="y", rotation=0)
