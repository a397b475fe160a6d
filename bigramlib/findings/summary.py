"""Notebook 09: every claim, and one page with the main figures, from the tables that the other notebooks wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from string import ascii_uppercase

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bigramlib.analysis.controls import smallest_reaching
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
from bigramlib.findings.style import PAPER_R
from bigramlib.subnetworks.drawing import plot_density

CLAIMS = {
    "ten million": Claim(
        "About ten million weights suffice for r > 0.95 in models up to a billion weights, whatever their size",
        "about 10M weights",
        "{kept:.1f}M weights for r {r:.3f}",
        lambda kept, r: kept <= 15 and r > 0.95,
    ),
}

ROWS = (("02_frontier", "02_where"), ("04_ablation", "05_overlap", "06_similarity"), ("06_turn",), ("07_pretraining",))
"""The tables that the page shows, by the names of the figures that were drawn from them, row by row."""
SHOWN = [name for row in ROWS for name in row]
PANELS = {"06_turn": 4, "07_pretraining": 3} | dict.fromkeys([*ROWS[0], *ROWS[1]], 1)
"""In how many places each of them is drawn."""

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


def judge(folder: Path | None, model: str, points: pd.DataFrame) -> list[Verdict]:
    """The claim of notebook 09, judged by the table of notebook 02: none where there is no such table."""
    if points.empty:
        return []
    total = int(points.total.iloc[0])
    if total <= 10e6:
        return [untestable(folder, CLAIMS["ten million"], f"{model} has only {total / 1e6:.1f}M maskable weights")]
    best = smallest_reaching(points[points.model == "trained"], PAPER_R)
    return [check(folder, CLAIMS["ten million"], kept=best.kept / 1e6, r=best.r)]


def count(claims: pd.DataFrame) -> str:
    """A text that says how many claims hold, and lists those that do not hold or were not measured."""
    lines = [f"{holds}: {len(rows)} of {len(claims)}" for holds, rows in claims.groupby("holds", sort=False)]
    return "\n".join([*lines, *("- " + claim for claim in claims[claims.holds.isin(["no", "not measured"])].claim)])


def plot_page(tables: Mapping[str, pd.DataFrame], title: str) -> Figure | None:
    """Draw the page, with the plotting functions of the notebooks: what there is of it, or None if there is nothing.

    Args:
        tables: those of `SHOWN`, what `read_tables` returns.
        title: what stands above all.
    """
    shown = [present for row in ROWS if (present := [name for name in row if len(tables[name])])]
    if not shown:
        return None
    figure = plt.figure(figsize=(16, 5 * len(shown)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.2, h_pad=0.25)
    letters = iter(ascii_uppercase)
    for part, names in zip(np.atleast_1d(figure.subfigures(len(shown), 1)), shown, strict=True):
        counts = [PANELS[name] for name in names]
        places = list(np.atleast_1d(part.subplots(1, sum(counts))))
        for place, letter in zip(places, letters, strict=False):
            beside = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right"}
            place.annotate(letter, (0, 1), (-24, 10), weight="bold", fontsize="x-large", **beside)
        for name, count in zip(names, counts, strict=True):
            _draw(name, [places.pop(0) for _ in range(count)], tables[name])
    figure.suptitle(title, fontsize="x-large")
    return figure


def _draw(name: str, places: list[Axes], table: pd.DataFrame) -> None:
    """Draw one table of the page."""
    if name == "02_frontier":
        find_subnetworks.plot_frontier(places[0], table)
        places[0].legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
        places[0].set_title("They exist")
    elif name == "02_where":
        plot_density(places[0], table)
    elif name == "04_ablation":
        largest = table[table.subnetwork == table.subnetwork.iloc[0]]
        necessary.plot_ablation(places[0], largest.set_index("case"))
        places[0].set_title("Necessary")
    elif name == "05_overlap":
        overlap.plot_overlap(places[0], table[table.pair != "by component"])
        places[0].set_title("Shared with optimal pruning")
    elif name == "06_similarity":
        grid = table[table.model == first_layer_turn.FULL].pivot(index="layer", columns="other", values="value")
        first_layer_turn.plot_similarities(places, {"Covariance between layers, full model": grid.to_numpy()})
    elif name == "06_turn":
        first_layer_turn.plot_turn(places, table)
    else:
        through_pretraining.plot_through_pretraining(places, table)
