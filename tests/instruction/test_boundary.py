"""Differences have the errors of paired inputs; tasks that tuning lifts are found, and hardly any where nothing is lifted."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from planted_scores import score_table

from bigramlib.instruction.boundary import beyond


def table(x, y, inputs: int, seed: int = 0) -> pd.DataFrame:
    return score_table({"x": np.asarray(x), "y": np.asarray(y)}, inputs, np.random.default_rng(seed))


def test_the_error_of_common_inputs_is_that_of_their_differences():
    scores = table([0.5], [0.6], 30)
    wide = scores.pivot(index="input", columns="arm", values="correct")
    found = beyond(scores, "y", "x").tasks.iloc[0]
    assert found["difference"] == pytest.approx((wide.y - wide.x).mean())
    assert found["standard_error"] == pytest.approx(scipy.stats.sem(wide.y - wide.x))


def test_the_error_of_other_inputs_is_that_of_two_means():
    scores = table([0.5], [0.6], 30)
    scores.loc[scores.arm == "y", "input"] += 1000
    sides = [scores.loc[scores.arm == arm, "correct"] for arm in "xy"]
    [error] = beyond(scores, "y", "x").tasks["standard_error"]
    assert error == pytest.approx(np.hypot(*map(scipy.stats.sem, sides)))


def test_lifted_and_lowered_tasks_are_found():
    found = beyond(table([0.2, 0.2, 0.8, 0.8], [0.2, 0.8, 0.8, 0.2], 200), "y", "x")
    assert list(found.tasks["exceeds"]) == [False, True, False, False] and found.exceeding == 1
    assert list(found.tasks["falls_short"]) == [False, False, False, True] and found.falling_short == 1
    assert list(found.tasks.index) == [f"task {place:03}" for place in range(4)]


def test_hardly_any_task_exceeds_where_nothing_is_lifted():
    chances = np.linspace(0.1, 0.9, 1000)
    found = beyond(table(chances, chances, 50), "y", "x")
    assert 0.005 < found.exceeding / found.n < 0.045


def test_a_difference_at_the_ends_of_the_scale_exceeds_and_none_does_not():
    found = beyond(table([0.0, 0.0], [0.0, 1.0], 5), "y", "x").tasks
    assert list(found["standard_error"]) == [0, 0] and list(found["exceeds"]) == [False, True]


def test_the_test_over_tasks_is_wilcoxons_and_the_mean_has_students_interval():
    chances = np.linspace(0.1, 0.8, 15)
    found = beyond(table(chances, chances + 0.1, 40), "y", "x")
    difference = found.tasks["difference"]
    assert found.n == 15 and found.p == scipy.stats.wilcoxon(difference).pvalue
    assert found.mean == pytest.approx(difference.mean())
    assert found.interval == pytest.approx(scipy.stats.ttest_1samp(difference, 0).confidence_interval())


def test_the_interval_of_the_mean_holds_the_truth_about_as_often_as_it_says():
    generator, held = np.random.default_rng(0), []
    for seed in range(100):
        x = generator.uniform(0.2, 0.6, 20)
        low, high = beyond(table(x, x + generator.uniform(0, 0.4, 20), 20, seed), "y", "x").interval
        held.append(low <= 0.2 <= high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_arms_that_are_the_same_have_no_p_without_a_word():
    found = beyond(table(np.zeros(6), np.zeros(6), 5), "y", "x")
    assert np.isnan(found.p) and found.mean == 0 and found.exceeding == found.falling_short == 0


@pytest.mark.parametrize(("tasks", "inputs"), [(1, 5), (2, 1), (3, 1)])
def test_few_tasks_or_inputs_are_unknown_rather_than_a_crash(tasks, inputs):
    found = beyond(table(np.zeros(tasks), np.ones(tasks), inputs), "y", "x")
    assert found.mean == 1 and np.isnan(found.interval).all() == (tasks == 1)
    assert found.exceeding == (tasks if inputs > 1 else 0)


def test_arms_without_a_common_task_have_nothing_to_compare():
    scores = table([0.5, 0.5], [0.5, 0.5], 5)
    found = beyond(scores[(scores.arm == "x") == (scores.task == "task 000")], "y", "x")
    assert found.n == 0 and np.isnan([found.mean, *found.interval, found.p]).all()


def test_repeated_inputs_do_not_lower_the_error():
    scores = table([0.5], [0.6], 30)
    pd.testing.assert_frame_equal(beyond(pd.concat([scores] * 3), "y", "x").tasks, beyond(scores, "y", "x").tasks)
