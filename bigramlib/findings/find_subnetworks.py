"""Notebook 02: find bigram subnetworks and their controls, and measure how well they predict at each size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from bigramlib.analysis.controls import best_within, smallest_reaching
from bigramlib.findings.claims import Claim, Verdict, check, untestable
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, GREY, ORANGE, PAPER_R, RED, correlation_axis
from bigramlib.subnetworks.subnetwork import Subnetwork

Subnetworks = Mapping[float, Subnetwork]
"""Subnetworks of one model by sparsity penalty."""
SOURCES = {
    "trained": "subnetworks of the trained model",
    "random, trained embeddings": "… of random weights, trained embeddings",
    "random": "… of random weights",
}
COLOURS = {"trained": BLUE, "random, trained embeddings": ORANGE, "random": GREY}
CLAIMS = {
    "exists": Claim(
        "A subnetwork predicts like the bigram table with few weights (r > 0.95, under 5 % of maskable weights)",
        "r > 0.95 with about 10M weights",
        "r {r:.3f} ({low:.3f} to {high:.3f}) with {density:.2%} kept",
        lambda r, density, **_: r > 0.95 and density < 0.05,
    ),
    "exists, tiny": Claim(
        "A subnetwork with r > 0.94 keeps under 1 % of maskable weights",
        "critical even when under 0.2 % of all weights",
        "r {r:.3f} ({low:.3f} to {high:.3f}) with {density:.2%} kept",
        lambda r, density, **_: r > 0.94 and density < 0.01,
    ),
    "random fails": Claim(
        "A random subnetwork of the same size in each matrix does not predict like the bigram table",
        "control far below",
        "r {random:.3f} (draws +- {spread:.3f}) against {r:.3f}",
        lambda r, random, spread: random + spread < r - 0.1,
    ),
    "empty fails": Claim(
        "Neither do embeddings and unembedding alone (the empty subnetwork)",
        "control far below",
        "r {empty:.3f} against {r:.3f}",
        lambda r, empty: empty < r - 0.1,
    ),
    "training matters": Claim(
        "In randomly initialised models no subnetwork found, of whatever size, gets as far",
        "control below",
        "best r {random:.3f}; with trained embeddings {embeddings:.3f}; against {r:.3f}",
        lambda r, random, embeddings: max(random, embeddings) < r - 0.005,
    ),
}


def find_in_controls(study: Study, penalties: Sequence[float], seed: int = 0) -> dict[str, tuple[Study, Subnetworks]]:
    """Search randomly initialised models of the same architecture in the same way, with the trained embeddings and without.

    Returns:
        By kind of control, "random, trained embeddings" and "random": the control and its subnetworks. Empty if there are no
        penalties.
    """
    found: dict[str, tuple[Study, Subnetworks]] = {}
    for name, keep_embeddings in (("random, trained embeddings", True), ("random", False)) if penalties else ():
        control = study.randomly_initialized(seed, keep_embeddings)
        found[name] = control, {penalty: control.find(penalty, seed) for penalty in penalties}
    return found


def histories(subnetworks: Subnetworks) -> pd.DataFrame:
    """How mask training went: `Subnetwork.history()` of all subnetworks, with a column sparsity_penalty."""
    return pd.concat([found.history().assign(sparsity_penalty=penalty) for penalty, found in subnetworks.items()])


def provenances(subnetworks: Subnetworks) -> pd.DataFrame:
    """The provenance of each subnetwork, without its history, in one row; settings are columns "config.<name>"."""
    rows = pd.json_normalize([found.provenance | {"kept": found.kept} for found in subnetworks.values()])
    return rows.drop(columns="history")


def decided(subnetworks: Subnetworks) -> pd.Series:
    """Whether the gates of each search were decided before its last step: "yes" or "no", by sparsity penalty."""
    answers = {penalty: "yes" if found.provenance["converged"] else "no" for penalty, found in subnetworks.items()}
    return pd.Series(answers, name="gates decided")


def frontiers(
    study: Study, subnetworks: Subnetworks, controls: Mapping[str, tuple[Study, Subnetworks]], draws: int
) -> pd.DataFrame:
    """What `frontier` returns for the trained model and the controls, with a column model: "trained" or the kind of control.

    Args:
        study: the trained model, its text and its bigram table.
        subnetworks: those of the trained model.
        controls: what `find_in_controls` returns.
        draws: how many random subnetworks to compare with each subnetwork of the trained model.
    """
    points = [study.frontier(subnetworks, draws=draws).assign(model="trained")]
    points += [control.frontier(found).assign(model=name) for name, (control, found) in controls.items()]
    return pd.concat(points, ignore_index=True)


def judge(folder: Path | None, points: pd.DataFrame) -> list[Verdict]:
    """The claims of notebook 02, judged by what `frontiers` returns."""
    trained = points[points.model == "trained"]
    best, tiny = smallest_reaching(trained, PAPER_R), best_within(trained, 0.01)
    random = trained[trained.case == "random subnetwork"].set_index("sparsity_penalty").loc[best.sparsity_penalty]
    empty = trained.set_index("case").r["empty"]
    verdicts = [check(folder, CLAIMS["exists"], r=best.r, low=best.r_low, high=best.r_high, density=best.density)]
    if tiny.isna().all():
        reason = "not reached: no subnetwork trained here keeps under 1 %"
        verdicts.append(untestable(folder, CLAIMS["exists, tiny"], reason))
    else:
        measured = {"r": tiny.r, "low": tiny.r_low, "high": tiny.r_high, "density": tiny.density}
        verdicts.append(check(folder, CLAIMS["exists, tiny"], **measured))
    verdicts.append(check(folder, CLAIMS["random fails"], r=best.r, random=random.r, spread=random.r_spread))
    verdicts.append(check(folder, CLAIMS["empty fails"], r=best.r, empty=empty))
    controls = points[(points.model != "trained") & (points.case == "subnetwork")].groupby("model").r.max()
    if controls.empty:
        verdicts.append(untestable(folder, CLAIMS["training matters"], "no control was trained"))
    else:
        reached = {"random": controls["random"], "embeddings": controls["random, trained embeddings"]}
        verdicts.append(check(folder, CLAIMS["training matters"], r=best.r, **reached))
    return verdicts


def plot_frontier(axes: Axes, points: pd.DataFrame) -> None:
    """Draw the bigram correlation, stretched towards 1, over kept weights, on a log axis.

    Args:
        axes: where to draw.
        points: columns model ("trained", "random, trained embeddings", "random"), case ("subnetwork", "random subnetwork",
            "full", "empty"), kept, total, r, r_low, r_high (bars of subnetworks), r_spread (bars of random ones).
    """
    total = int(points.total.iloc[0])
    for model, group in points[points.case == "subnetwork"].groupby("model", sort=False):
        group = group[group.kept > 0].sort_values("kept")
        bars = (group.r - group.r_low, group.r_high - group.r)
        line = "o-" if len(group) > 1 else "o"
        axes.errorbar(group.kept, group.r, np.maximum(0, bars), fmt=line, color=COLOURS[model], label=SOURCES[model])
    control = points[points.case == "random subnetwork"].sort_values("kept")
    if len(control):
        label = "random weights, same size per matrix"
        axes.errorbar(control.kept, control.r, control.r_spread, fmt="x:" if len(control) > 1 else "x", color=RED, label=label)
    full = points[(points.case == "full") & (points.model == "trained")].iloc[0]
    empty = points[(points.case == "empty") & (points.model == "trained")].iloc[0]
    axes.plot(full.kept, full.r, "D", color="black", label="full model")
    axes.axhline(empty.r, color="black", linewidth=0.8, linestyle="--", label="empty subnetwork")
    axes.axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
    axes.text(total, PAPER_R, "r = 0.95", ha="right", va="bottom", fontsize="small")
    axes.set(xscale="log", xlabel="kept weights", ylabel="bigram correlation r, held-out text")
    correlation_axis(axes)
    axes.xaxis.set_minor_formatter(NullFormatter())
    share = axes.secondary_xaxis("top", functions=(partial(np.multiply, 1 / total), partial(np.multiply, total)))
    share.set_xscale("log")
    share.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    share.set_xlabel("share of maskable weights")
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def plot_history(loss_axes: Axes, gate_axes: Axes, history: pd.DataFrame) -> None:
    """Draw how mask training went, one line for each lambda.

    Args:
        loss_axes: for the KL divergence from the target (nats per token).
        gate_axes: for the share of gates that are not decided.
        history: what `histories` returns.
    """
    runs = history.groupby("sparsity_penalty")
    for (penalty, run), colour in zip(runs, sns.color_palette("viridis", runs.ngroups), strict=True):
        loss_axes.plot(run.step, run.kl, color=colour, label=f"{penalty:g}")
        gate_axes.plot(run.step, run.undecided, color=colour)
    loss_axes.set(xlabel="optimizer step", ylabel="KL to the bigram table (nats)", ylim=(0, None), title="Loss")
    gate_axes.set(xlabel="optimizer step", ylabel="undecided share of the gates", yscale="log", title="Decisions")
    loss_axes.legend(frameon=False, fontsize="small", title="lambda", ncols=2)
