"""A mask of a mixture of experts is trained like any other, and ends in the same bits after an interruption."""

from dataclasses import replace

import pytest
import torch
from conftest import token_ids
from mixtures import MIXTURES, mixture
from searches import QUICK, cut

from bigramlib import find_subnetwork
from bigramlib.training.gates import Gates

SHORT = replace(QUICK, steps=6, learning_rate=0.3, undecided_share=-1.0)


@pytest.fixture(scope="module", params=MIXTURES)
def model(request, tokenizer):
    return mixture(request.param, tokenizer)


def test_a_search_that_is_cut_off_ends_in_the_same_bits(model, table, corpus, tmp_path, monkeypatch):
    expected = find_subnetwork(model, table, corpus, SHORT)
    assert 0 < expected.kept < expected.total
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    with cut(3):
        find_subnetwork(model, table, corpus, SHORT)
    assert find_subnetwork(model, table, corpus, SHORT).hash == expected.hash


def test_experts_of_layers_that_are_not_searched_keep_nothing(model, table, corpus):
    found = find_subnetwork(model, table, corpus, replace(SHORT, layers=1, attention=False)).table()
    kept = found[found.kept > 0]
    assert set(kept.layer) == {0} and kept.component.str.startswith("mlp").all()
    assert kept.total.sum() == found[(found.layer == 0) & found.component.str.startswith("mlp")].total.sum()


def test_gates_multiply_the_weights_of_each_expert(model):
    gates = Gates(model, SHORT)
    with torch.no_grad():
        for block in gates.blocks.values():
            block.logits.copy_(torch.randn(block.logits.shape, generator=torch.Generator().manual_seed(0)))
    gates.begin_step(2.0)
    logits = {name: part for block in gates.blocks.values() for name, part in block.split(block.logits.detach())}
    masked = {name: weight * torch.sigmoid(2.0 * logits[name]) for name, weight in model.maskable.items()}
    assert torch.allclose(gates.hidden(token_ids()).detach(), model.hidden(token_ids(), masked), atol=1e-5)
