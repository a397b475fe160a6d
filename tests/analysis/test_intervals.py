"""Intervals resample whole documents, cover what they say, and are unknown rather than made of rounding errors."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from bigramlib.analysis import intervals
from bigramlib.analysis.intervals import DRAWS, correlation, correlation_interval, draw_documents, mean_interval

UNEQUAL = [16, 48, 80, 80, 45, 82, 128, 128, 32, 16, 32, 48, 144, 17, 30, 32, 64]
"""The documents of mini's headline intervals, an eighth of their tokens."""


@pytest.fixture(scope="module")
def tokens():
    """A hundred documents of like lengths whose values share a document-wide part."""
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(100) * 7, generator.integers(15, 25, 100))
    shared = generator.normal(size=700)[documents]
    a = shared + generator.normal(size=len(documents))
    return a, a + shared + generator.normal(size=len(documents)), documents


def resampled(statistic, documents):
    """The naive bootstrap: put drawn documents one after another and compute the statistic anew."""
    generator = np.random.default_rng(1)
    names = np.unique(documents)
    places = {name: np.flatnonzero(documents == name) for name in names}
    drawn = ([places[name] for name in generator.choice(names, len(names))] for _ in range(DRAWS))
    return np.quantile([statistic(np.concatenate(draw)) for draw in drawn], [0.025, 0.975])


def covered(sizes, shared: float, repetitions: int, seed: int = 0) -> tuple[float, float]:
    """How often the intervals of a mean (0) and of r (0.9) hold the truth; `shared` is the correlation within a document."""
    generator = np.random.default_rng(seed)
    documents = np.repeat(np.arange(len(sizes)), sizes)

    def values():
        of_document = shared**0.5 * generator.normal(size=len(sizes))
        return of_document[documents] + (1 - shared) ** 0.5 * generator.normal(size=len(documents))

    hits = np.zeros(2)
    for _ in range(repetitions):
        a = values()
        b = 0.9 * a + 0.19**0.5 * values()
        bounds = mean_interval(a, documents), correlation_interval(a, b, documents)
        hits += [low <= truth <= high for truth, (low, high) in zip((0, 0.9), bounds, strict=True)]
    return tuple(hits / repetitions)


@pytest.mark.parametrize("sizes", [UNEQUAL, [60] * 8, [20] * 100], ids=["17 unequal", "8 equal", "100 equal"])
def test_95_of_100_intervals_hold_the_truth_from_8_documents_on(sizes):
    of_mean, of_r = covered(sizes, 0.05, 600)
    assert 0.93 <= of_mean <= 0.97
    assert 0.93 <= of_r <= 0.97


@pytest.mark.parametrize("shared", [0.05, 0.3])
@pytest.mark.parametrize("sizes", [[200, 200], [100] * 4, [300, 100], [10, 20, 40, 90, 200]])
def test_intervals_of_fewer_documents_are_as_wide_as_they_must_be(sizes, shared):
    assert min(covered(sizes, shared, 100)) > 0.85


def test_intervals_of_many_documents_are_those_of_the_naive_bootstrap(tokens):
    a, b, documents = tokens
    low, high = resampled(lambda draw: a[draw].mean(), documents)
    assert mean_interval(a, documents) == pytest.approx((low, high), abs=0.1 * (high - low))
    low, high = resampled(lambda draw: pearsonr(a[draw], b[draw])[0], documents)
    assert correlation_interval(a, b, documents) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_documents_that_agree_within_themselves_widen_the_interval(tokens):
    a, _, documents = tokens
    low, high = mean_interval(a, documents)
    alone_low, alone_high = mean_interval(a, np.arange(len(a)))
    assert high - low > 1.5 * (alone_high - alone_low)


def test_one_document_has_no_interval():
    a, b = np.random.default_rng(0).random((2, 50))
    one = np.full(50, 4)
    assert np.isnan(mean_interval(a, one)).all()
    assert np.isnan(correlation_interval(a, b, one)).all()


def test_no_tokens_and_values_that_are_not_numbers_have_none_either():
    nothing, documents = np.zeros(0), np.repeat(np.arange(10), 5)
    broken = np.where(np.arange(50) == 7, np.nan, np.arange(50.0))
    assert np.isnan(mean_interval(nothing, nothing.astype(int))).all()
    assert np.isnan(correlation_interval(nothing, nothing, nothing.astype(int))).all()
    assert np.isnan(mean_interval(broken, documents)).all()
    assert np.isnan(correlation_interval(broken, np.arange(50.0), documents)).all()
    assert np.isnan(correlation(nothing, nothing)) and np.isnan(correlation(broken, np.arange(50.0)))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8 / 3])
def test_what_does_not_vary_has_a_certain_mean_and_no_correlation(constant):
    documents = np.repeat(np.arange(10), 37)
    values, others = np.full(370, constant), np.random.default_rng(0).random(370)
    assert mean_interval(values, documents) == pytest.approx((constant, constant), rel=1e-12, abs=0)
    assert np.isnan(correlation(values, others))
    assert np.isnan(correlation_interval(others, values, documents)).all()


def test_rounding_errors_are_not_taken_for_variation():
    documents, generator = np.repeat(np.arange(10), 37), np.random.default_rng(0)
    dirty = 5.3 * (1 + 1e-8 * generator.normal(size=370))
    assert np.isnan(correlation(dirty, generator.random(370)))
    assert np.isnan(correlation_interval(dirty, generator.random(370), documents)).all()


def test_a_mean_of_small_values_has_its_interval(tokens):
    a, _, documents = tokens
    assert mean_interval(1e-9 * a + 1e-6, documents) == pytest.approx(1e-9 * np.array(mean_interval(a, documents)) + 1e-6)


@pytest.mark.parametrize("documents", [2, 3, 5, 30])
def test_a_perfect_correlation_is_certain(documents):
    a = np.random.default_rng(0).random(20 * documents)
    low, high = correlation_interval(a, 3 * a + 1, np.repeat(np.arange(documents), 20))
    assert 1 - 1e-8 < low <= high <= 1
    low, high = correlation_interval(a, -a, np.repeat(np.arange(documents), 20))
    assert -1 <= low <= high < -1 + 1e-8


@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("pair", [(0.1, 0.3), (1.5849625, 2.3), (12.7, 9.3), (1e5, 1e-5)])
@pytest.mark.parametrize("others", [1, 2, 4])
def test_documents_that_repeat_one_pair_of_values_leave_bounds_around_r(length, pair, others):
    generator = np.random.default_rng(length)
    a = np.append(generator.random(100 * others) * 10, np.full(length, pair[0]))
    b = np.append(a[: 100 * others] + generator.random(100 * others), np.full(length, pair[1]))
    documents = np.append(np.repeat(np.arange(others), 100), np.full(length, others))
    low, high = correlation_interval(a, b, documents)
    assert -1 <= low <= correlation(a, b) <= high <= 1


def test_bounds_of_r_stay_within_1_and_hold_it_however_few_and_unequal_the_documents():
    generator = np.random.default_rng(0)
    for _ in range(200):
        sizes = generator.integers(1, 2 ** generator.integers(1, 9), generator.integers(2, 7))
        documents = np.repeat(np.arange(len(sizes)), sizes)
        a = generator.normal(size=len(documents)) ** 3
        b = a * generator.normal() + generator.normal(size=len(documents))
        r = correlation(a, b)
        if not np.isnan(r):
            low, high = correlation_interval(a, b, documents)
            assert -1 <= low <= r <= high <= 1


def test_a_document_that_holds_nearly_all_tokens_counts_as_one():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 4040))
    documents = np.append(np.zeros(4000, int), np.repeat([1, 2], 20))
    assert np.isnan(mean_interval(a, documents)).all()
    assert correlation_interval(a, b, documents) == pytest.approx((-1, 1))


def test_the_same_seed_gives_the_same_interval(tokens):
    a, b, documents = tokens
    assert correlation_interval(a, b, documents, seed=3) == correlation_interval(a, b, documents, seed=3)
    assert correlation_interval(a, b, documents, seed=3) != correlation_interval(a, b, documents, seed=4)


def test_of_many_documents_few_draws_are_in_memory_and_they_are_the_same(monkeypatch):
    generator = np.random.default_rng(0)
    documents = np.repeat(np.arange(300), 3)
    values = generator.normal(size=900)
    together = mean_interval(values, documents)
    monkeypatch.setattr(intervals, "KEPT_DOCUMENTS", 10)
    assert max(len(counts) for counts in draw_documents(300, 0)) < 100
    assert mean_interval(values, documents) == pytest.approx(together, rel=1e-12)
