"""The state of unfinished work is written often enough, and not too often."""

from bigramlib import saved_state, tensor_file
from bigramlib.interrupts import interrupts_deferred
from bigramlib.saved_state import StateFile


def test_states_are_written_by_steps_and_by_seconds_but_not_without_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(saved_state.time, "monotonic", lambda: now[0])
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
