"""The trigram table counts within documents, falls back to the bigram table, and has the loss that a dense one has."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, token_ids
from torch.nn import functional

from bigramlib import SparsifyConfig, TokenCorpus, TrigramTable, evaluate, find_subnetwork
from bigramlib.targets.target import MeasurableTarget, Target


@pytest.fixture(scope="module")
def trigrams(corpus):
    return TrigramTable.from_corpus(corpus)


def dense(trigrams: TrigramTable, contexts: np.ndarray) -> np.ndarray:
    """[..., vocab] what the table predicts in some contexts."""
    rows = trigrams.conditional[contexts.ravel()].toarray()
    rows[~trigrams.seen[contexts.ravel()]] = trigrams.bigrams.backoff
    return rows.reshape(*contexts.shape, -1)


def test_trigrams_are_counted_within_documents(corpus, trigrams):
    expected = Counter()
    for document in np.split(corpus.ids, corpus.starts[1:]):
        expected.update(zip(document.tolist(), document[1:].tolist(), document[2:].tolist(), strict=False))
    rows, columns = trigrams.counts.nonzero()
    found = {
        (*divmod(int(trigrams.pairs[row]), VOCABULARY), int(column)): int(trigrams.counts[row, column])
        for row, column in zip(rows, columns, strict=True)
    }
    assert found == expected


def test_texts_without_trigrams_leave_the_bigram_table(single_tokens):
    trigrams, ids = TrigramTable.from_corpus(single_tokens), token_ids()
    assert not len(trigrams.pairs) and torch.equal(trigrams.contexts(ids), ids)
    assert len(TrigramTable.from_corpus(TokenCorpus(np.array([3]), np.array([0]), VOCABULARY)).pairs) == 0


def test_a_pair_that_was_not_seen_and_a_first_token_take_the_bigram_row(corpus, trigrams):
    ids = torch.tensor([[*corpus.ids[:3].tolist(), 279, 278]])
    contexts = trigrams.contexts(ids)[0]
    assert contexts[0] == ids[0, 0] and (contexts[1:3] >= VOCABULARY).all() and contexts[3:].tolist() == [279, 278]
    probabilities = dense(trigrams, trigrams.contexts(token_ids(3)).numpy())
    assert np.allclose(probabilities.sum(-1), 1)


@pytest.mark.parametrize("capped", [False, True])
def test_its_loss_entropy_and_surprisals_are_the_dense_ones(model, capped_model, corpus, trigrams, capped):
    chosen = capped_model if capped else model
    ids = torch.from_numpy(corpus.ids[:60].reshape(3, 20))
    predicted = torch.from_numpy(dense(trigrams, trigrams.contexts(ids).numpy())).float()
    hidden, bound = chosen.hidden(ids), trigrams.bind(chosen)
    expected = functional.kl_div(chosen.unembed(hidden).log_softmax(-1), predicted, reduction="none").sum(-1)
    assert torch.allclose(bound(ids, hidden), expected, atol=2e-4)
    assert torch.allclose(bound.entropy(ids), torch.special.entr(predicted).sum(-1), atol=1e-5)
    bits = trigrams.surprisals(ids.numpy(), ids.roll(1, 0).numpy())
    assert np.allclose(2.0**-bits, predicted.gather(-1, ids.roll(1, 0)[..., None])[..., 0])


def test_a_table_of_another_vocabulary_is_refused(model):
    other = TrigramTable.from_corpus(TokenCorpus(np.arange(900), np.array([0]), 1000))
    with pytest.raises(ValueError, match="The trigram table has token ids for a vocabulary of 1000"):
        other.bind(model)


def test_a_subnetwork_found_for_it_is_nearer_to_it_than_the_bigram_subnetwork(model, study):
    trigrams = TrigramTable.from_corpus(study.train)
    assert isinstance(trigrams, Target) and isinstance(trigrams, MeasurableTarget)
    config = SparsifyConfig(1.0, steps=60, batch_size=8, sequence_length=32, learning_rate=0.05, flattening=None)
    kls = {}
    for target in (study.table, trigrams):
        found = find_subnetwork(model, target, study.train, config)
        assert found.provenance["target_hash"] == target.hash
        result = evaluate(model, study.train, trigrams, found, max_tokens=2048)
        kls[type(target).__name__] = result.kl
        assert np.isfinite(result.bigram_surprisals).all() and not found.measured
    assert kls["TrigramTable"] < kls["BigramTable"]
