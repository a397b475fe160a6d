"""A subnetwork is a set of weights: it has the laws of sets, applies and restores."""

import pytest
import torch
from conftest import build

from bigramlib import Subnetwork


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


def test_applied_zeroes_what_is_not_kept_and_restores_even_after_an_error(any_model):
    some = Subnetwork.full(any_model).random_like(0) & Subnetwork.empty(any_model).__invert__().random_like(5)
    masks = {name: torch.rand(mask.shape) < 0.3 for name, mask in some.masks.items()}
    some = Subnetwork(masks, any_model.architecture)
    before = {name: weight.clone() for name, weight in any_model.maskable.items()}
    with pytest.raises(KeyboardInterrupt), some.applied(any_model):
        assert all(torch.equal(weight, before[name] * masks[name]) for name, weight in any_model.maskable.items())
        raise KeyboardInterrupt
    assert all(torch.equal(weight, before[name]) for name, weight in any_model.maskable.items())


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


def test_a_terminal_shows_its_size_and_the_model_that_it_names(model, half):
    assert repr(half) == f"Subnetwork: {half.kept:,} of {half.total:,} maskable weights ({half.density:.2%})"
    assert repr(Subnetwork.full(model)).startswith("Subnetwork of 'tiny gpt_neox': ")


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
