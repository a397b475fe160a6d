"""Tasks: a name, instructions and pairs of input and answer, split by a hash of the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from bigramlib.store import content_hash

Pair = tuple[str, str]
"""An input and its answer."""
Part = Literal["shots", "tuning", "test"]
SHARES: dict[Part, float] = {"test": 0.3, "shots": 0.25, "tuning": 0.45}
"""The share of inputs in each part: tested, shown as demonstrations in a prompt, and trained on in instruction tuning."""


@dataclass(frozen=True)
class Task:
    """A task: what to do, in words, and inputs with their answers.

    Attributes:
        name: unique among the tasks that are used together.
        kind: "rule" if the answer follows from the input, "fact" if it must be known, "other" where nobody has said.
        cluster: a group of similar tasks.
        instructions: sentences that each say what to do.
        pairs: inputs with their answers; no input comes twice.
        options: all possible answers of a task of choice; empty if answers are free.
    """

    name: str
    kind: str
    cluster: str
    instructions: tuple[str, ...]
    pairs: tuple[Pair, ...] = field(repr=False)
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(f"The task {self.name!r} has no pairs; give inputs with their answers.")
        if not self.instructions:
            raise ValueError(f"The task {self.name!r} has no instruction; give at least one sentence that says what to do.")
        for text in (*self.instructions, *(text for pair in self.pairs for text in pair)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"The task {self.name!r} has {text!r} among its texts; each must be a text that is not empty.")
        repeated = [text for text, times in Counter(given for given, _ in self.pairs).items() if times > 1]
        if repeated:
            raise ValueError(f"The task {self.name!r} has the input {repeated[0]!r} twice; give one answer for each input.")
        if self.options and (other := next((answer for _, answer in self.pairs if answer not in self.options), None)):
            raise ValueError(f"The task {self.name!r} has the answer {other!r}, which is not among its options.")

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        parts = (
            self.name,
            self.kind,
            self.cluster,
            list(self.instructions),
            [list(pair) for pair in self.pairs],
            list(self.options),
        )
        return content_hash(*parts)

    def split(self, part: Part) -> tuple[Pair, ...]:
        """The pairs of one part. An input is always in the same part, whatever other inputs the task has."""
        return self._parts[part]

    @cached_property
    def _parts(self) -> dict[Part, tuple[Pair, ...]]:
        borders = np.cumsum(list(SHARES.values()))
        parts: dict[Part, list[Pair]] = {part: [] for part in SHARES}
        for pair in self.pairs:
            place = int(content_hash("splits", self.name, pair[0])[:8], 16) / 16**8
            parts[list(SHARES)[int(np.searchsorted(borders[:-1], place, side="right"))]].append(pair)
        return {part: tuple(pairs) for part, pairs in parts.items()}

    def items(self, count: int, seed: int = 0) -> list[Pair]:
        """So many tested pairs in random order; each comes once before any comes again.

        Raises:
            ValueError: the task is so small that no pair is tested.
        """
        pairs = self.split("test")
        if not pairs:
            raise ValueError(f"The task {self.name!r} has only {len(self.pairs)} pairs, none of them to test; give more pairs.")
        generator = np.random.default_rng([seed, int(self.hash[:8], 16)])
        order = np.concatenate([generator.permutation(len(pairs)) for _ in range(-(-count // len(pairs)))])[:count]
        return [pairs[index] for index in order]

    def shots(self, count: int, generator: np.random.Generator) -> list[Pair]:
        """So many different demonstrations, drawn at random.

        Raises:
            ValueError: the task has fewer.
        """
        pairs = self.split("shots")
        if count > len(pairs):
            raise ValueError(
                f"The task {self.name!r} has {len(pairs)} demonstrations, fewer than the {count} asked for; use fewer shots."
            )
        return [pairs[index] for index in generator.choice(len(pairs), count, replace=False)]

    @cached_property
    def majority_share(self) -> float:
        """The share of the most frequent answer among the tested pairs: what guessing it would score."""
        answers = Counter(answer for _, answer in self.split("test"))
        return max(answers.values(), default=0) / max(1, answers.total())

    @cached_property
    def answer_length(self) -> float:
        """The mean length of the tested answers in characters."""
        return float(np.mean([len(answer) for _, answer in self.split("test")] or [0]))


def halves(tasks: Sequence[Task], seed: int = 0) -> tuple[list[Task], list[Task]]:
    """Divide tasks into two halves, each with half of the tasks of every cluster (as nearly as their numbers allow)."""
    generator = np.random.default_rng([seed, 77])
    order = sorted(generator.permutation(len(tasks)), key=lambda index: tasks[index].cluster)
    return [tasks[index] for index in order[::2]], [tasks[index] for index in order[1::2]]
