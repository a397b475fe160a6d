"""Whether two subnetworks of one model share more weights than by chance (paper, finding 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import scipy.sparse
from jaxtyping import Bool
from scipy.special import gammaincc, gammaln, logsumexp
from scipy.stats import binom, hypergeom

from bigramlib.models.components import Component
from bigramlib.subnetworks.subnetwork import Subnetwork

CHUNK = 1024
"""How many rows or columns are multiplied at a time."""
Key = TypeVar("Key")


def overlap_test(a: Subnetwork, b: Subnetwork) -> pd.DataFrame:
    """Compare the overlap of two subnetworks with chance, for each component and in all.

    There are two null hypotheses. Both take as given how many weights each subnetwork keeps in each matrix, and both are
    computed without any shuffling:

    - flat: the kept weights of a matrix may lie anywhere in it, so the overlap is hypergeometric. Its p is exact for one
      matrix. For several, a sum of hypergeometrics is a sum of independent Bernoullis (Vatutin & Mikhailov 1982), and p is
      the tail of the binomial with the same mean. It is an upper bound wherever the overlap is at least the expectation + 1
      (Hoeffding 1956). A normal tail would be far too small where overlaps are few.
    - rows: the rows of one subnetwork (the weights into one output unit) are permuted within each matrix, so how often each
      input is kept is given too. Mean and variance are exact (Hoeffding 1951). p is approximate: the tail of the gamma
      distribution with that mean and variance. In GPT-2, which stores matrices [in, out], rows are still output units.

    p is the probability of an overlap at least as large. It is given as log10, since p itself can be too small for a float.

    Returns:
        A row for each layer and component (all experts together), then one for each component over all layers, then one with
        component "total" (layer is missing in both). Columns: layer, component, total (weights), kept_a, kept_b, overlap,
        contained (share of the smaller one that is in the larger one), jaccard (overlap / union), and for each null hypothesis
        the expected overlap, its z score and log10 p: flat_expected, flat_z, flat_log10_p, rows_expected, rows_z,
        rows_log10_p. NaN are shares of nothing, and z where only one overlap is possible.

    Raises:
        ValueError: subnetworks of models with different shapes.

    Example:
        >>> rows = overlap_test(subnetwork, ~subnetwork)
        >>> int(rows.overlap.iloc[-1])
        0
    """
    _check_same_shapes(a, b)
    parts = a.architecture.components
    matrices = [MatrixOverlap.of(_rows(a, part), _rows(b, part)) for part in parts]
    by_place: dict[tuple[int, str], list[MatrixOverlap]] = {}
    for part, matrix in zip(parts, matrices, strict=True):
        by_place.setdefault((part.layer, part.name), []).append(matrix)
    groups: list[tuple[int | None, str, list[MatrixOverlap]]] = [(*place, found) for place, found in by_place.items()]
    for name in dict.fromkeys(part.name for part in parts):
        groups.append((None, name, [matrix for part, matrix in zip(parts, matrices, strict=True) if part.name == name]))
    groups.append((None, "total", matrices))
    rows = [{"layer": layer, "component": name} | compared_with_chance(members) for layer, name, members in groups]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def jaccard(a: Subnetwork, b: Subnetwork) -> float:
    """Weights that both subnetworks keep over weights that either keeps; NaN if neither keeps any.

    Raises:
        ValueError: subnetworks of models with different shapes.
    """
    _check_same_shapes(a, b)
    return _ratio((a & b).kept, (a | b).kept)


def nearest_in_size(subnetwork: Subnetwork, others: Mapping[Key, Subnetwork]) -> Key:
    """Which of several subnetworks keeps the most similar number of weights, by the ratio of the two numbers.

    Args:
        subnetwork: the one to compare with.
        others: those to choose from.

    Returns:
        The key of the one whose ratio is closest to 1; of equally near ones the first. An empty one is farthest of all.

    Raises:
        ValueError: there is nothing to choose from, or the subnetwork itself is empty, so that there is no ratio.
    """
    if not others or not subnetwork.kept:
        raise ValueError("No subnetwork is nearest in size to an empty one, or among none; give some that keep weights.")

    def distance(key: Key) -> float:
        kept = others[key].kept
        return abs(float(np.log(kept / subnetwork.kept))) if kept else float("inf")

    return min(others, key=distance)


@dataclass(frozen=True)
class MatrixOverlap:
    """The overlap of two masks of one matrix, and what each null hypothesis of `overlap_test` says about it.

    Attributes:
        total: weights of the matrix.
        kept_a, kept_b: weights that each mask keeps.
        overlap: weights that both keep.
        flat, rows: (mean, variance) of the overlap under each null hypothesis.
    """

    total: int
    kept_a: int
    kept_b: int
    overlap: int
    flat: tuple[float, float]
    rows: tuple[float, float]

    @classmethod
    def of(cls, a: Bool[np.ndarray, "rows columns"], b: Bool[np.ndarray, "rows columns"]) -> MatrixOverlap:
        """Of two masks, given with one row for each output unit."""
        n, kept_a, kept_b, overlap = a.size, *(int(np.count_nonzero(mask)) for mask in (a, b, a & b))
        variance = kept_a * kept_b * (n - kept_a) * (n - kept_b) / (n**2 * max(1, n - 1))
        flat = (kept_a * kept_b / n, variance)
        return cls(n, kept_a, kept_b, overlap, flat, row_shuffle_moments(a, b))


def row_shuffle_moments(a: Bool[np.ndarray, "rows columns"], b: Bool[np.ndarray, "rows columns"]) -> tuple[float, float]:
    """Exact mean and variance of the overlap of two masks over all permutations of the rows of one of them.

    Let M = A B^T, for masks of R rows. Under a permutation the overlap is the sum over i of M[i, permutation(i)]. Its mean is
    sum(M) / R and its variance sum_ij d_ij^2 / (R - 1), where d is M less the means of its rows and columns (Hoeffding 1951).
    The sum of squares needs only M's squared norm and its sums over rows and columns.

    Returns:
        (mean, variance).
    """
    n = len(a)
    sparse_a, sparse_b = (_sparse(mask) for mask in (a, b))
    columns_a, columns_b = sparse_a.sum(axis=0), sparse_b.sum(axis=0)
    everything = columns_a @ columns_b
    margins = ((sparse_a @ columns_b) ** 2).sum() + ((sparse_b @ columns_a) ** 2).sum()
    norm = _squared_norm(sparse_a, sparse_b)
    squares = norm - margins / n + (everything / n) ** 2
    if squares < 1e-12 * norm:  # rounding: rows that are all alike leave no choice
        squares = 0.0
    return float(everything / n), float(squares / max(1, n - 1))


def _sparse(mask: Bool[np.ndarray, "rows columns"]) -> scipy.sparse.csr_array:
    """A mask as a sparse float64 matrix (several times faster than scipy's own conversion)."""
    places = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return scipy.sparse.csr_array((np.ones(len(places[0])), places), shape=mask.shape)


def _squared_norm(a: scipy.sparse.csr_array, b: scipy.sparse.csr_array) -> float:
    """||A B^T||^2 (Frobenius), exactly, in the cheapest of three ways and never holding all of A B^T.

    Sparse, it takes as many multiplications as sum(A B^T); dense, R^2 C, or 2 R C^2 as the product <A^T A, B^T B> of two
    Gram matrices. A sparse multiplication costs some hundred dense ones. Entries are counts below 2^24: exact in float32.
    """
    rows, columns = a.shape
    if 200 * (a.sum(axis=0) @ b.sum(axis=0)) < rows * columns * min(rows, 2 * columns):
        b_transposed = b.T.tocsr()
        return sum(((a[begin : begin + CHUNK] @ b_transposed).data ** 2).sum() for begin in range(0, rows, CHUNK))
    dense_a, dense_b = a.toarray().astype(np.float32), b.toarray().astype(np.float32)
    if rows <= 2 * columns:
        products = (dense_a[begin : begin + CHUNK] @ dense_b.T for begin in range(0, rows, CHUNK))
        return sum(float((product.astype(np.float64) ** 2).sum()) for product in products)
    return sum(
        float(((dense_a[:, begin : begin + CHUNK].T @ dense_a).astype(np.float64)
               * (dense_b[:, begin : begin + CHUNK].T @ dense_b)).sum())
        for begin in range(0, columns, CHUNK)
    )  # fmt: skip


def compared_with_chance(members: Sequence[MatrixOverlap]) -> dict[str, float | int]:
    """The columns of `overlap_test`, except layer and component, for one or several matrices together."""
    total, kept_a, kept_b, overlap = (
        sum(getattr(matrix, name) for matrix in members) for name in ("total", "kept_a", "kept_b", "overlap")
    )
    row = {"total": total, "kept_a": kept_a, "kept_b": kept_b, "overlap": overlap}
    row["contained"] = _ratio(overlap, min(kept_a, kept_b))
    row["jaccard"] = _ratio(overlap, kept_a + kept_b - overlap)
    for null in ("flat", "rows"):
        mean, variance = (sum(getattr(matrix, null)[moment] for matrix in members) for moment in (0, 1))
        z = _ratio(overlap - mean, variance**0.5)
        log_p = _flat_log_p(members) if null == "flat" else gamma_log_p(overlap, mean, variance)
        row |= {f"{null}_expected": mean, f"{null}_z": z, f"{null}_log10_p": min(0.0, log_p / np.log(10))}
    return row


def _flat_log_p(members: Sequence[MatrixOverlap]) -> float:
    """Natural logarithm of the flat p: exact for one matrix, binomial for several (see `overlap_test`)."""
    overlap, mean, variance = (
        sum(values) for values in zip(*((matrix.overlap, *matrix.flat) for matrix in members), strict=True)
    )
    most = sum(min(matrix.kept_a, matrix.kept_b) for matrix in members)
    if len(members) == 1:
        chance = hypergeom(members[0].total, members[0].kept_a, members[0].kept_b)
    else:
        chance = binom(most, min(1.0, mean / max(1, most)))
        variance = chance.var()
    # scipy's binom.logsf is -inf below 1e-308, and its hypergeom.logsf sums to the end of the support, seconds for large
    # matrices. This sum stops 12 standard deviations past the larger of overlap and mean, where terms no longer count.
    reach = 12 * variance**0.5 + 64
    terms = np.arange(max(overlap, int(mean - reach)), min(most, int(max(overlap, mean) + reach)) + 1)
    return float(logsumexp(chance.logpmf(terms)))


def gamma_log_p(overlap: int, mean: float, variance: float) -> float:
    """Natural logarithm of the rows p: the tail, from the overlap on, of a gamma distribution with this mean and variance.

    Gamma tails (Pearson type III) are customary for permutation statistics. A normal one is many orders too small where
    overlaps are few: 1e-84 for 7 with 0.1 expected. Below 1e-290, where gammaincc and scipy's gamma.logsf underflow, an upper
    bound of the tail stands in, which is tight so far out.

    Returns:
        The logarithm; 0 (p = 1) if the variance is 0, so that only one overlap is possible.
    """
    if not variance:
        return 0.0
    shape, x = mean**2 / variance, max(0.0, overlap - 0.5) * mean / variance
    tail = gammaincc(shape, x)
    if tail > 1e-290:
        return float(np.log(tail))
    return float(shape * np.log(x) - x - gammaln(shape) - np.log(x - max(0.0, shape - 1)))


def _ratio(part: float | int, whole: float | int) -> float:
    return part / whole if whole else float("nan")


def _rows(subnetwork: Subnetwork, part: Component) -> Bool[np.ndarray, "outputs inputs"]:
    """A component's mask, one row for each output unit."""
    return part.of(subnetwork.masks[part.parameter]).movedim(part.output_axis, 0).numpy()


def _check_same_shapes(a: Subnetwork, b: Subnetwork) -> None:
    if a.architecture != b.architecture:
        raise ValueError(
            f"The two subnetworks are of models with different shapes ({a.architecture} and {b.architecture}); "
            "compare subnetworks of one model."
        )
