"""Losses over a large vocabulary are the plain ones, whatever the part that is in memory."""

import pytest
import torch
from conftest import VOCABULARY, build, token_ids

from bigramlib import ModelTarget
from bigramlib.models.logits import log_partition, row_chunks


def plain(hidden, unembedding, bias, cap):
    logits = torch.nn.functional.linear(hidden, unembedding, bias)
    return (logits if cap is None else cap * torch.tanh(logits / cap)).logsumexp(-1)


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("at_once", [1, 15 * 64, 2**22])
def test_log_partition_and_its_gradient_are_those_of_all_logits(at_once, with_bias, cap, monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    unembedding, bias = torch.randn(301, 32, generator=generator), torch.randn(301, generator=generator)
    hidden, outer = torch.randn(3, 5, 32, generator=generator).requires_grad_(), torch.rand(3, 5, generator=generator)
    found = []
    for function in (log_partition, plain):
        values = function(hidden, unembedding, bias if with_bias else None, cap)
        found.append((values.detach(), *torch.autograd.grad((values * outer).sum(), hidden)))
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_log_partition_survives_logits_that_overflow_an_exponential(monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", 2)
    hidden, unembedding = torch.eye(2), torch.tensor([[-900.0, 0.0], [900.0, 1.0], [899.0, 2.0]])
    assert torch.allclose(log_partition(hidden, unembedding), plain(hidden, unembedding, None, None))


def test_log_partition_in_lower_precision_is_close(monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", 64)
    generator = torch.Generator().manual_seed(0)
    unembedding = torch.randn(301, 32, generator=generator)
    hidden = torch.randn(4, 32, generator=generator).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        values = log_partition(hidden, unembedding)
    (gradient,) = torch.autograd.grad(values.sum(), hidden)
    exact = plain(hidden, unembedding, None, None)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), hidden)
    assert values.dtype == gradient.dtype == torch.float32
    assert torch.allclose(values, exact, atol=0.1)
    assert torch.nn.functional.cosine_similarity(gradient, exact_gradient).min() > 0.999


@pytest.mark.parametrize("to_itself", [False, True])
def test_parts_of_a_batch_give_the_losses_and_gradients_of_the_whole(any_model, table, to_itself, monkeypatch):
    target = ModelTarget(build(any_model.architecture.model_type, any_model.tokenizer, seed=9)) if to_itself else table
    divergence = target.bind(any_model)
    ids, weights = token_ids(3, (5, 7)), torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    found = []
    for at_once in (2**22, 2 * 7 * VOCABULARY):
        monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", at_once)
        hidden = any_model.hidden(ids).requires_grad_()
        losses = divergence(ids, hidden)
        (losses * weights).sum().backward()
        found.append((losses.detach(), hidden.grad))
    assert len(row_chunks(5, 7, VOCABULARY)) == 3
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, atol=1e-5)


def test_the_logit_of_a_token_is_that_of_the_unembedding(any_model):
    ids = token_ids(6)
    hidden = any_model.hidden(ids)
    expected = any_model.unembed(hidden).gather(-1, ids[..., None])[..., 0]
    assert torch.allclose(any_model.logits_of(hidden, ids), expected, atol=1e-4)
