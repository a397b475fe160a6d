"""A study fills its model, text and table into the functions of the library, and changes nothing that they give."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXT, VOCABULARY, build
from pandas.testing import assert_frame_equal

from bigramlib import (
    BigramTable,
    ModelTarget,
    SparsifyConfig,
    Study,
    Subnetwork,
    ablate,
    evaluate,
    find_subnetwork,
    frontier,
    randomly_initialized,
)
from bigramlib.analysis.lenses import lens_report
from bigramlib.analysis.predictions import lens, predictions
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.models.mini import SETTINGS, train_tokenizer


def assert_same(one, other):
    """The two evaluations agree in every field."""
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


def facts_of(subnetwork):
    return {name: value for name, value in subnetwork.provenance.items() if name != "history"}


def weights_equal(one, other, name):
    return torch.equal(one.hf.state_dict()[name], other.hf.state_dict()[name])


def test_a_study_holds_the_two_parts_of_the_text_and_the_table_of_its_training_text(model, documents, study):
    train, held_out = model.load_corpus(documents)
    assert study.model is model
    assert (study.train.hash, study.held_out.hash) == (train.hash, held_out.hash) and train.hash != held_out.hash
    assert study.table.hash == BigramTable.from_corpus(train).hash


def test_a_model_is_loaded_by_its_name_and_a_text_from_the_column_that_is_named(model, tokenizer, documents, tmp_path):
    model.hf.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    pd.DataFrame({"body": documents, "text": "no cats here"}).to_csv(tmp_path / "text.csv", index=False)
    study = Study(tmp_path / "tiny", tmp_path / "text.csv", text_column="body")
    assert study.model.weights_hash == model.weights_hash and study.model.name == str(tmp_path / "tiny")
    assert study.train.hash == Study(model, documents).train.hash


def test_its_repr_tells_the_model_and_the_sizes(study):
    bigrams = study.table.counts.nnz
    assert repr(study) == (
        f"Study of 'tiny gpt_neox': {len(study.train):,} tokens of training text, {len(study.held_out):,} held out, "
        f"{bigrams:,} distinct bigrams"
    )
    assert len(study.train) >= 1000 and bigrams > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_find_is_the_suited_search_for_the_bigram_table_of_the_training_text(study, quick, seed):
    found = study.find(3.0, seed)
    plain = find_subnetwork(study.model, study.table, study.train, SparsifyConfig.suited(study.model, study.table, 3.0, seed))
    assert found.hash == plain.hash and facts_of(found) == facts_of(plain)
    assert found.provenance["target_hash"] == study.table.hash
    assert found.provenance["sparsity_penalty"] == 3.0 and found.provenance["config"]["seed"] == seed


@pytest.mark.parametrize("seed", [0, 1])
def test_prune_is_the_suited_search_for_the_full_model(study, quick, seed):
    target = ModelTarget(study.model)
    found = study.prune(3.0, seed)
    plain = find_subnetwork(study.model, target, study.train, SparsifyConfig.suited(study.model, target, 3.0, seed))
    assert found.hash == plain.hash and facts_of(found) == facts_of(plain)
    assert found.provenance["target_hash"] == target.hash and found.provenance["config"]["seed"] == seed


def test_the_seed_is_zero_unless_another_is_given(study, quick):
    assert study.find(3.0).hash == study.find(3.0, 0).hash != study.find(3.0, 1).hash
    assert study.prune(3.0).hash == study.prune(3.0, 0).hash != study.prune(3.0, 1).hash


def test_settings_take_the_place_of_the_suited_ones_in_all_searches_of_a_study(model, documents, quick):
    study = Study(model, documents, settings={"steps": 2, "undecided_share": -1})
    for found in (study.find(3.0), study.prune(3.0), study.randomly_initialized().find(3.0)):
        assert found.provenance["config"]["steps"] == found.provenance["steps"] == 2
    with pytest.raises(ValueError, match="settings has 'step', which SparsifyConfig lacks"):
        Study(model, documents, settings={"step": 2})


def test_evaluate_measures_the_whole_model_or_a_subnetwork_on_held_out_text(study, sparse):
    assert_same(study.evaluate(), evaluate(study.model, study.held_out, study.table))
    assert_same(study.evaluate(sparse), evaluate(study.model, study.held_out, study.table, sparse))
    few = study.evaluate(sparse, max_tokens=128)
    assert_same(few, evaluate(study.model, study.held_out, study.table, sparse, max_tokens=128))
    assert len(few.surprisals) < len(study.evaluate(sparse).surprisals)


def test_frontier_is_measured_on_held_out_text(study, sparse):
    subnetworks = {1.0: sparse, 2.0: Subnetwork.mlp(study.model, 0)}
    plain = frontier(study.model, subnetworks, study.held_out, study.table, draws=2, max_tokens=128)
    assert_frame_equal(study.frontier(subnetworks, draws=2, max_tokens=128), plain)
    assert "random subnetwork" not in set(study.frontier(subnetworks).case)


def test_ablate_is_measured_on_held_out_text(study, sparse):
    plain = ablate(study.model, sparse, study.held_out, study.table, draws=2, max_tokens=128)
    assert_frame_equal(study.ablate(sparse, draws=2, max_tokens=128), plain)


def test_moments_are_those_of_training_text(study, sparse):
    for subnetwork in (None, sparse):
        found = study.moments(subnetwork, max_tokens=512)
        plain = ResidualMoments.collect(study.model, study.train, subnetwork, max_tokens=512)
        assert torch.equal(found.scatter, plain.scatter) and found.n == plain.n
        assert found.subnetwork is subnetwork and found.corpus_hash == study.train.hash


def test_lenses_are_read_on_held_out_text(study):
    moments = study.moments(max_tokens=512)
    plain = lens_report(study.model, moments, study.held_out, max_tokens=128, batch_size=2)
    assert_frame_equal(study.lens_report(moments, max_tokens=128, batch_size=2), plain)


def test_with_another_model_text_and_table_stay_and_the_first_study_is_as_it_was(study, tokenizer):
    model, other = study.model, build("llama", tokenizer)
    changed = study.with_model(other)
    assert changed.model is other and study.model is model
    assert changed.train is study.train and changed.held_out is study.held_out and changed.table is study.table
    assert_same(changed.evaluate(), evaluate(other, study.held_out, study.table))


def test_a_model_of_another_vocabulary_is_refused(study):
    with pytest.raises(ValueError, match=rf"vocabulary of {VOCABULARY}, but the model"):
        study.with_model(build("gpt_neox", train_tokenizer(TEXT, 270)))


def test_the_random_control_has_the_same_text_and_table_and_other_weights(study):
    embedding = "gpt_neox.embed_in.weight"
    for keep_embeddings in (False, True):
        control = study.randomly_initialized(1, keep_embeddings)
        plain = randomly_initialized(study.model, 1, keep_embeddings)
        assert (control.model.name, control.model.weights_hash) == (plain.name, plain.weights_hash)
        assert control.train is study.train and control.held_out is study.held_out and control.table is study.table
        assert weights_equal(control.model, study.model, embedding) is keep_embeddings
        assert not any(weights_equal(control.model, study.model, name) for name in study.model.maskable)
    assert study.randomly_initialized().model.name == randomly_initialized(study.model).name


def test_the_checkpoints_of_mini_are_eight_with_the_same_text(documents):
    study = Study("mini", documents)
    found = study.checkpoints()
    assert tuple(found) == SETTINGS["mini"].checkpoint_steps and len(found) == 8
    assert [each.model.name for each in found.values()] == [f"mini@step{step}" for step in found]
    assert len({each.model.weights_hash for each in found.values()}) == 8
    assert found[max(found)].model.weights_hash == study.model.weights_hash
    assert all(each.train is study.train and each.table is study.table for each in found.values())


def test_a_model_without_checkpoints_is_its_own_last_however_it_was_made(study):
    for each in (study, study.randomly_initialized()):
        (checkpoint,) = each.checkpoints().values()
        assert checkpoint.model is each.model and checkpoint.train is study.train


def test_a_density_is_wished_for_in_place_of_a_penalty(study, quick, sparse, monkeypatch):
    asked = []

    def search(model, target, corpus, config, *, density, start):
        asked.append((config, density, start))
        return sparse

    monkeypatch.setattr("bigramlib.findings.study.find_subnetwork", search)
    study.find()
    study.find(density=0.1, seed=3)
    study.prune(density=0.2)
    study.find(3.0, start=sparse)
    study.prune(3.0, start=sparse)
    assert [(config.sparsity_penalty, config.seed, *others) for config, *others in asked] == [
        (10.0, 0, None, None),
        (10.0, 3, 0.1, None),
        (10.0, 0, 0.2, None),
        (3.0, 0, None, sparse),
        (3.0, 0, None, sparse),
    ]
    with pytest.raises(ValueError, match=r"Both a penalty \(3.0\) and a density \(0.1\) are given; leave one out"):
        study.find(3.0, density=0.1)


def test_a_prompt_is_asked_of_the_models_own_table(study, sparse):
    plain = predictions(study.model, study.table, "the cat", sparse, top=3)
    assert_frame_equal(pd.DataFrame(study.predictions("the cat", sparse, top=3)), plain)
    assert_frame_equal(pd.DataFrame(study.predictions("the cat")), predictions(study.model, study.table, "the cat"))


def test_the_lens_reads_the_model_and_the_subnetwork(study, sparse):
    found = study.lens("the cat", sparse)
    for case, part in (("full model", None), ("subnetwork", sparse)):
        read = pd.DataFrame(found[found.case == case]).drop(columns="case").reset_index(drop=True)
        assert_frame_equal(read, lens(study.model, "the cat", part))
    assert set(study.lens("the cat").case) == {"full model"}


def test_the_store_is_asked_for_bigram_subnetworks_of_this_model_and_text(study, quick, documents):
    assert study.stored() == {}
    study.prune(3.0)
    found = {penalty: study.find(penalty).hash for penalty in (5.0, 2.0)}
    assert {penalty: each.hash for penalty, each in study.stored().items()} == found
    assert Study(study.model, documents[:50]).stored() == {}
