"""Notebook 09: every claim, and one page with the main figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bigramlib.analysis.controls import smallest_reaching
from bigramlib.analysis.overlap import overlap_test
from bigramlib.analysis.residual import covariance_similarity
from bigramlib.findings import (
    base_to_build_on,
    bigram_target,
    find_subnetworks,
    first_layer_turn,
    limits_of_pretraining,
    necessary,
    overlap,
    paper_recipe,
    pretrain_mini,
    subnetworks_after_tuning,
    sweeps,
    through_pretraining,
    tuned_and_base,
    where_they_live,
)
from bigramlib.findings.claims import COLUMNS, Claim, Verdict, check, recorded, untestable
from bigramlib.findings.study import Study
from bigramlib.findings.style import PAPER_R
from bigramlib.numeric import percent
from bigramlib.subnetworks.drawing import plot_density
from bigramlib.subnetworks.subnetwork import Subnetwork

CLAIMS = {
    "ten million": Claim(
        "About ten million weights suffice for r > 0.95 in models up to a billion weights, whatever their size",
        "about 10M weights",
        "{kept:.1f}M weights for r {r:.3f}",
        lambda kept, r: kept <= 15 and r > 0.95,
    ),
}

FIRST_PAPER: dict[str, Claim] = {
    key: claim
    for notebook in (
        pretrain_mini, bigram_target, find_subnetworks, where_they_live, necessary, overlap, first_layer_turn,
        through_pretraining, base_to_build_on,
    )
    for key, claim in notebook.CLAIMS.items()
} | CLAIMS  # fmt: skip
"""The claims of notebooks 00 to 09, in order."""
ALL_CLAIMS: dict[str, Claim] = FIRST_PAPER | {
    key: claim
    for notebook in (tuned_and_base, subnetworks_after_tuning, limits_of_pretraining, sweeps, paper_recipe)
    for key, claim in notebook.CLAIMS.items()
}
"""The claims of all notebooks, in order."""


def claims_table(folder: Path | None, claims: Iterable[Claim] = ALL_CLAIMS.values()) -> pd.DataFrame:
    """Claims in order, with what is recorded about them in a folder's claims.csv.

    Args:
        folder: the folder.
        claims: which claims; those of both papers by default.

    Returns:
        Columns claim, paper, ours, holds ("yes", "no", "not testable" or "not measured"), and source: whose claim it is.
    """
    rows = recorded(folder)
    missing = {claim.text: (claim.text, claim.paper, "", "not measured") for claim in claims}
    table = pd.DataFrame((missing | rows)[claim.text] for claim in claims).set_axis(COLUMNS, axis=1)
    return table.assign(source=[claim.source for claim in claims])


def judge(folder: Path | None, study: Study, points: pd.DataFrame) -> list[Verdict]:
    """The claim of notebook 09, judged by what `Study.frontier` returns."""
    total = int(points.total.iloc[0])
    if total <= 10e6:
        reason = f"{study.model.name} has only {total / 1e6:.1f}M maskable weights"
        return [untestable(folder, CLAIMS["ten million"], reason)]
    best = smallest_reaching(points, PAPER_R)
    return [check(folder, CLAIMS["ten million"], kept=best.kept / 1e6, r=best.r)]


def count(claims: pd.DataFrame) -> str:
    """A text that says how many claims hold, and lists those that do not hold or were not measured."""
    lines = [f"{holds}: {len(rows)} of {len(claims)}" for holds, rows in claims.groupby("holds", sort=False)]
    return "\n".join([*lines, *("- " + claim for claim in claims[claims.holds.isin(["no", "not measured"])].claim)])


@dataclass(frozen=True)
class Page:
    """The data of the page, measured as in the notebooks.

    Attributes:
        points: what `frontier` returns for the subnetworks, with a column model.
        subnetwork: the headline subnetwork, whose weights, overlap and lenses are shown.
        ablation: what `ablate` returns for a larger subnetwork.
        overlap: the last row of `overlap_test` of the headline subnetwork and an optimally pruned one, with a column pair.
        similarity: `covariance_similarity` of the full model.
        lenses: what `lens_reports` returns.
        development: what `through_pretraining` returns; None for a model without checkpoints.
    """

    points: pd.DataFrame
    subnetwork: Subnetwork
    ablation: pd.DataFrame
    overlap: pd.DataFrame
    similarity: np.ndarray
    lenses: pd.DataFrame
    development: pd.DataFrame | None


def measure_page(
    study: Study,
    subnetworks: Mapping[float, Subnetwork],
    headline: float,
    ablated: float,
    pruning_penalty: float,
    *,
    moment_tokens: int,
    lens_tokens: int,
) -> Page:
    """Measure everything that the page shows.

    Args:
        study: the model, its text and its bigram table.
        subnetworks: bigram subnetworks by sparsity penalty.
        headline: the sparsity penalty of the headline subnetwork.
        ablated: the sparsity penalty of the subnetwork that is removed.
        pruning_penalty: the sparsity penalty of the optimally pruned subnetwork that the headline subnetwork is compared with.
        moment_tokens: training tokens for the moments of the residual stream.
        lens_tokens: held-out tokens for the lenses.
    """
    subnetwork, pruned = subnetworks[headline], study.prune(pruning_penalty)
    pair = f"{percent(subnetwork.density, 1)} / {percent(pruned.density, 1)} kept"
    moments = first_layer_turn.moments_of(study, subnetwork, moment_tokens)
    development = None
    if len(study.checkpoints()) > 1:
        development = through_pretraining.through_pretraining(study, [headline])
    return Page(
        points=study.frontier(subnetworks, draws=1).assign(model="trained"),
        subnetwork=subnetwork,
        ablation=study.ablate(subnetworks[ablated], draws=1),
        overlap=overlap_test(subnetwork, pruned).iloc[[-1]].assign(pair=pair),
        similarity=covariance_similarity(moments[first_layer_turn.FULL]),
        lenses=first_layer_turn.lens_reports(study, moments, lens_tokens),
        development=development,
    )


def plot_page(page: Page, title: str) -> Figure:
    """Draw the page, with the plotting functions of the notebooks."""
    rows = ["AAAAAABBBBBB", "CCCCDDDDEEEE", "FFFGGGHHHIII"] + ["JJJJKKKKLLLL"] * (page.development is not None)
    figure, axes = plt.subplot_mosaic(";".join(rows), figsize=(16, 5 * len(rows)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.2, h_pad=0.25)
    find_subnetworks.plot_frontier(axes["A"], page.points)
    plot_density(axes["B"], where_they_live.searched_table(page.subnetwork))
    necessary.plot_ablation(axes["C"], page.ablation)
    overlap.plot_overlap(axes["D"], page.overlap)
    first_layer_turn.plot_similarities([axes["E"]], {first_layer_turn.FULL: page.similarity})
    first_layer_turn.plot_turn([axes[key] for key in "FGHI"], page.lenses)
    if page.development is not None:
        through_pretraining.plot_through_pretraining([axes[key] for key in "JKL"], page.development)
    titles = {
        "A": "They exist",
        "C": "Necessary",
        "D": "Shared with optimal pruning",
        "E": "Covariance between layers, full model",
    }
    for key, text in titles.items():
        axes[key].set_title(text)
    for key, place in axes.items():
        beside = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
        place.annotate(key, (0, 1), (-24, 10), weight="bold", fontsize="x-large", **beside)
    figure.suptitle(title, fontsize="x-large")
    return figure
