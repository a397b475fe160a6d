"""Some weights of a model have other values for a while, or are not used at all, and the model stays as it was."""

import copy

import pytest
import torch
from conftest import build, token_ids

from bigramlib import LanguageModel, Subnetwork


def test_replaced_weights_are_used_and_leave_the_model_alone(any_model):
    ids = token_ids()
    before = any_model.hidden(ids)
    doubled = {name: 2 * weight for name, weight in any_model.maskable.items()}
    assert not torch.allclose(any_model.hidden(ids, doubled), before)
    assert torch.equal(any_model.hidden(ids), before)


def test_a_skipped_block_writes_what_it_writes_without_its_weights(any_model):
    ids = token_ids(0, (2, 9))
    full = Subnetwork.full(any_model)
    for blocks in ([block] for block in any_model.architecture.blocks):
        dropped = [name for block in blocks for name in any_model.architecture.blocks[block]]
        masks = {name: torch.zeros_like(mask) if name in dropped else mask for name, mask in full.masks.items()}
        with Subnetwork(masks, any_model.architecture).applied(any_model):
            expected = any_model.hidden(ids)
        whole = any_model.hidden(ids)
        with any_model.skipping(blocks):
            assert torch.allclose(any_model.hidden(ids), expected, atol=1e-5)
        assert not torch.allclose(whole, expected, atol=1e-3)
        assert torch.equal(any_model.hidden(ids), whole)


def test_a_model_without_its_matrices_names_the_missing_one(tokenizer):
    hf = copy.deepcopy(build("llama", tokenizer).hf)
    del hf.model.layers[0].mlp.up_proj
    with pytest.raises(ValueError, match=r"has no parameter 'model.layers.0.mlp.up_proj.weight', which .* should have"):
        LanguageModel("odd", hf, tokenizer)
