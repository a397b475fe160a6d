"""What a search takes is foretold, and what it foretells is what gates have."""

from dataclasses import replace

import pytest
import torch
from searches import FOUR_SEQUENCES
from transformers import LlamaConfig

from bigramlib.models.discovery import architecture_of, without_weights
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.gates import Gates
from bigramlib.training.memory import search_memory
from bigramlib.training.ranks import Ranks


def bytes_of(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("part", [{}, {"layers": 1, "attention": False}])
def test_what_is_foretold_is_what_one_process_has(any_model, precision, part):
    config = replace(FOUR_SEQUENCES, precision=precision, **part)
    others = sum(weight.numel() for weight in any_model.hf.parameters()) - any_model.architecture.size
    foretold = search_memory(any_model.architecture, others, config, whole=True)
    gates = Gates(any_model, config)
    states = [tensor for tensor in gates.state().values() if tensor.ndim]
    assert foretold.model == bytes_of(*any_model.hf.parameters())
    assert foretold.gates == pytest.approx(bytes_of(*states), abs=3 * 4 * 64 * len(gates.masked))
    assert foretold.workspace == bytes_of(gates.workspace.gates, gates.workspace.masked)


def test_the_gates_of_a_model_of_70_billion_weights_fit_one_gpu_each_over_two():
    large = LlamaConfig(
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    hf = without_weights(large)
    architecture = architecture_of(hf)
    others = sum(weight.numel() for weight in hf.parameters()) - architecture.size
    config = replace(SparsifyConfig.suited_to(architecture.size, False, torch.device("cuda")), precision="bfloat16")
    alone, half, eighth = (search_memory(architecture, others, config, Ranks(0, count)) for count in (1, 2, 8))
    assert config.layers == 8 and not config.attention
    assert 95e9 < alone.total < 112e9 and half.total < 75e9 and eighth.total < 50e9
    assert eighth.gates == pytest.approx(alone.gates / 8) and eighth.model == alone.model
    assert search_memory(architecture, others, config, whole=True).model > 280e9
