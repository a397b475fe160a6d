"""The bigram table, counted from text: which token follows which, and how probable each next token is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from bigramlib.store import content_hash
from bigramlib.targets.table_divergence import BoundTable, bound_table
from bigramlib.text.corpus import TokenCorpus

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


@dataclass(frozen=True)
class BigramTable:
    """P(next | current) from counts of pairs, without smoothing (the bigram target of Chang & Bergen 2025).

    Attributes:
        counts: sparse [vocab, vocab]; how often the column's token followed the row's token within a document.
        unigram_counts: [vocab]; how often each token occurred. Their shares are the prediction after tokens that were never
            followed by anything (the backoff). If all are zero, that prediction is uniform.
        tokenizer_hash: of the tokenizer of the text (`TokenCorpus.tokenizer_hash`).

    Raises:
        ValueError: the counts are of different vocabularies, negative or not finite.

    Example:
        >>> table = BigramTable.from_corpus(corpus)
        >>> table.counts.shape == (table.vocabulary_size, table.vocabulary_size)
        True
    """

    reads_context: ClassVar[bool] = False

    counts: scipy.sparse.csr_array
    unigram_counts: Int[np.ndarray, " vocab"]
    tokenizer_hash: str | None = None

    def __post_init__(self) -> None:
        size = len(self.unigram_counts)
        if self.counts.shape != (size, size):
            raise ValueError(
                f"Bigram counts of shape {self.counts.shape} do not fit {size} unigram counts; use one vocabulary."
            )
        if (self.counts.nnz and self.counts.data.min() < 0) or (size and self.unigram_counts.min() < 0):
            raise ValueError("Counts must not be negative.")
        if self.counts.nnz and not np.isfinite(self.counts.data).all():
            raise ValueError("Counts must be finite, so that the prediction after each token sums to 1.")

    @classmethod
    def from_corpus(cls, corpus: TokenCorpus) -> BigramTable:
        """Count the bigrams of a corpus. The last token of a document is not followed by the first token of the next.

        The text is read in parts, so memory grows with the number of distinct bigrams and not with the length of the text.
        """
        size = corpus.vocabulary_size
        table = scipy.sparse.csr_array((size, size), dtype=np.int64)
        for begin, ids in corpus.parts(overlap=1):
            within = np.ones(len(ids) - 1, dtype=np.int32)
            first, last = np.searchsorted(corpus.starts, (begin + 1, begin + len(ids)))
            within[corpus.starts[first:last] - begin - 1] = 0
            table += _summed(within, ids[:-1], ids[1:], size)
        table.eliminate_zeros()
        return cls(table, corpus.unigram_counts, corpus.tokenizer_hash)

    def unigram(self) -> BigramTable:
        """The same table without its pairs, so that the prediction after every token is the unigram distribution."""
        return replace(self, counts=scipy.sparse.csr_array(self.counts.shape, dtype=self.counts.dtype))

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return len(self.unigram_counts)

    @property
    def description(self) -> str:
        """What error messages call it."""
        return "The bigram table"

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the counts."""
        counts = self.counts.sorted_indices()
        arrays = (counts.indptr, counts.indices, counts.data, self.unigram_counts)
        return content_hash(*(array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays))

    @cached_property
    def seen(self) -> np.ndarray:
        """[vocab] Whether any token was seen after this one."""
        return np.asarray(self.counts.sum(axis=1)).ravel() > 0

    @cached_property
    def conditional(self) -> scipy.sparse.csr_array:
        """Sparse [vocab, vocab] float64 P(column | row). Rows of tokens that are not `seen` are empty: see `backoff`."""
        totals = np.asarray(self.counts.sum(axis=1)).ravel()
        scale = np.divide(1.0, totals, out=np.zeros(len(totals)), where=totals > 0)
        return scipy.sparse.csr_array(scipy.sparse.diags_array(scale) @ self.counts)

    @cached_property
    def backoff(self) -> Float[np.ndarray, " vocab"]:
        """[vocab] float64: the prediction after tokens that are not `seen`, unigram shares, or uniform without any counts."""
        total = self.unigram_counts.sum()
        return self.unigram_counts / total if total else np.full(self.vocabulary_size, 1 / self.vocabulary_size)

    @cached_property
    def entropy(self) -> Float[np.ndarray, " vocab"]:
        """[vocab] The entropy of the prediction after each token, in nats."""
        plogp = self.conditional.copy()
        plogp.data = -plogp.data * np.log(plogp.data)
        backoff = self.backoff[self.backoff > 0]
        return np.where(self.seen, np.asarray(plogp.sum(axis=1)).ravel(), -(backoff * np.log(backoff)).sum())

    def probabilities(self, contexts: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n vocab"]:
        """The predictions after some tokens as a dense float64 array, for small vocabularies or few tokens."""
        rows = self.conditional[contexts].toarray()
        rows[~self.seen[contexts]] = self.backoff
        return rows

    def surprisals(
        self, current: Int[np.ndarray, "*shape"], following: Int[np.ndarray, "*shape"]
    ) -> Float[np.ndarray, "*shape"]:
        """-log2 P(following | current), in bits; infinite where the pair was never seen."""
        return surprisals_in(self.conditional, self.seen, self.backoff, current, following)

    def bind(self, model: LanguageModel) -> BoundTable:
        """Prepare the table for a model: a function from ids and last hidden states to the KL of each position, in nats.

        Raises:
            ValueError: table and model do not share a vocabulary.
        """
        model.check_vocabulary(self)
        return bound_table(model, self.conditional, self.backoff, self.seen, self.entropy)


def surprisals_in(
    conditional: scipy.sparse.csr_array,
    seen: Bool[np.ndarray, " rows"],
    backoff: Float[np.ndarray, " vocab"],
    contexts: Int[np.ndarray, "*shape"],
    following: Int[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """-log2 of the probability of tokens in rows of a table, in bits; infinite where it is 0.

    Args:
        conditional: the probabilities, a row for each context.
        seen: which rows have some; the others are `backoff`.
        backoff: the probabilities of a row that was never seen.
        contexts: the row of each token.
        following: the tokens.
    """
    rows, columns = contexts.ravel(), following.ravel()
    found = np.asarray(conditional[rows, columns]).ravel()
    probability = np.where(seen[rows], found, backoff[columns])
    with np.errstate(divide="ignore"):
        return -np.log2(probability).reshape(contexts.shape)


def _summed(
    counts: Int[np.ndarray, " n"], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], size: int
) -> scipy.sparse.csr_array:
    """Sums of counts over equal pairs (first, second), sparse [size, size].

    The pairs are brought into order by two bucket sorts (by second, then by first), which take linear time.
    """
    each = np.arange(len(counts) + 1, dtype=np.int32)
    by_second = scipy.sparse.csr_array((counts, second.astype(np.int32), each), shape=(len(counts), size)).tocsc()
    places = by_second.indices
    pairs = scipy.sparse.csc_array(
        (by_second.data, first.astype(np.int32)[places], by_second.indptr), shape=(size, size)
    ).tocsr()
    pairs.sum_duplicates()
    return pairs
