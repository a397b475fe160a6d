"""What the layers of a model hold is found by names, and what is not known is refused by its name."""

import pytest
from torch import nn
from transformers import LlamaConfig, T5Config

from bigramlib.models.discovery import architecture_of, without_weights

CONFIG = LlamaConfig(vocab_size=288, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)


@pytest.fixture
def llama():
    return without_weights(CONFIG)


def refused(hf, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        architecture_of(hf)
    assert str(caught.value).startswith("The architecture 'llama' cannot be used: ")


def test_two_matrices_in_one_place_are_refused(llama):
    llama.model.layers[1].mlp.fc1 = nn.Linear(16, 24, device="meta")
    refused(llama, r"'model.layers.1.mlp.up_proj.weight' and 'model.layers.1.mlp.fc1.weight' are the same part of one layer")


def test_an_unknown_matrix_is_refused(llama):
    llama.model.layers[1].mlp.other = nn.Linear(16, 24, device="meta")
    refused(llama, r"'model.layers.1.mlp.other.weight' is no matrix of attention or MLPs as known here")


def test_an_unknown_order_of_q_k_and_v_is_refused(llama):
    for layer in llama.model.layers:
        layer.self_attn = nn.ModuleDict({"qkv_proj": nn.Linear(16, 48, device="meta"), "o_proj": layer.self_attn.o_proj})
    refused(llama, r"it is not known how q, k and v lie in 'model.layers.0.self_attn.qkv_proj.weight'")


def test_layers_without_matrices_are_refused(llama):
    for layer in llama.model.layers:
        del layer.self_attn, layer.mlp
    refused(llama, "no attention or MLP matrices were found in its layers")


def test_a_stack_that_is_not_that_of_the_config_is_refused(llama):
    del llama.model.layers[1]
    refused(llama, "its layers are not one stack of as many as its config states")


def test_an_encoder_and_decoder_is_no_causal_language_model():
    with pytest.raises(ValueError, match="'t5' cannot be used: it is no causal language model that transformers knows"):
        without_weights(T5Config())
