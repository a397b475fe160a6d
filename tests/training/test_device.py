"""On a GPU a search finds what it finds on the CPU, mixes no devices, and is waited for only at its looks."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import build
from pretended_gpu import GPU, pretended_gpu
from searches import QUICK, cut, trained
from test_tokenizer import with_beginning

from bigramlib import ModelTarget, find_subnetwork
from bigramlib.store import store_folder
from bigramlib.targets.table_divergence import BoundTable

SHORT = replace(QUICK, steps=4)
TRANSFORMERS = "transformers.masking_utils"
"""Looks in each pass whether several sequences were packed into one; it waits before any of the step's work is queued."""


def bits(model, target, corpus, config) -> tuple[str, list[float]]:
    """What a run finds and its losses, to be compared bit by bit."""
    found, losses = trained(model, target, corpus, config)
    return found.hash, losses


@pytest.fixture
def looks(monkeypatch):
    """Losses and gates are looked at every other step."""
    monkeypatch.setattr("bigramlib.training.loop.CHECK_EVERY", 2)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt_neox", {}),
        ("gpt2", {"precision": "bfloat16"}),
        ("llama", {"attention": False}),
        ("gemma2", {"flattening": None, "sequence_length": 8}),
    ],
)
def test_a_search_on_a_gpu_is_that_on_the_cpu(tokenizer, table, corpus, looks, name, changes):
    model = build(name, with_beginning(tokenizer) if name == "llama" else tokenizer)
    config = replace(SHORT, **changes)
    expected = bits(model, table, corpus, config)
    with pretended_gpu():
        assert model.to("cuda").device == GPU
        assert bits(model, table, corpus, config) == expected


def test_a_search_for_what_the_model_predicts_itself_can_lie_on_a_gpu(model, tokenizer, corpus, looks):
    config = replace(SHORT, flattening=None)
    expected = bits(model, ModelTarget(model), corpus, config)
    with pretended_gpu():
        there = build("gpt_neox", tokenizer).to("cuda")
        assert bits(there, ModelTarget(there), corpus, config) == expected


def test_an_interrupted_search_goes_on_between_devices_to_the_same_bits(tokenizer, table, corpus, looks):
    model = build("gpt_neox", tokenizer)
    whole = find_subnetwork(model, table, corpus, SHORT)
    shutil.rmtree(store_folder("subnetworks"))
    with cut(1):
        find_subnetwork(model, table, corpus, SHORT)
    with pretended_gpu():
        model.to("cuda")
        with cut(3):
            find_subnetwork(model, table, corpus, SHORT)
        found = find_subnetwork(model, table, corpus, SHORT)
    assert found.hash == whole.hash and found.provenance == whole.provenance


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_a_step_waits_for_nothing_but_a_look_at_losses_and_gates(tokenizer, table, corpus, looks, monkeypatch, name):
    model = build(name, with_beginning(tokenizer))
    steps: list[list[tuple[str, str]]] = []
    with pretended_gpu() as gpu:
        draw = torch.from_numpy

        def begins(*arguments):
            steps.append(gpu.waits)
            gpu.waits = []
            return draw(*arguments)

        model.to("cuda")
        monkeypatch.setattr("bigramlib.training.batches.torch.from_numpy", begins)
        trained(model, table, corpus, replace(SHORT, steps=5, flattening=None))
    _, first, *others, last = [[wait for wait in step if wait[0] != TRANSFORMERS] for step in [*steps, gpu.waits]]
    losses, gates = ("bigramlib.training.step", "tolist"), ("bigramlib.training.stopping", "tolist")
    watched = ("bigramlib.training.stopping", "_local_scalar_dense")
    assert set(first[:-1]) == {watched} and first[-1] == losses
    assert others == [[losses, gates], [], [losses, gates]]
    assert last[:2] == [losses, gates] and set(last[2:]) == {("bigramlib.training.gates", "download")}
    assert all(step.count((TRANSFORMERS, "_local_scalar_dense")) <= 1 for step in steps)


def test_passes_are_read_together(tokenizer, table, corpus, looks, monkeypatch):
    call = BoundTable.__call__

    def starved(self, ids, hidden):
        if len(ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(self, ids, hidden)

    monkeypatch.setattr(BoundTable, "__call__", starved)
    model, config = build("gpt_neox", tokenizer), replace(SHORT, steps=2)
    expected = bits(model, table, corpus, config)
    with pretended_gpu() as gpu:
        assert bits(model.to("cuda"), table, corpus, config) == expected
    assert gpu.waits.count(("bigramlib.training.step", "tolist")) == 2
