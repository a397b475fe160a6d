"""Random controls have the shape of the model, and its embeddings only where that is asked for."""

import pytest
import torch
from conftest import build

from bigramlib import randomly_initialized


def test_random_initialisation_keeps_only_the_embeddings_it_is_told_to(any_model):
    fresh, kept = randomly_initialized(any_model), randomly_initialized(any_model, keep_embeddings=True)
    embedding = any_model.hf.get_input_embeddings().weight
    assert torch.equal(kept.hf.get_input_embeddings().weight, embedding)
    assert torch.equal(kept.hf.get_output_embeddings().weight, any_model.hf.get_output_embeddings().weight)
    assert not torch.equal(fresh.hf.get_input_embeddings().weight, embedding)
    name = any_model.architecture.maskable[0]
    assert not torch.equal(kept.maskable[name], any_model.maskable[name])
    assert torch.equal(
        randomly_initialized(any_model, seed=3).maskable[name], randomly_initialized(any_model, seed=3).maskable[name]
    )


def test_random_initialisation_keeps_embeddings_of_positions_and_an_untied_unembedding(tokenizer):
    model = build("gpt2", tokenizer)
    model.hf.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.hf.lm_head.weight))
    kept = randomly_initialized(model, keep_embeddings=True).hf
    assert torch.equal(kept.transformer.wte.weight, model.hf.transformer.wte.weight)
    assert torch.equal(kept.transformer.wpe.weight, model.hf.transformer.wpe.weight)
    assert torch.equal(kept.lm_head.weight, model.hf.lm_head.weight)
    assert not torch.equal(randomly_initialized(model).hf.transformer.wpe.weight, model.hf.transformer.wpe.weight)
    tied = build("gpt2", tokenizer)
    fresh = randomly_initialized(tied, keep_embeddings=True).hf
    assert fresh.lm_head.weight is fresh.transformer.wte.weight


KEPT = {
    "opt": ["embed_tokens", "embed_positions"],
    "opt_350m": ["embed_tokens", "embed_positions", "project_out", "project_in"],
    "bloom": ["word_embeddings"],
    "gptj": ["wte", "lm_head"],
    "openai-gpt": ["tokens_embed", "positions_embed"],
    "gemma3": ["position_embedding", "embed_tokens"],
}


@pytest.mark.parametrize("name", KEPT)
def test_of_unusual_models_all_that_embeds_is_kept_and_nothing_else(tokenizer, name):
    model = build(name, tokenizer)
    kept = dict(randomly_initialized(model, keep_embeddings=True).hf.named_parameters())
    same = [parameter for parameter, weight in model.hf.named_parameters() if torch.equal(weight, kept[parameter])]
    assert [parameter.split(".")[-2] for parameter in same if parameter.endswith("weight")] == KEPT[name]


def test_of_unusual_models_every_masked_matrix_is_drawn_from_the_seed(unusual_model):
    one, again, other = (randomly_initialized(unusual_model, seed).maskable for seed in (0, 0, 1))
    for name, weight in one.items():
        assert torch.equal(weight, again[name]) and not torch.equal(weight, other[name])
        assert 0.005 < weight.std() < 0.2


@pytest.mark.parametrize("name", ["opt_350m", "bloom", "gemma3", "mixtral"])
def test_an_unembedding_of_its_own_is_kept_too(tokenizer, name):
    model = build(name, tokenizer)
    head = model.hf.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight))
    kept = randomly_initialized(model, keep_embeddings=True).hf
    assert torch.equal(kept.get_output_embeddings().weight, head.weight)
    assert torch.equal(kept.get_input_embeddings().weight, model.hf.get_input_embeddings().weight)
