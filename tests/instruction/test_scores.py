"""Equal inputs are averaged first; the order of rows does not matter; what cannot be compared is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigramlib.instruction.scores import PairedScores, by_input, by_task

ROWS = pd.DataFrame(
    [("a", "x", "1", 1), ("a", "x", "1", 1), ("a", "x", "1", 1), ("a", "x", "2", 0), ("a", "y", "1", 1), ("b", "x", "1", 0)],
    columns=["task", "arm", "input", "correct"],
)
row = st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 3), st.floats(0, 1))


def test_repeated_inputs_are_averaged_before_tasks():
    assert by_task(ROWS).loc["a", "x"] == 0.5


def test_an_arm_that_was_not_measured_is_nan():
    assert np.isnan(by_task(ROWS).loc["b", "y"])


def test_tasks_of_several_bases_are_kept_apart_and_those_of_one_are_plain():
    several = pd.concat([ROWS.assign(base="A"), ROWS.assign(base="B", correct=0)])
    assert by_task(several).loc[("A", "a"), "x"] == 0.5 and by_task(several).loc[("B", "a"), "x"] == 0
    pd.testing.assert_frame_equal(by_task(ROWS.assign(base="A")), by_task(ROWS))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=40), order=st.randoms())
def test_the_order_of_rows_does_not_matter(rows, order):
    shuffled = list(rows)
    order.shuffle(shuffled)
    tables = [by_task(pd.DataFrame(some, columns=ROWS.columns)) for some in (rows, shuffled)]
    pd.testing.assert_frame_equal(tables[0], tables[1][tables[0].columns], check_exact=True)


def test_right_and_wrong_may_be_true_and_false():
    pd.testing.assert_frame_equal(by_task(ROWS.assign(correct=ROWS.correct == 1)), by_task(ROWS))


def test_paired_scores_have_the_same_input_in_the_same_place():
    rows = pd.concat([ROWS, ROWS[4:5].assign(input="2", correct=0), ROWS[4:5].assign(input="3", correct=0)])
    paired = PairedScores.of(rows, "x", "y")
    assert list(paired.tasks) == ["a"]
    np.testing.assert_array_equal(paired.x, [[1, 0, np.nan]])
    np.testing.assert_array_equal(paired.y, [[1, 0, 0]])
    np.testing.assert_allclose(paired.means, [[1 / 2], [1 / 3]])


@pytest.mark.parametrize("wrong", [2, -1, np.nan, "right"])
def test_what_is_no_score_is_refused(wrong):
    with pytest.raises(ValueError, match=r"'correct' has .*; give 0 for a wrong answer"):
        by_input(ROWS.astype({"correct": object}).assign(correct=[wrong, 1, 1, 1, 1, 1]))


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'input'"):
        by_task(ROWS.drop(columns="input"))


def test_an_unknown_arm_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no arm 'z'; choose from 'x', 'y'"):
        PairedScores.of(ROWS, "x", "z")


def test_several_bases_are_no_pair():
    with pytest.raises(ValueError, match=r"several bases \(A, B\)"):
        PairedScores.of(pd.concat([ROWS.assign(base="A"), ROWS.assign(base="B")]), "x", "y")
