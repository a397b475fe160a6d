"""From a text source to token ids in the store: tokenized once, split by document, memory-mapped.

What the store holds is found again by the content of the text, the tokenizer, and the settings of the split.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from bigramlib.disk import reading
from bigramlib.numeric import Number, number, whole_number
from bigramlib.progress import tqdm
from bigramlib.store import content_hash, store_folder, stored_folder
from bigramlib.text.corpus import TokenCorpus
from bigramlib.text.sources import text_source
from bigramlib.text.vocabulary import tokenizer_hash, tokenizer_state

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATION_SHARE = 0.08
"""The share of tokens that is held out where nothing else is said."""


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

    Example:
        >>> train, held_out = load_corpus(texts, model.tokenizer)
        >>> len(train) > len(held_out)
        True
    """
    text = text_source(source, text_column)
    key, size = (text.content, tokenizer_state(tokenizer), text_column), vocabulary_size or len(tokenizer)
    return stored_corpus(
        key, lambda: _tokenized(text.documents(), tokenizer), text.name, tokenizer, size, evaluation_share, seed
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

    Documents that are equal but for white space all go into the same one of the two, and none is dropped. So what is held out
    is never trained on, and counts are those of the text.

    Args:
        key: all that the documents depend on; the store finds them by it.
        documents: makes the token ids of each document, and its text.
        name: where they come from, for provenance and messages; the source of both corpora.
        tokenizer: the one that the ids belong to.
        vocabulary_size: of the model.
        evaluation_share: the share of tokens to hold out, in whole documents.
        seed: of the split.

    Raises:
        ValueError: the documents are empty or fewer than two different ones, or a setting is no such number.
        OSError: the store cannot be read or written.
    """
    share = float(number("evaluation_share", evaluation_share))
    if not 0 < share < 1:
        raise ValueError(f"evaluation_share is {evaluation_share}; it must lie between 0 and 1.")
    seed = whole_number("seed", seed, least=0)
    size = whole_number("vocabulary_size", vocabulary_size, least=1)
    hashed = content_hash(*key, size, share, seed, "corpus 3")[:24]
    folder = stored_folder(
        store_folder("corpora") / hashed,
        lambda temporary: write_splits(documents(), temporary, name, size, share, seed),
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


def write_splits(
    documents: Iterable[tuple[Sequence[int], str]], folder: Path, name: str, vocabulary_size: int, share: float, seed: int
) -> None:
    """Write {train,evaluation}.ids.npy and .starts.npy into the folder, holding few documents in memory.

    Args:
        documents: the token ids of each document, and its text.
        folder: an empty one.
        name: what the text is called, for messages.
        vocabulary_size: every id is below it.
        share: the share of tokens to hold out.
        seed: of the split.

    Raises:
        ValueError: the documents are empty or fewer than two different ones, or an id is not below `vocabulary_size`.
    """
    dtype = np.uint16 if vocabulary_size <= 2**16 else np.uint32
    together = folder / "all.bin"
    sizes, kinds = _written(documents, together, np.dtype(dtype), name, vocabulary_size)
    is_evaluation = held_out(np.bincount(kinds, sizes).astype(np.int64), share, seed)[kinds]
    everything = np.memmap(together, dtype=dtype, mode="r")
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
    together.unlink()


def _written(
    documents: Iterable[tuple[Sequence[int], str]], path: Path, dtype: np.dtype, name: str, vocabulary_size: int
) -> tuple[Int[np.ndarray, " documents"], Int[np.ndarray, " documents"]]:
    """Write all token ids one after another into a file.

    Returns:
        (sizes, kinds): the tokens of each document, and a number that it shares with those equal to it but for white space.
    """
    sizes: list[int] = []
    kinds: list[int] = []
    numbers: dict[bytes, int] = {}
    different = 0
    with path.open("wb") as file:
        for ids, text in documents:
            if len(ids):
                if max(ids) >= vocabulary_size:
                    raise ValueError(
                        f"The text {name!r} has the token {max(ids)}, which a vocabulary of {vocabulary_size} lacks; tokenize "
                        "it with the model's own tokenizer."
                    )
                content = np.asarray(ids, dtype=dtype).tobytes()
                file.write(content)
                sizes.append(len(ids))
                marks = [hashlib.blake2b(part, digest_size=16).digest() for part in (content, " ".join(text.split()).encode())]
                kinds.append(next((numbers[mark] for mark in marks if mark in numbers), different))
                different = max(different, kinds[-1] + 1)
                numbers.update((mark, kinds[-1]) for mark in marks)
    if not sizes:
        raise ValueError(f"The corpus {name!r} is empty; give it some text.")
    if different < 2:
        times = "" if len(sizes) == 1 else f", {len(sizes)} times the same"
        raise ValueError(
            f"The corpus {name!r} is a single document{times}; give at least two, so that one can be held out for evaluation."
        )
    return np.array(sizes), np.array(kinds)


def held_out(sizes: Int[np.ndarray, " documents"], share: float, seed: int) -> Bool[np.ndarray, " documents"]:
    """Which of some different documents are held out: about a share of the tokens, at least one document, never all.

    Args:
        sizes: the tokens of each document.
        share: of the tokens.
        seed: of the random order in which documents are taken.
    """
    order = np.random.default_rng(seed).permutation(len(sizes))
    taken = order[: max(1, min(len(sizes) - 1, 1 + np.searchsorted(np.cumsum(sizes[order]), share * sizes.sum())))]
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[taken] = True
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
            source=source,
        )
