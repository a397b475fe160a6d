"""One training step of each kind, and random models to take it on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from bigramlib import BigramTable, LanguageModel, SparsifyConfig, TokenCorpus
from bigramlib.training.gates import Gates
from bigramlib.training.ranks import ALONE, Ranks
from bigramlib.training.sharded_gates import ShardedGates

HEAD_SIZE = 64


def mask_training(
    model: LanguageModel, table: BigramTable, ids: Tensor, config: SparsifyConfig, ranks: Ranks = ALONE
) -> Callable[[], None]:
    """Our step: masked weights, KL, gates updated in the backward pass; with other processes, if there are any."""
    divergence = table.bind(model)
    gates = ShardedGates(model, config, ranks) if ranks.count > 1 else Gates(model, config)

    def step() -> None:
        gates.begin_step(1.5)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.dtype == torch.bfloat16):
            kl = divergence(ids, gates.hidden(ids)).mean()
        assert np.isfinite(kl.item())
        kl.backward()

    return step


def fine_tuning(model: LanguageModel, ids: Tensor, config: SparsifyConfig) -> Callable[[], None]:
    """The floor: forward, cross-entropy with the next token, backward and fused AdamW of the same weights."""
    weights = {name: weight.clone().requires_grad_() for name, weight in model.maskable.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-6, fused=True)

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=config.dtype == torch.bfloat16):
            logits = model.unembed(model.hidden(ids, weights))
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        assert np.isfinite(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def dense_targets(model: LanguageModel, table: BigramTable, ids: Tensor, config: SparsifyConfig) -> Callable[[], None]:
    """PAPER.md's description taken literally: float64 targets filled in Python loops, gates computed in three sweeps."""
    logits = {name: torch.zeros_like(weight).requires_grad_() for name, weight in model.maskable.items()}
    optimizer = torch.optim.AdamW(logits.values(), lr=5e-5)
    conditional, beta = table.conditional, 1.5
    rows = [
        dict(zip(conditional.indices[begin:end].tolist(), conditional.data[begin:end].tolist(), strict=True))
        for begin, end in zip(conditional.indptr, conditional.indptr[1:], strict=False)
    ]
    n = sum(weight.numel() for weight in logits.values())

    def step() -> None:
        target = np.zeros((*ids.shape, table.vocabulary_size))
        for sequence, tokens in enumerate(ids.tolist()):
            for position, token in enumerate(tokens):
                if not rows[token]:
                    target[sequence, position] = table.backoff
                for following, probability in rows[token].items():
                    target[sequence, position, following] = probability
        masked = {name: weight * torch.sigmoid(beta * logits[name]) for name, weight in model.maskable.items()}
        output = functional_call(model.hf, masked, (ids,)).logits[..., : table.vocabulary_size]
        target = torch.from_numpy(target).to(model.device)
        loss = functional.cross_entropy(output.double().flatten(0, 1), target.flatten(0, 1))
        loss = loss + config.sparsity_penalty / n * sum(torch.sigmoid(beta * gate).sum() for gate in logits.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        masks = [torch.sigmoid(beta * gate.detach()) for gate in logits.values()]
        sum(int(((mask > 0.1) & (mask < 0.9)).sum()) for mask in masks)

    return step


def neurosurgeon(model: LanguageModel, table: BigramTable, ids: Tensor, config: SparsifyConfig) -> Callable[[], None]:
    """NeuroSurgeon's continuous sparsification layers in place of linear ones, on our target (pip: NeuroSurgeon)."""
    from NeuroSurgeon.Masking.contsparse_layer import ContSparseLinear

    masked = replace(model, hf=copy.deepcopy(model.hf))
    layers = []
    for name in model.architecture.maskable:
        module = name.removesuffix(".weight")
        layers.append(ContSparseLinear.from_layer(masked.hf.get_submodule(module)).to(model.device))
        masked.hf.set_submodule(module, layers[-1])
        layers[-1].train(True)
    divergence = table.bind(masked)
    optimizer = torch.optim.AdamW([layer.weight_mask_params for layer in layers], lr=5e-5)
    n = sum(layer.calculate_max_l0() for layer in layers)

    def step() -> None:
        for layer in layers:
            layer.temperature = 1.5
        hidden = masked.hidden(ids)
        loss = divergence(ids, hidden).mean()
        loss = loss + config.sparsity_penalty / n * sum(layer.calculate_l0() for layer in layers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def random_model(width: int, layers: int, vocabulary: int) -> LanguageModel:
    """A Llama-like model with fresh random weights."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD_SIZE),
        max_position_embeddings=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    words = WordLevel({str(token): token for token in range(vocabulary)}, unk_token="0")
    return LanguageModel(f"random {layers} x {width}", hf, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)))


def random_text(vocabulary: int, tokens: int = 20_000) -> TokenCorpus:
    """Token ids of a Zipf distribution."""
    weights = 1 / np.arange(1, vocabulary + 1)
    ids = np.random.default_rng(0).choice(vocabulary, size=tokens, p=weights / weights.sum())
    return TokenCorpus(ids, np.array([0]), vocabulary, "random")


def batch(corpus: TokenCorpus, config: SparsifyConfig) -> Tensor:
    """Running text of the shape of a batch."""
    return torch.from_numpy(corpus.sample(config.batch_size, config.sequence_length, np.random.default_rng(0)))
