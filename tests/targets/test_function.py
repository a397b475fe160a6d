"""A function as target has the loss of what it predicts; one that is the bigram table counts as that table does."""

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, token_ids

from bigramlib import FunctionTarget, SparsifyConfig, evaluate, find_subnetwork


@pytest.fixture
def as_bigrams(table):
    """The bigram table as a function."""
    rows = torch.from_numpy(table.probabilities(np.arange(VOCABULARY)))
    return FunctionTarget("bigrams", lambda ids: rows[ids])


@pytest.mark.parametrize("capped", [False, True])
def test_its_loss_and_entropy_are_those_of_its_predictions(model, capped_model, table, as_bigrams, capped):
    chosen, ids = capped_model if capped else model, token_ids()
    hidden = chosen.hidden(ids)
    bound, reference = as_bigrams.bind(chosen), table.bind(chosen)
    assert torch.allclose(bound(ids, hidden), reference(ids, hidden), atol=1e-4)
    assert torch.allclose(bound.entropy(ids), reference.entropy(ids), atol=1e-4)


def test_it_is_evaluated_like_a_table(model, table, as_bigrams, held_out, half):
    ours, reference = (evaluate(model, held_out, target, half) for target in (as_bigrams, table))
    assert np.allclose(ours.bigram_surprisals, reference.bigram_surprisals)
    assert ours.r == pytest.approx(reference.r) and ours.kl == pytest.approx(reference.kl, rel=1e-5)


def test_results_are_kept_under_its_name(model, corpus, as_bigrams):
    config = SparsifyConfig(steps=3, batch_size=2, sequence_length=16, flattening=None)
    found = find_subnetwork(model, as_bigrams, corpus, config)
    again = FunctionTarget("bigrams", lambda ids: pytest.fail("asked"))
    assert find_subnetwork(model, again, corpus, config) == found
    assert FunctionTarget("other", as_bigrams.probabilities).hash != as_bigrams.hash


def test_a_function_of_another_shape_is_told_so(model, corpus):
    wrong = FunctionTarget("wrong", lambda ids: ids.float())
    with pytest.raises(ValueError, match=r"The function of the target 'wrong' gives \(2, 9\) for ids of shape \(2, 9\)"):
        wrong.bind(model)(token_ids(), model.hidden(token_ids()))
