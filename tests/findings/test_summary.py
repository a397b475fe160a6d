"""Notebook 09: all claims stand in one table, in order, and one page shows what the other notebooks measure."""

import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

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
from bigramlib.findings.style import read_tables
from bigramlib.findings.summary import ALL_CLAIMS, CLAIMS, FIRST_PAPER, SHOWN, claims_table, count, judge, plot_page

FIGURES = Path(__file__).parents[2] / "figures"
NOTEBOOKS = [
    pretrain_mini, bigram_target, find_subnetworks, where_they_live, necessary, overlap, first_layer_turn, through_pretraining,
    base_to_build_on,
]  # fmt: skip
SECOND_PAPER = [tuned_and_base, subnetworks_after_tuning, limits_of_pretraining]
KEYS = [key for notebook in NOTEBOOKS for key in notebook.CLAIMS] + list(CLAIMS)
KEYS += [key for notebook in (*SECOND_PAPER, sweeps, paper_recipe) for key in notebook.CLAIMS]


def points(*, total=20_000_000, kept=10_000_000, r=0.96):
    """The table of notebook 02 with one subnetwork."""
    rows = pd.DataFrame({"case": ["full", "empty", "subnetwork"], "kept": [total, 0, kept], "total": total})
    rows = rows.assign(r=[0.5, 0.4, r], sparsity_penalty=[np.nan, np.nan, 10.0], model="trained")
    control = rows.iloc[[2]].assign(kept=1, r=0.99, model="random")  # no subnetwork of the model itself
    return pd.concat([rows, control], ignore_index=True)


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
        ({"total": 9_900_000}, "not testable", "tiny has only 9.9M maskable weights"),
    ],
)
def test_about_ten_million_weights_suffice_or_not_where_there_are_so_many(tmp_path, values, holds, ours):
    (verdict,) = judge(tmp_path, "tiny", points(**values))
    assert (verdict.claim, verdict.holds, verdict.ours) == (CLAIMS["ten million"], holds, ours)
    assert recorded(tmp_path)[verdict.claim.text][2:] == (ours, holds)


def test_claims_are_counted_and_those_that_fail_or_were_not_measured_are_named():
    claims = pd.DataFrame({"claim": ["a", "b", "c", "d", "e"], "holds": ["yes", "no", "yes", "not testable", "not measured"]})
    lines = ["yes: 2 of 5", "no: 1 of 5", "not testable: 1 of 5", "not measured: 1 of 5", "- b", "- e"]
    assert count(claims).splitlines() == lines
    assert count(claims.head(1)) == "yes: 1 of 1"


def test_nothing_is_judged_where_notebook_02_was_not_run(tmp_path):
    assert judge(tmp_path, "tiny", read_tables(tmp_path, SHOWN)["02_frontier"]) == []
    assert not any(tmp_path.iterdir())


def letters_and_titles(figure):
    figure.canvas.draw()
    texts = [text.get_text() for place in figure.axes for text in place.texts]
    titles = {place.get_title() for place in figure.axes} - {""}
    plt.close(figure)
    return "".join(sorted(text for text in texts if len(text) == 1 and text.isupper())), titles


def test_the_page_shows_what_the_tables_of_the_other_notebooks_have():
    tables = read_tables(FIGURES / "mini", SHOWN)
    figure = plot_page(tables, "Bigram subnetworks of mini")
    frontier, removed, similar = figure.axes[0], figure.subfigs[1].axes[0], figure.subfigs[1].axes[2]
    assert figure.get_suptitle() == "Bigram subnetworks of mini"
    trained = tables["02_frontier"].query("model == 'trained' and case == 'subnetwork'").sort_values("kept")
    assert list(frontier.containers[0].lines[0].get_ydata()) == list(trained.r)
    largest = tables["04_ablation"].groupby("subnetwork", sort=False).get_group(tables["04_ablation"].subnetwork[0])
    assert [text.get_text() for text in removed.get_yticklabels()] == list(largest.case[1:])[::-1]
    full = tables["06_similarity"].query("model == 'full model'").set_index(["layer", "other"]).value.unstack()
    assert np.allclose(similar.collections[0].get_array().reshape(full.shape), full)
    pairs = [text.get_text() for text in figure.subfigs[1].axes[1].get_xticklabels()]
    assert "by component" not in pairs and pairs == list(tables["05_overlap"].query("component == 'total'").pair)[:-1]
    shown = letters_and_titles(figure)
    assert shown[0] == "ABCDEFGHIJKL"
    assert {"They exist", "Necessary", "Shared with optimal pruning", "How bigram-like"} <= shown[1]


def test_the_page_leaves_out_what_was_not_run(tmp_path):
    assert plot_page(read_tables(tmp_path, SHOWN), "nothing") is None
    for name in ("02_frontier", "02_where", "04_ablation", "06_turn"):
        shutil.copy(FIGURES / "mini" / f"{name}.csv", tmp_path)
    figure = plot_page(read_tables(tmp_path, SHOWN), "a part")
    assert len(figure.subfigs) == 3
    assert letters_and_titles(figure)[0] == "ABCDEFG"
