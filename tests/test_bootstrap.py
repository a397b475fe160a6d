"""Intervals resample whole documents."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from bigramlib.bootstrap import DRAWS, correlation_interval, mean_interval


@pytest.fixture(scope="module")
def tokens():
    """Thirty documents of various lengths whose values share a document-wide part."""
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(30) * 7, generator.integers(5, 60, 30))
    shared = generator.normal(size=211)[documents]
    a = shared + generator.normal(size=len(documents))
    return a, a + shared + generator.normal(size=len(documents)), documents


def resampled(statistic, documents):
    """The naive bootstrap: put drawn documents one after another and compute the statistic anew."""
    generator = np.random.default_rng(1)
    names = np.unique(documents)
    places = {name: np.flatnonzero(documents == name) for name in names}
    drawn = ([places[name] for name in generator.choice(names, len(names))] for _ in range(DRAWS))
    return np.quantile([statistic(np.concatenate(draw)) for draw in drawn], [0.025, 0.975])


def test_the_interval_of_a_mean_is_that_of_the_naive_bootstrap(tokens):
    a, _, documents = tokens
    low, high = resampled(lambda draw: a[draw].mean(), documents)
    assert mean_interval(a, documents) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_the_interval_of_a_correlation_is_that_of_the_naive_bootstrap(tokens):
    a, b, documents = tokens
    low, high = resampled(lambda draw: pearsonr(a[draw], b[draw])[0], documents)
    assert correlation_interval(a, b, documents) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_documents_that_agree_within_themselves_widen_the_interval(tokens):
    a, _, documents = tokens
    low, high = mean_interval(a, documents)
    alone_low, alone_high = mean_interval(a, np.arange(len(a)))
    assert high - low > 1.5 * (alone_high - alone_low)


def test_one_document_leaves_nothing_to_resample():
    low, high = mean_interval(np.array([1.0, 2.0, 6.0]), np.array([4, 4, 4]))
    assert low == high == pytest.approx(3.0)


def test_the_same_seed_gives_the_same_interval(tokens):
    a, b, documents = tokens
    assert correlation_interval(a, b, documents, seed=3) == correlation_interval(a, b, documents, seed=3)
    assert correlation_interval(a, b, documents, seed=3) != correlation_interval(a, b, documents, seed=4)
