"""Data to Axes in one house style, and figures saved with the data they were drawn from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bigramlib.disk import written_whole
from bigramlib.models.architectures import ATTENTION_COMPONENTS
from bigramlib.models.loading import EMBEDDED
from bigramlib.models.packages import PACKAGED
from bigramlib.store import content_hash
from bigramlib.subnetworks.places import gini

PAPER_R = 0.95
NAMED_SHARE = 0.03
LONGEST_NAME = 100
SOURCES = {
    "trained": "subnetworks of the trained model",
    "random, trained embeddings": "… of random weights, trained embeddings",
    "random": "… of random weights",
}
COLOURS = {"trained": "#1f5fa8", "random, trained embeddings": "#d98a2b", "random": "#8a8a8a"}


def use_house_style() -> None:
    """Set seaborn's theme for every figure of the project."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "savefig.dpi": 150})


def figure_folder(model_name: str, root: str | Path | None) -> Path | None:
    """Where a model's figures and claims go; nothing is made before something is written.

    Each model has a folder of its own: a hub id names its owner ("alice--base"), a local folder or .gguf file is told from
    others of the same name by a hash of where it lies, however it is given.

    Args:
        model_name: as `load_model` takes it.
        root: the folder for all models; None if nothing is to be written.
    """
    if root is None:
        return None
    path, base = (Path(os.path.expanduser(given)) for given in (model_name, root))  # noqa: PTH111 (an unknown ~user is no error)
    known = model_name.partition("@")[0] in EMBEDDED or model_name in PACKAGED
    is_local = not known and (path.is_absolute() or model_name[:1] in ".~" or model_name.endswith(".gguf") or path.exists())
    readable = path.resolve().name if is_local else model_name.replace("/", "--")
    safe = re.sub(r"[^A-Za-z0-9._@-]+", "-", readable).strip(".-")[:LONGEST_NAME]
    identity = str(path.resolve()) if is_local else model_name
    return base / (f"{safe}-{content_hash(identity)[:6]}".lstrip("-") if is_local or safe != readable else safe)


def save_figure(figure: Figure, folder: Path | None, name: str, data: pd.DataFrame) -> None:
    """Write NN_name.png, .pdf and the .csv it was drawn from, if there is a folder; the same data give the same bytes."""
    if folder is None:
        return
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        with written_whole(folder / f"{name}.{suffix}") as file:
            figure.savefig(file, bbox_inches="tight", metadata=metadata)
    with written_whole(folder / f"{name}.csv") as file:
        data.to_csv(file, index=False, float_format="%.6g")


def plot_losses(axes: Axes, losses: pd.DataFrame, references: dict[str, float]) -> None:
    """Training loss (columns step, loss; nats) with held-out cross-entropies as horizontal lines."""
    smooth = losses.loss.rolling(25, min_periods=1).mean()
    axes.plot(losses.step, losses.loss, color="#bbbbbb", linewidth=0.5)
    axes.plot(losses.step, smooth, color=COLOURS["trained"], label="training loss")
    for (name, value), style in zip(references.items(), ("-", "--", ":", "-."), strict=False):
        axes.axhline(value, color="black", linewidth=0.9, linestyle=style, label=f"{name} {value:.2f}")
    axes.set(xlabel="optimizer step", ylabel="nats per token", title="Pretraining, with held-out references")
    axes.legend(frameon=False)


def plot_checkpoints(axes: Axes, table: pd.DataFrame, references: dict[str, float]) -> None:
    """Bigram correlation and held-out cross-entropy (columns step, r, cross_entropy) over pretraining.

    Args:
        axes: where to draw.
        table: one row for each checkpoint.
        references: cross-entropies of the "bigram" and "unigram" table, nats.
    """
    blue, orange = COLOURS["trained"], COLOURS["random, trained embeddings"]
    axes.plot(table.step, table.r, "o-", color=blue)
    _pretraining_steps(axes, table.step)
    axes.set(ylim=(0, 1), title="How bigram-like the full model is")
    axes.set_ylabel("bigram correlation r", color=blue)
    twin = axes.twinx()
    twin.plot(table.step, table.cross_entropy, "s--", color=orange)
    for name in ("bigram", "unigram"):
        twin.axhline(references[name], color=orange, linewidth=0.8, linestyle=":")
        twin.text(table.step.max(), references[name], f"{name} table", color=orange, fontsize="small", ha="right", va="bottom")
    twin.set_ylabel("held-out cross-entropy (nats)", color=orange)
    twin.spines["right"].set_visible(True)


def _pretraining_steps(axes: Axes, steps: pd.Series) -> None:
    """A horizontal axis for checkpoints; a model without them has one place on it."""
    if steps.nunique() == 1:
        axes.set(xlim=(steps.iloc[0] - 1, steps.iloc[0] + 1))
        axes.set_xticks([steps.iloc[0]], ["the model as released"])
        return
    axes.set_xscale("symlog", linthresh=16)
    axes.set(xlabel="pretraining step", xlim=(-3, 1.4 * steps.max()))


def plot_frontier(axes: Axes, points: pd.DataFrame) -> None:
    """Bigram correlation against kept weights on a log axis.

    Args:
        axes: where to draw.
        points: columns model ("trained", "random, trained embeddings", "random"), case ("subnetwork", "random subnetwork",
            "full", "empty"), kept, total, r, r_low, r_high (bars of subnetworks), r_spread (bars of random ones).
    """
    total = int(points.total.iloc[0])
    for model, group in points[points.case == "subnetwork"].groupby("model", sort=False):
        group = group[group.kept > 0].sort_values("kept")
        bars = (group.r - group.r_low, group.r_high - group.r)
        axes.errorbar(group.kept, group.r, np.maximum(0, bars), fmt="o-", color=COLOURS[model], label=SOURCES[model])
    control = points[points.case == "random subnetwork"].sort_values("kept")
    axes.errorbar(
        control.kept,
        control.r,
        control.r_spread,
        fmt="x:",
        color="#b03a3a",
        label="random weights, same size per matrix",
    )
    full = points[(points.case == "full") & (points.model == "trained")].iloc[0]
    empty = points[(points.case == "empty") & (points.model == "trained")].iloc[0]
    axes.plot(full.kept, full.r, "D", color="black", label="full model")
    axes.axhline(empty.r, color="black", linewidth=0.8, linestyle="--", label="empty subnetwork")
    axes.axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
    axes.text(total, PAPER_R, "r = 0.95", ha="right", va="bottom", fontsize="small")
    axes.set(xscale="log", xlabel="kept weights", ylabel="bigram correlation r, held-out text")
    axes.xaxis.set_minor_formatter(NullFormatter())
    share = axes.secondary_xaxis("top", functions=(partial(np.multiply, 1 / total), partial(np.multiply, total)))
    share.set_xscale("log")
    share.xaxis.set_major_formatter(lambda value, _: f"{value:.3%}".rstrip("0%").rstrip(".") + " %")
    share.set_xlabel("share of maskable weights")
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def plot_density(axes: Axes, table: pd.DataFrame) -> None:
    """Density of a subnetwork by layer and component (a `Subnetwork.table()`), as a heat map; numbers where there is room."""
    components = list(dict.fromkeys(table.component))
    grid = table.pivot(index="layer", columns="component", values="density")[components]
    colours = {"cmap": "Blues", "cbar_kws": {"label": "% of weights kept"}}
    sns.heatmap(grid * 100, ax=axes, annot=len(grid) <= 12, fmt=".2g", **colours)
    axes.set_xticklabels([name.replace(" ", "\n") for name in components], rotation=0)
    axes.set(xlabel="", ylabel="layer", title="Where the kept weights are")
    axes.tick_params(left=False, bottom=False)
    axes.tick_params(axis="y", rotation=0)


def plot_history(loss_axes: Axes, gate_axes: Axes, history: pd.DataFrame) -> None:
    """How mask training went, one line for each lambda.

    Args:
        loss_axes: for the KL to the target (nats).
        gate_axes: for the share of gates that are not decided.
        history: `Subnetwork.history()` of several runs with a column sparsity_penalty.
    """
    runs = history.groupby("sparsity_penalty")
    for (penalty, run), colour in zip(runs, sns.color_palette("viridis", runs.ngroups), strict=True):
        loss_axes.plot(run.step, run.kl, color=colour, label=f"{penalty:g}")
        gate_axes.plot(run.step, run.undecided, color=colour)
    loss_axes.set(xlabel="optimizer step", ylabel="KL to the bigram table (nats)", ylim=(0, None), title="Loss")
    gate_axes.set(xlabel="optimizer step", ylabel="undecided share of the gates", yscale="log", title="Decisions")
    loss_axes.legend(frameon=False, fontsize="small", title="lambda", ncols=2)


def plot_layer_shares(axes: Axes, shares: pd.DataFrame) -> None:
    """Share of kept weights by layer and kind over the size of the subnetwork; parts with a small share are grey.

    Args:
        axes: where to draw.
        shares: columns kept (weights of the subnetwork), layer, kind ("attention" or "mlp"), share.
    """
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
    axes.set(xscale="log", ylim=(0, 1), xlabel="kept weights", ylabel="share of the kept weights")
    sizes = sorted(shares.kept.unique())
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize="small", ncols=2)


def plot_lorenz(axes: Axes, counts: dict[str, pd.Series]) -> None:
    """Lorenz curves: the share of kept weights in the fullest dimensions, for several subnetworks' counts per dimension."""
    for (name, kept), style in zip(counts.items(), ("-", "--", "-.", ":"), strict=False):
        share = np.concatenate([[0], np.sort(kept)[::-1].cumsum() / max(1, kept.sum())])
        axes.plot(np.linspace(0, 1, len(share)), share, style, label=f"{name} (Gini {gini(kept):.2f})")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.set(xlabel="share of MLP dimensions, fullest first", ylabel="share of kept weights", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small")


def plot_heads(axes: Axes, units: pd.DataFrame) -> None:
    """Density of attention heads, q, k, v and o together, by layer (from `Subnetwork.units()`), as a heat map."""
    heads = units[units.component.isin(ATTENTION_COMPONENTS)].groupby(["layer", "unit"])[["kept", "total"]].sum()
    grid = (heads.kept / heads.total).unstack() * 100
    scale = {"vmin": 0, "vmax": float(grid.to_numpy().max()) or 1.0, "cbar_kws": {"label": "% of weights kept"}}
    sns.heatmap(grid, ax=axes, cmap="Blues", annot=grid.size <= 64, fmt=".1g", **scale)
    axes.set(xlabel="head", ylabel="layer", title="Attention heads")
    axes.tick_params(left=False, bottom=False)
    axes.tick_params(axis="y", rotation=0)


def plot_ablation(axes: Axes, ablation: pd.DataFrame) -> None:
    """Held-out cross-entropy of each case of `ablate`, with the spread over random draws."""
    cases = ablation.iloc[::-1]
    colours = ["#b03a3a" if "random" in case else COLOURS["trained"] for case in cases.index]
    axes.barh(cases.index, cases.cross_entropy, xerr=cases.cross_entropy_spread, color=colours)
    for position, (value, r) in enumerate(zip(cases.cross_entropy, cases.r, strict=True)):
        axes.text(value + 0.1, position, f"{value:.2f}   r {r:.2f}", va="center", fontsize="small")
    axes.axvline(ablation.cross_entropy["full"], color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="held-out cross-entropy (nats per token)", xlim=(0, ablation.cross_entropy.max() * 1.25))


def plot_rises(axes: Axes, rises: pd.DataFrame) -> None:
    """Rise in surprisal (bits; columns case, bigram_surprisal, rise, error) of tokens grouped by their bigram surprisal."""
    for (case, line), colour in zip(rises.groupby("case", sort=False), (COLOURS["trained"], "#b03a3a"), strict=False):
        axes.errorbar(line.bigram_surprisal, line.rise, line.error, fmt="o-", color=colour, label=case)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="bigram surprisal of the token (bits; right: never seen)", ylabel="rise in the model's surprisal (bits)")
    axes.legend(frameon=False)


def plot_similarities(axes: Sequence[Axes], similarities: dict[str, np.ndarray]) -> None:
    """Layer-by-layer covariance similarity of several models, one heat map each on a common scale."""
    for place, (name, grid) in zip(axes, similarities.items(), strict=True):
        sns.heatmap(grid, ax=place, vmin=0, vmax=1, cmap="magma", square=True, annot=len(grid) <= 8, fmt=".2f", cbar=False)
        place.set(title=name, xlabel="layer boundary (0: embeddings)")
        place.tick_params(left=False, bottom=False)


def plot_turn(axes: Sequence[Axes], report: pd.DataFrame) -> None:
    """The first-layer turn: what linear lenses read at each layer boundary, one line for each model.

    Args:
        axes: four: for the next token (r), the current token (recall@1 by dot product, and pale by cosine) through a map and
            directly, and the rotation.
        report: `lens_report` of several models with a column model.
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
        place.set_xticks(sorted(report.layer.unique()))
    axes[0].legend(frameon=False, fontsize="small")


def plot_overlap(axes: Axes, pairs: pd.DataFrame) -> None:
    """Shared weights of pairs of subnetworks against chance.

    Args:
        axes: where to draw.
        pairs: total rows of `overlap_test` with a column pair (its name).
    """
    smaller = pairs[["kept_a", "kept_b"]].min(axis=1)
    axes.bar(pairs.pair, pairs.contained, color=COLOURS["trained"], width=0.5, label="shared")
    for null, marker, colour in (("flat", "_", "#b03a3a"), ("rows", "_", "#d98a2b")):
        name = {"flat": "chance: same number in each matrix", "rows": "chance: rows shuffled"}[null]
        axes.plot(pairs.pair, pairs[f"{null}_expected"] / smaller, marker, color=colour, markersize=28, mew=2.5, label=name)
    axes.set(xlim=(-0.8, len(pairs) - 0.2), ylim=(0, 1), ylabel="share of the smaller subnetwork's weights")
    axes.legend(frameon=False, fontsize="small")


def plot_overlap_by_component(axes: Axes, overlap: pd.DataFrame) -> None:
    """How many times more weights than by chance (flat) two subnetworks share, by layer and component, as a heat map."""
    parts = overlap[overlap.layer.notna()].assign(times=lambda row: row.overlap / row.flat_expected)
    grid = parts.pivot(index="layer", columns="component", values="times")[list(dict.fromkeys(parts.component))]
    sns.heatmap(grid, ax=axes, cmap="Blues", vmin=0, annot=True, fmt=".0f", cbar_kws={"label": "times the chance overlap"})
    axes.set(xlabel="", ylabel="layer", title="Where they agree")
    axes.tick_params(left=False, bottom=False)


def plot_agreement(axes: Axes, agreement: pd.Series) -> None:
    """Jaccard similarity of pairs of subnetworks, one named bar each."""
    axes.barh(agreement.index[::-1], agreement[::-1], color=COLOURS["trained"])
    for position, value in enumerate(agreement[::-1]):
        axes.text(value + 0.01, position, f"{value:.2f}", va="center", fontsize="small")
    axes.set(xlim=(0, 1), xlabel="Jaccard similarity of the kept weights", title="How stable is a mask?")


def plot_through_pretraining(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """Subnetworks of pretraining checkpoints: r, share in the first MLP, and overlap with the final subnetwork.

    Args:
        axes: three.
        points: what `through_pretraining` gives.
    """
    final = points.step.max()
    for (penalty, line), colour in zip(points.groupby("sparsity_penalty"), ("#6fa8dc", COLOURS["trained"]), strict=False):
        bars = np.maximum(0, (line.r - line.r_low, line.r_high - line.r))
        name = f"subnetwork, lambda {penalty:g}"
        axes[0].errorbar(line.step, line.r, bars, fmt="o-", color=colour, label=name)
        axes[1].plot(line.step, line.first_mlp_share, "o-", color=colour, label=name)
        earlier = line[line.step < final]
        axes[2].plot(earlier.step, earlier.times_chance, "o-", color=colour, label=name)
    axes[0].plot(line.step, line.full_r, "s--", color="#d98a2b", label="full model")
    axes[0].axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
    axes[2].axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes[0].set(ylabel="bigram correlation r", ylim=(0, 1), title="How bigram-like")
    axes[1].set(ylabel="share of the kept weights", ylim=(0, 1), title="In the first layer's MLP")
    axes[2].set(ylabel="overlap, times chance", ylim=(0, None), title="Shared with the final subnetwork")
    for place in axes:
        _pretraining_steps(place, points.step)
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")


def plot_gains(axes: Axes, gains: pd.DataFrame) -> None:
    """What each head and MLP buys (`gains` of one behaviour), by layer; a dot where the interval excludes zero."""
    places = gains.part.str.extract(r"^(head|mlp) (\d+)(?:\.(\d+))?$").dropna(subset=[0])
    parts = gains.loc[places.index].assign(layer=places[1].astype(int), unit=places[2].fillna("mlp"))
    order = [*sorted(set(parts.unit) - {"mlp"}, key=int), "mlp"]
    grid, sure = (
        parts.assign(sure=np.sign(parts.low) == np.sign(parts.high)).pivot(index="layer", columns="unit", values=value)[order]
        for value in ("gain", "sure")
    )
    largest = float(np.quantile(grid.abs(), 0.95)) or 1.0
    sns.heatmap(grid, ax=axes, cmap="RdBu", vmin=-largest, vmax=largest, cbar_kws={"label": "gain (nats per token)"})
    for row, column in zip(*np.nonzero(sure.to_numpy()), strict=True):
        axes.plot(column + 0.5, row + 0.5, ".", color="black", markersize=4)
    axes.set(xlabel="head", ylabel="layer")
    axes.tick_params(left=False, bottom=False)


def plot_build_up(axes: Sequence[Axes], paths: pd.DataFrame, full: float) -> None:
    """Cross-entropy over greedily added heads and MLPs, with the full model's.

    Args:
        axes: two: over the number of added parts, and over kept weights.
        paths: columns base, step, kept, cross_entropy, low, high.
        full: cross-entropy of the full model, nats.
    """
    highest = 0.0
    for (base, path), colour in zip(paths.groupby("base", sort=False), (COLOURS["trained"], "#b03a3a"), strict=False):
        label = f"from the {base} subnetwork ({path.cross_entropy.iloc[0]:.2f} before)"
        for place, x in zip(axes, (path.step, path.kept), strict=True):
            place.plot(x, path.cross_entropy, "o-", color=colour, markersize=4, label=label)
            place.fill_between(x, path.low, path.high, color=colour, alpha=0.2, linewidth=0)
        highest = max(highest, path.cross_entropy.iloc[1:].max())
    for place, label in zip(axes, ("heads and MLPs added", "kept weights"), strict=True):
        place.axhline(full, color="black", linewidth=0.8, linestyle="--", label="full model")
        place.set(xlabel=label, ylabel="cross-entropy (nats per token)", ylim=(full - 0.2, highest + 0.3))
    axes[1].set_xscale("log")
    axes[0].legend(frameon=False, fontsize="small")


def plot_edits(axes: Axes, edits: pd.DataFrame) -> None:
    """Bigram correlation of edited subnetworks (columns edit, kept, r, r_low, r_high), one named bar each."""
    rows = edits.iloc[::-1]
    axes.barh(rows.edit, rows.r, xerr=np.maximum(0, (rows.r - rows.r_low, rows.r_high - rows.r)), color=COLOURS["trained"])
    for position, (r, high, kept) in enumerate(zip(rows.r, rows.r_high, rows.kept, strict=True)):
        axes.text(max(r, high) + 0.02, position, f"{r:.2f}   {kept:,} weights", va="center", fontsize="small")
    axes.set(xlim=(0, 1.35), xlabel="bigram correlation r")
    axes.set_xticks(np.linspace(0, 1, 6))


def plot_models(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """Bigram correlation of several models' subnetworks: over kept weights, and over their share of the maskable ones.

    Args:
        axes: two.
        points: `frontier` of several models with a column model.
    """
    found = points[points.case == "subnetwork"].sort_values("kept")
    for model, line in found.groupby("model", sort=False):
        bars = np.maximum(0, (line.r - line.r_low, line.r_high - line.r))
        for place, size in zip(axes, (line.kept, line.kept / line.total), strict=True):
            place.errorbar(size, line.r, bars, fmt="o-", label=model)
    for place, label in zip(axes, ("kept weights", "share of the maskable weights"), strict=True):
        place.axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
        place.set(xscale="log", xlabel=label, ylabel="bigram correlation r, held-out text")
        place.xaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")
