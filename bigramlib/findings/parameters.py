"""The notebooks' parameters, as Python, papermill or YAML give them, are checked and converted here before any work."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bigramlib.models.mini import SETTINGS
from bigramlib.numeric import number
from bigramlib.text.sources import check_source
from bigramlib.training.config import SparsifyConfig

Rule = Callable[[str, Any], Any]
"""A function of a parameter's name and the given value. It returns the value to use, or raises ValueError in one sentence."""


def checked(given: Mapping[str, object]) -> dict[str, Any]:
    """Check the parameters of a notebook among the given values, and convert each to its type.

    Numbers and lists may come as text (papermill's `-p penalties "[3, 10]"`, YAML's `1e1`). A single value becomes a list of
    one where a list is expected.

    Args:
        given: values by name, such as the `globals()` of a notebook; names that are not parameters are ignored.

    Raises:
        ValueError: a value cannot be used, or two values do not fit together.
    """
    values = {name: PARAMETERS[name](name, value) for name, value in given.items() if name in PARAMETERS}
    for chosen, among in (("headline", "penalties"), ("ablated", "penalties"), ("headline", "control_penalties")):
        choices = values.get(among)
        if chosen in values and choices and values[chosen] not in choices:
            raise ValueError(f"{chosen} is {values[chosen]}, which {among} lacks; choose one of {_joined(choices)}, or add it.")
    if "pruning_penalties" in values and "seeds" in values and len(values["seeds"]) != 2:
        raise ValueError(f"seeds is {values['seeds']}; give two, so that two subnetworks of one target can be compared.")
    if "short_penalties" in values and len(values["short_penalties"]) != len(values["penalties"]):
        raise ValueError(
            f"penalties is {values['penalties']} and short_penalties is {values['short_penalties']}; "
            "give as many of the one as of the other."
        )
    return values


def read_parameters(file: Path) -> dict[str, object]:
    """Parameters from a YAML file; none where there is no such file, or nothing in it.

    Raises:
        ValueError: the file is no YAML, or holds something else than names with values.
    """
    import yaml  # it comes with papermill

    try:
        found = yaml.safe_load(file.read_text()) if file.is_file() else None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{str(file)!r} is not YAML ({reason}); write one `name: value` a line.") from None
    if not isinstance(found, dict | None):
        raise ValueError(f"{str(file)!r} holds a {type(found).__name__}; write one `name: value` a line.")
    return found or {}


def _text(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | Path | int) or not str(value).strip():
        raise ValueError(f"{name} is {value!r}; give a name or a text.")
    return str(value)


def _optional(name: str, value: object) -> str:
    """A rule for a name or text that may be left empty."""
    return "" if value in (None, "") else _text(name, value)


def _source(name: str, value: object) -> str:
    source = _text(name, value)
    check_source(source)
    return source


def _device(name: str, value: object) -> str:
    device = _text(name, value)
    try:
        usable = not torch.empty(0, device=device).is_meta
    except (RuntimeError, AssertionError):
        usable = False
    if not usable:
        raise ValueError(f"{name} {device!r} is not available here; use {name}=cpu.")
    return device


def _setting(name: str, value: object) -> str:
    if value not in SETTINGS:
        raise ValueError(f"{name} is {value!r}; choose one of {_joined(SETTINGS)}.")
    return str(value)


def _search_settings(name: str, value: Any) -> dict[str, Any]:
    """A rule for fields of `SparsifyConfig` by name, which may come as YAML text."""
    import yaml  # it comes with papermill

    found = yaml.safe_load(value) if isinstance(value, str) else value
    if not isinstance(found or {}, Mapping):
        raise ValueError(f"{name} is {value!r}; give fields of SparsifyConfig by name, such as {{steps: 1000}}.")
    SparsifyConfig().with_settings(found or {})
    return dict(found or {})


def _folder(name: str, value: object) -> str | None:
    if value is None:
        return None
    folder = Path(os.path.expanduser(_text(name, value))).absolute()  # noqa: PTH111 (an unknown ~user is no error)
    try:
        place = next(place for place in (folder, *folder.parents) if place.exists())
        usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if not usable:
        raise ValueError(f"{name} is {value!r}, where nothing can be written; give another folder.")
    return str(value)


def _number(least: float | int, most: float | int = math.inf, whole: bool = False) -> Rule:
    return partial(number, least=least, most=most, whole=whole)


def _list(item: Rule, empty: bool = False) -> Rule:
    """A rule for a list of different values that each follow the rule `item`; `empty` allows an empty list."""

    def values(name: str, value: Any) -> list:
        if isinstance(value, str):
            inner = value.strip().removeprefix("[").removesuffix("]")
            value = [part.strip(" '\"") for part in inner.split(",")] if inner.strip() else []
        elif not isinstance(value, list | tuple | range | np.ndarray | torch.Tensor) or getattr(value, "ndim", 1) == 0:
            value = [value]
        found = [item(name if len(value) == 1 else f"one of {name}", one) for one in value]
        if not found and not empty:
            raise ValueError(f"{name} is empty; give at least one value.")
        if len(set(found)) < len(found):
            raise ValueError(f"{name} is {found}, where a value comes twice; give each once.")
        return found

    return values


def _joined(choices: Iterable[object]) -> str:
    return ", ".join(map(str, choices))


_penalty, _count, _seed = _number(0), _number(1, whole=True), _number(0, whole=True)
PARAMETERS: dict[str, Rule] = {
    "model": _text,
    "parts_model": _text,
    "models": _list(_text, empty=True),
    "instruct": _optional,
    "partner": _optional,
    "tasks": _optional,
    "items": _number(2, whole=True),
    "shots": _number(1, whole=True),
    "corpus": _source,
    "corpora": _list(_source),
    "checkpoints": _list(_text, empty=True),
    "targets": _list(_text),
    "controls": _list(_optional),
    "scheduler": _optional,
    "processes": _count,
    "text_column": _text,
    "device": _device,
    "figures": _folder,
    "setting": _setting,
    "settings": _search_settings,
    "prompt": _text,
    "penalty": _penalty,
    "matched_penalty": _penalty,
    "sequences": _count,
    "headline": _penalty,
    "ablated": _penalty,
    "pruning_penalty": _penalty,
    "penalties": _list(_penalty),
    "pruning_penalties": _list(_penalty),
    "control_penalties": _list(_penalty, empty=True),
    "short_penalties": _list(_penalty),
    "tuning_steps": _number(11, whole=True),
    "learning_rate": _number(1e-8, 1),
    "seed": _seed,
    "seeds": _list(_seed),
    "tuned_seeds": _list(_seed),
    "draws": _count,
    "longer_steps": _number(20, whole=True),
    "fixed_density": _number(1e-6, 1),
    "every": _count,
    "max_tokens": _count,
    "tokens": _count,
    "moment_tokens": _count,
    "lens_tokens": _count,
    "build_up_tokens": _count,
    "build_up_steps": _count,
    "build_up_heads": _number(0, whole=True),
}
"""The rule of each parameter of the notebooks."""
