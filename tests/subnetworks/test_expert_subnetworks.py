"""Subnetworks of mixtures: experts are counted, taken away and kept one by one, and never mixed up."""

import json

import pytest
import torch
from conftest import build, token_ids
from mixtures import MIXTURES, mixture, random_half

from bigramlib import Subnetwork
from bigramlib.analysis.circuits import part, part_names
from bigramlib.analysis.overlap import jaccard, overlap_test
from bigramlib.subnetworks.drawing import svg
from bigramlib.subnetworks.places import density_grid, first_mlp_dimensions
from bigramlib.subnetworks.published import load_published, save_published

EXPERTS = 3


@pytest.fixture(scope="module", params=MIXTURES)
def model(request, tokenizer):
    return mixture(request.param, tokenizer)


@pytest.fixture(scope="module")
def shared(tokenizer):
    return mixture("beside a shared expert", tokenizer)


def test_tables_count_each_kept_weight_once_by_expert(model):
    some = random_half(model)
    table, units = some.table(), some.units()
    assert table.kept.sum() == units.kept.sum() == some.kept and table.total.sum() == units.total.sum() == some.total
    assert set(table.expert.dropna()) == set(range(EXPERTS))
    assert table[table.component.isin(["q", "o"])].expert.isna().all()
    by = ["layer", "component", "expert"]
    summed = units.groupby(by, dropna=False)[["kept", "total"]].sum()
    assert summed.equals(table.groupby(by, dropna=False)[["kept", "total"]].sum())


def test_only_the_named_expert_is_meant(model):
    one = Subnetwork.mlp(model, 1, expert=2)
    kept = one.table().query("kept > 0")
    assert (kept.kept == kept.total).all() and set(kept.expert) == {2} and set(kept.layer) == {1}
    unit = Subnetwork.mlp(model, 1, [5], expert=2).units().query("kept > 0")
    assert (unit.kept == unit.total).all() and set(unit.expert) == {2} and set(unit.unit) == {5}


def test_a_layer_is_its_heads_its_experts_and_what_stands_beside_them(model):
    heads = [Subnetwork.heads(model, [(1, head)]) for head in range(model.architecture.heads)]
    experts = [Subnetwork.mlp(model, 1, expert=expert) for expert in range(EXPERTS)]
    mlp = Subnetwork.mlp(model, 1)
    assert all((one & other).kept == 0 for one in experts for other in experts if one is not other)
    together = experts[0] | experts[1] | experts[2]
    beside = (mlp - together).table().query("kept > 0")
    assert (together - mlp).kept == 0 and beside.expert.isna().all() and beside.component.str.startswith("mlp").all()
    layer = mlp
    for head in heads:
        layer = layer | head
    assert layer.hash == Subnetwork.layer(model, 1).hash


def test_dimensions_without_an_expert_are_those_of_what_stands_beside_the_experts(shared):
    found = Subnetwork.mlp(shared, 0, [19]).units().query("kept > 0")
    assert found.expert.isna().all() and set(found.unit) == {19}
    with pytest.raises(ValueError, match="There is no MLP dimension 20; the model has 20"):
        Subnetwork.mlp(shared, 0, [20])
    assert set(Subnetwork.mlp(shared, 0, [20], expert=0).units().query("kept > 0").expert) == {0}


@pytest.mark.parametrize("choice", [{"expert": 3}, {"expert": -1}, {"dimensions": [0]}])
def test_an_expert_that_is_not_there_is_refused(tokenizer, choice):
    with pytest.raises(ValueError, match="Layer 0 has 3 experts, numbered from 0; name one of them as expert"):
        Subnetwork.mlp(mixture("plain", tokenizer), 0, **choice)


def test_an_expert_of_an_ordinary_mlp_is_refused(tokenizer):
    for model in (mixture("in the second layer only", tokenizer), build("llama", tokenizer)):
        with pytest.raises(ValueError, match="Layer 0 has an MLP without experts"):
            Subnetwork.mlp(model, 0, expert=0)


def test_without_an_expert_the_model_is_the_one_whose_expert_writes_nothing(tokenizer):
    model, ids = mixture("plain", tokenizer), token_ids()
    with (Subnetwork.full(model) - Subnetwork.mlp(model, 0, expert=1)).applied(model):
        without = model.hidden(ids)
    whole = model.hidden(ids)
    with torch.no_grad():
        model.hf.model.layers[0].mlp.experts.down_proj[1] = 0.0
    assert torch.allclose(model.hidden(ids), without, atol=1e-6) and not torch.allclose(whole, without, atol=1e-3)


def test_empty_experts_can_be_skipped(model):
    some = random_half(model) - Subnetwork.mlp(model, 1)
    assert some.empty_blocks and not any("self_attn" in block for block in some.empty_blocks)
    with some.applied(model):
        expected = model.hidden(token_ids())
        with model.skipping(some.empty_blocks):
            assert torch.allclose(model.hidden(token_ids()), expected, atol=1e-6)


def test_sets_controls_and_files_keep_experts_apart(model, tmp_path):
    one, other = random_half(model), random_half(model, seed=1)
    assert ((one | other) - (one & other)).kept == (one - other).kept + (other - one).kept
    control = one.random_like(0)
    assert all(control.masks[name].sum() == mask.sum() for name, mask in one.masks.items())
    one.save(tmp_path / "one.safetensors")
    loaded = Subnetwork.load(tmp_path / "one.safetensors")
    assert loaded.hash == one.hash and loaded.table().equals(one.table())
    one.save_pretrained(tmp_path / "folder")
    assert Subnetwork.from_pretrained(tmp_path / "folder").hash == one.hash


def test_a_part_is_saved_with_what_it_is_a_part_of(model, tmp_path):
    for some in (Subnetwork.mlp(model, 1), Subnetwork.mlp(model, 1, [0], expert=1)):
        some.save(tmp_path / "part.safetensors")
        assert Subnetwork.load(tmp_path / "part.safetensors").provenance == json.loads(json.dumps(some.provenance))


def test_the_picture_of_a_notebook_has_one_row_for_each_layer(model):
    half = random_half(model)
    assert half._repr_html_() and svg(density_grid(half.table())).count("text-anchor='end'") == 2


def test_overlap_takes_the_experts_of_a_layer_together(model):
    one, other = random_half(model), random_half(model, seed=1)
    found = overlap_test(one, other)
    layers = found[found.layer.notna()]
    assert not layers.duplicated(["layer", "component"]).any()
    assert layers.overlap.sum() == found.iloc[-1].overlap == (one & other).kept
    assert jaccard(one, other) == (one & other).kept / (one | other).kept


def test_parts_of_a_circuit_are_heads_and_whole_mlps(model):
    parts = [part(model, name) for name in part_names(model)]
    whole = parts[0]
    for other in parts[1:]:
        whole = whole | other
    assert whole.density == 1


def test_dimensions_of_the_first_mlp_are_counted_by_expert(shared):
    counts = first_mlp_dimensions(Subnetwork.mlp(shared, 0, [7], expert=2).units())
    assert counts.index.names == ["expert", "unit"] and len(counts) == EXPERTS * 24 + 20
    assert counts[counts > 0].index.tolist() == [(2, 7)]


def test_the_authors_pickles_are_refused_for_mixtures(model, tmp_path):
    with pytest.raises(ValueError, match=r"The model has experts \('model.*Subnetwork.save"):
        save_published(random_half(model), "some/model", tmp_path / "masks.pkl")
    (tmp_path / "masks.pkl").write_bytes(b"anything")
    with pytest.raises(ValueError, match="The model has experts"):
        load_published(tmp_path / "masks.pkl", model)
