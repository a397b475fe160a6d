"""A search ends when its gates are decided; unstable losses and dead weights are noticed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build
from searches import QUICK

from bigramlib import find_subnetwork
from bigramlib.training.gates import Gates
from bigramlib.training.stopping import CHECK_EVERY, are_decided, count_gates, is_unstable


def test_gates_are_decided_at_a_tenth_and_nine_tenths(tokenizer):
    gates = Gates(build("gpt_neox", tokenizer), QUICK)
    values = torch.logit(torch.tensor([0.05, 0.15, 0.5, 0.85, 0.95, 0.99])) / 8
    with torch.no_grad():
        for block in gates.blocks.values():
            block.logits.fill_(-100.0)
        block.logits[:6] = values
    assert count_gates(gates, 8.0) == (2, 3, list(gates.blocks)[:-1])


@pytest.mark.parametrize(
    ("kept", "undecided", "share", "decided"),
    [(200, 2, 0.01, True), (200, 3, 0.01, False), (0, 0, 0.01, True), (0, 1, 0.01, False), (200, 0, -1.0, False)],
)
def test_gates_are_decided_when_the_undecided_are_few_beside_the_kept(kept, undecided, share, decided):
    assert are_decided(kept, undecided, share) is decided


@pytest.mark.parametrize(("undecided", "stops"), [(2, True), (3, False)])
def test_training_stops_when_undecided_gates_are_few_beside_the_gates_that_are_on(
    model, table, corpus, monkeypatch, undecided, stops
):
    monkeypatch.setattr("bigramlib.training.loop.count_gates", lambda gates, beta: (200, undecided, []))
    found = find_subnetwork(model, table, corpus, replace(QUICK, undecided_share=0.01))
    assert found.provenance["converged"] is stops
    assert found.provenance["steps"] == (CHECK_EVERY if stops else QUICK.steps)


def test_an_overwhelming_penalty_collapses_the_mask_and_stops(model, table, corpus):
    config = replace(QUICK, sparsity_penalty=1e6, steps=2000)
    found = find_subnetwork(model, table, corpus, config)
    assert found.kept == 0
    assert found.provenance["converged"]
    assert found.provenance["steps"] < 2000


def test_too_few_steps_are_recorded_as_not_converged(model, table, corpus):
    assert not find_subnetwork(model, table, corpus, replace(QUICK, steps=2, final_beta=1.0)).provenance["converged"]


FALLING = list(np.linspace(5.0, 1.0, 300))


@pytest.mark.parametrize(
    ("curve", "unstable"),
    [
        (FALLING, False),
        (FALLING[:100] + [9.0] * 5 + FALLING[100:], False),
        (FALLING[:100] + [9.0] * 200, True),
        (FALLING[:150] + [9.0] * 100 + [1.0] * 99, True),
        (FALLING[:150] + [9.0] * 100 + [1.0] * 101, False),
        ([0.1] * 50 + [0.13] * 200, True),
        ([1.0] * 5, False),
        ([3.0] + [4.0] * 60, True),
        ([3.0, 4.0] + [3.0] * 200, False),
        ([3.0, 2.9, 3.3], True),
        ([4.0], False),
        ([], False),
    ],
    ids=[
        "falls",
        "spike",
        "jump that stays",
        "recovers too late",
        "recovers in time",
        "rise by a quarter",
        "even",
        "jump at the second step",
        "spike at the second step",
        "jump of a short run",
        "one step",
        "none",
    ],
)
def test_instability_is_a_jump_that_is_not_made_good(curve, unstable):
    assert is_unstable(curve) is unstable


def test_small_steps_are_judged_by_their_means():
    noise = np.random.default_rng(0).normal(4.5, 0.3, 600).tolist()
    assert is_unstable(noise) and not is_unstable(noise, tokens=128)
    assert not is_unstable([*noise[:300], *[9.0] * 32, *noise[300:]], tokens=128)
    assert is_unstable([*noise[:300], *[loss + 1 for loss in noise[300:]]], tokens=128)
    assert not is_unstable([4.0] * 31, tokens=128)


def test_a_dead_layer_is_named_and_logits_that_are_all_equal_are_refused(tokenizer, table, corpus, caplog):
    model = build("llama", tokenizer)
    model.maskable["model.layers.1.mlp.down_proj.weight"].zero_()
    find_subnetwork(model, table, corpus, replace(QUICK, steps=2))
    (message,) = caplog.messages
    assert "No weight in 3 of 14 matrices of 'tiny llama' changes the loss" in message
    assert all(f"model.layers.1.mlp.{name}_proj.weight" in message for name in ("up", "gate", "down"))
    model = build("llama", tokenizer)
    model.hf.get_output_embeddings().weight.zero_()
    with pytest.raises(FloatingPointError, match="No weight of 'tiny llama' changes the loss: its logits are the same"):
        find_subnetwork(model, table, corpus, QUICK)
