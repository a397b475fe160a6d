"""A model without the blocks that a search never computes: in no memory, yet the same model, with the same search in it."""

from dataclasses import replace

import pytest
import torch
from conftest import CONFIGS, UNUSUAL, build
from pretended_gpu import pretended_gpu
from safetensors.torch import load_file, save_file
from searches import QUICK

from bigramlib import LanguageModel, Subnetwork, evaluate, find_subnetwork, load_model, randomly_initialized
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


def test_what_needs_a_block_that_is_left_out_says_so(folder, table, corpus, held_out):
    partial = load_model(folder("llama"), **FIRST_MLP)
    whole_layer = Subnetwork.layer(partial, 1)
    for needing in (
        lambda: partial.hidden(torch.tensor([[1, 2]])),
        lambda: evaluate(partial, held_out, table, sequence_length=16),
        lambda: evaluate(partial, held_out, table, whole_layer, sequence_length=16),
        lambda: evaluate(partial, held_out, table, whole_layer.random_like(0), sequence_length=16),
        lambda: find_subnetwork(partial, table, corpus, replace(QUICK, layers=1)),
        lambda: partial.sample("the", 3),
        partial.bridge,
    ):
        with pytest.raises(ValueError, match=r"left out when .* was loaded .*; load the whole model"):
            needing()
    assert partial.facts()["weights_hash"] == partial.whole_hash


def test_weights_that_were_changed_make_another_model_and_its_control_is_whole(folder):
    partial = load_model(folder("llama"), **FIRST_MLP)
    before = partial.hash
    control = randomly_initialized(partial)
    assert not absent(control) and control.hidden(torch.tensor([[1, 2]])).isfinite().all()
    partial.hf.get_input_embeddings().weight.data.mul_(2)
    assert partial.hash != before


def test_a_number_that_is_not_finite_is_found_in_what_is_left_out(folder):
    path = folder("mixtral") / "model.safetensors"
    stored = load_file(path)
    stored[next(name for name in stored if "layers.1." in name and "experts" in name)].view(-1)[3] = torch.nan
    save_file(stored, path, metadata={"format": "pt"})
    with pytest.raises(FloatingPointError, match=r"1 of the weights 'model\.layers\.1"):
        load_model(path.parent, **FIRST_MLP)


def test_a_missing_matrix_is_noticed_though_it_would_be_left_out(folder):
    path = folder("llama") / "model.safetensors"
    stored = load_file(path)
    del stored["model.layers.1.mlp.up_proj.weight"]
    save_file(stored, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"they lack model\.layers.1.mlp.up_proj.weight"):
        load_model(path.parent, **FIRST_MLP)


def test_a_gguf_file_is_read_whole_or_not_at_all(tmp_path):
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(ValueError, match="is read whole"):
        load_model(file, layers=1)


def test_a_part_of_a_model_is_searched_on_a_gpu(folder, table, corpus, monkeypatch, tmp_path):
    config = replace(QUICK, steps=2, **FIRST_MLP)
    expected = find_subnetwork(load_model(folder("llama"), **FIRST_MLP), table, corpus, config)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    with pretended_gpu() as gpu:
        partial = load_model(folder("llama"), "cuda", **FIRST_MLP)
        assert gpu.holds(partial.hf.get_input_embeddings().weight) and absent(partial)
        assert find_subnetwork(partial, table, corpus, config).hash == expected.hash
