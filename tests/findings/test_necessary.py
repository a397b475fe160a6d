"""Notebook 04: what the model loses without the subnetwork is measured beside as many random weights, drawn, and judged."""

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bigramlib import Subnetwork
from bigramlib.analysis.yardsticks import rises_by_bigram_surprisal
from bigramlib.findings.claims import recorded
from bigramlib.findings.necessary import (
    CLAIMS,
    LEAST_RISE,
    by_size,
    judge,
    passage,
    plot_ablation,
    plot_ablations,
    plot_rises,
    rises,
    samples,
)

CASES = ["full", "subnetwork", "random", "full - subnetwork", "full - random", "empty"]


def ablation(rise=3.0, random_rise=0.1):
    """What `ablate` gives, with these rises without the subnetwork and without random weights."""
    rises = pd.Series([0.0, 2.0, 5.0, rise, random_rise, 6.0], index=pd.Index(CASES, name="case"))
    columns = {"kept": 10, "r": 0.5, "cross_entropy": 4 + rises, "cross_entropy_spread": 0.1}
    return pd.DataFrame(columns | {"rise": rises, "rise_low": rises - 0.1, "rise_high": rises + 0.1})


def lost(likely=4.0, unlikely=1.0):
    without = pd.DataFrame({"bigram_surprisal": [1.0, 5.0, 9.0], "rise": [likely, 2.0, unlikely], "error": 0.1})
    without = without.assign(case="without the subnetwork")
    return pd.concat([without, without.assign(case="without random weights", rise=[0.0, 0.1, 9.0])])


@pytest.fixture
def subnetworks(model):
    return {3.0: Subnetwork.mlp(model, 0), 10.0: Subnetwork.mlp(model, 0, [0])}


def test_rises_compare_the_model_without_the_subnetwork_and_without_random_weights_with_the_whole(study, sparse):
    found = rises(study, sparse, 256)
    before = study.evaluate(max_tokens=256)
    cases = {"without the subnetwork": ~sparse, "without random weights": ~sparse.random_like(0)}
    assert list(found.case.unique()) == list(cases)
    for case, rest in cases.items():
        plain = rises_by_bigram_surprisal(before, study.evaluate(rest, max_tokens=256))
        assert_frame_equal(found[found.case == case].drop(columns="case"), plain)


def test_a_passage_has_the_surprisals_that_evaluation_finds_token_by_token(study, sparse):
    found = passage(study, sparse, 5)
    assert found.loc[1:, "current"].equals(found.next[:-1].set_axis(range(1, 5)))
    removed = {"full model": None, "without the subnetwork": ~sparse, "without random weights": ~sparse.random_like(0)}
    for name, rest in removed.items():
        measured = study.evaluate(rest, max_tokens=128)
        np.testing.assert_allclose(found[name], measured.surprisals[:5], rtol=1e-5)
    np.testing.assert_allclose(found["bigram table"], measured.bigram_surprisals[:5])


def test_samples_are_written_by_the_model_whole_alone_and_without(study, sparse):
    found = samples(study, sparse, "the cat", tokens=5)
    parts = {"subnetwork": sparse, "without it": ~sparse, "without random weights": ~sparse.random_like(0)}
    assert list(found) == ["full", *parts]
    assert found["full"] == study.model.sample("the cat", tokens=5)
    for name, part in parts.items():
        with part.applied(study.model):
            assert found[name] == study.model.sample("the cat", tokens=5)


def test_ablations_go_under_the_size_of_their_subnetwork(subnetworks):
    one, other = ablation(), ablation()
    found = by_size({3.0: one, 10.0: other}, subnetworks)
    assert list(found) == [f"{subnetworks[penalty].density:.2%} kept" for penalty in (3.0, 10.0)]
    assert [found[name] is table for name, table in zip(found, (one, other), strict=True)] == [True, True]


def test_two_subnetworks_of_one_size_keep_a_table_each(sparse):
    tables = {penalty: pd.DataFrame({"r": [penalty]}) for penalty in (3.0, 10.0)}
    found = by_size(tables, dict.fromkeys(tables, sparse))
    assert list(found) == [f"{sparse.density:.2%} kept", f"{sparse.density:.2%} kept, lambda 10"]
    assert all(found[name] is table for name, table in zip(found, tables.values(), strict=True))


@pytest.mark.parametrize(
    ("large", "small", "holds"),
    [
        ((3.0, 0.1), (0.5, 0.01), "yes"),
        ((0.9, 0.01), (0.5, 0.01), "no"),
        ((3.0, 0.4), (0.5, 0.01), "no"),
        ((3.0, 0.1), (0.5, 0.06), "no"),
    ],
)
def test_the_subnetwork_is_necessary_where_only_its_removal_costs(tmp_path, subnetworks, large, small, holds):
    verdict, _ = judge(tmp_path, subnetworks, {3.0: ablation(*large), 10.0: ablation(*small)}, lost())
    assert (verdict.claim, verdict.holds) == (CLAIMS["necessary"], holds)
    assert verdict.ours == (
        f"+{large[0]:.2f} nats ({large[0] - 0.1:.2f} to {large[0] + 0.1:.2f}) against +{large[1]:.2f} at "
        f"{subnetworks[3.0].density:.1%} kept; +{small[0]:.2f} against +{small[1]:.2f} at {subnetworks[10.0].density:.1%}"
    )
    assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, holds)


@pytest.mark.parametrize(("likely", "unlikely", "holds"), [(4.0, 1.0, "yes"), (1.0, 4.0, "no"), (-1.0, -0.5, "no")])
def test_likely_tokens_suffer_where_their_surprisal_rises_more_than_that_of_unseen_bigrams(
    tmp_path, subnetworks, likely, unlikely, holds
):
    _, verdict = judge(tmp_path, subnetworks, {3.0: ablation(), 10.0: ablation()}, lost(likely, unlikely))
    assert (verdict.claim, verdict.holds) == (CLAIMS["likely tokens suffer"], holds)
    assert verdict.ours == f"{likely:+.2f} bits for the likeliest group, {unlikely:+.2f} for bigrams never seen"
    assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, holds)


def test_a_single_subnetwork_is_the_largest_and_the_smallest(subnetworks):
    verdict, _ = judge(None, {3.0: subnetworks[3.0]}, {3.0: ablation()}, lost())
    assert verdict.holds == "yes" and "+3.00 against +0.10" in verdict.ours


def test_an_unknown_interval_of_the_rise_is_said(subnetworks):
    unknown = ablation().assign(rise_low=np.nan, rise_high=np.nan)
    verdict, _ = judge(None, subnetworks, {3.0: unknown, 10.0: unknown}, lost())
    assert "+3.00 nats (interval unknown: too few to tell) against" in verdict.ours and verdict.holds == "yes"


def dots(place):
    return [float(line.get_xdata()[0]) for line in place.lines if line.get_marker() == "o"]


def test_an_ablation_is_drawn_as_rises_over_the_full_model_on_a_log_axis_with_their_numbers(axes):
    found = ablation()
    plot_ablation(axes[0], found)
    assert axes[0].get_xscale() == "log" and dots(axes[0]) == list(found.rise[CASES[:0:-1]])
    assert [label.get_text() for label in axes[0].get_yticklabels()] == CASES[:0:-1]
    assert [text.get_text() for text in axes[0].texts][2] == f"+{found.rise['full - subnetwork']:.2f}   r 0.50"


def test_a_rise_that_a_log_axis_cannot_show_is_drawn_where_it_begins_with_its_own_number(axes):
    plot_ablation(axes[0], ablation(0.5, -0.02))
    assert dots(axes[0])[1] == LEAST_RISE > axes[0].get_xlim()[0]
    assert axes[0].texts[1].get_text().startswith("-0.02")


def test_ablations_are_drawn_side_by_side_under_their_sizes(axes):
    plot_ablations(axes[:1], {"2.00% kept": ablation()})
    assert axes[0].get_title() == "subnetwork with 2.00% kept"
    plot_ablations(axes[1:3], {"2.00% kept": ablation(), "1.00% kept": ablation(rise=1.0)})
    assert axes[2].get_title() == "subnetwork with 1.00% kept" and dots(axes[2])[2] == 1.0


def test_rises_are_drawn_with_a_line_for_each_case(axes):
    plot_rises(axes[0], lost())
    assert [container.get_label() for container in axes[0].containers] == ["without the subnetwork", "without random weights"]
    assert [list(container.lines[0].get_ydata()) for container in axes[0].containers] == [[4.0, 2.0, 1.0], [0.0, 0.1, 9.0]]


def test_the_rise_of_a_single_group_is_drawn(axes):
    plot_rises(axes[0], lost().groupby("case", sort=False).head(1))
    assert [len(container.lines[0].get_ydata()) for container in axes[0].containers] == [1, 1]
