"""Correlations are scipy's, p is uniform where nothing is there, intervals hold the truth about as often as they say."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from planted_scores import normal_pair

from bigramlib.instruction.resampling import (
    draw_means,
    draw_tasks,
    interval,
    partial_r,
    permutation_p,
    shifted_interval,
    spearman,
)
from bigramlib.instruction.scores import PairedScores


def paired(chances, inputs: int, generator) -> PairedScores:
    sides = [(generator.random((len(chance), inputs)) < chance[:, None]).astype(float) for chance in chances]
    return PairedScores(pd.RangeIndex(len(chances[0])), *sides)


@pytest.mark.parametrize("seed", range(5))
def test_rho_of_tied_scores_is_scipys(seed):
    x, y = np.random.default_rng(seed).integers(5, size=(2, 12)) / 5
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize("seed", range(5))
def test_partial_r_is_that_of_the_residuals_of_a_regression(seed):
    x, y, a, b = np.random.default_rng(seed).normal(size=(4, 15)) @ (np.eye(15) + 0.3)
    design = np.stack([np.ones(15), a, b], axis=1)
    left = [values - design @ np.linalg.lstsq(design, values)[0] for values in (x, y)]
    assert partial_r(x, y, a, b) == pytest.approx(np.corrcoef(*left)[0, 1])


def test_many_resamples_at_once_give_what_each_gives_alone():
    x, y, a = np.random.default_rng(0).integers(4, size=(3, 20, 9)).astype(float)
    np.testing.assert_allclose(spearman(x, y, a), [spearman(*rows) for rows in zip(x, y, a, strict=True)])


def test_what_is_constant_removes_nothing_and_has_no_correlation():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    constant = np.full(9, 0.1)
    assert spearman(x, y, constant, constant) == pytest.approx(spearman(x, y))
    assert np.isnan(spearman(x, constant)) and np.isnan(spearman(constant, constant, x))
    assert np.isnan(spearman(x, y, x))


def test_few_tasks_give_the_exact_p_of_all_permutations():
    assert permutation_p(np.arange(4.0), np.arange(4.0), 0, 100) == pytest.approx(1 / 24)


def test_p_is_never_0():
    assert permutation_p(np.arange(30.0), np.arange(30.0), 0, 99) == pytest.approx(0.01)


def test_p_is_uniform_where_nothing_is_there():
    generator = np.random.default_rng(0)
    found = [permutation_p(*generator.random((2, 15)), seed, 199) for seed in range(300)]
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("r", "tasks", "inputs"), [(0.0, 19, 20), (0.9, 19, 20)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(r, tasks, inputs):
    generator = np.random.default_rng(1)
    truth = spearman(*(generator.binomial(inputs, chance) for chance in normal_pair(200_000, r, generator)))
    held = []
    for seed in range(150):
        pair = paired(normal_pair(tasks, r, generator), inputs, generator)
        drawn = draw_means(pair, draw_tasks(tasks, seed, 200), seed)
        low, high = shifted_interval(float(spearman(*pair.means)), spearman(*drawn), tasks)
        held.append(low <= truth <= high)
    assert 0.91 <= np.mean(held) <= 0.99


def test_resampled_inputs_have_the_mean_and_the_variance_of_a_mean():
    pair = paired([np.full(1, 0.3)] * 2, 40, np.random.default_rng(0))
    x, _ = draw_means(pair, np.zeros((20_000, 1), dtype=int), 0)
    [[mean], _] = pair.means
    assert x.mean() == pytest.approx(mean, abs=0.002)
    assert x.var() == pytest.approx(mean * (1 - mean) / 40, rel=0.05)


def test_inputs_of_both_arms_are_drawn_together():
    pair = paired([np.full(3, 0.5)] * 2, 10, np.random.default_rng(0))
    x, y = draw_means(PairedScores(pair.tasks, pair.x, 1 - pair.x), draw_tasks(3, 0, 50), 0)
    np.testing.assert_allclose(x, 1 - y)


def test_arms_without_a_common_input_are_resampled_all_the_same():
    values, absent = np.random.default_rng(0).integers(2, size=(4, 2, 6)).astype(float), np.full((4, 6), np.nan)
    pair = PairedScores(pd.RangeIndex(4), np.hstack([values[:, 0], absent]), np.hstack([absent, values[:, 1]]))
    for drawn in draw_means(pair, draw_tasks(4, 0, 500), 0):
        assert np.isfinite(drawn).all() and drawn.min() >= 0 and drawn.max() <= 1


def test_a_shifted_interval_lies_around_the_measured_r():
    drawn = np.tanh(np.random.default_rng(0).normal(0.2, 0.3, 4000))
    low, high = shifted_interval(0.6, drawn, 30)
    assert np.arctanh(0.6) - np.arctanh(low) == pytest.approx(np.arctanh(high) - np.arctanh(0.6), rel=0.1)


def test_three_tasks_have_no_interval():
    assert np.isnan(interval(np.arange(10.0), 3)).all()
    assert np.isnan(shifted_interval(0.5, np.linspace(-1, 1, 10), 3)).all()
