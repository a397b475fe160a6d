"""Text of one document: its figures are measured, their intervals are unknown, which is said once and drawn as none."""

import numpy as np
import pandas as pd
import pytest
from conftest import VOCABULARY

from bigramlib import Subnetwork, TokenCorpus, ablate, evaluate, frontier
from bigramlib.analysis.behaviours import running_text
from bigramlib.analysis.circuits import build_up, follow, gains
from bigramlib.analysis.lenses import lens_report
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.findings.across_models import plot_models
from bigramlib.findings.base_to_build_on import plot_build_up, plot_edits, plot_gains
from bigramlib.findings.find_subnetworks import plot_frontier
from bigramlib.findings.first_layer_turn import plot_turn
from bigramlib.findings.necessary import plot_ablation
from bigramlib.findings.through_pretraining import plot_through_pretraining


@pytest.fixture(scope="module")
def single():
    ids = (np.random.default_rng(3).random(600) ** 2 * 250).astype(np.int64)
    return TokenCorpus(ids, np.array([0]), VOCABULARY, "one document")


@pytest.fixture(scope="module")
def some(model):
    return Subnetwork.full(model).random_like(0) & Subnetwork.mlp(model, 0)


def said(caplog):
    """What was logged about intervals."""
    return [record.getMessage() for record in caplog.records if record.name == "bigramlib.analysis.intervals"]


def warnings_of(caplog, measure):
    caplog.clear()
    found = measure()
    [message] = said(caplog)
    assert "95 % intervals are unknown" in message
    return found


def test_an_evaluation_says_once_that_its_interval_is_unknown(model, single, table, caplog):
    result = warnings_of(caplog, lambda: evaluate(model, single, table))
    assert np.isfinite(result.r) and np.isnan(result.r_interval).all()
    assert result.rise_from(result)[0] == 0 and np.isnan(result.rise_from(result)[1:]).all()


def test_enough_documents_are_measured_without_a_word(model, corpus, table, caplog):
    assert np.isfinite(evaluate(model, corpus, table).r_interval).all()
    assert not said(caplog)


def test_frontier_and_ablation_are_drawn_without_bars(model, single, table, some, axes):
    points = frontier(model, {1.0: some}, single, table, draws=2).assign(model="trained")
    assert points.r.notna().all() and points[["r_low", "r_high"]].isna().all(axis=None)
    plot_frontier(axes[0], points)
    plot_models(axes[1:3], points)
    plot_ablation(axes[3], ablate(model, some, single, table, draws=2))


def test_pretraining_and_edits_are_drawn_without_bars(axes):
    unknown = pd.DataFrame({"r": [0.8, 0.9], "r_low": np.nan, "r_high": np.nan, "kept": 10, "edit": ["a", "b"]})
    facts = {"step": [0, 8], "sparsity_penalty": 1.0, "full_r": 0.5, "first_mlp_share": 0.5, "times_chance": 2.0}
    plot_through_pretraining(axes[:3], unknown.assign(**facts))
    plot_edits(axes[3], unknown)


def test_lenses_say_it_once_for_all_layers_and_are_drawn(model, corpus, single, axes, caplog):
    moments = ResidualMoments.collect(model, corpus, max_tokens=600)
    report = warnings_of(caplog, lambda: lens_report(model, moments, single, max_tokens=300))
    plot_turn(axes, report.assign(model="full model"))


def test_gains_say_it_once_for_all_parts_and_no_dot_is_drawn(model, single, some, axes, caplog):
    text = running_text(single)
    bought = warnings_of(caplog, lambda: gains(model, some, [text]))
    assert bought.gain.notna().all() and bought[["low", "high"]].isna().all(axis=None)
    plot_gains(axes[0], bought)
    assert not axes[0].lines
    path = build_up(model, some, text, parts=["mlp 1", "head 0.0"])
    judged = warnings_of(caplog, lambda: follow(model, some, path, [text]))
    plot_build_up(axes[2:], judged.assign(base="bigram"), full=1.0)
