"""What a figure shows, in words, for those who cannot see it: what is against what in each panel, and in what range."""

from __future__ import annotations

import re

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.container import BarContainer, Container, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOUR_BAR = "<colorbar>"
NUMBER = re.compile(r"[-\u2212+.,\d\s%]*|\$.*")
"""A label that names a number, not a row."""


def alt_text(figure: Figure) -> str:
    """One sentence for each panel of a figure."""
    panels = [axes for axes in figure.axes if axes.get_label() != COLOUR_BAR and axes.get_visible() and axes.axison]
    sentences = [_panel(axes) for axes in panels]
    return " ".join(sentence for sentence in sentences if sentence)


def _panel(axes: Axes) -> str:
    x, y, title = (_one_line(words) for words in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()))
    against = " against ".join(words for words in (y, x) if words)
    meshes = [drawn for drawn in axes.collections if isinstance(drawn, QuadMesh)]
    if meshes:
        bar = meshes[0].colorbar
        unit = f" of {_one_line(bar.ax.get_ylabel())}" if bar else ""
        what = f"a heat map{unit}, {against}, {_range(np.ma.asarray(meshes[0].get_array()))}"
    else:
        named = zip(*axes.get_legend_handles_labels(), strict=True)
        series = [f"{_one_line(label)} ({_range(values)})" for drawn, label in named if (values := _values(drawn)).size]
        what = ": ".join(words for words in (against, "; ".join(series or _rows(axes))) if words)
    return f"{title + ': ' if title else ''}{what}." if what else ""


def _rows(axes: Axes) -> list[str]:
    """The names of the rows of a panel that has some, with the lengths of their bars or the places of their dots."""
    ticks = axes.get_yticks()
    names = [_one_line(name) for name in axes.yaxis.get_major_formatter().format_ticks(list(ticks))]
    if not any(name and not NUMBER.fullmatch(name) for name in names):
        return []
    values = {y: x for line in axes.lines if line.get_marker() == "o" for x, y in np.column_stack(line.get_data())}
    bars = [bar for drawn in axes.containers if isinstance(drawn, BarContainer) for bar in drawn]
    values |= {bar.get_y() + bar.get_height() / 2: bar.get_width() for bar in bars}
    named = {name: values.get(tick) for name, tick in zip(names, ticks, strict=True)}
    return [name if value is None else f"{name} ({value:.3g})" for name, value in named.items()][::-1]


def _values(drawn: Artist | Container) -> np.ndarray:
    """The heights of what a legend names, or the widths of horizontal bars."""
    if isinstance(drawn, ErrorbarContainer):
        drawn = drawn.lines[0]
    if isinstance(drawn, BarContainer):
        horizontal = drawn.orientation == "horizontal"
        return np.array([bar.get_width() if horizontal else bar.get_height() for bar in drawn])
    if isinstance(drawn, Line2D):
        return np.asarray(drawn.get_ydata(), dtype=float)
    return np.asarray(drawn.get_offsets())[:, 1] if isinstance(drawn, PathCollection) else np.array([])


def _range(values: np.ndarray) -> str:
    known = np.ma.masked_invalid(values).compressed()
    if not known.size:
        return "no values"
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in (known.min(), known.max())))


def _one_line(words: str) -> str:
    return " ".join(words.split())
