"""How well do two processes share searches, what does Dask take for each, and how fast is a large store listed?

Efficiency compares the same searches in one warm process and in two. It needs two cores on which nothing else runs.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import torch

from benchmarks.measuring import Figure, save
from bigramlib import Subnetwork, load_model
from bigramlib.cluster.executors import Executor, on_each
from bigramlib.cluster.searches import Search, find_subnetworks
from bigramlib.cluster.sweep import grid
from bigramlib.cluster.workers import workers
from bigramlib.store import store_folder
from bigramlib.subnetworks.stored import stored_provenances

QUESTION = "sweep"
SEARCHES, STEPS, STUBS, FILES = 8, 20, 2_000, 20_000


def measure(searches: list[Search], stubs: int = STUBS, files: int = FILES) -> tuple[pd.DataFrame, list[Figure]]:
    """Seconds of searches in one and two warm processes, of calls that do nothing, and of listing a store."""
    rows = []
    with own_store():
        for processes in (1, 2):
            with warm(processes, searches) as executor:
                wall, cpu = seconds(lambda executor=executor: find_subnetworks(searches, executor))
                stub_wall, _ = seconds(lambda executor=executor: on_each(stub, range(stubs), executor, "stubs"))
            rows.append({"processes": processes, "wall": wall, "cpu": cpu, "stub_milliseconds": 1000 * stub_wall / stubs})
            for file in store_folder("subnetworks").glob("*"):
                file.unlink()
        listing = listed(files)
    table = pd.DataFrame(rows).assign(searches=len(searches), stubs=stubs, files=files, listing_seconds=listing)
    one, two = table.wall
    overhead = table.stub_milliseconds.iloc[1]
    figures = [
        Figure(QUESTION, "efficiency of two processes", one / (2 * two), at_least=0.9),
        Figure(QUESTION, "milliseconds of Dask for each call", overhead, at_most=10),
    ]
    return table, figures


@contextmanager
def own_store() -> Iterator[None]:
    """Within the context the store is an empty folder."""
    before = os.environ.get("BIGRAMLIB_STORE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BIGRAMLIB_STORE"] = folder
        try:
            yield
        finally:
            os.environ.pop("BIGRAMLIB_STORE")
            if before is not None:
                os.environ["BIGRAMLIB_STORE"] = before


@contextmanager
def warm(processes: int, searches: list[Search]) -> Iterator[Executor | None]:
    """This process with one thread, or an executor of several, all of which have loaded the model and the text."""
    first = [replace(search, config=replace(search.config, steps=1)) for search in searches]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with workers(processes=processes) as executor:
            find_subnetworks(first, executor)
            yield executor
    finally:
        torch.set_num_threads(threads)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall time of a call, and CPU seconds of this process and all that it started."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    call()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """CPU seconds of this process and all that it started and that still run."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (here, *here.children(recursive=True)))


def stub(number: int) -> int:
    """A call that does nothing."""
    return number


def listed(files: int) -> float:
    """Seconds of reading what so many files of subnetworks in the store say of themselves."""
    folder = store_folder("subnetworks")
    Subnetwork.empty(load_model("mini")).save(folder / "0.safetensors")
    for number in range(1, files):
        Path(folder / f"{number}.safetensors").hardlink_to(folder / "0.safetensors")
    wall, _ = seconds(lambda: stored_provenances())
    return wall


if __name__ == "__main__":
    settings = {"steps": STEPS, "undecided_share": -1.0}
    save(QUESTION, *measure(grid(["mini"], seeds=range(SEARCHES), settings=settings)))
