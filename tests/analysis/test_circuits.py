"""Parts are added as stated, and the best of them is found."""

import numpy as np
import pandas as pd
import pytest
from conftest import build

from bigramlib import Subnetwork, evaluate
from bigramlib.analysis.behaviours import repeated_sequences, running_text, token_losses
from bigramlib.analysis.circuits import best_head, build_up, evaluate_edits, follow, gains, part, part_names, passes


@pytest.fixture(scope="module")
def text(corpus):
    return running_text(corpus, 512)


def test_parts_cover_every_weight_once(any_model):
    total = Subnetwork.full(any_model).kept
    shared = any_model.architecture.heads // any_model.architecture.key_value_heads
    union = Subnetwork.empty(any_model)
    separate = 0
    for name in part_names(any_model):
        union = union | part(any_model, name)
        separate += part(any_model, name).kept
    assert union.kept == total
    assert separate == total or shared > 1


def test_gains_are_falls_of_the_cross_entropy(model, text):
    base = Subnetwork.mlp(model, 0)
    table = gains(model, base, [text]).set_index("part")
    assert list(table.index) == [*part_names(model), "full model"]
    before = token_losses(model, base, text).mean()
    after = token_losses(model, base | Subnetwork.heads(model, [(1, 1)]), text).mean()
    assert table.gain["head 1.1"] == pytest.approx(before - after, abs=1e-6)
    assert table.gain["mlp 0"] == table.added["mlp 0"] == 0
    assert (table.low <= table.gain).all() and (table.gain <= table.high).all()


def test_the_best_head_buys_most_of_all_heads_on_that_behaviour(model, corpus, text):
    induction = repeated_sequences(corpus, sequences=3, length=10)
    bought = gains(model, Subnetwork.mlp(model, 0), [text, induction])
    for behaviour in (text, induction):
        rows = bought[bought.behaviour == behaviour.name].set_index("part")
        heads = [name for name in part_names(model) if name.startswith("head")]
        found = best_head(bought, behaviour)
        assert found["part"] in heads and found["gain"] == max(rows.gain[name] for name in heads)
        best = rows.loc[found["part"]]
        assert (best.gain, best.low, best.high, rows.gain["full model"]) == tuple(
            found[k] for k in ("gain", "low", "high", "full")
        )


def test_an_mlp_that_buys_more_is_no_best_head(text):
    parts, values = ["head 0.0", "head 1.1", "mlp 0", "full model"], [-2.0, -1.0, 5.0, 9.0]
    bought = pd.DataFrame({"behaviour": text.name, "part": parts, "gain": values, "low": -3.0, "high": 7.0})
    other = bought.assign(behaviour="another", gain=[1.0, 0.0, 0.0, 0.0])
    found = best_head(pd.concat([other, bought], ignore_index=True), text)
    assert found == {"part": "head 1.1", "gain": -1.0, "low": -3.0, "high": 7.0, "full": 9.0}


def test_edits_are_evaluated_one_by_one_in_their_order(model, corpus, table):
    edits = {
        "without layer 1": ~Subnetwork.layer(model, 1),
        "first MLP": Subnetwork.mlp(model, 0),
        "none": Subnetwork.empty(model),
    }
    edited = evaluate_edits(model, corpus, table, edits, max_tokens=512)
    assert edited.edit.tolist() == list(edits)
    for row in edited.itertuples():
        measured = evaluate(model, corpus, table, edits[row.edit], max_tokens=512)
        assert (row.kept, row.r) == (edits[row.edit].kept, measured.r)
        assert np.array_equal((row.r_low, row.r_high), measured.r_interval, equal_nan=True)
    assert edited.r.nunique() == 3


def test_build_up_takes_the_best_part_at_every_step_and_ends_at_the_full_model(tokenizer, text):
    model = build("gpt_neox", tokenizer, seed=5)
    base = Subnetwork.empty(model)
    path = build_up(model, base, text)
    assert set(path.part[1:]) == set(part_names(model))
    assert path.kept.iloc[-1] == Subnetwork.full(model).kept
    full = token_losses(model, Subnetwork.full(model), text).mean()
    assert path.cross_entropy.iloc[-1] == pytest.approx(full, abs=1e-6)
    first = {name: token_losses(model, base | part(model, name), text).mean() for name in part_names(model)}
    assert path.part[1] == min(first, key=first.get)
    second = {name: token_losses(model, base | part(model, path.part[1]) | part(model, name), text).mean() for name in first}
    assert path.cross_entropy[2] == pytest.approx(min(second.values()), abs=1e-6)


def test_build_up_can_be_limited(model, text):
    path = build_up(model, Subnetwork.empty(model), text, parts=["head 0.0", "mlp 1", "head 1.0"], steps=2)
    assert len(path) == 3 and set(path.part[1:]) < {"head 0.0", "mlp 1", "head 1.0"}


def test_following_a_path_measures_the_same_subnetworks(model, text):
    path = build_up(model, Subnetwork.mlp(model, 0), text, steps=2)
    followed = follow(model, Subnetwork.mlp(model, 0), path, [text])
    assert np.allclose(followed.cross_entropy, path.cross_entropy) and list(followed.kept) == list(path.kept)
    assert (followed.low <= followed.cross_entropy).all() and (followed.cross_entropy <= followed.high).all()


def test_a_path_passes_a_level_where_it_stays_below():
    path = pd.DataFrame({"step": range(5), "cross_entropy": [9.0, 4.0, 6.0, 5.0, 3.0]})
    assert [passes(path, level).step for level in (9.0, 5.5, 5.0, 3.5)] == [0, 3, 3, 4]
    assert np.isnan(passes(path, 2.9).step)
