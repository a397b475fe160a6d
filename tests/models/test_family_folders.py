"""Models of many families load from the folders that transformers writes, and from those that its older versions wrote."""

import re

import pytest
import torch
from conftest import token_ids
from mixtures import random_model
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bigramlib import load_model

WIDTH = {"vocab_size": 288, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
LONG = WIDTH | {"max_position_embeddings": 64}
GROUPED = LONG | {"num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": 0}
OPT = LONG | {"ffn_dim": 24, "word_embed_proj_dim": 16}
SHORT = {"vocab_size": 288, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
FAMILIES = {
    "opt": ("opt", OPT),
    "opt-350m": ("opt", OPT | {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "bloom": ("bloom", {"vocab_size": 288, "hidden_size": 16, "n_layer": 2, "n_head": 4}),
    "gpt-j": ("gptj", SHORT),
    "codegen": ("codegen", SHORT),
    "gpt-neo": ("gpt_neo", WIDTH | {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}),
    "phi": ("phi", GROUPED | {"qk_layernorm": True}),
    "phi-3": ("phi3", GROUPED),
    "falcon, as in 7b": ("falcon", WIDTH | {"multi_query": True}),
    "falcon, as in 40b": ("falcon", WIDTH | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, as in rw-1b": ("falcon", WIDTH | {"multi_query": False, "parallel_attn": False, "bias": True, "alibi": True}),
    "stablelm": ("stablelm", GROUPED),
    "stablelm 2": ("stablelm", GROUPED | {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    "cohere": ("cohere", GROUPED | {"use_qk_norm": True}),
    "granite": ("granite", GROUPED | {"logits_scaling": 8.0, "residual_multiplier": 0.2, "embedding_multiplier": 12.0}),
    "smollm3": ("smollm3", GROUPED),
    "olmo3": ("olmo3", GROUPED),
    "gemma": ("gemma", GROUPED | {"head_dim": 4}),
    "starcoder2": ("starcoder2", GROUPED),
    "xglm": ("xglm", {"vocab_size": 288, "d_model": 16, "num_layers": 2, "attention_heads": 4, "ffn_dim": 24}),
    "mpt": ("mpt", {"vocab_size": 288, "d_model": 16, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "starcoder": ("gpt_bigcode", SHORT),
}


def config_of(family):
    model_type, sizes = FAMILIES[family]
    return CONFIG_MAPPING[model_type](**sizes)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_predicts_as_it_did_when_it_was_saved(written, family):
    hf = random_model(config_of(family))
    loaded, ids = load_model(written(hf)), token_ids()
    logits = hf(ids).logits
    assert torch.equal(loaded.hf(ids).logits, logits)
    assert torch.allclose(loaded.unembed(loaded.hidden(ids)), logits[..., : loaded.vocabulary_size], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "older"),
    [
        ("bloom", lambda tensors: {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}),
        ("opt", lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()}),
        (
            "gpt-j",
            lambda tensors: tensors | {f"transformer.h.0.attn.{name}": torch.ones(1) for name in ("bias", "masked_bias")},
        ),
        ("gpt-neo", lambda tensors: tensors | {"transformer.h.0.attn.attention.bias": torch.ones(1)}),
        ("codegen", lambda tensors: tensors | {"transformer.h.0.attn.causal_mask": torch.ones(1)}),
    ],
)
def test_a_folder_of_an_older_version_loads(written, family, older):
    hf = random_model(config_of(family))
    assert torch.equal(load_model(written(hf, older)).hf(token_ids()).logits, hf(token_ids()).logits)


@pytest.fixture
def gemma3():
    """Gemma 3 as it is from 4 billion weights on, with a part that reads images."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = Gemma3TextConfig(**GROUPED, head_dim=4, sliding_window=16).to_dict()
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4}
    sizes = {"image_size": 28, "patch_size": 14}
    return random_model(Gemma3Config(text_config=text, vision_config=vision | sizes, **tokens), Gemma3ForConditionalGeneration)


def later_names(tensors):
    """The names that some later versions stored, where the hub's folders have those of the first version with Gemma 3."""
    renamed = {re.sub(r"^language_model\.model\.", "model.language_model.", name): t for name, t in tensors.items()}
    return {re.sub(r"^(vision_tower|multi_modal)", r"model.\1", name): tensor for name, tensor in renamed.items()}


@pytest.mark.parametrize("changed", [dict, later_names])
def test_of_a_model_that_reads_images_too_the_text_part_is_used(written, gemma3, changed):
    loaded, ids = load_model(written(gemma3, changed)), token_ids()
    assert torch.equal(loaded.hf(ids).logits, gemma3(ids).logits)
    assert loaded.architecture.model_type == "gemma3_text"
    assert all(name.startswith("model.language_model.") for name in loaded.maskable)


@pytest.mark.parametrize("part", ["layers.1.mlp.up_proj.weight", "vision_tower.encoder.layers.0.mlp.fc1.weight"])
def test_of_such_a_model_a_missing_weight_is_named(written, gemma3, part):
    with pytest.raises(ValueError, match=rf"they lack model\.\S*{part}"):
        load_model(written(gemma3, lambda tensors: {name: t for name, t in tensors.items() if part not in name}))
