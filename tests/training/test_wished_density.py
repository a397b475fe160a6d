"""A density is wished for instead of a lambda: few searches find it, all are kept, and wishes that no search meets are told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from searches import QUICK

from bigramlib import SparsifyConfig, Subnetwork, find_subnetwork
from bigramlib.store import store_folder
from bigramlib.training import search as training
from bigramlib.training.wished_density import MOST_RUNS, TOLERANCE, next_penalty, with_density

LEFT = replace(QUICK, sparsity_penalty=SparsifyConfig.sparsity_penalty)
MINI = {0.1: 0.3, 1.0: 0.115, 3.0: 0.0428, 10.0: 0.0138, 30.0: 0.00755, 100.0: 0.00479}
"""Densities of mini's bigram subnetworks by lambda."""


@pytest.fixture
def searched(half):
    """Pretended searches: a function that notes the lambdas that it is asked for, and their list."""
    asked = []

    def searching(density_of):
        def search(penalty):
            asked.append(penalty)
            flat = torch.arange(half.total) < round(density_of(penalty) * half.total)
            parts = flat.split([mask.numel() for mask in half.masks.values()])
            masks = {name: part.view(half.masks[name].shape) for name, part in zip(half.masks, parts, strict=True)}
            return Subnetwork(masks, half.architecture, {"sparsity_penalty": penalty})

        return search

    return searching, asked


def as_on_mini(penalty):
    return float(np.exp(np.interp(np.log(penalty), np.log(list(MINI)), np.log(list(MINI.values())))))


@pytest.mark.parametrize("wish", [0.1, 0.05, 0.02, 0.0138, 0.01, 0.006])
def test_on_a_frontier_like_that_of_mini_few_searches_suffice(searched, wish):
    searching, asked = searched
    found = with_density(wish, searching(as_on_mini))
    assert abs(found.density - wish) <= TOLERANCE * wish and len(asked) <= 4
    assert found.provenance["sparsity_penalty"] == asked[-1]


def test_the_next_lambda_is_interpolated_between_the_nearest_on_both_sides():
    assert next_penalty({10.0: 0.04, 1000.0: 0.01, 1.0: 0.5}, 0.02) == 100.0
    assert next_penalty({10.0: 0.04}, 0.02) > 10.0 > next_penalty({10.0: 0.04}, 0.08)
    assert next_penalty({10.0: 0.04, 20.0: 0.05}, 0.02) > 10.0


@pytest.mark.parametrize(("density_of", "wish", "nearest"), [(lambda _: 0.3, 0.1, 0.3), (lambda _: 0.0, 0.1, 0.0)])
def test_a_wish_that_no_search_meets_gives_the_nearest_and_a_warning(searched, caplog, density_of, wish, nearest):
    searching, asked = searched
    found = with_density(wish, searching(density_of))
    assert found.density == pytest.approx(nearest, abs=1e-3) and len(asked) == MOST_RUNS
    assert "kept 10.00% of the weights; the nearest kept" in caplog.text


def test_a_jump_over_the_wish_ends_with_the_nearer_side(searched, caplog):
    searching, _ = searched
    found = with_density(0.1, searching(lambda penalty: 0.12 if penalty < 17 else 0.02))
    assert found.density == pytest.approx(0.12, abs=1e-3) and "the nearest kept" in caplog.text


def test_a_search_by_density_keeps_every_run_and_asking_again_trains_nothing(model, table, corpus, monkeypatch):
    first = find_subnetwork(model, table, corpus, LEFT)
    wish = first.density * 1.5
    found = find_subnetwork(model, table, corpus, LEFT, density=wish)
    assert abs(found.density - wish) <= TOLERANCE * wish
    stored = list(store_folder("subnetworks").iterdir())
    assert 2 <= len(stored) <= MOST_RUNS
    same = find_subnetwork(model, table, corpus, replace(LEFT, sparsity_penalty=found.provenance["sparsity_penalty"]))
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, LEFT, density=wish) == found == same
    assert find_subnetwork(model, table, corpus, LEFT, density=str(first.density)) == first


@pytest.mark.parametrize(
    ("density", "config", "message"),
    [
        (0, LEFT, "density is 0; it must lie between 0 and 1"),
        (1, LEFT, "density is 1; it must lie between 0 and 1"),
        (1.5, LEFT, "density is 1.5; it must lie"),
        (float("nan"), LEFT, "density is nan; it must lie"),
        ("few", LEFT, "density is 'few'; it must be a number"),
        (0.1, QUICK, r"Both density \(0.1\) and sparsity_penalty \(1\) are given"),
        (0.9, replace(LEFT, attention=False), "only 42.86% of the maskable weights are searched"),
    ],
)
def test_a_density_that_no_search_gives_is_refused_before_one_begins(model, table, corpus, density, config, message):
    with pytest.raises(ValueError, match=message):
        find_subnetwork(model, table, corpus, config, density=density)
    assert not list(store_folder("subnetworks").iterdir())
