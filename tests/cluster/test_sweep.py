"""A grid holds every combination with the schedule that suits it, and its table says what was found."""

from dataclasses import replace

import pytest
import torch
from searches import QUICK

from bigramlib import ModelTarget, SparsifyConfig, Study, load_model
from bigramlib.cluster.searches import Search
from bigramlib.cluster.sweep import grid, measured
from bigramlib.models.loading import checkpoint_names

SETTINGS = {"steps": 6, "batch_size": 2, "sequence_length": 16}


def test_every_combination_is_there_once_those_of_one_model_together():
    searches = grid(["mini", "world-a0"], penalties=[3, 10], seeds=[0, 1], targets=["bigram", "model"])
    assert len(searches) == len(set(searches)) == 16
    assert [search.model for search in searches] == ["mini"] * 8 + ["world-a0"] * 8
    assert {(search.config.sparsity_penalty, search.config.seed) for search in searches} == {(3, 0), (3, 1), (10, 0), (10, 1)}


@pytest.mark.parametrize("target", ["bigram", "model"])
def test_schedules_are_those_that_suit_model_and_target(in_folders, target):
    folder, text = in_folders
    (search,) = grid([str(folder)], [str(text)], penalties=[7], seeds=[2], targets=[target])
    model = load_model(folder)
    wanted = ModelTarget(model) if target == "model" else Study(model, text).table
    assert search.config == SparsifyConfig.suited(model, wanted, 7, 2)


def test_a_gpu_gets_the_schedule_that_suits_a_gpu_from_a_machine_without(monkeypatch):
    monkeypatch.setattr("bigramlib.training.config.SMALL_MODEL", 1000)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert [grid(["mini"], device=device)[0].config.precision for device in ("cpu", "cuda")] == ["float32", "bfloat16"]


def test_checkpoints_are_searched_on_the_text_of_their_final_model():
    searches = grid(["mini"], checkpoints=["step256"])
    assert [(search.model, search.text_model) for search in searches] == [("mini@step256", "mini")]
    assert [search.model for search in grid(["mini"], checkpoints=["all"])] == list(checkpoint_names("mini").values())


def test_controls_have_the_seed_of_their_search():
    searches = grid(["mini"], seeds=[0, 4], controls=["", "random"])
    assert [(search.control, search.control_seed) for search in searches] == [("", 0), ("", 0), ("random", 0), ("random", 4)]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"models": ["no/such-model"]}, "There is no model 'no/such-model'"),
        ({"checkpoints": ["step3"]}, "has no checkpoint 'step3'"),
        ({"corpora": ["nowhere.txt"]}, "nowhere.txt"),
        ({"penalties": []}, "penalties is empty"),
        ({"targets": ["trigram"]}, "target is 'trigram'"),
        ({"settings": {"step": 3}}, "settings has 'step', which SparsifyConfig lacks; it has sparsity_penalty"),
        ({"settings": {"steps": 0}}, "steps is 0"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid(**{"models": ["mini"]} | wrong)


def test_the_table_says_what_evaluating_each_subnetwork_says(in_folders):
    model, text = in_folders
    searches = grid([str(model)], [str(text)], penalties=[0.5, 1], settings=SETTINGS)
    table = measured(searches, max_tokens=200)
    study = Study(model, text)
    for row, search in zip(table.itertuples(), searches, strict=True):
        found = search.subnetwork()
        evaluation = study.evaluate(found, max_tokens=200)
        assert (row.kept, row.density, row.hash) == (found.kept, found.density, found.hash)
        assert (row.r, row.kl, row.tokens) == (evaluation.r, evaluation.kl, len(evaluation.surprisals))
        assert (row.sparsity_penalty, row.seed, row.steps) == (search.config.sparsity_penalty, 0, 6)


def test_a_search_of_few_layers_is_measured_as_in_the_whole_model(in_folders):
    model, text = in_folders
    (search,) = grid([str(model)], [str(text)], settings=SETTINGS | {"layers": 1, "attention": False})
    table = measured([search], max_tokens=200)
    evaluation = Study(model, text).evaluate(search.subnetwork(), max_tokens=200)
    assert (table.r[0], table.kl[0]) == (evaluation.r, evaluation.kl)


def test_a_worker_keeps_the_model_that_it_loaded_last(in_folders, monkeypatch):
    model, text = in_folders
    loaded = []
    monkeypatch.setattr("bigramlib.cluster.searches.load_model", noting(loaded))
    search = Search(str(model), str(text), replace(QUICK, steps=2))
    for seed in range(3):
        replace(search, config=replace(search.config, seed=seed)).run()
    assert len(loaded) == 1


def noting(loaded):
    def load(*given, **parts):
        loaded.append(given)
        return load_model(*given, **parts)

    return load
