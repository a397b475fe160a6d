"""Text to token ids: documents kept apart, split by document, memory-mapped and keyed by content."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer
from transformers import PreTrainedTokenizerBase

from bigramlib.disk import reading
from bigramlib.numeric import Number, number, whole_number
from bigramlib.progress import tqdm
from bigramlib.store import content_hash, store_folder, stored_folder
from bigramlib.text.formats import DOCUMENT_SEPARATOR
from bigramlib.text.sources import SELF, check_source, fingerprint, listed, read_documents
from bigramlib.text.vocabulary import tokenizer_hash

__all__ = [
    "DOCUMENT_SEPARATOR", "EVALUATION_SHARE", "SELF", "SEQUENCE_LENGTH", "TokenCorpus", "check_source", "load_corpus",
    "read_documents", "stored_corpus",
]  # fmt: skip

SEQUENCE_LENGTH = 128
EVALUATION_SHARE = 0.08
TOKENS_AT_ONCE = 2**20


@dataclass(frozen=True)
class TokenCorpus:
    """The token ids of one split of a corpus, with the places where its documents begin.

    Attributes:
        ids: int array [tokens], memory-mapped when it comes from `load_corpus`.
        starts: int64 array [documents], the index in `ids` of each document's first token; `starts[0]` is 0.
        vocabulary_size: every id is below it.
        name: where the text came from, for provenance.
        tokenizer_hash: of the tokenizer that the ids belong to (`tokenizer_hash`); None if it is not known, and not checked.
    """

    ids: Integer[np.ndarray, " tokens"]
    starts: Int[np.ndarray, " documents"]
    vocabulary_size: int
    name: str = "unnamed"
    tokenizer_hash: str | None = None

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
        places = self._places(sequence_length, max_tokens)
        ids = np.asarray(self.ids)
        following = places + 1
        return ids[places].astype(np.int64), ids[following].astype(np.int64), ~self._is_start(following)

    def documents(
        self, sequence_length: Number = SEQUENCE_LENGTH, max_tokens: Number | None = None
    ) -> Int[np.ndarray, "sequences pos"]:
        """The document number of each token of `windows` with the same arguments."""
        return np.searchsorted(self.starts, self._places(sequence_length, max_tokens), side="right") - 1

    def _is_start(self, places: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        return self.starts[np.searchsorted(self.starts, places, side="right") - 1] == places

    def _places(self, sequence_length: Number, max_tokens: Number | None) -> Int[np.ndarray, "sequences pos"]:
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

    def sample(self, batch_size: int, sequence_length: int, generator: np.random.Generator) -> Int[np.ndarray, "batch pos"]:
        """Sequences from random places of the running text (they may cross from one document into the next)."""
        if len(self.ids) < sequence_length:
            raise ValueError(
                f"The corpus {self.name!r} has {len(self.ids)} tokens, fewer than one sequence of {sequence_length}; "
                "give more text or a smaller sequence_length."
            )
        begin = generator.integers(0, len(self.ids) - sequence_length + 1, size=batch_size)
        return np.asarray(self.ids)[begin[:, None] + np.arange(sequence_length)].astype(np.int64)


def load_corpus(
    source: str | Path | Iterable,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocabulary_size: int | np.integer | None = None,
    evaluation_share: Number = EVALUATION_SHARE,
    seed: Number = 0,
    text_column: str = "text",
) -> tuple[TokenCorpus, TokenCorpus]:
    """Tokenize a text source once and split its documents into training and evaluation text.

    For a model's text call `LanguageModel.load_corpus`, which knows its tokenizer and vocabulary.

    Args:
        source: one of these, files in UTF-8, compressed (gz, bz2, xz, zst) or not, their suffix in letters of any size:

            - "sotu", the default corpus, State of the Union addresses;
            - a text file, one document a line or, if it has `<|endoftext|>` in it, one between each two of them;
            - a table with a text column: JSON Lines (.jsonl, .ndjson, .jsonlines, .json), a JSON array (.json) of objects
              or strings, CSV, TSV or Parquet;
            - a folder: each .txt file in and under it a document (or several, if it has `<|endoftext|>` or is a table) or, if
              there is none, the documents of all its tables or, if there are none, each .text and .md file a document. Hidden
              files and folders, and copies that editors and archives leave, are left out; links are followed;
            - "hf:<dataset>[:config][:split]", a dataset of the hub or a folder, streamed with `datasets`;
            - a list of strings.
        tokenizer: a Hugging Face tokenizer; no special tokens are added.
        vocabulary_size: of the model, if it is not the tokenizer's.
        evaluation_share: the share of tokens to hold out, in whole documents.
        seed: of the split.
        text_column: the column to read in tables and `hf:` sources.

    Returns:
        (train, evaluation).

    Raises:
        ValueError: unknown source, missing column, markup or anything that is not text in UTF-8, empty text, fewer than two
            documents.
        OSError: the source cannot be read, or the store not be read or written.
    """
    if isinstance(source, str | Path):
        name = str(source)
        content, documents = fingerprint(name), lambda: read_documents(name, text_column)
    else:
        texts = listed(source)
        name = f"list of {len(texts)} documents"
        content, documents = content_hash("list", *texts), lambda: iter(texts)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    tokenizer_key = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return stored_corpus(
        (content, tokenizer_key, text_column),
        lambda: _tokenized(documents(), tokenizer),
        name,
        tokenizer,
        vocabulary_size or len(tokenizer),
        evaluation_share,
        seed,
    )


def stored_corpus(
    key: Sequence[object],
    documents: Callable[[], Iterable[tuple[Sequence[int], str]]],
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary_size: int | np.integer,
    evaluation_share: Number = EVALUATION_SHARE,
    seed: Number = 0,
) -> tuple[TokenCorpus, TokenCorpus]:
    """Documents as (train, evaluation), split by document and kept in the store; made only if the store lacks them.

    A document that is there several times, but for white space, stands in one of the two as often: what is held out is never
    trained on, and counts stay those of the text.

    Args:
        key: what the documents are made of; hashed.
        documents: makes the token ids of each document, and its text.
        name: where they come from, for provenance and errors.
        tokenizer: the one that the ids belong to.
        vocabulary_size: of the model.
        evaluation_share: the share of tokens to hold out, in whole documents.
        seed: of the split.
    """
    share = float(number("evaluation_share", evaluation_share))
    if not 0 < share < 1:
        raise ValueError(f"evaluation_share is {evaluation_share}; it must lie between 0 and 1.")
    seed = whole_number("seed", seed, least=0)
    size = whole_number("vocabulary_size", vocabulary_size, least=1)
    hashed = content_hash(*key, size, share, seed, "corpus 3")[:24]
    folder = stored_folder(
        store_folder("corpora") / hashed,
        lambda temporary: _write(documents(), temporary, name, size, share, seed),
    )
    identity = tokenizer_hash(tokenizer)
    return _opened(folder, "train", name, identity), _opened(folder, "evaluation", name, identity)


def _tokenized(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], str]]:
    """The token ids of each document that is not blank, and its text."""
    shown = filter(str.strip, tqdm(documents, desc="tokenizing", unit=" documents"))
    while batch := list(islice(shown, 64)):
        try:
            ids = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:  # of tokenizers, which raise no other kind
            raise ValueError(f"The tokenizer cannot read the text ({error}); give text of its own alphabet.") from error
        yield from zip(ids, batch, strict=True)


def _write(
    documents: Iterable[tuple[Sequence[int], str]], folder: Path, name: str, vocabulary_size: int, share: float, seed: int
) -> None:
    """Write {train,evaluation}.ids.npy and .starts.npy into the folder, holding few documents in memory."""
    dtype = np.uint16 if vocabulary_size <= 2**16 else np.uint32
    lengths: list[int] = []
    kinds: list[int] = []
    numbers: dict[bytes, int] = {}
    different = 0
    with (folder / "all.bin").open("wb") as file:
        for ids, text in documents:
            if len(ids):
                if max(ids) >= vocabulary_size:
                    raise ValueError(
                        f"The text {name!r} has the token {max(ids)}, which a vocabulary of {vocabulary_size} lacks; tokenize "
                        "it with the model's own tokenizer."
                    )
                content = np.asarray(ids, dtype=dtype).tobytes()
                file.write(content)
                lengths.append(len(ids))
                marks = [hashlib.blake2b(part, digest_size=16).digest() for part in (content, " ".join(text.split()).encode())]
                kinds.append(next((numbers[mark] for mark in marks if mark in numbers), different))
                different = max(different, kinds[-1] + 1)
                numbers.update((mark, kinds[-1]) for mark in marks)
    if not lengths:
        raise ValueError(f"The corpus {name!r} is empty; give it some text.")
    if different < 2:
        times = "" if len(lengths) == 1 else f", {len(lengths)} times the same"
        raise ValueError(
            f"The corpus {name!r} is a single document{times}; give at least two, so that one can be held out for evaluation."
        )
    sizes = np.array(lengths)
    is_evaluation = _held_out(np.bincount(kinds, sizes).astype(np.int64), share, seed)[kinds]
    everything = np.memmap(folder / "all.bin", dtype=dtype, mode="r")
    ends = np.cumsum(sizes)
    for split, chosen in (("train", ~is_evaluation), ("evaluation", is_evaluation)):
        starts = np.concatenate([[0], np.cumsum(sizes[chosen])[:-1]])
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        with (folder / f"{split}.ids.npy").open("wb") as file:  # writing to a memory map would crash where a disk is full
            np.lib.format.write_array_header_1_0(file, header | {"shape": (int(sizes[chosen].sum()),)})
            for end, size in zip(ends[chosen], sizes[chosen], strict=True):
                file.write(everything[end - size : end].tobytes())
        np.save(folder / f"{split}.starts.npy", starts.astype(np.int64))
    (folder / "vocabulary_size").write_text(str(vocabulary_size))
    del everything
    (folder / "all.bin").unlink()


def _held_out(sizes: Int[np.ndarray, " documents"], share: float, seed: int) -> Bool[np.ndarray, " documents"]:
    """Which documents, all different, of so many tokens are held out: about a share of the tokens, at least one, never all."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    held_out = order[: max(1, min(len(sizes) - 1, 1 + np.searchsorted(np.cumsum(sizes[order]), share * sizes.sum())))]
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[held_out] = True
    return chosen


def _opened(folder: Path, split: str, source: str, identity: str) -> TokenCorpus:
    path = folder / f"{split}.ids.npy"
    with reading(path):
        try:
            ids = np.load(path, mmap_mode="r")
        except OSError as error:
            if error.errno != errno.ENODEV:  # a mount without memory maps
                raise
            ids = np.load(path)
        return TokenCorpus(
            ids=ids,
            starts=np.load(folder / f"{split}.starts.npy"),
            vocabulary_size=int((folder / "vocabulary_size").read_text()),
            name=f"{source} ({split})",
            tokenizer_hash=identity,
        )
