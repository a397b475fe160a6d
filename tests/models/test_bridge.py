"""TransformerLens shows the model as it is now, or says in a sentence that it cannot."""

import pytest
import torch
from conftest import SHAPE, build, token_ids
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from bigramlib import LanguageModel, Subnetwork
from bigramlib.models.bridge import in_short


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_the_bridge_shows_the_model_and_its_subnetwork(tokenizer, architecture):
    model = build(architecture, tokenizer)
    ids = token_ids()
    for subnetwork in (Subnetwork.full(model), Subnetwork.full(model).random_like(0) - Subnetwork.full(model).random_like(1)):
        with subnetwork.applied(model):
            bridge = model.bridge()
            expected = model.hf(ids).logits
        logits, cache = bridge.run_with_cache(ids)
        assert torch.allclose(logits, expected, atol=1e-4)
        assert cache["blocks.0.hook_resid_pre"].shape == (*ids.shape, model.hf.config.hidden_size)


def test_the_bridge_shows_a_model_without_attention_biases_and_leaves_it_without(tokenizer):
    torch.manual_seed(0)
    config = GPTNeoXConfig(**SHAPE, intermediate_size=24, max_position_embeddings=64, attention_bias=False)
    model = LanguageModel("without biases", AutoModelForCausalLM.from_config(config), tokenizer)
    before = set(dict(model.hf.named_parameters()))
    assert torch.allclose(model.bridge()(token_ids()), model.hf(token_ids()).logits, atol=1e-4)
    assert set(dict(model.hf.named_parameters())) == before


def test_a_model_that_transformer_lens_does_not_know_is_refused_in_a_sentence(tokenizer):
    message = (
        r"^TransformerLens cannot show the model 'tiny biogpt' \(ValueError: Unsupported architecture: BioGptForCausalLM\)\.$"
    )
    with pytest.raises(ValueError, match=message):
        build("biogpt", tokenizer).bridge()


def test_of_an_error_its_kind_and_first_sentence_are_told():
    assert in_short(RuntimeError("No rotary_emb found. Call set_it() first.")) == "RuntimeError: No rotary_emb found"
    assert in_short(KeyError("blocks.0")) == "KeyError: 'blocks.0'"
    assert in_short(ValueError("first line\nsecond line")) == "ValueError: first line"
    assert in_short(AssertionError()) == "AssertionError"
