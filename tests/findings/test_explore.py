"""`explore` shows the subnetworks that are given, those that are found for penalties, or those in the store."""

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bigramlib import Subnetwork, explore
from bigramlib.findings.explore import PROMPT, kept_weights


def test_subnetworks_that_are_given_are_explored_in_the_order_of_lambda(study, sparse):
    part = Subnetwork.mlp(study.model, 0)
    explorer = explore(study, {10.0: part, 2.0: sparse}, "the cat")
    assert list(explorer.subnetworks.items()) == [(2.0, sparse), (10.0, part)]
    assert explorer.prompt.value == "the cat" and explorer.model is study.model and explorer.table is study.table


def test_penalties_are_searched(study, quick):
    explorer = explore(study, [3.0, 1.0])
    assert {penalty: found.hash for penalty, found in explorer.subnetworks.items()} == {
        penalty: study.find(penalty).hash for penalty in (1.0, 3.0)
    }
    assert explorer.prompt.value == PROMPT


def test_otherwise_the_store_says_what_there_is(study, quick):
    with pytest.raises(ValueError, match=r"^There is no subnetwork to explore; find one first"):
        explore(study)
    study.prune(5.0)
    found = study.find(3.0)
    assert {penalty: each.hash for penalty, each in explore(study).subnetworks.items()} == {3.0: found.hash}


def test_the_weights_of_the_map_are_a_table(study, sparse):
    part = Subnetwork.mlp(study.model, 0)
    table = kept_weights({2.0: sparse, 10.0: part})
    assert_frame_equal(
        table[table.sparsity_penalty == 10.0].drop(columns="sparsity_penalty").reset_index(drop=True), part.table()
    )
    assert isinstance(table, pd.DataFrame) and len(table) == 2 * len(part.table())
