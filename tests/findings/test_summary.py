"""Notebook 09: all claims stand in one table, in order, and one page shows what the other notebooks measure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bigramlib.analysis.overlap import overlap_test
from bigramlib.analysis.residual import covariance_similarity
from bigramlib.findings import (
    base_to_build_on,
    bigram_target,
    find_subnetworks,
    first_layer_turn,
    limits_of_pretraining,
    necessary,
    overlap,
    paper_recipe,
    pretrain_mini,
    subnetworks_after_tuning,
    sweeps,
    through_pretraining,
    tuned_and_base,
    where_they_live,
)
from bigramlib.findings.claims import BIGRAM_SUBNETWORKS, COLUMNS, check, recorded, untestable
from bigramlib.findings.summary import ALL_CLAIMS, CLAIMS, FIRST_PAPER, claims_table, count, judge, measure_page, plot_page
from bigramlib.numeric import percent

NOTEBOOKS = [
    pretrain_mini, bigram_target, find_subnetworks, where_they_live, necessary, overlap, first_layer_turn, through_pretraining,
    base_to_build_on,
]  # fmt: skip
SECOND_PAPER = [tuned_and_base, subnetworks_after_tuning, limits_of_pretraining]
KEYS = [key for notebook in NOTEBOOKS for key in notebook.CLAIMS] + list(CLAIMS)
KEYS += [key for notebook in (*SECOND_PAPER, sweeps, paper_recipe) for key in notebook.CLAIMS]


def points(*, total=20_000_000, kept=10_000_000, r=0.96):
    """What `Study.frontier` gives of one subnetwork."""
    rows = pd.DataFrame({"case": ["full", "empty", "subnetwork"], "kept": [total, 0, kept], "total": total})
    return rows.assign(r=[0.5, 0.4, r], sparsity_penalty=[np.nan, np.nan, 10.0])


def test_no_claim_stands_in_two_notebooks_under_one_key_or_in_the_same_words():
    texts = [claim.text for claim in ALL_CLAIMS.values()]
    assert len(set(KEYS)) == len(KEYS) and len(set(texts)) == len(texts) == len(KEYS)


def test_the_claims_of_all_notebooks_come_in_the_order_of_the_notebooks():
    assert list(ALL_CLAIMS) == KEYS
    for notebook in (*NOTEBOOKS, *SECOND_PAPER, sweeps, paper_recipe):
        assert all(ALL_CLAIMS[key] is claim for key, claim in notebook.CLAIMS.items())


def test_every_claim_says_whose_it_is():
    assert {claim.source for claim in FIRST_PAPER.values()} == {BIGRAM_SUBNETWORKS}
    others = {claim.source for notebook in SECOND_PAPER for claim in notebook.CLAIMS.values()}
    assert BIGRAM_SUBNETWORKS not in others and {claim.source for claim in (sweeps.CLAIMS | paper_recipe.CLAIMS).values()} == {
        BIGRAM_SUBNETWORKS
    }
    assert list(claims_table(None).source) == [claim.source for claim in ALL_CLAIMS.values()]
    assert list(claims_table(None, FIRST_PAPER.values()).claim) == [claim.text for claim in FIRST_PAPER.values()]


def test_the_table_has_all_claims_in_order_whatever_was_recorded_first(tmp_path):
    necessary_, early, exists = (ALL_CLAIMS[key] for key in ("likely tokens suffer", "early bigram", "model is not bigram"))
    check(tmp_path, necessary_, likely=3.0, unlikely=1.0)
    untestable(tmp_path, early, "no checkpoints")
    check(tmp_path, exists, r=0.95)
    table = claims_table(tmp_path)
    assert list(table.columns) == [*COLUMNS, "source"] and list(table.claim) == [claim.text for claim in ALL_CLAIMS.values()]
    measured = table[table.holds != "not measured"]
    assert list(measured.claim) == [exists.text, early.text, necessary_.text]
    assert list(measured.holds) == ["no", "not testable", "yes"] and measured.ours.iloc[0] == "r 0.950"
    assert list(table.holds).count("not measured") == len(ALL_CLAIMS) - 3
    rows = pd.read_csv(tmp_path / "claims.csv").sort_values("claim", ignore_index=True)
    assert_frame_equal(measured.drop(columns="source").sort_values("claim", ignore_index=True), rows)


def test_without_a_folder_no_claim_is_measured(tmp_path):
    assert set(claims_table(None).holds) == {"not measured"}
    assert claims_table(tmp_path / "nothing").equals(claims_table(None))
    assert list(claims_table(None).paper) == [claim.paper for claim in ALL_CLAIMS.values()]


def test_a_recorded_row_of_no_claim_is_left_out_of_the_table(tmp_path):
    (tmp_path / "claims.csv").write_text("claim,paper,ours,holds\nA claim of another version,paper,r 1,yes\n")
    assert claims_table(tmp_path).equals(claims_table(None))


@pytest.mark.parametrize(
    ("values", "holds", "ours"),
    [
        ({}, "yes", "10.0M weights for r 0.960"),
        ({"kept": 16_000_000}, "no", "16.0M weights for r 0.960"),
        ({"r": 0.94}, "no", "10.0M weights for r 0.940"),
        ({"total": 9_900_000}, "not testable", "tiny gpt_neox has only 9.9M maskable weights"),
    ],
)
def test_about_ten_million_weights_suffice_or_not_where_there_are_so_many(study, tmp_path, values, holds, ours):
    (verdict,) = judge(tmp_path, study, points(**values))
    assert (verdict.claim, verdict.holds, verdict.ours) == (CLAIMS["ten million"], holds, ours)
    assert recorded(tmp_path)[verdict.claim.text][2:] == (ours, holds)


def test_claims_are_counted_and_those_that_fail_or_were_not_measured_are_named():
    claims = pd.DataFrame({"claim": ["a", "b", "c", "d", "e"], "holds": ["yes", "no", "yes", "not testable", "not measured"]})
    lines = ["yes: 2 of 5", "no: 1 of 5", "not testable: 1 of 5", "not measured: 1 of 5", "- b", "- e"]
    assert count(claims).splitlines() == lines
    assert count(claims.head(1)) == "yes: 1 of 1"


@pytest.fixture
def measured(study, quick):
    """The subnetworks of a study, and its page."""
    subnetworks = {penalty: study.find(penalty) for penalty in (1.0, 10.0)}
    return subnetworks, measure_page(study, subnetworks, 10.0, 1.0, 30.0, moment_tokens=512, lens_tokens=256)


def test_each_part_of_the_page_is_measured_as_in_its_notebook(study, measured):
    subnetworks, page = measured
    pruned = study.prune(30.0)
    assert page.subnetwork.hash == subnetworks[10.0].hash
    assert_frame_equal(page.points, study.frontier(subnetworks, draws=1).assign(model="trained"))
    assert_frame_equal(page.ablation, study.ablate(subnetworks[1.0], draws=1))
    assert_frame_equal(page.overlap.drop(columns="pair"), overlap_test(subnetworks[10.0], pruned).iloc[[-1]])
    assert list(page.overlap.pair) == [f"{percent(subnetworks[10.0].density, 1)} / {percent(pruned.density, 1)} kept"]
    moments = first_layer_turn.moments_of(study, subnetworks[10.0], 512)
    assert np.array_equal(page.similarity, covariance_similarity(moments[first_layer_turn.FULL]))
    assert_frame_equal(page.lenses, first_layer_turn.lens_reports(study, moments, 256))
    assert page.development is None


def titles(figure):
    return {place.get_title() for place in figure.axes} - {""}


def test_the_page_of_a_model_without_checkpoints_has_three_rows(measured):
    figure = plot_page(measured[1], "Bigram subnetworks of tiny")
    figure.canvas.draw()
    assert {"They exist", "Necessary", "Shared with optimal pruning"} <= titles(figure)
    assert figure.get_suptitle() == "Bigram subnetworks of tiny"
    assert "In the first layer's MLP" not in titles(figure) and figure.get_figheight() == 3 * 5
    plt.close(figure)


def test_the_page_of_a_model_with_checkpoints_shows_its_pretraining(study, checkpoints, measured):
    page = measured[1]
    plain = through_pretraining.through_pretraining(study, [10.0])
    assert_frame_equal(page.development, plain)
    figure = plot_page(page, "Bigram subnetworks of tiny")
    figure.canvas.draw()
    assert {"How bigram-like", "In the first layer's MLP", "Shared with the final subnetwork"} <= titles(figure)
    assert figure.get_figheight() == 4 * 5
    plt.close(figure)
