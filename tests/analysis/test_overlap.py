"""Both nulls are what enumeration and shuffling give; degenerate masks give no false numbers."""

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from conftest import build
from scipy.stats import hypergeom

from bigramlib import Subnetwork
from bigramlib.analysis.overlap import (
    MatrixOverlap,
    compared_with_chance,
    gamma_log_p,
    jaccard,
    nearest_in_size,
    overlap_test,
    row_shuffle_moments,
)


def random_mask(shape: tuple[int, int], density: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


def random_subnetwork(model, seed: int, density: float = 0.3) -> Subnetwork:
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(weight.shape, generator=generator) < density for name, weight in model.maskable.items()}
    return Subnetwork(masks, model.architecture)


@pytest.mark.parametrize("seed", range(6))
def test_flat_null_equals_all_placements_of_a_4x3_mask(seed):
    a, b = random_mask((4, 3), 0.5, seed), random_mask((4, 3), 0.3, seed + 100)
    overlaps = []
    for places in combinations(range(12), int(b.sum())):
        placed = np.zeros(12, dtype=bool)
        placed[list(places)] = True
        overlaps.append((a.ravel() & placed).sum())
    found = compared_with_chance([MatrixOverlap.of(a, b)])
    assert found["flat_expected"] == pytest.approx(np.mean(overlaps))
    assert found["flat_z"] == pytest.approx((found["overlap"] - np.mean(overlaps)) / np.std(overlaps))
    assert 10 ** found["flat_log10_p"] == pytest.approx(np.mean(np.array(overlaps) >= found["overlap"]))


@pytest.mark.parametrize("seed", range(6))
def test_row_null_equals_all_permutations_of_the_rows_of_a_4x3_mask(seed):
    a, b = random_mask((4, 3), 0.5, seed), random_mask((4, 3), 0.3, seed + 100)
    overlaps = [(a & b[list(order)]).sum() for order in permutations(range(4))]
    assert row_shuffle_moments(a, b) == pytest.approx((np.mean(overlaps), np.var(overlaps)))
    found = compared_with_chance([MatrixOverlap.of(a, b)])
    assert found["rows_z"] == pytest.approx((found["overlap"] - np.mean(overlaps)) / np.std(overlaps))


@pytest.mark.parametrize(("shape", "density"), [((40, 60), 0.02), ((40, 60), 0.6), ((90, 20), 0.6), ((90, 20), 0.02)])
def test_row_null_is_that_of_shuffling_in_each_way_of_computing_it(shape, density):
    a, b = random_mask(shape, density, 0), random_mask(shape, density, 1)
    product = a.astype(float) @ b.T
    centred = product - product.mean(0) - product.mean(1, keepdims=True) + product.mean()
    mean, variance = row_shuffle_moments(a, b)
    assert mean == pytest.approx(product.sum() / shape[0])
    assert variance == pytest.approx((centred**2).sum() / (shape[0] - 1))
    generator = np.random.default_rng(2)
    overlaps = [(a & b[generator.permutation(shape[0])]).sum() for _ in range(4000)]
    assert np.mean(overlaps) == pytest.approx(mean, abs=4 * np.sqrt(variance / 4000))
    assert np.var(overlaps) == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(("shape", "density"), [((64, 48), 0.02), ((64, 48), 0.1), ((48, 64), 0.5)])
def test_row_p_is_close_to_the_share_of_shuffles(shape, density):
    a, b = random_mask(shape, density, 0), random_mask(shape, density, 1)
    mean, variance = row_shuffle_moments(a, b)
    generator = np.random.default_rng(2)
    overlaps = np.array([(a & b[generator.permutation(shape[0])]).sum() for _ in range(10_000)])
    for level in (0.5, 0.1, 0.01):
        overlap = int(np.quantile(overlaps, 1 - level))
        share = (overlaps >= overlap).mean()
        assert 0.6 * share < np.exp(gamma_log_p(overlap, mean, variance)) < 2 * share


def test_row_p_never_vanishes_and_goes_on_smoothly_where_the_gamma_tail_underflows():
    log_p = np.array([gamma_log_p(overlap, 20.0, 25.0) for overlap in range(1, 3000)])
    assert (np.diff(log_p) < 0).all() and np.isfinite(log_p).all()
    assert np.abs(np.diff(log_p, 2)[1000:]).max() < 1e-3
    assert log_p[-1] < -2000


def test_flat_p_equals_scipy_where_scipy_sums_everything_and_never_vanishes():
    for overlap in (0, 40, 50, 51, 80, 300, 500):
        kept = 500
        a, b = np.zeros((100, 50), dtype=bool), np.zeros((100, 50), dtype=bool)
        a.ravel()[:kept] = True
        b.ravel()[kept - overlap : 2 * kept - overlap] = True
        found = compared_with_chance([MatrixOverlap.of(a, b)])["flat_log10_p"]
        assert found == pytest.approx(hypergeom.logsf(overlap - 1, 5000, kept, kept) / np.log(10), abs=1e-8)
    assert -800 < found < -600


@pytest.mark.parametrize("density", [0.05, 0.3])
def test_flat_p_of_several_matrices_bounds_the_exact_convolution(density):
    sizes = [(200, density, 2 * density), (90, 2 * density, density), (400, density / 2, density)]
    exact, mean = np.ones(1), 0.0
    for n, share_a, share_b in sizes:
        kept_a, kept_b = int(n * share_a), int(n * share_b)
        exact = np.convolve(exact, hypergeom.pmf(np.arange(min(kept_a, kept_b) + 1), n, kept_a, kept_b))
        mean += kept_a * kept_b / n
    for overlap in range(int(mean) + 2, min(int(3 * mean) + 3, np.count_nonzero(exact))):
        members = [_counts(n, int(n * share_a), int(n * share_b)) for n, share_a, share_b in sizes]
        members[0] = replace(members[0], overlap=overlap)
        found, expected = compared_with_chance(members)["flat_log10_p"], np.log10(exact[overlap:].sum())
        assert expected <= found <= 0.65 * expected


def _counts(n: int, kept_a: int, kept_b: int) -> MatrixOverlap:
    variance = kept_a * kept_b * (n - kept_a) * (n - kept_b) / (n**2 * (n - 1))
    return MatrixOverlap(n, kept_a, kept_b, 0, (kept_a * kept_b / n, variance), (0.0, 0.0))


def test_rows_add_up_and_agree_with_the_masks(any_model):
    a, b = random_subnetwork(any_model, 0), random_subnetwork(any_model, 1)
    table = overlap_test(a, b)
    parts, components = table[table.layer.notna()], table[table.layer.isna() & (table.component != "total")]
    total = table[table.component == "total"].iloc[0]
    assert len(parts) == len(any_model.architecture.components)
    for column in ("total", "kept_a", "kept_b", "overlap", "flat_expected", "rows_expected"):
        assert parts[column].sum() == pytest.approx(total[column])
        assert components[column].sum() == pytest.approx(total[column])
    assert (total.total, total.kept_a, total.kept_b) == (a.total, a.kept, b.kept)
    assert total.overlap == (a & b).kept
    assert total.jaccard == pytest.approx((a & b).kept / (a | b).kept)
    assert total.contained == pytest.approx((a & b).kept / min(a.kept, b.kept))
    assert (
        parts.set_index(["layer", "component"]).kept_a.to_dict() == a.table().set_index(["layer", "component"]).kept.to_dict()
    )


def test_random_subnetworks_overlap_by_chance(any_model):
    tables = [overlap_test(random_subnetwork(any_model, 2 * i), random_subnetwork(any_model, 2 * i + 1)) for i in range(8)]
    for null in ("flat_z", "rows_z"):
        z = np.concatenate([table[table.layer.notna()][null] for table in tables])
        assert abs(z.mean()) < 4 / np.sqrt(len(z))
        assert z.std() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(("architecture", "name"), [(a, n) for a in ("gpt2", "llama") for n in ("q", "mlp in", "mlp out")])
def test_rows_are_output_units_however_a_matrix_is_stored(tokenizer, architecture, name):
    model = build(architecture, tokenizer)
    part = next(part for part in model.architecture.components if part.name == name)
    masks = {key: mask.clone() for key, mask in Subnetwork.empty(model).masks.items()}
    outputs_last = architecture == "gpt2"
    masks[part.parameter].select(1 if outputs_last else 0, 3).fill_(True)
    one_unit = Subnetwork(masks, model.architecture)
    shape = part.of(masks[part.parameter]).shape
    inputs, units = shape if outputs_last else shape[::-1]
    row = overlap_test(one_unit, one_unit).iloc[model.architecture.components.index(part)]
    assert (row.component, row.overlap) == (name, inputs)
    assert row.rows_expected == pytest.approx(inputs / units)


def test_a_subnetwork_contains_itself(model):
    a = random_subnetwork(model, 0)
    table = overlap_test(a, a)
    assert (table.overlap == table.kept_a).all()
    assert (table.contained == 1).all() and (table.jaccard == 1).all()
    assert (table.flat_z > 5).all() and (table.rows_z > 2).all()
    assert np.isfinite(table.flat_log10_p).all() and (table.flat_log10_p < -10).all()


@pytest.mark.parametrize("density", [0.0, 0.001, 0.3, 1.0])
def test_jaccard_is_that_of_the_whole_table_and_of_sets(any_model, density):
    a, b = random_subnetwork(any_model, 0), random_subnetwork(any_model, 1, density)
    places = [{(name, *place) for name, mask in each.masks.items() for place in mask.nonzero().tolist()} for each in (a, b)]
    assert jaccard(a, b) == jaccard(b, a) == len(places[0] & places[1]) / len(places[0] | places[1])
    assert jaccard(a, b) == overlap_test(a, b).jaccard.iloc[-1]


def test_nearest_in_size_goes_by_the_ratio_of_kept_weights(model):
    sizes = Subnetwork.mlp(model, 0, [0]).kept
    by_count = {count: Subnetwork.mlp(model, 0, list(range(count))) for count in (0, 9, 1, 20)}
    assert all(each.kept == count * sizes for count, each in by_count.items())
    for count, nearest in {1: 1, 2: 1, 4: 9, 12: 9, 14: 20, 24: 20}.items():  # 4 lies nearer to 1 by the difference
        assert nearest_in_size(Subnetwork.mlp(model, 0, list(range(count))), by_count) == nearest
    assert nearest_in_size(by_count[1], {"far": by_count[20], "empty": by_count[0]}) == "far"
    assert nearest_in_size(by_count[9], {"first": by_count[1], "again": by_count[1]}) == "first"


def test_nothing_is_nearest_to_an_empty_subnetwork_or_among_none(model):
    some, empty = random_subnetwork(model, 0), Subnetwork.empty(model)
    for subnetwork, others in ((empty, {1: some}), (some, {})):
        with pytest.raises(ValueError, match="nearest in size to an empty one, or among none"):
            nearest_in_size(subnetwork, others)


def test_a_subnetwork_and_its_complement_are_disjoint(model):
    a = random_subnetwork(model, 0)
    table = overlap_test(a, ~a)
    assert (table[["overlap", "contained", "jaccard"]] == 0).all(axis=None)
    assert (table.flat_z < -5).all() and (table.flat_log10_p > -1e-6).all()


@pytest.mark.parametrize("one", ["empty", "full"])
def test_masks_that_leave_chance_no_choice_give_p_1_and_no_z(model, one):
    table = overlap_test(getattr(Subnetwork, one)(model), random_subnetwork(model, 0))
    assert (table.overlap == table.flat_expected).all()
    assert table[["flat_z", "rows_z"]].isna().all(axis=None)
    assert (table[["flat_log10_p", "rows_log10_p"]].abs() < 1e-9).all(axis=None)
    assert np.allclose(table.rows_expected, table.flat_expected)
    assert table.jaccard.notna().all() and (table.contained.isna() if one == "empty" else table.contained == 1).all()


def test_two_empty_subnetworks_do_not_divide_by_zero(model):
    table = overlap_test(Subnetwork.empty(model), Subnetwork.empty(model))
    assert table[["contained", "jaccard", "flat_z", "rows_z"]].isna().all(axis=None)
    assert np.isnan(jaccard(Subnetwork.empty(model), Subnetwork.empty(model)))
    assert (table[["overlap", "flat_expected", "flat_log10_p", "rows_log10_p"]] == 0).all(axis=None)


def test_subnetworks_of_other_shapes_are_refused(model, tokenizer):
    a = random_subnetwork(model, 0)
    with pytest.raises(ValueError, match=r"different shapes .*gpt_neox.*gpt2.*compare subnetworks of one model"):
        overlap_test(a, random_subnetwork(build("gpt2", tokenizer), 0))
    with pytest.raises(ValueError, match=r"different shapes .*compare subnetworks of one model"):
        jaccard(a, random_subnetwork(build("gpt2", tokenizer), 0))
