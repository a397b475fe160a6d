import dataclasses

import numpy as np
import pandas as pd
import pytest

from bigramlib.findings import tuned_and_base as measured
from bigramlib.findings.tuned_and_base import (
    CLAIMS,
    arms,
    compare,
    correlations,
    default_partner,
    judge,
    pair_scores,
    plot_arms,
    plot_pairs,
)
from bigramlib.instruction import pairs
from bigramlib.instruction.pairs import (
    FEW_SHOT,
    GIVEN_EXAMPLES,
    HELD_OUT,
    OTHER_TASK,
    READ_FEW_SHOT,
    RELEASED,
    TUNED,
    WRITES_EXAMPLES,
    ZERO_SHOT,
    Items,
)
from bigramlib.instruction.prompts import TEXT
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning_config import TuneConfig

INPUTS = 40
TASKS = [
    Task(f"task {number}", "rule", "all", ("Do it.",), tuple((f"{number} {given}", f"answer {given}") for given in range(200)))
    for number in range(24)
]
RANKS = np.linspace(0.05, 0.95, len(TASKS))


def table(**chances):
    """Scores of each arm: as many of a task's inputs are right as its chance says."""
    rows = [
        {"task": task.name, "kind": "rule", "cluster": "all", "arm": arm, "input": given, "correct": given < chance * INPUTS}
        for arm, values in chances.items()
        for task, chance in zip(TASKS, values, strict=True)
        for given in range(INPUTS)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def asked():
    return Items(TASKS, TEXT, count=4, shots=2)


@pytest.fixture
def unrelated(model):
    return dataclasses.replace(model, name="unrelated")


def comparison(asked, monkeypatch, unrelated, partner, **more):
    """The comparison of a pair whose tuned model does a little better than its base in every task."""
    monkeypatch.setattr(measured, "scores", lambda model, arm, items, prompts: table(**{arm: partner}))
    chances = {
        ZERO_SHOT: RANKS * 0.05,
        FEW_SHOT: RANKS,
        OTHER_TASK: RANKS * 0.1,
        TUNED: RANKS + 0.05,
        HELD_OUT: np.full(len(RANKS), 0.1) + 0.1 * (np.arange(len(RANKS)) % 2),
        WRITES_EXAMPLES: RANKS,
        GIVEN_EXAMPLES: RANKS * 0.9,
    }
    return compare(table(**(chances | more)), asked, unrelated)


def verdicts(*arguments):
    keys = {claim.text: key for key, claim in CLAIMS.items()}
    return {keys[verdict.claim.text]: verdict.holds for verdict in judge(None, *arguments)}


def test_a_pair_that_follows_its_base_and_no_other_model(asked, monkeypatch, unrelated):
    found = comparison(asked, monkeypatch, unrelated, np.random.default_rng(0).permutation(RANKS))
    assert found.follows.rho == pytest.approx(1, abs=0.01)
    holds = verdicts(found)
    assert list(holds) == list(CLAIMS)
    assert holds == dict.fromkeys(CLAIMS, "yes") | {"held out follows": "no"}


def test_where_another_model_explains_as_much_the_correlation_is_not_the_pairs_own(asked, monkeypatch, unrelated):
    holds = verdicts(comparison(asked, monkeypatch, unrelated, RANKS))
    assert holds["follows"] == "yes" and holds["own"] == "no"


def test_a_base_that_follows_instructions_is_not_at_the_floor(asked, monkeypatch, unrelated):
    assert verdicts(comparison(asked, monkeypatch, unrelated, RANKS, **{ZERO_SHOT: RANKS}))["floor"] == "no"


def test_of_a_released_model_only_the_pair_is_judged_and_all_are_read_alike(asked, monkeypatch, unrelated):
    monkeypatch.setattr(measured, "read_scores", lambda model, arm, items, prompts: table(**{arm: RANKS}))
    chances = {ZERO_SHOT: RANKS * 0.05, FEW_SHOT: RANKS, RELEASED: RANKS, READ_FEW_SHOT: RANKS}
    found = compare(table(**chances), asked, unrelated)
    assert found.tuned == RELEASED and found.held_out is None
    holds = verdicts(found)
    assert holds["follows"] == "yes" and list(holds.values()).count("not testable") == 3


def test_arms_are_in_the_order_of_the_story_with_their_intervals(asked, monkeypatch, unrelated):
    rows = arms(comparison(asked, monkeypatch, unrelated, RANKS).scores)
    assert list(rows.index)[:5] == [ZERO_SHOT, OTHER_TASK, FEW_SHOT, TUNED, HELD_OUT]
    assert (rows.low <= rows.score).all() and (rows.score <= rows.high).all()
    assert rows.score[FEW_SHOT] == pytest.approx(0.5, abs=0.03)


def test_correlations_name_the_other_model(asked, monkeypatch, unrelated):
    found = comparison(asked, monkeypatch, unrelated, RANKS[::-1])
    rows = correlations(found)
    assert rows.rho["another model in context (unrelated)"] == pytest.approx(-1, abs=0.01)
    assert rows.rho["its base in context"] == found.follows.rho and len(rows) == 5


def test_pictures_show_every_task_and_arm(asked, monkeypatch, unrelated, axes):
    found = comparison(asked, monkeypatch, unrelated, RANKS)
    plot_pairs(axes[:2], found)
    plot_arms(axes[2], arms(found.scores))
    measured.plot_correlations(axes[3], correlations(found))
    assert [len(place.collections[0].get_offsets()) for place in axes[:2]] == [len(TASKS)] * 2
    assert [text.get_text() for text in axes[3].get_yticklabels()] == list(correlations(found).index)[::-1]


def test_every_seed_of_tuning_is_scored(asked, model, monkeypatch):
    few = dataclasses.replace(asked, tasks=TASKS[:4])
    quick = TuneConfig(steps=2, batch_size=2, warmup_steps=1, rank=None)
    monkeypatch.setattr(TuneConfig, "suited", classmethod(lambda cls, model, seed=0: dataclasses.replace(quick, seed=seed)))
    monkeypatch.setattr(pairs, "generated", lambda model, prompts, tokens: [""] * len(prompts))
    monkeypatch.setattr(
        measured, "written_scores", lambda base, items, config: pd.DataFrame({"arm": [WRITES_EXAMPLES], "seed": [config.seed]})
    )
    found = pair_scores(model, few, [3, 5])
    assert set(found[found.arm == TUNED].seed) == set(found[found.arm == HELD_OUT].seed) == {3, 5}
    assert found[found.arm == FEW_SHOT].seed.isna().all()


def test_a_partner_saw_other_tasks_or_is_of_another_family():
    assert default_partner("world-a1") == "world-b1" and default_partner("world-b0") == "world-a0"
    assert default_partner("gemma-3-270m") == "smollm2-135m-instruct" != default_partner("smollm2-135m-instruct")
