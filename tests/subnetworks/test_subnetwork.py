"""A subnetwork is a set of weights: it has the laws of sets, applies and restores, and survives the disk."""

import re

import pytest
import torch
from conftest import GROUPED, build, token_ids
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from bigramlib import LanguageModel, Subnetwork
from bigramlib.subnetworks.subnetwork import first_mlp_dimensions, gini, layer_shares


@pytest.fixture
def half(model) -> Subnetwork:
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.5 for name, weight in model.maskable.items()}
    return Subnetwork(masks, model.architecture, {"sparsity_penalty": 3.0, "converged": True})


def test_sets_obey_their_laws(model, half):
    full, empty, other = Subnetwork.full(model), Subnetwork.empty(model), half.random_like(1)
    assert (half | ~half).hash == full.hash
    assert (half & ~half).hash == empty.hash
    assert (half - other).hash == (half & ~other).hash
    assert (~(half | other)).hash == (~half & ~other).hash
    assert half.kept + (~half).kept == full.kept == half.total
    assert empty.density == 0


def test_subnetworks_of_different_models_do_not_combine(half, tokenizer):
    with pytest.raises(ValueError, match="combine subnetworks of one model"):
        half & Subnetwork.full(build("llama", tokenizer))


def test_random_controls_keep_the_count_of_each_matrix_in_other_places(half):
    random = half.random_like(0)
    assert all(random.masks[name].sum() == mask.sum() for name, mask in half.masks.items())
    assert random.hash == half.random_like(0).hash != half.random_like(1).hash != half.hash


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
    counts = first_mlp_dimensions(two | Subnetwork.mlp(any_model, 1, [0]) | Subnetwork.head(any_model, 0, 0))
    assert counts.index.tolist() == list(range(size))
    assert {unit: kept for unit, kept in counts.items() if kept} == {1: one.kept, size - 1: two.kept - one.kept}


def test_dimensions_of_the_first_mlp_add_up_to_its_share(any_model):
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.3 for name, weight in any_model.maskable.items()}
    some = Subnetwork(masks, any_model.architecture)
    assert 0 < first_mlp_dimensions(some).sum() < some.kept
    assert first_mlp_dimensions(some).sum() / some.kept == pytest.approx(some.first_mlp_share())


def test_applied_zeroes_what_is_not_kept_and_restores_even_after_an_error(any_model):
    some = Subnetwork.full(any_model).random_like(0) & Subnetwork.empty(any_model).__invert__().random_like(5)
    masks = {name: torch.rand(mask.shape) < 0.3 for name, mask in some.masks.items()}
    some = Subnetwork(masks, any_model.architecture)
    before = {name: weight.clone() for name, weight in any_model.maskable.items()}
    with pytest.raises(KeyboardInterrupt), some.applied(any_model):
        assert all(torch.equal(weight, before[name] * masks[name]) for name, weight in any_model.maskable.items())
        raise KeyboardInterrupt
    assert all(torch.equal(weight, before[name]) for name, weight in any_model.maskable.items())


def test_applying_to_another_model_names_the_difference(half, tokenizer):
    with pytest.raises(ValueError, match="a model with model_type gpt_neox, but 'tiny llama' has llama"):
        half.check_fits(build("llama", tokenizer))


def test_masks_must_be_those_of_the_architecture(model, half):
    first = next(iter(half.masks))
    with pytest.raises(ValueError, match="exactly the maskable parameters"):
        Subnetwork({name: mask for name, mask in half.masks.items() if name != first}, model.architecture)
    with pytest.raises(ValueError, match="must be a bool matrix"):
        Subnetwork({**half.masks, first: half.masks[first].float()}, model.architecture)


def test_saving_and_loading_keeps_masks_and_provenance_in_one_bit_a_weight(any_model, tmp_path):
    masks = {name: torch.rand(weight.shape) < 0.3 for name, weight in any_model.maskable.items()}
    saved = Subnetwork(masks, any_model.architecture, {"a": [1, {"b": 0.5}]})
    saved.save(tmp_path / "mask.safetensors")
    loaded = Subnetwork.load(tmp_path / "mask.safetensors")
    assert loaded.hash == saved.hash
    assert loaded.provenance == saved.provenance
    assert loaded.architecture == any_model.architecture
    assert (tmp_path / "mask.safetensors").stat().st_size < saved.total / 8 + 8000


def test_a_truncated_file_is_refused_at_any_length(half, tmp_path):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    whole = path.read_bytes()
    for length in (0, 4, 9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole subnetwork file of this library"):
            Subnetwork.load(path)


def test_a_flipped_bit_is_noticed(half, tmp_path):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    altered = bytearray(path.read_bytes())
    altered[-10] ^= 1
    path.write_bytes(bytes(altered))
    with pytest.raises(ValueError, match="hash that it states"):
        Subnetwork.load(path)


def test_any_flipped_bit_of_the_file_is_noticed_or_harmless(half, tmp_path):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, 8 * len(whole), 37):
        altered = bytearray(whole)
        altered[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(altered))
        try:
            loaded = Subnetwork.load(path)
        except ValueError as error:
            assert "not a whole subnetwork file" in str(error)
            refused += 1
        else:
            assert (loaded.hash, loaded.provenance, loaded.architecture) == (half.hash, half.provenance, half.architecture)
    assert refused > 0.95 * 8 * len(whole) / 37


@pytest.mark.parametrize("header", ["[]", "{}", "not json", '{"format": "another"}'])
def test_a_foreign_header_is_refused(tmp_path, header):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors", metadata={"bigramlib": header})
    with pytest.raises(ValueError, match="not a whole subnetwork file"):
        Subnetwork.load(tmp_path / "foreign.safetensors")


def test_nested_subnetworks_apply_as_their_intersection(model, half):
    other = half.random_like(4)
    with half.applied(model), other.applied(model):
        nested = {name: weight.clone() for name, weight in model.maskable.items()}
    with (half & other).applied(model):
        assert all(torch.equal(weight, nested[name]) for name, weight in model.maskable.items())


def test_the_hash_of_a_model_is_that_of_the_weights_it_has_now(model, half):
    full = model.weights_hash
    with half.applied(model):
        assert model.weights_hash != full
    assert model.weights_hash == full


def test_masks_of_another_width_name_the_matrix(tokenizer):
    widths = (LlamaConfig(**GROUPED | {"hidden_size": width}, max_position_embeddings=64) for width in (16, 24))
    narrow, wide = (LanguageModel("a llama", AutoModelForCausalLM.from_config(config), tokenizer) for config in widths)
    with pytest.raises(ValueError, match=r"mask of 'model.layers.0.* is \(16, 16\), but in 'a llama' .* \(16, 24\)"):
        Subnetwork.full(narrow).check_fits(wide)


def test_foreign_and_missing_files_are_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not a whole subnetwork file"):
        Subnetwork.load(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError, match="no subnetwork file"):
        Subnetwork.load(tmp_path / "missing.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(half, tmp_path, monkeypatch):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    before = path.read_bytes()

    def fail(packed, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("bigramlib.subnetworks.subnetwork.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        (~half).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*mask*")) == [path]


def test_jupyter_shows_size_place_and_provenance(half):
    html = half._repr_html_()
    for part in (
        f"{half.kept:,} of {half.total:,}",
        f"({half.density:.2%})",
        ">density<",
        "in the first MLP",
        "sparsity_penalty",
        "mlp out",
        "<table",
    ):
        assert part in html


def test_gini_is_zero_for_equals_and_nears_one_for_a_single_holder():
    assert gini([3, 3, 3]) == pytest.approx(0)
    assert gini([0] * 99 + [5]) == pytest.approx(0.99)
    assert gini([0, 0]) == 0


def test_a_head_alone_is_what_its_views_cover(any_model):
    shape = any_model.architecture
    for layer, head in ((0, 0), (1, shape.heads - 1)):
        found = Subnetwork.head(any_model, layer, head)
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
    head = Subnetwork.head(any_model, 0, 1)
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
        (lambda model: Subnetwork.head(model, 0, -1), "There is no head -1; the model has 2, numbered from 0."),
        (lambda model: Subnetwork.mlp(model, 0, [24]), "There is no MLP dimension 24; the model has 24, numbered from 0."),
    ],
)
def test_parts_that_do_not_exist_are_refused(model, edit, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        edit(model)


def test_layer_shares_add_up_to_the_table(half):
    shares = layer_shares([half, half.random_like(0) & half])
    first = shares[shares.kept == half.kept]
    assert first.share.sum() == pytest.approx(1.0)
    mlp = half.table().query("layer == 1 and component.str.startswith('mlp')").share.sum()
    assert first.query("layer == 1 and kind == 'mlp'").share.item() == pytest.approx(mlp)
    assert len(shares) == 2 * 2 * 2


@pytest.fixture
def bound(model, half) -> Subnetwork:
    """As if found in the model by training."""
    return Subnetwork(half.masks, half.architecture, {"model": model.name, "weights_hash": model.weights_hash})


def derived(bound):
    full = bound | ~bound
    return {
        "itself": bound, "complement": ~bound, "random": bound.random_like(0), "union": full, "difference": full - bound,
        "complement of random": ~bound.random_like(1),
    }  # fmt: skip


def test_what_was_found_in_a_model_is_refused_on_other_weights_unless_transplanted_on_purpose(model, bound, tokenizer):
    other = build("gpt_neox", tokenizer, seed=1)
    for found in derived(bound).values():
        with found.applied(model):
            pass
        message = rf"found in 'tiny gpt_neox' with the weights {model.weights_hash[:12]}, but 'tiny gpt_neox' has the weights"
        with pytest.raises(ValueError, match=message), found.applied(other):
            pass
        moved = found.transplanted(other)
        with moved.applied(other):
            assert all(torch.equal(other.maskable[name] != 0, mask) for name, mask in moved.masks.items())
        assert moved.hash == found.hash and moved.provenance["from"] == found.provenance
        with pytest.raises(ValueError, match=r"take subnetwork\.transplanted"):
            moved.check_fits(model)
    with pytest.raises(ValueError, match="a model with model_type gpt_neox, but 'tiny llama' has llama"):
        bound.transplanted(build("llama", tokenizer))


def test_what_is_defined_by_place_alone_is_of_every_model_of_its_shape(model, half, tokenizer):
    other = build("gpt_neox", tokenizer, seed=1)
    for found in (half, Subnetwork.full(model), Subnetwork.head(model, 0, 1), ~Subnetwork.mlp(model, 1)):
        with found.applied(other):
            pass


def test_a_subnetwork_of_weights_beneath_others_is_applied_within_them(model, bound, tokenizer):
    half = bound.random_like(0)
    with half.applied(model):
        of_half = Subnetwork(bound.masks, bound.architecture, {"model": "half", "weights_hash": model.weights_hash})
        with bound.applied(model), of_half.applied(model):
            pass
    with pytest.raises(ValueError, match="found in 'half' with the weights"), of_half.applied(model):
        pass
    assert model.identity.beneath == []
