"""Killed, interrupted, out of room or raced by another process, mask training ends in the same bits and loses nothing."""

import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import worker
from conftest import CONFIGS, build
from safetensors import safe_open
from searches import FOUR_SEQUENCES, QUICK, cut

from bigramlib import SparsifyConfig, Subnetwork, find_subnetwork
from bigramlib.store import store_folder
from bigramlib.training import run as resume
from bigramlib.training import search as training
from bigramlib.training.run import SavedState
from bigramlib.training.step import OptimizerStep

KILLS = 20


LONG = SparsifyConfig(sparsity_penalty=1.0, steps=200, batch_size=2, sequence_length=16, undecided_share=-1.0)
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["bigramlib", "transformers.models.gpt_neox.modeling_gpt_neox", "tokenizers"])


@pytest.fixture
def place(tokenizer, corpus, tmp_path):
    """A folder with a model and a text, for `worker.train`."""
    build("gpt_neox", tokenizer).hf.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    np.save(tmp_path / "ids.npy", corpus.ids)
    np.save(tmp_path / "starts.npy", corpus.starts)
    return tmp_path


def started(folder, config, **options):
    """A process that trains and has just begun."""
    here, there = processes.Pipe(duplex=False)
    process = processes.Process(target=worker.train, args=(folder, config), kwargs={"begun": there, **options})
    process.start()
    assert here.poll(60) and here.recv() == "begun"
    return process


def found(folder) -> Subnetwork:
    (file,) = (folder / "store" / "subnetworks").iterdir()
    return Subnetwork.load(file)


def leftovers(folder) -> list:
    kept = {"locks", "subnetworks", "unfinished"}
    assert {entry.name for entry in (folder / "store").iterdir()} <= kept
    masks = (folder / "store" / "subnetworks").glob("*")
    return [*(folder / "store" / "unfinished").glob("*"), *(file for file in masks if file.suffix != ".safetensors")]


def saved_step(folder) -> int:
    """The step of the state on disk, 0 if there is none."""
    for file in (folder / "store" / "unfinished").glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            return json.loads(opened.metadata()["bigramlib"])["facts"]["step"]
    return 0


def test_a_run_killed_twenty_times_ends_in_the_same_bits(place):
    process = started(place, LONG)
    begin = time.monotonic()
    process.join()
    duration = time.monotonic() - begin
    expected = found(place)
    shutil.rmtree(place / "store")
    (place / "trainings").unlink()
    delays = random.Random(0)
    steps = [0]
    for _ in range(KILLS):
        process = started(place, LONG)
        process.join(delays.uniform(0, duration / 15))
        assert process.is_alive(), "the run was over before it was killed often enough"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        steps.append(saved_step(place))
        assert steps[-1] >= steps[-2]
    assert len(set(steps)) - 1 > 0 and 0 < steps[-1] < LONG.steps
    started(place, LONG).join()
    assert found(place).hash == expected.hash
    assert found(place).provenance == expected.provenance
    assert leftovers(place) == []


def test_an_interrupt_finishes_the_step_and_leaves_a_state_and_a_clean_model(place):
    started(place, LONG, every=LONG.steps).join()
    expected = found(place)
    shutil.rmtree(place / "store")
    process = started(place, LONG, every=LONG.steps)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == worker.INTERRUPTED
    assert 0 < saved_step(place) < LONG.steps
    started(place, LONG, every=LONG.steps).join()
    assert found(place).hash == expected.hash
    assert leftovers(place) == []


def test_of_two_processes_that_ask_for_the_same_run_one_trains_and_the_other_takes_its_result(place):
    both = [started(place, LONG), started(place, LONG)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len((place / "trainings").read_text().splitlines()) == 1
    assert found(place).provenance["steps"] == LONG.steps


def test_a_lock_goes_with_its_process_and_the_one_that_waits_trains_on(place):
    first = started(place, LONG)
    while not saved_step(place):
        time.sleep(0.02)
    second = started(place, LONG)
    os.kill(first.pid, signal.SIGKILL)
    second.join()
    assert second.exitcode == 0 and len((place / "trainings").read_text().splitlines()) == 2
    assert found(place).provenance["steps"] == LONG.steps and leftovers(place) == []


def test_where_a_disk_is_full_the_state_before_stays_and_the_run_can_be_ended_later(place):
    process = started(place, LONG)
    while not saved_step(place):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (state,) = (place / "store" / "unfinished").glob("*.safetensors")
    before = state.read_bytes()
    process = started(place, LONG, file_size=1000)
    process.join()
    assert process.exitcode == 2
    assert "could not be written" in (place / "error").read_text() and "make room" in (place / "error").read_text()
    assert state.read_bytes() == before
    assert not list((place / "store" / "subnetworks").iterdir())
    assert leftovers(place) == [state]
    started(place, LONG).join()
    assert found(place).provenance["steps"] == LONG.steps


KINDS = [(name, {}) for name in CONFIGS]
KINDS += [(name, changes) for name in ("gpt_neox", "gemma2") for changes in (
    {"flattening": None}, {"precision": "bfloat16"}, {"attention": False}, {"layers": 1}
)]  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), KINDS)
def test_every_kind_of_run_resumes_to_the_same_bits(tokenizer, table, corpus, name, changes):
    model = build(name, tokenizer)
    config = replace(FOUR_SEQUENCES, steps=12, **changes)
    with cut(7):
        find_subnetwork(model, table, corpus, config)
    resumed = find_subnetwork(model, table, corpus, config)
    shutil.rmtree(store_folder("subnetworks"))
    fresh = find_subnetwork(model, table, corpus, config)
    assert resumed.hash == fresh.hash and resumed.provenance == fresh.provenance


def test_a_later_attempt_is_resumed_as_that_attempt(model, table, corpus, monkeypatch):
    first: list[float] = []

    def is_first(losses: list[float], _: int) -> bool:
        first[:] = first or losses
        return losses == first

    monkeypatch.setattr(training, "is_unstable", is_first)
    config = replace(FOUR_SEQUENCES, steps=6, attempts=2)
    fresh = find_subnetwork(model, table, corpus, config)
    assert fresh.provenance["attempt"] == 1
    shutil.rmtree(store_folder("subnetworks"))
    with cut(3, attempt=1):
        find_subnetwork(model, table, corpus, config)
    resumed = find_subnetwork(model, table, corpus, config)
    assert resumed.hash == fresh.hash and resumed.provenance == fresh.provenance


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_state_is_set_aside_and_training_begins_again(model, table, corpus, caplog, damage):
    with cut(7):
        find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    (file,) = store_folder("unfinished").iterdir()
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 4
    file.write_bytes({"truncated": content[:-9], "flipped": bytes(flipped), "foreign": b"{}", "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        resumed = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    assert f"{file} was set aside as '{file.name}.damaged' and is made again: it is not a whole state" in caplog.text
    assert [left.name for left in store_folder("unfinished").iterdir()] == [f"{file.name}.damaged"]
    shutil.rmtree(store_folder("subnetworks"))
    assert find_subnetwork(model, table, corpus, FOUR_SEQUENCES).hash == resumed.hash


def test_a_state_of_another_version_is_set_aside(model, table, corpus, caplog, monkeypatch):
    with monkeypatch.context() as earlier, cut(7):
        earlier.setattr(resume, "FORMAT", "bigramlib mask training state 1")
        find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    with caplog.at_level(logging.WARNING):
        find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    assert "another version of bigramlib wrote it" in caplog.text
    assert [left.suffix for left in store_folder("unfinished").iterdir()] == [".damaged"]


def test_a_run_that_version_0_1_began_goes_on_to_the_same_bits(model, table, corpus, monkeypatch, tmp_path):
    whole = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    with monkeypatch.context() as earlier, cut(7):
        earlier.setattr(resume, "FORMAT", resume.FORMAT_WITH_PENALTIES)
        find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    run, _ = SavedState(next(store_folder("unfinished").iterdir())).load()
    assert run.step == 7 and run.losses == []
    assert find_subnetwork(model, table, corpus, FOUR_SEQUENCES).hash == whole.hash


def test_an_interrupted_run_without_replacement_ends_with_the_same_bits(model, table, corpus, monkeypatch, tmp_path):
    config = replace(QUICK, flattening=None, with_replacement=False)
    whole = find_subnetwork(model, table, corpus, config)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    monkeypatch.setattr("bigramlib.saved_state.EVERY_STEPS", 1)
    monkeypatch.setattr("bigramlib.saved_state.WRITING_SHARE", 1e9)
    take = OptimizerStep.take

    def interrupted(self, *arguments):
        if self.run.step == 17:
            raise KeyboardInterrupt
        return take(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(OptimizerStep, "take", interrupted)
        find_subnetwork(model, table, corpus, config)
    assert find_subnetwork(model, table, corpus, config).hash == whole.hash
