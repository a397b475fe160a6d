"""Finding the layers of a causal language model, and in them every attention and MLP matrix, without its weights."""

from __future__ import annotations

import copy
import re

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from bigramlib.models.architectures import Architecture, held, in_order, is_fused_known, layer_of

FOREIGN = {
    r"mamba|ssm|A_log|conv|rg_lru|time_mix|linear_attn|lstm": "state-space, recurrent or convolution layers",
    r"kv_a_proj|q_a_proj|kv_proj_with": "low-rank (latent) attention, some of whose matrices belong to all heads together",
    r"encoder_attn|cross_?attn|crossattention": "attention to the output of an encoder, which is never run here",
    r"attention\.self\.query|self_attn\.query_proj": "the layers of an encoder such as BERT, where decoders are needed",
    r"per_layer_|(attn|mlp|ffn)_h(yper_)?c": "layers that do more than attention and an MLP",
}
"""What makes a model unusable here, by what is in the names of its parameters then."""
OTHER_SENSES = "vision|visual|image|audio|speech|multi_modal|vqmodel"
"""In the names of the parts of a model that read something else than text."""
ROUTERS = {"router", "gate", "shared_expert_gate"}
"""Parts of the names of what chooses and weighs experts, which is never masked."""


def layers_of(hf: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The stack of layers of a model, and its name.

    Raises:
        ValueError: there is none, or more than one.
    """
    config = hf.config.get_text_config()
    lists = {
        name: module for name, module in hf.named_modules() if isinstance(module, nn.ModuleList) and list(module.parameters())
    }
    outer = {name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    stacks = [(name, module) for name, module in outer.items() if not re.search(OTHER_SENSES, name)]
    if len(stacks) != 1 or len(stacks[0][1]) != config.num_hidden_layers:
        raise _unusable(config.model_type, "its layers are not one stack of as many as its config states")
    return stacks[0]


def decoder_of(hf: PreTrainedModel) -> tuple[str, nn.Module]:
    """The module that takes token ids to last hidden states, and its name: it holds the stack of layers."""
    name = layers_of(hf)[0].rpartition(".")[0]
    return name, hf.get_submodule(name)


def without_weights(config: PretrainedConfig) -> PreTrainedModel:
    """The causal language model of a config, on the device "meta": it takes no memory, however large it is.

    Raises:
        ValueError: transformers has no causal language model for it.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _unusable(config.model_type, "it is no causal language model that transformers knows")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """What the causal language model of a config is built from: only its text part, where that model reads nothing else."""
    only_text = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].config_class is config.sub_configs.get("text_config")
    return config.get_text_config() if only_text else config


def architecture_of(hf: PreTrainedModel) -> Architecture:
    """The layout of a model's attention and MLP matrices, found by their names and shapes.

    Only shapes are looked at, so the model may be one `without_weights`.

    Raises:
        ValueError: it has no one stack of layers, or something in them that is no part of attention and MLPs as known here, or
            it is only a part of a model.
    """
    config = hf.config.get_text_config()
    kind = config.model_type
    name, _ = layers_of(hf)
    found = {parameter: weight for parameter, weight in hf.named_parameters() if parameter.startswith(f"{name}.")}
    experts = {layer_of(parameter) for parameter in found if ".experts." in parameter}
    matrices = [parameter for parameter in found if found[parameter].ndim > 1 and _may_be_masked(parameter, experts)]
    _check_known(kind, list(found), matrices)
    if type(hf.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"The architecture {kind!r} cannot be used: it is only a part of other models, and no model by itself")
    names = in_order(matrices)
    shapes = {parameter: tuple(found[parameter].shape) for parameter in names}
    try:
        return Architecture.of(kind, config.num_hidden_layers, config.num_attention_heads, shapes)
    except (ValueError, ZeroDivisionError, AttributeError) as error:
        raise _unusable(kind, "the sizes of its matrices do not fit its heads") from error


def _may_be_masked(parameter: str, experts: set[int]) -> bool:
    """Whether a parameter of two or more axes is no norm, no bias and no router."""
    parts = parameter.split(".")
    routes = layer_of(parameter) in experts and not ROUTERS.isdisjoint(parts)
    return not (routes or "norm" in parameter or re.search(r"\.ln_|bias$", parameter))


def _check_known(kind: str, parameters: list[str], matrices: list[str]) -> None:
    """Raise ValueError, saying why, unless all matrices are of plain attention and MLPs, at most one of each in a layer."""
    for pattern, what in FOREIGN.items():
        if odd := next((name for name in parameters if re.search(pattern, name)), None):
            raise _unusable(kind, f"it has {what} ({odd!r})")
    places: dict[tuple, str] = {}
    for name in matrices:
        parts = held(name)
        others = [places.setdefault((layer_of(name), part, ".experts." in name), name) for part in parts]
        if not parts:
            raise _unusable(kind, f"{name!r} is no matrix of attention or MLPs as known here")
        if "q" in parts[:-1] and not is_fused_known(kind):
            raise _unusable(kind, f"it is not known how q, k and v lie in {name!r}")
        if other := next((other for other in others if other != name), None):
            raise _unusable(kind, f"{other!r} and {name!r} are the same part of one layer, which can only have one of it")
    if not matrices:
        raise _unusable(kind, "no attention or MLP matrices were found in its layers")


def _unusable(kind: str, why: str) -> ValueError:
    return ValueError(f"The architecture {kind!r} cannot be used: {why}")
