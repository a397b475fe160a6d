"""The sparse loss is the dense one; counts are what a loop would count."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
import torch
from conftest import PADDED, VOCABULARY, build, token_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from bigramlib import BigramTable, LanguageModel, ModelTarget, TokenCorpus

documents = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=12), min_size=1, max_size=6)


def as_corpus(texts: list[list[int]], vocabulary_size: int = 7) -> TokenCorpus:
    starts = np.cumsum([0, *(len(text) for text in texts[:-1])])
    return TokenCorpus(np.concatenate([np.array(text, dtype=np.int64) for text in texts]), starts, vocabulary_size)


@given(documents)
@settings(deadline=None)
def test_counts_equal_a_loop_within_documents(texts):
    expected = np.zeros((7, 7), dtype=int)
    for text in texts:
        for current, following in pairwise(text):
            expected[current, following] += 1
    assert np.array_equal(BigramTable.from_corpus(as_corpus(texts)).counts.toarray(), expected)


@given(documents, st.integers(1, 20))
@settings(deadline=None)
def test_counting_in_parts_gives_the_table_of_one_pass(texts, at_once):
    corpus = as_corpus(texts)
    whole = BigramTable.from_corpus(corpus)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigramlib.text.corpus.TOKENS_AT_ONCE", at_once)
        parts = BigramTable.from_corpus(corpus)
    assert parts.hash == whole.hash
    assert parts.counts.nnz == whole.counts.nnz == len({pair for text in texts for pair in pairwise(text)})


@given(documents)
@settings(deadline=None)
def test_every_prediction_sums_to_one_and_unseen_contexts_back_off(texts):
    table = BigramTable.from_corpus(as_corpus(texts))
    rows = table.probabilities(np.arange(7))
    assert np.allclose(rows.sum(axis=1), 1)
    unigram = np.bincount(np.concatenate(texts), minlength=7) / sum(map(len, texts))
    assert np.allclose(rows[~table.seen], unigram)


def test_without_counts_the_prediction_is_uniform():
    table = BigramTable(scipy.sparse.csr_array((4, 4), dtype=int), np.zeros(4, dtype=int))
    assert np.allclose(table.probabilities(np.arange(4)), 0.25)
    assert np.allclose(table.entropy, np.log(4))


def test_surprisals_are_minus_log2_of_the_probabilities(table):
    current, following = np.arange(VOCABULARY).repeat(VOCABULARY), np.tile(np.arange(VOCABULARY), VOCABULARY)
    rows = table.probabilities(np.arange(VOCABULARY))
    with np.errstate(divide="ignore"):
        assert np.allclose(table.surprisals(current, following), -np.log2(rows.ravel()))


@pytest.mark.parametrize("kind", ["bigram", "unigram"])
def test_loss_and_gradient_equal_dense_cross_entropy_minus_entropy(any_model, table, kind):
    target = table if kind == "bigram" else table.unigram()
    ids = token_ids(3)
    dense = torch.from_numpy(target.probabilities(ids.flatten().numpy())).float()
    gradients, values = [], []
    for loss in (
        lambda hidden: target.bind(any_model)(ids, hidden),
        lambda hidden: (
            functional.cross_entropy(any_model.unembed(hidden).flatten(0, 1), dense, reduction="none").view(ids.shape)
            - torch.special.entr(dense).sum(-1).view(ids.shape)
        ),
    ):
        hidden = any_model.hidden(ids).clone().requires_grad_()
        values.append(loss(hidden))
        gradients.append(torch.autograd.grad(values[-1].sum(), hidden)[0])
    assert torch.allclose(values[0], values[1], atol=2e-4, rtol=1e-4)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5, rtol=1e-3)


def test_an_unembedding_bias_enters_the_expected_logit(tokenizer, table):
    model = build("gpt_neox", tokenizer)
    model.hf.get_output_embeddings().bias = torch.nn.Parameter(torch.randn(PADDED), requires_grad=False)
    ids = token_ids(4)
    hidden = model.hidden(ids)
    dense = torch.from_numpy(table.probabilities(ids.flatten().numpy())).float()
    expected = functional.kl_div(model.unembed(hidden).log_softmax(-1).flatten(0, 1), dense, reduction="none").sum(-1)
    assert torch.allclose(table.bind(model)(ids, hidden).flatten(), expected, atol=1e-4)


def test_the_full_model_has_no_divergence_from_itself_and_another_has_some(model, tokenizer):
    ids = token_ids(5)
    divergence = ModelTarget(model).bind(model)
    own, other = (candidate.hidden(ids) for candidate in (model, build("gpt_neox", tokenizer, seed=1)))
    assert divergence(ids, own).abs().max() < 1e-5
    assert divergence(ids, other).min() > 1e-3


def test_table_of_another_vocabulary_is_refused(model):
    small = BigramTable(scipy.sparse.csr_array((4, 4), dtype=int), np.zeros(4, dtype=int))
    with pytest.raises(ValueError, match=r"vocabulary of 4, but the model 'tiny gpt_neox' has 280"):
        small.bind(model)
    with pytest.raises(ValueError, match=r"target model .* has 280 tokens"):
        ModelTarget(model).bind(_with_vocabulary(model, 200))


def test_the_hash_depends_on_the_counts(table, corpus):
    assert table.hash == BigramTable.from_corpus(corpus).hash
    assert table.hash != table.unigram().hash
    assert table.hash != BigramTable(table.counts * 2, table.unigram_counts).hash
    assert table.hash != BigramTable(table.counts, table.unigram_counts + 1).hash


def test_the_hash_of_a_table_of_fractions_depends_on_the_fractions():
    one, other = (scipy.sparse.csr_array(np.array([[a, 1 - a], [0.5, 0.5]])) for a in (0.3, 0.4))
    assert BigramTable(one, np.ones(2, int)).hash != BigramTable(other, np.ones(2, int)).hash


def test_counts_that_do_not_fit_or_are_negative_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 4\) do not fit 3 unigram counts"):
        BigramTable(scipy.sparse.csr_array((4, 4), dtype=int), np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="must not be negative"):
        BigramTable(scipy.sparse.csr_array((4, 4), dtype=int), np.full(4, -1))
    with pytest.raises(ValueError, match="must not be negative"):
        BigramTable(scipy.sparse.csr_array(np.full((4, 4), -1)), np.zeros(4, dtype=int))


def test_the_hash_of_a_model_target_is_that_of_its_model(model, tokenizer):
    assert ModelTarget(model).hash == ModelTarget(build("gpt_neox", tokenizer)).hash
    assert ModelTarget(model).hash != ModelTarget(build("gpt_neox", tokenizer, seed=1)).hash


def _with_vocabulary(model, size):
    import copy

    other = copy.copy(model)
    other.__dict__["vocabulary_size"] = size
    return other


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
