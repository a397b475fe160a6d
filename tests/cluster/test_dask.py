"""Searches on Dask end with the bits of one process, whatever dies meanwhile; what is missing is said in one sentence."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import pytest
from searches import QUICK

from bigramlib import saved_state
from bigramlib.cluster import workers as dask_workers
from bigramlib.cluster.searches import Search, find_subnetworks
from bigramlib.cluster.workers import ONE_THREAD, workers
from bigramlib.store import store_root
from bigramlib.training.run import SavedState

LONG = replace(QUICK, steps=200, undecided_share=0.0)
SAVED_EVERY = 20
DRIVER = """
import sys
from test_dask import Search, Watched, find_subnetworks, replace, workers, LONG

if __name__ == "__main__":
    with workers(processes=2) as executor:
        find_subnetworks([Search(*sys.argv[1:], replace(LONG, seed=seed)) for seed in (0, 1)], Watched(executor))
"""
WITHOUT_THE_LIBRARY = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "bigramlib":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
"""


class Watched:
    """An executor whose workers save the state of a search often, and note who begins one, and at which step."""

    def __init__(self, executor):
        self.executor = executor

    def submit(self, function, /, *arguments):
        return self.executor.submit(watched, function, *arguments)


def watched(function, *arguments):
    load = SavedState.load

    def noted(self):
        found = load(self)
        with (store_root() / "begun").open("a") as begun:
            begun.write(f"{self.file.name} {os.getpid()} {found[0].step if found else 0}\n")
        return found

    often = mock.patch.multiple(saved_state, EVERY_STEPS=SAVED_EVERY, WRITING_SHARE=1.0)
    with often, mock.patch.object(SavedState, "load", noted):
        return function(*arguments)


def begun():
    """(its file in the store, process, step) of each search that began."""
    lines = [line.split() for line in (store_root() / "begun").read_text().splitlines()]
    return [(file, int(process), int(step)) for file, process, step in lines]


def kill_when_saved(process=None):
    """Kill a process, if none is given that of the first search whose state is saved; returns the file of that search."""
    last = time.monotonic() + 150
    while not (files := list((store_root() / "unfinished").glob("*.safetensors"))):
        assert time.monotonic() < last, "no state was saved"
        time.sleep(0.01)
    searching = {file: searcher for file, searcher, _ in begun()}
    os.kill(process or searching[files[0].name], signal.SIGKILL)
    return files[0].name


def assert_went_on(killed):
    """The killed search began anew, in another process and not from its beginning."""
    first, second = [(process, step) for file, process, step in begun() if file == killed]
    assert first[1] == 0 and second[1] >= SAVED_EVERY and first[0] != second[0]


@pytest.fixture
def searches(in_folders):
    model, text = map(str, in_folders)
    return [Search(model, text, replace(LONG, seed=seed)) for seed in (0, 1)]


@pytest.fixture
def found_here(searches, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
        return find_subnetworks(searches)


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Start a Python program, from which bigramlib can be hidden; it is ended after the test."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(WITHOUT_THE_LIBRARY)
    started = []

    def run(*arguments, hidden=False):
        path = os.pathsep.join([str(tmp_path / "without")] * hidden + sys.path)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": path}, **quiet))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_a_search_whose_process_is_killed_goes_on_in_another(searches, found_here):
    with workers(processes=2) as executor, ThreadPoolExecutor(1) as pool:
        found = pool.submit(find_subnetworks, searches, Watched(executor))
        killed = kill_when_saved()
        assert found.result() == found_here
    assert_went_on(killed)


def test_when_the_driver_is_killed_its_processes_end_and_another_driver_goes_on(searches, found_here, in_folders, start):
    killed = kill_when_saved(start("-c", DRIVER, *map(str, in_folders)).pid)
    with ThreadPoolExecutor(1) as executor:
        assert find_subnetworks(searches, Watched(executor)) == found_here
    assert_went_on(killed)


def test_processes_have_one_thread_and_keep_the_memory_that_they_will_need_again():
    with workers(processes=2) as executor:
        found = [executor.submit(os.getenv, name).result() for name in (*ONE_THREAD, "MALLOC_TRIM_THRESHOLD_")]
    assert found == [*ONE_THREAD.values(), None]


@pytest.mark.parametrize("lacking", ["worker", "scheduler"])
def test_where_the_library_is_missing_one_sentence_says_so(lacking, start, monkeypatch, tmp_path):
    monkeypatch.setattr(dask_workers, "SECONDS_TO_CONNECT", 60)
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", file]
    start("-m", "distributed.cli.dask_scheduler", *options, hidden=lacking == "scheduler")
    start("-m", "distributed.cli.dask_worker", "--scheduler-file", file, "--no-nanny", hidden=True)
    while not (file.exists() and file.read_text()):
        time.sleep(0.05)
    address = json.loads(file.read_text())["address"]
    sentence = "cannot import bigramlib; install it in their environment"
    with pytest.raises(ModuleNotFoundError, match=sentence), workers(address):
        pass


def test_a_scheduler_that_is_not_there_is_said_before_long(monkeypatch):
    monkeypatch.setattr(dask_workers, "SECONDS_TO_CONNECT", 1)
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match="No Dask scheduler answers at 'tcp:"), workers("tcp://127.0.0.1:1"):
        pass
    assert time.monotonic() - begin < 5
