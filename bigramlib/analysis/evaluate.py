"""How well a model, or one of its subnetworks, predicts held-out text and the bigram table, measured in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bigramlib.analysis.by_token import Pass, token_by_token, without_attention
from bigramlib.analysis.intervals import correlation, correlation_interval, mean_interval, warn_of_few
from bigramlib.analysis.measured import measured_once, told_apart
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.sparse import sparse_products
from bigramlib.models.tokenizer import token_texts
from bigramlib.numeric import full_precision, whole_number
from bigramlib.progress import tqdm
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.targets.table_divergence import BoundTable
from bigramlib.targets.target import MeasurableTarget, Target
from bigramlib.text.corpus import SEQUENCE_LENGTH, TokenCorpus

NATS_PER_BIT = float(np.log(2))
MAX_TOKENS = 32_768
"""How much held-out text is measured unless asked otherwise."""
VERSION = "evaluation 2"
"""Another one is due when figures change, so that what the store holds is measured again."""
Windows = tuple[Int[np.ndarray, "sequences pos"], Int[np.ndarray, "sequences pos"], Bool[np.ndarray, "sequences pos"]]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        r: bigram correlation: Pearson's r, over tokens, between the model's surprisals and the bigram table's. Tokens whose
            bigram was never seen are left out (paper, definitions). NaN where one side does not vary, or no bigram was seen.
        r_interval: its 95 % interval, by resampling documents; NaN where unknown (see `correlation_interval`).
        r_clipped: the same r over all tokens; never-seen bigrams get the largest finite bigram surprisal.
        kl: mean KL divergence from the bigram table's prediction to the model's, nats per token.
        cross_entropy: mean surprisal of the text under the model, nats per token.
        surprisals: [tokens] surprisal of each token under the model, bits.
        bigram_surprisals: [tokens] surprisal of each token under the table, bits; infinite where the bigram was never seen.
        documents: [tokens] the document that each token belongs to.
        token_pairs: [tokens, 2] the ids of the token before each token, and of the token itself.
        positions: [tokens] where in the corpus the token before each token stands.
        tokenizer: of the model.

    Example:
        >>> evaluation = evaluate(model, held_out, table)
        >>> evaluation.perplexity > 1
        True
    """

    r: float
    r_interval: tuple[float, float]
    r_clipped: float
    kl: float
    cross_entropy: float
    surprisals: Float[np.ndarray, " tokens"]
    bigram_surprisals: Float[np.ndarray, " tokens"]
    documents: Int[np.ndarray, " tokens"]
    token_pairs: Int[np.ndarray, "tokens 2"]
    positions: Int[np.ndarray, " tokens"]
    tokenizer: PreTrainedTokenizerBase = field(repr=False, compare=False)

    @property
    def tokens(self) -> int:
        """How many next tokens were measured."""
        return len(self.surprisals)

    @property
    def perplexity(self) -> float:
        """Exp of the cross-entropy."""
        return float(np.exp(self.cross_entropy))

    def to_frame(self, **others: Evaluation) -> pd.DataFrame:
        """The surprisal of each token, in nats: `study.evaluate(subnetwork).to_frame(full_model=study.evaluate())`.

        Args:
            others: other evaluations of the same tokens, by the name of their column.

        Returns:
            One row for each token that has a next one: position (in the corpus), document, token, next_token (texts), and how
            surprising the next token is, in nats: bigram_table (infinite where the pair was never seen), surprisal (in this
            evaluation), and a column for each of the others.

        Raises:
            ValueError: another evaluation is of other tokens.
        """
        surprisals = {"bigram_table": self.bigram_surprisals, "surprisal": self.surprisals}
        for name, other in others.items():
            if not np.array_equal(self.positions, other.positions) or not np.array_equal(self.token_pairs, other.token_pairs):
                raise ValueError(
                    f"{name} was measured on other tokens; evaluate it on the same text, with the same max_tokens."
                )
            surprisals[name] = other.surprisals
        first, second = (token_texts(self.tokenizer, ids.tolist()) for ids in self.token_pairs.T)
        places = {"position": self.positions, "document": self.documents, "token": first, "next_token": second}
        return pd.DataFrame(places | {name: bits * NATS_PER_BIT for name, bits in surprisals.items()})

    def rise_from(self, before: Evaluation) -> tuple[float, float, float]:
        """How much worse the text is predicted than in another evaluation on the same tokens.

        Returns:
            (rise, low, high): rise in cross-entropy, nats per token, and its 95 % interval, by resampling documents; NaN
            where unknown (see `mean_interval`).
        """
        rise = (self.surprisals - before.surprisals) * NATS_PER_BIT
        return float(rise.mean()), *mean_interval(rise, self.documents)


def evaluate(
    model: LanguageModel,
    corpus: TokenCorpus,
    table: Target,
    subnetwork: Subnetwork | None = None,
    *,
    max_tokens: int | None = MAX_TOKENS,
    sequence_length: int = SEQUENCE_LENGTH,
    batch_size: int = 16,
    keep: bool = True,
) -> Evaluation:
    """Evaluate a model, or one of its subnetworks, on running text.

    Args:
        model: the model.
        corpus: held-out text.
        table: the bigram table to compare with, or another target that gives surprisals, in all places of the table.
        subnetwork: keep only these weights; the whole model by default.
        max_tokens: at most so many tokens, spread evenly over the corpus; None for all.
        sequence_length: tokens of a sequence.
        batch_size: sequences of a batch.
        keep: whether what is measured on the CPU against a bigram table is kept in the store, and found there again as long as
            model, text and table are what they were; the figures are the same in each bit (see `measured.py`).

    Raises:
        ValueError: model, corpus, table and subnetwork do not belong together, or no token has a next one in its document.

    Example:
        >>> -1 <= evaluate(model, held_out, table, subnetwork).r <= 1
        True
    """
    model.check_vocabulary(corpus)
    current, following, valid = windows = windows_with_next_tokens(corpus, sequence_length, max_tokens)
    documents = corpus.documents(sequence_length, max_tokens)[valid]
    batch_size = whole_number("batch_size", batch_size, least=1)
    bits, bigram_bits, kl = _measured(model, table, subnetwork, windows, batch_size, keep)
    evaluation = Evaluation(
        **_correlations(bits, bigram_bits, documents),
        kl=kl,
        cross_entropy=float(bits.mean() * NATS_PER_BIT),
        surprisals=bits,
        bigram_surprisals=bigram_bits,
        documents=documents,
        token_pairs=np.stack([current[valid], following[valid]], axis=1),
        positions=corpus.positions(sequence_length, max_tokens)[valid],
        tokenizer=model.tokenizer,
    )
    if subnetwork and isinstance(table, BigramTable) and not model.identity.beneath:
        subnetwork.measured.update(r=evaluation.r, r_interval=evaluation.r_interval, text=corpus.name, tokens=len(bits))
    return evaluation


def _correlations(
    bits: Float[np.ndarray, " tokens"], bigram_bits: Float[np.ndarray, " tokens"], documents: Int[np.ndarray, " tokens"]
) -> dict[str, Any]:
    """The fields of `Evaluation` about r, by the surprisals under the model and under the table."""
    finite = np.isfinite(bigram_bits)
    warn_of_few(documents[finite])
    return {
        "r": correlation(bits[finite], bigram_bits[finite]),
        "r_interval": correlation_interval(bits[finite], bigram_bits[finite], documents[finite]),
        "r_clipped": correlation(bits, np.where(finite, bigram_bits, bigram_bits[finite].max(initial=0.0))),
    }


def windows_with_next_tokens(
    corpus: TokenCorpus, sequence_length: int = SEQUENCE_LENGTH, max_tokens: int | None = MAX_TOKENS
) -> Windows:
    """`TokenCorpus.windows` of a corpus that has something to predict.

    Returns:
        (current, following, valid): the tokens, the token after each, and whether that one is of the same document.

    Raises:
        ValueError: no token has a next one in its document.
    """
    windows = corpus.windows(sequence_length, max_tokens)
    if not windows[-1].any():
        raise ValueError(f"Every document of the corpus {corpus.name!r} is a single token; there is no next token to predict.")
    return windows


def _measured(
    model: LanguageModel, table: Target, subnetwork: Subnetwork | None, windows: Windows, batch_size: int, keep: bool
) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"], float]:
    """Surprisals of the next tokens under the model and under the table, bits, and the mean KL between these, nats.

    Args:
        model: the model.
        table: the target.
        subnetwork: keep only these weights; None for the whole model.
        windows: what `windows_with_next_tokens` returns.
        batch_size: sequences of a batch.
        keep: as in `evaluate`. What takes one batch only, or has a target that may change unseen, is measured every time.

    Raises:
        ValueError: the table gives no surprisals, or has another vocabulary than the model.
    """
    if not isinstance(table, MeasurableTarget):
        raise ValueError(f"A {type(table).__name__} gives no surprisals to compare with; give a table, such as a BigramTable.")
    current, following, valid = windows
    keep = keep and isinstance(table, BigramTable) and len(current) > batch_size
    batches = _batches(model, table, current, following, batch_size)

    def joined() -> dict[str, Tensor]:
        with _without_zeros(model, subnetwork):
            return _joined([first, *batches], valid)

    with subnetwork.applied(model) if subnetwork else nullcontext(), full_precision():
        apart = told_apart(model) if keep else None
        with _without_zeros(model, subnetwork):
            first = next(batches)
        parts = (VERSION, table.hash, current, following, valid, batch_size, *map(Tensor.numpy, first)) if apart else ()
        made = measured_once(model, None, apart, parts, joined)
    bits = made["losses"].double().numpy() / NATS_PER_BIT
    return bits[valid], table.surprisals(current, following)[valid], float(made["kl"])


@contextmanager
def _without_zeros(model: LanguageModel, subnetwork: Subnetwork | None) -> Iterator[None]:
    """Passes without gradients that spare themselves what an applied subnetwork has no weights for."""
    skipped = subnetwork.empty_blocks if subnetwork else ()
    with torch.inference_mode(), model.skipping(skipped), sparse_products(model.hf, model.architecture):
        yield


def _joined(batches: Sequence[tuple[Tensor, Tensor]], valid: Bool[np.ndarray, "sequences pos"]) -> dict[str, Tensor]:
    """Of what `_batches` gave: "losses", of each token, and "kl", the mean over tokens whose next one counts."""
    losses, kls = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return {"losses": losses, "kl": torch.tensor(kls.double().numpy()[valid].mean(), device="cpu")}


def _batches(
    model: LanguageModel,
    table: Target,
    current: Int[np.ndarray, "sequences pos"],
    following: Int[np.ndarray, "sequences pos"],
    batch_size: int,
) -> Iterator[tuple[Float[Tensor, "batch pos"], Float[Tensor, "batch pos"]]]:
    """Of each next token the model's surprisal and the KL from the table's prediction, nats, on the CPU, batch by batch."""
    divergence = table.bind(model)

    def passed(ids: Int[Tensor, "batch pos"]) -> tuple[Tensor, ...]:
        hidden = model.hidden(ids)
        log_partition = model.log_partition(hidden)
        if isinstance(divergence, BoundTable):
            return hidden, log_partition, divergence.given(ids, hidden, log_partition)
        return hidden, log_partition, divergence(ids, hidden)

    compute: Pass = passed
    if isinstance(table, BigramTable) and without_attention(model):
        tokens = torch.from_numpy(np.unique(current)).to(model.device)
        compute = token_by_token(passed, torch.from_numpy(current[:batch_size]).to(model.device), tokens)
    for begin in tqdm(range(0, len(current), batch_size), desc="evaluating", unit="batch", leave=False, delay=10):
        ids, chosen = (torch.from_numpy(part[begin : begin + batch_size]).to(model.device) for part in (current, following))
        hidden, log_partition, kl = compute(ids)
        yield (log_partition - model.logits_of(hidden, chosen)).cpu(), kl.cpu()
