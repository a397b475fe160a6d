"""The settings of a search are checked, and schedules follow the model, the target or the paper."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from searches import QUICK

from bigramlib import ModelTarget, SparsifyConfig, find_subnetwork
from bigramlib.training import search as training
from bigramlib.training.config import fast_precision


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sparsity_penalty", -1.0, r"sparsity_penalty \(lambda\) is -1.0; it must be zero or a positive number"),
        ("sparsity_penalty", float("inf"), r"Subnetwork.full or Subnetwork.empty"),
        ("steps", 0, "steps is 0; it must be a whole number, at least 1"),
        ("learning_rate", 0.0, "learning_rate is 0.0; it must be a positive number"),
        ("second_moment_decay", 1.0, "second_moment_decay is 1.0; it must be at least 0 and below 1"),
        ("first_beta", 0, "first_beta is 0"),
        ("final_beta", 0.5, "final_beta is 0.5"),
        ("flattening", 1.5, "flattening is 1.5"),
    ],
)
def test_a_config_out_of_range_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        SparsifyConfig(**{field: value})


def test_settings_of_a_start_stand_in_place_of_those_that_suit_the_model():
    suited = SparsifyConfig(3.0, seed=2, final_beta=70.0)
    config = suited.with_settings({"steps": 9, "start": {"steps": 70, "start": {"attention": False}}})
    assert config.start == replace(suited, steps=70, start=replace(suited, attention=False)) and config.steps == 9
    assert config.facts() == replace(config, start=None).facts(), "a key is made of the masks that a search started from"
    other = replace(config, sparsity_penalty=5.0, seed=1)
    assert (other.start.sparsity_penalty, other.start.start.seed) == (5.0, 1)
    assert config.with_settings({"start": None}).start is None and config.with_settings({"steps": 8}).start == config.start


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "mask.safetensors"}, "start is 'mask.safetensors'; give the SparsifyConfig of the search to start from"),
        ({"start": {"setps": 1}}, "settings has 'setps', which SparsifyConfig lacks"),
        ({"start": {"seed": 1}}, "start has 'seed', which is the same in both searches; leave it out there"),
        ({"layers": 2, "start": {"layers": 3}}, "start searches attention or layers that this search drops"),
        ({"layers": 2, "start": {"layers": None}}, "start searches attention or layers that this search drops"),
        ({"attention": False, "start": {"attention": True}}, "start searches attention or layers that this search drops"),
    ],
)
def test_a_start_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SparsifyConfig().with_settings(settings)


def test_settings_may_be_numbers_of_numpy_or_texts_of_yaml(model, table, corpus, monkeypatch):
    given = SparsifyConfig(
        np.float32(1), steps=np.int64(30), batch_size=2.0, sequence_length="16", learning_rate="5e-2", seed=np.uint8(0)
    )
    assert given == QUICK and all(type(value) in (int, float, bool, str, type(None)) for value in vars(given).values())
    found = find_subnetwork(model, table, corpus, given)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, QUICK).hash == found.hash


def test_equal_penalties_make_equal_runs_whatever_their_type(model, table, corpus, monkeypatch):
    found = find_subnetwork(model, table, corpus, replace(QUICK, sparsity_penalty=1.0))
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, replace(QUICK, sparsity_penalty=1)).kept == found.kept


def test_the_suited_schedule_follows_the_target_and_the_size(model, table, monkeypatch):
    small, pruning = SparsifyConfig.suited(model, table, 3.0, seed=2), SparsifyConfig.suited(model, ModelTarget(model), 3.0, 2)
    assert (small.sparsity_penalty, small.seed, small.batch_size, small.attention) == (3.0, 2, 1, True)
    assert small.flattening is not None and pruning == SparsifyConfig(3.0, flattening=None, seed=2)
    monkeypatch.setattr("bigramlib.training.config.SMALL_MODEL", 10)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    assert SparsifyConfig.suited(model, table).precision == "float32"
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    middle = SparsifyConfig.suited(model, table)
    assert middle.attention and middle.precision == "bfloat16" and middle.flattening is not None
    monkeypatch.setattr("bigramlib.training.config.LARGE_MODEL", 10)
    large = SparsifyConfig.suited(model, table)
    assert not large.attention and large.precision == "bfloat16" and large.flattening is not None
    pruning = SparsifyConfig.suited(model, ModelTarget(model))
    assert pruning.attention and pruning.layers is None and pruning.flattening is None


@pytest.mark.parametrize(
    ("device", "units", "precision"),
    [("cuda", "AVX2", "bfloat16"), ("cpu", "AVX512", "bfloat16"), ("cpu", "AVX2", "float32"), ("mps", "AVX512", "float32")],
)
def test_bfloat16_is_chosen_where_it_is_fast(monkeypatch, device, units, precision):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: units)
    assert fast_precision(torch.device(device)) == precision


def test_the_paper_schedule_is_the_release_recipe():
    config = SparsifyConfig.paper(50.0)
    assert (config.steps, config.batch_size, config.sequence_length) == (15_000, 32, 128)
    assert config.learning_rate == 5e-5
    assert config.final_beta ** (1 / config.steps) == pytest.approx(1.001)
    assert config.flattening is None
    assert not config.with_replacement
    assert config.attempts == 3


def test_settings_of_later_versions_leave_no_trace_while_they_are_at_what_was_done_before():
    assert not {"first_beta", "second_moment_decay", "with_replacement"} & SparsifyConfig().facts().keys()
    assert SparsifyConfig(first_beta=8).facts()["first_beta"] == 8.0
    assert SparsifyConfig(second_moment_decay=0.9).facts()["second_moment_decay"] == 0.9
