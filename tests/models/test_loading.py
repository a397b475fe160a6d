"""What is not a whole, plain causal language model is refused in one sentence; old and odd but whole ones load."""

import builtins
import copy
import errno
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import build, token_ids
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from bigramlib import load_model
from bigramlib.models import folders, loading
from bigramlib.models.loading import checkpoint_names
from bigramlib.models.mini import ASSETS, load_checkpoint, save_checkpoint

RAN = "ran"


class Hostile:
    """A pickle of it makes a file in the working directory when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path(RAN),)


@pytest.fixture
def folder(tokenizer, tmp_path, monkeypatch):
    """Write a tiny model's folder, changed in some way; the working directory is another one."""
    monkeypatch.chdir(tmp_path)

    def write(architecture="llama", weights=lambda tensors: tensors, gone=(), files=None, name="model", shard=None, **config):
        place = tmp_path / name
        model = build(architecture, tokenizer)
        model.hf.save_pretrained(place, **({"max_shard_size": shard} if shard else {}))
        tokenizer.save_pretrained(place)
        if not shard:
            tensors = load_file(place / "model.safetensors")
            save_file(weights(tensors), place / "model.safetensors", metadata={"format": "pt"})
        facts = json.loads((place / "config.json").read_text()) | config
        (place / "config.json").write_text(json.dumps(facts))
        for file in gone:
            (place / file).unlink()
        for file, content in (files or {}).items():
            (place / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        return place

    return write


def refused(path, *said: str) -> None:
    """Loading is refused in one line that names the model as given, says all this and leaves nothing run."""
    with pytest.raises(ValueError) as caught:
        load_model(path)
    message = str(caught.value)
    assert repr(str(path)) in message and "\n" not in message and "not a local model folder" not in message
    for part in said:
        assert part in message
    assert not Path(RAN).exists()


def prefixed(prefix):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(*parts):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}


def base_model(tensors):
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items() if name != "lm_head.weight"}


HEAD = {"score.weight": torch.zeros(2, 16)}
UNWHOLE = {
    "compiled": (
        {"weights": prefixed("_orig_mod.")},
        "they lack model.embed_tokens.weight",
        "put '_orig_mod.' before every name",
    ),
    "parallel": (
        {"architecture": "gpt2", "weights": prefixed("module.")},
        "they lack transformer.wte.weight",
        "put 'module.' before every name",
    ),
    "wrapped base": (
        {"architecture": "gpt2", "weights": lambda tensors: prefixed("net.")(base_model(tensors))},
        "put 'net.' before every name",
    ),
    "hole": ({"weights": without("layers.1.mlp")}, "they lack model.layers.1.mlp.gate_proj.weight", "load all weights"),
    "lost tie": (
        {"weights": without("lm_head")},
        "lack lm_head.weight; if its unembedding is",
        "tie_word_embeddings true",
    ),
    "wrong tie": ({"tie_word_embeddings": True}, "another one (lm_head.weight); state tie_word_embeddings false"),
    "layer more": (
        {"num_hidden_layers": 3},
        "they lack model.layers.2.self_attn.q_proj.weight, model.layers.2.self_attn.k_proj.weight",
        "and 6 more",
    ),
    "layer less": ({"num_hidden_layers": 1}, "for no part of the model, model.layers.1.input_layernorm.weight"),
    "sizes": ({"intermediate_size": 20}, "of another size are model.layers.0.mlp.down_proj.weight (16x24 for 16x20)"),
    "classifier": (
        {"weights": lambda tensors: without("lm_head")(tensors) | HEAD},
        "they lack lm_head.weight, they have, for no part of the model, score.weight; load all weights of a causal",
    ),
    "tied reward model": ({"architecture": "gpt2", "weights": lambda tensors: tensors | HEAD}, "the model, score.weight"),
    "adapter beside": ({"files": {"adapter_config.json": "{}"}}, "holds an adapter", "merge it into its base model"),
    "adapter only": (
        {"files": {"adapter_config.json": "{}"}, "gone": ["config.json", "model.safetensors"]},
        "holds an adapter",
        "merge it into its base model",
    ),
    "encoder and decoder": ({"model_type": "t5"}, "The architecture 't5' cannot be used: it is no causal language model"),
    "masked": ({"model_type": "bert"}, "The architecture 'bert' cannot be used: it has the layers of an encoder"),
}


@pytest.mark.parametrize("case", UNWHOLE)
def test_weights_that_are_not_those_of_the_config_s_model_are_refused(folder, case, capfd):
    changes, *said = UNWHOLE[case]
    level = logging.get_verbosity()
    path = folder(**changes)
    capfd.readouterr()
    refused(path, *said)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == level


def old_gpt2(tensors):
    buffers = {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8) for layer in range(2)}
    buffers |= {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(2)}
    return base_model(tensors) | buffers


def old_neox(tensors):
    inside = [f"gpt_neox.layers.{layer}.attention." for layer in range(2)]
    tensors |= {name + "bias": torch.ones(1, 1, 8, 8, dtype=torch.bool) for name in inside}
    return tensors | {name + "masked_bias": torch.tensor(-1e9) for name in inside} | old_rotary(inside)


def old_rotary(inside):
    return {name + "rotary_emb.inv_freq": torch.ones(4) for name in inside}


WHOLE = {
    "gpt2 of old": ("gpt2", old_gpt2),
    "gpt2 with its head": ("gpt2", lambda tensors: tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}),
    "pythia of old": ("gpt_neox", old_neox),
    "llama of old": ("llama", lambda tensors: tensors | old_rotary(f"model.layers.{layer}.self_attn." for layer in range(2))),
    "bfloat16": ("llama", lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()}),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_model_loads_with_its_own_weights_however_old(folder, tokenizer, case):
    architecture, weights = WHOLE[case]
    loaded = dict(load_model(folder(architecture, weights)).hf.named_parameters())
    expected = dict(build(architecture, tokenizer).hf.named_parameters())
    assert set(loaded) == set(expected)
    for name, parameter in loaded.items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, expected[name].bfloat16().float() if case == "bfloat16" else expected[name])


def test_a_model_in_shards_and_a_folder_of_any_spelling_load(folder, tokenizer, monkeypatch):
    path = folder(name="モデル ü (copy)", shard="20KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    monkeypatch.setenv("HOME", str(path.parent))
    expected = build("llama", tokenizer).weights_hash
    for name in (path, str(path), f"~/{path.name}", path.name):
        loaded = load_model(name)
        assert loaded.weights_hash == expected and loaded.name == str(name)


QUANTIZED = {
    "gptq": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "awq": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    "fp8": {"quantization_config": {"quant_method": "fp8"}},
    "unheard of": {"quantization_config": {"quant_method": "nonsense"}},
    "mlx": {"quantization": {"group_size": 64, "bits": 4}},
    "auto-gptq": {"files": {"quantize_config.json": "{}"}},
    "auto-awq": {"files": {"quant_config.json": "{}"}},
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_a_quantised_model_is_refused_whatever_is_installed(folder, case):
    refused(folder(**QUANTIZED[case]), "is quantised", "load the unquantised model instead")


CODE = {"configuration_x.py": f"open({RAN!r}, 'w')", "modeling_x.py": f"open({RAN!r}, 'w')", "tok.py": f"open({RAN!r}, 'w')"}
AUTO = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
CUSTOM_TOKENIZER = json.dumps({"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": ["tok.X", None]}})


def test_custom_code_is_neither_asked_about_nor_run(folder, monkeypatch):
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked"))
    refused(folder(model_type="baichuan", auto_map=AUTO, files=CODE), "needs custom code, which is never run here")
    refused(folder(files={**CODE, "tokenizer_config.json": CUSTOM_TOKENIZER}), "it needs custom code, which is never run here")
    assert load_model(folder(name="known", auto_map=AUTO, files=CODE)).architecture.model_type == "llama"
    assert not Path(RAN).exists()


HOSTILE = {"pytorch_model.bin": pickle.dumps(Hostile()), "adapter_model.bin": pickle.dumps(Hostile())}
INDEX = json.dumps({"weight_map": {"model.norm.weight": "pytorch_model.bin"}})


def test_a_pickle_is_never_read(folder):
    gone = ["model.safetensors"]
    refused(folder(gone=gone, files=HOSTILE), "no weights in safetensors", "pickles (pytorch_model.bin) are never read")
    refused(folder(gone=gone, files={**HOSTILE, "model.safetensors.index.json": INDEX}), "are never read, since they can run")
    refused(folder(gone=gone, files=HOSTILE, transformers_weights="adapter_model.bin"), "where you trust them, load them by")
    assert load_model(folder(name="both", files=HOSTILE)).vocabulary_size
    assert not Path(RAN).exists()


BROKEN = {
    "no config": ({"gone": ["config.json"]}, "has no config.json"),
    "broken config": ({"files": {"config.json": "{"}}, "config.json", "is not JSON"),
    "binary config": ({"files": {"config.json": b"\xff\xfe\x00"}}, "is not JSON"),
    "deep config": ({"files": {"config.json": "[" * 100_000}}, "is not JSON"),
    "list for a config": ({"files": {"config.json": "[]"}}, "is not a JSON object"),
    "no type": ({"files": {"config.json": "{}"}}, "states no model_type"),
    "number as type": ({"model_type": 3}, "states no model_type"),
    "words for numbers": ({"num_hidden_layers": "two"}, "No model can be made of the config.json"),
    "no heads": ({"num_attention_heads": 0}, "No model can be made of the config.json"),
    "negative size": ({"hidden_size": -16}, "config.json"),
    "unknown activation": ({"hidden_act": "nonsense"}, "nonsense", "config.json"),
    "no shape": ({"files": {"model.safetensors.index.json": "{}"}, "gone": ["model.safetensors"]}, "states no weight_map"),
    "empty weights": ({"files": {"model.safetensors": b""}}, "'model.safetensors'", "are damaged"),
    "no tokenizer": ({"gone": ["tokenizer.json", "tokenizer_config.json"]}, "tokenizer", "put its tokenizer.json into"),
    "no tokenizer, GPT-NeoX": (
        {"architecture": "gpt_neox", "gone": ["tokenizer.json", "tokenizer_config.json"]},
        "has no tokenizer; put its tokenizer.json into",
    ),
    "vocabulary without merges": (
        {"architecture": "gpt2", "gone": ["tokenizer.json", "tokenizer_config.json"], "files": {"vocab.json": '{"a": 0}'}},
        "tokenizer",
        "put its tokenizer.json into",
    ),
    "broken tokenizer": ({"files": {"tokenizer.json": "{"}}, "The tokenizer of", "cannot be loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_by_the_name_of_what_is_broken(folder, case):
    changes, *said = BROKEN[case]
    refused(folder(**changes), *said)


def test_missing_and_truncated_shards_are_named(folder):
    path = folder(shard="20KB")
    shard = sorted(path.glob("model-*"))[1]
    content = shard.read_bytes()
    for cut in (5, 200, -1):
        shard.write_bytes(content[:cut])
        refused(path, f"The weights {shard.name!r}", "are damaged", "fetch them again")
    shard.unlink()
    refused(path, f"The weights {shard.name!r}", "are missing; fetch them again")


def test_other_things_than_folders_are_told_from_models(folder, tmp_path):
    path = folder()
    refused(path / "model.safetensors", "is a file and no .gguf file; give the folder that it lies in")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no config.json")
    (tmp_path / "empty" / "a.gguf").touch()
    refused(tmp_path / "empty", "give the path of its file 'a.gguf'")
    refused("x" * 5000, "cannot be looked at")
    for name in (str(tmp_path / "nowhere"), "~nobody/there", "a\0b", "a@b@c"):
        with pytest.raises(ValueError, match=r"There is no model .* the Hugging Face hub did not give it"):
            load_model(name)


@pytest.mark.parametrize("what", ["safe_open", "json"])
def test_files_that_cannot_be_read_just_now_are_not_called_damaged(folder, monkeypatch, what):
    def failing(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    path = folder()
    if what == "safe_open":
        monkeypatch.setattr(folders, "safe_open", failing)
    else:
        monkeypatch.setattr(Path, "read_text", failing)
    refused(path, "cannot be read just now", "Too many open files")


def test_weights_that_are_not_numbers_are_a_floating_point_error(folder):
    spoilt = folder(weights=lambda tensors: tensors | {"model.norm.weight": torch.full((16,), float("nan"))})
    with pytest.raises(FloatingPointError, match=r"16 of the weights 'model.norm.weight'"):
        load_model(spoilt)


def test_a_hub_model_that_cannot_be_loaded_is_refused_before_its_weights_are_fetched(folder, monkeypatch):
    path, asked = folder(), []

    def snapshot(repo, revision, allow_patterns, ignore_patterns):
        asked.append((repo, revision, "model.safetensors" in allow_patterns))
        return str(path)

    monkeypatch.setattr(loading, "snapshot_download", snapshot)
    model = load_model("some/model@step3")
    assert (model.name, model.source, model.revision) == ("some/model@step3", "some/model", "step3")
    assert asked == [("some/model", "step3", False), ("some/model", "step3", True)]
    asked.clear()
    (path / "quantize_config.json").write_text("{}")
    refused("some/model", "is quantised")
    assert asked == [("some/model", None, False)]


def test_a_lost_connection_is_said(monkeypatch):
    def lost(*_, **__):
        raise ConnectionError("")

    monkeypatch.setattr(loading, "snapshot_download", lost)
    with pytest.raises(ValueError, match=r"no model 'some/model': .* did not give it \(ConnectionError\)\. Check its"):
        load_model("some/model")


@pytest.mark.parametrize("damage", ["lacking", "more"])
def test_an_embedded_checkpoint_that_is_not_whole_is_refused(tmp_path, monkeypatch, damage):
    shutil.copytree(ASSETS / "mini", tmp_path / "mini", ignore=shutil.ignore_patterns("step*"))
    weights = load_checkpoint(ASSETS / "mini" / "step0.safetensors")
    if damage == "lacking":
        del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.bias"]
    else:
        weights["gpt_neox.layers.4.mlp.dense_h_to_4h.bias"] = torch.zeros(4)
    save_checkpoint(tmp_path / "mini" / "step0.safetensors", weights)
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match=r"weights of 'mini' do not fit .* gpt_neox\.layers\.[14]\.mlp\.dense_h_to"):
        load_model("mini")


def test_mini_is_the_last_of_its_checkpoints():
    names = checkpoint_names("mini")
    assert len(names) >= 8 and next(iter(names)) == 0
    last = load_model(names[max(names)])
    assert load_model("mini").weights_hash == last.weights_hash != load_model("mini@step0").weights_hash


def test_unknown_names_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"There is no model 'no/such-model'.*not embedded \(mini, world-a0"):
        load_model("no/such-model")
    with pytest.raises(ValueError, match=r"'mini' has no checkpoint 'step7'; use one of step0, step32"):
        load_model("mini@step7")


def test_a_local_model_of_an_unknown_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert' cannot be used: it has the layers of an encoder such as BERT"):
        load_model(tmp_path)


def test_a_saved_model_loads_frozen_in_fp32_whatever_it_was_saved_in(model, tokenizer, tmp_path):
    copy.deepcopy(model.hf).half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.hf.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.hf.parameters())
    assert not loaded.hf.training
    assert torch.allclose(loaded.hf(token_ids()).logits, model.hf(token_ids()).logits, atol=0.1)
