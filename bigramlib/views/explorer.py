"""The explorer: a subnetwork under one's hands, with a slider over lambda, a map of its weights, and a prompt to type."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Any

import pandas as pd

from bigramlib.analysis.predictions import predictions
from bigramlib.models.components import ATTENTION_COMPONENTS
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import percent
from bigramlib.subnetworks.places import density_grid
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.views.html import BLUE, density_html, kept_share, predictions_html, rgba, strengths, units_html

WRITTEN_TOKENS = 25
"""How many tokens the model and the subnetwork write after the prompt."""


NO_BORDER = "2px solid transparent"


class Explorer:
    """Subnetworks of one model, to look at and to ask. JupyterLab shows it live, and what knows no widgets as plain HTML.

    Attributes:
        slider: the sparsity penalty (lambda) of the subnetwork that is shown; set its `value` to move it.
        prompt: the text that is continued; set its `value` to type.
        cells: a button for each layer and component; its `click()` shows the heads or MLP dimensions there.
        size, units, answers, written: what is shown of them, as HTML in their `value`.
    """

    def __init__(self, model: LanguageModel, table: BigramTable, subnetworks: Mapping[float, Subnetwork], prompt: str) -> None:
        """Make the widgets and fill them.

        Args:
            model: the model.
            table: its bigram table.
            subnetworks: by sparsity penalty.
            prompt: what is typed at first.

        Raises:
            ModuleNotFoundError: ipywidgets is not installed.
            ValueError: there are no subnetworks, or one is not of this model.
        """
        if not subnetworks:
            raise ValueError("There is no subnetwork to explore; find one first, for example by study.find(10).")
        for subnetwork in subnetworks.values():
            subnetwork.check_fits(model)
        try:
            import ipywidgets as widgets
        except ModuleNotFoundError:
            raise ModuleNotFoundError("The explorer needs ipywidgets; pip install 'bigramlib[notebooks]' brings it.") from None
        self.model, self.table, self.subnetworks = model, table, dict(subnetworks)
        self._grid = cache(lambda penalty: density_grid(self.subnetworks[penalty].table()))
        self._units = cache(lambda penalty: self.subnetworks[penalty].units())
        options = [(f"{penalty:g}", penalty) for penalty in self.subnetworks]
        middle = options[len(options) // 2][1]
        look = {"continuous_update": False, "layout": {"width": "420px"}}
        self.slider = widgets.SelectionSlider(options=options, value=middle, description="lambda", **look)
        self.prompt = widgets.Text(prompt, description="prompt", placeholder="type a text, then Enter", **look)
        self.size, self.units, self.answers, self.written = (widgets.HTML() for _ in range(4))
        self.cells = self._buttons(widgets)
        self.place = max(self.cells, key=lambda place: self._grid(middle).loc[place])
        self.box = self._arranged(widgets)
        self.slider.observe(lambda _: self._turn(), "value")
        self.prompt.observe(lambda _: self._ask(), "value")
        self._turn()

    @property
    def subnetwork(self) -> Subnetwork:
        """The subnetwork that is shown."""
        return self.subnetworks[self.slider.value]

    @property
    def html(self) -> str:
        """What the widgets show now, as HTML without any life."""
        grid = density_html(self._grid(self.slider.value))
        lens = f"<div><b>lambda {self.slider.value:g}</b>: {self.size.value}</div>"
        asked = f"<div style='margin-top:8px'>after <b>{escape(self.prompt.value)}</b></div>"
        return f"<div>{lens}{grid}{self.units.value}{asked}{self.answers.value}{self.written.value}</div>"

    def __repr__(self) -> str:
        penalties = ", ".join(f"{penalty:g}" for penalty in self.subnetworks)
        return f"Explorer of {self.model.name!r}, lambda {penalties}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict:
        return self.box._repr_mimebundle_(**kwargs) | {"text/plain": repr(self), "text/html": self.html}

    # -- what it is made of ---------------------------------------------------------------------------------------------

    def _buttons(self, widgets: Any) -> dict[tuple[int, str], Any]:
        """A button for each layer and component that the model has."""
        cells = {}
        for layer, component in self._grid(self.slider.value).stack().index:
            place = int(layer), component
            layout = {"width": "auto", "height": "26px", "margin": "1px", "padding": "0px", "border": NO_BORDER}
            cells[place] = widgets.Button(layout=layout, tooltip=f"layer {layer}, {component}: click for its parts")
            cells[place].on_click(lambda _, place=place: self._point(place))
        return cells

    def _arranged(self, widgets: Any) -> Any:
        """All widgets in their places."""
        grid = self._grid(self.slider.value)
        middle = {"display": "flex", "justify_content": "center"}
        heads = [widgets.Label(name, layout=middle) for name in ("", *map(str, grid.columns))]
        rows = [
            [widgets.Label(f"layer {layer}"), *(self.cells.get((layer, name), widgets.Label()) for name in grid.columns)]
            for layer in grid.index
        ]
        columns = {"grid_template_columns": f"56px repeat({grid.shape[1]}, 58px)", "grid_gap": "0px"}
        where = widgets.GridBox([*heads, *(cell for row in rows for cell in row)], layout=columns)
        left = widgets.VBox([widgets.HTML("<b>kept weights</b> (click for heads or MLP dimensions)"), where, self.units])
        right = widgets.VBox([widgets.HTML("<b>the next token</b>"), self.answers, self.written])
        right.layout.margin = "0px 0px 0px 24px"
        sides = widgets.HBox([left, right], layout={"flex_flow": "row wrap"})
        return widgets.VBox([widgets.HBox([self.slider, self.size]), self.prompt, sides])

    # -- what happens when something is moved -------------------------------------------------------------------------

    def _turn(self) -> None:
        """Show another subnetwork."""
        shown = self.subnetwork
        self.size.value = (
            f"{shown.kept:,} of {shown.total:,} weights kept ({percent(shown.density)}), "
            f"{shown.first_mlp_share():.0%} of them in the first MLP"
        )
        grid = self._grid(self.slider.value)
        tints = pd.DataFrame(strengths(grid.to_numpy()), grid.index, grid.columns)
        for place, cell in self.cells.items():
            cell.description = kept_share(grid.loc[place]) or "0"
            cell.style.button_color = rgba(BLUE, tints.loc[place])
        self._point(self.place)
        self._ask()

    def _point(self, place: tuple[int, str]) -> None:
        """Show the heads or MLP dimensions of one layer and component."""
        self.cells[self.place].layout.border = NO_BORDER
        self.place, (layer, component) = place, place
        self.cells[place].layout.border = f"2px solid {rgba(BLUE, 1.0)}"
        units = self._units(self.slider.value)
        chosen = units[(units.layer == layer) & (units.component == component)]
        kind = "head" if component in ATTENTION_COMPONENTS else "MLP dimension"
        self.units.value = f"<div><b>layer {layer}, {escape(component)}</b></div>{units_html(chosen, kind)}"

    def _ask(self) -> None:
        """Show what is predicted and written after the prompt, or why it cannot be."""
        try:
            self.answers.value = predictions_html(predictions(self.model, self.table, self.prompt.value, self.subnetwork))
            model = self.model.sample(self.prompt.value, WRITTEN_TOKENS)
            with self.subnetwork.applied(self.model):
                subnetwork = self.model.sample(self.prompt.value, WRITTEN_TOKENS)
        except ValueError as error:
            self.answers.value, self.written.value = f"<i>{escape(str(error))}</i>", ""
            return
        texts = {"the subnetwork writes": subnetwork, "the full model writes": model}
        lines = (f"<div><i>{who}:</i> {escape(text)}</div>" for who, text in texts.items())
        style = "max-width:560px;line-height:20px;white-space:normal"
        self.written.value = f"<div style='{style}'>{''.join(lines)}</div>"
