"""Continuous sparsification: find the few weights that predict a target (Savarese et al. 2020; paper, recipe).

One logit s for each maskable weight; the forward pass uses W * sigmoid(beta s); the loss is the mean KL to the target plus
lambda times the mean gate; beta grows until the gates are decided; the mask is s > 0. Logits are updated block by block
while the backward pass runs, so a step is a plain fine-tuning step plus a few elementwise sweeps over a block at a time.
"""

from __future__ import annotations

import gc
import logging
import math
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import bigramlib
from bigramlib.models.checks import check_finite
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import full_precision
from bigramlib.progress import tqdm
from bigramlib.store import check_writable, content_hash, locked, set_aside, store_folder
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.target import BoundTarget, Target
from bigramlib.text.corpus import TokenCorpus
from bigramlib.training.batches import batches
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.gates import _Gates
from bigramlib.training.run import Checkpoint, Run, interrupts_deferred
from bigramlib.training.stopping import gradients_watched

CHECK_EVERY = 10
LOWEST_KL = {"float32": 0.01, "bfloat16": 0.5}
"""By how many nats rounding may put a batch's KL below zero."""
log = logging.getLogger(__name__)


def find_subnetwork(
    model: LanguageModel,
    target: Target,
    corpus: TokenCorpus,
    config: SparsifyConfig | None = None,
) -> Subnetwork:
    """Train a mask over the model's attention and MLP matrices so that what is kept predicts the target.

    The result is kept in the store under a key made of the model's weights, target, corpus and config; asking again
    with the same four returns it, and goes on with a run that was interrupted, to the same bits. A second process that asks
    meanwhile waits. A stored file that is damaged is set aside, and the run made again. The model's own weights never change.
    A store that holds the result need not be writable.

    Args:
        model: the frozen model.
        target: what the subnetwork should predict.
        corpus: training text (of which, with `flattening`, only the unigram distribution is used).
        config: the schedule; `SparsifyConfig.suited` to model and target if not given.

    Returns:
        A subnetwork whose provenance records the config, whether the gates were decided in time (`converged`), and the
        history of (step, KL in nats, kept share, undecided share).

    Raises:
        FloatingPointError: weights or the loss are not finite, no weight changes the loss, or the target is no distribution.
        OSError: what the store holds cannot be read just now, or the store cannot be written.
        MemoryError: not even one sequence at a time fits into memory (a batch that does not is taken in several passes).
        ValueError: corpus, target and model do not share a vocabulary.
    """
    config = config or SparsifyConfig.suited(model, target)
    model.check_vocabulary(corpus)
    model.check_length(config.sequence_length)
    facts = _facts(model, target, corpus, config)
    file = store_folder("subnetworks") / f"{_key(facts)}.safetensors"
    if stored := _stored(file, facts, aside=False):
        return stored
    with locked(file):
        if stored := _stored(file, facts):
            return stored
        check_writable(file.parent)
        _tell_of_earlier(file, facts)
        checkpoint = Checkpoint(store_folder("unfinished") / file.name)
        run, state = checkpoint.load() or (Run(), None)
        for attempt in range(run.attempt, config.attempts):
            if attempt > run.attempt:
                run, state = Run(attempt), None
            subnetwork = _train(model, target, corpus, config, run, state, checkpoint)
            if not is_unstable(run.losses):
                break
        if _facts(model, target, corpus, config) != facts:
            raise ValueError(
                f"The model {model.name!r} was changed while its mask was trained, so nothing was stored; load it anew, and "
                "leave it alone meanwhile."
            )
        provenance = {
            "model": model.name,
            "corpus": corpus.name,
            **facts,
            "model_hash": model.hash,
            "sparsity_penalty": config.sparsity_penalty,
            "attempt": run.attempt,
            "unstable": is_unstable(run.losses),
            "library": f"bigramlib {bigramlib.__version__}",
            **subnetwork.provenance,
        }
        subnetwork = replace(subnetwork, provenance=provenance)
        subnetwork.save(file)
        checkpoint.remove()
    return subnetwork


def _facts(model: LanguageModel, target: Target, corpus: TokenCorpus, config: SparsifyConfig) -> dict:
    """What a run depends on."""
    found = model.facts()
    facts = {
        "weights_hash": found["weights_hash"],
        "target_hash": target.hash,
        "corpus_hash": corpus.hash,
        "config": config.facts(),
    }
    return facts if "model_hash" not in found else facts | {"model_hash": found["model_hash"]}


def _key(facts: dict) -> str:
    return content_hash(*facts.values(), "mask training 1")[:24]


def _stored(file: Path, facts: dict, aside: bool = True) -> Subnetwork | None:
    """What the store holds for a run; a file that is damaged or of another run is none, and is set aside by the lock's holder.

    Raises:
        OSError, MemoryError: the file cannot be read just now; it is left as it is.
    """
    try:
        found = Subnetwork.load(file)
        for name, value in facts.items():
            if found.provenance.get(name) != value:
                mine = found.provenance.get(name)
                raise ValueError(f"it is a subnetwork of another run: its {name} is {mine!r}, not {value!r}")
    except FileNotFoundError:
        return None
    except ValueError as error:
        if aside:
            set_aside(file, error)
        return None
    return found


def _tell_of_earlier(file: Path, facts: dict) -> None:
    """Say so where a version that knew models by their weights alone has left the subnetwork of a run."""
    earlier = file.with_name(f"{_key({name: value for name, value in facts.items() if name != 'model_hash'})}.safetensors")
    with suppress(OSError, MemoryError):
        found = _stored(earlier, {}, aside=False) if earlier != file else None
        if found is None or "model_hash" in found.provenance:
            return
        log.warning(
            "%r was found by an earlier version in a model of these weights, but does not say of which configuration and "
            "tokenizer, so the mask is trained again; Subnetwork.load reads the file as it is.",
            str(earlier),
        )


def is_unstable(losses: list[float]) -> bool:
    """Whether a cross-entropy (nats, by step) jumped and stayed up (the release's rule).

    A jump is a rise by 0.25, or by a quarter, over the mean of the 10 steps before (of all before, where they are fewer), from
    the second step on; it is forgiven if that mean is reached again 100 steps before the end.
    """
    curve = np.asarray(losses, dtype=float)
    steps = np.arange(1, len(curve))
    sums = np.concatenate([[0.0], np.cumsum(curve)])
    first = np.maximum(0, steps - 10)
    before = (sums[steps] - sums[first]) / (steps - first)
    jumps = np.flatnonzero((curve[1:] > before + 0.25) | (curve[1:] > before * 1.25))
    settled = curve[: max(0, len(curve) - 100)]
    return any(not (settled[1 + jump :] <= before[jump]).any() for jump in jumps)


@torch.inference_mode(False)
@torch.enable_grad()
@full_precision()
def _train(
    model: LanguageModel,
    target: Target,
    corpus: TokenCorpus,
    config: SparsifyConfig,
    run: Run,
    state: dict[str, Tensor] | None,
    checkpoint: Checkpoint,
) -> Subnetwork:
    """Go on with a run, which records how, to its end; returns the subnetwork with its history."""
    generator = np.random.default_rng([config.seed, run.attempt])
    draw = batches(corpus, config, generator, run.step)
    gates = _Gates(model, config)
    steps = _Steps(model, target.bind(model), gates, config, run)
    if state is not None:
        gates.restore(state)
        generator.bit_generator.state = run.generator
    checkpoint.begin(run.step)
    growth = config.final_beta ** (1 / config.steps)
    progress = tqdm(total=config.steps, initial=run.step, desc=f"lambda {config.sparsity_penalty:g}", unit="step")
    with progress, interrupts_deferred() as interrupted:
        while run.step < config.steps and not run.converged:
            ids, weights = (part.to(model.device) for part in draw())
            gates.close(run.beta)
            with gradients_watched(gates.masked, model) if run.step == 0 else nullcontext():
                kl, entropy = steps.take(ids, weights)
            run.losses.append(kl + entropy)
            run.beta *= growth
            run.step += 1
            progress.update()
            if run.step % CHECK_EVERY == 0 or run.step == config.steps:
                on, undecided = gates.decided(run.beta)
                run.history.append((run.step, kl, on / gates.n, undecided / gates.n))
                progress.set_postfix(KL=f"{kl:.3f}", density=f"{on / gates.n:.3%}", undecided=f"{undecided / gates.n:.3%}")
                run.converged = undecided <= config.undecided_share * on
            if interrupted() or checkpoint.due(run.step):
                run.generator = dict(generator.bit_generator.state)
                checkpoint.save(run, gates.state())
            if interrupted():
                raise KeyboardInterrupt(f"Training was interrupted after step {run.step}; the same call goes on from there.")
    facts = {"steps": run.step, "converged": run.converged, "history": run.history}
    if run.passes > 1:
        facts["passes"] = run.passes
    return Subnetwork(gates.masks(), model.architecture, facts)


@dataclass(frozen=True)
class _Steps:
    """Optimizer steps of a run."""

    model: LanguageModel
    divergence: BoundTarget
    gates: _Gates
    config: SparsifyConfig
    run: Run

    def take(self, ids: Int[Tensor, "batch pos"], weights: Float[Tensor, "batch pos"]) -> tuple[float, float]:
        """Update the gates by a batch; where memory runs out, in twice as many passes from then on.

        Returns:
            (KL, entropy): means over the batch of the KL to the target and of the target's entropy (0 if not known), nats.
        """
        run = self.run
        while True:
            try:
                return self._passes(ids, weights)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if run.passes >= len(ids):
                    raise MemoryError(
                        f"Memory ran out at step {run.step + 1} even with one sequence of {ids.shape[1]} tokens at a "
                        "time; lower sequence_length, search fewer layers or only MLPs, or use precision='bfloat16' or another "
                        "device."
                    ) from error
            gc.collect()
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            run.passes = min(2 * run.passes, len(ids))
            log.warning(
                "Memory ran out at step %d; from here on each batch is taken in %d passes of %d sequences, which changes "
                "nothing but rounding and time.",
                run.step + 1,
                run.passes,
                math.ceil(len(ids) / run.passes),
            )

    def _passes(self, ids: Int[Tensor, "batch pos"], weights: Float[Tensor, "batch pos"]) -> tuple[float, float]:
        """The batch in `run.passes` forward and backward passes, of which the last updates the gates."""
        model, gates, passes, step = self.model, self.gates, self.run.passes, self.run.step + 1
        gates.await_gradients(passes)
        total = entropy = 0.0
        entropy_of = getattr(self.divergence, "entropy", torch.zeros_like)
        for part, part_weights in zip(ids.tensor_split(passes), weights.tensor_split(passes), strict=True):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self.config.dtype == torch.bfloat16):
                hidden = gates.hidden(part)
                kl = (self.divergence(part, hidden) * part_weights).sum()
                entropy += (entropy_of(part) * part_weights).sum().item()
            total += kl.item()
            if not math.isfinite(total):
                check_finite(model.maskable, model.name)
                raise FloatingPointError(
                    f"The loss became {total} at step {step} (lambda {self.config.sparsity_penalty:g}), though the model's "
                    "weights are finite; lower learning_rate, and check the target."
                )
            if total < -LOWEST_KL[self.config.precision]:
                raise FloatingPointError(
                    f"The KL to the target is {total:.3f} nats at step {step}, but no KL is negative; each row of the "
                    "target must sum to 1, and its own entropy must be subtracted."
                )
            kl.backward()
        return total, entropy


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's or the host's memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
