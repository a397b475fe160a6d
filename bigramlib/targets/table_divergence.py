"""The KL from a sparse table of predictions to a model, without a [batch, pos, vocab] array of target probabilities.

Where logits are linear in the last hidden state h (logits = h W_U^T + b), the expected logit under the prediction P[c] of a
context c is h . E[c] + e[c]. E = P W_U and e = P b are computed once, so that a position costs one dot product, whatever the
size of the vocabulary. Where logits are capped (Gemma 2) that is not so, and the logits of each context's successors are
gathered instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bigramlib.models.logits import by_rows

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


def bound_table(
    model: LanguageModel,
    conditional: scipy.sparse.csr_array,
    backoff: Float[np.ndarray, " vocab"],
    seen: Bool[np.ndarray, " contexts"],
    entropy: Float[np.ndarray, " contexts"],
) -> BoundTable:
    """Prepare a table of predictions for a model.

    Args:
        model: the model that is compared with the table.
        conditional: sparse [contexts, vocab] probabilities of the next token in each context.
        backoff: the prediction in contexts that were not seen.
        seen: whether a context was seen, so that its row of `conditional` counts.
        entropy: of the prediction in each context, in nats.
    """
    kind = _LinearTable if model.readout.cap is None else _GatheredTable
    return kind(model, conditional, backoff, seen, entropy)


class BoundTable(ABC):
    """A table of predictions that was prepared for a model.

    Its methods take the number of each position's context, which is its row in the table: for bigrams the current token.
    """

    def __init__(self, model: LanguageModel, entropy: Float[np.ndarray, " contexts"]) -> None:
        self.model = model
        self.entropies = torch.as_tensor(entropy, dtype=torch.float32, device=model.device)

    def entropy(self, contexts: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """The entropy of the table's prediction at each position, in nats."""
        return self.entropies[contexts]

    def __call__(
        self, contexts: Int[Tensor, "batch pos"], hidden: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos"]:
        """The KL of each position, in nats, from the model's last hidden states."""
        return self.given(contexts, hidden, self.model.log_partition(hidden))

    @abstractmethod
    def given(
        self,
        contexts: Int[Tensor, "batch pos"],
        hidden: Float[Tensor, "batch pos d_model"],
        log_partition: Float[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        """The same, for callers that have the model's log partition function (`LanguageModel.log_partition`) already."""


class _LinearTable(BoundTable):
    """The KL by the expected logit h . E[c] + e[c]."""

    def __init__(
        self,
        model: LanguageModel,
        conditional: scipy.sparse.csr_array,
        backoff: Float[np.ndarray, " vocab"],
        seen: Bool[np.ndarray, " contexts"],
        entropy: Float[np.ndarray, " contexts"],
    ) -> None:
        super().__init__(model, entropy)
        matrix, bias = model.readout.unembedding, model.readout.bias
        readout = matrix.cpu().double().numpy() * model.readout.scale
        if bias is not None:
            readout = np.concatenate([readout, bias.cpu().double().numpy()[:, None] * model.readout.scale], axis=1)
        expected = np.asarray(conditional @ readout)
        expected[~seen] = backoff @ readout
        expected = torch.as_tensor(expected, dtype=torch.float32, device=model.device)
        width = matrix.shape[1]
        self.expected_readout = expected[:, :width].contiguous()
        bias_part = 0.0 if bias is None else expected[:, width]
        self.offset = bias_part + self.entropies

    def given(
        self,
        contexts: Int[Tensor, "batch pos"],
        hidden: Float[Tensor, "batch pos d_model"],
        log_partition: Float[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        expected_logit = (hidden.float() * self.expected_readout[contexts]).sum(-1)
        return log_partition - expected_logit - self.offset[contexts]


class _GatheredTable(BoundTable):
    """The KL by the logits of the tokens that can follow each context; contexts that were not seen share one last row."""

    def __init__(
        self,
        model: LanguageModel,
        conditional: scipy.sparse.csr_array,
        backoff: Float[np.ndarray, " vocab"],
        seen: Bool[np.ndarray, " contexts"],
        entropy: Float[np.ndarray, " contexts"],
    ) -> None:
        super().__init__(model, entropy)
        rows = scipy.sparse.vstack([conditional, scipy.sparse.csr_array(backoff[None])]).tocsr()
        device = model.device
        self.row_of = torch.as_tensor(np.where(seen, np.arange(len(seen)), len(seen)), device=device)
        self.begin = torch.as_tensor(rows.indptr[:-1].astype(np.int64), device=device)
        self.length = torch.as_tensor(np.diff(rows.indptr).astype(np.int64), device=device)
        self.column = torch.as_tensor(rows.indices.astype(np.int64), device=device)
        self.probability = torch.as_tensor(rows.data, dtype=torch.float32, device=device)

    def given(
        self,
        contexts: Int[Tensor, "batch pos"],
        hidden: Float[Tensor, "batch pos d_model"],
        log_partition: Float[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos"]:
        expected_logit = by_rows(
            lambda part, rows: self._expected_logit(contexts[rows], self.model.unembed(part)),
            hidden,
            self.model.vocabulary_size,
        )
        return log_partition - expected_logit - self.entropies[contexts]

    def _expected_logit(
        self, contexts: Int[Tensor, "batch pos"], logits: Float[Tensor, "batch pos vocab"]
    ) -> Float[Tensor, "batch pos"]:
        logits = logits.float().flatten(0, 1)
        rows = self.row_of[contexts.flatten()]
        lengths = self.length[rows]
        position = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
        first = torch.cumsum(lengths, 0) - lengths
        entry = (self.begin[rows] - first)[position] + torch.arange(len(position), device=rows.device)
        terms = self.probability[entry] * logits[position, self.column[entry]]
        return torch.zeros(len(rows), device=rows.device).index_add(0, position, terms).view(contexts.shape)
