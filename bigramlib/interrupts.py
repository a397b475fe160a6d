"""Interrupts (Ctrl+C) that wait until a step is whole."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """Within the block an interrupt (SIGINT) only makes the yielded function true; a second one interrupts as usual.

    So a step is never left half done. In other threads than the main one, which no interrupt reaches, nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield lambda: False
        return
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)
        log.warning("Interrupted: this step is finished and the state of training is written; interrupt again to stop at once.")

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)
