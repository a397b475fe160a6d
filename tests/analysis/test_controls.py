"""Frontier and ablation rows are the evaluations of the subnetworks and of their random controls."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build

from bigramlib import Subnetwork, ablate, evaluate, frontier
from bigramlib.analysis.controls import best_within, smallest_reaching


def test_ablation_rows_are_those_of_the_pieces(model, held_out, table):
    some = Subnetwork(
        {name: torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) < 0.2 for name, w in model.maskable.items()},
        model.architecture,
    )
    rows = ablate(model, some, held_out, table, draws=3)
    assert list(rows.index) == ["full", "subnetwork", "random", "full - subnetwork", "full - random", "empty"]
    assert rows.cross_entropy["full - subnetwork"] == evaluate(model, held_out, table, ~some).cross_entropy
    draws = [evaluate(model, held_out, table, some.random_like(draw)).r for draw in range(3)]
    assert rows.r["random"] == pytest.approx(np.mean(draws))
    assert rows.r_spread["random"] == pytest.approx(np.ptp(draws) / 2)
    assert rows.r_spread["full"] == 0
    assert list(rows.kept[["full", "subnetwork", "empty"]]) == [some.total, some.kept, 0]


def test_an_ablation_measures_the_cases_that_are_asked_for_to_the_same_bits(model, held_out, table):
    some = Subnetwork.full(model).random_like(0)
    every = ablate(model, some, held_out, table, draws=1)
    asked = ablate(model, some, held_out, table, draws=1, cases=["full - random", "subnetwork"])
    pd.testing.assert_frame_equal(asked, every.loc[["full", "subnetwork", "full - random"]])
    with pytest.raises(ValueError, match=r"cases has 'removed'; choose from full, subnetwork, "):
        ablate(model, some, held_out, table, cases=["removed"])


def test_full_row_of_an_ablation_is_the_evaluation_of_the_model(model, held_out, table):
    some = Subnetwork.full(model).random_like(0)
    rows, whole = ablate(model, some, held_out, table, draws=1), evaluate(model, held_out, table)
    assert rows.loc["full", ["r", "r_clipped", "kl", "cross_entropy", "perplexity"]].tolist() == [
        whole.r, whole.r_clipped, whole.kl, whole.cross_entropy, whole.perplexity
    ]  # fmt: skip


def test_full_minus_random_is_the_complement_of_each_random(model, held_out, table):
    masks = {name: torch.arange(w.numel()).view(w.shape) % 5 == 0 for name, w in model.maskable.items()}
    some = Subnetwork(masks, model.architecture)
    rows = ablate(model, some, held_out, table, draws=2)
    draws = [evaluate(model, held_out, table, ~some.random_like(draw)).cross_entropy for draw in range(2)]
    assert rows.cross_entropy["full - random"] == pytest.approx(np.mean(draws))
    assert rows.kept["full - random"] == some.total - some.kept


def test_frontier_has_each_subnetwork_and_its_controls(model, held_out, table):
    some = (~Subnetwork.empty(model)).random_like(0)
    points = frontier(model, {1.0: some, 2.0: Subnetwork.empty(model)}, held_out, table, draws=2)
    assert list(points.case) == ["full", "empty", "subnetwork", "random subnetwork", "subnetwork", "random subnetwork"]
    assert points.r[0] == pytest.approx(points.r[2])


def test_the_best_within_a_density_is_the_one_of_highest_r_below_it():
    points = pd.DataFrame({"case": "subnetwork", "kept": [1, 4, 6, 90], "total": 100, "r": [0.5, 0.8, 0.7, 0.99]})
    assert best_within(points, 0.05).r == 0.8
    assert best_within(points, 0.02).r == 0.5
    assert np.isnan(best_within(points, 0.001).r)


def test_the_smallest_reaching_an_r_is_the_headline_and_the_best_stands_in_if_none_does():
    points = pd.DataFrame({"case": "subnetwork", "kept": [1, 4, 6, 90], "total": 100, "r": [0.5, 0.96, 0.955, 0.99]})
    assert smallest_reaching(points, 0.95).kept == 4
    assert smallest_reaching(points, 0.995).kept == 90


def test_where_no_r_is_known_the_best_is_the_first_and_without_subnetworks_there_is_none():
    unknown = pd.DataFrame({"case": "subnetwork", "kept": [4, 1], "total": 100, "r": np.nan})
    assert smallest_reaching(unknown, 0.95).kept == best_within(unknown, 0.5).kept == 4
    nothing = unknown.assign(case="full")
    assert smallest_reaching(nothing, 0.95).isna().all() and best_within(nothing, 0.5).isna().all()


def test_subnetworks_without_r_are_on_the_frontier_and_the_first_is_the_best(tokenizer, held_out, table):
    flat = build("gpt_neox", tokenizer)
    flat.hf.get_output_embeddings().weight.zero_()
    points = frontier(flat, {1.0: Subnetwork.full(flat), 2.0: Subnetwork.empty(flat)}, held_out, table, draws=1)
    assert points.r.isna().all() and np.isfinite(points.cross_entropy).all()
    assert smallest_reaching(points, 0.95).sparsity_penalty == best_within(points, 1.1).sparsity_penalty == 1.0
