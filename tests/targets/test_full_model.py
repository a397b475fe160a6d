"""A model as the target: no divergence from itself, the hash of its predictions, its entropy."""

import copy

import pytest
import torch
from conftest import build, token_ids

from bigramlib import LanguageModel, ModelTarget


def test_the_full_model_has_no_divergence_from_itself_and_another_has_some(model, tokenizer):
    ids = token_ids(5)
    divergence = ModelTarget(model).bind(model)
    own, other = (candidate.hidden(ids) for candidate in (model, build("gpt_neox", tokenizer, seed=1)))
    assert divergence(ids, own).abs().max() < 1e-5
    assert divergence(ids, other).min() > 1e-3


def test_a_target_model_of_another_vocabulary_is_refused(model):
    with pytest.raises(ValueError, match=r"target model .* has 280 tokens"):
        ModelTarget(model).bind(_with_vocabulary(model, 200))


def test_the_hash_of_a_model_target_is_that_of_its_model(model, tokenizer):
    assert ModelTarget(model).hash == ModelTarget(build("gpt_neox", tokenizer)).hash
    assert ModelTarget(model).hash != ModelTarget(build("gpt_neox", tokenizer, seed=1)).hash


def test_the_entropy_of_a_model_target_is_known_before_and_after_its_divergence(model, monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", 1)
    ids = token_ids()
    bound = ModelTarget(model).bind(model)
    with torch.no_grad():
        log_probability = model.unembed(model.hidden(ids)).log_softmax(-1)
        expected = -(log_probability.exp() * log_probability).sum(-1)
        before = bound.entropy(ids)
        bound(ids, model.hidden(ids))
        monkeypatch.setattr(LanguageModel, "hidden", None)
        assert torch.allclose(before, expected, atol=1e-5) and torch.allclose(bound.entropy(ids), expected, atol=1e-5)
    with pytest.raises(TypeError):
        bound.entropy(ids.clone())


def _with_vocabulary(model, size):
    other = copy.copy(model)
    other.__dict__["vocabulary_size"] = size
    return other
