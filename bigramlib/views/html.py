"""Results as small tables of HTML that are shown everywhere.

All styles stand in the elements, because notebooks that are not trusted lose anything else, and colours let the background
through, so that they suit a light and a dark theme. Where even styles are lost, as on GitHub, the words and numbers stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

BLUE, ORANGE, RED, GREY = (31, 95, 168), (217, 138, 43), (176, 58, 58), (128, 128, 128)
COLOURS = {"bigram table": GREY, "subnetwork": BLUE, "full model": ORANGE, "without the subnetwork": RED}
"""Of the bars of each source of predictions."""
FAINTEST, STRONGEST = 0.06, 0.75
"""How much of a colour a cell has whose value is just above zero, and one whose value is the largest."""
MOST_CELLS = 64
"""More heads or MLP dimensions than this are shown in groups."""
CELL = "padding:1px 6px;border:none;white-space:nowrap;"


class Predictions(pd.DataFrame):
    """What `predictions` returns, which JupyterLab shows with a bar for each probability."""

    def _repr_html_(self) -> str:
        return predictions_html(self)


class Lens(pd.DataFrame):
    """What `lens` returns, in one table or, with a column case, for several, which JupyterLab shows as layers of tokens."""

    def _repr_html_(self) -> str:
        if "case" not in self:
            return lens_html(self)
        return "".join(f"<div><b>{escape(case)}</b></div>{lens_html(part)}" for case, part in self.groupby("case", sort=False))


def predictions_html(frame: pd.DataFrame) -> str:
    """A table with a column for each source of predictions; a bar under each token is as long as the token is probable.

    Args:
        frame: what `predictions` returns.
    """
    sources = list(dict.fromkeys(frame.columns.get_level_values(0)))
    columns = [
        [_bar(token, probability, COLOURS[source]) for token, probability in frame[source].itertuples(index=False)]
        for source in sources
    ]
    return table_html(sources, zip(*columns, strict=True))


def lens_html(frame: pd.DataFrame) -> str:
    """A table with a row for each layer boundary and a column for each token; the likelier a prediction, the darker its cell.

    Args:
        frame: what `lens` returns.
    """
    tokens = frame.drop_duplicates("position").token
    rows = []
    for layer, boundary in frame.sort_values("position").groupby("layer"):
        read = zip(boundary.prediction, boundary.probability, strict=True)
        cells = [tinted(shown(text), chance, f"probability {chance:.2f}") for text, chance in read]
        rows.append([_head("before layer 0" if layer == 0 else f"after layer {layer - 1}"), *cells])
    return table_html(["", *map(shown, tokens)], rows)


def density_html(grid: pd.DataFrame) -> str:
    """A table of the kept share of each layer and component.

    Args:
        grid: what `density_grid` returns.
    """
    scaled = strengths(grid.to_numpy())
    rows = [
        [
            _head(f"layer {layer}"),
            *(tinted(kept_share(share) or "0", strength) for share, strength in zip(row, part, strict=True)),
        ]
        for layer, row, part in zip(grid.index, grid.to_numpy(), scaled, strict=True)
    ]
    return table_html(["", *map(str, grid.columns)], rows)


def units_html(units: pd.DataFrame, kind: str) -> str:
    """One line of cells for the heads or MLP dimensions of a component, or a line for each of its experts.

    Args:
        units: the rows of `Subnetwork.units` about one component.
        kind: what a unit is called: "head" or "MLP dimension".
    """
    experts = units.expert.map("expert {}".format, na_action="ignore").fillna("") if "expert" in units else ""
    lines = units.assign(line=experts)
    places, sizes = lines.groupby("line").cumcount(), lines.groupby("line").unit.transform("size")
    lines["cell"] = places * sizes.clip(upper=MOST_CELLS) // sizes
    by_cell = lines.groupby(["line", "cell"], sort=False)
    cells = by_cell.agg(kept=("kept", "sum"), total=("total", "sum"), first=("unit", "first"), last=("unit", "last"))
    cells["share"] = cells.kept / cells.total
    cells["tint"] = strengths(cells.share.to_numpy())
    told = len(cells.loc[cells.index[0][0]]) <= MOST_CELLS // 4
    rows = [
        [_head(str(name))]
        + [tinted(kept_share(cell.share) if told else "", cell.tint, _kept_in(cell, kind)) for cell in line.itertuples()]
        for name, line in cells.groupby("line", sort=False)
    ]
    fullest = units.nlargest(5, "kept")
    best = ", ".join(f"{row.unit} ({row.kept:,})" for row in fullest[fullest.kept > 0].itertuples())
    said = "max-width:400px;white-space:normal;line-height:18px"
    return f"<div style='{said}'>{len(units):,} {kind}s; most weights are kept in {best or 'none'}</div>{table_html([], rows)}"


def table_html(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A compact table.

    Args:
        heads: texts at the top of the columns; none for a table without.
        rows: cells of HTML, each a whole `<td>` or `<th>`.
    """
    top = "".join(f"<th style='{CELL}text-align:left;font-weight:600'>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr style='background-color:transparent'>{''.join(row)}</tr>" for row in rows)
    style = "border-collapse:collapse;border:none;table-layout:auto;margin:2px 0px;font-size:12px;line-height:18px"
    return f"<table style='{style}'>{f'<thead><tr>{top}</tr></thead>' if heads else ''}<tbody>{body}</tbody></table>"


def strengths(values: np.ndarray) -> np.ndarray:
    """How strongly to colour values: 0 for none, else from faint to strong by their square root, the largest strongest."""
    share = np.sqrt(np.nan_to_num(values) / (np.nanmax(values, initial=0) or 1))
    return np.where(share > 0, FAINTEST + (STRONGEST - FAINTEST) * share, 0)


def tinted(text: str, strength: float, title: str = "") -> str:
    """A cell that is the bluer the stronger (0 to 1), with a text and, when pointed at, a title."""
    space = CELL if text else "padding:0px;border:none;width:6px;min-width:6px;height:18px;"
    colour = f"background-color:{rgba(BLUE, strength)};text-align:left"
    return f"<td style='{space}{colour}'{f' title={chr(34)}{escape(title)}{chr(34)}' if title else ''}>{escape(text)}</td>"


def rgba(colour: tuple[int, int, int], strength: float) -> str:
    """A colour that lets the background through unless its strength is 1, as CSS writes it."""
    return f"rgba({colour[0]}, {colour[1]}, {colour[2]}, {strength:.2f})"


def shown(text: str) -> str:
    """A token with its spaces and line ends made visible."""
    for hidden, visible in ((" ", "·"), ("\n", "↵"), ("\t", "⇥"), ("\r", "↵")):
        text = text.replace(hidden, visible)
    return text


def kept_share(share: float) -> str:
    """A share as a short text for a cell: nothing where there is none, two digits of percent elsewhere."""
    return "" if not share > 0 else f"{100 * share:.{1 if share < 0.1 else 0}f}%" if share >= 0.0005 else f"{100 * share:.1g}%"


def _bar(text: str, probability: float, colour: tuple[int, int, int]) -> str:
    bar = f"background-color:{rgba(colour, 0.4)};width:{100 * probability:.0f}%;white-space:nowrap;padding:0px 2px"
    number = f"<span style='opacity:0.7'>{f'{probability:.2f}' if probability >= 0.005 else '&lt;0.01'}</span>"
    return f"<td style='{CELL}text-align:left;min-width:100px'><div style='{bar}'>{escape(shown(text))} {number}</div></td>"


def _head(text: str) -> str:
    return f"<th style='{CELL}text-align:right;font-weight:400'>{escape(text)}</th>"


def _kept_in(cell: Any, kind: str) -> str:
    numbers = f"{kind} {cell.first}" if cell.first == cell.last else f"{kind}s {cell.first} to {cell.last}"
    return f"{numbers}: {cell.kept:,} of {cell.total:,} weights kept"
