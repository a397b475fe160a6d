"""Counts are what a loop would count; predictions are probabilities; tables of another vocabulary are refused."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from conftest import VOCABULARY
from hypothesis import given, settings
from hypothesis import strategies as st

from bigramlib import BigramTable, TokenCorpus

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


def test_table_of_another_vocabulary_is_refused(model):
    small = BigramTable(scipy.sparse.csr_array((4, 4), dtype=int), np.zeros(4, dtype=int))
    with pytest.raises(ValueError, match=r"vocabulary of 4, but the model 'tiny gpt_neox' has 280"):
        small.bind(model)


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
