"""What was found in a model belongs to it, and is refused on another."""

import pytest
import torch
from conftest import build

from bigramlib import Subnetwork


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
    for found in (half, Subnetwork.full(model), Subnetwork.heads(model, [(0, 1)]), ~Subnetwork.mlp(model, 1)):
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
