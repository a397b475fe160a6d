"""Token ids of a text, with the places where its documents begin; sequences of them for training and measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Integer

from bigramlib.numeric import Number, whole_number
from bigramlib.store import content_hash

SEQUENCE_LENGTH = 128
"""How many tokens a sequence has where nothing else is said (paper)."""
TOKENS_AT_ONCE = 2**20
"""How many tokens of a long text are in memory together."""


@dataclass(frozen=True)
class TokenCorpus:
    """The token ids of one split of a corpus, with the places where its documents begin.

    Attributes:
        ids: int array [tokens], memory-mapped when it comes from `load_corpus`.
        starts: int64 array [documents], the index in `ids` of each document's first token; `starts[0]` is 0.
        vocabulary_size: every id is below it.
        name: what it is called in provenance and messages ("sotu (train)").
        tokenizer_hash: of the tokenizer that the ids belong to; None if it is not known, and then it is not checked.
        source: what the text came from, as `load_corpus` was asked for it ("sotu", a path); empty if it is not known.

    Example:
        >>> corpus = TokenCorpus(np.array([5, 7, 5, 9]), starts=np.array([0, 3]), vocabulary_size=10)
        >>> len(corpus)
        4
    """

    ids: Integer[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " documents"]
    vocabulary_size: int
    name: str = "unnamed"
    tokenizer_hash: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if len(self.ids) == 0:
            raise ValueError(f"The corpus {self.name!r} has no tokens; give it some text.")
        if len(self.starts) == 0 or self.starts[0] != 0 or np.any(np.diff(self.starts) <= 0):
            raise ValueError("Document starts must begin with 0 and increase; pass the index of each first token.")
        if self.starts[-1] >= len(self.ids):
            raise ValueError("A document starts after the last token; pass starts below len(ids).")
        lowest, highest = int(self.ids.min()), int(self.ids.max())
        if lowest < 0 or highest >= self.vocabulary_size:
            raise ValueError(
                f"Token ids run from {lowest} to {highest}, but the vocabulary has {self.vocabulary_size} entries; "
                "tokenize the text with the model's own tokenizer."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def description(self) -> str:
        """What this is, for messages."""
        return f"The corpus {self.name!r}"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the tokens and document starts."""
        return content_hash(self.ids, self.starts)

    def parts(self, overlap: int = 0) -> Iterator[tuple[int, Int[np.ndarray, " tokens"]]]:
        """The text `TOKENS_AT_ONCE` tokens at a time, with where each part begins, for corpora larger than memory.

        Args:
            overlap: so many tokens of the next part follow each part.
        """
        for begin in range(0, len(self.ids), TOKENS_AT_ONCE):
            yield begin, np.asarray(self.ids[begin : begin + TOKENS_AT_ONCE + overlap], dtype=np.int64)

    @cached_property
    def unigram_counts(self) -> Int[np.ndarray, " vocab"]:
        """How often each token occurs."""
        counts = np.zeros(self.vocabulary_size, dtype=np.int64)
        for _, ids in self.parts():
            counts += np.bincount(ids, minlength=self.vocabulary_size)
        return counts

    def windows(
        self, sequence_length: Number = SEQUENCE_LENGTH, max_tokens: Number | None = None
    ) -> tuple[Int[np.ndarray, "sequences pos"], Int[np.ndarray, "sequences pos"], Bool[np.ndarray, "sequences pos"]]:
        """The running text as sequences that do not overlap.

        Args:
            sequence_length: tokens in each sequence.
            max_tokens: at most so many tokens, in sequences spread evenly over the text; all of them by default.

        Returns:
            (current, following, valid): token ids, the token after each, and whether the two stand in the same document.
            Text is cut where a last, shorter sequence would be.
        """
        places = self.positions(sequence_length, max_tokens)
        ids = np.asarray(self.ids)
        following = places + 1
        return ids[places].astype(np.int64), ids[following].astype(np.int64), ~self._is_start(following)

    def documents(
        self, sequence_length: Number = SEQUENCE_LENGTH, max_tokens: Number | None = None
    ) -> Int[np.ndarray, "sequences pos"]:
        """The document number of each token of `windows` with the same arguments."""
        return np.searchsorted(self.starts, self.positions(sequence_length, max_tokens), side="right") - 1

    def positions(
        self, sequence_length: Number = SEQUENCE_LENGTH, max_tokens: Number | None = None
    ) -> Int[np.ndarray, "sequences pos"]:
        """Where in `ids` each token of `windows` with the same arguments stands."""
        sequence_length = whole_number("sequence_length", sequence_length, least=1)
        whole = (len(self.ids) - 1) // sequence_length
        if whole < 1:
            raise ValueError(
                f"The corpus {self.name!r} has {len(self.ids)} tokens here, fewer than one sequence of {sequence_length} "
                "tokens and its next token; give more text or a smaller sequence_length."
            )
        n = whole if max_tokens is None else min(whole, whole_number("max_tokens", max_tokens) // sequence_length)
        if n < 1:
            raise ValueError(
                f"max_tokens is {max_tokens}, fewer than one sequence of {sequence_length} tokens; "
                "give a larger max_tokens or a smaller sequence_length."
            )
        begin = np.arange(n) * whole // n * sequence_length
        return begin[:, None] + np.arange(sequence_length)

    def _is_start(self, places: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        return self.starts[np.searchsorted(self.starts, places, side="right") - 1] == places

    def sample(self, batch_size: int, sequence_length: int, generator: np.random.Generator) -> Int[np.ndarray, "batch pos"]:
        """Sequences from random places of the running text (they may cross from one document into the next)."""
        if len(self.ids) < sequence_length:
            raise ValueError(
                f"The corpus {self.name!r} has {len(self.ids)} tokens, fewer than one sequence of {sequence_length}; "
                "give more text or a smaller sequence_length."
            )
        begin = generator.integers(0, len(self.ids) - sequence_length + 1, size=batch_size)
        return np.asarray(self.ids)[begin[:, None] + np.arange(sequence_length)].astype(np.int64)
