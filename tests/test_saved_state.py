"""The state of unfinished work is written often enough, and not too often."""

from bigramlib import saved_state, tensor_file
from bigramlib.interrupts import interrupts_deferred
from bigramlib.saved_state import StateFile, unfinished
from bigramlib.store import store_root


def test_states_are_written_by_steps_and_by_seconds_but_not_without_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(saved_state.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(saved_state.random, "uniform", lambda low, high: (low + high) / 2)
    state = StateFile(tmp_path / "state.safetensors")
    assert not state.due(499) and state.due(500)
    now[0] = 59.0
    assert not state.due(1)
    now[0] = 60.0
    assert state.due(1)
    monkeypatch.setattr(tensor_file, "save_file", lambda *_, **__: now.__setitem__(0, now[0] + 30.0))
    monkeypatch.setattr(tensor_file, "written_whole", lambda path: interrupts_deferred())
    state.write("a form", 1, {}, {})
    now[0] += 590.0
    assert not state.due(10_000)
    now[0] += 10.0
    assert state.due(10_000)


def test_many_runs_do_not_all_write_at_once(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(saved_state.time, "monotonic", lambda: now[0])
    states = [StateFile(tmp_path / f"{number}") for number in range(200)]
    due = []
    for now[0] in (44.0, 60.0, 76.0):
        due.append(sum(state.due(1) for state in states))
    assert due[0] == 0
    assert 50 < due[1] < 150
    assert due[2] == 200


def test_states_lie_in_the_store_or_where_a_variable_says(tmp_path, monkeypatch):
    assert unfinished("a") == store_root() / "unfinished" / "a"
    monkeypatch.setenv("BIGRAMLIB_UNFINISHED", str(tmp_path / "scratch"))
    assert unfinished("a") == tmp_path / "scratch" / "a"
