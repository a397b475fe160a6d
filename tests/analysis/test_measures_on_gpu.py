"""What is measured on a GPU is what is measured on the CPU, and no devices are mixed."""

import numpy as np
import pytest
import torch
from conftest import build, token_ids
from pretended_gpu import pretended_gpu
from test_tokenizer import with_beginning

from bigramlib import Subnetwork, evaluate
from bigramlib.analysis.behaviours import running_text, token_losses
from bigramlib.analysis.residual import ResidualMoments

SHORT = {"sequence_length": 16, "max_tokens": 128, "batch_size": 4}


@pytest.fixture(params=["gpt_neox", "gpt2", "llama", "gemma2"])
def lone_model(request, tokenizer):
    """A model that no other test uses; that of llama has a token before every text."""
    return build(request.param, with_beginning(tokenizer) if request.param == "llama" else tokenizer)


def test_evaluations_are_equal(lone_model, held_out, table):
    kept = Subnetwork.mlp(lone_model, 0)
    on_cpu = [evaluate(lone_model, held_out, table, part, **SHORT) for part in (None, kept)]
    with pretended_gpu():
        lone_model.to("cuda")
        on_gpu = [evaluate(lone_model, held_out, table, part, **SHORT) for part in (None, kept)]
    for here, there in zip(on_cpu, on_gpu, strict=True):
        assert (here.r, here.kl) == (there.r, there.kl) and np.array_equal(here.surprisals, there.surprisals)


def test_log_partitions_in_parts_and_their_gradients_are_equal(lone_model, monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", 2**10)
    found = {}
    with pretended_gpu() as gpu:
        for device in ("cpu", "cuda"):
            lone_model.to(device)
            hidden = lone_model.hidden(token_ids().to(device)).requires_grad_()
            value = lone_model.log_partition(hidden)
            value.sum().backward()
            assert gpu.holds(value) == gpu.holds(hidden.grad) == (device == "cuda")
            found[device] = torch.stack([value.detach().cpu(), hidden.grad.sum(-1).cpu()])
    assert torch.equal(found["cpu"], found["cuda"])


def test_residual_moments_are_equal_and_end_on_the_cpu(lone_model, held_out):
    here = ResidualMoments.collect(lone_model, held_out, Subnetwork.mlp(lone_model, 0), **SHORT)
    with pretended_gpu() as gpu:
        lone_model.to("cuda")
        there = ResidualMoments.collect(lone_model, held_out, Subnetwork.mlp(lone_model, 0), **SHORT)
        assert not gpu.holds(there.mean) and not gpu.holds(there.scatter)
    assert torch.equal(here.mean, there.mean) and torch.equal(here.scatter, there.scatter)
    assert all(torch.equal(here.cross[target], there.cross[target]) for target in here.cross)


def test_losses_of_chosen_tokens_are_equal(lone_model, held_out):
    kept, behaviour = Subnetwork.full(lone_model).random_like(0), running_text(held_out)
    here = token_losses(lone_model, kept, behaviour)
    with pretended_gpu():
        assert np.array_equal(token_losses(lone_model.to("cuda"), kept, behaviour), here)
