"""A claim of the paper, how measured values decide whether it holds on a model, and the file that records the verdicts.

Each notebook's file in this folder states its own claims; `summary.py` collects them all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import pandas as pd

from bigramlib.disk import written_whole
from bigramlib.numeric import percent
from bigramlib.store import locked

COLUMNS = ["claim", "paper", "ours", "holds"]
BIGRAM_SUBNETWORKS = "Chang & Bergen 2025"
INHERENT_LIMITS = "Bigoulaeva et al. 2025"
BOTH = "both"
"""The two papers, and the question that joins them."""


@dataclass(frozen=True)
class Claim:
    """One claim: its text, the paper's result, and how measured values are shown and judged.

    Attributes:
        text: what is claimed.
        paper: the paper's result, or where the claim comes from.
        ours: a format string that shows the measured values.
        holds: a function of the measured values, given by name, that says whether the claim holds.
        judged_by_interval: whether `holds` needs the interval from low to high. If that interval is unknown, the claim cannot
            be tested.
        source: the paper that it belongs to: `BIGRAM_SUBNETWORKS`, `INHERENT_LIMITS` or `BOTH`.
    """

    text: str
    paper: str
    ours: str
    holds: Callable[..., bool]
    judged_by_interval: bool = False
    source: str = BIGRAM_SUBNETWORKS


@dataclass(frozen=True)
class Verdict:
    """What was found about a claim on one model.

    Attributes:
        claim: the claim.
        ours: a text with the measured values, or why the claim cannot be tested.
        holds: "yes", "no" or "not testable".
    """

    claim: Claim
    ours: str
    holds: Literal["yes", "no", "not testable"]

    def __str__(self) -> str:
        return f"{self.holds}: {self.ours}\n    {self.claim.text} (paper: {self.claim.paper})"

    @property
    def conclusion(self) -> str:
        """The verdict without its numbers: what every machine must reproduce."""
        return f"{self.holds}: {self.claim.text}"


def check(folder: Path | None, claim: Claim, **measured: Any) -> Verdict:
    """Judge a claim by its measured values.

    Args:
        folder: where it is recorded, in claims.csv; None records it nowhere.
        claim: the claim.
        measured: the values that the claim's `ours` and `holds` use, by name.

    Returns:
        The verdict. It is "not testable" if the claim is judged by an interval and that is unknown (NaN).
    """
    holds: Literal["yes", "no", "not testable"] = "yes" if claim.holds(**measured) else "no"
    if claim.judged_by_interval and math.isnan(measured["low"]):
        holds = "not testable"
    ours = re.sub(r"\+?nan%? to \+?nan%?", "interval unknown: too few to tell", _Shown().format(claim.ours, **measured))
    return _record(folder, Verdict(claim, re.sub(r"\bnan\b", "unknown", ours), holds))


class _Shown(Formatter):
    """Format strings as Python's, where `.2%` shows a share as `percent` does, and a list's values are joined by "and"."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list):
            return " and ".join(self.format_field(one, format_spec) for one in value)
        share = re.fullmatch(r"\.(\d)%", format_spec)
        return percent(value, int(share[1])) if share else format(value, format_spec)


def untestable(folder: Path | None, claim: Claim, reason: str) -> Verdict:
    """Record, as `check` does, that a claim cannot be tested on this model, and for what reason."""
    return _record(folder, Verdict(claim, reason, "not testable"))


def recorded(folder: Path | None) -> dict[str, tuple[str, str, str, str]]:
    """The rows of a folder's claims.csv (`COLUMNS`), by the text of their claim; empty if there is no such file."""
    if folder is None or not (folder / "claims.csv").exists():
        return {}
    return {row.claim: tuple(row) for row in pd.read_csv(folder / "claims.csv", keep_default_na=False).itertuples(index=False)}


def _record(folder: Path | None, verdict: Verdict) -> Verdict:
    """Add the row of a claim to claims.csv, or replace it in its place; a lock keeps other processes out meanwhile."""
    if folder is not None:
        claim, file = verdict.claim, folder / "claims.csv"
        with locked(file):
            rows = recorded(folder) | {claim.text: (claim.text, claim.paper, verdict.ours, verdict.holds)}
            with written_whole(file) as temporary:
                pd.DataFrame(rows.values(), columns=COLUMNS).to_csv(temporary, index=False)
    return verdict
