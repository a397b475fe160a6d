"""Notebook 08: parts are taken from the subnetwork and added to it as their names say, drawn, and judged."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from bigramlib import Subnetwork
from bigramlib.analysis.behaviours import inexplicable_tokens, repeated_sequences, running_text, token_losses
from bigramlib.analysis.circuits import build_up, follow, part_names
from bigramlib.findings import base_to_build_on
from bigramlib.findings.base_to_build_on import (
    BIGRAM,
    CLAIMS,
    EMPTY,
    FULL,
    behaviours_of,
    build_ups,
    candidates,
    edits_of,
    judge,
    losses_of,
    plot_build_up,
    plot_edits,
    plot_gains,
    plot_gains_by_behaviour,
)
from bigramlib.findings.claims import recorded

TEXT, INEXPLICABLE, INDUCTION = "running text", "bigram-inexplicable tokens", "induction"
PARTS = {"head 0.0": 0.1, "head 0.1": 0.4, "head 1.0": -0.2, "head 1.1": 0.0, "mlp 0": 0.9, "mlp 1": 0.3}


@pytest.fixture
def behaviours(study):
    """Running text under the names of all three behaviours."""
    text = running_text(study.held_out, 256)
    return {
        name: type(text)(called, text.ids, text.following, text.chosen, text.documents)
        for name, called in (("text", TEXT), ("inexplicable", INEXPLICABLE), ("induction", INDUCTION))
    }


def bought(*, induction=0.4, inexplicable=0.4, width=0.1, full=2.0):
    """What `gains` gives: the best head is 0.1, and buys so much on each behaviour."""
    rows = []
    for behaviour, best in ((INEXPLICABLE, inexplicable), (INDUCTION, induction)):
        gains = PARTS | {"head 0.1": best, "full model": full}
        rows += [
            {"behaviour": behaviour, "part": part, "added": 10, "gain": gain, "low": gain - width, "high": gain + width}
            for part, gain in gains.items()
        ]
    return pd.DataFrame(rows)


def losses(*, learnt=2.0, bigram=5.0, full=3.0):
    table = pd.DataFrame({FULL: [full, full, -learnt], BIGRAM: [bigram, 7.0, 0.0], EMPTY: [7.0, 9.0, 0.0]})
    return table.set_axis([TEXT, INEXPLICABLE, INDUCTION])


def paths(*, bigram=(5.0, 4.8, 4.5), empty=(7.0, 6.0, 4.9), kept=100):
    """What `build_ups` gives: cross-entropies at each step from both bases; the last step from nothing keeps so many."""
    tables = []
    for base, values in (("bigram", bigram), (EMPTY, empty)):
        table = pd.DataFrame({"step": range(len(values)), "part": "head 0.0", "cross_entropy": values})
        sizes = np.linspace(10 if base == "bigram" else 0, kept, len(values)).astype(int)
        tables.append(table.assign(kept=sizes, low=table.cross_entropy - 0.1, high=table.cross_entropy + 0.1, base=base))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture
def verdict_of(model, behaviours, tmp_path):
    small = Subnetwork.heads(model, [(0, 0)])

    def judged(key, *, gained=None, lost=None, path=None):
        given = (bought() if gained is None else gained, losses() if lost is None else lost, paths() if path is None else path)
        verdicts = judge(tmp_path, small, *given, behaviours)
        assert [verdict.claim for verdict in verdicts] == list(CLAIMS.values())
        verdict = verdicts[list(CLAIMS).index(key)]
        assert recorded(tmp_path)[verdict.claim.text][2:] == (verdict.ours, verdict.holds)
        return verdict

    return judged


def test_edits_take_away_what_their_names_say(study, sparse):
    model, found = study.model, edits_of(study, sparse)
    layers = [Subnetwork.layer(model, layer) for layer in (0, 1)]
    first_mlp = Subnetwork.mlp(model, 0)
    expected = {
        BIGRAM: sparse,
        "without layer 0": sparse - layers[0],
        "without layer 1": sparse - layers[1],
        "first layer only": sparse & layers[0],
        "first MLP only": sparse & first_mlp,
        "without the first MLP": sparse - first_mlp,
        EMPTY: Subnetwork.empty(model),
    }
    halves = {"without half of its dimensions, the emptiest", "without the other half"}
    assert set(found) == set(expected) | halves and next(iter(found)) == BIGRAM
    assert {name: found[name].hash for name in expected} == {name: part.hash for name, part in expected.items()}


def test_the_dimensions_of_the_first_mlp_are_halved_by_how_full_they_are(study, sparse):
    found = edits_of(study, sparse)
    fullest = found["without half of its dimensions, the emptiest"]
    emptiest = found["without the other half"]
    assert (fullest | emptiest).hash == sparse.hash
    outside = sparse - Subnetwork.mlp(study.model, 0)
    assert (fullest & emptiest).hash == outside.hash
    counts = {
        name: sorted(
            (half & Subnetwork.mlp(study.model, 0, [dimension])).kept
            for dimension in range(24)
            if (half & Subnetwork.mlp(study.model, 0, [dimension])).kept
        )
        for name, half in {"full": fullest, "empty": emptiest}.items()
    }
    assert len(counts["full"]) == 12 and counts["empty"][-1] <= counts["full"][0] and sum(counts["empty"]) < sum(counts["full"])


@pytest.mark.parametrize(("tokens", "sequences"), [(512, 4), (300, 2)])
def test_each_behaviour_is_made_from_as_many_tokens_as_are_wished(study, monkeypatch, tokens, sequences):
    any_token = partial(inexplicable_tokens, margin=-100.0)  # a random model predicts none well
    monkeypatch.setattr(base_to_build_on, "inexplicable_tokens", any_token)
    text, inexplicable, induction = behaviours_of(study, tokens).values()
    assert (text.name, inexplicable.name, induction.name) == (TEXT, INEXPLICABLE, INDUCTION)
    assert len(induction.ids) == sequences
    assert not (inexplicable.chosen & ~text.chosen).any() and text.chosen.sum() <= tokens


def test_losses_are_means_over_the_tokens_of_each_behaviour(study, sparse):
    behaviours = [running_text(study.held_out, 256), repeated_sequences(study.held_out, sequences=2, length=16)]
    found = losses_of(study, sparse, behaviours)
    assert list(found.index) == [TEXT, INDUCTION] and list(found.columns) == [FULL, BIGRAM, EMPTY]
    for behaviour in behaviours:
        for name, part in {FULL: ~Subnetwork.empty(study.model), BIGRAM: sparse, EMPTY: Subnetwork.empty(study.model)}.items():
            assert found.loc[behaviour.name, name] == token_losses(study.model, part, behaviour).mean()


def test_candidates_are_the_heads_that_buy_most_on_any_behaviour_and_all_mlps():
    table = bought(induction=0.05, inexplicable=0.05)
    table.loc[(table.part == "head 1.0") & (table.behaviour == INDUCTION), "gain"] = 0.8
    assert candidates(table, 2) == ["head 1.0", "head 0.0", "mlp 0", "mlp 1"]
    assert candidates(table, 0) == ["mlp 0", "mlp 1"]
    assert set(candidates(table, 99)) == set(PARTS)


def test_both_bases_are_built_up_on_training_text_and_followed_on_held_out_text(study, sparse):
    parts, text = ["head 0.0", "mlp 1"], running_text(study.held_out, 256)
    assert set(parts) <= set(part_names(study.model))
    found = build_ups(study, sparse, parts, text, steps=1, chosen_on=128)
    training = running_text(study.train, 128)
    assert list(found.base.unique()) == ["bigram", EMPTY] and list(found.index) == list(range(4))
    for name, base in (("bigram", sparse), (EMPTY, Subnetwork.empty(study.model))):
        path = build_up(study.model, base, training, parts=parts, steps=1)
        own = found[found.base == name].drop(columns="base").reset_index(drop=True)
        assert_frame_equal(own, follow(study.model, base, path, [text]))


@pytest.mark.parametrize(
    ("learnt", "gain", "holds"), [(2.0, 0.4, "yes"), (2.0, 0.15, "no"), (0.4, 0.4, "not testable"), (-1.0, 0.4, "not testable")]
)
def test_a_head_buys_induction_where_the_full_model_has_learnt_it(verdict_of, learnt, gain, holds):
    verdict = verdict_of("induction", gained=bought(induction=gain), lost=losses(learnt=learnt))
    words = f"head 0.1 buys {gain:.2f} nats ({gain - 0.1:.2f} to {gain + 0.1:.2f}) of the full model's 2.00"
    none = f"the full model has no induction: a second copy of random tokens is {learnt:.2f} nats easier than the first"
    assert (verdict.holds, verdict.ours) == (holds, none if holds == "not testable" else words)


@pytest.mark.parametrize(("width", "holds"), [(0.1, "yes"), (0.5, "no"), (np.nan, "not testable")])
def test_the_best_head_helps_with_inexplicable_tokens_where_its_interval_excludes_zero(verdict_of, width, holds):
    verdict = verdict_of("inexplicable", gained=bought(width=width))
    assert verdict.holds == holds and verdict.ours.startswith("head 0.1 buys 0.40 nats (")
    if holds == "not testable":
        assert verdict.ours == "head 0.1 buys 0.40 nats (interval unknown: too few to tell) of the full model's 2.00"


def test_the_subnetwork_is_a_head_start_where_whole_parts_need_many_times_its_weights(verdict_of, model):
    size = Subnetwork.heads(model, [(0, 0)]).kept
    verdict = verdict_of("head start", path=paths(kept=6 * size))
    assert (verdict.holds, verdict.ours) == ("yes", "6 times as many weights (2 parts) for the bigram subnetwork's 5.00 nats")
    assert verdict_of("head start", path=paths(kept=4 * size)).holds == "no"
    verdict = verdict_of("head start", path=paths(empty=(7.0, 6.0, 5.5)))
    assert (verdict.holds, verdict.ours) == ("not testable", "not reached by adding 2 parts to nothing")


@pytest.mark.parametrize(
    ("bigram", "holds", "after"),
    [((5.0, 4.8, 4.5), "yes", "1"), ((5.0, 5.2, 4.5), "no", "2"), ((5.0, 5.2, 5.1), "no", "unknown")],
)
def test_parts_add_up_where_the_first_one_already_helps_for_good(verdict_of, bigram, holds, after):
    verdict = verdict_of("adds up", path=paths(bigram=bigram))
    worst = max(bigram[1:])
    assert verdict.holds == holds and verdict.ours == (
        f"5.00 nats before, {worst:.2f} at worst, after 1 parts; better than before from {after} parts on; full model 3.00"
    )


def test_gains_are_drawn_by_layer_with_a_dot_where_the_interval_excludes_zero(axes):
    table = bought()
    own = table[table.behaviour == INDUCTION].reset_index(drop=True)
    plot_gains(axes[0], own)
    grid = np.asarray(axes[0].collections[0].get_array())
    assert grid.tolist() == [[0.1, 0.4, 0.9], [-0.2, 0.0, 0.3]]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["0", "1", "mlp"]
    sure = own[(own.part != FULL) & (np.sign(own.low) == np.sign(own.high))]
    assert len(axes[0].lines) == len(sure) == 4


def test_gains_of_each_behaviour_are_drawn_under_its_name(axes):
    plot_gains_by_behaviour(axes[:2], bought(induction=0.8))
    assert [place.get_title() for place in axes[:2]] == [INEXPLICABLE, INDUCTION]
    assert [np.asarray(place.collections[0].get_array())[0, 1] for place in axes[:2]] == [0.4, 0.8]


def test_both_paths_are_drawn_over_parts_and_over_weights_with_the_full_model(axes):
    found = paths()
    plot_build_up(axes[:2], found, 3.0)
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["from the bigram subnetwork (5.00 before)", "from the empty subnetwork (7.00 before)", "full model"]
    for place, column in zip(axes[:2], ("step", "kept"), strict=True):
        bigram, empty, full = place.lines
        assert list(bigram.get_xdata()) == list(found[found.base == "bigram"][column])
        assert list(empty.get_ydata()) == [6.0, 4.9] and full.get_ydata()[0] == 3.0


def test_edits_are_drawn_with_a_named_bar_each_and_their_weights(axes):
    edits = pd.DataFrame({"edit": ["whole", "half"], "kept": [2000, 10], "r": [0.9, 0.5], "r_low": 0.4, "r_high": [0.95, 0.6]})
    plot_edits(axes[0], edits)
    assert [bar.get_width() for bar in axes[0].patches] == [0.5, 0.9]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["half", "whole"]
    assert [text.get_text() for text in axes[0].texts] == ["0.50   10 weights", "0.90   2,000 weights"]


def test_a_single_edit_is_drawn(axes):
    plot_edits(axes[0], pd.DataFrame({"edit": ["whole"], "kept": [20], "r": [0.9], "r_low": [np.nan], "r_high": [np.nan]}))
    assert len(axes[0].patches) == 1


def test_a_negative_correlation_is_written_to_the_right_of_zero_within_the_picture(axes):
    plot_edits(axes[0], pd.DataFrame({"edit": ["first"], "kept": [20], "r": [-0.2], "r_low": [-0.3], "r_high": [-0.1]}))
    assert axes[0].texts[0].get_position()[0] > 0 and axes[0].get_xlim()[0] <= -0.3
