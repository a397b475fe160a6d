"""GGUF files load as written, or are refused where a tensor is lacking or would be dropped."""

import json

import numpy as np
import pytest
from gguf import GGUFWriter
from test_loading import refused

from bigramlib import load_model

WIDTH, MLP = 16, 24
BLOCK = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
BLOCK |= {
    "attn_norm": (WIDTH,),
    "ffn_norm": (WIDTH,),
    "ffn_gate": (MLP, WIDTH),
    "ffn_up": (MLP, WIDTH),
    "ffn_down": (WIDTH, MLP),
}


def write_gguf(path, tokenizer, lacking=(), more=None, layers=2, **facts):
    """A tiny Llama of two layers as llama.cpp writes it."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = GGUFWriter(path, "llama")
    numbers = {"block_count": layers, "context_length": 64, "embedding_length": WIDTH, "feed_forward_length": MLP}
    numbers |= {
        "head_count": 2,
        "head_count_kv": 2,
        "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 1e4,
        "vocab_size": len(tokens),
    }
    numbers |= {"tokenizer_model": "gpt2", "bos_token_id": 0, "eos_token_id": 0}
    for name, number in numbers.items():
        getattr(writer, f"add_{name}")(number)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    for name, text in facts.items():
        writer.add_string(f"llama.{name.replace('_', '.')}", text)
    shapes = {"token_embd.weight": (len(tokens), WIDTH), "output.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,)}
    shapes |= {f"blk.{layer}.{name}.weight": shape for layer in range(2) for name, shape in BLOCK.items()} | (more or {})
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items() if name not in lacking}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_whole_gguf_file_loads_whatever_else_is_called_so(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    tensors = write_gguf(tmp_path / "a b" / "model.GGUF", tokenizer, rope_scaling_type="none")
    (tmp_path / "model.GGUF").write_bytes(b"another one")
    monkeypatch.chdir(tmp_path)
    model = load_model("a b/model.GGUF")
    assert model.name == "a b/model.GGUF" and model.vocabulary_size == len(tokenizer)
    parameters = {name: parameter.numpy() for name, parameter in model.hf.named_parameters()}
    assert np.array_equal(parameters["model.layers.1.mlp.up_proj.weight"], tensors["blk.1.ffn_up.weight"])
    assert np.array_equal(parameters["lm_head.weight"], tensors["output.weight"])
    assert len(parameters) == len(tensors)


UNWHOLE_GGUF = {
    "lacking": ({"lacking": ["blk.1.ffn_up.weight"]}, "they lack model.layers.1.mlp.up_proj.weight"),
    "embedding": ({"lacking": ["token_embd.weight", "output.weight"]}, "they lack model.embed_tokens.weight"),
    "layer less": ({"layers": 1}, "for no part of the model, blk.1.attn_k.weight, blk.1.attn_norm.weight"),
    "layer more": ({"layers": 3}, "they lack model.layers.2.self_attn.q_proj.weight"),
    "bias": ({"more": {"blk.0.attn_q.bias": (WIDTH,)}}, "for no part of the model, blk.0.attn_q.bias"),
    "rotation": ({"more": {"rope_freqs.weight": (4,)}}, "for no part of the model, rope_freqs.weight"),
    "size": ({"more": {"blk.0.ffn_up.weight": (20, WIDTH)}}, "of another size are model.layers.0.mlp.up_proj.weight (20x16"),
    "scaled": ({"rope_scaling_type": "linear"}, "transformers does not read its llama.rope.scaling.type"),
}


@pytest.mark.parametrize("case", UNWHOLE_GGUF)
def test_a_gguf_file_that_is_not_whole_or_not_all_understood_is_refused(tokenizer, tmp_path, case):
    changes, said = UNWHOLE_GGUF[case]
    write_gguf(tmp_path / "model.gguf", tokenizer, **changes)
    refused(tmp_path / "model.gguf", said, "load the Hugging Face model that it was made from")


def test_a_truncated_gguf_file_is_refused(tokenizer, tmp_path):
    write_gguf(tmp_path / "model.gguf", tokenizer)
    content = (tmp_path / "model.gguf").read_bytes()
    for cut in (3, 100, -100, -10_000):
        (tmp_path / "model.gguf").write_bytes(content[:cut])
        refused(tmp_path / "model.gguf", "cannot be read as a GGUF model")


def test_a_broken_gguf_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(ValueError, match=r"model\.gguf.* cannot be read as a GGUF model"):
        load_model(tmp_path / "model.gguf")


def test_a_gguf_file_of_an_unknown_architecture_is_refused(tmp_path):
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"as a GGUF model \(The architecture 'mamba' cannot be used: it has state-space"):
        load_model(tmp_path / "model.gguf")
