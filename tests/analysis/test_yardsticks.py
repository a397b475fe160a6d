"""The tables alone predict as a plain mixture does, and rises are means over groups of tokens."""

import numpy as np
import pytest
from conftest import VOCABULARY

from bigramlib import Subnetwork, evaluate
from bigramlib.analysis.yardsticks import rises_by_bigram_surprisal, table_cross_entropies


def test_table_cross_entropies_are_those_of_the_best_mixture(table, held_out):
    found = table_cross_entropies(table, held_out, max_tokens=None)
    current, following, valid = held_out.windows()
    rows = table.probabilities(current[valid])
    smoothed = (table.unigram_counts + 1) / (table.unigram_counts.sum() + VOCABULARY)
    mixtures = [
        -np.log(weight * rows[np.arange(len(rows)), following[valid]] + (1 - weight) * smoothed[following[valid]]).mean()
        for weight in np.linspace(0.01, 0.99, 99)
    ]
    assert found["bigram"] == pytest.approx(min(mixtures))
    assert found["unigram"] == pytest.approx(-np.log(smoothed[following[valid]]).mean())


def test_rises_are_means_over_tokens_of_like_bigram_surprisal(model, held_out, table):
    before = evaluate(model, held_out, table)
    after = evaluate(model, held_out, table, Subnetwork.empty(model))
    rises = rises_by_bigram_surprisal(before, after, bins=4)
    assert rises.tokens.sum() == len(before.surprisals)
    assert rises.tokens.iloc[-1] == np.isinf(before.bigram_surprisals).sum()
    weighted = (rises.rise * rises.tokens).sum() / rises.tokens.sum()
    assert weighted * np.log(2) == pytest.approx(after.cross_entropy - before.cross_entropy)
    assert rises.bigram_surprisal.is_monotonic_increasing


def test_the_yardsticks_are_finite_where_no_bigram_was_seen(model, unseen, table_of_other_text):
    known = table_cross_entropies(table_of_other_text, unseen)
    assert known["seen"] == 0 and np.isfinite(list(known.values())).all()
    before = evaluate(model, unseen, table_of_other_text)
    rises = rises_by_bigram_surprisal(before, evaluate(model, unseen, table_of_other_text, Subnetwork.empty(model)))
    assert rises.tokens.tolist() == [len(before.surprisals)] and np.isfinite(rises).all(axis=None)


def test_the_tables_have_nothing_to_predict_in_documents_of_single_tokens(single_tokens, table):
    with pytest.raises(ValueError, match="Every document of the corpus 'words' is a single token"):
        table_cross_entropies(table, single_tokens)
