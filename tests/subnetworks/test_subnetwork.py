"""A subnetwork is a set of weights: it has the laws of sets, applies and restores."""

import numpy as np
import pytest
import torch
from conftest import build

from bigramlib import Subnetwork, evaluate


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


def test_equal_is_what_keeps_the_same_weights_wherever_it_comes_from(model, half, tokenizer):
    same = Subnetwork(dict(reversed(half.masks.items())), half.architecture, {"origin": "elsewhere"})
    assert same == half and hash(same) == hash(half) and same.hash == half.hash
    assert ~~half == half != ~half
    assert half != half.random_like(0) and half != "half"
    assert {half, same, ~half} == {half, ~half}
    assert Subnetwork.empty(model) != Subnetwork.empty(build("llama", tokenizer))


def test_evaluating_leaves_the_correlation_on_the_subnetwork_alone(model, half, table, held_out):
    result = evaluate(model, held_out, table, half)
    assert half.measured["r"] == result.r and half.measured["tokens"] == len(result.surprisals)
    assert f"r {result.r:.3f}" in repr(half) and f"{result.r:.3f} (" in half._repr_html_()
    assert not (~half).measured and not half.transplanted(model).measured


def test_within_another_subnetwork_the_correlation_is_not_its_own(model, half, table, held_out):
    with half.random_like(1).applied(model):
        evaluate(model, held_out, table, half)
    assert not half.measured


def test_heads_in_one_call_are_the_union_of_each(model):
    both = Subnetwork.heads(model, [(0, 1), (1, 0)])
    assert both == Subnetwork.heads(model, np.array([[1, 0]])) | Subnetwork.heads(model, [(0, 1)])
    assert both.provenance["heads"] == [(0, 1), (1, 0)]
    assert Subnetwork.heads(model, []) == Subnetwork.empty(model)
    for wrong in ([0, 1], ["head 0.1"], [(0, 1, 2)]):
        with pytest.raises(ValueError, match="Heads are named by pairs of layer and head"):
            Subnetwork.heads(model, wrong)
