"""Notebook 04: how much worse the model predicts without its bigram subnetwork, and which tokens become harder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from bigramlib.analysis.behaviours import running_text, token_losses
from bigramlib.analysis.evaluate import NATS_PER_BIT
from bigramlib.analysis.yardsticks import rises_by_bigram_surprisal
from bigramlib.findings.claims import Claim, Verdict, check
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, RED
from bigramlib.numeric import percent
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.text.corpus import SEQUENCE_LENGTH

LEAST_RISE = 0.001
"""What the log axis of rises begins with, in nats per token; smaller rises are drawn there."""
CLAIMS = {
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
}


def rises(study: Study, subnetwork: Subnetwork, tokens: int) -> pd.DataFrame:
    """Which tokens become harder when the subnetwork, or as many random weights, are removed.

    Returns:
        What `rises_by_bigram_surprisal` returns, with a column case: "without the subnetwork" or "without random weights".
    """
    before = study.evaluate(max_tokens=tokens)
    removed = {"without the subnetwork": ~subnetwork, "without random weights": ~subnetwork.random_like(0)}
    after = {case: study.evaluate(rest, max_tokens=tokens) for case, rest in removed.items()}
    return pd.concat([rises_by_bigram_surprisal(before, found).assign(case=case) for case, found in after.items()])


def passage(study: Study, subnetwork: Subnetwork, count: int = 16) -> pd.DataFrame:
    """The surprisal of each of the first tokens of held-out text, in bits: of the table, the model, and what is left of it.

    Returns:
        One row for each token: current, next (the token that is predicted), bigram table (infinite where the bigram was never
        seen), full model, without the subnetwork, without random weights.
    """
    text = running_text(study.held_out, SEQUENCE_LENGTH)
    ids, following = text.ids[text.chosen], text.following[text.chosen]
    decode = study.model.tokenizer.decode
    table = pd.DataFrame({"current": [decode([token]) for token in ids], "next": [decode([token]) for token in following]})
    table["bigram table"] = study.table.surprisals(ids, following)
    removed = {"without the subnetwork": ~subnetwork, "without random weights": ~subnetwork.random_like(0)}
    for name, part in ({"full model": Subnetwork.full(study.model)} | removed).items():
        table[name] = token_losses(study.model, part, text) / NATS_PER_BIT
    return table[:count]


def samples(study: Study, subnetwork: Subnetwork, prompt: str, tokens: int = 50) -> dict[str, str]:
    """A prompt continued by the full model, the subnetwork alone, the model without it, and without as many random weights."""
    parts = {
        "full": Subnetwork.full(study.model),
        "subnetwork": subnetwork,
        "without it": ~subnetwork,
        "without random weights": ~subnetwork.random_like(0),
    }
    written = {}
    for name, part in parts.items():
        with part.applied(study.model):
            written[name] = study.model.sample(prompt, tokens=tokens)
    return written


def by_size(ablations: Mapping[float, pd.DataFrame], subnetworks: Mapping[float, Subnetwork]) -> dict[str, pd.DataFrame]:
    """The tables that `ablate` returned, by the share of weights that their subnetwork keeps, as a text.

    Where that is the same for two, the later one's text names its lambda too.
    """
    tables: dict[str, pd.DataFrame] = {}
    for penalty, ablation in ablations.items():
        size = f"{percent(subnetworks[penalty].density)} kept"
        tables[f"{size}, lambda {penalty:g}" if size in tables else size] = ablation
    return tables


def judge(
    folder: Path | None, subnetworks: Mapping[float, Subnetwork], ablations: Mapping[float, pd.DataFrame], lost: pd.DataFrame
) -> list[Verdict]:
    """The claims of notebook 04.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        subnetworks: by sparsity penalty, the largest subnetwork first and the smallest last.
        ablations: what `ablate` returns for each, by sparsity penalty.
        lost: what `rises` returns for the largest subnetwork.
    """
    penalties = list(subnetworks)
    large, small = penalties[0], penalties[-1]
    cost, small_cost = (ablations[penalty].loc["full - subnetwork"] for penalty in (large, small))
    measured = {
        "rise": cost.rise, "low": cost.rise_low, "high": cost.rise_high, "density": subnetworks[large].density,
        "random_rise": ablations[large].rise["full - random"],
        "small_rise": small_cost.rise, "small_random_rise": ablations[small].rise["full - random"],
        "small_density": subnetworks[small].density,
    }  # fmt: skip
    without = lost[lost.case == "without the subnetwork"].rise
    return [
        check(folder, CLAIMS["necessary"], **measured),
        check(folder, CLAIMS["likely tokens suffer"], likely=without.iloc[0], unlikely=without.iloc[-1]),
    ]


def plot_ablations(axes: Sequence[Axes], ablations: Mapping[str, pd.DataFrame]) -> None:
    """Draw the tables of `by_size`, side by side."""
    for place, (size, ablation) in zip(axes, ablations.items(), strict=True):
        plot_ablation(place, ablation)
        place.set_title(f"subnetwork with {size}")


def plot_ablation(axes: Axes, ablation: pd.DataFrame) -> None:
    """Draw by how much the cross-entropy of each case of `ablate` exceeds the full model's, on a log axis, with intervals."""
    cases = ablation.drop(index="full").iloc[::-1]
    rises = cases[["rise", "rise_low", "rise_high"]].clip(lower=LEAST_RISE)
    for position, (case, row) in enumerate(rises.iterrows()):
        colour = RED if "random" in case else BLUE
        axes.plot([row.rise_low, row.rise_high], [position, position], color=colour)
        axes.plot(row.rise, position, "o", color=colour)
        words = f"{cases.rise[case]:+.2f}   r {cases.r[case]:.2f}"
        axes.annotate(words, (row.rise, position), xytext=(0, 6), textcoords="offset points", ha="center", fontsize="small")
    axes.set_yticks(range(len(cases)), list(cases.index))
    axes.set(xscale="log", xlabel="rise in held-out cross-entropy (nats per token)")
    axes.set(xlim=(LEAST_RISE / 2, 5 * rises.max().max()), ylim=(-0.5, len(cases) - 0.2))


def plot_rises(axes: Axes, rises: pd.DataFrame) -> None:
    """Draw what `rises` returns: the rise in surprisal (bits) of tokens grouped by their bigram surprisal."""
    for (case, line), colour in zip(rises.groupby("case", sort=False), (BLUE, RED), strict=False):
        axes.errorbar(line.bigram_surprisal, line.rise, line.error, fmt="o-", color=colour, label=case)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="bigram surprisal of the token (bits; right: never seen)", ylabel="rise in the model's surprisal (bits)")
    axes.legend(frameon=False)
