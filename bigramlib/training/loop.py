"""The training loop: one run of mask training, from its beginning or its saved state to its end."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bigramlib.interrupts import interrupts_deferred
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import full_precision, percent
from bigramlib.progress import tqdm
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.target import Target
from bigramlib.text.corpus import TokenCorpus
from bigramlib.training.batches import batches, on_device
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.gates import Gates
from bigramlib.training.ranks import ALONE, Ranks
from bigramlib.training.run import Run, SavedState
from bigramlib.training.sharded_gates import ShardedGates
from bigramlib.training.step import OptimizerStep
from bigramlib.training.stopping import CHECK_EVERY, are_decided, count_gates


@torch.inference_mode(False)
@torch.enable_grad()
@full_precision()
def train(
    model: LanguageModel,
    target: Target,
    corpus: TokenCorpus,
    config: SparsifyConfig,
    start: Subnetwork | None,
    run: Run,
    tensors: dict[str, Tensor] | None,
    saved_state: SavedState,
    ranks: Ranks = ALONE,
) -> Subnetwork:
    """Train a mask until its gates are decided or the steps are used up; returns the subnetwork that it keeps.

    Args:
        model: the frozen model.
        target: what the subnetwork should predict.
        corpus: training text.
        config: the schedule.
        start: the subnetwork near which all gates start, decided as it were, so that all steps are taken; None starts them at
            1/2, and ends when they are decided.
        run: how far the run is; updated at each step.
        tensors: the gates of a run that is continued; None at its beginning.
        saved_state: where the state is saved at times, and when an interrupt comes.
        ranks: the processes that train it together, each calling this.
    """
    generator = np.random.default_rng([config.seed, run.attempt])
    draw = batches(corpus, config, generator, run.step)
    gates = ShardedGates(model, config, ranks) if ranks.count > 1 else Gates(model, config)
    step = OptimizerStep(model, target.bind(model), gates, config, run)
    _begin(gates, generator, config, start, run, tensors)
    saved_state.count_from(run.step)
    with _progress(config, run, ranks) as progress, interrupts_deferred() as interrupted:
        while run.step < config.steps and (start or not run.converged):
            step.take(*on_device(ranks.share(draw()), model.device))
            run.beta *= (config.final_beta / config.first_beta) ** (1 / config.steps)
            run.step += 1
            progress.update()
            check = run.step % CHECK_EVERY == 0 or run.step == config.steps
            stop, save = ranks.any(interrupted(), saved_state.due(run.step))
            if check or save or stop or run.step == 1:  # a target that is no distribution shows in the first step
                kl = step.read()
            if check:
                _check_gates(run, gates, config, kl)
                progress.set_postfix(_shown(*run.history[-1]))
            if save or stop:
                run.generator = dict(generator.bit_generator.state)
                saved_state.save(run, gates.state())
            if stop:
                raise KeyboardInterrupt(f"Training was interrupted after step {run.step}; the same call goes on from there.")
    return Subnetwork(gates.masks(), model.architecture)


def _begin(
    gates: Gates,
    generator: np.random.Generator,
    config: SparsifyConfig,
    start: Subnetwork | None,
    run: Run,
    tensors: dict[str, Tensor] | None,
) -> None:
    """Set beta, the gates and the random generator to where a run begins, or to where it was saved (see `train`)."""
    if tensors is not None:
        gates.drop(run.closed)
        gates.restore(tensors)
        generator.bit_generator.state = run.generator
        return
    run.beta = config.first_beta
    if start:
        gates.start_from(start.masks, run.beta)


def _check_gates(run: Run, gates: Gates, config: SparsifyConfig, kl: float) -> None:
    """Record a step's KL (nats), the shares of kept and undecided gates and whether they are decided; drop closed blocks."""
    kept, undecided, closed = count_gates(gates, run.beta)
    run.history.append((run.step, kl, kept / gates.total, undecided / gates.total))
    run.converged = are_decided(kept, undecided, config.undecided_share)
    gates.drop(closed)
    run.closed += closed


def _progress(config: SparsifyConfig, run: Run, ranks: Ranks) -> tqdm:
    """The progress bar of a run, which only one of its processes shows."""
    hidden = {} if ranks.leads else {"disable": True}
    return tqdm(total=config.steps, initial=run.step, desc=f"lambda {config.sparsity_penalty:g}", unit="step", **hidden)


def _shown(_: int, kl: float, kept: float, undecided: float) -> dict[str, str]:
    """What the progress bar says beside the step, of a record of the history."""
    return {"KL": f"{kl:.3f}", "density": percent(kept), "undecided": percent(undecided)}
