"""How a subnetwork is drawn: as HTML with a small map for notebooks, and as a heat map for figures."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

import pandas as pd

from bigramlib.numeric import percent
from bigramlib.subnetworks.places import density_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, GREY = "#3b82d6", "#808080"
"""Colours that can be seen on white and on black."""
CELL_WIDTH, CELL_HEIGHT, MARGIN = 46, 14, 24
"""Pixels of the map; where layers are many, their rows are lower."""
TALLEST = 280


def as_html(title: str, facts: dict[str, str], table: pd.DataFrame) -> str:
    """A subnetwork as HTML for a notebook: what is known of it, and a map of where its weights lie.

    All styles are inline, and the map is an image: notebooks that are not trusted drop `<style>` and `<svg>`, and keep these.

    Args:
        title: what it is.
        facts: what is known of it.
        table: its `component_table`.
    """
    cells = "".join(
        f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    grid = density_grid(table)
    layer, component = grid.stack().idxmax()
    said = f"Share of the weights kept, by layer and component; the largest is {percent(grid[component][layer])}, "
    said += f"in {component} of layer {layer}."
    image = base64.b64encode(svg(grid).encode()).decode()
    return (
        f"<div><b>{html.escape(title)}</b><table style='color:inherit;font:inherit'>{cells}</table>"
        f"<img alt='{said}' title='{said}' src='data:image/svg+xml;base64,{image}'></div>"
    )


def svg(grid: pd.DataFrame) -> str:
    """A small map of densities: a row for each layer, a column for each component, stronger where more is kept.

    Args:
        grid: what `density_grid` returns.
    """
    height = max(3, min(CELL_HEIGHT, TALLEST // len(grid)))
    shades = (grid / max(grid.max().max(), 1e-300)).fillna(0) ** 0.5
    step = -(-11 // height)
    parts = [
        f"<rect x='{MARGIN + column * CELL_WIDTH}' y='{MARGIN + row * height}' width='{CELL_WIDTH - 1}' "
        f"height='{height - 1}' fill='{BLUE}' fill-opacity='{0.06 + 0.94 * shade:.2f}'/>"
        for row, of_layer in enumerate(shades.to_numpy())
        for column, shade in enumerate(of_layer)
    ]
    parts += [
        f"<text x='{MARGIN - 4}' y='{MARGIN + row * height + min(height, 11)}' text-anchor='end'>{layer}</text>"
        for row, layer in list(enumerate(grid.index))[::step]
    ]
    parts += [
        f"<text x='{MARGIN + (column + 0.5) * CELL_WIDTH}' y='{MARGIN - 6}' text-anchor='middle'>{component}</text>"
        for column, component in enumerate(grid.columns)
    ]
    width, tall = MARGIN + len(grid.columns) * CELL_WIDTH, MARGIN + max(len(grid) * height, 12) + 2
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{tall}' fill='{GREY}' "
        f"font-family='sans-serif' font-size='10'>{''.join(parts)}</svg>"
    )


def plot_density(axes: Axes | None, table: pd.DataFrame) -> Axes:
    """Draw where the kept weights lie: the share kept by layer and component, as a heat map.

    Args:
        axes: where to draw; on new axes if None.
        table: a `component_table`.

    Returns:
        The axes.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    axes = plt.subplots()[1] if axes is None else axes
    grid = density_grid(table)
    look = {
        "cmap": "Blues",
        "cbar_kws": {"label": "% of weights kept"},
        "xticklabels": [component.replace(" ", "\n") for component in grid.columns],
    }
    sns.heatmap(grid * 100, ax=axes, annot=len(grid) <= 12, fmt=".2g", **look)
    axes.set(xlabel="", ylabel="layer", title="Where the kept weights are")
    axes.tick_params(left=False, bottom=False, rotation=0)
    return axes
