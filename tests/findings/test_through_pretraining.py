"""Notebook 07: a search in every checkpoint, compared with that of the last one, drawn, and judged."""

import numpy as np
import pandas as pd
import pytest

from bigramlib import SparsifyConfig, evaluate, find_subnetwork
from bigramlib.analysis.overlap import overlap_test
from bigramlib.findings.claims import recorded
from bigramlib.findings.through_pretraining import (
    CLAIMS,
    judge,
    plot_through_pretraining,
    r_at_size,
    searched_steps,
    through_pretraining,
)

STEPS = [0, 8, 16, 32]


def points(
    *,
    r=(0.5, 0.9, 0.96, 0.98),
    density=0.04,
    share=(0.3, 0.9, 0.8, 0.7),
    times=(2.0, 3.0, 4.0, 9.0),
    steps=STEPS,
    penalties=(3.0,),
):
    """What `through_pretraining` gives."""
    columns = {"step": steps, "r": r, "first_mlp_share": share, "times_chance": times}
    table = pd.DataFrame({name: list(values)[: len(steps)] for name, values in columns.items()})
    table = table.assign(kept=40, density=density, r_low=table.r - 0.01, r_high=table.r + 0.01, full_r=0.5, contained=0.5)
    return pd.concat([table.assign(sparsity_penalty=penalty) for penalty in penalties]).sort_values("step", kind="stable")


def verdict_of(key, folder=None, **values):
    found = points(**values)
    verdicts = judge(folder, found, r_at_size(found, 0.015), 0.015)
    assert [verdict.claim for verdict in verdicts] == list(CLAIMS.values())
    verdict = verdicts[list(CLAIMS).index(key)]
    assert folder is None or recorded(folder)[verdict.claim.text][2:] == (verdict.ours, verdict.holds)
    return verdict


def test_every_checkpoint_is_searched_and_compared_with_the_last(study, checkpoints, quick):
    found = through_pretraining(study, [0.1, 1.0], max_tokens=256)
    places = [(step, penalty) for step in (0, 16, 40) for penalty in (0.1, 1.0)]
    assert [tuple(row) for row in found[["step", "sparsity_penalty"]].to_numpy()] == places
    model, row = checkpoints[0].model, found.iloc[1]
    first, last = (
        find_subnetwork(each, study.table, study.train, SparsifyConfig.suited(each, study.table, 1.0))
        for each in (model, study.model)
    )
    assert first.hash != last.hash
    measured = evaluate(model, study.held_out, study.table, first, max_tokens=256)
    assert (row.kept, row.density, row.first_mlp_share) == (first.kept, first.density, first.first_mlp_share())
    assert (row.r, row.r_low, row.r_high) == (measured.r, *measured.r_interval)
    assert row.full_r == evaluate(model, study.held_out, study.table, max_tokens=256).r
    total = overlap_test(first, last).iloc[-1]
    assert (row.contained, row.times_chance) == (total.contained, total.overlap / total.flat_expected)
    assert (found[found.step == 40].contained == 1.0).all()


@pytest.mark.parametrize(("every", "chosen"), [(1, [0, 8, 16, 32]), (2, [0, 16, 32]), (3, [0, 32]), (4, [0, 32]), (9, [0, 32])])
def test_each_checkpoint_or_every_second_or_so_on_is_searched_and_always_the_last(every, chosen):
    assert searched_steps(reversed(STEPS), every) == chosen
    assert searched_steps([7], every) == [7]


def test_checkpoints_that_are_left_out_change_nothing_of_the_others(study, checkpoints, quick):
    whole, part = (through_pretraining(study, [1.0], every, max_tokens=256) for every in (1, 2))
    assert list(whole.step) == [0, 16, 40] and list(part.step) == [0, 40]
    pd.testing.assert_frame_equal(part, whole[whole.step != 16].reset_index(drop=True))


def test_a_model_without_checkpoints_has_one_row_for_each_penalty(study, quick):
    found = through_pretraining(study, [1.0], max_tokens=256)
    assert list(found.step) == [0] and list(found.contained) == [1.0]


def test_r_at_a_size_lies_on_the_line_between_two_subnetworks_in_the_logarithm_of_the_size():
    some = pd.DataFrame(
        {"step": [0, 0, 8, 8], "kept": [1, 100, 1, 1], "density": [0.01, 0.04, 0.1, 0.2], "r": [0.5, 0.9, 0.6, 0.7]}
    )
    at_size = r_at_size(some, 0.02)
    assert at_size.to_dict() == {0: pytest.approx(0.7), 8: pytest.approx(0.6)}


def test_r_at_a_size_leaves_out_subnetworks_without_r():
    some = pd.DataFrame({"step": [1, 1, 2], "kept": [1, 5, 5], "density": [0.01, 0.05, 0.05], "r": [np.nan, 0.9, np.nan]})
    assert r_at_size(some, 0.01).tolist() == pytest.approx([0.9, np.nan], nan_ok=True)


def test_r_at_a_size_leaves_out_subnetworks_that_keep_nothing():
    some = pd.DataFrame({"step": [0, 0], "kept": [0, 5], "density": [0.0, 0.05], "r": [0.1, 0.9]})
    assert r_at_size(some, 0.01).tolist() == [0.9]


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ({}, "yes"),
        ({"r": (0.5, 0.9, 0.94, 0.98)}, "no"),
        ({"density": 0.06}, "no"),
        ({"r": (0.5, 0.6, 0.7, 0.8)}, "no"),
    ],
)
def test_subnetworks_are_possible_early_where_a_small_one_reaches_r_by_half_of_pretraining(tmp_path, values, holds):
    assert verdict_of("possible early", tmp_path, **values).holds == holds


def test_the_first_step_that_reaches_r_is_told_with_r_at_one_size_at_half_and_at_the_end():
    shown = "at 1.5% kept, r 0.960 at step 16 and 0.980 at the end"
    assert verdict_of("possible early").ours == f"first at step 16 of 32; {shown}"
    assert verdict_of("possible early", density=0.06).ours == f"first at step unknown of 32; {shown}"


@pytest.mark.parametrize(
    ("share", "holds"), [((0.3, 0.9, 0.8, 0.7), "yes"), ((0.9, 0.9, 0.8, 0.7), "no"), ((0.3, 0.9, 0.9, 0.88), "no")]
)
def test_the_place_moves_where_the_first_mlps_share_rises_and_falls_again(tmp_path, share, holds):
    verdict = verdict_of("place moves", tmp_path, share=share)
    peak = STEPS[int(np.argmax(share))]
    assert verdict.holds == holds
    assert verdict.ours == f"{share[0]:.0%} at step 0, {max(share):.0%} at step {peak}, {share[-1]:.0%} at the end"


@pytest.mark.parametrize(
    ("times", "holds"),
    [((2.0, 3.0, 4.0, 9.0), "yes"), ((1.2, 3.0, 4.0, 9.0), "no"), ((2.0, 5.0, 4.0, 9.0), "no"), ((4.0, 3.0, 2.0, 9.0), "no")],
)
def test_earlier_subnetworks_overlap_the_final_one_where_they_do_so_more_and_more(tmp_path, times, holds):
    verdict = verdict_of("early overlap", tmp_path, times=times)
    assert verdict.holds == holds
    assert verdict.ours == f"{times[0]:.1f} times chance at step 0, {times[2]:.1f} times at step 16"


def test_shares_and_overlaps_are_means_over_the_penalties():
    low, high = points(share=(0.2, 0.8, 0.8, 0.6)), points(share=(0.4, 1.0, 0.8, 0.8))
    found = pd.concat([low, high.assign(sparsity_penalty=10.0)])
    assert judge(None, found, r_at_size(found, 0.015), 0.015)[1].ours.startswith("30% at step 0, 90% at step 8, 70%")


def test_checkpoints_that_begin_late_are_judged_from_the_first_one_on():
    found = points(steps=[10, 16])
    assert "at step 10 and" in judge(None, found, r_at_size(found, 0.015), 0.015)[0].ours


def test_a_model_without_checkpoints_cannot_tell(tmp_path):
    found = points(steps=[0])
    verdicts = judge(tmp_path, found, r_at_size(found, 0.015), 0.015)
    assert [verdict.claim for verdict in verdicts] == list(CLAIMS.values())
    assert {verdict.holds for verdict in verdicts} == {"not testable"}
    assert {row[2:] for row in recorded(tmp_path).values()} == {("no pretraining checkpoints known", "not testable")}


def test_pretraining_is_drawn_with_a_line_for_each_penalty_and_the_full_model(axes):
    found = points(penalties=(3.0, 10.0))
    plot_through_pretraining(axes[:3], found)
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [
        "full model",
        "subnetwork, lambda 3",
        "subnetwork, lambda 10",
    ]
    assert len(axes[0].containers) == 2 and len(axes[1].lines) == 2
    assert list(axes[1].lines[0].get_ydata()) == [0.3, 0.9, 0.8, 0.7]
    assert list(axes[2].lines[0].get_xdata()) == [0, 8, 16]
