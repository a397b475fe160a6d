"""Batches of running text use each sequence once; flattened draws are even, and their weights undo the flattening."""

from dataclasses import replace

import numpy as np
import pytest
from searches import QUICK

from bigramlib.training.batches import batches, flattened_sample


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [8, 50, 130])
def test_weights_undo_the_flattening_on_average(power, n):
    generator = np.random.default_rng(0)
    probability = np.append(generator.dirichlet(np.full(60, 0.3)), 0.0)
    total = np.zeros(61)
    for _ in range(3000):
        tokens, weights = flattened_sample(probability, power, n, generator)
        np.add.at(total, tokens, weights)
    deviation = np.abs(total / 3000 - probability)
    assert deviation.max() < 0.02
    assert total[60] == 0


def test_no_token_is_drawn_twice_while_others_are_left():
    probability = np.random.default_rng(0).dirichlet(np.full(60, 0.3))
    for seed in range(50):
        tokens, _ = flattened_sample(probability, 0.5, 40, np.random.default_rng(seed))
        assert len(set(tokens)) == 40


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [8, 50, 130])
def test_no_count_is_off_its_expectation_by_more_than_one(power, n):
    probability = np.random.default_rng(0).dirichlet(np.full(60, 0.3))
    for seed in range(20):
        tokens, weights = flattened_sample(probability, power, n, np.random.default_rng(seed))
        drawn, first, counts = np.unique(tokens, return_index=True, return_counts=True)
        assert (np.abs(counts - probability[drawn] / weights[first]) < 1 + 1e-6).all()


def test_power_one_draws_in_proportion_so_that_the_weights_are_equal():
    probability = np.random.default_rng(0).dirichlet(np.full(60, 5.0))
    _, weights = flattened_sample(probability, 1.0, 10, np.random.default_rng(0))
    assert np.allclose(weights, 0.1)


def test_batch_weights_sum_to_one(corpus):
    for flattening in (None, 0.5):
        _, weights = batches(corpus, replace(QUICK, flattening=flattening), np.random.default_rng(0))()
        assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_steps_of_more_tokens_than_the_text_has_kinds_draw_in_proportion_to_the_power(power):
    probability = np.random.default_rng(0).dirichlet(np.full(20, 2.0))
    drawn = np.zeros(20)
    for seed in range(200):
        tokens, _ = flattened_sample(probability, power, 100, np.random.default_rng(seed))
        drawn += np.bincount(tokens, minlength=20)
    expected = probability**power / (probability**power).sum()
    assert np.allclose(drawn / drawn.sum(), expected, rtol=0.05)


def test_without_replacement_each_sequence_comes_once_and_a_run_goes_on_where_it_was(corpus):
    config = replace(QUICK, flattening=None, with_replacement=False, batch_size=3)
    whole = len(corpus) // config.sequence_length
    draw = batches(corpus, config, np.random.default_rng([0, 0]))
    drawn = np.concatenate([draw()[0].numpy() for _ in range(2 * whole)])
    text = np.asarray(corpus.ids)[: whole * config.sequence_length].reshape(whole, -1)
    first, second, third = drawn[:whole], drawn[whole : 2 * whole], drawn[2 * whole : 3 * whole]
    for part in (first, second, third):
        assert sorted(map(tuple, part)) == sorted(map(tuple, text))
    assert not np.array_equal(first, text) and not np.array_equal(first, second)
    on = batches(corpus, config, np.random.default_rng([0, 0]), begun=whole)
    assert np.array_equal(on()[0].numpy(), drawn[3 * whole : 3 * whole + 3])
    another = batches(corpus, config, np.random.default_rng([0, 1]))
    assert not np.array_equal(another()[0].numpy(), drawn[:3])
