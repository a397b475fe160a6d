"""One streaming pass over held-out running text: how well a (sub)network predicts the text and the bigram table."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from bigramlib.analysis.intervals import correlation, correlation_interval, mean_interval, warn_of_few
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import full_precision
from bigramlib.progress import tqdm
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import SEQUENCE_LENGTH, TokenCorpus

NATS_PER_BIT = float(np.log(2))
MAX_TOKENS = 32_768


@dataclass(frozen=True)
class Evaluation:
    """What one pass measured.

    Attributes:
        r: bigram correlation, Pearson's r over tokens of the model's and the bigram table's surprisals, without tokens
            whose bigram was never seen (paper, definitions); NaN where one of them does not vary, or no bigram was seen.
        r_interval: its 95 % interval, resampling documents; NaN where unknown (see `correlation_interval`).
        r_clipped: the same over all tokens, with the largest finite bigram surprisal in place of infinite ones.
        kl: mean KL from the bigram table's prediction to the model's, nats.
        cross_entropy: mean surprisal of the text, nats.
        surprisals: [tokens] the model's surprisals, bits.
        bigram_surprisals: [tokens] the table's, bits; infinite where the bigram was never seen.
        documents: [tokens] the document that each token belongs to.
    """

    r: float
    r_interval: tuple[float, float]
    r_clipped: float
    kl: float
    cross_entropy: float
    surprisals: Float[np.ndarray, " tokens"]
    bigram_surprisals: Float[np.ndarray, " tokens"]
    documents: Int[np.ndarray, " tokens"]

    @property
    def perplexity(self) -> float:
        """Exp of the cross-entropy."""
        return float(np.exp(self.cross_entropy))

    def rise_from(self, before: Evaluation) -> tuple[float, float, float]:
        """How much worse the text is predicted than in another evaluation on the same tokens.

        Returns:
            (rise, low, high): rise in cross-entropy, nats per token, and its 95 % interval, resampling documents; NaN where
            unknown (see `mean_interval`).
        """
        rise = (self.surprisals - before.surprisals) * NATS_PER_BIT
        return float(rise.mean()), *mean_interval(rise, self.documents)


def evaluate(
    model: LanguageModel,
    corpus: TokenCorpus,
    table: BigramTable,
    subnetwork: Subnetwork | None = None,
    *,
    max_tokens: int | None = MAX_TOKENS,
    sequence_length: int = SEQUENCE_LENGTH,
    batch_size: int = 16,
) -> Evaluation:
    """Evaluate a model, or one of its subnetworks, on running text.

    Args:
        model: the model.
        corpus: held-out text.
        table: the bigram table to compare with.
        subnetwork: keep only these weights; the whole model by default.
        max_tokens: at most so many tokens, spread evenly over the corpus; None for all.
        sequence_length: tokens of a sequence.
        batch_size: sequences of a batch.

    Raises:
        ValueError: model, corpus, table and subnetwork do not belong together, or no token has a next one in its document.
    """
    model.check_vocabulary(corpus)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    current, following, valid = _windows(corpus, sequence_length, max_tokens)
    documents = corpus.documents(sequence_length, max_tokens)[valid]
    divergence = table.bind(model)
    surprisals, kls = [], []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(full_precision())
        if subnetwork:
            stack.enter_context(subnetwork.applied(model))
            stack.enter_context(model.skipping(subnetwork.empty_blocks))
        for begin in tqdm(range(0, len(current), batch_size), desc="evaluating", unit="batch", leave=False, delay=10):
            ids = torch.from_numpy(current[begin : begin + batch_size]).to(model.device)
            chosen = torch.from_numpy(following[begin : begin + batch_size]).to(model.device)
            hidden = model.hidden(ids)
            log_partition = model.log_partition(hidden)
            surprisals.append((log_partition - model.logits_of(hidden, chosen)).cpu().double().numpy())
            kls.append(divergence.given(ids, hidden, log_partition).cpu().double().numpy())
    bits = np.concatenate(surprisals)[valid] / NATS_PER_BIT
    bigram_bits = table.surprisals(current, following)[valid]
    finite = np.isfinite(bigram_bits)
    warn_of_few(documents[finite])
    clipped = np.where(finite, bigram_bits, bigram_bits[finite].max(initial=0.0))
    return Evaluation(
        r=correlation(bits[finite], bigram_bits[finite]),
        r_interval=correlation_interval(bits[finite], bigram_bits[finite], documents[finite]),
        r_clipped=correlation(bits, clipped),
        kl=float(np.concatenate(kls)[valid].mean()),
        cross_entropy=float(bits.mean() * NATS_PER_BIT),
        surprisals=bits,
        bigram_surprisals=bigram_bits,
        documents=documents,
    )


def table_cross_entropies(table: BigramTable, corpus: TokenCorpus, *, max_tokens: int | None = MAX_TOKENS) -> dict[str, float]:
    """How well the tables alone predict running text, in nats per token; the yardsticks for a language model.

    The bigram table as it is gives never-seen bigrams no probability, so it is interpolated with the unigram table, with the
    weight that is best on these very tokens (which favours the table). The unigram table counts every token once more.

    Returns:
        "bigram": the interpolated table; "unigram"; "seen": the share of tokens whose bigram was seen in training.
    """
    current, following, valid = _windows(corpus, SEQUENCE_LENGTH, max_tokens)
    bigram_bits = table.surprisals(current, following)[valid]
    bigram = 2.0**-bigram_bits
    smoothed = (table.unigram_counts + 1) / (table.unigram_counts.sum() + table.vocabulary_size)
    unigram = smoothed[following[valid]]
    weights = np.linspace(0.01, 0.99, 99)[:, None]
    return {
        "bigram": float((-np.log(weights * bigram + (1 - weights) * unigram)).mean(axis=1).min()),
        "unigram": float(-np.log(unigram).mean()),
        "seen": float(np.isfinite(bigram_bits).mean()),
    }


def _windows(corpus: TokenCorpus, sequence_length: int, max_tokens: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`TokenCorpus.windows`, of which at least one token has a next one in its document."""
    windows = corpus.windows(sequence_length, max_tokens)
    if not windows[-1].any():
        raise ValueError(f"Every document of the corpus {corpus.name!r} is a single token; there is no next token to predict.")
    return windows


def rises_by_bigram_surprisal(before: Evaluation, after: Evaluation, bins: int = 8) -> pd.DataFrame:
    """How much more surprising tokens became, by how surprising they are to the bigram table (all in bits).

    Args:
        before: an evaluation.
        after: another of the same model's parts on the same tokens.
        bins: groups of equally many tokens whose bigram was seen; never-seen ones are a last group, drawn one bin further.

    Returns:
        One row for each group: bigram_surprisal (its mean), rise (mean), error (its standard error), tokens.
    """
    rise = after.surprisals - before.surprisals
    finite = np.isfinite(before.bigram_surprisals)
    seen = before.bigram_surprisals[finite]
    edges = np.quantile(seen, np.linspace(0, 1, bins + 1)[1:-1]) if len(seen) else []
    group = np.where(finite, np.searchsorted(edges, before.bigram_surprisals), bins)
    frame = pd.DataFrame({"group": group, "bigram_surprisal": before.bigram_surprisals, "rise": rise})
    found = frame.groupby("group").agg(
        bigram_surprisal=("bigram_surprisal", "mean"), rise=("rise", "mean"), error=("rise", "sem"), tokens=("rise", "size")
    )
    beyond = found.bigram_surprisal[np.isfinite(found.bigram_surprisal)].max() + 2 if len(seen) else 0.0
    return found.replace({"bigram_surprisal": {np.inf: beyond}}).reset_index(drop=True)


def frontier(
    model: LanguageModel,
    subnetworks: Mapping[float, Subnetwork],
    corpus: TokenCorpus,
    table: BigramTable,
    *,
    draws: int = 0,
    max_tokens: int | None = MAX_TOKENS,
) -> pd.DataFrame:
    """Bigram correlation against size for the subnetworks of one model (paper, finding 1).

    Args:
        model: the model.
        subnetworks: by lambda.
        corpus: held-out text.
        table: the bigram table.
        draws: random controls for each subnetwork.
        max_tokens: as in `evaluate`.

    Returns:
        One row for each subnetwork, its random controls together (if draws), the full and the empty subnetwork: columns
        case, sparsity_penalty, kept, total, first_mlp_share, and `MEASURES`.
    """
    cases = [("full", np.nan, [Subnetwork.full(model)]), ("empty", np.nan, [Subnetwork.empty(model)])]
    for penalty, subnetwork in subnetworks.items():
        cases.append(("subnetwork", penalty, [subnetwork]))
        if draws:
            cases.append(("random subnetwork", penalty, [subnetwork.random_like(draw) for draw in range(draws)]))
    rows = []
    for case, penalty, members in tqdm(cases, desc=f"evaluating {model.name}", unit="case"):
        results = [evaluate(model, corpus, table, member, max_tokens=max_tokens) for member in members]
        first = members[0]
        facts = {"kept": first.kept, "total": first.total, "first_mlp_share": first.first_mlp_share()}
        rows.append({"case": case, "sparsity_penalty": penalty} | facts | _measures(results))
    return pd.DataFrame(rows)


def smallest_reaching(points: pd.DataFrame, r: float) -> pd.Series:
    """The row of `frontier`, with density, of the smallest subnetwork whose r exceeds `r`, or of the highest r if none does.

    An r that is NaN counts as the lowest; all NaN if there are no subnetworks.
    """
    found = _subnetworks(points)
    reaching = found[found.r > r]
    return reaching.loc[reaching.kept.idxmin()] if len(reaching) else _highest(found)


def best_within(points: pd.DataFrame, max_density: float) -> pd.Series:
    """The row of `frontier` with the highest r among subnetworks below a density, with its density; all NaN if none."""
    found = _subnetworks(points)
    return _highest(found[found.density < max_density])


def _highest(found: pd.DataFrame) -> pd.Series:
    return found.loc[found.r.fillna(-np.inf).idxmax()] if len(found) else pd.Series(np.nan, index=found.columns)


def _subnetworks(points: pd.DataFrame) -> pd.DataFrame:
    return points[points.case == "subnetwork"].assign(density=lambda row: row.kept / row.total)


def ablate(
    model: LanguageModel,
    subnetwork: Subnetwork,
    corpus: TokenCorpus,
    table: BigramTable,
    *,
    draws: int = 5,
    max_tokens: int | None = MAX_TOKENS,
) -> pd.DataFrame:
    """The ablation table (paper, finding 4), random controls drawn `draws` times with as many weights of each matrix.

    Returns:
        One row for each of: full, subnetwork, random, full - subnetwork, full - random, empty; columns kept, `MEASURES`, and
        rise, rise_low, rise_high: by how much the cross-entropy exceeds the full model's (nats), with its 95 % interval over
        documents (means over the draws).
    """
    randoms = [subnetwork.random_like(draw) for draw in range(draws)]
    cases = {
        "full": [Subnetwork.full(model)],
        "subnetwork": [subnetwork],
        "random": randoms,
        "full - subnetwork": [~subnetwork],
        "full - random": [~random for random in randoms],
        "empty": [Subnetwork.empty(model)],
    }
    rows: dict[str, dict[str, float]] = {}
    full = None
    for name, members in tqdm(cases.items(), desc="ablating", unit="case"):
        results = [evaluate(model, corpus, table, member, max_tokens=max_tokens) for member in members]
        full = full or results[0]
        rises = np.mean([result.rise_from(full) for result in results], axis=0).tolist()
        rise = dict(zip(("rise", "rise_low", "rise_high"), rises, strict=True))
        rows[name] = {"kept": members[0].kept} | _measures(results) | rise
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("case")


MEASURES = ("r", "r_low", "r_high", "r_clipped", "kl", "cross_entropy", "perplexity", "r_spread", "cross_entropy_spread")
"""Columns of `frontier` and `ablate`, means over the draws: r with its 95 % interval, KL and cross-entropy in nats; and half
the range over the draws of r and of the cross-entropy."""


def _measures(results: list[Evaluation]) -> dict[str, float]:
    """`MEASURES` of the evaluations of one or several subnetworks of the same size."""
    rows = [
        (result.r, *result.r_interval, result.r_clipped, result.kl, result.cross_entropy, result.perplexity)
        for result in results
    ]
    means = dict(zip(MEASURES, np.mean(rows, axis=0).tolist(), strict=False))
    spreads = {
        f"{name}_spread": float(np.ptp([getattr(result, name) for result in results]) / 2) for name in ("r", "cross_entropy")
    }
    return means | spreads
