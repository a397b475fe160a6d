"""Searches by name find what find_subnetwork finds, wherever they run."""

import pickle
import shutil
from dataclasses import replace

import pytest
from searches import QUICK

from bigramlib import (
    BigramTable,
    LanguageModel,
    ModelTarget,
    Subnetwork,
    find_subnetwork,
    load_corpus,
    load_model,
    randomly_initialized,
)
from bigramlib.cluster.searches import Search, find_subnetworks
from bigramlib.store import store_folder

SHORT = replace(QUICK, steps=6)


@pytest.fixture
def named(in_folders):
    """A search of a model and a text that lie in folders."""
    model, text = in_folders
    return Search(str(model), str(text), SHORT)


@pytest.mark.parametrize("target", ["bigram", "unigram", "model"])
def test_a_search_finds_what_find_subnetwork_finds(named, target, monkeypatch, tmp_path):
    search = replace(named, target=target)
    found = search.run()
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    model = load_model(search.model)
    train, _ = model.load_corpus(search.corpus)
    table = BigramTable.from_corpus(train)
    wanted = {"bigram": table, "unigram": table.unigram(), "model": ModelTarget(model)}[target]
    assert found == find_subnetwork(model, wanted, train, SHORT).hash


@pytest.mark.parametrize("control", ["random", "random, trained embeddings"])
def test_a_control_is_the_randomly_initialised_model(named, control, monkeypatch, tmp_path):
    search = replace(named, control=control, control_seed=3)
    found = search.run()
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    model = load_model(search.model)
    train, _ = model.load_corpus(search.corpus)
    other = randomly_initialized(model, 3, keep_embeddings=control != "random")
    assert found == find_subnetwork(other, BigramTable.from_corpus(train), train, SHORT).hash


def test_a_checkpoint_is_searched_on_the_text_of_its_final_model(named, monkeypatch, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(named.model, earlier)
    asked = []
    monkeypatch.setattr(LanguageModel, "load_corpus", lambda self, source, **_: asked.append(self.name) or _texts(self))
    subject = replace(named, model=str(earlier), text_model=named.model).subject()
    assert (subject.model.name, asked) == (str(earlier), [named.model])


def _texts(model):
    return load_corpus(["the cat sat", "the dog sat on a mat"], model.tokenizer, vocabulary_size=model.vocabulary_size)


def test_blocks_that_are_not_searched_are_left_out_of_memory_and_give_the_same_masks(named, monkeypatch, tmp_path):
    search = replace(named, config=replace(SHORT, layers=1, attention=False))
    found = search.subnetwork()
    absent = {name for name, weight in search.subject().model.maskable.items() if weight.is_meta}
    assert absent and not any(found.masks[name].any() for name in absent)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    model = load_model(search.model)
    train, _ = model.load_corpus(search.corpus)
    assert found.hash == find_subnetwork(model, BigramTable.from_corpus(train), train, search.config).hash
    for needed in (replace(search, target="model"), replace(search, control="random"), replace(search, corpus="self")):
        assert not any(weight.is_meta for weight in needed.subject().model.maskable.values())


def test_a_search_is_small_and_survives_pickling(named):
    written = pickle.dumps(named)
    assert len(written) < 1000
    assert pickle.loads(written) == named


def test_masks_lie_in_the_store_under_the_hash_that_is_returned(named):
    searches = [replace(named, config=replace(SHORT, seed=seed)) for seed in (0, 1)]
    found = find_subnetworks(searches + searches[:1])
    files = store_folder("subnetworks").glob("*.safetensors")
    assert list(found) == searches
    assert {Subnetwork.load(file).hash for file in files} == set(found.values())


def test_paths_are_absolute_wherever_a_worker_starts(in_folders, monkeypatch):
    model, text = in_folders
    monkeypatch.chdir(model.parent)
    search = Search(model.name, str(text), SHORT, text_model=model.name)
    assert search.model == search.text_model == str(model)
    assert Search("mini@step256", "sotu", SHORT).model == "mini@step256"


@pytest.mark.parametrize(("name", "value"), [("target", "trigram"), ("control", "shuffled")])
def test_what_cannot_be_searched_is_refused_before_it_is_sent(named, name, value):
    with pytest.raises(ValueError, match=f"{name} is '{value}'; use one of"):
        replace(named, **{name: value})
