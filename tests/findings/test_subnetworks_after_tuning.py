"""Notebook 12: subnetworks before and after tuning are compared with seeds, chance and random weights, drawn, and judged."""

import numpy as np
import pandas as pd
import pytest
import torch

from bigramlib import Subnetwork
from bigramlib.analysis.overlap import jaccard
from bigramlib.findings.claims import recorded
from bigramlib.findings.subnetworks_after_tuning import (
    ACROSS,
    CLAIMS,
    RANDOM,
    SUBNETWORK,
    change_inside,
    find_all,
    gentle,
    judge,
    judge_parts,
    overlaps,
    plot_overlaps,
    plot_removals,
    removals,
    sizes,
    transplants,
)
from bigramlib.instruction.pairs import FEW_SHOT, TUNED

TOKENS = 512


@pytest.fixture
def studies(study):
    """The study of a model and that of one with other weights, as if tuned from it."""
    return {"base": study, "tuned": study.randomly_initialized(1)}


@pytest.fixture
def masks(model):
    return [Subnetwork.mlp(model, layer, dimensions) for layer, dimensions in ((0, None), (0, [0, 1]), (1, [3]))]


def test_gentle_tuning_keeps_its_changes_small_enough_to_be_kept_beside_the_notebooks(model):
    config = gentle(model, 100, 5e-4)
    assert config.rank == 8 and (config.steps, config.learning_rate) == (100, 5e-4)


def test_subnetworks_are_found_in_both_models_for_every_seed(quick, studies):
    found = find_all(studies, 10.0, {"base": [0, 1], "tuned": [0, 1]})
    assert set(found) == {(name, seed) for name in studies for seed in (0, 1)}
    assert found["tuned", 1].provenance["config"]["seed"] == 1
    assert found["tuned", 0].provenance["weights_hash"] == studies["tuned"].model.weights_hash
    table = sizes(studies, found, TOKENS)
    assert list(table.model) == ["base", "base", "tuned", "tuned"] and list(table.seed) == [0, 1] * 2
    plain = studies["tuned"].evaluate(found["tuned", 0], max_tokens=TOKENS)
    row = table.iloc[2]
    assert (row.r, row.kl, row.r_low) == (plain.r, plain.kl, plain.r_interval[0])
    assert (row.kept, row.first_mlp) == (found["tuned", 0].kept, found["tuned", 0].first_mlp_share())


def test_overlaps_are_means_over_pairs_of_each_kind(masks):
    large, small, elsewhere = masks
    found = {("base", 0): large, ("base", 1): small, ("tuned", 0): small, ("tuned", 1): elsewhere}
    table = overlaps(found, {("tuned", 0): large}).set_index("pair")
    assert table.jaccard["two seeds of the base"] == jaccard(large, small)
    assert table.jaccard["two seeds of the tuned model"] == 0
    assert table.jaccard["base and tuned, same seed"] == pytest.approx(jaccard(large, small) / 2)
    assert table.jaccard[ACROSS] == pytest.approx(1 / 2)
    assert table.jaccard["base and tuned, other seeds, equal size"] == jaccard(large, small)
    assert table.largest["two seeds of the base"] == small.kept / large.kept
    assert table.contained["two seeds of the base"] == 1


def test_chance_is_what_random_masks_of_the_same_sizes_share(half):
    random = [half.random_like(seed) for seed in range(2)]
    table = overlaps({("base", 0): random[0], ("base", 1): random[1]}, {})
    assert list(table.pair) == ["two seeds of the base"]
    assert table.chance[0] == pytest.approx(table.jaccard[0], abs=0.02)


def test_each_mask_is_measured_with_its_own_and_the_others_weights(studies, masks):
    table = transplants(studies, {"base": masks[0], "tuned": masks[1]}, TOKENS)
    assert list(zip(table["mask"], table.weights, strict=True)) == [
        ("base", "base"), ("base", "tuned"), ("tuned", "base"), ("tuned", "tuned"),
    ]  # fmt: skip
    placed = masks[0].transplanted(studies["tuned"].model)
    assert table.r[1] == studies["tuned"].evaluate(placed, max_tokens=TOKENS).r
    assert table.r[3] == studies["tuned"].evaluate(masks[1], max_tokens=TOKENS).r


def test_a_change_of_a_subnetwork_alone_lies_in_it_and_an_even_one_everywhere(model, tokenizer, sparse):
    from conftest import build

    changed = build("gpt_neox", tokenizer)
    with torch.no_grad():
        for name, weight in changed.maskable.items():
            weight += sparse.masks[name]
    found = change_inside(model, changed, sparse, 3)
    assert found["inside"] == pytest.approx(1) and found["ratio"] == pytest.approx(1 / found["random"])
    with torch.no_grad():
        for name, weight in changed.maskable.items():
            weight += ~sparse.masks[name]
    assert change_inside(model, changed, sparse, 3)["ratio"] == pytest.approx(1, abs=1e-4)


def test_removals_are_the_rises_of_ablations_in_both_models(studies, sparse):
    table = removals(studies, sparse, 2, TOKENS).set_index(["model", "removed"])
    for name, study in studies.items():
        plain = study.ablate(sparse.transplanted(study.model), draws=2, max_tokens=TOKENS)
        assert table.rise[name, SUBNETWORK] == plain.rise["full - subnetwork"]
        assert table.rise[name, RANDOM] == plain.rise["full - random"]
        assert table.rise_low[name, SUBNETWORK] == plain.rise_low["full - subnetwork"]


# -- verdicts -----------------------------------------------------------------------------------------------------------


def measured(tuned_r=0.95, moved=0.93, across=0.6, ratio=1.0, removed=0.4, random=0.01, first=0.8):
    sized = pd.DataFrame({
        "model": ["base", "tuned"] * 2, "seed": [0, 0, 1, 1], "r": [0.95, tuned_r] * 2, "density": [0.0138, 0.0148] * 2
    })  # fmt: skip
    pairs = ["two seeds of the base", "two seeds of the tuned model", "base and tuned, same seed", ACROSS]
    agreed = pd.DataFrame({"pair": pairs, "jaccard": [0.63, 0.62, across, across], "chance": 0.01})
    placed = pd.DataFrame({"mask": "base", "weights": ["base", "tuned"], "r": [0.95, moved]})
    placed = placed.assign(r_low=placed.r - 0.01, r_high=placed.r + 0.01)
    costs = pd.DataFrame({
        "model": ["base", "base", "tuned", "tuned"], "removed": [SUBNETWORK, RANDOM] * 2, "rise": [0.3, 0.01, removed, random]
    })  # fmt: skip
    costs = costs.assign(rise_low=costs.rise - 0.01, rise_high=costs.rise + 0.01)
    parts = ["head 0.0", "head 0.1", "head 1.0", "head 1.1", "mlp 0", "mlp 1"]
    losses = [0.0, 0.02, 0.04, 0.05, first, 0.1]
    dropped = pd.DataFrame([
        {"task": task, "part": part, "arm": arm, "drop": loss + 0.01 * (task == "a")}
        for task in "abc" for arm in (FEW_SHOT, TUNED) for part, loss in zip(parts, losses, strict=True)
    ])  # fmt: skip
    changed = {"inside": 0.014 * ratio, "random": 0.014, "spread": 0.001, "ratio": ratio}
    return sized, agreed, placed, changed, costs, dropped


def judged(folder, *tables):
    *others, dropped = tables
    return judge(folder, *others) + judge_parts(folder, dropped)


def holds(**values):
    verdicts = judged(None, *measured(**values))
    names = {claim.text: name for name, claim in CLAIMS.items()}
    return {names[verdict.claim.text]: verdict.holds for verdict in verdicts}


@pytest.mark.parametrize(
    ("claim", "values"),
    [
        ("subnetwork after tuning", {"tuned_r": 0.92}),
        ("subnetwork after tuning", {"tuned_r": 0.98}),
        ("transplanted", {"moved": 0.89}),
        ("moved like a seed", {"across": 0.57}),
        ("tuning is blind", {"ratio": 1.3}),
        ("tuning is blind", {"ratio": 0.7}),
        ("stays necessary", {"removed": 0.29}),
        ("stays necessary", {"random": 0.05}),
        ("first MLP costs most", {"first": 0.09}),
    ],
)
def test_each_claim_fails_by_what_it_is_about_alone(claim, values):
    assert set(holds().values()) == {"yes"}
    assert [name for name, found in holds(**values).items() if found != "yes"] == [claim]


def test_other_parts_after_tuning_than_in_context_are_seen():
    dropped = measured()[-1]
    tuned = dropped.arm == TUNED
    dropped.loc[tuned, "drop"] = -dropped["drop"][tuned]
    found = {verdict.claim: verdict.holds for verdict in judge_parts(None, dropped)}
    assert found[CLAIMS["same parts"]] == found[CLAIMS["first MLP costs most"]] == "no"


def test_verdicts_show_numbers_and_are_recorded(tmp_path):
    verdicts = judged(tmp_path, *measured())
    assert verdicts[0].ours == "r 0.950 at 1.48% kept, the base's 0.950 at 1.38% (means of 2 seeds)"
    assert verdicts[2].ours == "Jaccard 0.60 of base and tuned with other seeds, 0.63 of two seeds of the base; chance 0.010"
    assert len(recorded(tmp_path)) == len(CLAIMS) == len(verdicts)


def test_without_a_second_seed_or_able_tasks_claims_are_not_testable():
    sized, agreed, *rest, dropped = measured()
    agreed = agreed[~agreed.pair.str.startswith("two seeds")]
    found = {verdict.claim: verdict.holds for verdict in judged(None, sized, agreed, *rest, dropped.iloc[:0])}
    untested = [claim for claim, held in found.items() if held == "not testable"]
    assert untested == [CLAIMS[name] for name in ("moved like a seed", "same parts", "first MLP costs most")]


def test_overlaps_are_drawn_with_a_bar_for_each_kind_and_chance(axes):
    _, agreed, *_ = measured()
    plot_overlaps(axes[0], agreed)
    assert [bar.get_width() for bar in axes[0].patches] == list(agreed.jaccard[::-1])
    assert {line.get_xdata()[0] for line in axes[0].lines} == {0.01}


def test_removals_are_drawn_in_pairs_with_their_numbers(axes):
    costs = measured()[4]
    plot_removals(axes[0], costs)
    assert sorted(bar.get_height() for bar in axes[0].patches) == sorted(costs.rise)
    assert [text.get_text() for text in axes[0].texts] == ["+0.30", "+0.40", "+0.01", "+0.01"]
    plot_removals(axes[1], costs.assign(rise_low=np.nan, rise_high=np.nan))
