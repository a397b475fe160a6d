"""A model that cannot be used is refused when it is made."""

import copy

import pytest
import torch
from conftest import build

from bigramlib import LanguageModel


def test_a_model_whose_logits_are_not_its_unembedding_is_refused(tokenizer):
    hf = copy.deepcopy(build("gpt_neox", tokenizer).hf)
    hf.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output + output.roll(1, -1))
    with pytest.raises(ValueError, match="logits of 'odd' are not its unembedding of the last hidden state"):
        LanguageModel("odd", hf, tokenizer)


def test_a_model_made_in_inference_mode_is_refused(tokenizer):
    with torch.inference_mode(), pytest.raises(ValueError, match=r"made within torch.inference_mode"):
        build("llama", tokenizer)
