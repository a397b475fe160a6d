"""Notebook 13: bases whose pretraining is known are measured in context and after tuning, judged, and drawn."""

import numpy as np
import pandas as pd
import pytest

from bigramlib.findings import limits_of_pretraining as measured
from bigramlib.findings.claims import recorded
from bigramlib.findings.limits_of_pretraining import CLAIMS, after_tuning, check_bases, in_context, judge
from bigramlib.instruction.exposure import (
    ALL_TASKS,
    MAJORITY,
    NEVER,
    SHOWN,
    SHOWN_TASKS,
    TWIN,
    centred,
    seen_tasks,
    within_tasks,
)
from bigramlib.instruction.pairs import FEW_SHOT, HELD_OUT, OTHER_TASK, TUNED, ZERO_SHOT
from bigramlib.instruction.world import world_tasks
from bigramlib.models.loading import WORLD_BASES

KEYS = list(CLAIMS)


def groups(context=0.01, held_out=0.02, rules=0.8, facts=0.1, majority=0.15):
    """What `group_means` returns, with these means of tasks that pretraining never showed."""
    means = {
        ("all", FEW_SHOT): context, ("all", HELD_OUT): held_out, ("rule", TUNED): rules, ("fact", TUNED): facts,
        ("fact", MAJORITY): majority,
    }  # fmt: skip
    rows = [
        (pretraining, kind, arm, 20, means.get((kind, arm), 0.3) if pretraining == NEVER else 0.6)
        for pretraining in (SHOWN, NEVER)
        for kind in ("rule", "fact", "all")
        for arm in (MAJORITY, ZERO_SHOT, FEW_SHOT, HELD_OUT, TUNED)
    ]
    table = pd.DataFrame(rows, columns=["pretraining", "kind", "arm", "n", "mean"])
    return table.assign(low=table["mean"] - 0.01, high=table["mean"] + 0.01)


def within(r=0.7):
    columns = {"r": r, "low": r - 0.1, "high": r + 0.1, "without_base_means": 0.6, "tasks": 30, "bases": 6}
    return pd.DataFrame(columns, index=pd.Index([ALL_TASKS, SHOWN_TASKS, TWIN, "yardstick"], name="case"))


def followed(rho=0.8):
    return pd.DataFrame({"rho": [rho, 0.5], "low": rho - 0.1, "high": rho + 0.1}, index=[ALL_TASKS, SHOWN_TASKS])


def lifted(exceeding=1, n=100):
    return pd.DataFrame({"exceeds": np.arange(n) < exceeding, "falls_short": np.arange(n) >= n - 3})


def verdict(folder, key, **changed):
    makers = {"groups": groups, "within": within, "followed": followed, "lifted": lifted}
    verdicts = judge(folder, *(changed.get(name, make()) for name, make in makers.items()))
    assert [found.claim for found in verdicts] == list(CLAIMS.values())
    return verdicts[KEYS.index(key)]


@pytest.fixture
def table():
    """What `task_means` returns, with random scores."""
    seen = seen_tasks(WORLD_BASES)
    scores = np.random.default_rng(0).random((len(seen), 4))
    return seen.assign(**dict(zip((ZERO_SHOT, FEW_SHOT, HELD_OUT, TUNED), scores.T, strict=True)))


@pytest.mark.parametrize(
    ("means", "holds"),
    [((0.05, 0.05), "yes"), ((0.06, 0.01), "no"), ((0.01, 0.06), "no")],
)
def test_what_was_never_shown_is_not_reached_where_both_ways_stay_at_the_floor(tmp_path, means, holds):
    found = verdict(tmp_path, "never shown, never reached", groups=groups(*means))
    assert found.holds == holds
    assert found.ours == (
        f"in context {means[0]:.3f} ({means[0] - 0.01:.3f} to {means[0] + 0.01:.3f}), "
        f"tuned on other tasks {means[1]:.3f} ({means[1] - 0.01:.3f} to {means[1] + 0.01:.3f})"
    )
    assert recorded(tmp_path)[found.claim.text][2:] == (found.ours, holds)


@pytest.mark.parametrize(
    ("rules", "facts", "holds"), [(0.5, 0.15, "yes"), (0.49, 0.15, "no"), (0.8, 0.19, "yes"), (0.8, 0.21, "no")]
)
def test_tuning_reaches_rules_and_not_facts_where_facts_stay_at_the_most_frequent_answer(rules, facts, holds):
    found = verdict(None, "tuning reaches rules, not facts", groups=groups(rules=rules, facts=facts))
    assert found.holds == holds and "the most frequent answer gives 0.150" in found.ours


@pytest.mark.parametrize(("r", "holds"), [(0.4, "yes"), (0.39, "no"), (-0.5, "no"), (np.nan, "not testable")])
def test_within_a_task_the_better_base_is_judged_by_r(tmp_path, r, holds):
    found = verdict(tmp_path, "within a task", within=within(r))
    assert found.holds == holds and recorded(tmp_path)[found.claim.text][3] == holds


def test_controls_that_the_bases_do_not_allow_are_said_to_be_unknown():
    table = within()
    table.loc[[SHOWN_TASKS, TWIN], "r"] = np.nan
    found = verdict(None, "within a task", within=table)
    assert found.holds == "yes" and "unknown over the tasks shown to a base; unknown with" in found.ours


@pytest.mark.parametrize(("rho", "holds"), [(0.5, "yes"), (0.49, "no"), (np.nan, "no")])
def test_exposure_is_followed_from_a_rho_of_a_half(rho, holds):
    found = verdict(None, "context follows exposure", followed=followed(rho))
    assert found.holds == holds and "0.50 over the tasks shown" in found.ours


@pytest.mark.parametrize(("exceeding", "holds"), [(5, "yes"), (6, "no")])
def test_few_tasks_may_be_lifted_by_tuning_on_others(exceeding, holds):
    found = verdict(None, "others' tuning adds nothing", lifted=lifted(exceeding))
    assert found.holds == holds
    assert found.ours == (
        f"beyond demonstrations by 2 standard errors in {exceeding} of 100 pairs of task and base ({exceeding}.0%), "
        "below them in 3"
    )


@pytest.mark.parametrize(("names", "what"), [(["world-a0", "mini"], "'mini' is no base"), ([], "no models to compare")])
def test_models_whose_pretraining_is_not_known_are_refused_before_any_work(names, what):
    for measure in (check_bases, lambda names: in_context(names, 3), lambda names: after_tuning(names, 3)):
        with pytest.raises(ValueError, match=what):
            measure(names)


def test_a_base_is_asked_in_every_arm(monkeypatch):
    some = [task for task in world_tasks() if task.name in ("copy", "swap", "next", "previous")]
    monkeypatch.setattr("bigramlib.instruction.pairs.load_tasks", lambda source: some)
    context, tuned = in_context(["world-a0"], 3), after_tuning(["world-a0"], 3, steps=11)
    scores = pd.concat([context, tuned])
    counts = scores.groupby("arm").size()
    assert counts.to_dict() == dict.fromkeys((ZERO_SHOT, FEW_SHOT, OTHER_TASK, TUNED, HELD_OUT), 4 * 3)
    assert set(scores["base"]) == {"world-a0"} and set(scores["task"]) == {task.name for task in some}


def test_arms_are_drawn_on_both_sides_of_what_was_shown(axes, table):
    measured.plot_reached(axes[:2], table, groups())
    assert [place.get_title() for place in axes[:2]] == ["What pretraining showed", "What pretraining never showed"]
    assert "0.80" in [text.get_text() for text in axes[1].texts]
    for place, pretraining in zip(axes, (SHOWN, NEVER), strict=False):
        dots = [collection for collection in place.collections if len(collection.get_offsets()) > 1]
        assert sum(len(collection.get_offsets()) for collection in dots) == 4 * (table["pretraining"] == pretraining).sum()


def test_tasks_never_shown_stand_left_of_all_others(axes, table):
    measured.plot_exposure(axes[0], table, followed())
    never = (table["exposure"] == 0).sum()
    places = np.concatenate([np.asarray(dots.get_offsets())[:, 0] for dots in axes[0].collections])
    assert len(places) == len(table) and (np.sort(places)[:never] < 1 / 60).all() and (np.sort(places)[never:] > 1 / 33).all()
    assert axes[0].get_xticklabels()[0].get_text() == "never" and "0.80" in axes[0].get_title()


def test_differences_within_tasks_and_their_controls_are_drawn(axes, table):
    measured.plot_within(axes[0], centred(table), within())
    assert sum(len(dots.get_offsets()) for dots in axes[0].collections) == len(table)
    measured.plot_comparisons(axes[1], within())
    assert [text.get_text() for text in axes[1].texts] == ["0.70"] * 4


def test_unknown_comparisons_and_a_single_base_are_drawn(axes, table):
    one = table[table["base"] == "world-a0"]
    scores = one.melt(["base", "task", "kind"], [FEW_SHOT, TUNED], "arm", "correct").assign(input=0)
    found = within_tasks(scores)
    measured.plot_within(axes[0], centred(one), found)
    measured.plot_comparisons(axes[1], found)
    measured.plot_exposure(axes[2], one, followed())
