"""Random controls have the shape of the model, and its embeddings only where that is asked for."""

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
