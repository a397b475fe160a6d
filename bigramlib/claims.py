"""The paper's claims as data, the check of each, and the table of those checked so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bigramlib.store import written_whole

COLUMNS = ["claim", "paper", "ours", "holds"]


@dataclass(frozen=True)
class Claim:
    """One claim: its words, the paper's figure, and how measured values are shown and judged.

    Attributes:
        text: what is claimed.
        paper: the paper's figure, or where the claim comes from.
        ours: a format string over the measured values.
        holds: the judgement over the measured values.
    """

    text: str
    paper: str
    ours: str
    holds: Callable[..., bool]


CLAIMS: dict[str, Claim] = {
    "language model": Claim(
        "The model is a language model, not a bigram table: its held-out cross-entropy is clearly lower",
        "assumed",
        "{model:.2f} nats; bigram table, interpolated, {bigram:.2f}; unigram {unigram:.2f}",
        lambda model, bigram, unigram: model < bigram - 0.3 and bigram < unigram,
    ),
    "model is not bigram": Claim(
        "The full model's surprisals follow the bigram table only loosely",
        "r well below the subnetworks'",
        "r {r:.3f}",
        lambda r: r < 0.9,
    ),
    "early bigram": Claim(
        "Early in pretraining the full model is most bigram-like, later less",
        "bigram-like early in pretraining",
        "r {peak:.3f} at step {step:d}, {last:.3f} at the end",
        lambda peak, step, last: peak > last + 0.02,
    ),
    "exists": Claim(
        "A subnetwork predicts like the bigram table with few weights (r > 0.95, under 5 % of maskable weights)",
        "r > 0.95 with about 10M weights",
        "r {r:.3f} with {density:.2%} kept",
        lambda r, density: r > 0.95 and density < 0.05,
    ),
    "exists, tiny": Claim(
        "A subnetwork with r > 0.94 keeps under 1 % of maskable weights",
        "critical even when under 0.2 % of all weights",
        "r {r:.3f} with {density:.2%} kept",
        lambda r, density: r > 0.94 and density < 0.01,
    ),
    "random fails": Claim(
        "A random subnetwork of the same size in each matrix does not predict like the bigram table",
        "control far below",
        "r {random:.3f} (five draws +- {spread:.3f}) against {r:.3f}",
        lambda r, random, spread: random + spread < r - 0.1,
    ),
    "empty fails": Claim(
        "Neither do embeddings and unembedding alone (the empty subnetwork)",
        "control far below",
        "r {empty:.3f} against {r:.3f}",
        lambda r, empty: empty < r - 0.1,
    ),
    "training matters": Claim(
        "In randomly initialised models no subnetwork found, of whatever size, gets as far",
        "control below",
        "best r {random:.3f}; with trained embeddings {embeddings:.3f}; against {r:.3f}",
        lambda r, random, embeddings: max(random, embeddings) < r - 0.005,
    ),
    "first mlp": Claim(
        "The smallest subnetwork with r > 0.95 lies mostly in the first layer's MLP",
        "concentrated in the first MLP",
        "{share:.0%} of kept weights (the first MLP holds {uniform:.0%} of maskable ones)",
        lambda share, uniform: share > 0.5,
    ),
    "first mlp, every size": Claim(
        "At every size the first layer's MLP holds far more than its share, the more the smaller the subnetwork",
        "concentrated in the first MLP",
        "{least:.0%} at least, {smallest:.0%} in the smallest ({uniform:.0%} of maskable weights)",
        lambda least, smallest, uniform: least > 1.5 * uniform and smallest > least + 0.1,
    ),
    "few dimensions": Claim(
        "Kept weights of the first MLP are gathered in some of its dimensions",
        "not stated",
        "Gini {gini:.2f}; random weights {random:.2f}",
        lambda gini, random: gini > random + 0.1,
    ),
    "necessary": Claim(
        "Removing the subnetwork wrecks the model; removing a random one of the same size does little",
        "perplexity explodes; little change",
        "+{rise:.2f} nats against +{random_rise:.2f} at {density:.1%} kept; "
        "+{small_rise:.2f} against +{small_random_rise:.2f} at {small_density:.1%}",
        lambda rise, random_rise, small_rise, small_random_rise, **_: (
            rise > 1.0 and random_rise < rise / 10 and small_random_rise < small_rise / 10
        ),
    ),
    "likely tokens suffer": Claim(
        "Without the subnetwork, tokens that the bigram table predicts well lose most",
        "not stated",
        "{likely:+.2f} bits for the likeliest group, {unlikely:+.2f} for bigrams never seen",
        lambda likely, unlikely: likely > unlikely,
    ),
    "turn": Claim(
        "The next token becomes readable across the first layer above all, in the full model and in the subnetwork",
        "sharp change at layer 1",
        "lens r rises most at layer {full_layer:d} (by {full:.2f}) and at layer {layer:d} (by {bigram:.2f})",
        lambda full_layer, layer, **_: full_layer == layer == 1,
    ),
    "current token fades": Claim(
        "Across the first layer the current token stops being readable through a linear map",
        "recall of the input falls at layer 1",
        "recall@1 {before:.2f} to {after:.2f}; without a map {direct_before:.2f} to {direct_after:.2f}",
        lambda before, after, **_: after < before - 0.2,
    ),
    "no turn in random weights": Claim(
        "A random subnetwork of the same size shows none: its layers' covariances are all alike",
        "everything similar",
        "lowest similarity {random:.2f}; bigram subnetwork {bigram:.2f}",
        lambda random, bigram: random > 0.8 and bigram < random - 0.3,
    ),
    "embeddings apart": Claim(
        "The embeddings' covariance is unlike that of every later layer, which are alike from one to the next",
        "layer 0 unlike all later ones",
        "embeddings to later layers at most {first:.2f}; later neighbours at least {later:.2f}",
        lambda first, later: first < later,
    ),
}


def check(folder: Path, key: str, **measured: float) -> str:
    """Judge one claim by its measured values and record it in `folder`/claims.csv.

    Returns:
        "yes: <claim>" or "no: <claim>"; the figures are in the file.
    """
    claim = CLAIMS[key]
    holds = "yes" if claim.holds(**measured) else "no"
    _record(folder, claim, claim.ours.format(**measured), holds)
    return f"{holds}: {claim.text}"


def untestable(folder: Path, key: str, reason: str) -> str:
    """Record that a claim cannot be tested on this model, and why."""
    _record(folder, CLAIMS[key], reason, "untestable")
    return f"untestable: {CLAIMS[key].text} ({reason})"


def claims_table(folder: Path) -> pd.DataFrame:
    """The claims checked so far, in the order of `CLAIMS`; columns claim, paper, ours, holds."""
    file = folder / "claims.csv"
    return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=COLUMNS)


def _record(folder: Path, claim: Claim, ours: str, holds: str) -> None:
    rows = {row.claim: row for row in claims_table(folder).itertuples(index=False)}
    rows[claim.text] = (claim.text, claim.paper, ours, holds)
    ordered = [rows[known.text] for known in CLAIMS.values() if known.text in rows]
    with written_whole(folder / "claims.csv") as temporary:
        pd.DataFrame(ordered, columns=COLUMNS).to_csv(temporary, index=False)
