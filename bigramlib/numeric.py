"""Numbers as users give them: Python's, NumPy's, torch's, and the texts that YAML and papermill make of them ("1e1")."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Number = int | float | np.number | torch.Tensor | str
"""What stands for a number."""
MOST = 10**308
"""Whole numbers beyond it are no floats."""


def number(
    name: str, value: object, least: float | int = -math.inf, most: float | int = math.inf, whole: bool = False
) -> int | float:
    """A plain number, whatever it came as.

    Args:
        name: what it is, for the error.
        value: what was given.
        least: the least that it may be.
        most: the most that it may be.
        whole: whether it must be a whole number, which is then an int.

    Raises:
        ValueError: it is no such number.
    """
    plain: Any = value.item() if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0 else value
    if isinstance(plain, str):
        plain = _parsed(plain)
    bounds = " and ".join([f"at least {least:g}"] * (least > -math.inf) + [f"at most {most:g}"] * (most < math.inf))
    if isinstance(plain, int) and not whole and abs(plain) > MOST:
        plain = math.inf if plain > 0 else -math.inf
    usable = isinstance(plain, int | float) and not isinstance(plain, bool) and (math.isfinite(plain) or not bounds)
    if not usable or (whole and (not math.isfinite(plain) or plain != int(plain))):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} is {value!r}; it must be {', '.join([kind, bounds] if bounds else [kind])}.")
    if bounds and not least <= plain <= most:
        raise ValueError(f"{name} is {plain!r}; it must be {bounds}.")
    return int(plain) if whole else plain


def whole_number(name: str, value: object, least: float | int = -math.inf) -> int:
    """A plain whole number, whatever it came as; otherwise as `number`."""
    return int(number(name, value, least, whole=True))


@contextmanager
def full_precision() -> Iterator[None]:
    """Within the context, or the function that it decorates, an autocast of the caller's has no effect."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def _parsed(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return None
