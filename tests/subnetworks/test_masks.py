"""Masks must be those of the architecture and of the shapes of the model's weights."""

import pytest
from conftest import GROUPED, build
from transformers import AutoModelForCausalLM, LlamaConfig

from bigramlib import LanguageModel, Subnetwork


def test_applying_to_another_model_names_the_difference(half, tokenizer):
    with pytest.raises(ValueError, match="a model with model_type gpt_neox, but 'tiny llama' has llama"):
        half.check_fits(build("llama", tokenizer))


def test_masks_must_be_those_of_the_architecture(model, half):
    first = next(iter(half.masks))
    with pytest.raises(ValueError, match="exactly the maskable parameters"):
        Subnetwork({name: mask for name, mask in half.masks.items() if name != first}, model.architecture)
    with pytest.raises(ValueError, match="must be a bool tensor of shape"):
        Subnetwork({**half.masks, first: half.masks[first].float()}, model.architecture)


def test_masks_of_another_width_name_the_matrix(tokenizer):
    widths = (LlamaConfig(**GROUPED | {"hidden_size": width}, max_position_embeddings=64) for width in (16, 24))
    narrow, wide = (LanguageModel("a llama", AutoModelForCausalLM.from_config(config), tokenizer) for config in widths)
    with pytest.raises(ValueError, match=r"mask of 'model.layers.0.* is \(16, 16\), but in 'a llama' .* \(16, 24\)"):
        Subnetwork.full(narrow).check_fits(wide)
