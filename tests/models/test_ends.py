"""What comes before the first layer and after the last is found in every kind of model, and goes where the model has it go."""

import pytest
import torch
from conftest import VOCABULARY, build, token_ids

from bigramlib.models.layers import recorded

NAMES = {
    "opt": (["embed_tokens"], ["final_layer_norm"]),
    "opt_350m": (["embed_tokens", "project_in"], ["project_out"]),
    "bloom": (["word_embeddings", "word_embeddings_layernorm"], ["ln_f"]),
    "gptj": (["wte", "drop"], ["ln_f"]),
    "openai-gpt": (["tokens_embed"], []),
    "biogpt": (["embed_tokens"], ["layer_norm"]),
    "xglm": (["embed_tokens"], ["layer_norm"]),
}
ADDS_POSITIONS = ("opt", "opt_350m", "openai-gpt", "biogpt", "xglm")


def test_the_modules_before_and_after_the_layers_are_found(unusual_model):
    before, after = NAMES.get(unusual_model.name.removeprefix("tiny "), (["embed_tokens"], ["norm"]))
    assert [name.rpartition(".")[2] for name in unusual_model.ends.before] == before
    assert [name.rpartition(".")[2] for name in unusual_model.ends.after] == after


def test_what_tokens_bring_is_what_enters_the_first_layer_up_to_positions_and_a_factor(unusual_model):
    ids = token_ids()
    with recorded(unusual_model.hf) as seen, torch.no_grad():
        unusual_model.hidden(ids)
    entered, embedded = seen.stream[0], unusual_model.embedded(ids)
    name = unusual_model.name.removeprefix("tiny ")
    if name == "granite":
        assert torch.allclose(entered, 12 * embedded)
    else:
        added = entered - embedded
        assert torch.allclose(added[0], added[1], atol=1e-5)
        assert (added.abs().max() > 1e-3) == (name in ADDS_POSITIONS)


def test_the_logits_are_those_of_the_model_scaled_where_it_scales_them(unusual_model):
    ids = token_ids()
    scales = {"granite": 1 / 8, "cohere": 1 / 16}
    assert unusual_model.readout.scale == pytest.approx(scales.get(unusual_model.name.removeprefix("tiny "), 1), rel=1e-4)
    logits = unusual_model.hf(ids).logits[..., :VOCABULARY]
    hidden = unusual_model.hidden(ids)
    assert torch.allclose(unusual_model.unembed(hidden), logits, atol=1e-4)
    assert torch.allclose(unusual_model.log_partition(hidden), logits.logsumexp(-1), atol=1e-4)


def test_a_model_without_a_final_norm_ends_with_what_its_last_layer_writes(tokenizer):
    model = build("openai-gpt", tokenizer)
    vectors = torch.randn(3, 16)
    assert torch.equal(model.final_norm(vectors), vectors)
