"""TransformerLens shows the model as it is now, or says in a sentence that it cannot."""

import pytest
import torch
from conftest import SHAPE, build, token_ids
from test_tokenizer import with_beginning
from tokenizers import processors
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from bigramlib import LanguageModel, Subnetwork, load_model
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


def assert_reads(bridge, model, text):
    """The bridge makes the tokens of a text that the library makes, and predicts from them what the model does."""
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert torch.equal(bridge.to_tokens(text), model.prefixed(ids))
    logits, cache = bridge.run_with_cache(text)
    assert torch.allclose(logits[:, len(model.prefix) :, : model.vocabulary_size], model.unembed(model.hidden(ids)), atol=1e-3)
    assert cache["blocks.0.hook_resid_post"].shape[1] == len(model.prefix) + ids.shape[1]


def test_the_bridge_of_mini_reads_texts_without_anything_before_them():
    model = load_model("mini")
    bridge = model.bridge()
    assert model.prefix == []
    for text in ("The people", " of the United States"):
        assert_reads(bridge, model, text)
    assert bridge.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    assert bridge.to_string(bridge.to_tokens("The people")[0]) == "The people"


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_the_bridge_puts_before_texts_what_the_tokenizer_puts_there(tokenizer, architecture):
    model = LanguageModel("tiny", build(architecture, tokenizer).hf, with_beginning(tokenizer))
    pad = model.tokenizer.pad_token
    bridge = model.bridge()
    assert model.prefix == [model.tokenizer.bos_token_id] and model.tokenizer.pad_token == pad
    assert_reads(bridge, model, "the cat sat")
    alone = bridge.to_tokens("the cat sat", prepend_bos=False)
    assert alone[0].tolist() == model.tokenizer("the cat sat", add_special_tokens=False)["input_ids"]


def test_texts_of_different_lengths_are_padded_at_their_end(tokenizer):
    bridge = LanguageModel("tiny", build("llama", tokenizer).hf, with_beginning(tokenizer)).bridge()
    texts = ["the cat sat on the mat", "the cat"]
    long, short = (bridge.to_tokens(text) for text in texts)
    both = bridge.to_tokens(texts)
    assert torch.equal(both[:1], long) and torch.equal(both[1:, : short.shape[1]], short)
    assert torch.allclose(bridge(texts)[1, : short.shape[1]], bridge(texts[1])[0], atol=1e-4)


def test_what_a_tokenizer_puts_after_a_text_is_no_part_of_it(tokenizer):
    ended = with_beginning(tokenizer)
    end = [("<|endoftext|>", ended.bos_token_id)]
    ended.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=end)
    model = LanguageModel("tiny", build("llama", tokenizer).hf, ended)
    assert len(ended("the cat")["input_ids"]) > len(ended("the cat", add_special_tokens=False)["input_ids"])
    assert_reads(model.bridge(), model, "the cat")


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
