"""Behaviours choose the tokens that they claim to choose, and their losses are the model's cross-entropy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build
from torch.nn import functional

from bigramlib import Subnetwork, evaluate
from bigramlib.analysis.behaviours import (
    inexplicable_tokens,
    repeated_sequences,
    running_text,
    token_losses,
    token_losses_of_each,
)


@pytest.fixture(scope="module")
def text(corpus):
    return running_text(corpus, 512)


def test_losses_are_the_cross_entropy_of_the_chosen_tokens(any_model, text):
    some = Subnetwork.full(any_model).random_like(0) - Subnetwork.layer(any_model, 1)
    with some.applied(any_model), torch.no_grad():
        logits = any_model.hf(torch.from_numpy(text.ids)).logits[..., : any_model.vocabulary_size]
    expected = functional.cross_entropy(logits.transpose(1, 2), torch.from_numpy(text.following), reduction="none")
    assert np.allclose(token_losses(any_model, some, text), expected.numpy()[text.chosen], atol=1e-3)


def test_losses_of_each_of_several_subnetworks_are_those_of_each_alone(any_model, corpus):
    behaviour, full = repeated_sequences(corpus, sequences=35, length=10), Subnetwork.full(any_model)
    several = [Subnetwork.empty(any_model), Subnetwork.heads(any_model, [(1, 1)]), full, full.random_like(0)]
    several += [full - Subnetwork.mlp(any_model, 1), Subnetwork.layer(any_model, 0)]
    found = token_losses_of_each(any_model, lambda: iter(several), behaviour)
    weights = any_model.weights_hash
    assert all(np.array_equal(row, token_losses(any_model, one, behaviour)) for row, one in zip(found, several, strict=True))
    assert any_model.weights_hash == weights


def test_a_subnetwork_of_another_model_is_refused_among_others(model, tokenizer, text):
    foreign = Subnetwork.full(model)
    foreign.provenance.update(build("gpt_neox", tokenizer, seed=1).facts())
    with pytest.raises(ValueError, match="The subnetwork was found in"):
        token_losses_of_each(model, lambda: [Subnetwork.full(model), foreign], text)


def test_running_text_is_what_evaluate_sees(model, corpus, table, text):
    measured = evaluate(model, corpus, table, max_tokens=512)
    assert token_losses(model, Subnetwork.full(model), text).mean() == pytest.approx(measured.cross_entropy, abs=1e-5)


def test_the_second_copy_repeats_the_first(corpus):
    behaviour = repeated_sequences(corpus, sequences=5, length=20, seed=1)
    for tokens in (behaviour.ids, behaviour.following):
        copies = [tokens[chosen].reshape(5, -1) for chosen in (behaviour.compared, behaviour.chosen)]
        assert copies[0].shape == (5, 19)
        assert np.array_equal(*copies)


def test_induction_is_the_difference_of_the_copies(any_model, corpus):
    behaviour = repeated_sequences(corpus, sequences=3, length=10)
    second, first = (
        token_losses(any_model, Subnetwork.full(any_model), replace(behaviour, chosen=chosen, compared=None))
        for chosen in (behaviour.chosen, behaviour.compared)
    )
    assert np.allclose(token_losses(any_model, Subnetwork.full(any_model), behaviour), second - first, atol=1e-4)
    assert np.abs(second - first).max() > 0.01


def test_random_tokens_follow_the_unigram_distribution(corpus):
    ids = repeated_sequences(corpus, sequences=200, length=40).ids
    drawn = np.bincount(ids.ravel(), minlength=corpus.vocabulary_size) / ids.size
    own = np.bincount(corpus.ids, minlength=corpus.vocabulary_size) / len(corpus)
    assert np.abs(drawn - own).max() < 0.02
    assert not drawn[own == 0].any()


def test_inexplicable_tokens_are_those_that_the_model_predicts_better_by_the_margin(model, corpus, table):
    chosen = inexplicable_tokens(model, corpus, table, margin=-2.0, max_tokens=512)
    measured = evaluate(model, corpus, table, max_tokens=512)
    finite = measured.bigram_surprisals[np.isfinite(measured.bigram_surprisals)]
    better = np.minimum(measured.bigram_surprisals, finite.max()) - measured.surprisals
    assert chosen.chosen.sum() == (better >= -2.0).sum() > 0
    assert token_losses(model, Subnetwork.full(model), chosen).mean() == pytest.approx(
        measured.surprisals[better >= -2.0].mean() * np.log(2), abs=1e-4
    )


def test_a_behaviour_without_tokens_is_refused(model, corpus, table):
    with pytest.raises(ValueError, match="No token of the behaviour 'bigram-inexplicable tokens' is chosen"):
        inexplicable_tokens(model, corpus, table, margin=1000.0, max_tokens=512)
