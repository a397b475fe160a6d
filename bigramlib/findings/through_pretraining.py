"""How bigram subnetworks develop through pretraining: one search for each checkpoint (paper, finding 3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bigramlib.analysis.evaluate import MAX_TOKENS, evaluate
from bigramlib.analysis.overlap import overlap_test
from bigramlib.models.loading import load_model
from bigramlib.progress import tqdm
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import TokenCorpus
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.search import find_subnetwork


def through_pretraining(
    checkpoints: Mapping[int, str],
    table: BigramTable,
    train: TokenCorpus,
    evaluation: TokenCorpus,
    penalties: list[float],
    *,
    device: str = "cpu",
    max_tokens: int | None = MAX_TOKENS,
) -> pd.DataFrame:
    """Find subnetworks in every checkpoint, evaluate them, and compare each with that of the last checkpoint.

    Args:
        checkpoints: names for `load_model` by pretraining step (see `checkpoint_names`).
        table: the bigram table.
        train: training text.
        evaluation: held-out text.
        penalties: a search for each lambda.
        device: where to work.
        max_tokens: as in `evaluate`.

    Returns:
        One row for each checkpoint and lambda: step, sparsity_penalty, kept, density, r with its 95 % interval r_low and
        r_high, full_r (of the whole model), first_mlp_share, contained (share of the smaller of this and the final
        subnetwork that the other holds too) and times_chance (their overlap over the flat expectation).
    """
    last = load_model(checkpoints[max(checkpoints)], device)
    configs = {penalty: SparsifyConfig.suited(last, table, penalty) for penalty in penalties}
    final = {penalty: find_subnetwork(last, table, train, config) for penalty, config in configs.items()}
    rows = []
    for step, name in tqdm(checkpoints.items(), desc="checkpoints", unit="checkpoint"):
        model = load_model(name, device)
        full = evaluate(model, evaluation, table, max_tokens=max_tokens)
        for penalty, config in configs.items():
            found = find_subnetwork(model, table, train, config)
            measured = evaluate(model, evaluation, table, found, max_tokens=max_tokens)
            total = overlap_test(found, final[penalty]).iloc[-1]
            low, high = measured.r_interval
            rows.append({
                "step": step, "sparsity_penalty": penalty, "kept": found.kept, "density": found.density,
                "r": measured.r, "r_low": low, "r_high": high, "full_r": full.r, "first_mlp_share": found.first_mlp_share(),
                "contained": total.contained, "times_chance": total.overlap / total.flat_expected,
            })  # fmt: skip
    return pd.DataFrame(rows)


def r_at_size(points: pd.DataFrame, density: float) -> pd.Series:
    """R at one density for each step of `through_pretraining`, linear in the logarithm of the size between its subnetworks.

    Outside their sizes the nearest subnetwork's r is taken; those without an r (NaN) are left out.
    """

    def interpolated(found: pd.DataFrame) -> float:
        found = found[(found.kept > 0) & found.r.notna()].sort_values("density")
        return float(np.interp(np.log(density), np.log(found.density), found.r)) if len(found) else float("nan")

    return points.groupby("step")[["kept", "density", "r"]].apply(interpolated).rename("r_at_size")
