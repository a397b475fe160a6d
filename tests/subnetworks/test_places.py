"""Every kept weight is counted once, where it lies; heads, dimensions and layers are the weights that they should be."""

import re

import pytest
import torch
from conftest import token_ids

from bigramlib import Subnetwork
from bigramlib.subnetworks.places import first_mlp_dimensions, gini, layer_shares


def test_table_counts_every_kept_weight_once(any_model):
    some = Subnetwork.full(any_model).random_like(0)
    masks = dict(some.masks)
    first = next(iter(masks))
    masks[first] = torch.zeros_like(masks[first])
    some = Subnetwork(masks, any_model.architecture)
    table = some.table()
    assert table.kept.sum() == some.kept
    assert table.total.sum() == some.total
    assert table.share.sum() == pytest.approx(1)


def test_heads_and_dimensions_add_up_to_their_components(any_model):
    masks = {name: torch.rand(weight.shape) < 0.3 for name, weight in any_model.maskable.items()}
    some = Subnetwork(masks, any_model.architecture)
    summed = some.units().groupby(["layer", "component"])[["kept", "total"]].sum()
    assert summed.equals(some.table().set_index(["layer", "component"])[["kept", "total"]].sort_index())


def test_units_are_where_the_views_say(any_model):
    masks = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in any_model.maskable.items()}
    component = next(c for c in any_model.architecture.components if c.layer == 1 and c.name == "k")
    component.fill_(masks[component.parameter], True, 1)
    units = Subnetwork(masks, any_model.architecture).units()
    touched = units[units.kept > 0]
    assert touched[["layer", "component", "unit"]].values.tolist() == [[1, "k", 1]]
    assert (touched.kept == touched.total).all()


def test_share_of_the_first_mlp(any_model):
    masks = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in any_model.maskable.items()}
    components = {(c.layer, c.name): c for c in any_model.architecture.components}
    components[0, "mlp out"].fill_(masks[components[0, "mlp out"].parameter], True, 0)
    components[1, "mlp in"].fill_(masks[components[1, "mlp in"].parameter], True, 0)
    assert Subnetwork(masks, any_model.architecture).first_mlp_share() == 0.5


def test_a_dimension_of_the_first_mlp_counts_its_weights_in_and_out_and_no_others(any_model):
    size = any_model.architecture.mlp_size
    one, two = Subnetwork.mlp(any_model, 0, [1]), Subnetwork.mlp(any_model, 0, [1, size - 1])
    counts = first_mlp_dimensions((two | Subnetwork.mlp(any_model, 1, [0]) | Subnetwork.heads(any_model, [(0, 0)])).units())
    assert counts.index.tolist() == list(range(size))
    assert {unit: kept for unit, kept in counts.items() if kept} == {1: one.kept, size - 1: two.kept - one.kept}


def test_dimensions_of_the_first_mlp_add_up_to_its_share(any_model):
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.3 for name, weight in any_model.maskable.items()}
    some = Subnetwork(masks, any_model.architecture)
    assert 0 < first_mlp_dimensions(some.units()).sum() < some.kept
    assert first_mlp_dimensions(some.units()).sum() / some.kept == pytest.approx(some.first_mlp_share())


def test_gini_is_zero_for_equals_and_nears_one_for_a_single_holder():
    assert gini([3, 3, 3]) == pytest.approx(0)
    assert gini([0] * 99 + [5]) == pytest.approx(0.99)
    assert gini([0, 0]) == 0


def test_a_head_alone_is_what_its_views_cover(any_model):
    shape = any_model.architecture
    for layer, head in ((0, 0), (1, shape.heads - 1)):
        found = Subnetwork.heads(any_model, [(layer, head)])
        group = head // (shape.heads // shape.key_value_heads)
        expected = 0
        for component in shape.components:
            mask = found.masks[component.parameter]
            if component.layer == layer and component.name in ("q", "k", "v", "o"):
                own = group if component.name in ("k", "v") else head
                assert component.of(mask, own).all()
                expected += component.of(mask, own).numel()
        assert found.kept == expected > 0


def test_without_a_head_the_model_is_the_model_with_its_output_columns_zeroed(any_model):
    head = Subnetwork.heads(any_model, [(0, 1)])
    shared = any_model.architecture.heads != any_model.architecture.key_value_heads
    o = next(part for part in any_model.architecture.components if part.layer == 0 and part.name == "o")
    ids = token_ids()
    with torch.no_grad():
        kept = {name: weight.clone() for name, weight in any_model.maskable.items()}
        o.fill_(kept[o.parameter], 0.0, 1)
        expected = any_model.hidden(ids, kept)
        with (Subnetwork.full(any_model) - head).applied(any_model):
            found = any_model.hidden(ids)
    assert torch.allclose(found, expected, atol=1e-5) != shared


def test_layers_partition_the_model_and_an_mlp_is_its_dimensions(any_model):
    layers = [Subnetwork.layer(any_model, layer) for layer in range(2)]
    assert (layers[0] & layers[1]).kept == 0 and (layers[0] | layers[1]).kept == layers[0].total
    size = any_model.architecture.mlp_size
    some = Subnetwork.mlp(any_model, 1, [0, 5, size - 1])
    assert some.kept * size == 3 * Subnetwork.mlp(any_model, 1).kept
    counts = some.units().query("kept > 0")
    assert set(counts.unit) == {0, 5, size - 1} and set(counts.layer) == {1} and (counts.kept == counts.total).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda model: Subnetwork.layer(model, 2), "There is no layer 2; the model has 2, numbered from 0."),
        (lambda model: Subnetwork.heads(model, [(0, -1)]), "There is no head -1; the model has 2, numbered from 0."),
        (lambda model: Subnetwork.mlp(model, 0, [24]), "There is no MLP dimension 24; the model has 24, numbered from 0."),
    ],
)
def test_parts_that_do_not_exist_are_refused(model, edit, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        edit(model)


def test_layer_shares_add_up_to_the_table(half):
    shares = layer_shares([half.table(), (half.random_like(0) & half).table()])
    first = shares[shares.kept == half.kept]
    assert first.share.sum() == pytest.approx(1.0)
    mlp = half.table().query("layer == 1 and component.str.startswith('mlp')").share.sum()
    assert first.query("layer == 1 and kind == 'mlp'").share.item() == pytest.approx(mlp)
    assert len(shares) == 2 * 2 * 2
