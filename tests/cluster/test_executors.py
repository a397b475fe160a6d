"""Whatever runs the calls: results in order, failures together, one store for all."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from bigramlib.cluster import executors
from bigramlib.cluster.executors import in_worker, on_each
from bigramlib.store import store_root


def doubled(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return 2 * number


def late(number: int) -> int:
    time.sleep(0.02 * number)
    return number


@pytest.fixture(params=["here", "threads"])
def executor(request):
    if request.param == "here":
        yield None
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool


def test_results_are_in_the_order_of_the_items_each_called_once(executor):
    called = Counter()
    found = on_each(lambda number: called.update([number]) or doubled(number), [3, 1, 2, 1], executor, "numbers")
    assert list(found.items()) == [(3, 6), (1, 2), (2, 4)]
    assert set(called.values()) == {1}


def test_others_end_when_one_fails_and_each_failure_names_its_item(executor):
    called = []
    with pytest.raises(ExceptionGroup, match=r"2 of 4 numbers failed; ask again to go on \(-1 is negative\)") as caught:
        on_each(lambda number: called.append(number) or doubled(number), [-1, 1, -2, 2], executor, "numbers")
    assert sorted(called) == [-2, -1, 1, 2]
    assert [error.__notes__ for error in caught.value.exceptions] == [["in -1"], ["in -2"]]


def test_what_ends_first_is_counted_first():
    with ThreadPoolExecutor(3) as pool:
        ended = [item for item, _ in executors.elsewhere(late, [6, 0, 3], pool)]
    assert ended == [0, 3, 6]


def test_an_interrupt_cancels_what_has_not_begun():
    begun = []

    def call(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise KeyboardInterrupt
        time.sleep(0.1)

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        on_each(call, range(50), pool, "numbers")
    assert len(begun) < 10


def test_a_store_that_a_worker_does_not_see_is_noticed_and_said(monkeypatch, tmp_path):
    class Elsewhere:
        """An executor whose workers have a store of their own."""

        def submit(self, function, *arguments):
            with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
                patch.setenv("BIGRAMLIB_STORE", str(tmp_path / "other"))
                future = pool.submit(function, *arguments)
            return future

    caller = str(store_root())
    with pytest.raises(ExceptionGroup, match="does not see the caller's store") as caught:
        on_each(doubled, [1], Elsewhere(), "numbers")
    said = str(caught.value.exceptions[0])
    assert caller in said
    assert str(tmp_path / "other") in said
    assert "Set BIGRAMLIB_STORE" in said


def test_nothing_is_left_in_the_store(executor):
    on_each(doubled, [1], executor, "numbers")
    assert not list(store_root().glob("sweeps/*"))


def test_a_worker_without_this_library_is_told_of_in_one_sentence():
    def fails(number: int) -> None:
        raise RuntimeError("Error during deserialization") from ModuleNotFoundError("No module named 'bigramlib'")

    with pytest.raises(ExceptionGroup, match="cannot import bigramlib; install it in their environment") as caught:
        on_each(fails, [1], None, "numbers")
    assert isinstance(caught.value.exceptions[0].__cause__, RuntimeError)


def test_a_call_in_a_worker_returns_what_the_function_does(tmp_path):
    (store_root() / "sweeps").mkdir(parents=True)
    (store_root() / "sweeps" / "mark").touch()
    assert in_worker(doubled, 4, "there", "mark") == 8
