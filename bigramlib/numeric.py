"""Numbers as users give them: Python's, NumPy's, and whole ones with a fraction of zero."""

from __future__ import annotations

import operator

import numpy as np

Number = int | float | np.number


def whole_number(name: str, value: object, least: int | None = None) -> int:
    """A number given as an integer of any kind, or as a float without a fraction (YAML's 1e+4)."""
    try:
        number = int(value) if isinstance(value, float | np.floating) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise ValueError(f"{name} is {value!r}; it must be a whole number.")
    if least is not None and number < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}.")
    return number
