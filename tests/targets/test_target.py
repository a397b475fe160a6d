"""A trigram table written as `targets/target.py` tells has the right loss and can be trained on."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import torch
from conftest import VOCABULARY, token_ids
from torch.nn import functional

from bigramlib import SparsifyConfig, find_subnetwork
from bigramlib.store import content_hash
from bigramlib.targets.table_divergence import bound_table
from bigramlib.targets.target import Target


@dataclass(frozen=True)
class TrigramTable:
    """P(next | last two tokens), uniform after pairs that were not seen."""

    reads_context: ClassVar[bool] = True
    description: ClassVar[str] = "The trigram table"
    vocabulary_size: ClassVar[int] = VOCABULARY
    tokenizer_hash: ClassVar[None] = None

    text: np.ndarray

    @property
    def pairs(self) -> np.ndarray:
        return np.unique(self.text[:-2] * VOCABULARY + self.text[1:-1])

    @property
    def hash(self) -> str:
        return content_hash("trigram table", self.text)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """The number of the pair that ends at each position; one more than the last for what was not seen."""
        pairs = torch.from_numpy(self.pairs)
        ends = ids[:, :-1] * VOCABULARY + ids[:, 1:]
        found = torch.searchsorted(pairs, ends).clamp(max=len(pairs) - 1)
        return functional.pad(torch.where(pairs[found] == ends, found, len(pairs)), (1, 0), value=len(pairs))

    def probabilities(self) -> np.ndarray:
        """[pairs + 1, vocab] with a last row of zeros for what was not seen."""
        counts = np.zeros((len(self.pairs) + 1, VOCABULARY))
        np.add.at(counts, (np.searchsorted(self.pairs, self.text[:-2] * VOCABULARY + self.text[1:-1]), self.text[2:]), 1)
        return counts / counts.sum(axis=1, keepdims=True).clip(1)

    def bind(self, model):
        model.check_vocabulary(self)
        conditional, backoff = self.probabilities(), np.full(VOCABULARY, 1 / VOCABULARY)
        seen = conditional.sum(axis=1) > 0
        entropy = scipy.special.entr(np.where(seen[:, None], conditional, backoff)).sum(axis=1)
        return BoundTrigramTable(self, bound_table(model, scipy.sparse.csr_array(conditional), backoff, seen, entropy))


@dataclass(frozen=True)
class BoundTrigramTable:
    table: TrigramTable
    bound: object

    def __call__(self, ids, hidden):
        return self.bound(self.table.rows(ids), hidden)

    def entropy(self, ids):
        return self.bound.entropy(self.table.rows(ids))


@pytest.mark.parametrize("capped", [False, True])
def test_the_loss_of_a_trigram_table_is_the_dense_one(model, capped_model, capped):
    chosen, ids = capped_model if capped else model, token_ids(3)
    trigrams = TrigramTable(np.concatenate([ids[0].numpy(), ids[0].numpy()[::-1], ids[0].numpy()[1:]]))
    dense = trigrams.probabilities()[trigrams.rows(ids).numpy()]
    seen = dense.sum(axis=-1) > 0
    assert seen[0, 1:].any() and not seen[:, 0].any()
    dense = torch.from_numpy(np.where(seen[..., None], dense, 1 / VOCABULARY)).float()
    hidden, bound = chosen.hidden(ids), trigrams.bind(chosen)
    expected = functional.kl_div(chosen.unembed(hidden).log_softmax(-1), dense, reduction="none").sum(-1)
    assert torch.allclose(bound(ids, hidden), expected, atol=2e-4)
    assert torch.allclose(bound.entropy(ids), torch.special.entr(dense).sum(-1), atol=1e-5)


def test_a_subnetwork_is_trained_to_a_trigram_table(model, corpus):
    trigrams = TrigramTable(corpus.ids)
    assert isinstance(trigrams, Target)
    config = SparsifyConfig(steps=3, batch_size=2, sequence_length=16, flattening=None)
    found = find_subnetwork(model, trigrams, corpus, config)
    assert found.provenance["target_hash"] == trigrams.hash
    assert found.history().kl.iloc[-1] > 0
