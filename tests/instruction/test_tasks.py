"""Tasks are split by their inputs alone, and clusters are divided evenly."""

import numpy as np
import pytest

from bigramlib.instruction.tasks import SHARES, Task, halves


def task(count: int = 200, name: str = "double", cluster: str = "numbers") -> Task:
    pairs = tuple((str(number), str(2 * number)) for number in range(count))
    return Task(name, "rule", cluster, ("Double the number.",), pairs)


def test_the_parts_are_disjoint_and_together_everything():
    parts = [task().split(part) for part in SHARES]
    assert sorted(pair for part in parts for pair in part) == sorted(task().pairs)


def test_the_parts_have_about_the_shares_that_are_said():
    for part, share in SHARES.items():
        assert abs(len(task(2000).split(part)) / 2000 - share) < 0.04


def test_an_input_stays_in_its_part_when_others_are_added_or_answers_change():
    for part in SHARES:
        assert set(task(100).split(part)) <= set(task(200).split(part))
    other = Task("double", "fact", "else", ("Say no.",), tuple((given, "no") for given, _ in task().pairs))
    assert [given for given, _ in other.split("test")] == [given for given, _ in task().split("test")]


def test_every_tested_pair_comes_once_before_any_comes_again():
    tested = task().split("test")
    items = task().items(2 * len(tested) + 3)
    assert sorted(items[: len(tested)]) == sorted(items[len(tested) : 2 * len(tested)]) == sorted(tested)
    assert len(items) == 2 * len(tested) + 3


def test_items_depend_on_the_seed_alone():
    assert task().items(20, seed=1) == task().items(20, seed=1) != task().items(20, seed=2)


def test_shots_are_different_demonstrations_and_never_tested():
    shots = task().shots(10, np.random.default_rng(0))
    assert len(set(shots)) == 10 and not set(shots) & set(task().split("test"))


def test_more_shots_than_demonstrations_are_refused():
    with pytest.raises(ValueError, match=r"'double' has \d demonstrations, fewer than the 50 asked for; use fewer shots"):
        task(20).shots(50, np.random.default_rng(0))


def test_a_task_so_small_that_nothing_is_tested_says_so():
    with pytest.raises(ValueError, match="'double' has only 1 pairs, none of them to test; give more pairs"):
        Task("double", "rule", "numbers", ("Double it.",), task().split("shots")[:1]).items(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": ()}, "'a' has no pairs; give inputs with their answers"),
        ({"instructions": ()}, "'a' has no instruction; give at least one sentence"),
        ({"pairs": (("x", " "),)}, "has ' ' among its texts"),
        ({"pairs": (("x", "y"), ("x", "z"))}, "has the input 'x' twice"),
        ({"options": ("p", "q")}, "has the answer 'y', which is not among its options"),
    ],
)
def test_what_is_no_task_is_refused(change, message):
    whole = {"name": "a", "kind": "rule", "cluster": "b", "instructions": ("Do it.",), "pairs": (("x", "y"),)}
    with pytest.raises(ValueError, match=message):
        Task(**(whole | change))


def test_the_majority_share_is_what_guessing_would_score():
    pairs = tuple((str(number), "even" if number % 4 else "odd") for number in range(99))
    parity = Task("parity", "rule", "numbers", ("Say even or odd.",), pairs)
    answers = [answer for _, answer in parity.split("test")]
    assert parity.majority_share == answers.count("even") / len(answers)


def test_equal_tasks_have_one_hash_and_any_change_another():
    assert task().hash == task().hash
    assert len({task().hash, task(199).hash, task(name="twice").hash, task(cluster="letters").hash}) == 4


@pytest.mark.parametrize("seed", range(8))
def test_halves_have_half_of_every_cluster_and_every_task_once(seed):
    sizes = {"a": 4, "b": 5, "c": 1, "d": 3}
    tasks = [task(5, f"{cluster} {number}", cluster) for cluster, size in sizes.items() for number in range(size)]
    first, second = halves(tasks, seed)
    assert sorted(one.name for one in first + second) == sorted(one.name for one in tasks)
    for cluster in sizes:
        shares = [sum(one.cluster == cluster for one in half) for half in (first, second)]
        assert abs(shares[0] - shares[1]) <= 1


def test_halves_differ_between_seeds():
    tasks = [task(5, f"{number}") for number in range(20)]
    assert {one.name for one in halves(tasks, 0)[0]} != {one.name for one in halves(tasks, 1)[0]}
