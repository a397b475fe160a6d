"""An exported model is an ordinary folder: others load it, it predicts as the subnetwork does, and it names no machine."""

import json

import pytest
import torch
from conftest import build, token_ids
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from bigramlib import LanguageModel, Subnetwork, load_model, randomly_initialized
from bigramlib.subnetworks import export


def exported(model, folder):
    """A subnetwork of a model that was exported."""
    some = Subnetwork.full(model).random_like(0) - Subnetwork.mlp(model, 1)
    some.export(folder, model)
    return some


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama", "gemma2", "mixtral"])
def test_others_load_it_and_it_predicts_as_the_subnetwork(name, tokenizer, tmp_path):
    model, ids = build(name, tokenizer), token_ids()
    before = model.weights_hash
    some = exported(model, tmp_path / "model")
    assert model.weights_hash == before
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    loaded = load_model(tmp_path / "model")
    with torch.no_grad(), some.applied(model):
        expected, weights = model.hf(ids).logits, model.hf.state_dict()
        assert all(torch.equal(weight, weights[name]) for name, weight in plain.state_dict().items())
        for others in (plain, loaded.hf):
            assert torch.allclose(others(ids).logits, expected, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("the cat").input_ids == tokenizer("the cat").input_ids


@pytest.mark.parametrize("said", [True, False])
def test_the_cache_is_used_as_it_was_before(said, tokenizer, tmp_path):
    hf = build("llama", tokenizer).hf
    hf.config.use_cache = said
    model = LanguageModel("named", hf, tokenizer)
    exported(model, tmp_path / "model")
    exported(randomly_initialized(model), tmp_path / "control")
    for folder in ("model", "control"):
        assert json.loads((tmp_path / folder / "config.json").read_text())["use_cache"] is said
    assert model.hf.config.use_cache is False


def test_the_card_states_what_is_known_and_no_folder_of_this_machine(tokenizer, half, tmp_path):
    model = LanguageModel(str(tmp_path / "mine"), build("gpt_neox", tokenizer).hf, tokenizer)
    facts = {"sparsity_penalty": 10.0, "corpus": f"{tmp_path}/texts (train)", "model_source": str(tmp_path)}
    found = Subnetwork(half.masks, model.architecture, facts | {"of": {"model": str(tmp_path)}})
    found.measured.update(r=0.95, r_interval=(0.94, 0.96), text="texts", tokens=700)
    found.export(tmp_path / "model", model)
    found.save_pretrained(tmp_path / "mask")
    cards = {name: ModelCard.load(tmp_path / name / "README.md") for name in ("model", "mask")}
    for name, card in cards.items():
        assert str(tmp_path) not in card.content and f'from_pretrained("{name}")' in card.text
        for part in (f"{found.kept:,} of {found.total:,}", "lambda: 10", "0.950 (0.940 to 0.960) on 700 tokens of texts"):
            assert part in card.text
    assert "A subnetwork of mine, as a model" in cards["model"].text and "texts (train)" in cards["model"].text
    assert cards["model"].data.library_name == "transformers" and cards["model"].data.base_model is None
    for file in (tmp_path / "model").glob("*.json"):
        assert str(tmp_path) not in file.read_text()


def test_a_base_model_of_the_hub_is_named_as_such(tokenizer, tmp_path):
    exported(LanguageModel("owner/name@step3", build("gpt_neox", tokenizer).hf, tokenizer), tmp_path / "model")
    assert ModelCard.load(tmp_path / "model" / "README.md").data.base_model == "owner/name"


def test_it_is_written_whole_or_not_at_all_and_never_over_something(model, half, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for place in ("full", "full/mine.txt"):
        with pytest.raises(ValueError, match="There is already something at"):
            half.export(tmp_path / place, model)
    (tmp_path / "empty").mkdir()
    half.export(tmp_path / "empty", model)
    assert (tmp_path / "empty" / "model.safetensors").exists()
    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        half.export(tmp_path / "new", model)
    assert sorted(each.name for each in tmp_path.iterdir() if each.name != "store") == ["empty", "full"]


def test_a_full_disk_is_told(model, half, tmp_path, monkeypatch):
    def full(*_, **__):
        raise export.SafetensorError("no space")

    monkeypatch.setattr(type(model.hf), "save_pretrained", full)
    with pytest.raises(OSError, match=r"could not be written to .* make room there"):
        half.export(tmp_path / "new", model)


def test_a_subnetwork_of_another_model_is_refused(half, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="load the model it was found in"):
        half.export(tmp_path / "new", build("llama", tokenizer))
    assert not (tmp_path / "new").exists()
