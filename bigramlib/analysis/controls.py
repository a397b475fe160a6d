"""Subnetworks measured beside their controls: the full and the empty one, and random ones with as many weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from bigramlib.analysis.evaluate import MAX_TOKENS, Evaluation, evaluate
from bigramlib.models.language_model import LanguageModel
from bigramlib.progress import tqdm
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import TokenCorpus

MEASURES = (
    "r",
    "r_low",
    "r_high",
    "r_clipped",
    "kl",
    "cross_entropy",
    "perplexity",
    "tokens",
    "r_spread",
    "cross_entropy_spread",
)
"""Columns of `frontier` and `ablate`. Where random subnetworks are drawn, all but the last two are means over the draws.

r with its 95 % interval r_low to r_high, r_clipped, kl and cross_entropy (nats per token) and perplexity are those of
`Evaluation`; tokens is how many next tokens were measured; r_spread and cross_entropy_spread are half the range over draws.
"""
ABLATIONS = ("full", "subnetwork", "random", "full - subnetwork", "full - random", "empty")
"""What `ablate` measures."""


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
        subnetworks: by sparsity penalty.
        corpus: held-out text.
        table: the bigram table.
        draws: random controls for each subnetwork, with as many weights of each matrix.
        max_tokens: as in `evaluate`.

    Returns:
        One row for the full subnetwork, one for the empty one, then one for each subnetwork and one for its random controls
        together (if draws). Columns: case ("full", "empty", "subnetwork", "random subnetwork"), sparsity_penalty, kept and
        total (weights), first_mlp_share, and `MEASURES`.

    Example:
        >>> points = frontier(model, {10.0: subnetwork}, held_out, table)
        >>> list(points.case)
        ['full', 'empty', 'subnetwork']
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


def ablate(
    model: LanguageModel,
    subnetwork: Subnetwork,
    corpus: TokenCorpus,
    table: BigramTable,
    *,
    draws: int = 5,
    cases: Collection[str] = ABLATIONS,
    max_tokens: int | None = MAX_TOKENS,
) -> pd.DataFrame:
    """What keeping and what removing a subnetwork does, compared with random ones of its size (paper, finding 4).

    Args:
        model: the model.
        subnetwork: one of its subnetworks.
        corpus: held-out text.
        table: the bigram table.
        draws: random controls, with as many weights of each matrix.
        cases: which of `ABLATIONS` to measure, if not all; "full" is always measured.
        max_tokens: as in `evaluate`.

    Returns:
        One row for each case, in the order of `ABLATIONS`. Columns: kept (weights), `MEASURES`, and rise with its 95 % interval
        rise_low to rise_high: by how much the cross-entropy exceeds the full model's, nats per token (means over the draws).

    Raises:
        ValueError: there is no such case.

    Example:
        >>> rows = ablate(model, subnetwork, held_out, table, draws=1)
        >>> float(rows.rise["full"])
        0.0
    """
    if unknown := set(cases) - set(ABLATIONS):
        raise ValueError(f"cases has {min(unknown)!r}; choose from {', '.join(ABLATIONS)}.")
    members = _ablated(model, subnetwork, draws)
    rows: dict[str, dict[str, float]] = {}
    full = None
    for name in tqdm([case for case in ABLATIONS if case in {"full", *cases}], desc="ablating", unit="case"):
        results = [evaluate(model, corpus, table, member, max_tokens=max_tokens) for member in members[name]]
        full = full or results[0]
        rises = np.mean([result.rise_from(full) for result in results], axis=0).tolist()
        rise = dict(zip(("rise", "rise_low", "rise_high"), rises, strict=True))
        rows[name] = {"kept": members[name][0].kept} | _measures(results) | rise
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("case")


def _ablated(model: LanguageModel, subnetwork: Subnetwork, draws: int) -> dict[str, list[Subnetwork]]:
    """The subnetworks of each of `ABLATIONS`."""
    randoms = [subnetwork.random_like(draw) for draw in range(draws)]
    removed = [~random for random in randoms]
    full, empty = Subnetwork.full(model), Subnetwork.empty(model)
    return dict(zip(ABLATIONS, ([full], [subnetwork], randoms, [~subnetwork], removed, [empty]), strict=True))


def smallest_reaching(points: pd.DataFrame, r: float) -> pd.Series:
    """The smallest subnetwork of a frontier whose r exceeds a given one; the one of the highest r if none does.

    Args:
        points: what `frontier` returns.
        r: the bigram correlation to exceed. A subnetwork whose own is NaN counts as the lowest.

    Returns:
        Its row, with its density (share of weights kept) added; all NaN if there are no subnetworks.

    Example:
        >>> points = frontier(model, {10.0: subnetwork}, held_out, table)
        >>> float(smallest_reaching(points, 0.95).sparsity_penalty)
        10.0
    """
    found = _subnetworks(points)
    reaching = found[found.r > r]
    return reaching.loc[reaching.kept.idxmin()] if len(reaching) else _highest(found)


def best_within(points: pd.DataFrame, max_density: float) -> pd.Series:
    """The subnetwork of a frontier with the highest r among those that keep less than a share of the weights.

    Args:
        points: what `frontier` returns.
        max_density: the share of weights kept, 0 to 1.

    Returns:
        Its row, with its density added; all NaN if there are none.
    """
    found = _subnetworks(points)
    return _highest(found[found.density < max_density])


def _highest(found: pd.DataFrame) -> pd.Series:
    return found.loc[found.r.fillna(-np.inf).idxmax()] if len(found) else pd.Series(np.nan, index=found.columns)


def _subnetworks(points: pd.DataFrame) -> pd.DataFrame:
    return points[points.case == "subnetwork"].assign(density=lambda row: row.kept / row.total)


def _measures(results: list[Evaluation]) -> dict[str, float]:
    """`MEASURES` of the evaluations of one or several subnetworks of the same size."""
    rows = [
        (result.r, *result.r_interval, result.r_clipped, result.kl, result.cross_entropy, result.perplexity, result.tokens)
        for result in results
    ]
    means = dict(zip(MEASURES, np.mean(rows, axis=0).tolist(), strict=False))
    spreads = {
        f"{name}_spread": float(np.ptp([getattr(result, name) for result in results]) / 2) for name in ("r", "cross_entropy")
    }
    return means | spreads
