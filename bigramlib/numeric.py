"""Numbers as users give them, from Python, NumPy, torch or text ("1e1" from YAML or papermill); and shares as text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Number = int | float | np.number | torch.Tensor | str
"""Types that are accepted as a number."""
MOST = 10**308
"""Whole numbers that are larger than this count as infinite where a float is expected."""


def number(
    name: str, value: object, least: float | int = -math.inf, most: float | int = math.inf, whole: bool = False
) -> int | float:
    """Convert a value to a plain Python number and check it.

    Args:
        name: the name of the value, for the error message.
        value: the value as it was given.
        least: the smallest allowed number.
        most: the largest allowed number.
        whole: whether the number must be whole. It is then returned as an int.

    Raises:
        ValueError: the value is not a number, or not an allowed one.
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
    """As `number` with `whole=True`."""
    return int(number(name, value, least, whole=True))


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch off the caller's autocast within the block, or within the function that this decorates."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def percent(share: int | float, decimals: int = 2) -> str:
    """A share as text in percent, such as a density.

    What would otherwise look like nothing, or like everything, gets as many decimals as two of its digits take.

    Args:
        share: 0 to 1.
        decimals: where neither the share nor what it lacks to 1 is below 0.1 %.
    """
    nearest = min(share, 1 - share)
    if 0 < nearest < 0.001:
        decimals = 1 - math.floor(math.log10(100 * nearest))
    return f"{share:.{decimals}%}"


def _parsed(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return None
