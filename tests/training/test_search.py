"""A search is made once and kept with its provenance; the same search gives the same bits, any other search another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build
from searches import QUICK

from bigramlib import Subnetwork, TokenCorpus, find_subnetwork
from bigramlib.store import store_folder
from bigramlib.training import search as training


def test_same_seed_same_bits_another_seed_other_bits(model, table, corpus, monkeypatch, tmp_path):
    first = find_subnetwork(model, table, corpus, QUICK)
    other = find_subnetwork(model, table, corpus, replace(QUICK, seed=1))
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    again = find_subnetwork(model, table, corpus, QUICK)
    assert first.hash == again.hash != other.hash
    assert first.provenance == again.provenance


def test_asking_again_returns_the_stored_subnetwork_and_any_change_trains_another(model, table, corpus, monkeypatch):
    stored = find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, QUICK).hash == stored.hash
    for changed in ((model, table.unigram(), corpus, QUICK), (model, table, corpus, replace(QUICK, sparsity_penalty=2.0))):
        with pytest.raises(pytest.fail.Exception, match="trained"):
            find_subnetwork(*changed)


def test_a_corpus_of_another_vocabulary_is_refused(model, table):
    with pytest.raises(ValueError, match="vocabulary of 1000, but the model 'tiny gpt_neox' has 280 tokens"):
        find_subnetwork(model, table, TokenCorpus(np.arange(900), np.array([0]), 1000), QUICK)


def test_a_subnetwork_knows_what_was_searched_for_it(model, table, corpus):
    everywhere = find_subnetwork(model, table, corpus, replace(QUICK, steps=1))
    first_mlp = find_subnetwork(model, table, corpus, replace(QUICK, steps=1, attention=False, layers=1))
    assert everywhere.searched() == everywhere.total
    assert first_mlp.searched() == Subnetwork.mlp(model, 0).kept
    blocks = model.architecture.blocks
    searched = [block for block, names in blocks.items() if set(names) <= set(model.architecture.within(1, attention=False))]
    assert set(blocks) - set(first_mlp.empty_blocks) <= set(searched)


def test_unstable_runs_are_tried_again_with_another_shuffle(model, table, corpus, monkeypatch):
    verdicts = iter([True, True, False, False])
    monkeypatch.setattr(training, "is_unstable", lambda *_: next(verdicts))
    found = find_subnetwork(model, table, corpus, replace(QUICK, steps=2, attempts=5))
    assert found.provenance["attempt"] == 2
    assert not found.provenance["unstable"]


def test_a_search_that_stays_unstable_is_kept_with_a_warning(model, table, corpus, monkeypatch, caplog):
    judged = []
    monkeypatch.setattr(training, "is_unstable", lambda losses, tokens: judged.append(tokens) or True)
    found = find_subnetwork(model, table, corpus, replace(QUICK, steps=2, attempts=2, sparsity_penalty=3, seed=4))
    assert (found.provenance["attempt"], found.provenance["unstable"]) == (1, True)
    assert set(judged) == {QUICK.batch_size * QUICK.sequence_length}
    (message,) = caplog.messages
    assert (
        message.startswith("The loss of this search (lambda 3, seed 4) jumped and stayed high") and "attempts to 4" in message
    )


def test_another_corpus_or_model_trains_another(model, table, corpus, tokenizer, monkeypatch):
    find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    shorter = TokenCorpus(corpus.ids[:400], np.array([0]), VOCABULARY)
    for changed in ((build("gpt_neox", tokenizer, seed=1), corpus), (model, shorter)):
        with pytest.raises(pytest.fail.Exception, match="trained"):
            find_subnetwork(changed[0], table, changed[1], QUICK)


def test_a_subnetwork_of_a_subnetwork_is_not_taken_for_one_of_the_model(model, table, corpus):
    of_model = find_subnetwork(model, table, corpus, QUICK)
    half = Subnetwork.full(model).masks
    half = Subnetwork({name: torch.arange(m.numel()).view(m.shape) % 2 == 0 for name, m in half.items()}, model.architecture)
    with half.applied(model):
        of_half = find_subnetwork(model, table, corpus, QUICK)
    assert (of_half - half).kept == 0 < (of_model - half).kept


def test_a_model_edited_while_its_mask_is_trained_stores_nothing(tokenizer, table, corpus, monkeypatch):
    model = build("gpt_neox", tokenizer)
    original = training.train

    def editing(*arguments):
        found = original(*arguments)
        next(iter(model.maskable.values())).data.mul_(2)
        return found

    monkeypatch.setattr(training, "train", editing)
    with pytest.raises(ValueError, match="was changed while its mask was trained, so nothing was stored"):
        find_subnetwork(model, table, corpus, QUICK)
    assert not list(store_folder("subnetworks").iterdir())


def test_a_subnetwork_of_an_earlier_version_on_weights_alone_is_told_of_and_not_taken(model, table, corpus, caplog):
    found = find_subnetwork(model, table, corpus, QUICK)
    facts = {name: value for name, value in found.provenance.items() if name != "model_hash"}
    key = training.store_key({name: facts[name] for name in ("weights_hash", "target_hash", "corpus_hash", "config")})
    (file,) = store_folder("subnetworks").iterdir()
    replace(found, provenance=facts).save(file.with_name(f"{key}.safetensors"))
    file.unlink()
    assert find_subnetwork(model, table, corpus, QUICK).provenance["model_hash"] == model.hash
    assert f"{key}.safetensors' was found by an earlier version" in caplog.text


def test_a_subnetwork_records_where_model_and_text_came_from_and_its_key_does_not_depend_on_it(model, table, corpus):
    provenance = find_subnetwork(model, table, replace(corpus, source="a text"), QUICK).provenance
    assert provenance | model.facts() == provenance
    assert provenance["corpus_source"] == "a text"
    assert {"model_source", "model_revision", "model_origin", "corpus_source"} <= provenance.keys()
    assert provenance["model_hash"] == model.hash
    (file,) = store_folder("subnetworks").iterdir()
    elsewhere = model.facts() | {"model": "another name", "model_source": "elsewhere", "model_revision": "2"}
    assert training.store_key(training.key_facts(elsewhere, table, corpus, QUICK)) == file.stem
