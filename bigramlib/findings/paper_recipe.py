"""Notebook 16: is what the short schedule finds the subnetwork that the paper's own recipe finds?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bigramlib.analysis.overlap import jaccard
from bigramlib.findings.claims import Claim, Verdict, check
from bigramlib.findings.first_layer_turn import lens_reports, steepest
from bigramlib.findings.necessary import rises
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, ORANGE
from bigramlib.numeric import Number
from bigramlib.subnetworks.places import layer_shares
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.search import find_subnetwork

COMPARED = ("subnetwork", "full - subnetwork", "full - random")
"""What of an ablation is compared."""
SHORT, PAPER = "short schedule", "paper's recipe"
COLOURS = {SHORT: BLUE, PAPER: ORANGE}
Families = Mapping[str, Sequence[Subnetwork]]
"""Subnetworks of several seeds, about equally large: those of the short schedule (`SHORT`) and of the paper's (`PAPER`)."""


def _never_below(values: Sequence[float], others: Sequence[float], share: float = 1.0) -> bool:
    """Whether each value is at least this share of the other one of its lambda."""
    return all(value >= share * other for value, other in zip(values, others, strict=True))


CLAIMS = {
    "same place": Claim(
        "The short schedule puts its weights where the paper's recipe does (90 % of them by layer and kind of matrix)",
        "the recipe of its release",
        "lambda {penalties:g}: {common:.0%} placed alike; in the first MLP {short:.0%}, the paper's {paper:.0%}",
        lambda common, **_: min(common) >= 0.9,
    ),
    "same weights": Claim(
        "The two agree on the weights themselves as well as two seeds of the paper's recipe do",
        "the recipe of its release",
        "lambda {penalties:g}: Jaccard {across:.2f} of the two; {paper:.2f} of two seeds of the paper's, {short:.2f} of the "
        "short one; chance {chance:.3f}",
        lambda across, paper, **_: _never_below(across, paper, share=0.9),
    ),
    "as good": Claim(
        "At the same size it predicts like the bigram table as well as the paper's (r within 0.002)",
        "the recipe of its release",
        "lambda {penalties:g}: r {short:.4f} with {short_density:.2%} kept, the paper's {paper:.4f} with {paper_density:.2%}",
        lambda short, paper, **_: _never_below([r + 0.002 for r in short], paper),
    ),
    "as necessary": Claim(
        "The model needs what the short schedule finds as much as what the paper's recipe finds",
        "the recipe of its release",
        "lambda {penalties:g}: removing it costs {short:.3f} nats, the paper's {paper:.3f}, random weights {random:.3f}",
        lambda short, paper, **_: _never_below(short, paper, share=0.9),
    ),
    "same turn": Claim(
        "The next token becomes readable across the same layer in both",
        "the recipe of its release",
        "lambda {penalty:g}: r of a linear lens rises most at layer {short} (by {short_rise:.3f}), in the paper's at layer "
        "{paper} (by {paper_rise:.3f})",
        lambda short, paper, **_: short == paper,
    ),
}


def paper_config(penalty: Number, sequences: int, seed: int = 0) -> SparsifyConfig:
    """The paper's recipe with another number of sequences of 128 tokens a step (32 in the paper), tried once."""
    return replace(SparsifyConfig.paper(penalty, seed), batch_size=sequences, attempts=1)


def find_both(study: Study, penalties: Mapping[str, Number], sequences: int, seeds: Sequence[int]) -> Families:
    """The subnetworks of both, by seed, found or read from the store.

    Args:
        study: the model, its text and its bigram table.
        penalties: lambda of `SHORT` and of `PAPER`.
        sequences: as in `paper_config`.
        seeds: of the searches.
    """
    configs = [paper_config(penalties[PAPER], sequences, seed) for seed in seeds]
    paper = [find_subnetwork(study.model, study.table, study.train, config) for config in configs]
    return {SHORT: [study.find(penalties[SHORT], seed) for seed in seeds], PAPER: paper}


def compare(study: Study, families: Families, draws: int) -> pd.DataFrame:
    """How large, good and necessary each subnetwork is.

    Returns:
        One row for each: schedule, sparsity_penalty (lambda), seed, kept (weights), density, first_mlp_share, r, kl and
        cross_entropy (nats per token), rise and random_rise (nats per token that removing it, or as many random weights, costs
        the full model), tokens (how many were measured), steps and read_tokens of the search.
    """
    rows = []
    for schedule, members in families.items():
        for found in members:
            ablation = study.ablate(found, draws=draws, cases=COMPARED)
            config, steps = found.provenance["config"], found.provenance["steps"]
            read = steps * config["batch_size"] * config["sequence_length"]
            rows.append({
                "schedule": schedule, "sparsity_penalty": config["sparsity_penalty"], "seed": config["seed"],
                "kept": found.kept, "density": found.density, "first_mlp_share": found.first_mlp_share(),
                **ablation.loc["subnetwork", ["r", "kl", "cross_entropy"]],
                "rise": ablation.rise["full - subnetwork"], "random_rise": ablation.rise["full - random"],
                "tokens": ablation.tokens["subnetwork"], "steps": steps, "read_tokens": read,
            })  # fmt: skip
    return pd.DataFrame(rows)


def agreement(families: Families) -> pd.Series:
    """Mean Jaccard similarities of two seeds of one schedule, of the two schedules, and with a random mask."""
    pairs = {f"two seeds, {schedule}": list(combinations(members, 2)) for schedule, members in families.items()}
    pairs["short schedule and paper's recipe"] = list(product(families[SHORT], families[PAPER]))
    pairs["paper's recipe and random weights"] = [(found, found.random_like(0)) for found in families[PAPER]]
    return pd.Series({name: np.mean([jaccard(*pair) for pair in members]) for name, members in pairs.items()})


def places(families: Families) -> pd.DataFrame:
    """The share of the kept weights in the attention and the MLP of each layer, means over seeds: one column a schedule."""
    shares = {
        schedule: layer_shares(found.table() for found in members).groupby(["layer", "kind"]).share.mean()
        for schedule, members in families.items()
    }
    return pd.DataFrame(shares)


def losses_by_token(study: Study, families: Families, tokens: int) -> pd.DataFrame:
    """Which tokens become harder without the first subnetwork of each schedule: `rises`, with a column schedule."""
    found = [rises(study, members[0], tokens).assign(schedule=schedule) for schedule, members in families.items()]
    table = pd.concat(found, ignore_index=True)
    return table[table.case == "without the subnetwork"].drop(columns="case")


def turns(study: Study, families: Families, moment_tokens: int, lens_tokens: int) -> pd.DataFrame:
    """What linear lenses read at each layer boundary of the first subnetwork of each schedule: `lens_reports`."""
    first = {schedule: study.moments(members[0], max_tokens=moment_tokens) for schedule, members in families.items()}
    return lens_reports(study, first, lens_tokens)


def judge(
    folder: Path | None, table: pd.DataFrame, agreed: pd.DataFrame, placed: Mapping[Number, pd.DataFrame], turned: pd.DataFrame
) -> list[Verdict]:
    """The claims of notebook 16, each at every lambda but the last, which is about the first lambda.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        table: what `compare` returns for each lambda of the paper's recipe, with that lambda as the column penalty.
        agreed: what `agreement` returns, one column for each such lambda.
        placed: what `places` returns, for each such lambda.
        turned: what `turns` returns for the first of them.
    """
    penalties = list(agreed)
    means = table.groupby(["schedule", "penalty"]).mean(numeric_only=True)

    def both(column: str) -> dict[str, list[float]]:
        return {"short": list(means.loc[SHORT, column]), "paper": list(means.loc[PAPER, column])}

    common = [float(placed[penalty].min(axis=1).sum()) for penalty in penalties]
    sizes = {f"{schedule}_density": values for schedule, values in both("density").items()}
    seeds = {name: list(row) for name, row in zip(("short", "paper", "across", "chance"), agreed.to_numpy(), strict=True)}
    layers, most = steepest(turned)
    turn = {"short": layers[SHORT], "short_rise": most[SHORT], "paper": layers[PAPER], "paper_rise": most[PAPER]}
    return [
        check(folder, CLAIMS["same place"], penalties=penalties, common=common, **both("first_mlp_share")),
        check(folder, CLAIMS["same weights"], penalties=penalties, **seeds),
        check(folder, CLAIMS["as good"], penalties=penalties, **both("r"), **sizes),
        check(
            folder, CLAIMS["as necessary"], penalties=penalties, **both("rise"), random=list(means.loc[SHORT, "random_rise"])
        ),
        check(folder, CLAIMS["same turn"], penalty=penalties[0], **turn),
    ]


def plot_places(axes: Axes, placed: pd.DataFrame) -> None:
    """Draw what `places` returns, one bar for each schedule."""
    named = placed.set_axis([f"{kind} {layer}" for layer, kind in placed.index], axis="index")
    long = named.melt(ignore_index=False, var_name="schedule", value_name="share").reset_index(names="place")
    sns.barplot(long, x="place", y="share", hue="schedule", palette=COLOURS, ax=axes)
    axes.set(xlabel="layer", ylabel="share of the kept weights", title="Where they lie")
    axes.tick_params(axis="x", rotation=45)
    axes.legend(frameon=False, fontsize="small")


def plot_losses(axes: Axes, losses: pd.DataFrame) -> None:
    """Draw what `losses_by_token` returns: the rise in surprisal of tokens, grouped by their bigram surprisal."""
    for schedule, line in losses.groupby("schedule", sort=False):
        label = f"without that of the {schedule}"
        axes.errorbar(line.bigram_surprisal, line.rise, line.error, fmt="o-", color=COLOURS[str(schedule)], label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="bigram surprisal of the token (bits; right: never seen)", ylabel="rise in the model's surprisal (bits)")
    axes.set(title="What the model loses without it")
    axes.legend(frameon=False, fontsize="small")


def plot_turns(axes: Axes, turned: pd.DataFrame) -> None:
    """Draw what `turns` returns: how well a linear lens reads the next token at each layer boundary."""
    for schedule, line in turned.groupby("model", sort=False):
        axes.plot(line.layer, line.r, "o-", color=COLOURS[str(schedule)], label=schedule)
    axes.set(xlabel="layer boundary (0: embeddings)", ylabel="r of the lens with the own output")
    axes.set(title="When the next token becomes readable")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize="small")
