"""Tables of HTML show every number and word, with styles in their elements alone, and nothing of a text is taken for HTML."""

import re
from html import unescape
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from bigramlib.analysis.predictions import lens, predictions
from bigramlib.subnetworks.places import density_grid
from bigramlib.views.html import (
    MOST_CELLS,
    Lens,
    Predictions,
    density_html,
    kept_share,
    lens_html,
    predictions_html,
    shown,
    strengths,
    units_html,
)

PROMPT = "the cat sat on"


def asked(*columns):
    """A table of predictions, given as (source, [(token, probability), ...])."""
    parts = {
        (source, name): [row[place] for row in rows]
        for source, rows in columns
        for place, name in enumerate(("token", "probability"))
    }
    return pd.DataFrame(parts)


def texts(html):
    """The words and numbers of each cell, as they are read where styles are lost."""
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall("<t[dh].*?</t[dh]>", html)]


def assert_safe(html):
    assert not re.search(r"<(style|script|link|svg)|class=|\bid=|on\w+=", html)
    assert set(re.findall(r"<(\w+)", html)) <= {"table", "thead", "tbody", "tr", "th", "td", "div", "span", "b"}


def test_each_source_has_a_column_with_bars_as_long_as_tokens_are_probable():
    html = predictions_html(asked(("bigram table", [(" a", 0.5), ("b", 0.25)]), ("full model", [("c", 0.996), (" ", 0.001)])))
    assert_safe(html)
    assert texts(html) == ["bigram table", "full model", "·a 0.50", "c 1.00", "b 0.25", "· &lt;0.01"]
    assert re.findall(r"width:(\d+)%", html) == ["50", "100", "25", "0"]


def test_texts_are_no_html():
    html = predictions_html(asked(("subnetwork", [("<script>", 0.5), ("'\"&", 0.5)])))
    assert_safe(html)
    assert texts(html)[1:] == ["&lt;script&gt; 0.50", "&#x27;&quot;&amp; 0.50"]


def test_the_table_of_a_real_prompt_shows_all_its_tokens(study, sparse):
    found = predictions(study.model, study.table, PROMPT, sparse, top=3)
    html = Predictions(found)._repr_html_()
    assert html == predictions_html(found)
    assert_safe(html)
    assert len(texts(html)) == 4 + 3 * 4


def test_a_part_of_the_table_is_a_plain_one(study, sparse):
    found = Predictions(predictions(study.model, study.table, PROMPT, sparse))
    pd.testing.assert_frame_equal(pd.DataFrame(found)["subnetwork"], found["subnetwork"])
    assert "bar" not in found["subnetwork"]._repr_html_() and "dataframe" in found["subnetwork"]._repr_html_()


def test_the_lens_is_a_grid_of_layers_and_tokens(study):
    found = lens(study.model, PROMPT)
    html = lens_html(found)
    assert_safe(html)
    tokens = list(found.drop_duplicates("position").token)
    rows = [["", *map(shown, tokens)]]
    for layer, name in enumerate(("before layer 0", "after layer 0", "after layer 1")):
        rows.append([name, *map(shown, found[found.layer == layer].prediction)])
    cells = np.array(texts(html)).reshape(4, len(tokens) + 1)
    assert [[unescape(cell) for cell in row] for row in cells.tolist()] == rows
    assert Lens(found)._repr_html_() == html


def test_the_lens_of_several_has_a_grid_for_each(study, sparse):
    found = study.lens(PROMPT, sparse)
    html = found._repr_html_()
    assert html.count("<table") == 2 and html.index("full model") < html.index("subnetwork")
    assert html.count(lens_html(lens(study.model, PROMPT, sparse))) == 1


def test_the_map_shows_the_kept_share_of_each_layer_and_component(half):
    grid = density_grid(half.table())
    html = density_html(grid)
    assert_safe(html)
    cells = np.array(texts(html)).reshape(len(grid) + 1, grid.shape[1] + 1)
    assert list(cells[0, 1:]) == list(grid.columns) and list(cells[1:, 0]) == [f"layer {layer}" for layer in grid.index]
    assert [[kept_share(share) or "0" for share in row] for row in grid.to_numpy()] == cells[1:, 1:].tolist()


def test_few_heads_are_shown_with_their_shares_and_the_fullest_are_named(half):
    units = half.units()
    chosen = units[(units.layer == 1) & (units.component == "q")]
    html = units_html(chosen, "head")
    assert_safe(html)
    assert texts(html)[1:] == [kept_share(share) for share in chosen.kept / chosen.total]
    assert re.findall(r'title="(.*?)"', html) == [
        f"head {row.unit}: {row.kept:,} of {row.total:,} weights kept" for row in chosen.itertuples()
    ]
    best = chosen.sort_values("kept", ascending=False, kind="stable").iloc[0]
    assert f"2 heads; most weights are kept in {best.unit} ({best.kept})" in html


def test_many_dimensions_are_shown_in_groups_that_hold_all_of_them():
    units = pd.DataFrame({"unit": range(1000), "kept": np.arange(1000) % 7, "total": 64})
    html = units_html(units, "MLP dimension")
    said = re.findall(r'title="MLP dimensions (\d+) to (\d+): (\d+) of', html)
    assert len(said) == MOST_CELLS
    assert sum(int(kept) for *_, kept in said) == units.kept.sum()
    edges = [(int(first), int(last)) for first, last, _ in said]
    assert edges[0][0] == 0 and edges[-1][1] == 999 and all(one[1] + 1 == two[0] for one, two in pairwise(edges))


def test_each_expert_has_a_line_and_what_stands_beside_them_too():
    experts = pd.array([0, 0, 1, 1, None, None, None], dtype="Int64")
    units = pd.DataFrame({"expert": experts, "unit": [0, 1, 0, 1, 0, 1, 2], "kept": 1, "total": 2})
    assert texts(units_html(units, "MLP dimension")) == ["expert 0", "50%", "50%", "expert 1", "50%", "50%", "", *["50%"] * 3]


def test_nothing_kept_is_said():
    units = pd.DataFrame({"unit": range(3), "kept": 0, "total": 5})
    assert "most weights are kept in none" in units_html(units, "head")


def test_colours_grow_with_values_and_leave_zeros_and_unknown_blank():
    found = strengths(np.array([0.0, np.nan, 0.001, 0.5, 1.0]))
    assert list(found[:2]) == [0, 0] and (np.diff(found[1:]) > 0).all() and found[-1] == pytest.approx(0.75)
    assert not strengths(np.zeros(3)).any()


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, ""), (float("nan"), ""), (1.5e-5, "0.002%"), (0.0123, "1.2%"), (0.345, "34%"), (1.0, "100%")]
)
def test_a_share_is_short_and_never_nothing_but_where_there_is_none(share, text):
    assert kept_share(share) == text
