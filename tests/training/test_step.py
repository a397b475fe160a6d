"""A step's losses are those of the target; where memory runs out, it is taken in parts."""

import logging
import shutil
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from conftest import build
from searches import FOUR_SEQUENCES, QUICK, cut, trained

from bigramlib import ModelTarget, Subnetwork, find_subnetwork
from bigramlib.store import store_folder
from bigramlib.targets.table_divergence import BoundTable
from bigramlib.training.batches import batches
from bigramlib.training.run import SavedState
from bigramlib.training.step import is_out_of_memory


def test_stability_is_judged_on_the_cross_entropy_of_every_kind_of_target(model, table, corpus):
    config = replace(QUICK, steps=2, flattening=None)
    for target in (table, ModelTarget(model)):
        _, losses = trained(model, target, corpus, config)
        ids, _ = batches(corpus, config, np.random.default_rng([config.seed, 0]))()
        with torch.no_grad():
            logits = model.unembed(model.hidden(ids))
            dense = (
                logits.softmax(-1)
                if target is not table
                else torch.from_numpy(table.probabilities(ids.flatten().numpy())).float().view_as(logits)
            )
            half = model.hidden(ids, {name: weight / 2 for name, weight in model.maskable.items()})
            expected = -(dense * model.unembed(half).log_softmax(-1)).sum(-1).mean()
        assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_a_target_without_an_entropy_is_judged_by_its_kl(model, table, corpus):
    class Bare:
        reads_context, hash = False, "bare"

        def bind(self, model):
            bound = table.bind(model)
            return lambda ids, hidden: bound(ids, hidden)

    config = replace(QUICK, steps=2, flattening=None)
    _, bare = trained(model, Bare(), corpus, config)
    _, whole = trained(model, table, corpus, config)
    ids, weights = batches(corpus, config, np.random.default_rng([config.seed, 0]))()
    assert bare[0] + float((table.bind(model).entropy(ids) * weights).sum()) == pytest.approx(whole[0])


def test_weights_that_are_not_finite_stop_training_with_a_clear_error(tokenizer, table, corpus):
    model = build("gpt_neox", tokenizer)
    next(iter(model.maskable.values()))[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"1 of the weights 'gpt_neox.* of 'tiny gpt_neox' are not finite"):
        find_subnetwork(model, table, corpus, QUICK)


def test_a_loss_that_is_not_finite_though_the_weights_are_stops_training(model, table, corpus):
    class Broken:
        reads_context, hash = False, "broken"

        def bind(self, model):
            return lambda ids, hidden: model.log_partition(hidden) * float("inf")

    with pytest.raises(FloatingPointError, match=r"loss became inf at step 1 .*weights are finite; lower learning_rate"):
        find_subnetwork(model, Broken(), corpus, QUICK)


@pytest.mark.parametrize(("every", "saved"), [(1, [1, 2, 3]), (500, [])])
def test_a_loss_that_breaks_off_is_named_by_its_step_before_any_state_has_it(model, table, corpus, monkeypatch, every, saved):
    class Breaking:
        reads_context, hash = False, "breaking"

        def bind(self, model):
            bound, calls = table.bind(model), count(1)
            return lambda ids, hidden: bound(ids, hidden) * (float("nan") if next(calls) == 4 else 1.0)

    steps: list[int] = []
    monkeypatch.setattr("bigramlib.saved_state.EVERY_STEPS", every)
    monkeypatch.setattr("bigramlib.saved_state.WRITING_SHARE", 1e9)
    monkeypatch.setattr(SavedState, "save", lambda self, run, tensors: steps.append(run.step))
    with pytest.raises(FloatingPointError, match=r"loss became nan at step 4 "):
        find_subnetwork(model, Breaking(), corpus, QUICK)
    assert steps == saved and not list(store_folder("subnetworks").iterdir())


def test_a_target_whose_rows_do_not_sum_to_one_is_named(model, table, corpus):
    class Heavy:
        reads_context, hash = False, "heavy"

        def bind(self, model):
            bound = table.bind(model)
            return lambda ids, hidden: bound(ids, hidden) - 0.5 * model.log_partition(hidden).abs() - 3.0

    with pytest.raises(FloatingPointError, match=r"no KL is negative; each row of the target must sum to 1"):
        find_subnetwork(model, Heavy(), corpus, QUICK)


@pytest.fixture
def starved(monkeypatch):
    """Makes memory run out: in the forward pass of more than some sequences, or once in the middle of a backward pass."""

    def forward(most: int, error: Exception) -> None:
        original = BoundTable.__call__

        def divergences(self, ids, hidden):
            if len(ids) > most:
                raise error
            return original(self, ids, hidden)

        monkeypatch.setattr(BoundTable, "__call__", divergences)

    def backward(error: Exception) -> None:
        original, calls = torch.optim.AdamW.step, []

        def step(self, *arguments):
            calls.append(1)
            if len(calls) == 3 + 10:
                raise error
            return original(self, *arguments)

        monkeypatch.setattr(torch.optim.AdamW, "step", step)

    return {"forward": forward, "backward": backward}


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
]


def agree(split: Subnetwork, whole: Subnetwork) -> bool:
    close = np.allclose(split.history().kl, whole.history().kl, rtol=1e-4)
    return close and (split & whole).kept >= 0.99 * (split | whole).kept


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama", "gemma2"])
def test_out_of_memory_halves_the_batch_and_changes_only_rounding(tokenizer, table, corpus, starved, caplog, name):
    model = build(name, tokenizer)
    whole = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    shutil.rmtree(store_folder("subnetworks"))
    starved["forward"](1, ERRORS[0])
    with caplog.at_level(logging.WARNING):
        split = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    assert split.provenance["passes"] == 4 and "passes" not in whole.provenance
    assert [
        f"in {n} passes of {4 // n} sequences" in record.message for n, record in zip((2, 4), caplog.records, strict=True)
    ] == [True, True]
    assert agree(split, whole)


@pytest.mark.parametrize("error", ERRORS, ids=["device", "Python", "host"])
def test_every_lack_of_memory_is_known(model, table, corpus, starved, error):
    starved["forward"](2, error)
    assert find_subnetwork(model, table, corpus, replace(FOUR_SEQUENCES, steps=1)).provenance["passes"] == 2


def test_a_batch_once_split_stays_so_after_an_interruption(model, table, corpus, starved):
    starved["forward"](2, ERRORS[0])
    fresh = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    shutil.rmtree(store_folder("subnetworks"))
    with cut(7):
        find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    resumed = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    assert resumed.hash == fresh.hash and resumed.provenance == fresh.provenance


def test_out_of_memory_within_a_backward_pass_updates_no_block_twice(model, table, corpus, starved):
    whole = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    shutil.rmtree(store_folder("subnetworks"))
    starved["backward"](ERRORS[0])
    split = find_subnetwork(model, table, corpus, FOUR_SEQUENCES)
    assert split.provenance["passes"] == 2
    assert agree(split, whole)


def test_a_sequence_that_does_not_fit_is_refused_with_a_remedy(model, table, corpus, starved):
    starved["forward"](0, ERRORS[0])
    with pytest.raises(MemoryError, match=r"Memory ran out at step 1 even with one sequence of 16 .*lower sequence_length"):
        find_subnetwork(model, table, corpus, FOUR_SEQUENCES)


def test_another_error_is_not_taken_for_lack_of_memory(model, table, corpus, starved):
    starved["forward"](0, RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        find_subnetwork(model, table, corpus, FOUR_SEQUENCES)


def test_the_allocator_of_the_host_says_what_is_looked_for():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
