"""The trigram table, counted from text: how probable each next token is after the last two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.sparse
import scipy.special
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.store import content_hash
from bigramlib.targets.bigram import BigramTable, surprisals_in
from bigramlib.targets.table_divergence import BoundTable, bound_table
from bigramlib.text.corpus import TokenCorpus

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


@dataclass(frozen=True)
class TrigramTable:
    """P(next | last two tokens) from counts, without smoothing. After a pair that was not seen, the bigram table predicts.

    So does it after the first token of a sequence. Bound to a model, it holds a vector as wide as the model for each distinct
    pair of the text.

    Attributes:
        bigrams: the bigram table of the same text.
        pairs: in increasing order, first token x vocabulary size + second token of each pair that was followed by a token.
        counts: sparse [pairs, vocab]; how often each token followed each pair within a document.

    Example:
        >>> trigrams = TrigramTable.from_corpus(study.train)
        >>> evaluate(study.model, study.held_out, trigrams).kl > 0
        True
    """

    reads_context: ClassVar[bool] = True

    bigrams: BigramTable
    pairs: Int[np.ndarray, " pairs"]
    counts: scipy.sparse.csr_array

    @classmethod
    def from_corpus(cls, corpus: TokenCorpus) -> TrigramTable:
        """Count the trigrams of a corpus, each within one document. The whole text is held in memory."""
        ids, size = np.asarray(corpus.ids, dtype=np.int64), corpus.vocabulary_size
        ends = np.append(corpus.starts[1:], len(ids))
        first = np.arange(max(0, len(ids) - 2))
        first = first[first + 2 < ends[np.searchsorted(ends, first, side="right")]]
        pairs, row = np.unique(ids[first] * size + ids[first + 1], return_inverse=True)
        ones = np.ones(len(first), dtype=np.int64)
        counts = scipy.sparse.csr_array((ones, (row, ids[first + 2])), shape=(len(pairs), size))
        return cls(BigramTable.from_corpus(corpus), pairs, counts)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens in the vocabulary."""
        return self.bigrams.vocabulary_size

    @property
    def tokenizer_hash(self) -> str | None:
        """Of the tokenizer of the text."""
        return self.bigrams.tokenizer_hash

    @property
    def description(self) -> str:
        """What error messages call it."""
        return "The trigram table"

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the counts."""
        counts = self.counts.sorted_indices()
        return content_hash("trigram table", self.bigrams.hash, self.pairs, counts.indptr, counts.indices, counts.data)

    @cached_property
    def conditional(self) -> scipy.sparse.csr_array:
        """Sparse [vocab + pairs, vocab] float64: first what the bigram table predicts, then P(column | pair)."""
        scale = scipy.sparse.diags_array(1 / np.asarray(self.counts.sum(axis=1)).ravel())
        return scipy.sparse.vstack([self.bigrams.conditional, scale @ self.counts], format="csr")

    @cached_property
    def seen(self) -> np.ndarray:
        """[vocab + pairs] Whether a row of `conditional` counts; else the bigram table's `backoff` predicts."""
        return np.append(self.bigrams.seen, np.ones(len(self.pairs), dtype=bool))

    def contexts(self, ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The row of `conditional` that predicts after each token: that of the pair that it ends, or else its own."""
        known = torch.as_tensor(self.pairs, device=ids.device)
        if not len(known):
            return ids
        pairs = ids[:, :-1] * self.vocabulary_size + ids[:, 1:]
        found = torch.searchsorted(known, pairs).clamp(max=len(known) - 1)
        rows = torch.where(known[found] == pairs, self.vocabulary_size + found, ids[:, 1:])
        return torch.cat([ids[:, :1], rows], dim=1)

    def surprisals(
        self, current: Int[np.ndarray, "sequences pos"], following: Int[np.ndarray, "sequences pos"]
    ) -> Float[np.ndarray, "sequences pos"]:
        """-log2 P(following | the last two tokens), in bits; infinite where that was never seen."""
        contexts = self.contexts(torch.from_numpy(current)).numpy()
        return surprisals_in(self.conditional, self.seen, self.bigrams.backoff, contexts, following)

    def bind(self, model: LanguageModel) -> BoundTrigrams:
        """Prepare the table for a model.

        Raises:
            ValueError: table and model do not share a vocabulary.
        """
        model.check_vocabulary(self)
        of_pairs = self.conditional[self.vocabulary_size :].copy()
        of_pairs.data = scipy.special.entr(of_pairs.data)
        entropy = np.append(self.bigrams.entropy, np.asarray(of_pairs.sum(axis=1)).ravel())
        return BoundTrigrams(self, bound_table(model, self.conditional, self.bigrams.backoff, self.seen, entropy))


@dataclass(frozen=True)
class BoundTrigrams:
    """A trigram table that was prepared for a model."""

    table: TrigramTable
    bound: BoundTable

    def __call__(self, ids: Int[Tensor, "batch pos"], hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """The KL of each position, in nats."""
        return self.bound(self.table.contexts(ids), hidden)

    def entropy(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """The entropy of the table's prediction at each position, in nats."""
        return self.bound.entropy(self.table.contexts(ids))
