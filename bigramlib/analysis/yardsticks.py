"""The bigram table as a yardstick: how well it predicts text by itself, and which of its tokens a model predicts worse."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bigramlib.analysis.evaluate import MAX_TOKENS, Evaluation, windows_with_next_tokens
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import TokenCorpus


def table_cross_entropies(table: BigramTable, corpus: TokenCorpus, *, max_tokens: int | None = MAX_TOKENS) -> dict[str, float]:
    """How well counts alone predict running text, without any model, in nats per token: what a model is compared with.

    The bigram table gives never-seen bigrams no probability, so it is mixed with the unigram table. The mixing weight is the
    best on these very tokens, which favours the table. In the unigram table every token counts once more than it was seen.

    Returns:
        "bigram": cross-entropy of the mixed table; "unigram": of the unigram table; "seen": the share of tokens whose bigram
        was seen in training.

    Raises:
        ValueError: no token has a next one in its document.
    """
    current, following, valid = windows_with_next_tokens(corpus, max_tokens=max_tokens)
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


def rises_by_bigram_surprisal(before: Evaluation, after: Evaluation, bins: int = 8) -> pd.DataFrame:
    """How much more surprising tokens became from one evaluation to another, grouped by their bigram surprisal (all in bits).

    Args:
        before: an evaluation.
        after: another of the same model's parts on the same tokens.
        bins: groups of equally many tokens whose bigram was seen. Tokens whose bigram was never seen are one more group.

    Returns:
        One row for each group: bigram_surprisal (its mean; of the never-seen group, which has none, 2 more than the largest
        other mean, as its place in a figure), rise (mean), error (standard error of the rise), tokens.
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
