"""Models of the same shape with random weights, the paper's controls."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from transformers import AutoModelForCausalLM

from bigramlib.models.language_model import LanguageModel


@torch.inference_mode(False)
def randomly_initialized(model: LanguageModel, seed: int = 0, keep_embeddings: bool = False) -> LanguageModel:
    """A model of the same shape with fresh random weights, drawn as its architecture draws them before training.

    Args:
        model: the model whose shape it gets.
        seed: of the weights.
        keep_embeddings: keep the trained embeddings, of positions too where there are any, and the trained unembedding; where
            these are narrower than the residual stream (OPT-350m), also the matrices that lie between.

    Example:
        >>> control = randomly_initialized(model, seed=1)
        >>> control.name
        'mini (random, seed 1)'
    """
    config = copy.deepcopy(model.hf.config)
    embedding, unembedding = model.hf.get_input_embeddings(), model.hf.get_output_embeddings()
    config.tie_word_embeddings = embedding.weight is unembedding.weight
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if keep_embeddings:
        around = {*model.ends.before, *model.ends.after}
        for name, module in model.hf.named_modules():
            between = name in around and isinstance(module, torch.nn.Linear)
            if isinstance(module, torch.nn.Embedding) or module is unembedding or between:
                hf.get_submodule(name).load_state_dict(module.state_dict())
    suffix = ", trained embeddings" if keep_embeddings else ""
    name = f"{model.name} (random{suffix}, seed {seed})"
    return replace(model, name=name, hf=hf, origin="random", whole_hash="").to(model.device)
