"""Data to Axes in one house style, and figures saved with the data they were drawn from."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAPER_R = 0.95
COLOURS = {"trained": "#1f5fa8", "random, trained embeddings": "#d98a2b", "random": "#8a8a8a"}


def use_house_style() -> None:
    """Set seaborn's theme for every figure of the project."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "savefig.dpi": 150})


def figure_folder(model_name: str, root: str | Path = "../figures") -> Path:
    """The folder for a model's figures, made if missing."""
    folder = Path(root) / Path(model_name).name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_figure(figure: Figure, folder: Path, name: str, data: pd.DataFrame) -> None:
    """Write NN_name.png, .pdf and the .csv it was drawn from; the same data give the same bytes."""
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
    figure.savefig(folder / f"{name}.pdf", bbox_inches="tight", metadata={"CreationDate": None, "Producer": None})


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
    """Bigram correlation and held-out cross-entropy (columns step, r, cross_entropy) over pretraining; step 0 is drawn at 1.

    Args:
        axes: where to draw.
        table: one row for each checkpoint.
        references: cross-entropies of the "bigram" and "unigram" table, nats.
    """
    blue, orange = COLOURS["trained"], COLOURS["random, trained embeddings"]
    steps = table.step.clip(lower=1)
    axes.plot(steps, table.r, "o-", color=blue)
    axes.set(
        xscale="log",
        xlabel="pretraining step (log; 0 drawn at 1)",
        ylim=(0, 1),
        title="How bigram-like the full model is",
    )
    axes.set_ylabel("bigram correlation r", color=blue)
    twin = axes.twinx()
    twin.plot(steps, table.cross_entropy, "s--", color=orange)
    for name in ("bigram", "unigram"):
        twin.axhline(references[name], color=orange, linewidth=0.8, linestyle=":")
        twin.text(1, references[name], f"{name} table", color=orange, fontsize="small", va="bottom")
    twin.set_ylabel("held-out cross-entropy (nats)", color=orange)
    twin.spines["right"].set_visible(True)


def plot_frontier(axes: Axes, points: pd.DataFrame) -> None:
    """Bigram correlation against kept weights on a log axis.

    Args:
        axes: where to draw.
        points: columns model ("trained", "random, trained embeddings", "random"), case ("subnetwork", "random subnetwork",
            "full", "empty"), kept, total, r, r_spread.
    """
    total = int(points.total.iloc[0])
    for model, group in points[points.case == "subnetwork"].groupby("model", sort=False):
        group = group[group.kept > 0].sort_values("kept")
        axes.plot(group.kept, group.r, "o-", color=COLOURS[model], label=f"subnetworks, {model} model")
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
    share = axes.secondary_xaxis("top", functions=(lambda kept: kept / total, lambda part: part * total))
    share.set_xscale("log")
    share.xaxis.set_major_formatter(lambda value, _: f"{value:.3%}".rstrip("0%").rstrip(".") + " %")
    share.set_xlabel("share of maskable weights")
    axes.legend(frameon=False, fontsize="small", loc="lower right")


def plot_density(axes: Axes, table: pd.DataFrame) -> None:
    """Density of a subnetwork by layer and component (a `Subnetwork.table()`), as a heat map."""
    components = list(dict.fromkeys(table.component))
    grid = table.pivot(index="layer", columns="component", values="density")[components]
    sns.heatmap(grid * 100, ax=axes, cmap="Blues", annot=True, fmt=".2g", cbar_kws={"label": "% of weights kept"})
    axes.set(xlabel="", ylabel="layer", title="Where the kept weights are")
    axes.tick_params(left=False, bottom=False)


def plot_history(axes: Axes, history: pd.DataFrame) -> None:
    """KL to the target (nats) and share of undecided gates during mask training, one pair of lines for each lambda.

    Args:
        axes: where to draw.
        history: `Subnetwork.history()` of several runs with a column sparsity_penalty.
    """
    runs = history.groupby("sparsity_penalty")
    for (penalty, run), colour in zip(runs, sns.color_palette("viridis", runs.ngroups), strict=True):
        axes.plot(run.step, run.kl, color=colour, label=f"{penalty:g}")
        axes.plot(run.step, run.undecided, color=colour, linestyle=":", linewidth=1)
    axes.set(xlabel="optimizer step", ylabel="KL (nats); dotted: undecided share", yscale="log", title="Mask training")
    axes.legend(frameon=False, fontsize="small", title="lambda")
