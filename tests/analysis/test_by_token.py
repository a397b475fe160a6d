"""A model without attention is computed once for each token, and measures what it measures otherwise."""

import numpy as np
import pytest
import torch
from conftest import token_ids

from bigramlib import Subnetwork, evaluate
from bigramlib.analysis import by_token, residual
from bigramlib.analysis.by_token import token_by_token, without_attention
from bigramlib.analysis.residual import residual_stream

WITH_POSITIONS = ("tiny gpt2",)
"""Models with an embedding of each position, so that the same token has other predictions elsewhere."""


def mlps(model):
    """All MLP weights, and nothing of attention."""
    found = Subnetwork.empty(model)
    for layer in range(model.architecture.layers):
        found = found | Subnetwork.mlp(model, layer)
    return found


@pytest.fixture
def computed(any_model, monkeypatch):
    """How many tokens were computed."""
    found, plain = [], type(any_model).hidden
    monkeypatch.setattr(type(any_model), "hidden", lambda self, ids: found.append(ids.numel()) or plain(self, ids))
    return found


def test_a_subnetwork_without_attention_is_measured_once_a_token(any_model, held_out, table, computed, monkeypatch):
    given = {"sequence_length": 32, "batch_size": 3, "max_tokens": None}
    fast = evaluate(any_model, held_out, table, mlps(any_model), **given)
    once = sum(computed)
    monkeypatch.setattr("bigramlib.analysis.evaluate.without_attention", lambda model: False)
    usual = evaluate(any_model, held_out, table, mlps(any_model), **given)
    assert np.allclose(fast.surprisals, usual.surprisals, atol=1e-4)
    assert fast.kl == pytest.approx(usual.kl, abs=1e-5) and fast.r == pytest.approx(usual.r, abs=1e-5)
    all_tokens, tried = sum(computed) - once, by_token.COMPARED * 32
    if any_model.name in WITH_POSITIONS:
        assert once > all_tokens
    else:
        assert once == tried + len(np.unique(held_out.windows(32, None)[0]))


def test_residual_streams_without_attention_are_computed_once_a_token(any_model, monkeypatch):
    ids, asked = token_ids(shape=(6, 32)).numpy(), []

    def counted(passed, first, tokens):
        return token_by_token(lambda given: asked.append(given.numel()) or passed(given), first, tokens)

    monkeypatch.setattr(residual, "token_by_token", counted)
    fast = [stream for _, stream in residual_stream(any_model, ids, mlps(any_model), batch_size=3)]
    monkeypatch.setattr(residual, "STREAMS_AT_ONCE", 0)
    usual = [stream for _, stream in residual_stream(any_model, ids, mlps(any_model), batch_size=3)]
    for once, each in zip(fast, usual, strict=True):
        assert once.shape == each.shape and torch.allclose(once, each, rtol=1e-4, atol=1e-4)
    if any_model.name in WITH_POSITIONS:
        assert sum(asked) > ids.size
    else:
        assert sum(asked) == by_token.COMPARED * 32 + len(np.unique(ids))


def test_any_weight_of_attention_is_seen(any_model):
    names = [name for name in any_model.maskable if name not in any_model.architecture.within(None, False)]
    with mlps(any_model).applied(any_model):
        assert without_attention(any_model)
        for name in names:
            any_model.maskable[name].view(-1)[-1] = 1.0
            assert not without_attention(any_model)
            any_model.maskable[name].view(-1)[-1] = 0.0
    assert not without_attention(any_model)


def test_tokens_are_computed_when_they_are_first_asked_for():
    asked = []

    def passed(ids):
        asked.append(ids.flatten().tolist())
        return ids[..., None] * torch.tensor([1.0, 2.0]), ids + 0.5

    ids = torch.tensor([[5, 3, 5], [3, 3, 9], [9, 5, 7]])
    once = token_by_token(passed, ids[:1], ids.unique())
    del asked[:]
    hidden, other = once(ids)
    assert asked == [[7, 9]]
    assert torch.equal(hidden, ids[..., None] * torch.tensor([1.0, 2.0])) and torch.equal(other, ids + 0.5)
    assert torch.equal(once(ids[1:])[0], hidden[1:]) and asked == [[7, 9]]


def test_a_pass_of_which_any_tensor_reads_other_tokens_stays_as_it_is():
    ids = token_ids()

    def summed(ids):
        return torch.ones_like(ids), ids.cumsum(1).float()[..., None]

    assert token_by_token(summed, ids, ids.unique()) is summed
