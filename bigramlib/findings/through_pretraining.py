"""Notebook 07: how bigram subnetworks develop through pretraining, with new searches in its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bigramlib.analysis.evaluate import MAX_TOKENS
from bigramlib.analysis.overlap import overlap_test
from bigramlib.findings.claims import Claim, Verdict, check, untestable
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, GREY, ORANGE, PAPER_R, pretraining_axis
from bigramlib.progress import tqdm

CLAIMS = {
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
}


def searched_steps(steps: Iterable[int], every: int) -> list[int]:
    """Of the steps of checkpoints every first, second or so on, as `every` says, from the first on, and the last one."""
    known = sorted(steps)
    return sorted({*known[::every], known[-1]})


def through_pretraining(
    study: Study, penalties: Sequence[float], every: int = 1, *, max_tokens: int | None = MAX_TOKENS
) -> pd.DataFrame:
    """Find subnetworks in checkpoints, evaluate them, and compare each with the one of the last checkpoint.

    Args:
        study: the model, its text and its bigram table.
        penalties: the sparsity penalties; there is one search for each.
        every: which checkpoints (`searched_steps`); 1 for all.
        max_tokens: as in `evaluate`.

    Returns:
        One row for each checkpoint and penalty: step, sparsity_penalty, kept, density, r with its 95 % interval r_low and
        r_high, tokens (how many were measured), full_r (of the full model), first_mlp_share, contained (the overlap with the
        final subnetwork as a share of the smaller of the two) and times_chance (this overlap divided by the flat expectation).
    """
    known = study.checkpoints()
    checkpoints = {step: known[step] for step in searched_steps(known, every)}
    final = {penalty: checkpoints[max(checkpoints)].find(penalty) for penalty in penalties}
    rows = []
    for step, checkpoint in tqdm(checkpoints.items(), desc="checkpoints", unit="checkpoint"):
        full = checkpoint.evaluate(max_tokens=max_tokens)
        for penalty in penalties:
            found = checkpoint.find(penalty)
            measured = checkpoint.evaluate(found, max_tokens=max_tokens)
            total = overlap_test(found, final[penalty]).iloc[-1]
            low, high = measured.r_interval
            rows.append({
                "step": step, "sparsity_penalty": penalty, "kept": found.kept, "density": found.density,
                "r": measured.r, "r_low": low, "r_high": high, "tokens": measured.tokens, "full_r": full.r,
                "first_mlp_share": found.first_mlp_share(),
                "contained": total.contained, "times_chance": total.overlap / total.flat_expected,
            })  # fmt: skip
    return pd.DataFrame(rows)


def r_at_size(points: pd.DataFrame, density: float) -> pd.Series:
    """Interpolate r at one density for each step of `through_pretraining`, linearly in the logarithm of the density.

    Outside the range of densities, the r of the nearest subnetwork is taken. Subnetworks without an r (NaN) are left out.
    """

    def interpolated(found: pd.DataFrame) -> float:
        found = found[(found.kept > 0) & found.r.notna()].sort_values("density")
        return float(np.interp(np.log(density), np.log(found.density), found.r)) if len(found) else float("nan")

    return points.groupby("step")[["kept", "density", "r"]].apply(interpolated).rename("r_at_size")


def judge(folder: Path | None, points: pd.DataFrame, at_size: pd.Series, density: float) -> list[Verdict]:
    """The claims of notebook 07.

    Args:
        folder: where the claims are recorded; None records them nowhere.
        points: what `through_pretraining` returns.
        at_size: what `r_at_size` returns.
        density: the density that `r_at_size` was called with.
    """
    steps = at_size.index
    if len(steps) == 1:
        return [untestable(folder, claim, "no pretraining checkpoints known") for claim in CLAIMS.values()]
    end = max(steps)
    half = max((step for step in steps if step <= end / 2), default=min(steps))
    reaching = points[(points.r > PAPER_R) & (points.density < 0.05)].step.min()
    sizes = {"size": density, "half": at_size[half], "half_step": half, "end": at_size[end]}
    share = points.groupby("step").first_mlp_share.mean()
    shares = {"start": share.iloc[0], "peak": share.max(), "step": share.idxmax(), "end": share.iloc[-1]}
    times = points.groupby("step").times_chance.mean().iloc[:-1]
    ends = {"first_step": times.index[0], "last_step": times.index[-1], "rising": times.is_monotonic_increasing}
    return [
        check(folder, CLAIMS["possible early"], step=reaching, last=end, **sizes),
        check(folder, CLAIMS["place moves"], **shares),
        check(folder, CLAIMS["early overlap"], first=times.iloc[0], last=times.iloc[-1], **ends),
    ]


def plot_through_pretraining(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """Draw the subnetworks of pretraining checkpoints.

    Args:
        axes: three: r; the share of kept weights in the first layer's MLP; the overlap with the final subnetwork.
        points: what `through_pretraining` returns.
    """
    final = points.step.max()
    for (penalty, line), colour in zip(points.groupby("sparsity_penalty"), (BLUE, GREY), strict=False):
        bars = np.maximum(0, (line.r - line.r_low, line.r_high - line.r))
        name = f"subnetwork, lambda {penalty:g}"
        axes[0].errorbar(line.step, line.r, bars, fmt="o-", color=colour, label=name)
        axes[1].plot(line.step, line.first_mlp_share, "o-", color=colour, label=name)
        earlier = line[line.step < final]
        axes[2].plot(earlier.step, earlier.times_chance, "o-", color=colour, label=name)
    axes[0].plot(line.step, line.full_r, "s--", color=ORANGE, label="full model")
    axes[0].axhline(PAPER_R, color="black", linewidth=0.8, linestyle=":")
    axes[2].axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes[0].set(ylabel="bigram correlation r", ylim=(0, 1), title="How bigram-like")
    axes[1].set(ylabel="share of the kept weights", ylim=(0, 1), title="In the first layer's MLP")
    axes[2].set(ylabel="overlap, times chance", ylim=(0, None), title="Shared with the final subnetwork")
    for place in axes:
        pretraining_axis(place, points.step)
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")
