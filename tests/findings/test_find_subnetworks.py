"""Notebook 02: subnetworks are found in the model and its controls, drawn, and judged against them."""

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from bigramlib import Subnetwork
from bigramlib.findings.claims import recorded
from bigramlib.findings.find_subnetworks import (
    CLAIMS,
    decided,
    find_in_controls,
    frontiers,
    histories,
    judge,
    plot_frontier,
    plot_history,
    provenances,
)

EMBEDDING = "gpt_neox.embed_in.weight"


def row(model, case, r, *, kept=40, penalty=10.0, spread=0.01):
    measures = {"r": r, "r_low": r - 0.01, "r_high": r + 0.01, "r_spread": spread}
    return {"model": model, "case": case, "sparsity_penalty": penalty, "kept": kept, "total": 1000} | measures


def points(*, r=0.97, kept=40, random=0.3, spread=0.01, empty=0.4, controls=(0.6, 0.7), tiny=0.945):
    """What `frontiers` gives: one subnetwork that is looked at, a tiny one, and the best of each control."""
    rows = [
        row("trained", "full", 0.5, kept=1000, penalty=np.nan),
        row("trained", "empty", empty, kept=0, penalty=np.nan),
        row("trained", "subnetwork", r, kept=kept),
        row("trained", "random subnetwork", random, kept=kept, spread=spread),
    ]
    if tiny is not None:
        rows.append(row("trained", "subnetwork", tiny, kept=5, penalty=100.0))
        rows.append(row("trained", "random subnetwork", 0.1, kept=5, penalty=100.0))
    for name, best in zip(("random", "random, trained embeddings"), controls, strict=False):
        rows.append(row(name, "full", 0.99, kept=1000, penalty=np.nan))
        rows.append(row(name, "subnetwork", best - 0.1, kept=9))
        rows.append(row(name, "subnetwork", best, kept=40, penalty=3.0))
    return pd.DataFrame(rows)


def verdict_of(key, folder=None, **values):
    verdicts = judge(folder, points(**values))
    assert [verdict.claim for verdict in verdicts] == list(CLAIMS.values())
    return verdicts[list(CLAIMS).index(key)]


def test_controls_are_searched_with_the_trained_embeddings_and_without(study, quick):
    found = find_in_controls(study, [3.0, 30.0], seed=1)
    assert list(found) == ["random, trained embeddings", "random"]
    for (control, subnetworks), keep_embeddings in zip(found.values(), (True, False), strict=True):
        state = control.model.hf.state_dict()
        assert torch.equal(state[EMBEDDING], study.model.hf.state_dict()[EMBEDDING]) is keep_embeddings
        plain = study.randomly_initialized(1, keep_embeddings)
        assert list(subnetworks) == [3.0, 30.0] and control.model.weights_hash == plain.model.weights_hash
        assert [each.hash for each in subnetworks.values()] == [plain.find(penalty, 1).hash for penalty in (3.0, 30.0)]


def test_without_penalties_no_control_is_made(study):
    assert find_in_controls(study, []) == {}


def test_histories_are_those_of_the_searches_with_their_penalty(study, quick):
    subnetworks = {3.0: study.find(3.0), 30.0: study.find(30.0)}
    found = histories(subnetworks)
    assert list(found.sparsity_penalty.unique()) == [3.0, 30.0]
    for penalty, subnetwork in subnetworks.items():
        own = found[found.sparsity_penalty == penalty].drop(columns="sparsity_penalty")
        assert_frame_equal(own, subnetwork.history())


def test_provenances_have_a_row_for_each_search_with_its_settings_and_no_history(study, quick):
    subnetworks = {3.0: study.find(3.0), 30.0: study.find(30.0)}
    found = provenances(subnetworks)
    assert list(found.sparsity_penalty) == list(found["config.sparsity_penalty"]) == [3.0, 30.0]
    assert list(found.kept) == [each.kept for each in subnetworks.values()] and set(found["config.steps"]) == {3}
    assert set(found.weights_hash) == {study.model.weights_hash} and "history" not in found


def test_a_search_says_whether_its_gates_were_decided(model):
    masks = Subnetwork.full(model).masks
    subnetworks = {
        penalty: Subnetwork(masks, model.architecture, {"converged": converged})
        for penalty, converged in ((3.0, True), (10.0, False))
    }
    assert decided(subnetworks).to_dict() == {3.0: "yes", 10.0: "no"}


def test_frontiers_are_those_of_the_model_with_random_draws_and_of_the_controls_without(study, sparse, quick):
    controls = find_in_controls(study, [3.0])
    found = frontiers(study, {3.0: sparse}, controls, draws=2)
    assert list(found.model.unique()) == ["trained", "random, trained embeddings", "random"]
    expected = {"trained": study.frontier({3.0: sparse}, draws=2)}
    expected |= {name: control.frontier(subnetworks) for name, (control, subnetworks) in controls.items()}
    for name, plain in expected.items():
        own = found[found.model == name].drop(columns="model").reset_index(drop=True)
        assert_frame_equal(own, plain)
    assert set(found[found.case == "random subnetwork"].model) == {"trained"}


@pytest.mark.parametrize(
    ("key", "values", "holds"),
    [
        ("exists", {}, "yes"),
        ("exists", {"r": 0.948}, "no"),
        ("exists", {"kept": 60}, "no"),
        ("exists, tiny", {}, "yes"),
        ("exists, tiny", {"tiny": 0.93}, "no"),
        ("exists, tiny", {"tiny": None}, "not testable"),
        ("random fails", {}, "yes"),
        ("random fails", {"random": 0.9}, "no"),
        ("random fails", {"spread": 0.6}, "no"),
        ("empty fails", {}, "yes"),
        ("empty fails", {"empty": 0.9}, "no"),
        ("training matters", {}, "yes"),
        ("training matters", {"controls": (0.97, 0.7)}, "no"),
        ("training matters", {"controls": (0.6, 0.97)}, "no"),
        ("training matters", {"controls": ()}, "not testable"),
    ],
)
def test_each_claim_is_judged_by_its_points(tmp_path, key, values, holds):
    verdict = verdict_of(key, tmp_path, **values)
    assert verdict.holds == holds
    assert recorded(tmp_path)[CLAIMS[key].text][2:] == (verdict.ours, holds)
    assert list(recorded(tmp_path)) == [claim.text for claim in CLAIMS.values()]


def test_the_subnetwork_that_is_judged_is_the_smallest_that_reaches_the_papers_r():
    larger = pd.DataFrame([row("trained", "subnetwork", 0.99, kept=400, penalty=1.0)])
    verdicts = judge(None, pd.concat([points(), larger], ignore_index=True))
    assert verdicts[0].ours == "r 0.970 (0.960 to 0.980) with 4.00% kept"
    assert verdicts[2].ours == "r 0.300 (draws +- 0.010) against 0.970"


def test_the_best_of_each_control_is_compared():
    assert verdict_of("training matters").ours == "best r 0.600; with trained embeddings 0.700; against 0.970"


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_frontier_is_drawn_with_a_line_for_each_model_and_its_references(axes):
    plot_frontier(axes[0], points())
    assert len(axes[0].containers) == 4 and len(labels(axes[0])) == 6
    assert {"full model", "empty subnetwork", "subnetworks of the trained model"} <= set(labels(axes[0]))
    trained = next(each for each in axes[0].containers if each.get_label() == "subnetworks of the trained model")
    assert list(trained.lines[0].get_xdata()) == [5, 40] and list(trained.lines[0].get_ydata()) == [0.945, 0.97]


def test_the_frontier_of_one_subnetwork_without_controls_or_draws_is_drawn(axes):
    found = points(controls=(), tiny=None)
    plot_frontier(axes[0], found[found.case != "random subnetwork"])
    assert set(labels(axes[0])) == {"subnetworks of the trained model", "full model", "empty subnetwork"}


@pytest.mark.parametrize("penalties", [[3.0], [3.0, 30.0]])
def test_the_history_is_drawn_with_a_line_for_each_penalty(axes, study, quick, penalties):
    subnetworks = {penalty: study.find(penalty) for penalty in penalties}
    plot_history(axes[0], axes[1], histories(subnetworks))
    assert len(axes[0].lines) == len(axes[1].lines) == len(penalties)
    assert labels(axes[0]) == [f"{penalty:g}" for penalty in penalties]
    for line, undecided, found in zip(axes[0].lines, axes[1].lines, subnetworks.values(), strict=True):
        assert list(line.get_ydata()) == list(found.history().kl)
        assert list(undecided.get_ydata()) == list(found.history().undecided)
