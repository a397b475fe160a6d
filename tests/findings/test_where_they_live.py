"""Notebook 03: where the kept weights lie is counted as it is in the masks, drawn, and judged."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CONFIGS
from pandas.testing import assert_frame_equal

from bigramlib import Subnetwork
from bigramlib.findings.claims import recorded
from bigramlib.findings.where_they_live import (
    CLAIMS,
    by_family,
    dimension_counts,
    head_units,
    judge,
    plot_each,
    plot_heads,
    plot_layer_shares,
    plot_lorenz,
    searched_table,
)

UNIFORM = 2 * 16 * 24 / (2 * (2 * 16 * 24 + 4 * 16 * 16))
"""The share of the tiny model's maskable weights that its first MLP holds."""
SPREAD, GATHERED = [2, 2, 2, 2], [8, 0, 0, 0]


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def dimensions(bigram=GATHERED, random=SPREAD):
    return pd.DataFrame({"unit": range(4), "bigram subnetwork": bigram, "random subnetwork": random})


@pytest.fixture
def families(model):
    """Subnetworks by sparsity penalty: whose share in the first MLP grows as they shrink, whose share is one, whose is none."""
    first, both = Subnetwork.mlp(model, 0), Subnetwork.mlp(model, 0) | Subnetwork.mlp(model, 1)
    few = Subnetwork.mlp(model, 0, [0])
    elsewhere = Subnetwork.mlp(model, 1, [0])
    return {
        "growing": {1.0: both, 10.0: few},
        "constant": {1.0: first, 10.0: few},
        "elsewhere": {1.0: both, 10.0: elsewhere},
    }


def verdict_of(key, families, *, folder=None, family="growing", by_seed=None, counts=None):
    subnetworks = families[family]
    counts = dimensions() if counts is None else counts
    verdicts = judge(folder, subnetworks, 10.0, by_seed or [subnetworks[10.0]], counts)
    assert [verdict.claim for verdict in verdicts] == list(CLAIMS.values())
    return verdicts[list(CLAIMS).index(key)]


def test_tables_of_several_models_become_one_with_a_column_for_the_model(sparse):
    table = sparse.table()
    found = by_family({"one": table, "other": table.head(3)})
    assert list(found.model) == ["one"] * len(table) + ["other"] * 3
    assert_frame_equal(found[found.model == "one"][list(table.columns)].reset_index(drop=True), table)


def test_head_units_are_the_rows_of_attention(sparse):
    units = sparse.units()
    found = head_units(sparse)
    assert set(found.component) == {"q", "k", "v", "o"} and set(units.component) - set(found.component) == {"mlp in", "mlp out"}
    assert_frame_equal(found, units[~units.component.str.startswith("mlp")])


def test_dimensions_of_the_first_mlp_count_their_weights_in_and_out(sparse, model):
    masks = [sparse.masks[f"gpt_neox.layers.0.mlp.dense_{name}.weight"] for name in ("h_to_4h", "4h_to_h")]
    by_hand = (masks[0].sum(dim=1) + masks[1].sum(dim=0)).tolist()
    found = dimension_counts({"bigram subnetwork": sparse, "nothing": Subnetwork.empty(model)})
    assert list(found.columns) == ["unit", "bigram subnetwork", "nothing"]
    assert list(found.unit) == list(range(24))
    assert list(found["bigram subnetwork"]) == by_hand and not found.nothing.any()


def test_the_first_mlp_holds_most_where_its_share_over_the_seeds_does(families, model, tmp_path):
    inside, outside = Subnetwork.mlp(model, 0), Subnetwork.layer(model, 1)
    for by_seed, holds, shown in (
        ([inside, inside | Subnetwork.mlp(model, 1)], "yes", "75% of kept weights (seeds 50% to 100%)"),
        ([inside, outside], "no", "50% of kept weights (seeds 0% to 100%)"),
        ([outside], "no", "0% of kept weights (seeds 0% to 0%)"),
    ):
        verdict = verdict_of("first mlp", families, folder=tmp_path, by_seed=by_seed)
        assert verdict.holds == holds and verdict.ours == f"{shown}; the first MLP holds {UNIFORM:.0%} of those searched"
        assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, holds)


def test_the_share_that_is_expected_is_that_of_the_searched_weights(families, model):
    config = {"layers": 1, "attention": False}
    searched = {
        penalty: dataclasses.replace(found, provenance={"config": config}) for penalty, found in families["constant"].items()
    }
    (verdict, *_) = judge(None, searched, 10.0, [searched[10.0]], dimensions())
    assert verdict.ours.endswith("the first MLP holds 100% of those searched")


def test_the_first_mlp_holds_more_the_smaller_the_subnetwork(families, tmp_path):
    for family, holds, shares in (
        ("growing", "yes", "50% at least, 100% in the smallest"),
        ("constant", "no", "100% at least, 100% in the smallest"),
        ("elsewhere", "no", "0% at least, 0% in the smallest"),
    ):
        verdict = verdict_of("first mlp, every size", families, folder=tmp_path, family=family)
        assert verdict.holds == holds and verdict.ours == f"{shares} ({UNIFORM:.0%} of maskable weights)"
        assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, holds)


def test_kept_weights_are_gathered_where_their_gini_coefficient_exceeds_that_of_random_ones(families, tmp_path):
    for counts, holds, shown in (
        (dimensions(), "yes", "Gini 0.75; random weights 0.00"),
        (dimensions(SPREAD, GATHERED), "no", "Gini 0.00; random weights 0.75"),
        (dimensions(GATHERED, GATHERED), "no", "Gini 0.75; random weights 0.75"),
    ):
        verdict = verdict_of("few dimensions", families, folder=tmp_path, counts=counts)
        assert (verdict.holds, verdict.ours) == (holds, shown)
        assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, holds)


def test_each_table_is_drawn_in_its_place_under_its_name(axes, sparse):
    drawn = []
    plot_each(
        axes[:2], {"one": sparse.table(), "other": sparse.units()}, lambda place, table: drawn.append((place, len(table)))
    )
    assert drawn == [(axes[0], len(sparse.table())), (axes[1], len(sparse.units()))]
    assert [place.get_title() for place in axes[:2]] == ["one", "other"]
    with pytest.raises(ValueError, match="zip"):
        plot_each(axes[:1], {"one": sparse.table(), "other": sparse.table()}, lambda place, table: None)


def shares(*, sizes=(10, 100), small=0.01):
    """What `layer_shares` gives for a model of two layers: the second layer's MLP has a small share."""
    parts = {(0, "mlp"): 0.8, (0, "attention"): 0.1, (1, "mlp"): small, (1, "attention"): 0.1}
    rows = [(layer, kind, share, kept) for kept in sizes for (layer, kind), share in parts.items()]
    return pd.DataFrame(rows, columns=["layer", "kind", "share", "kept"])


def test_parts_with_a_small_share_at_every_size_are_drawn_without_a_name(axes):
    plot_layer_shares(axes[0], shares())
    assert labels(axes[0]) == ["layer 0 mlp", "layer 0 attention", "layer 1 attention", "others, each below 3%"]
    grey = [line for line in axes[0].lines if line.get_color() == "#cccccc" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in grey] == [[0.01, 0.01]]
    plot_layer_shares(axes[1], shares(small=0.03))
    assert "layer 1 mlp" in labels(axes[1])


def test_the_sizes_of_the_subnetworks_are_the_ticks(axes):
    plot_layer_shares(axes[0], shares(sizes=(1000, 10)))
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["10", "1,000"]
    assert list(axes[0].lines[0].get_xdata()) == [10, 1000]


def test_small_shares_fill_the_picture_and_panels_side_by_side_have_one_scale(axes):
    small = shares().assign(share=lambda table: table.share / 10)
    plot_layer_shares(axes[0], small)
    assert axes[0].get_ylim() == (0, pytest.approx(0.12))
    plot_layer_shares(axes[1], shares())
    plot_layer_shares(axes[2], small)
    assert axes[1].get_ylim() == axes[2].get_ylim() == (0, 1)


def test_a_single_size_is_drawn_as_bars_and_not_as_lines_of_one_point(axes):
    plot_layer_shares(axes[0], shares(sizes=(10,)))
    assert not axes[0].lines and axes[0].patches[0].get_height() == 0.8
    names = [label.get_text() for label in axes[0].get_xticklabels()]
    assert names == ["layer 0 mlp", "layer 0 attention", "layer 1 attention"]


def test_lorenz_curves_begin_with_the_fullest_dimension_and_name_their_gini_coefficient(axes):
    plot_lorenz(axes[0], dimensions([0, 6, 2, 0], SPREAD))
    assert len(axes[0].lines) == 3
    assert list(axes[0].lines[0].get_ydata()) == [0, 0.75, 1, 1, 1]
    assert list(axes[0].lines[0].get_xdata()) == [0, 0.25, 0.5, 0.75, 1]
    assert labels(axes[0]) == ["bigram subnetwork (Gini 0.62)", "random subnetwork (Gini 0.00)"]


def test_the_lorenz_curve_of_one_empty_subnetwork_is_drawn(axes):
    plot_lorenz(axes[0], pd.DataFrame({"unit": range(4), "bigram subnetwork": 0}))
    assert list(axes[0].lines[0].get_ydata()) == [0] * 5


def test_heads_are_drawn_by_the_density_of_their_four_matrices(axes, model):
    plot_heads(axes[0], head_units(Subnetwork.heads(model, [(1, 0)])))
    grid = axes[0].collections[0].get_array()
    assert np.asarray(grid).tolist() == [[0, 0], [100, 0]] and len(axes[0].texts) == grid.size
    assert (CONFIGS["gpt_neox"].num_hidden_layers, CONFIGS["gpt_neox"].num_attention_heads) == grid.shape


def test_what_was_not_searched_is_left_out_and_said(axes, model):
    full = Subnetwork.full(model)
    searched = Subnetwork(full.masks, full.architecture, {"config": {"attention": False, "layers": 1}})
    assert set(zip(searched_table(searched).layer, searched_table(searched).component, strict=True)) == {
        (0, "mlp in"),
        (0, "mlp out"),
    }
    assert searched_table(full).equals(full.table())
    plot_heads(axes[0], head_units(searched))
    assert axes[0].get_xlabel() == "attention was not searched" and not axes[0].collections


def test_heads_that_keep_nothing_are_drawn(axes, model):
    plot_heads(axes[0], head_units(Subnetwork.empty(model)))
    assert not torch.tensor(np.asarray(axes[0].collections[0].get_array())).any()
