"""Notebook 05: bigram and pruned subnetworks are compared in size, overlap and stability, drawn, and judged."""

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bigramlib import Subnetwork
from bigramlib.analysis.overlap import jaccard, overlap_test
from bigramlib.findings.claims import recorded
from bigramlib.findings.overlap import (
    CLAIMS,
    agreement,
    compare,
    judge,
    plot_agreement,
    plot_overlap,
    plot_overlap_by_component,
    shuffle_check,
    sizes,
    whole_overlaps,
)

AGREED = {"two bigram seeds": 0.6, "two pruning seeds": 0.5, "bigram and pruning": 0.2, "chance": 0.01}


def pairs(**values):
    """Rows of `whole_overlaps`: that of the penalty 3 shares half of its weights, four times as many as by chance."""
    row = {"kept_a": 20, "kept_b": 30, "total": 1000, "overlap": 10, "contained": 0.5, "pair": "2.0% / 3.0%"}
    row |= {"flat_expected": 2.5, "rows_expected": 4.0, "flat_log10_p": -12.0, "rows_log10_p": -8.0, "sparsity_penalty": 3.0}
    other = row | {"sparsity_penalty": 10.0, "overlap": 0, "pair": "1.0% / 3.0%", "contained": 0.0}
    return pd.DataFrame([row | values, other])


def agreed(**values):
    return pd.Series(AGREED | values)


@pytest.fixture
def pruned(model):
    return {3.0: Subnetwork.mlp(model, 0), 30.0: Subnetwork.mlp(model, 0, [0, 1])}


def test_sizes_are_those_of_each_subnetwork_as_evaluated_on_held_out_text(study, sparse, pruned):
    found = sizes(study, {10.0: sparse}, pruned)
    assert list(found.target) == ["bigram table", "full model", "full model"] and list(found.sparsity_penalty) == [10, 3, 30]
    for row, subnetwork in zip(found.itertuples(), [sparse, *pruned.values()], strict=True):
        plain = study.evaluate(subnetwork)
        assert (row.kept, row.first_mlp) == (subnetwork.density, subnetwork.first_mlp_share())
        assert (row.r, row.cross_entropy) == (plain.r, plain.cross_entropy)


def test_each_bigram_subnetwork_is_compared_with_the_pruned_one_nearest_in_size(model, sparse, pruned):
    found = compare({1.0: sparse, 10.0: Subnetwork.mlp(model, 0, [0])}, pruned)
    assert list(found) == [1, 10]
    assert_frame_equal(found[1.0], overlap_test(sparse, pruned[3.0]))
    assert_frame_equal(found[10.0], overlap_test(Subnetwork.mlp(model, 0, [0]), pruned[30.0]))


def test_whole_overlaps_are_the_total_rows_with_both_sizes_in_words(sparse, pruned):
    tests = {3.0: overlap_test(sparse, pruned[3.0]), 30.0: overlap_test(sparse, pruned[30.0])}
    found = whole_overlaps(tests)
    assert list(found.component) == ["total", "total"] and list(found.sparsity_penalty) == [3, 30]
    assert list(found.overlap) == [(sparse & pruned[penalty]).kept for penalty in tests]
    assert list(found.pair) == [f"{sparse.density:.1%} / {pruned[penalty].density:.1%}" for penalty in tests]
    assert len(whole_overlaps({3.0: tests[3.0]})) == 1


def test_shuffled_rows_have_the_mean_and_the_spread_of_the_closed_form(sparse):
    assert shuffle_check(sparse, sparse) == {"same mean": True, "same spread": True}


@pytest.mark.parametrize(("factors", "wrong"), [((2, 1), "same mean"), ((1, 4), "same spread")])
def test_another_closed_form_is_found_out(sparse, monkeypatch, factors, wrong):
    from bigramlib.analysis.overlap import row_shuffle_moments

    def other(rows, others):
        return tuple(value * factor for value, factor in zip(row_shuffle_moments(rows, others), factors, strict=True))

    monkeypatch.setattr("bigramlib.findings.overlap.row_shuffle_moments", other)
    found = shuffle_check(sparse, sparse)
    assert not found[wrong] and sum(found.values()) == 1


def test_agreement_is_measured_within_and_across_targets_and_with_a_random_mask(model, sparse):
    bigram = [sparse, sparse - Subnetwork.layer(model, 1)]
    pruned = [sparse & Subnetwork.layer(model, 1), Subnetwork.mlp(model, 1)]
    found = agreement(bigram, pruned)
    across = [jaccard(a, b) for a in bigram for b in pruned]
    assert found.to_dict() == {
        "two bigram seeds": jaccard(*bigram),
        "two pruning seeds": jaccard(*pruned),
        "bigram and pruning": pytest.approx(np.mean(across)),
        "bigram and random of the pruned size": jaccard(bigram[0], pruned[0].random_like(0)),
    }
    assert len(set(across)) > 1


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ({}, "yes"),
        ({"overlap": 4}, "no"),
        ({"rows_expected": 6.0}, "no"),
        ({"flat_log10_p": -5.0}, "no"),
        ({"rows_log10_p": -5.0}, "no"),
    ],
)
def test_subnetworks_overlap_where_both_chances_are_far_exceeded(tmp_path, values, holds):
    verdict, _ = judge(tmp_path, pairs(**values), 3.0, agreed())
    assert (verdict.claim, verdict.holds) == (CLAIMS["overlap"], holds)
    assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, holds)


def test_the_overlap_of_the_penalty_that_is_looked_at_is_judged():
    assert judge(None, pairs(), 3.0, agreed())[0].ours == (
        "50% of the smaller one at 2.0% kept: 4.0 times chance (p < 1e-12), 2.5 times shuffled rows (p about 1e-8)"
    )
    assert judge(None, pairs(), 10.0, agreed())[0].holds == "no"


@pytest.mark.parametrize(
    ("values", "holds"),
    [({}, "yes"), ({"two bigram seeds": 0.1}, "no"), ({"two pruning seeds": 0.1}, "no"), ({"bigram and pruning": 0.55}, "no")],
)
def test_targets_differ_where_masks_of_one_agree_more_than_masks_of_two(tmp_path, values, holds):
    _, verdict = judge(tmp_path, pairs(), 3.0, agreed(**values))
    assert (verdict.claim, verdict.holds) == (CLAIMS["overlap, yardstick"], holds)
    assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, holds)
    bigram, pruning, across, chance = (AGREED | values).values()
    assert verdict.ours == (
        f"Jaccard {bigram:.2f} of bigram seeds, {pruning:.2f} of pruning seeds, {across:.2f} across; chance {chance:.2f}"
    )


def test_pairs_are_drawn_as_bars_with_both_chances_as_shares_of_the_smaller_subnetwork(axes):
    plot_overlap(axes[0], pairs())
    assert [bar.get_height() for bar in axes[0].patches] == [0.5, 0.0]
    assert [list(line.get_ydata()) for line in axes[0].lines] == [[0.125, 0.125], [0.2, 0.2]]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["2.0% / 3.0%", "1.0% / 3.0%"]


def test_a_single_pair_is_drawn(axes):
    plot_overlap(axes[0], pairs().head(1))
    assert len(axes[0].patches) == 1


def test_the_overlap_by_component_is_drawn_in_times_of_chance(axes, sparse, pruned):
    test = overlap_test(sparse, ~sparse | pruned[3.0])
    plot_overlap_by_component(axes[0], test)
    grid = axes[0].collections[0].get_array()
    parts = test[test.layer.notna()]
    assert grid.shape == (2, parts.component.nunique()) and len(axes[0].texts) == grid.size
    first = parts[(parts.layer == 0) & (parts.component == "mlp in")].iloc[0]
    place = list(dict.fromkeys(parts.component)).index("mlp in")
    assert grid[0, place] == pytest.approx(first.overlap / first.flat_expected)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == list(dict.fromkeys(parts.component))


def test_agreement_is_drawn_with_a_named_bar_for_each_pair(axes):
    plot_agreement(axes[0], agreed())
    assert [bar.get_width() for bar in axes[0].patches] == [0.01, 0.2, 0.5, 0.6]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(AGREED)[::-1]
    assert [text.get_text() for text in axes[0].texts] == ["0.01", "0.20", "0.50", "0.60"]
