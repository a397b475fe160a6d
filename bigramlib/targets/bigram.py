"""What a subnetwork should predict: a bigram table, a unigram table, or the full model itself.

A target is bound to a model once and then gives, for a batch, the KL divergence of every position without ever holding a
[batch, pos, vocab] target: with logits h W_U^T + b the expected target logit of context c is h . E[c] + e[c], where
E = P W_U and e = P b are computed once from the sparse table P.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.models.language_model import LanguageModel
from bigramlib.models.logits import by_rows
from bigramlib.store import content_hash
from bigramlib.text.corpus import TokenCorpus

BoundTarget = Callable[[Tensor, Tensor], Tensor]
"""A target on a model: from ids [batch, pos] and last hidden states [batch, pos, d_model] to the KL of each position, nats.

Where it also has a method `entropy`, from ids to the target's own entropy at each position, nats, runs are judged stable or not
by the cross-entropy, the sum of both; else by the KL."""


@runtime_checkable
class Target(Protocol):
    """Anything that a subnetwork can be trained to predict.

    Attributes:
        reads_context: whether predictions depend on more than the current token.
    """

    reads_context: ClassVar[bool]

    @property
    def hash(self) -> str:
        """Identifies the target's content."""
        ...

    def bind(self, model: LanguageModel) -> BoundTarget:
        """Prepare the target for a model's unembedding and device."""
        ...


@dataclass(frozen=True)
class BigramTable:
    """P(next | current): maximum-likelihood counts, no smoothing (paper: bigram target).

    Attributes:
        counts: sparse [vocab, vocab], how often each column's token followed each row's within a document.
        unigram_counts: [vocab], the backoff of contexts never seen; all zero means a uniform backoff.
        tokenizer_hash: of the tokenizer of the text (`TokenCorpus.tokenizer_hash`).
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
        """Count the bigrams of a corpus; none crosses from one document into the next.

        The text is read in parts: memory is bounded by the distinct bigrams, whatever the length of a memory-mapped corpus.
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
        """The unigram table through the same interface: no context is seen, so each backs off."""
        return replace(self, counts=scipy.sparse.csr_array(self.counts.shape, dtype=self.counts.dtype))

    @property
    def vocabulary_size(self) -> int:
        """Entries of the vocabulary."""
        return len(self.unigram_counts)

    @property
    def description(self) -> str:
        """What this is, for messages."""
        return "The bigram table"

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the counts."""
        counts = self.counts.sorted_indices()
        arrays = (counts.indptr, counts.indices, counts.data, self.unigram_counts)
        return content_hash(*(array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays))

    @cached_property
    def seen(self) -> np.ndarray:
        """[vocab] whether a token was seen with a successor."""
        return np.asarray(self.counts.sum(axis=1)).ravel() > 0

    @cached_property
    def conditional(self) -> scipy.sparse.csr_array:
        """Sparse [vocab, vocab] float64 P(column | row); rows of unseen contexts are empty (they mean `backoff`)."""
        totals = np.asarray(self.counts.sum(axis=1)).ravel()
        scale = np.divide(1.0, totals, out=np.zeros(len(totals)), where=totals > 0)
        return scipy.sparse.csr_array(scipy.sparse.diags_array(scale) @ self.counts)

    @cached_property
    def backoff(self) -> Float[np.ndarray, " vocab"]:
        """[vocab] float64: the unigram distribution, or the uniform one if there are no counts at all."""
        total = self.unigram_counts.sum()
        return self.unigram_counts / total if total else np.full(self.vocabulary_size, 1 / self.vocabulary_size)

    @cached_property
    def entropy(self) -> Float[np.ndarray, " vocab"]:
        """[vocab] the entropy of the prediction after each token, in nats."""
        plogp = self.conditional.copy()
        plogp.data = -plogp.data * np.log(plogp.data)
        backoff = self.backoff[self.backoff > 0]
        return np.where(self.seen, np.asarray(plogp.sum(axis=1)).ravel(), -(backoff * np.log(backoff)).sum())

    def probabilities(self, contexts: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n vocab"]:
        """Dense predictions after some tokens, for small vocabularies and few contexts."""
        rows = self.conditional[contexts].toarray()
        rows[~self.seen[contexts]] = self.backoff
        return rows

    def surprisals(
        self, current: Int[np.ndarray, "*shape"], following: Int[np.ndarray, "*shape"]
    ) -> Float[np.ndarray, "*shape"]:
        """-log2 P(following | current) in bits; infinite where the pair was never seen."""
        flat_current, flat_following = current.ravel(), following.ravel()
        found = np.asarray(self.conditional[flat_current, flat_following]).ravel()
        probability = np.where(self.seen[flat_current], found, self.backoff[flat_following])
        with np.errstate(divide="ignore"):
            return -np.log2(probability).reshape(current.shape)

    def bind(self, model: LanguageModel) -> BoundTable:
        """Prepare for a model: E = P W_U where its logits are linear, gathered sparse rows where they are capped."""
        model.check_vocabulary(self)
        return _LinearTable(self, model) if model.logit_cap is None else _GatheredTable(self, model)


class BoundTable(ABC):
    """A table on a model."""

    def __init__(self, table: BigramTable, model: LanguageModel) -> None:
        self.model = model
        self.entropies = torch.as_tensor(table.entropy, dtype=torch.float32, device=model.device)

    def entropy(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """The entropy of the table's prediction at each position, nats."""
        return self.entropies[ids]

    def __call__(self, ids: Int[Tensor, "batch pos"], hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """KL of each position, nats."""
        return self.given(ids, hidden, self.model.log_partition(hidden))

    @abstractmethod
    def given(
        self,
        ids: Int[Tensor, "batch pos"],
        hidden: Float[Tensor, "batch pos d_model"],
        log_partition: Float[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        """KL of each position, nats, where the log partition function of the model is known."""


class _LinearTable(BoundTable):
    """KL to a table through the expected target logit h . E[c] + e[c]; exact, at any vocabulary size."""

    def __init__(self, table: BigramTable, model: LanguageModel) -> None:
        super().__init__(table, model)
        matrix, bias = model.unembedding
        readout = matrix.cpu().double().numpy()
        if bias is not None:
            readout = np.concatenate([readout, bias.cpu().double().numpy()[:, None]], axis=1)
        expected = np.asarray(table.conditional @ readout)
        expected[~table.seen] = table.backoff @ readout
        expected = torch.as_tensor(expected, dtype=torch.float32, device=model.device)
        width = matrix.shape[1]
        self.expected_readout = expected[:, :width].contiguous()
        bias_part = 0.0 if bias is None else expected[:, width]
        self.offset = bias_part + self.entropies

    def given(
        self,
        ids: Int[Tensor, "batch pos"],
        hidden: Float[Tensor, "batch pos d_model"],
        log_partition: Float[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        expected_logit = (hidden.float() * self.expected_readout[ids]).sum(-1)
        return log_partition - expected_logit - self.offset[ids]


class _GatheredTable(BoundTable):
    """KL to a table by gathering the logits of each context's successors (for logits that are not linear)."""

    def __init__(self, table: BigramTable, model: LanguageModel) -> None:
        super().__init__(table, model)
        backoff = scipy.sparse.csr_array(table.backoff[None])
        rows = scipy.sparse.vstack([table.conditional, backoff]).tocsr()
        device = model.device
        self.row_of = torch.as_tensor(np.where(table.seen, np.arange(len(table.seen)), len(table.seen)), device=device)
        self.begin = torch.as_tensor(rows.indptr[:-1].astype(np.int64), device=device)
        self.length = torch.as_tensor(np.diff(rows.indptr).astype(np.int64), device=device)
        self.column = torch.as_tensor(rows.indices.astype(np.int64), device=device)
        self.probability = torch.as_tensor(rows.data, dtype=torch.float32, device=device)

    def given(
        self,
        ids: Int[Tensor, "batch pos"],
        hidden: Float[Tensor, "batch pos d_model"],
        log_partition: Float[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        expected_logit = by_rows(
            lambda part, rows: self._expected_logit(ids[rows], self.model.unembed(part)), hidden, self.model.vocabulary_size
        )
        return log_partition - expected_logit - self.entropies[ids]

    def _expected_logit(
        self, ids: Int[Tensor, "batch pos"], logits: Float[Tensor, "batch pos vocab"]
    ) -> Float[Tensor, "batch pos"]:
        logits = logits.float().flatten(0, 1)
        rows = self.row_of[ids.flatten()]
        lengths = self.length[rows]
        position = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
        first = torch.cumsum(lengths, 0) - lengths
        entry = (self.begin[rows] - first)[position] + torch.arange(len(position), device=rows.device)
        terms = self.probability[entry] * logits[position, self.column[entry]]
        return torch.zeros(len(rows), device=rows.device).index_add(0, position, terms).view(ids.shape)


@dataclass(frozen=True)
class ModelTarget:
    """The full model's own predictions as the target (paper: optimal pruning, finding 5)."""

    reads_context: ClassVar[bool] = True

    model: LanguageModel

    @property
    def hash(self) -> str:
        """Identifies the model whose predictions are the target."""
        self.model.settle()
        return content_hash("model target", self.model.hash)

    def bind(self, model: LanguageModel) -> BoundTarget:
        """Prepare for a model with the same vocabulary (usually the model itself)."""
        if model.vocabulary_size != self.model.vocabulary_size:
            raise ValueError(
                f"The target model {self.model.name!r} has {self.model.vocabulary_size} tokens but {model.name!r} has "
                f"{model.vocabulary_size}; both must share a vocabulary."
            )
        if model.tokenizer_hash != self.model.tokenizer_hash:
            raise ValueError(
                f"The target model {self.model.name!r} has another tokenizer than {model.name!r}, though both have "
                f"{model.vocabulary_size} tokens; both must share a vocabulary."
            )
        return _BoundModel(self.model, model)


class _BoundModel:
    """A model's predictions as the target of another, or of its own parts."""

    def __init__(self, target: LanguageModel, model: LanguageModel) -> None:
        self.target, self.model = target, model
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, ids: Int[Tensor, "batch pos"], hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """KL of each position, nats."""
        wanted = self._hidden(ids)
        entropies = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)

        def divergence(part: Tensor, rows: slice) -> Tensor:
            target = self._log_probability(wanted[rows])
            probability = target.exp()
            entropies[rows] = -(probability * target).sum(-1)
            own = self.model.unembed(part).float().log_softmax(-1)
            return (probability * (target - own)).sum(-1)

        found = by_rows(divergence, hidden, self.model.vocabulary_size)
        self._last = ids, entropies
        return found

    @torch.no_grad()
    def entropy(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """The entropy of the target model's prediction at each position, nats; the KL of the same ids has found it already."""
        if self._last is not None and self._last[0] is ids:
            return self._last[1]

        def of_rows(part: Tensor, rows: slice) -> Tensor:
            target = self._log_probability(part)
            return -(target.exp() * target).sum(-1)

        return by_rows(of_rows, self._hidden(ids), self.model.vocabulary_size)

    @torch.no_grad()
    def _hidden(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.target.hidden(ids)

    @torch.no_grad()
    def _log_probability(self, hidden: Float[Tensor, "rows pos d_model"]) -> Float[Tensor, "rows pos vocab"]:
        return self.target.unembed(hidden).float().log_softmax(-1)


def _summed(
    counts: Int[np.ndarray, " n"], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], size: int
) -> scipy.sparse.csr_array:
    """Sparse [size, size] sums of counts over equal pairs, put in order by two bucket sorts, in linear time."""
    each = np.arange(len(counts) + 1, dtype=np.int32)
    by_second = scipy.sparse.csr_array((counts, second.astype(np.int32), each), shape=(len(counts), size)).tocsc()
    places = by_second.indices
    pairs = scipy.sparse.csc_array(
        (by_second.data, first.astype(np.int32)[places], by_second.indptr), shape=(size, size)
    ).tocsr()
    pairs.sum_duplicates()
    return pairs
