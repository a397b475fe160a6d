"""Tuning on a GPU comes to the bits of the CPU, interrupted or not, and no devices are mixed."""

import shutil
from dataclasses import replace

import pytest
import torch
from conftest import build
from pretended_gpu import pretended_gpu
from test_tokenizer import with_beginning
from tunings import FIRST, LORA, WHOLE, interrupted

from bigramlib.instruction.answers import generated
from bigramlib.instruction.prompts import TEXT
from bigramlib.instruction.tuning import instruction_tune
from bigramlib.store import store_folder


@pytest.mark.parametrize(("name", "config"), [("llama", replace(WHOLE, steps=3)), ("gpt2", replace(LORA, steps=3))])
def test_a_tuned_model_has_the_same_bits(tokenizer, name, config):
    model = build(name, with_beginning(tokenizer))
    prompts = [TEXT.instruction("Say it.", pair) for pair in FIRST.pairs[:2]]
    expected = instruction_tune(model, [FIRST], config)
    answers = generated(expected, prompts, tokens=2)
    shutil.rmtree(store_folder("tuned"))
    with pretended_gpu() as gpu:
        model.to("cuda")
        with interrupted(1):
            instruction_tune(model, [FIRST], config)
        found = instruction_tune(model, [FIRST], config)
        assert all(gpu.holds(weight) for weight in found.hf.parameters())
        assert generated(found, prompts, tokens=2) == answers
    for weight, other in zip(found.hf.parameters(), expected.hf.parameters(), strict=True):
        assert torch.equal(weight, other)
