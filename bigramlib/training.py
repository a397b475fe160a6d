"""Continuous sparsification: find the few weights that predict a target (Savarese et al. 2020; paper, recipe).

One logit s for each maskable weight; the forward pass uses W * sigmoid(beta s); the loss is the mean KL to the target plus
lambda times the mean gate; beta grows until the gates are decided; the mask is s > 0. Logits are updated block by block
while the backward pass runs, so a step is a plain fine-tuning step plus a few elementwise sweeps over a block at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

import bigramlib
from bigramlib.batches import batches
from bigramlib.config import SparsifyConfig
from bigramlib.corpus import TokenCorpus
from bigramlib.gates import _Gates
from bigramlib.models import LanguageModel
from bigramlib.progress import tqdm
from bigramlib.store import content_hash, store_folder
from bigramlib.subnetwork import Subnetwork
from bigramlib.targets import Target

CHECK_EVERY = 10


def find_subnetwork(
    model: LanguageModel,
    target: Target,
    corpus: TokenCorpus,
    config: SparsifyConfig | None = None,
) -> Subnetwork:
    """Train a mask over the model's attention and MLP matrices so that what is kept predicts the target.

    The result is kept in the store under a key made of the model's weights, target, corpus and config; asking again
    with the same four returns it. The model's own weights are never changed.

    Args:
        model: the frozen model.
        target: what the subnetwork should predict.
        corpus: training text (of which, with `flattening`, only the unigram distribution is used).
        config: the schedule; `SparsifyConfig.suited` to model and target if not given.

    Returns:
        A subnetwork whose provenance records the config, whether the gates were decided in time (`converged`), and the
        history of (step, KL in nats, kept share, undecided share).

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: corpus, target and model do not share a vocabulary.
    """
    config = config or SparsifyConfig.suited(model, target)
    if corpus.vocabulary_size != model.vocabulary_size:
        raise ValueError(
            f"The corpus has token ids for a vocabulary of {corpus.vocabulary_size}, but the model {model.name!r} has "
            f"{model.vocabulary_size} tokens; tokenize the text with the model's own tokenizer."
        )
    key = content_hash(model.weights_hash, target.hash, corpus.hash, asdict(config), "mask training 1")[:24]
    file = store_folder("subnetworks") / f"{key}.safetensors"
    if file.exists():
        return Subnetwork.load(file)
    for attempt in range(config.attempts):
        shuffled = np.random.default_rng([config.seed, attempt])
        subnetwork, losses = _train(model, target, batches(corpus, config, shuffled), config)
        if not is_unstable(losses):
            break
    provenance = {
        "model": model.name,
        "weights_hash": model.weights_hash,
        "target_hash": target.hash,
        "corpus": corpus.name,
        "corpus_hash": corpus.hash,
        "config": asdict(config),
        "sparsity_penalty": config.sparsity_penalty,
        "attempt": attempt,
        "unstable": is_unstable(losses),
        "library": f"bigramlib {bigramlib.__version__}",
        **subnetwork.provenance,
    }
    subnetwork = replace(subnetwork, provenance=provenance)
    subnetwork.save(file)
    return subnetwork


def is_unstable(losses: list[float]) -> bool:
    """Whether a loss jumped and stayed up (the release's rule).

    A jump is a rise by 0.25, or by a quarter, over the mean of the 10 steps before; it is forgiven if that mean is reached
    again 100 steps before the end.
    """
    curve = np.asarray(losses)
    if len(curve) < 11:
        return False
    before = np.convolve(curve, np.full(10, 0.1), mode="valid")[:-1]
    jumps = np.flatnonzero((curve[10:] > before + 0.25) | (curve[10:] > before * 1.25))
    if len(jumps) == 0:
        return False
    settled = curve[: max(0, len(curve) - 100)]
    return any(not (settled[10 + jump :] <= before[jump]).any() for jump in jumps)


def _train(
    model: LanguageModel,
    target: Target,
    draw: Callable[[], tuple[Tensor, Tensor]],
    config: SparsifyConfig,
) -> tuple[Subnetwork, list[float]]:
    """One run; returns the subnetwork with its history, and the loss of each step."""
    divergence = target.bind(model)
    gates = _Gates(model, config)
    growth = config.final_beta ** (1 / config.steps)
    history: list[tuple[int, float, float, float]] = []
    losses: list[float] = []
    beta, converged = 1.0, False
    progress = tqdm(total=config.steps, desc=f"lambda {config.sparsity_penalty:g}", unit="step")
    with progress:
        for step in range(1, config.steps + 1):
            ids, weights = (part.to(model.device) for part in draw())
            gates.close(beta)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=config.dtype == torch.bfloat16):
                with model.skipping(gates.dropped):
                    hidden = model.hidden(ids, gates.masked)
                kl = (divergence(ids, hidden) * weights).sum()
            losses.append(kl.item() + config.sparsity_penalty * gates.mean())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(
                    f"The loss became {losses[-1]} at step {step} (lambda {config.sparsity_penalty:g}); "
                    "lower learning_rate, and check that the model's weights are finite."
                )
            kl.backward()
            beta *= growth
            progress.update()
            if step % CHECK_EVERY == 0 or step == config.steps:
                on, undecided = gates.decided(beta)
                history.append((step, kl.item(), on / gates.n, undecided / gates.n))
                progress.set_postfix(
                    KL=f"{kl.item():.3f}", density=f"{on / gates.n:.3%}", undecided=f"{undecided / gates.n:.3%}"
                )
                if converged := undecided <= config.undecided_share * on:
                    break
    return Subnetwork(gates.masks(), model.architecture, {"steps": step, "converged": converged, "history": history}), losses
