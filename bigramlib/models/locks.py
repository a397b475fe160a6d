"""One thread at a time in one model: while its modules compute something else for one, others wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

Function = TypeVar("Function", bound=Callable[..., Any])
_LOCKS: WeakKeyDictionary[PreTrainedModel, AbstractContextManager] = WeakKeyDictionary()
_LOOKING = threading.Lock()


def lock_of(hf: PreTrainedModel) -> AbstractContextManager:
    """The lock of a Hugging Face model, to be held in a `with` block; a thread that holds it can take it again."""
    with _LOOKING:
        return _LOCKS.setdefault(hf, threading.RLock())


def one_at_a_time(function: Function) -> Function:
    """Have the calls of a function with one `LanguageModel`, its first argument, wait for each other.

    Whoever also takes a lock of the store takes that of the model first, so that no two threads wait for each other.
    """

    @wraps(function)
    def waiting(model: Any, *args: Any, **named: Any) -> Any:
        with lock_of(model.hf):
            return function(model, *args, **named)

    return cast(Function, waiting)
