"""A subnetwork is shown in few words and a small map, without hashes, and with nothing that a file could smuggle in."""

import base64
import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from conftest import build

from bigramlib import Subnetwork
from bigramlib.subnetworks.drawing import plot_density, svg
from bigramlib.subnetworks.places import density_grid


def described(subnetwork: Subnetwork, **provenance) -> Subnetwork:
    return Subnetwork(subnetwork.masks, subnetwork.architecture, provenance)


def map_of(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(base64.b64decode(re.search(r"base64,([^']+)'", html)[1]))


def test_one_line_states_model_size_and_what_is_known(model, half):
    kept = f"{half.kept:,} of {half.total:,} maskable weights ({half.density:.2%})"
    assert repr(half) == f"Subnetwork of 'an unknown model': {kept}, lambda 3"
    assert repr(described(half, model="mini")) == f"Subnetwork of 'mini': {kept}"
    assert repr(~described(half, model="mini")).startswith("Subnetwork of 'mini' (complement): ")
    assert repr(Subnetwork.full(model)).startswith("Subnetwork of 'tiny gpt_neox' (full): ")


def test_html_is_inline_escaped_and_free_of_hashes(half):
    facts = {"model": "<script>alert(1)</script>", "corpus": "a & b", "weights_hash": "0" * 64, "steps": 7, "converged": True}
    html = described(half, sparsity_penalty=10.0, **facts)._repr_html_()
    assert "<script" not in html and "<style" not in html and "<svg" not in html and "0" * 64 not in html
    for part in ("&lt;script&gt;", "a &amp; b", f"{half.kept:,} of {half.total:,}", ">10<", "7 steps, all gates decided"):
        assert part in html
    assert len(html) < 8000
    started = described(half, sparsity_penalty=10.0, start={"model": "mini"}, **facts)._repr_html_()
    assert "7 steps, all gates decided, started from another subnetwork" in started


def test_the_map_has_a_cell_for_each_layer_and_component_strongest_where_most_is_kept(model):
    part = Subnetwork.mlp(model, 1) | Subnetwork.mlp(model, 0, [0])
    html = part._repr_html_()
    cells = [each for each in map_of(html) if each.tag.endswith("rect")]
    assert len(cells) == 2 * 6
    shades = [float(cell.get("fill-opacity")) for cell in cells]
    assert [shade == 1 for shade in shades] == [False] * 10 + [True] * 2
    assert shades[4] == shades[5] > shades[0] == min(shades) > 0
    assert "the largest is 100.00%, in mlp in of layer 1." in html


def test_the_map_of_many_layers_stays_small_and_that_of_nothing_is_pale(model):
    grid = density_grid(Subnetwork.empty(model).table())
    deep = ElementTree.fromstring(svg(grid.loc[[0] * 100]))
    assert int(deep.get("height")) < 400
    assert {cell.get("fill-opacity") for cell in deep if cell.tag.endswith("rect")} == {"0.06"}
    assert len([text for text in deep if text.tag.endswith("text")]) < 40


def test_tiny_densities_are_not_shown_as_nothing(tokenizer):
    large = Subnetwork.full(build("gpt2", tokenizer))
    masks = {name: mask & False for name, mask in large.masks.items()}
    next(iter(masks.values()))[0, 0] = True
    one = Subnetwork(masks, large.architecture)
    assert f"(0.0{round(1e5 / one.total)}%)" in repr(one)


def test_plot_draws_on_given_axes_or_new_ones(half, axes):
    assert half.plot(axes[0]) is axes[0]
    assert axes[0].get_ylabel() == "layer"
    new = half.plot()
    assert new.get_title() == "Where the kept weights are"
    plt.close(new.figure)


def test_density_is_drawn_for_each_layer_and_component_with_numbers_where_there_is_room(axes, sparse):
    table = sparse.table()
    plot_density(axes[0], table)
    drawn = axes[0].collections[0].get_array()
    components = list(dict.fromkeys(table.component))
    assert drawn.shape == (2, len(components)) and len(axes[0].texts) == drawn.size
    assert drawn[1, 0] == pytest.approx(100 * table[(table.layer == 1)].density.iloc[0])
    assert [label.get_text().replace("\n", " ") for label in axes[0].get_xticklabels()] == components
    deep = pd.concat([table[table.layer == 0].assign(layer=layer) for layer in range(13)])
    plot_density(axes[1], deep)
    assert not axes[1].texts


def test_every_component_is_named_in_narrow_axes_too(sparse):
    figure, places = plt.subplots(1, 6, figsize=(5, 2))
    plot_density(places[0], sparse.table())
    figure.canvas.draw()
    assert len(places[0].get_xticklabels()) == len(set(sparse.table().component))
    plt.close(figure)
