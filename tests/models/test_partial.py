"""A model without the blocks that a search never computes: in no memory, yet the same model, with the same search in it."""

from dataclasses import replace

import pytest
from conftest import CONFIGS, UNUSUAL, build
from searches import QUICK

from bigramlib import LanguageModel, evaluate, find_subnetwork, load_model
from bigramlib.store import store_folder

KINDS = ["llama", "gpt_neox", "gpt2", "gemma3_text", "gemma3", "opt", "bloom", "openai-gpt", "mixtral", "gpt_oss", "opt_350m"]
FIRST_MLP = {"layers": 1, "attention": False}


def absent(model: LanguageModel) -> set[str]:
    return {name for name, weight in model.hf.named_parameters() if weight.is_meta}


@pytest.fixture
def folder(tokenizer, tmp_path):
    """Writes a tiny model and returns its folder."""

    def write(name: str):
        build(name, tokenizer).hf.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path

    return write


@pytest.mark.parametrize("name", [*CONFIGS, *UNUSUAL])
@pytest.mark.parametrize("part", [FIRST_MLP, {"layers": 1}, {"attention": False}])
def test_what_is_left_out_takes_no_memory_and_the_model_is_the_same(folder, name, part):
    whole = load_model(folder(name))
    partial = load_model(folder(name), **part)
    assert absent(partial) == set(whole.architecture.maskable) - set(whole.architecture.within(**part)) != set()
    assert partial.hf.get_input_embeddings().weight.device.type == partial.device.type == "cpu"
    assert partial.facts() == whole.facts()
    assert partial.architecture == whole.architecture and partial.ends == whole.ends


@pytest.mark.parametrize("name", KINDS)
def test_a_search_and_its_evaluation_are_those_of_the_whole_model(folder, name, table, corpus, held_out, monkeypatch, tmp_path):
    config = replace(QUICK, steps=6, **FIRST_MLP)
    whole, partial = load_model(folder(name)), load_model(folder(name), **FIRST_MLP)
    expected = find_subnetwork(whole, table, corpus, config)
    (file,) = store_folder("subnetworks").iterdir()
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    found = find_subnetwork(partial, table, corpus, config)
    assert found.hash == expected.hash and found.provenance == expected.provenance
    assert (store_folder("subnetworks") / file.name).exists()
    measured = [evaluate(model, held_out, table, found, sequence_length=16).cross_entropy for model in (whole, partial)]
    assert measured[0] == measured[1]
