"""The state of unfinished work, saved in the store until it is done: an interrupted run goes on from it."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from torch import Tensor

from bigramlib.disk import remove_leftovers
from bigramlib.store import set_aside, store_folder
from bigramlib.tensor_file import DAMAGED, read_tensors, write_tensors

EVERY_STEPS, EVERY_SECONDS = 500, 60.0
"""The state is saved after so many steps or seconds, whichever comes first."""
WRITING_SHARE = 0.05
"""The state is saved less often where that would take more than this share of the time."""
JITTER = 0.25
"""By which share the seconds of each file differ at most, so that many searches do not all write at once."""
State = TypeVar("State")
log = logging.getLogger(__name__)


def unfinished(name: str) -> Path:
    """Where a state of this name is kept: in the folder that `$BIGRAMLIB_UNFINISHED` names, else in the store.

    A folder on a disk of the machine spares a disk that many share, but then no other machine goes on with what this one began.
    """
    named = os.environ.get("BIGRAMLIB_UNFINISHED")
    return (Path(named).expanduser().absolute() if named else store_folder("unfinished")) / name


class StateFile:
    """The file that keeps the state of one run, written by `write_tensors`, and when it should be written again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._cost = 0.0
        self._jitter = random.uniform(1 - JITTER, 1 + JITTER)
        self.count_from(0)

    def due(self, step: int) -> bool:
        """Whether the state after this step should be saved."""
        seconds = time.monotonic() - self._written
        late = step >= self._step + EVERY_STEPS or seconds >= EVERY_SECONDS * self._jitter
        return late and seconds * WRITING_SHARE >= self._cost

    def write(self, form: str, step: int, facts: dict, tensors: Mapping[str, Tensor]) -> None:
        """Write a state in place of the one before. Where the disk is full, that one stays, with a warning.

        Args:
            form: the format, as in `write_tensors`.
            step: steps made.
            facts: what JSON can hold.
            tensors: by name.
        """
        begin = time.monotonic()
        try:
            write_tensors(self.file, form, facts, tensors)
        except (OSError, SafetensorError) as error:
            log.warning(
                "The state of training after step %d could not be written to %s (%s); training goes on, but "
                "an interruption now goes back to the state before. Make room on that disk.",
                step,
                self.file,
                error,
            )
        self._cost = time.monotonic() - begin
        self.count_from(step)

    def read(self, kind: str, parse: Callable[..., State], *forms: str) -> State | None:
        """What was saved last; None if there is nothing. A damaged file is renamed with a warning, and counts as none.

        Args:
            kind: what is being done, for the warning.
            parse: makes a state of what `read_tensors` returns: the format, the facts and the tensors.
            forms: the formats that are allowed.

        Raises:
            OSError, MemoryError: it cannot be read just now; it is left as it is.
        """
        remove_leftovers(self.file)
        try:
            return parse(*read_tensors(self.file, *forms))
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            set_aside(self.file, f"it is not a whole state of {kind} ({error})")
            return None

    def remove(self) -> None:
        """Delete the state of a run that is done, if it is there and can be."""
        with suppress(OSError):
            self.file.unlink()

    def count_from(self, step: int) -> None:
        """Count the steps and seconds until the next saving from this step and from now on."""
        self._step, self._written = step, time.monotonic()
