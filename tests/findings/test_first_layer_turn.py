"""Notebook 06: the residual stream of the model, the subnetwork and a random one is measured, drawn, and judged."""

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from bigramlib.findings.claims import recorded
from bigramlib.findings.first_layer_turn import (
    BIGRAM,
    CLAIMS,
    FULL,
    RANDOM,
    judge,
    lens_reports,
    long_table,
    moments_of,
    plot_similarities,
    plot_turn,
)

ALIKE = np.full((4, 4), 0.9) + 0.1 * np.eye(4)
APART = np.array([[1, 0.1, 0.1, 0.2], [0.1, 1, 0.8, 0.7], [0.1, 0.8, 1, 0.8], [0.2, 0.7, 0.8, 1]])


def report(full=(0.1, 0.7, 0.8), bigram=(0.1, 0.9, 0.95), recalls=(0.99, 0.3, 0.1)):
    """What `lens_reports` gives for two layers, by boundary: r in the full model and the subnetwork, and recall in both."""
    tables = []
    for name, rs in ((FULL, full), (BIGRAM, bigram), (RANDOM, (0.1, 0.2, 0.3))):
        table = pd.DataFrame({"layer": range(3), "r": rs, "dot_recall_1": recalls, "rotation_final": [60.0, 30.0, 0.0]})
        table = table.assign(r_low=table.r - 0.05, r_high=table.r + 0.05, recall_1=0.9, direct_recall_1=[1.0, 0.2, 0.0])
        near = {"dot_recall_1_low": table.dot_recall_1 - 0.02, "dot_recall_1_high": table.dot_recall_1 + 0.02}
        tables.append(table.assign(**near, model=name))
    return pd.concat(tables)


def verdict_of(key, folder=None, *, lenses=None, full=APART, bigram=APART, random=ALIKE):
    lenses = report() if lenses is None else lenses
    verdicts = judge(folder, lenses, {FULL: full, BIGRAM: bigram, RANDOM: random})
    assert [verdict.claim for verdict in verdicts] == list(CLAIMS.values())
    verdict = verdicts[list(CLAIMS).index(key)]
    assert folder is None or recorded(folder)[verdict.claim.text][2:] == (verdict.ours, verdict.holds)
    return verdict


def test_moments_are_those_of_the_model_the_subnetwork_and_a_random_one_of_its_size(study, sparse):
    found = moments_of(study, sparse, 512)
    parts = {FULL: None, BIGRAM: sparse, RANDOM: sparse.random_like(0)}
    assert list(found) == list(parts)
    for name, part in parts.items():
        plain = study.moments(part, max_tokens=512)
        assert torch.equal(found[name].scatter, plain.scatter) and found[name].n == plain.n
    assert found[BIGRAM].subnetwork is sparse and found[RANDOM].subnetwork.hash == parts[RANDOM].hash


def test_lens_reports_are_those_of_each_with_its_name(study, sparse):
    moments = {name: found for name, found in moments_of(study, sparse, 512).items() if name != RANDOM}
    found = lens_reports(study, moments, 256)
    assert list(found.model.unique()) == [FULL, BIGRAM]
    for name, each in moments.items():
        plain = study.lens_report(each, max_tokens=256)
        assert_frame_equal(found[found.model == name].drop(columns="model"), plain)


def test_the_long_table_has_a_row_for_each_pair_of_boundaries():
    grid = np.arange(6.0).reshape(2, 3)
    found = long_table({FULL: grid, BIGRAM: grid + 10})
    assert list(found.columns) == ["model", "layer", "other", "value"] and len(found) == 12
    cells = found.set_index(["model", "layer", "other"]).value
    assert cells[FULL, 1, 2] == 5 and cells[BIGRAM, 0, 1] == 11


@pytest.mark.parametrize(
    ("full", "bigram", "holds"),
    [
        ((0.1, 0.7, 0.8), (0.1, 0.9, 0.95), "yes"),
        ((0.1, 0.2, 0.8), (0.1, 0.9, 0.95), "no"),
        ((0.1, 0.7, 0.8), (0.1, 0.2, 0.95), "no"),
        ((0.8, 0.8, 0.8), (0.1, 0.9, 0.95), "no"),
        ((0.9, 0.5, 0.1), (0.1, 0.9, 0.95), "no"),
    ],
)
def test_the_turn_is_in_the_first_layer_where_r_rises_most_there_in_both(tmp_path, full, bigram, holds):
    assert verdict_of("turn", tmp_path, lenses=report(full, bigram)).holds == holds


def test_the_turn_is_told_with_its_layers_and_rises():
    assert verdict_of("turn").ours == ("lens r rises most at layer 1 (by 0.60, to 0.70, 0.65 to 0.75) and at layer 1 (by 0.80)")
    assert "rises most at layer 2 (by 0.60, to 0.80, 0.75 to 0.85)" in verdict_of("turn", lenses=report((0.1, 0.2, 0.8))).ours


def test_no_turn_is_seen_where_no_r_is_known(tmp_path):
    unknown = (np.nan, np.nan, np.nan)
    verdict = verdict_of("turn", tmp_path, lenses=report(unknown, unknown))
    assert verdict.holds == "no" and "to unknown, interval unknown: too few to tell" in verdict.ours


@pytest.mark.parametrize(("recalls", "holds"), [((0.99, 0.3, 0.1), "yes"), ((0.99, 0.95, 0.1), "no")])
def test_the_current_token_fades_where_the_releases_recall_falls_in_the_first_layer(tmp_path, recalls, holds):
    verdict = verdict_of("current token fades", tmp_path, lenses=report(recalls=recalls))
    before, after, last = recalls
    assert verdict.holds == holds and verdict.ours == (
        f"recall@1 by dot product (the release's measure) {before:.3f} to {after:.3f} ({after - 0.02:.3f} to "
        f"{after + 0.02:.3f}), {last:.3f} at the last layer; by centred cosine 0.900 to 0.900, 0.900; "
        "without a map 1.00 to 0.20"
    )


def test_recall_is_judged_in_the_full_model():
    lenses = report()
    lenses.loc[lenses.model == BIGRAM, "dot_recall_1"] = 0.99
    assert verdict_of("current token fades", lenses=lenses).holds == "yes"


@pytest.mark.parametrize(
    ("bigram", "random", "holds"),
    [(APART, ALIKE, "yes"), (APART, 0.8 * ALIKE, "no"), (ALIKE, ALIKE, "no"), (APART, APART, "no")],
)
def test_random_weights_show_no_turn_where_all_their_layers_are_alike_and_the_subnetworks_are_not(
    tmp_path, bigram, random, holds
):
    verdict = verdict_of("no turn in random weights", tmp_path, bigram=bigram, random=random)
    assert verdict.holds == holds
    assert verdict.ours == f"lowest similarity {random.min():.2f}; bigram subnetwork {bigram.min():.2f}"


def test_embeddings_are_apart_where_later_neighbours_are_more_alike(tmp_path):
    verdict = verdict_of("embeddings apart", tmp_path)
    assert verdict.holds == "yes"
    assert verdict.ours == "embeddings to later layers at most 0.20; later neighbours at least 0.80"
    near = APART.copy()
    near[0, 3] = near[3, 0] = 0.85
    assert verdict_of("embeddings apart", tmp_path, full=near).holds == "no"
    loose = APART.copy()
    loose[2, 3] = loose[3, 2] = 0.15
    assert verdict_of("embeddings apart", tmp_path, full=loose).holds == "no"


def test_similarities_are_drawn_as_a_heat_map_each_with_numbers_where_there_is_room(axes):
    plot_similarities(axes[:2], {FULL: APART, BIGRAM: np.ones((9, 9))})
    assert [place.get_title() for place in axes[:2]] == [FULL, BIGRAM]
    assert np.array_equal(axes[0].collections[0].get_array(), APART)
    assert [len(place.texts) for place in axes[:2]] == [16, 0]
    assert {place.collections[0].get_clim() for place in axes[:2]} == {(0, 1)}


def test_the_turn_is_drawn_with_a_line_for_each_model_and_pale_ones_for_the_cosine(axes):
    found = report()
    plot_turn(axes, found)
    assert [len(place.lines) for place in axes] == [3, 6, 3, 3]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [FULL, BIGRAM, RANDOM]
    for place, column in zip(axes, ("r", "dot_recall_1", "direct_recall_1", "rotation_final"), strict=True):
        assert list(place.lines[0].get_ydata()) == list(found[found.model == FULL][column])
    assert list(axes[1].lines[1].get_ydata()) == [0.9] * 3 and axes[1].lines[1].get_alpha() == 0.3


def test_the_turn_of_one_model_is_drawn(axes):
    plot_turn(axes, report().head(3))
    assert [len(place.lines) for place in axes] == [1, 2, 1, 1]


def test_a_deep_model_has_only_as_many_numbers_at_its_axes_as_can_be_read(axes):
    plot_turn(axes, pd.concat([report().head(1).assign(layer=layer) for layer in range(31)]))
    shown = [tick for tick in axes[0].get_xticks() if 0 <= tick <= 30]
    assert len(shown) <= 11 and all(tick == int(tick) for tick in shown)
    plot_similarities(axes[:1], {FULL: np.ones((31, 31))})
    assert len(axes[0].get_xticklabels()) <= 12
