"""Training is the paper's mathematics in every setting, and leaves the model as it was."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build
from searches import QUICK, trained
from torch.func import functional_call
from torch.nn import functional

from bigramlib import ModelTarget, SparsifyConfig, Subnetwork, TokenCorpus, find_subnetwork
from bigramlib.training.batches import batches


@pytest.mark.parametrize("logits_at_once", [2**22, 1])
@pytest.mark.parametrize("flattening", [None, 0.5])
def test_steps_equal_hand_written_ones(tokenizer, corpus, table, flattening, logits_at_once, monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", logits_at_once)
    model = build("llama", tokenizer)
    model.maskable["model.layers.0.mlp.up_proj.weight"][0, :5] = 0.0
    config = replace(QUICK, steps=4, flattening=flattening, first_beta=2.0, final_beta=32.0)
    found, losses = trained(model, table, corpus, config)
    draw = batches(corpus, config, np.random.default_rng([config.seed, 0]))
    logits = {name: torch.where(weight == 0, -1e6, 0.0).requires_grad_() for name, weight in model.maskable.items()}
    n = sum(weight.numel() for weight in logits.values())
    optimizer = torch.optim.AdamW(logits.values(), lr=config.learning_rate)
    beta, expected_losses = 2.0, []
    for _ in range(4):
        ids, weights = draw()
        gates = {name: torch.sigmoid(beta * value) for name, value in logits.items()}
        masked = {name: weight * gates[name] for name, weight in model.maskable.items()}
        own = functional_call(model.hf, masked, (ids,)).logits[..., :VOCABULARY]
        dense = torch.from_numpy(table.probabilities(ids.flatten().numpy())).float()
        kl = functional.kl_div(own.log_softmax(-1).flatten(0, 1), dense, reduction="none").sum(-1)
        loss = (kl * weights.flatten()).sum() + config.sparsity_penalty / n * sum(gate.sum() for gate in gates.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        beta *= 2.0
        cross_entropy = -(dense * own.log_softmax(-1).flatten(0, 1)).sum(-1)
        expected_losses.append((cross_entropy * weights.flatten()).sum().item())
    assert np.allclose(losses, expected_losses, rtol=1e-4)
    agreement = [(found.masks[name] == (value > 0)).float().mean() for name, value in logits.items()]
    assert min(agreement) > 0.99
    assert not found.masks["model.layers.0.mlp.up_proj.weight"][0, :5].any()


def test_a_planted_subnetwork_is_found(tokenizer):
    model = build("gpt_neox", tokenizer)
    planted = Subnetwork.full(model).random_like(0)
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(mask.shape, generator=generator) < 0.15 for name, mask in planted.masks.items()}
    planted = Subnetwork(masks, model.architecture)
    teacher = build("gpt_neox", tokenizer)
    for name, weight in teacher.maskable.items():
        weight *= masks[name]
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 4000)
    text = TokenCorpus(ids, np.array([0]), VOCABULARY)
    config = SparsifyConfig(
        sparsity_penalty=0.3, steps=400, batch_size=4, sequence_length=32, learning_rate=0.02, flattening=None
    )
    found = find_subnetwork(model, ModelTarget(teacher), text, config)
    hit = (found & planted).kept
    chance = found.kept * planted.kept / planted.total
    assert found.density < 0.4
    assert hit > 2.5 * chance
    assert found.history().kl.iloc[-1] < 0.3 * found.history().kl.iloc[0]


def test_training_leaves_the_model_as_it_was(any_model, table, corpus):
    before = {name: parameter.clone() for name, parameter in any_model.hf.named_parameters()}
    find_subnetwork(any_model, table, corpus, replace(QUICK, steps=3))
    assert all(torch.equal(parameter, before[name]) for name, parameter in any_model.hf.named_parameters())
    assert not any(parameter.requires_grad for parameter in any_model.hf.parameters())


@pytest.mark.parametrize("limits", [{"attention": False}, {"layers": 1}, {"attention": False, "layers": 1}])
def test_what_is_not_searched_is_not_kept(any_model, table, corpus, limits):
    found = find_subnetwork(any_model, table, corpus, replace(QUICK, sparsity_penalty=0.0, steps=3, **limits))
    searched = any_model.architecture.within(**limits)
    assert 0 < len(searched) < len(any_model.architecture.maskable)
    for name, mask in found.masks.items():
        assert mask.any() == (name in searched)


def test_searching_mlps_alone_is_a_search_with_closed_attention(model, table, corpus, monkeypatch):
    config = replace(QUICK, attention=False)
    skipped, losses = trained(model, table, corpus, config)
    monkeypatch.setattr(type(model), "skipping", lambda self, blocks: nullcontext())
    with (Subnetwork.mlp(model, 0) | Subnetwork.mlp(model, 1)).applied(model):
        computed, expected = trained(model, table, corpus, config)
    assert np.allclose(losses, expected, rtol=1e-4)
    assert (skipped & computed).kept > 0.99 * (skipped | computed).kept


def test_blocks_dropped_from_the_subnetwork_are_not_dropped_from_a_target_that_is_the_same_model(model, corpus, monkeypatch):
    config = replace(QUICK, steps=1, attention=False, flattening=None)
    itself = find_subnetwork(model, ModelTarget(model), corpus, config)
    twin = find_subnetwork(model, ModelTarget(replace(model, hf=copy.deepcopy(model.hf))), corpus, replace(config, attempts=2))
    assert itself.provenance["history"] == twin.provenance["history"]


def test_bfloat16_finds_what_float32_finds_as_well_as_another_seed_does(table, corpus, tokenizer):
    model = build("llama", tokenizer)
    config = replace(QUICK, steps=100, learning_rate=0.03)
    reference = find_subnetwork(model, table, corpus, config)
    lower = find_subnetwork(model, table, corpus, replace(config, precision="bfloat16"))
    other = find_subnetwork(model, table, corpus, replace(config, seed=1))
    jaccard = [(reference & found).kept / (reference | found).kept for found in (lower, other)]
    assert lower.kept == pytest.approx(reference.kept, rel=0.05)
    assert jaccard[0] > jaccard[1]
    assert model.maskable[model.architecture.maskable[0]].dtype == torch.float32


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off_around_a_search_change_nothing(model, table, corpus, monkeypatch, tmp_path, around):
    found = find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    with around():
        again = find_subnetwork(model, table, corpus, QUICK)
    assert again.hash == found.hash
