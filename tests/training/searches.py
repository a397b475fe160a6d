"""What the tests of mask training share: short searches, one run by itself, and a run that is cut off."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from bigramlib import SparsifyConfig, Subnetwork, saved_state
from bigramlib.store import store_folder
from bigramlib.training.loop import train
from bigramlib.training.run import Run, SavedState

QUICK = SparsifyConfig(sparsity_penalty=1.0, steps=30, batch_size=2, sequence_length=16, learning_rate=0.05)


FOUR_SEQUENCES = replace(QUICK, steps=12, batch_size=4)


def trained(model, target, corpus, config) -> tuple[Subnetwork, list[float]]:
    """One run from its beginning: the subnetwork and the cross-entropy of each step."""
    run = Run()
    return train(model, target, corpus, config, None, run, None, SavedState(store_folder("unfinished") / "run")), run.losses


class EndingError(Exception):
    """Stands for whatever ends a process."""


@contextmanager
def cut(step: int, attempt: int = 0):
    """Within the block training ends with an error after a step, whose state has been written."""
    original = SavedState.save

    def save(self, run, tensors):
        original(self, run, tensors)
        if (run.attempt, run.step) == (attempt, step):
            raise EndingError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(EndingError):
        patch.setattr(saved_state, "EVERY_STEPS", 1)
        patch.setattr(saved_state, "WRITING_SHARE", 1e9)
        patch.setattr(SavedState, "save", save)
        yield
