"""The smallest model of every type of causal language model in transformers, to try what works on it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bigramlib.models.language_model import LanguageModel

CAUSAL_TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
"""The names of all types of causal language models in transformers."""
VOCABULARY = 280
_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 48),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 128),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    **{
        "vocab_size": VOCABULARY,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 2,
        "moe_k": 2,
        "head_dim": 8,
        "rotary_dim": 4,
    },
}
"""By the names that settings have in the families."""
_OF_TYPE: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4},
    "beam": {"n_group": 1, "topk_group": 1, "mlp_layer_types": ["dense", "sparse"]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0, "kv_n_heads": 2}, "ffn_config": {"ffn_hidden_size": 48}},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "moe_intermediate_size": 48},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_text": {"num_key_value_heads": 4},
    "dots3_note_vision_encoder": {"num_hidden_layers": 42, "adapter_in_dim": 32, "adapter_out_dim": 32},
    "gemma2": {"final_logit_softcapping": 5.0},
    "flint": {"mlp_only_layers": [0]},
    "gemma3n_text": {"num_hidden_layers": 35},
    "gemma4_unified_text": {"global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": {"logits_scaling": 8.0},
    "granitemoehybrid": {"layer_types": ["attention"] * 2, "num_local_experts": 0, "mamba_n_heads": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "mllama_text_model": {"cross_attention_layers": [1]},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "zamba": {"num_hidden_layers": 32},
    "zamba2": {"num_hidden_layers": 54},
    "zaya": {"num_experts_per_tok": 1},
}
"""What else a type needs, or has as released models have it and its defaults have not."""


def tiny_config(model_type: str, **changed: object) -> PretrainedConfig:
    """A small configuration of a type: two layers of width 32, four heads, 4 experts of which 2 are used, 280 tokens.

    Args:
        model_type: one of `CAUSAL_TYPES`.
        **changed: settings that are other than in the usual small one.
    """
    kind = CONFIG_MAPPING[model_type]
    return kind(**_settings(kind) | changed)


def tiny_model(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """A model with random weights, so large that every matrix matters.

    Args:
        config: what the model is.
        tokenizer: one for its vocabulary.

    Raises:
        ValueError: such a model cannot be used here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in hf.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return LanguageModel(config.model_type, hf, tokenizer)


def _settings(kind: type[PretrainedConfig]) -> dict[str, Any]:
    """The small settings that a class of configurations has, those of its parts too."""
    known = {name for parent in kind.__mro__ for name in getattr(parent, "__annotations__", {})}
    known |= set(inspect.signature(kind.__init__).parameters)
    sizes = {name: size for name, size in _SIZES.items() if name in known}
    parts = {name: getattr(kind(), name) for name in kind.sub_configs}
    small = {name: {"model_type": part.model_type} | _settings(type(part)) for name, part in parts.items() if part}
    return sizes | small | _OF_TYPE.get(kind.model_type, {})
