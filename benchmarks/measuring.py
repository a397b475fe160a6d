"""What the benchmarks share: interleaved timing, peak memory of a fresh process, and where results are written."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

RESULTS = Path(__file__).parent / "results"
MIB = 2**20


@dataclass(frozen=True)
class Figure:
    """One number that a goal is set for.

    Attributes:
        question: the benchmark it answers.
        figure: what it is.
        value: as measured; NaN where it could not be.
        at_most, at_least: the goal, one of the two.
    """

    question: str
    figure: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def row(self) -> dict[str, object]:
        """Its row of `summary.csv`."""
        goal = f"<= {self.at_most:g}" if self.at_least is None else f">= {self.at_least:g}"
        met = self.value <= self.at_most if self.at_least is None else self.value >= self.at_least
        measured = {key: value for key, value in asdict(self).items() if key in ("question", "figure", "value")}
        return measured | {"goal": goal, "met": "yes" if met else "not measurable" if np.isnan(self.value) else "no"}


def interleaved(cases: Mapping[str, Callable[[], object]], repeats: int = 7) -> pd.DataFrame:
    """Seconds of each case (columns) in each round (rows); cases take turns, so that what else the machine does falls on all.

    Each case runs once beforehand, unmeasured. A single CPU thread is timed by its processor, which other work delays less
    than the clock; anything else by the clock.
    """
    rounds = [{name: elapsed(case) for name, case in cases.items()} for _ in range(repeats + 1)]
    return pd.DataFrame(rounds[1:])


def median_ratio(times: pd.DataFrame, above: str, below: str) -> float:
    """The median over rounds of one case's seconds over another's."""
    return float((times[above] / times[below]).median())


def elapsed(case: Callable[[], object]) -> float:
    """Seconds that a call takes, GPU work included."""
    on_gpu = torch.cuda.is_available()
    clock = time.process_time if torch.get_num_threads() == 1 and not on_gpu else time.perf_counter
    begin = clock()
    case()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begin


def peak_bytes(function: Callable[..., object], *arguments: object) -> int:
    """The highest resident memory of a fresh process that imports the function's module and calls it (Linux)."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_of, function, arguments).result()


def peak_bytes_together(function: Callable[..., object], count: int, *arguments: object) -> int:
    """The highest resident memory of so many fresh processes that call a function at once, each with its number first."""
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        peaks = [pool.submit(_peak_of, function, (number, count, *arguments)) for number in range(count)]
        return max(peak.result() for peak in peaks)


def save(question: str, table: pd.DataFrame, figures: list[Figure], name: str | None = None) -> Path:
    """Show a benchmark's table and figures, write <question>.csv, and replace its rows in `summary.csv`.

    Args:
        question: the benchmark.
        table: what it measured.
        figures: those with a goal.
        name: of the folder in `RESULTS`; that of this machine if not given.

    Returns:
        the folder.
    """
    folder = RESULTS / (name or machine())
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{question}.csv", index=False, float_format="%.5g")
    found = pd.DataFrame([figure.row for figure in figures], columns=["question", "figure", "value", "goal", "met"])
    file = folder / "summary.csv"
    if file.exists():
        others = pd.read_csv(file)
        found = pd.concat([others[others.question != question], found]).sort_values("question", kind="stable")
    found.to_csv(file, index=False, float_format="%.4g")
    with pd.option_context("display.width", 160, "display.max_columns", 20, "display.precision", 4):
        print(f"\n== {question}\n{table.to_string(index=False)}\n\n{found[found.question == question].to_string(index=False)}")
    return folder


def machine() -> str:
    """A name for this kind of machine: its processor with its vector units, its cores, and its GPU."""
    try:
        described = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    except (OSError, IndexError):
        described = platform.processor() or platform.machine()
    parts = [described, torch.backends.cpu.get_cpu_capability(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return plain_name(" ".join(parts))


def plain_name(text: str) -> str:
    """A name of small letters, digits and hyphens, as folders have it."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def devices() -> list[str]:
    """The CPU and, where there is one, the GPU."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _peak_of(function: Callable[..., object], arguments: tuple[object, ...]) -> int:
    function(*arguments)
    return int(re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
