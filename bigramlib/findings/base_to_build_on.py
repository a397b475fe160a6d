"""Notebook 08: what is left when parts of a bigram subnetwork are removed, and what heads and MLPs improve when added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bigramlib.analysis.behaviours import Behaviour, inexplicable_tokens, repeated_sequences, running_text, token_losses
from bigramlib.analysis.circuits import best_head, build_up, follow, passes
from bigramlib.findings.claims import Claim, Verdict, check, untestable
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, RED
from bigramlib.models.language_model import LanguageModel
from bigramlib.subnetworks.places import first_mlp_dimensions
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.text.corpus import SEQUENCE_LENGTH

FULL, BIGRAM, EMPTY = "full model", "bigram subnetwork", "empty"
LEARNT = 0.5
"""A full model has induction if the second copy of a random sequence is easier than the first by more than so many nats."""
CLAIMS = {
    "induction": Claim(
        "A single head, added to the bigram subnetwork, buys induction on repeated sequences",
        "heads can be added to test sufficiency",
        "{part} buys {gain:.2f} nats ({low:.2f} to {high:.2f}) of the full model's {full:.2f}",
        lambda gain, full, **_: gain > 0.1 * full,
    ),
    "inexplicable": Claim(
        "The best single head, added to the bigram subnetwork, helps with tokens that bigrams do not explain",
        "heads can be added to test sufficiency",
        "{part} buys {gain:.2f} nats ({low:.2f} to {high:.2f}) of the full model's {full:.2f}",
        lambda low, **_: low > 0,
        judged_by_interval=True,
    ),
    "head start": Claim(
        "Whole heads and MLPs, added greedily, need far more weights to predict text as well as the bigram subnetwork does",
        "a base to build on",
        "{times:.0f} times as many weights ({parts:g} parts) for the bigram subnetwork's {bigram:.2f} nats",
        lambda times, **_: times > 5,
    ),
    "adds up": Claim(
        "Whole heads and MLPs, added greedily to the bigram subnetwork, bring it towards the full model from the first on",
        "a base to build on",
        "{bigram:.2f} nats before, {worst:.2f} at worst, after {parts:g} parts; better than before from {after:g} parts on; "
        "full model {full:.2f}",
        lambda after, **_: after == 1,
    ),
}


def edits_of(study: Study, subnetwork: Subnetwork) -> dict[str, Subnetwork]:
    """The bigram subnetwork, and what is left of it without a layer, the first MLP or half of its dimensions, by name."""
    model = study.model
    first_layer, first_mlp = Subnetwork.layer(model, 0), Subnetwork.mlp(model, 0)
    fullest = _fullest_half(model, first_mlp_dimensions(subnetwork.units()))
    layers = range(model.architecture.layers)
    return {
        BIGRAM: subnetwork,
        **{f"without layer {layer}": subnetwork - Subnetwork.layer(model, layer) for layer in layers},
        "first layer only": subnetwork & first_layer,
        "first MLP only": subnetwork & first_mlp,
        "without the first MLP": subnetwork - first_mlp,
        "without half of its dimensions, the emptiest": subnetwork - (first_mlp - fullest),
        "without the other half": subnetwork - fullest,
        EMPTY: Subnetwork.empty(model),
    }


def _fullest_half(model: LanguageModel, counts: pd.Series) -> Subnetwork:
    """The half of the first MLP's dimensions, of whichever expert, that keep most (counted by `first_mlp_dimensions`)."""
    fullest = counts.sort_values(ascending=False, kind="stable")[: len(counts) // 2].reset_index()
    experts = fullest.expert if "expert" in fullest else np.full(len(fullest), np.nan)
    parts = [
        Subnetwork.mlp(model, 0, dimensions.unit.tolist(), None if pd.isna(expert) else int(expert))
        for expert, dimensions in fullest.groupby(experts, dropna=False)
    ]
    return reduce(or_, parts)


def behaviours_of(study: Study, tokens: int) -> dict[str, Behaviour]:
    """Running text, the bigram-inexplicable tokens of it, and repeated sequences (induction), by these three names.

    Args:
        study: the model and its text.
        tokens: how many tokens each is made from.
    """
    return {
        "text": running_text(study.held_out, tokens),
        "inexplicable": inexplicable_tokens(study.model, study.held_out, study.table, max_tokens=tokens),
        "induction": repeated_sequences(study.held_out, tokens // SEQUENCE_LENGTH),
    }


def losses_of(study: Study, subnetwork: Subnetwork, behaviours: Sequence[Behaviour]) -> pd.DataFrame:
    """The mean loss (nats per token) on each behaviour (rows) of the full model, the subnetwork and the empty one (columns)."""
    model = study.model
    parts = {FULL: Subnetwork.full(model), BIGRAM: subnetwork, EMPTY: Subnetwork.empty(model)}
    losses = {
        behaviour.name: {name: token_losses(model, part, behaviour).mean() for name, part in parts.items()}
        for behaviour in behaviours
    }
    return pd.DataFrame(losses).T


def candidates(bought: pd.DataFrame, heads: int) -> list[str]:
    """The parts to try in `build_ups`: the heads with the largest gains when added alone, and all MLPs.

    Args:
        bought: what `gains` returns.
        heads: how many heads at most.
    """
    ranked = bought[bought.part != FULL].groupby("part").gain.max().sort_values(ascending=False, kind="stable")
    is_head = ranked.index.str.startswith("head")
    return [*ranked.index[is_head][:heads], *ranked.index[~is_head]]


def build_ups(
    study: Study, subnetwork: Subnetwork, parts: Sequence[str], text: Behaviour, *, steps: int, chosen_on: int
) -> pd.DataFrame:
    """Add whole heads and MLPs one after another to the bigram subnetwork and to the empty one; measure both on held-out text.

    Args:
        study: the model and its text.
        subnetwork: the bigram subnetwork.
        parts: what may be added.
        text: the held-out text.
        steps: how many parts to add.
        chosen_on: how many tokens of training text to use when choosing the next part.

    Returns:
        What `follow` returns, with a column base: "bigram" or "empty".
    """
    training = running_text(study.train, chosen_on)
    found = []
    for name, base in {"bigram": subnetwork, EMPTY: Subnetwork.empty(study.model)}.items():
        path = build_up(study.model, base, training, parts=parts, steps=steps)
        found.append(follow(study.model, base, path, [text]).assign(base=name))
    return pd.concat(found).reset_index(drop=True)


def judge(
    folder: Path | None,
    subnetwork: Subnetwork,
    bought: pd.DataFrame,
    losses: pd.DataFrame,
    judged: pd.DataFrame,
    behaviours: Mapping[str, Behaviour],
) -> list[Verdict]:
    """The claims of notebook 08.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        subnetwork: the bigram subnetwork.
        bought: what `gains` returns.
        losses: what `losses_of` returns.
        judged: what `build_ups` returns.
        behaviours: those of `behaviours_of`.
    """
    induction, inexplicable = behaviours["induction"], behaviours["inexplicable"]
    verdicts = []
    learnt = -losses.loc[induction.name, FULL]
    if learnt > LEARNT:
        verdicts.append(check(folder, CLAIMS["induction"], **best_head(bought, induction)))
    else:
        reason = f"the full model has no induction: a second copy of random tokens is {learnt:.2f} nats easier than the first"
        verdicts.append(untestable(folder, CLAIMS["induction"], reason))
    verdicts.append(check(folder, CLAIMS["inexplicable"], **best_head(bought, inexplicable)))
    before, after = losses.loc[behaviours["text"].name, [BIGRAM, FULL]]
    added, from_empty = (judged[(judged.base == name) & (judged.step > 0)] for name in ("bigram", EMPTY))
    level, worst = passes(from_empty, before), added.loc[added.cross_entropy.idxmax()]
    if level.isna().any():
        reason = f"not reached by adding {len(from_empty)} parts to nothing"
        verdicts.append(untestable(folder, CLAIMS["head start"], reason))
    else:
        start = {"times": level.kept / subnetwork.kept, "parts": level.step, "bigram": before}
        verdicts.append(check(folder, CLAIMS["head start"], **start))
    path = {"worst": worst.cross_entropy, "parts": worst.step, "after": passes(added, before).step}
    return [*verdicts, check(folder, CLAIMS["adds up"], bigram=before, full=after, **path)]


def plot_gains(axes: Axes, gains: pd.DataFrame) -> None:
    """Draw the `gains` of one behaviour as a heat map, by layer and head; a dot where the interval does not include zero."""
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


def plot_gains_by_behaviour(axes: Sequence[Axes], bought: pd.DataFrame) -> None:
    """Draw `plot_gains` for each behaviour, side by side."""
    for place, (name, table) in zip(axes, bought.groupby("behaviour", sort=False), strict=True):
        plot_gains(place, table.reset_index(drop=True))
        place.set_title(name)


def plot_build_up(axes: Sequence[Axes], paths: pd.DataFrame, full: float) -> None:
    """Draw the cross-entropy over added heads and MLPs, with the full model's.

    Args:
        axes: two: over the number of added parts, and over kept weights.
        paths: columns base, step, kept, cross_entropy, low, high.
        full: cross-entropy of the full model, nats.
    """
    highest = 0.0
    for (base, path), colour in zip(paths.groupby("base", sort=False), (BLUE, RED), strict=False):
        label = f"from the {base} subnetwork ({path.cross_entropy.iloc[0]:.2f} before)"
        shown = path[path.kept > 0]  # without weights there is no place on the axes: a line from there would be false
        for place, x in zip(axes, (shown.step, shown.kept), strict=True):
            place.plot(x, shown.cross_entropy, "o-", color=colour, markersize=4, label=label)
            place.fill_between(x, shown.low, shown.high, color=colour, alpha=0.2, linewidth=0)
        highest = max(highest, path.cross_entropy.iloc[1:].max())
    for place, label in zip(axes, ("heads and MLPs added", "kept weights"), strict=True):
        place.axhline(full, color="black", linewidth=0.8, linestyle="--", label="full model")
        place.set(xlabel=label, ylabel="cross-entropy (nats per token)", ylim=(full - 0.2, highest + 0.3))
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set_xscale("log")
    axes[0].legend(frameon=False, fontsize="small")


def plot_edits(axes: Axes, edits: pd.DataFrame) -> None:
    """Draw the bigram correlation of edited subnetworks (columns edit, kept, r, r_low, r_high), one bar each."""
    rows = edits.iloc[::-1]
    axes.barh(rows.edit, rows.r, xerr=np.maximum(0, (rows.r - rows.r_low, rows.r_high - rows.r)), color=BLUE)
    for position, (r, high, kept) in enumerate(zip(rows.r, rows.r_high, rows.kept, strict=True)):
        axes.text(max(0, r, high) + 0.02, position, f"{r:.2f}   {kept:,} weights", va="center", fontsize="small")
    axes.set(xlim=(min(0, rows.r.min(), rows.r_low.min()), 1.35), xlabel="bigram correlation r")
    axes.set_xticks(np.linspace(0, 1, 6))
