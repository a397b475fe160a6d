"""Notebook 12: what instruction tuning does to the bigram subnetwork, and whether the same parts matter before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bigramlib.analysis.overlap import overlap_test
from bigramlib.findings.answers_after_tuning import by_part, same_parts
from bigramlib.findings.claims import BOTH, Claim, Verdict, check, untestable
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, ORANGE, RED
from bigramlib.instruction.pairs import FEW_SHOT, TUNED
from bigramlib.instruction.tuning import TuneConfig
from bigramlib.models.language_model import LanguageModel
from bigramlib.subnetworks.subnetwork import Subnetwork

CLAIMS = {
    "subnetwork after tuning": Claim(
        "A subnetwork of the tuned model predicts like the bigram table as well as the base's",
        "not stated",
        "r {tuned:.3f} at {tuned_density:.2%} kept, the base's {base:.3f} at {base_density:.2%} ({seeds})",
        lambda tuned, base, **_: abs(tuned - base) <= 0.02,
        source=BOTH,
    ),
    "transplanted": Claim(
        "The base's subnetwork still works with the tuned weights",
        "not stated",
        "r {moved:.3f} ({low:.3f} to {high:.3f}) with the tuned weights, {own:.3f} with its own",
        lambda moved, own, **_: moved >= own - 0.05,
        source=BOTH,
    ),
    "moved like a seed": Claim(
        "Tuning moves the subnetwork no further than another seed does",
        "not stated",
        "Jaccard {across:.2f} of base and tuned with other seeds, {seeds:.2f} of two seeds of the base; chance {chance:.3f}",
        lambda across, seeds, **_: across >= seeds - 0.05,
        source=BOTH,
    ),
    "tuning is blind": Claim(
        "Tuning neither seeks nor spares the base's subnetwork",
        "not stated",
        "{inside:.2%} of the squared change of the weights lies in it, {random:.2%} in random weights: {ratio:.2f} times",
        lambda ratio, **_: 0.8 <= ratio <= 1.25,
        source=BOTH,
    ),
    "stays necessary": Claim(
        "The base's subnetwork stays necessary after tuning",
        "not stated",
        "its removal costs the tuned model {tuned:.2f} nats ({low:.2f} to {high:.2f}), random weights {random:.3f}; "
        "the base {base:.2f} and {base_random:.3f}",
        lambda tuned, random, base, **_: tuned >= base and tuned > 10 * random,
        source=BOTH,
    ),
    "same parts": Claim(
        "The same parts matter for learning in context and for following instructions",
        "not stated",
        "rho {rho:.2f} over {parts} heads and MLPs (p {p:.3g}); part x task r {interaction:.2f} (p {interaction_p:.3g}), "
        "{tasks} tasks",
        lambda rho, p, **_: rho >= 0.5 and p < 0.05,
        source=BOTH,
    ),
    "first MLP costs most": Claim(
        "Of all heads and MLPs, the first MLP costs most in context and after tuning",
        "not stated",
        "in context {in_context} costs {in_context_drop:.2f}, after tuning {tuned} {tuned_drop:.2f}",
        lambda in_context, tuned, **_: in_context == tuned == "mlp 0",
        source=BOTH,
    ),
}

SUBNETWORK, RANDOM, ACROSS = "the base's subnetwork", "random weights", "base and tuned, other seeds"


def gentle(model: LanguageModel, steps: int, learning_rate: float) -> TuneConfig:
    """Settings that teach a model its tasks and leave most of its knowledge of text, by changes of low rank alone."""
    return replace(TuneConfig.suited(model), steps=steps, learning_rate=learning_rate, rank=8, alpha=8.0)


def find_all(
    studies: Mapping[str, Study], penalty: float, seeds: Mapping[str, Iterable[int]]
) -> dict[tuple[str, int], Subnetwork]:
    """The bigram subnetworks for one penalty and the seeds of each study, by (name of the study, seed)."""
    return {(name, seed): studies[name].find(penalty, seed) for name in seeds for seed in seeds[name]}


def sizes(studies: Mapping[str, Study], found: Mapping[tuple[str, int], Subnetwork], max_tokens: int) -> pd.DataFrame:
    """How much each subnetwork keeps and how well it predicts.

    Args:
        studies: by the first part of the keys of `found`.
        found: subnetworks by (name of the study, seed).
        max_tokens: how much held-out text.

    Returns:
        A row for each: model, seed, kept, density, first_mlp (share of the kept weights), r with its 95 % interval r_low to
        r_high, kl (nats per token).
    """
    rows = []
    for (name, seed), subnetwork in found.items():
        measured = studies[name].evaluate(subnetwork, max_tokens=max_tokens)
        low, high = measured.r_interval
        facts = {"kept": subnetwork.kept, "density": subnetwork.density, "first_mlp": subnetwork.first_mlp_share()}
        more = {"r": measured.r, "r_low": low, "r_high": high, "kl": measured.kl}
        rows.append({"model": name, "seed": seed} | facts | more)
    return pd.DataFrame(rows)


def overlaps(found: Mapping[tuple[str, int], Subnetwork], sized: Mapping[tuple[str, int], Subnetwork]) -> pd.DataFrame:
    """How far subnetworks agree: two seeds of one model, base and tuned with the same seed (the same batches) and with others.

    Args:
        found: subnetworks of "base" and "tuned", by (model, seed).
        sized: subnetworks of "tuned" that keep about as many weights as the base's.

    Returns:
        A row for each kind of pair, means over its pairs: pair, jaccard, contained (share of the smaller one that the larger
        one keeps too), chance (the Jaccard similarity of masks that keep as many weights of each matrix anywhere in it), and
        largest (the highest that the two sizes allow).
    """
    base, tuned = ({key: mask for key, mask in found.items() if key[0] == name} for name in ("base", "tuned"))
    pairs = {
        "two seeds of the base": combinations(base.items(), 2),
        "two seeds of the tuned model": combinations(tuned.items(), 2),
        "base and tuned, same seed": product(base.items(), tuned.items()),
        ACROSS: product(base.items(), tuned.items()),
        "base and tuned, other seeds, equal size": product(base.items(), sized.items()),
    }
    rows = []
    for kind, members in pairs.items():
        same = kind.endswith("same seed")
        if compared := [_overlap(one, other) for (a, one), (b, other) in members if (a[1] == b[1]) == same]:
            rows.append({"pair": kind} | pd.DataFrame(compared).mean().to_dict())
    return pd.DataFrame(rows)


def _overlap(a: Subnetwork, b: Subnetwork) -> dict[str, float]:
    row = overlap_test(a, b).iloc[-1]
    kept = row.kept_a + row.kept_b
    return {
        "jaccard": row.jaccard,
        "contained": row.contained,
        "chance": row.flat_expected / (kept - row.flat_expected),
        "largest": min(row.kept_a, row.kept_b) / max(row.kept_a, row.kept_b),
    }


def transplants(studies: Mapping[str, Study], found: Mapping[str, Subnetwork], max_tokens: int) -> pd.DataFrame:
    """Each model's subnetwork with its own weights and with the other's.

    Args:
        studies: "base" and "tuned".
        found: one subnetwork of each.
        max_tokens: how much held-out text.

    Returns:
        A row for each of the four: mask, weights (whose), r with its 95 % interval r_low to r_high, kl (nats per token).
    """
    rows = []
    for mask, subnetwork in found.items():
        for weights, study in studies.items():
            placed = subnetwork if weights == mask else subnetwork.transplanted(study.model)
            measured = study.evaluate(placed, max_tokens=max_tokens)
            low, high = measured.r_interval
            rows.append({"mask": mask, "weights": weights, "r": measured.r, "r_low": low, "r_high": high, "kl": measured.kl})
    return pd.DataFrame(rows)


def change_inside(base: LanguageModel, tuned: LanguageModel, subnetwork: Subnetwork, draws: int) -> dict[str, float]:
    """Which share of the squared change of the maskable weights lies in a subnetwork.

    Returns:
        inside (the share), random (the same in random weights, as many of each matrix; mean over draws), spread (half the
        range over draws), ratio (inside / random).
    """
    before, after = base.maskable, tuned.maskable
    squared = {name: ((after[name] - before[name]).double() ** 2).cpu() for name in before}
    total = sum(float(change.sum()) for change in squared.values())

    def share(mask: Subnetwork) -> float:
        return sum(float(change[mask.masks[name]].sum()) for name, change in squared.items()) / total

    inside, random = share(subnetwork), np.array([share(subnetwork.random_like(draw)) for draw in range(draws)])
    return {"inside": inside, "random": random.mean(), "spread": float(np.ptp(random) / 2), "ratio": inside / random.mean()}


def removals(studies: Mapping[str, Study], subnetwork: Subnetwork, draws: int, max_tokens: int) -> pd.DataFrame:
    """What removing the base's subnetwork, or as many random weights, costs each model.

    Returns:
        A row for each: model, removed (`SUBNETWORK` or `RANDOM`), rise with its 95 % interval rise_low to
        rise_high, nats per token, and tokens (how many were measured).
    """
    cases = {"full - subnetwork": SUBNETWORK, "full - random": RANDOM}
    rows = []
    for name, study in studies.items():
        placed = subnetwork if name == "base" else subnetwork.transplanted(study.model)
        table = study.ablate(placed, draws=draws, cases=cases, max_tokens=max_tokens)
        costs = table[["rise", "rise_low", "rise_high", "tokens"]]
        rows += [{"model": name, "removed": removed} | costs.loc[case].to_dict() for case, removed in cases.items()]
    return pd.DataFrame(rows)


# -- verdicts and pictures --------------------------------------------------------------------------------------------


def judge(
    folder: Path | None,
    sized: pd.DataFrame,
    agreed: pd.DataFrame,
    moved: pd.DataFrame,
    changed: Mapping[str, float],
    removed: pd.DataFrame,
) -> list[Verdict]:
    """The claims of notebook 12 about subnetworks.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        sized: what `sizes` returns, for subnetworks of "base" and "tuned" of one penalty.
        agreed: what `overlaps` returns.
        moved: what `transplants` returns.
        changed: what `change_inside` returns.
        removed: what `removals` returns.
    """
    common = sized[sized.groupby("seed").model.transform("size") == sized.model.nunique()]
    mean = common.groupby("model")[["r", "density"]].mean()
    base, tuned = mean.loc["base"], mean.loc["tuned"]
    own, other = (moved[(moved["mask"] == "base") & (moved.weights == name)].iloc[0] for name in ("base", "tuned"))
    pairs = agreed.set_index("pair")
    costs = removed.set_index(["model", "removed"])
    cost, random = costs.loc["tuned", SUBNETWORK], costs.loc["tuned", RANDOM]
    count = common.seed.nunique()
    densities = {"tuned_density": tuned.density, "base_density": base.density}
    seeds = f"means of {count} seeds" if count > 1 else "one seed"
    return [
        check(folder, CLAIMS["subnetwork after tuning"], tuned=tuned.r, base=base.r, seeds=seeds, **densities),
        check(folder, CLAIMS["transplanted"], moved=other.r, low=other.r_low, high=other.r_high, own=own.r),
        _judged_by_seeds(folder, pairs),
        check(folder, CLAIMS["tuning is blind"], **{name: changed[name] for name in ("inside", "random", "ratio")}),
        check(folder, CLAIMS["stays necessary"], tuned=cost.rise, low=cost.rise_low, high=cost.rise_high, random=random.rise,
              base=costs.rise["base", SUBNETWORK], base_random=costs.rise["base", RANDOM]),
    ]  # fmt: skip


def _judged_by_seeds(folder: Path | None, pairs: pd.DataFrame) -> Verdict:
    if not {"two seeds of the base", ACROSS} <= set(pairs.index):
        return untestable(folder, CLAIMS["moved like a seed"], "a single seed: nothing to compare with")
    across, seeds = pairs.loc[ACROSS], pairs.loc["two seeds of the base"]
    return check(folder, CLAIMS["moved like a seed"], across=across.jaccard, seeds=seeds.jaccard, chance=across.chance)


def judge_parts(folder: Path | None, dropped: pd.DataFrame) -> list[Verdict]:
    """The claims of notebook 12 about heads and MLPs.

    Args:
        folder: where the claims about that model are recorded; None records them nowhere.
        dropped: what `drops` returns.
    """
    claims = [CLAIMS[name] for name in ("same parts", "first MLP costs most")]
    if dropped.empty:
        return [untestable(folder, claim, "no task is answered both in context and after tuning") for claim in claims]
    means = by_part(dropped)
    most = {"in_context": means[FEW_SHOT].idxmax(), "in_context_drop": means[FEW_SHOT].max()}
    most |= {"tuned": means[TUNED].idxmax(), "tuned_drop": means[TUNED].max()}
    return [check(folder, claims[0], **same_parts(dropped)), check(folder, claims[1], **most)]


def plot_overlaps(axes: Axes, agreed: pd.DataFrame) -> None:
    """Draw the Jaccard similarities of `overlaps`, with chance as a line on each bar."""
    rows = agreed.iloc[::-1]
    axes.barh(rows.pair, rows.jaccard, color=[BLUE if pair.startswith("two seeds") else ORANGE for pair in rows.pair])
    for place, (value, chance) in enumerate(zip(rows.jaccard, rows.chance, strict=True)):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize="small")
        axes.plot([chance, chance], [place - 0.4, place + 0.4], color=RED, linewidth=2)
    last = rows.chance.iloc[0]
    axes.text(last + 0.01, -0.62, f"chance {last:.3f}", color=RED, fontsize="small", va="center")
    axes.set(xlim=(0, 1), ylim=(-0.9, len(rows) - 0.4), xlabel="Jaccard similarity of the kept weights")
    axes.set_title("How much do two masks agree?")


def plot_removals(axes: Axes, removed: pd.DataFrame) -> None:
    """Draw what removing the base's subnetwork or random weights costs each model, with 95 % intervals."""
    models = list(dict.fromkeys(removed.model))
    for shift, (case, colour) in zip((-0.2, 0.2), ((SUBNETWORK, BLUE), (RANDOM, RED)), strict=True):
        rows = removed[removed.removed == case].set_index("model").loc[models]
        places = np.arange(len(models)) + shift
        errors = np.abs(rows[["rise_low", "rise_high"]].to_numpy().T - rows.rise.to_numpy())
        axes.bar(places, rows.rise, 0.38, yerr=errors, color=colour, label=case)
        for place, value, high in zip(places, rows.rise, rows.rise_high.fillna(rows.rise), strict=True):
            axes.annotate(f"+{value:.2f}", (place, max(value, high)), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(models)), models)
    axes.set(ylabel="rise in held-out cross-entropy\n(nats per token)", title="The cost of a removal, before and after tuning")
    axes.margins(y=0.12)
    axes.legend(frameon=False, title="removed", loc="upper left", bbox_to_anchor=(1, 1))
