"""Planted agreement is found, difficulty alone is told from it, and what cannot be known is NaN."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from planted_scores import fact_table, logistic, normal_pair, score_table

from bigramlib.instruction.agreement import agreement, partner_control, within_task
from bigramlib.instruction.resampling import spearman


def numbers(found) -> np.ndarray:
    return np.hstack(list(asdict(found).values()))


def pair_table(tasks: int, r: float, inputs: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    x, y = normal_pair(tasks, r, generator)
    return score_table({"x": x, "y": y}, inputs, generator), fact_table(tasks, generator)


def pair_of(*planted):
    table, facts = pair_table(*planted)
    return table, "x", "y", facts


def test_a_gain_that_keeps_the_order_of_tasks_is_perfect_agreement_once_the_luck_of_inputs_is_removed():
    found = agreement(*pair_of(400, 1.0, 12, 0), draws=100)
    assert found.n == 400 and found.rho < 0.9
    assert found.disattenuated == pytest.approx(1.0, abs=0.03)


def test_disattenuated_rho_is_that_of_endless_inputs():
    truth = spearman(*normal_pair(100_000, 0.7, np.random.default_rng(9)))
    found = [agreement(*pair_of(120, 0.7, 15, seed), draws=20) for seed in range(12)]
    assert np.mean([one.disattenuated for one in found]) == pytest.approx(truth, abs=0.04)
    assert np.mean([one.rho for one in found]) < truth - 0.06


def test_inputs_that_are_hard_in_both_arms_are_not_taken_for_agreement_of_tasks():
    generator = np.random.default_rng(0)
    chances, hardness = 0.3 + 0.4 * generator.random((2, 600, 1)), generator.random((600, 20))
    table = score_table({"x": np.zeros(600), "y": np.zeros(600)}, 20, generator)
    found = agreement(table.assign(correct=(hardness < chances).ravel()), "x", "y", fact_table(600, generator), draws=20)
    assert found.rho > 0.2 and abs(found.disattenuated) < 0.2


def test_reliability_is_the_correlation_with_as_many_other_inputs():
    x, _ = normal_pair(400, 0, np.random.default_rng(0))
    first, second = (score_table({"x": x, "y": x}, 12, np.random.default_rng(seed)) for seed in (1, 2))
    again = spearman(*(table[table.arm == "x"].groupby("task").correct.mean().to_numpy() for table in (first, second)))
    found = agreement(first, "x", "y", fact_table(400, np.random.default_rng(3)), draws=20)
    assert found.reliability_x == pytest.approx(again, abs=0.03)


def test_partial_rho_removes_what_the_majority_share_planted():
    generator = np.random.default_rng(0)
    facts = fact_table(200, generator)
    x, y = (logistic(4 * facts["majority"].to_numpy() - 2 + generator.normal(0, 0.5, 200)) for _ in range(2))
    found = agreement(score_table({"x": x, "y": y}, 50, generator), "x", "y", facts, draws=200)
    assert found.rho > 0.6 and abs(found.partial) < 0.2
    assert found.partial_interval[0] < 0 < found.partial_interval[1]


def test_unrelated_arms_do_not_agree_and_related_ones_do():
    nothing, something = (agreement(*pair_of(37, r, 20, 0), draws=500) for r in (0.0, 0.9))
    assert nothing.p > 0.05 and nothing.interval[0] < 0 < nothing.interval[1]
    assert something.p < 0.01 and something.interval[0] > 0.3


def test_constant_arms_are_unknown_without_a_word():
    table, facts = pair_table(12, 0.5, 10, 0)
    table.loc[table.arm == "y", "correct"] = 0
    found = agreement(table, "x", "y", facts, draws=50)
    assert found.n == 12 and found.reliability_x > 0
    assert np.isnan([found.rho, found.p, *found.interval, found.reliability_y, found.disattenuated, found.partial]).all()


def test_an_input_for_each_task_has_no_reliability():
    found = agreement(*pair_of(30, 0.9, 1, 0), draws=50)
    assert np.isnan([found.reliability_x, found.reliability_y, found.disattenuated]).all()


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_few_tasks_are_unknown_rather_than_a_crash(tasks):
    table, facts = pair_table(tasks, 0.5, 10, 0)
    assert np.isnan(agreement(table, "x", "y", facts, draws=50).interval).all()
    assert np.isnan(partner_control(table, "x", "y", table, draws=50).difference_interval).all()


def test_tasks_without_the_other_arm_are_left_out_even_if_none_is_left():
    table, facts = pair_table(10, 0.9, 10, 0)
    assert agreement(table[~((table.arm == "y") & (table.task == "task 003"))], "x", "y", facts, draws=50).n == 9
    apart = table[(table.arm == "x") == (table.task < "task 005")]
    found = agreement(apart, "x", "y", facts, draws=50)
    assert found.n == 0 and np.isnan(found.rho)


def test_the_order_of_rows_does_not_matter_and_the_seed_decides():
    table, facts = pair_table(20, 0.7, 8, 0)
    shuffled = table.sample(frac=1, random_state=1)
    one, two, other = (
        numbers(agreement(some, "x", "y", facts, seed, 200)) for some, seed in ((table, 0), (shuffled, 0), (table, 1))
    )
    np.testing.assert_array_equal(one, two)
    assert one[1] == other[1] and (one != other).any()


def test_a_task_without_facts_is_refused():
    table, facts = pair_table(5, 0.7, 8, 0)
    with pytest.raises(ValueError, match="'task 002' lacks facts"):
        agreement(table, "x", "y", facts.drop("task 002"))
    with pytest.raises(ValueError, match="no column 'majority'"):
        agreement(table, "x", "y", facts[["answer_length"]])


def controlled(own: float, seed: int, tasks: int = 80):
    """The partner control of models that share a difficulty, and of which a pair shares an own component as well."""
    generator = np.random.default_rng(seed)
    difficulty, shared, *noise = generator.normal(size=(5, tasks))
    x, y = (logistic(1.5 * difficulty + own * shared + 0.5 * part) for part in noise[:2])
    partner = logistic(1.5 * difficulty + own * generator.normal(size=tasks) + 0.5 * noise[2])
    table = score_table({"x": x, "y": y}, 40, generator)
    return partner_control(table, "x", "y", score_table({"x": partner}, 40, generator), seed, 200)


def test_a_partner_shows_what_is_the_pairs_own():
    found = controlled(1.2, 0)
    assert found.difference_interval[0] > 0
    assert found.own_given_partner > 0.4 and found.own_given_partner_interval[0] > 0
    assert found.difference == pytest.approx(found.own - found.partner)


def test_a_partner_shows_that_nothing_is_the_pairs_own_where_all_is_difficulty():
    held = []
    for seed in range(25):
        found = controlled(0.0, seed, tasks=40)
        held.append(found.difference_interval[0] <= 0 <= found.difference_interval[1])
        assert found.own > 0.5 and found.partner > 0.5 and found.between > 0.5
    assert np.mean(held) >= 0.88


def test_a_partner_is_compared_on_common_tasks():
    table, _ = pair_table(20, 0.9, 20, 0)
    found = partner_control(table, "x", "y", table[table.task >= "task 008"], draws=50)
    assert found.n == 12 and found.difference == 0 and found.between == pytest.approx(1)
    assert found.own_reliability == found.partner_reliability


def test_a_constant_partner_is_unknown_without_a_word():
    table, _ = pair_table(12, 0.9, 20, 0)
    found = partner_control(table, "x", "y", table.assign(correct=1), draws=50)
    assert np.isfinite(found.own) and np.isnan([found.partner, found.between, found.difference, *found.partner_interval]).all()


def based(own: float, seed: int) -> pd.DataFrame:
    """Scores of three bases that share the difficulty of tasks, and what a base is better at by itself."""
    generator = np.random.default_rng(seed)
    difficulty, parts = generator.normal(size=40), []
    for base in "ABC":
        mine = own * generator.normal(size=40)
        parts.append(score_table({arm: logistic(2 * difficulty + mine) for arm in "xy"}, 30, generator, base=base))
    return pd.concat(parts)


def test_within_tasks_difficulty_plays_no_part():
    found = [within_task(based(0.0, seed), "x", "y", seed, 199) for seed in range(25)]
    assert np.mean([one.r for one in found]) == pytest.approx(0, abs=0.05)
    assert np.mean([one.p <= 0.1 for one in found]) <= 0.25
    assert np.mean([one.interval[0] <= 0 <= one.interval[1] for one in found]) >= 0.85


def test_within_tasks_what_a_base_is_better_at_is_found():
    found = within_task(based(1.0, 0), "x", "y")
    assert (found.n, found.tasks, found.bases) == (120, 40, 3)
    assert found.r > 0.6 and found.p < 0.01 and found.interval[0] > 0.4 and found.without_base_means > 0.6


def test_a_base_that_is_better_in_all_tasks_is_told_from_one_that_is_better_in_some():
    generator, difficulty = np.random.default_rng(0), np.linspace(0.1, 0.6, 40)
    bases = {base: difficulty + 0.15 * place for place, base in enumerate("ABC")}
    table = pd.concat([score_table({"x": chance, "y": chance}, 30, generator, base=base) for base, chance in bases.items()])
    found = within_task(table, "x", "y", draws=50)
    assert found.r > 0.6 and abs(found.without_base_means) < 0.3


def test_bases_that_do_not_differ_within_tasks_are_unknown_without_a_word():
    table, _ = pair_table(12, 0.9, 10, 0)
    found = within_task(pd.concat([table.assign(base="A"), table.assign(base="B")]), "x", "y", draws=50)
    assert np.isnan([found.r, found.p, *found.interval, found.without_base_means]).all()


def test_tasks_that_a_base_lacks_are_left_out():
    table = based(1.0, 0)
    kept = table[~((table.base == "B") & (table.arm == "y") & (table.task == "task 007"))]
    assert within_task(kept, "x", "y", draws=50).tasks == 39


def test_one_base_has_nothing_within_tasks():
    with pytest.raises(ValueError, match="at least two bases"):
        within_task(pair_table(5, 0.9, 5, 0)[0].assign(base="A"), "x", "y")
