"""Which vocabulary token ids belong to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from bigramlib.store import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@runtime_checkable
class Tokenized(Protocol):
    """Anything made of token ids: a corpus, or the bigram table of one."""

    @property
    def description(self) -> str:
        """What it is, as the beginning of a sentence: "The corpus 'sotu'"."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the vocabulary has; every token id is below it."""
        ...

    @property
    def tokenizer_hash(self) -> str | None:
        """`tokenizer_hash` of the tokenizer that made the ids; None if it is not known, and then it is not checked."""
        ...


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of a tokenizer's vocabulary: which token has which id."""
    return content_hash(tokenizer.get_vocab())


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """A text that says all by which a tokenizer turns text into ids; for one without a fast backend, its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
