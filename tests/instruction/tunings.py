"""What the tests of instruction tuning share: tasks of letters, short runs, and a run that is interrupted."""

import signal
from contextlib import contextmanager

import pytest

from bigramlib.instruction import tuning_loop
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning import TuneConfig

LETTERS = tuple((f"{first} {second}", first) for first in "abcdefgh" for second in "abcdefgh")
FIRST = Task("first", "rule", "letters", ("Say the first.", "First letter"), LETTERS)
LAST = Task("last", "rule", "letters", ("Say the last.",), tuple((given, given[-1]) for given, _ in LETTERS))
EASY = Task(
    "even", "rule", "letters", ("Say it.",), tuple((given, "cat" if given[0] in "abcd" else "dog") for given, _ in LETTERS)
)
CAT = Task("cat", "rule", "letters", ("Say it.",), tuple((given, "cat") for given, _ in LETTERS))
WHOLE = TuneConfig(steps=6, batch_size=3, warmup_steps=2, learning_rate=1e-2, rank=None)
LORA = TuneConfig(steps=6, batch_size=3, warmup_steps=2, learning_rate=1e-2, rank=2, alpha=4)


@contextmanager
def interrupted(step: int):
    """Within the block tuning is interrupted (Ctrl+C) during a step, counted from 1, and ends after it."""
    original, count = tuning_loop.packed, 0

    def packed(examples):
        nonlocal count
        count += 1
        if count == step:
            signal.raise_signal(signal.SIGINT)
        return original(examples)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt, match=f"after step {step}; the same call"):
            patch.setattr(tuning_loop, "packed", packed)
            yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def no_training():
    """Within the block any training is an error."""

    def fail(*_):
        raise AssertionError("trained")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigramlib.instruction.tuning.train", fail)
        yield
