"""Tiny mixtures of experts, of every way in which experts are stored and stand beside other MLPs."""

import copy

import torch
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GraniteMoeSharedConfig,
    Llama4TextConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
)

from bigramlib import LanguageModel, Subnetwork

SHAPE = {
    "vocab_size": 288,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
FEW = {"num_local_experts": 3, "num_experts_per_tok": 2}
QWEN = SHAPE | {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 20}
MIXTURES: dict[str, PretrainedConfig] = {
    "plain": MixtralConfig(**SHAPE, **FEW, head_dim=4),
    "gates and inputs alternate": GptOssConfig(**SHAPE, **FEW, head_dim=4),
    "beside a shared expert": Qwen2MoeConfig(**QWEN),
    "in the second layer only": Qwen2MoeConfig(**QWEN, mlp_only_layers=[0]),
    "beside a shared MLP": GraniteMoeSharedConfig(**SHAPE, **FEW, shared_intermediate_size=20),
    "stored inputs first": Llama4TextConfig(**SHAPE, num_local_experts=3, intermediate_size_mlp=20, head_dim=4),
}


def random_model(config: PretrainedConfig, kind=AutoModelForCausalLM.from_config):
    """A model of transformers with random weights, large enough that every matrix matters; `kind` makes it of its config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = kind(copy.deepcopy(config))
        with torch.no_grad():
            for parameter in hf.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return hf.eval()


def mixture(name: str, tokenizer) -> LanguageModel:
    return LanguageModel(f"tiny {name}", random_model(MIXTURES[name]), tokenizer)


def random_half(model: LanguageModel, seed: int = 0) -> Subnetwork:
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.5 for name, weight in model.maskable.items()}
    return Subnetwork(masks, model.architecture)
