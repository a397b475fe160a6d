"""The state of a run of mask training, saved in the store until the run is done: an interrupted run is continued from it."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigramlib.disk import reading, remove_leftovers, safe_tensors, written_whole
from bigramlib.store import content_hash, set_aside

EVERY_STEPS, EVERY_SECONDS = 500, 60.0
"""The state is saved after so many steps or seconds, whichever comes first."""
WRITING_SHARE = 0.05
"""The state is saved less often where that would take more than this share of the time."""
FORMAT = "bigramlib mask training state 3"
FORMAT_WITH_PENALTIES = "bigramlib mask training state 2"
"""Version 0.1 added penalties to the losses: such a run goes on, judged stable or not by the steps to come alone."""
log = logging.getLogger(__name__)


@dataclass
class Run:
    """How far a run of mask training is: together with the tensors of its gates, all that its later steps depend on.

    Attributes:
        attempt: which attempt this is, from 0.
        step: optimizer steps made.
        beta: of the next step.
        converged: whether the gates are decided.
        passes: backward passes in which a batch is taken; more than 1 only after memory ran out.
        generator: the state of the random generator that draws batches.
        losses: the cross-entropy with the target at each step, nats, without the penalty.
        history: (step, KL in nats, kept share, undecided share).
    """

    attempt: int = 0
    step: int = 0
    beta: float = 1.0
    converged: bool = False
    passes: int = 1
    generator: dict = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    history: list[tuple[int, float, float, float]] = field(default_factory=list)


class SavedState:
    """The file that keeps the state of one run: its gates' tensors (safetensors), its `Run` (JSON), and a hash of both."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._cost = 0.0
        self.count_from(0)

    def due(self, step: int) -> bool:
        """Whether the state after this step should be saved."""
        seconds = time.monotonic() - self._written
        return (step >= self._step + EVERY_STEPS or seconds >= EVERY_SECONDS) and seconds * WRITING_SHARE >= self._cost

    def save(self, run: Run, tensors: Mapping[str, Tensor]) -> None:
        """Write a state in place of the one before. Where the disk is full, that one stays, with a warning."""
        begin = time.monotonic()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        facts = asdict(run)
        header = {"format": FORMAT, "facts": facts, "hash": _hash(facts, tensors)}
        try:
            with written_whole(self.file) as temporary:
                save_file(tensors, temporary, metadata={"bigramlib": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            log.warning(
                "The state of training after step %d could not be written to %s (%s); training goes on, but "
                "an interruption now goes back to the state before. Make room on that disk.",
                run.step,
                self.file,
                error,
            )
        self._cost = time.monotonic() - begin
        self.count_from(run.step)

    def load(self) -> tuple[Run, dict[str, Tensor]] | None:
        """The state that was saved last; None if there is none. A damaged file is renamed with a warning, and counts as none.

        Raises:
            OSError, MemoryError: it cannot be read just now; it is left as it is.
        """
        remove_leftovers(self.file)
        try:
            with reading(self.file):
                metadata, tensors = safe_tensors(self.file, safe_open)
            header = json.loads(metadata["bigramlib"])
            if header["format"] not in (FORMAT, FORMAT_WITH_PENALTIES):
                raise ValueError("another version of bigramlib wrote it")
            if header["hash"] != _hash(header["facts"], tensors):
                raise ValueError("its content does not have the hash that it states")
            run = Run(**header["facts"])
            run.history = [(step, kl, kept, undecided) for step, kl, kept, undecided in run.history]
            if header["format"] == FORMAT_WITH_PENALTIES:
                run.losses = []
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            set_aside(self.file, f"it is not a whole state of mask training ({error})")
            return None
        return run, tensors

    def remove(self) -> None:
        """Delete the state of a run that is done, if it is there and can be."""
        with suppress(OSError):
            self.file.unlink()

    def count_from(self, step: int) -> None:
        """Count the steps and seconds until the next saving from this step and from now on."""
        self._step, self._written = step, time.monotonic()


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


def _hash(facts: dict, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state. It does not depend on the order of the tensors."""
    parts: list[object] = [json.loads(json.dumps(facts))]
    for name in sorted(tensors):
        tensor = tensors[name]
        parts += [name, str(tensor.dtype), list(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy()]
    return content_hash(*parts)
