"""What bases have seen is joined to their scores, and what scores owe to it is found where it was planted."""

import numpy as np
import pandas as pd
import pytest

from bigramlib.instruction.agreement import within_task
from bigramlib.instruction.exposure import (
    ALL_TASKS,
    BASES_AGREE,
    MAJORITY,
    NEVER,
    SEEDS,
    SHOWN,
    SHOWN_TASKS,
    TWIN,
    beyond_demonstrations,
    centred,
    exposure_agreement,
    group_means,
    lengths_of_tuning,
    seen_tasks,
    task_means,
    within_tasks,
)
from bigramlib.instruction.pairs import FEW_SHOT, HELD_OUT, TUNED
from bigramlib.instruction.world import exposures, world_tasks
from bigramlib.models.loading import WORLD_BASES

ARMS = (FEW_SHOT, TUNED, HELD_OUT)
INPUTS = 20


def planted(chances, bases=WORLD_BASES, arms=ARMS) -> pd.DataFrame:
    """Scores of 20 inputs of every task; a base has the share right, to the nearest input, that `chances(row, arm)` says."""
    rows = []
    for row in seen_tasks(bases).itertuples():
        for arm in arms:
            right = round(INPUTS * float(np.clip(chances(row, arm), 0, 1)))
            rows += [(row.base, row.task, row.kind, arm, number, int(number < right)) for number in range(INPUTS)]
    return pd.DataFrame(rows, columns=["base", "task", "kind", "arm", "input", "correct"])


def by_exposure(row, arm):
    return {HELD_OUT: 0.0}.get(arm, row.exposure)


def noise(*names) -> float:
    """The same number for the same names."""
    return np.random.default_rng([ord(letter) for name in names for letter in name]).random()


def test_a_base_has_seen_what_its_letter_says_whatever_its_seed():
    table = seen_tasks(["world-b0", "world-b1"])
    assert len(table) == 2 * len(world_tasks())
    for _, rows in table.groupby("base"):
        assert dict(zip(rows["task"], rows["exposure"], strict=True)) == exposures("b")
    assert (table["pretraining"] == NEVER).equals(table["exposure"] == 0)


def test_means_of_tasks_stand_beside_what_was_seen():
    table = task_means(planted(by_exposure, ["world-c1"]))
    assert table[FEW_SHOT].to_numpy() == pytest.approx((20 * table["exposure"]).round() / 20)
    assert (table[HELD_OUT] == 0).all() and set(table["base"]) == {"world-c1"}
    assert set(table["pretraining"]) == {SHOWN, NEVER}


def test_means_of_groups_are_those_of_their_tasks_and_lie_in_their_intervals():
    table = task_means(planted(lambda row, arm: noise(row.task, row.base, arm)))
    groups = group_means(table)
    for row in groups.itertuples():
        own = table[(table["pretraining"] == row.pretraining) & ((table["kind"] == row.kind) | (row.kind == "all"))]
        assert row.mean == pytest.approx(own[row.arm].mean()) and row.n == len(own)
        assert row.low < row.mean < row.high
    assert set(groups["arm"]) == {MAJORITY, *ARMS}


def test_an_interval_of_a_group_takes_tasks_and_not_bases_as_its_units():
    one, six = (
        group_means(task_means(planted(lambda row, arm: noise(row.task), bases))) for bases in (["world-a0"], WORLD_BASES)
    )
    never = "pretraining == @NEVER and kind == 'all' and arm == @FEW_SHOT"
    (one_width,), (six_width,) = ((found.query(never).high - found.query(never).low) for found in (one, six))
    assert six_width > one_width / 3**0.5 * 0.7


def test_what_exposure_gives_agrees_over_bases_and_with_the_other_seed():
    found = within_tasks(planted(by_exposure))
    assert list(found.index) == [ALL_TASKS, SHOWN_TASKS, TWIN, SEEDS, BASES_AGREE]
    assert found.loc[[ALL_TASKS, SHOWN_TASKS, TWIN, BASES_AGREE], "r"].to_numpy() == pytest.approx(1)
    assert np.isnan(found.loc[SEEDS, "r"])
    assert list(found["tasks"]) == [30, 30, 30, 90, 30] and list(found["bases"]) == [6, 4, 6, 2, 6]


def test_what_a_seed_gives_agrees_between_seeds_and_not_with_the_other_seed():
    found = within_tasks(planted(lambda row, arm: noise(row.task, row.base)))
    assert found.loc[[ALL_TASKS, SEEDS], "r"].to_numpy() == pytest.approx(1)
    assert found.loc[[TWIN, BASES_AGREE], "r"].abs().max() < 0.5


def test_what_only_the_border_gives_is_gone_among_the_tasks_shown():
    def chances(row, arm):
        return (row.exposure > 0) * (0.4 + 0.5 * noise(row.task, row.base, arm))

    found = within_tasks(planted(chances))
    assert found.loc[ALL_TASKS, "r"] > 0.7 > 0.4 > abs(found.loc[SHOWN_TASKS, "r"])


def test_the_first_comparison_is_that_of_within_task():
    scores = planted(lambda row, arm: noise(row.task, row.base) * 0.5 + noise(row.task, row.base, arm) * 0.5)
    plain, row = within_task(scores, FEW_SHOT, TUNED), within_tasks(scores).loc[ALL_TASKS]
    assert (row.r, (row.low, row.high), row.p) == (plain.r, plain.interval, plain.p)
    moved = centred(task_means(scores))
    assert np.corrcoef(moved["in_context"], moved["tuned"])[0, 1] == pytest.approx(plain.r)
    assert moved.groupby("task")[["in_context", "tuned"]].mean().abs().max(axis=None) < 1e-9


@pytest.mark.parametrize("bases", [["world-a0"], ["world-a0", "world-b0"], ["world-a0", "world-a1"], WORLD_BASES[:4]])
def test_comparisons_that_bases_do_not_allow_are_unknown(bases):
    found = within_tasks(planted(by_exposure, bases))
    pairs = len(bases) > 1 and len({base[-2] for base in bases}) * 2 == len(bases)
    assert np.isfinite(found.loc[ALL_TASKS, "r"]) == (len({base[-2] for base in bases}) > 1)
    assert pairs or found.loc[[TWIN, BASES_AGREE], "r"].isna().all()


def test_scores_that_follow_exposure_have_a_rho_of_one_in_every_base():
    table = task_means(planted(by_exposure)).assign(**{FEW_SHOT: lambda rows: rows["exposure"] ** 2})
    found = exposure_agreement(table)
    assert found.loc[ALL_TASKS, list(WORLD_BASES)].to_numpy() == pytest.approx(1)
    assert found[["rho", "low", "high"]].to_numpy() == pytest.approx(1)


def test_scores_that_only_need_to_be_shown_do_not_follow_exposure_among_tasks_shown():
    found = exposure_agreement(task_means(planted(lambda row, arm: (row.exposure > 0) * noise(row.base, row.task))))
    assert found.loc[ALL_TASKS, "low"] > 0.4 and found.loc[SHOWN_TASKS, "low"] < 0 < found.loc[SHOWN_TASKS, "high"]
    assert found.loc[ALL_TASKS, "rho"] == pytest.approx(found.loc[ALL_TASKS, list(WORLD_BASES)].mean())


def test_pairs_of_task_and_base_that_tuning_on_others_lifts_are_found():
    lifted = beyond_demonstrations(
        planted(lambda row, arm: 0.8 * (arm == HELD_OUT and (row.base, row.task) == ("world-b1", "swap")))
    )
    assert len(lifted) == 180
    assert lifted.loc[lifted["exceeds"], ["base", "task"]].to_numpy().tolist() == [["world-b1", "swap"]]


def test_longer_tuning_is_compared_over_the_bases_that_had_it():
    usual = planted(lambda row, arm: 0.5 if row.base == "world-a0" else 0.0)
    longer = planted(lambda row, arm: 1.0, ["world-a0"], (TUNED, HELD_OUT))
    found = lengths_of_tuning(usual, longer)
    assert set(found.index.get_level_values("arm")) == {TUNED, HELD_OUT, MAJORITY}
    for arm in (TUNED, HELD_OUT):
        assert (found.xs(arm, level="arm") == [0.5, 1.0]).all(axis=None)
