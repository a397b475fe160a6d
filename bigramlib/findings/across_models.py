"""Notebook 10: all models for which the store holds bigram subnetworks, measured in the same way."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from bigramlib.analysis.controls import smallest_reaching
from bigramlib.findings.study import Study
from bigramlib.findings.style import PAPER_R, correlation_axis
from bigramlib.subnetworks.provenance import origins
from bigramlib.subnetworks.stored import stored_provenances
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.text.sources import check_source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Surveyed:
    """A model with its bigram subnetworks in the store.

    Attributes:
        study: the model, its text and its bigram table.
        subnetworks: by sparsity penalty (see `stored_subnetworks`).
    """

    study: Study
    subnetworks: dict[float, Subnetwork]

    def points(self, max_tokens: int) -> pd.DataFrame:
        """What `frontier` returns for the subnetworks, with a column model."""
        return self.study.frontier(self.subnetworks, max_tokens=max_tokens).assign(model=self.study.model.name)

    def summary(self, points: pd.DataFrame, max_tokens: int) -> dict[str, object]:
        """One row about the smallest subnetwork with r > 0.95, or about the one with the highest r if there is none.

        Args:
            points: what `points` returns.
            max_tokens: held-out tokens for the cost of removing it; the moments take four times as many tokens of training
                text, the lenses a quarter as many held-out tokens.

        Returns:
            By column name: model, sizes (numbers of weights), r, "in first MLP" (share of the kept weights), the rise in
            cross-entropy without the subnetwork and without random weights (nats per token), and the layer across which the
            r of the lenses rises most, counted from 1.
        """
        study, best = self.study, smallest_reaching(points, PAPER_R)
        subnetwork = self.subnetworks[best.sparsity_penalty]
        damage = study.ablate(subnetwork, draws=1, max_tokens=max_tokens)
        lens = study.lens_report(study.moments(max_tokens=4 * max_tokens), max_tokens=max_tokens // 4, batch_size=4)
        rises = lens.set_index("layer").r.diff().iloc[1:]
        return {
            "model": study.model.name,
            "parameters": sum(parameter.numel() for parameter in study.model.hf.parameters()),
            "maskable": subnetwork.total,
            "full r": float(points.set_index("case").r["full"]),
            "kept": subnetwork.kept,
            "share kept": subnetwork.density,
            "r": best.r,
            "in first MLP": best.first_mlp_share,
            "without it, nats": float(damage.rise["full - subnetwork"]),
            "without random, nats": float(damage.rise["full - random"]),
            "turn at layer": int(rises.idxmax()) if rises.notna().any() else np.nan,
        }


def surveyed_names(wanted: Sequence[str] = ()) -> dict[str, str]:
    """Names of the models that have subnetworks in the store, with the source of their text.

    Randomly initialised controls are left out, models tuned here, which have no name to load them by, and checkpoints of a
    model that is itself in the store. Subnetworks whose text cannot be read again are left out with a warning.

    Args:
        wanted: names of models; all models if it is empty.

    Raises:
        ValueError: there are no such models, or one of the wanted models has no subnetwork in the store.
    """
    rows = [facts | origins(facts) for facts in stored_provenances().values()]
    rows = [facts for facts in rows if facts["model_origin"] not in ("random", "tuned")]
    names: dict[str, str] = {}
    for name, source in sorted({(facts["model"], facts["corpus_source"]) for facts in rows}):
        try:
            check_source(source)
            names[name] = source
        except (ValueError, OSError) as error:
            log.warning("Subnetworks of %r are left out of the survey: %s", name, error)
    earlier = {facts["model"] for facts in rows if facts["model_revision"] and facts["model_source"] in names}
    names = {name: source for name, source in sorted(names.items()) if name not in earlier}
    lacking = sorted(set(wanted) - set(names))
    if lacking or not names:
        what = f"of {lacking[0]!r}, only of {', '.join(names) or 'no model'}" if lacking else "of any model"
        raise ValueError(f"The store holds no bigram subnetwork {what}; run notebook 02 on it first.")
    return {name: source for name, source in names.items() if not wanted or name in wanted}


def survey(name: str, source: str, device: str = "cpu", text_column: str = "text") -> Surveyed:
    """Load a model and all its subnetworks in the store whose target was the bigram table of this text.

    Raises:
        ValueError: there are no such subnetworks.
    """
    study = Study(name, source, device, text_column=text_column)
    found = study.stored()
    if not found:
        raise ValueError(f"The store holds no bigram subnetwork of {name!r} on {source!r}; run notebook 02 on it first.")
    return Surveyed(study, found)


def judge(summary: pd.DataFrame) -> dict[str, bool]:
    """The verdicts of notebook 10 by question, from the rows of `Surveyed.summary` with the model as the index."""
    damage = summary["without it, nats"] > summary["without random, nats"]
    return {
        "mini reaches r > 0.95": "mini" in summary[summary.r > PAPER_R].index,
        "removing the subnetwork costs more than removing random weights, in every model": bool(damage.all()),
    }


def plot_models(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """Draw the bigram correlation of several models' subnetworks over their size.

    Args:
        axes: two: over kept weights, and over their share of the maskable weights.
        points: what `frontier` returns for several models, with a column model.
    """
    found = points[points.case == "subnetwork"].sort_values("kept")
    for model, line in found.groupby("model", sort=False):
        bars = np.maximum(0, (line.r - line.r_low, line.r_high - line.r))
        for place, size in zip(axes, (line.kept, line.kept / line.total), strict=True):
            place.errorbar(size, line.r, bars, fmt="o-" if len(line) > 1 else "o", label=model)
    for place, label in zip(axes, ("kept weights", "share of the maskable weights"), strict=True):
        place.axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
        place.set(xscale="log", xlabel=label, ylabel="bigram correlation r, held-out text")
        correlation_axis(place)
        place.xaxis.set_minor_formatter(NullFormatter())
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")
