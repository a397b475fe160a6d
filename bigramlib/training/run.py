"""The state of a run of mask training, saved in the store until the run is done: an interrupted run is continued from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from torch import Tensor

from bigramlib.saved_state import StateFile

FORMAT = "bigramlib mask training state 4"
FORMAT_WITH_CLOSED_BLOCKS = "bigramlib mask training state 3"
"""Up to version 0.4 no block was dropped in a run; what is closed is dropped when such a run goes on."""
FORMAT_WITH_PENALTIES = "bigramlib mask training state 2"
"""Version 0.1 added penalties to the losses: such a run goes on, judged stable or not by the steps to come alone."""


@dataclass
class Run:
    """How far a run of mask training is: together with the tensors of its gates, all that its later steps depend on.

    Attributes:
        attempt: which attempt this is, from 0.
        step: optimizer steps made.
        beta: of the next step.
        converged: whether the gates are decided.
        closed: blocks that were dropped since all their gates were closed (`stopping.count_gates`), by module name.
        passes: backward passes in which a batch is taken; more than 1 only after memory ran out.
        generator: the state of the random generator that draws batches.
        losses: the cross-entropy with the target at each step, nats, without the penalty.
        history: (step, KL in nats, kept share, undecided share).
    """

    attempt: int = 0
    step: int = 0
    beta: float = 1.0
    converged: bool = False
    closed: list[str] = field(default_factory=list)
    passes: int = 1
    generator: dict = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    history: list[tuple[int, float, float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, facts: dict) -> Run:
        """A run from what JSON has made of its fields."""
        return cls(**facts | {"history": [(step, kl, kept, undecided) for step, kl, kept, undecided in facts["history"]]})


class SavedState(StateFile):
    """The file that keeps the state of one run: its gates' tensors (safetensors), its `Run` (JSON), and a hash of both."""

    def save(self, run: Run, tensors: Mapping[str, Tensor]) -> None:
        """Write a state in place of the one before. Where the disk is full, that one stays, with a warning."""
        self.write(FORMAT, run.step, asdict(run), tensors)

    def load(self) -> tuple[Run, dict[str, Tensor]] | None:
        """The state that was saved last; None if there is none. A damaged file is renamed with a warning, and counts as none.

        Raises:
            OSError, MemoryError: it cannot be read just now; it is left as it is.
        """
        return self.read("mask training", _parsed, FORMAT, FORMAT_WITH_CLOSED_BLOCKS, FORMAT_WITH_PENALTIES)


class NoState(SavedState):
    """In the place of a saved state where another process saves it."""

    def due(self, step: int) -> bool:
        """Never."""
        return False

    def save(self, run: Run, tensors: Mapping[str, Tensor]) -> None:
        """Write nothing."""


def _parsed(form: str, facts: dict, tensors: dict[str, Tensor]) -> tuple[Run, dict[str, Tensor]]:
    """The run and its tensors, as a state holds them."""
    run = Run.of(facts)
    if form == FORMAT_WITH_PENALTIES:
        run.losses = []
    return run, tensors
