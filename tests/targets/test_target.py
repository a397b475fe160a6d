"""What is a target, and what `evaluate` can compare with."""

import pytest
from conftest import VOCABULARY

from bigramlib import BigramTable, FunctionTarget, ModelTarget, TrigramTable, evaluate
from bigramlib.targets.target import MeasurableTarget, Target


def test_all_targets_have_the_members_of_one_and_all_but_the_model_can_be_measured_against(model, corpus, table):
    uniform = FunctionTarget("uniform", lambda ids: ids[..., None].expand(*ids.shape, VOCABULARY) * 0 + 1 / VOCABULARY)
    for target in (table, TrigramTable.from_corpus(corpus), uniform, ModelTarget(model)):
        assert isinstance(target, Target)
        assert isinstance(target, MeasurableTarget) == (not isinstance(target, ModelTarget))


def test_without_surprisals_there_is_nothing_to_compare_with(model, held_out):
    with pytest.raises(ValueError, match="A ModelTarget gives no surprisals to compare with; give a table"):
        evaluate(model, held_out, ModelTarget(model))


def test_shares_are_a_bigram_table_as_counts_are(table):
    shares = BigramTable(table.conditional, table.unigram_counts)
    assert abs(shares.conditional - table.conditional).max() < 1e-12
