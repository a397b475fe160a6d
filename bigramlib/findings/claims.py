"""The paper's claims as data, the check of each, and the table of those checked so far."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bigramlib.disk import written_whole
from bigramlib.store import locked

COLUMNS = ["claim", "paper", "ours", "holds"]


@dataclass(frozen=True)
class Claim:
    """One claim: its words, the paper's figure, and how measured values are shown and judged.

    Attributes:
        text: what is claimed.
        paper: the paper's figure, or where the claim comes from.
        ours: a format string over the measured values.
        holds: the judgement over the measured values.
        judged_by_interval: whether it rests on the interval low to high, so that it cannot be tested where that is unknown.
    """

    text: str
    paper: str
    ours: str
    holds: Callable[..., bool]
    judged_by_interval: bool = False


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
        "r {r:.3f} ({low:.3f} to {high:.3f}) with {density:.2%} kept",
        lambda r, density, **_: r > 0.95 and density < 0.05,
    ),
    "exists, tiny": Claim(
        "A subnetwork with r > 0.94 keeps under 1 % of maskable weights",
        "critical even when under 0.2 % of all weights",
        "r {r:.3f} ({low:.3f} to {high:.3f}) with {density:.2%} kept",
        lambda r, density, **_: r > 0.94 and density < 0.01,
    ),
    "random fails": Claim(
        "A random subnetwork of the same size in each matrix does not predict like the bigram table",
        "control far below",
        "r {random:.3f} (draws +- {spread:.3f}) against {r:.3f}",
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
        "{share:.0%} of kept weights (seeds {low:.0%} to {high:.0%}); the first MLP holds {uniform:.0%} of those searched",
        lambda share, **_: share > 0.5,
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
        "+{rise:.2f} nats ({low:.2f} to {high:.2f}) against +{random_rise:.2f} at {density:.1%} kept; "
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
    "overlap": Claim(
        "Bigram and optimally pruned subnetworks of about the same size share far more weights than by chance",
        "far above chance",
        "{contained:.0%} of the smaller one at {density:.1%} kept: {flat:.1f} times chance (p < 1e{flat_log10_p:.0f}), "
        "{rows:.1f} times shuffled rows (p about 1e{rows_log10_p:.0f})",
        lambda flat, rows, flat_log10_p, rows_log10_p, **_: min(flat, rows) > 2 and max(flat_log10_p, rows_log10_p) < -6,
    ),
    "overlap, yardstick": Claim(
        "Two masks of one target agree more than masks of the two targets: the targets differ beyond training noise",
        "not stated",
        "Jaccard {bigram:.2f} of bigram seeds, {pruned:.2f} of pruning seeds, {across:.2f} across; chance {chance:.2f}",
        lambda bigram, pruned, across, **_: min(bigram, pruned) > across,
    ),
    "turn": Claim(
        "The next token becomes readable across the first layer above all, in the full model and in the subnetwork",
        "sharp change at layer 1",
        "lens r rises most at layer {full_layer:d} (by {full:.2f}, to {r:.2f}, {low:.2f} to {high:.2f}) "
        "and at layer {layer:d} (by {bigram:.2f})",
        lambda full_layer, full, layer, bigram, **_: full_layer == layer == 1 and min(full, bigram) > 0,
    ),
    "current token fades": Claim(
        "Across the first layer the current token stops being readable through a linear map",
        "recall of the input falls at layer 1",
        "recall@1 by dot product (the release's measure) {before:.3f} to {after:.3f} ({low:.3f} to {high:.3f}), "
        "{last:.3f} at the last layer; by centred cosine {cosine_before:.3f} to {cosine_after:.3f}, {cosine_last:.3f}; "
        "without a map {direct_before:.2f} to {direct_after:.2f}",
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
    "possible early": Claim(
        "Long before the end of pretraining a subnetwork under 5 % has r > 0.95",
        "early in pretraining",
        "first at step {step:g} of {last:d}; at {size:.1%} kept, r {half:.3f} at step {half_step:d} and {end:.3f} at the end",
        lambda step, last, **_: step <= last / 2,
    ),
    "place moves": Claim(
        "The first layer's MLP takes its share early, and loses some of it to later layers as the model becomes better",
        "concentrated in the first MLP throughout",
        "{start:.0%} at step 0, {peak:.0%} at step {step:d}, {end:.0%} at the end",
        lambda start, peak, end, **_: peak > start + 0.05 and end < peak - 0.05,
    ),
    "early overlap": Claim(
        "Subnetworks of earlier checkpoints overlap the final one far beyond chance, the more the later",
        "not stated",
        "{first:.1f} times chance at step {first_step:d}, {last:.1f} times at step {last_step:d}",
        lambda first, last, rising, **_: first > 1.5 and last > first and rising,
    ),
    "induction": Claim(
        "A single head, added to the bigram subnetwork, buys induction on repeated sequences",
        "heads can be added to test sufficiency",
        "{part} buys {gain:.2f} nats ({low:.2f} to {high:.2f}) of the full model's {full:.2f}",
        lambda gain, full, **_: gain > 0.1 * full,
    ),
    "inexplicable": Claim(
        "The best single head, added to the bigram subnetwork, helps with tokens that bigrams do not explain",
        "heads can be added to test sufficiency",
        "{part} buys {gain:.2f} nats ({low:.2f} to {high:.2f}) of the full model's {full:.2f}",
        lambda low, **_: low > 0,
        judged_by_interval=True,
    ),
    "head start": Claim(
        "Whole heads and MLPs, added greedily, need far more weights to predict text as well as the bigram subnetwork does",
        "a base to build on",
        "{times:.0f} times as many weights ({parts:g} parts) for the bigram subnetwork's {bigram:.2f} nats",
        lambda times, **_: times > 5,
    ),
    "adds up": Claim(
        "Whole heads and MLPs, added greedily to the bigram subnetwork, bring it towards the full model from the first on",
        "a base to build on",
        "{bigram:.2f} nats before, {worst:.2f} at worst, after {parts:g} parts; better than before from {after:g} parts on; "
        "full model {full:.2f}",
        lambda after, **_: after == 1,
    ),
    "ten million": Claim(
        "About ten million weights suffice for r > 0.95 in models up to a billion weights, whatever their size",
        "about 10M weights",
        "{kept:.1f}M weights for r {r:.3f}",
        lambda kept, r: kept <= 15 and r > 0.95,
    ),
}


def check(folder: Path | None, key: str, **measured: Any) -> str:
    """Judge one claim by its measured values and record it in `folder`/claims.csv; with None for a folder, nowhere.

    Returns:
        "yes: <claim>" or "no: <claim>", or "not testable: <claim>" where its interval is needed and unknown (NaN); the figures
        are in the file.
    """
    claim = _known(key)
    if claim.judged_by_interval and math.isnan(measured["low"]):
        holds = "not testable"
    else:
        holds = "yes" if claim.holds(**measured) else "no"
    figures = re.sub(r"\+?nan%? to \+?nan%?", "interval unknown: too few documents", claim.ours.format(**measured))
    figures = re.sub(r"\bnan\b", "unknown", figures)
    _record(folder, claim, figures, holds)
    return f"{holds}: {claim.text}"


def untestable(folder: Path | None, key: str, reason: str) -> str:
    """Record that a claim cannot be tested on this model, and why; returns a line that says so."""
    claim = _known(key)
    _record(folder, claim, reason, "not testable")
    return f"not testable: {claim.text}"


def claims_table(folder: Path | None) -> pd.DataFrame:
    """All claims in the order of `CLAIMS`; columns claim, paper, ours, holds (yes, no, not testable or not measured)."""
    rows = _recorded(folder)
    missing = {claim.text: (claim.text, claim.paper, "", "not measured") for claim in CLAIMS.values()}
    return pd.DataFrame((missing | rows)[claim.text] for claim in CLAIMS.values()).set_axis(COLUMNS, axis=1)


def _known(key: str) -> Claim:
    if key not in CLAIMS:
        raise ValueError(f"There is no claim {key!r}; choose one of {', '.join(map(repr, CLAIMS))}.")
    return CLAIMS[key]


def _recorded(folder: Path | None) -> dict[str, tuple[str, str, str, str]]:
    """The rows of claims.csv by their claim."""
    if folder is None or not (folder / "claims.csv").exists():
        return {}
    return {row.claim: tuple(row) for row in pd.read_csv(folder / "claims.csv").itertuples(index=False)}


def _record(folder: Path | None, claim: Claim, ours: str, holds: str) -> None:
    """Add or replace a claim's row; other processes may do the same, one at a time."""
    if folder is None:
        return
    file = folder / "claims.csv"
    with locked(file):
        rows = _recorded(folder) | {claim.text: (claim.text, claim.paper, ours, holds)}
        ordered = [rows[known.text] for known in CLAIMS.values() if known.text in rows]
        with written_whole(file) as temporary:
            pd.DataFrame(ordered, columns=COLUMNS).to_csv(temporary, index=False)
