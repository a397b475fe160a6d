"""One run of instruction tuning, from its beginning or its saved state to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bigramlib.instruction.adapter import TrainedWeights
from bigramlib.instruction.examples import Example, packed
from bigramlib.instruction.tuning_config import TuneConfig
from bigramlib.interrupts import interrupts_deferred
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import full_precision
from bigramlib.progress import tqdm
from bigramlib.saved_state import StateFile

FORMAT = "bigramlib instruction tuning state 1"
GRADIENT_NORM = 1.0
"""Gradients that are longer than this are shortened to it."""
RECENT = 20
"""The progress bar shows the mean loss of so many steps."""


def completion_loss(
    model: LanguageModel, ids: Int[Tensor, "batch pos"], completion: Bool[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy of completions, nats a token; every token of the batch's completions counts the same.

    Logits are computed at these tokens alone. Gradients flow into the unembedding too, which `LanguageModel.unembed` keeps
    frozen.

    Args:
        model: the model, some of whose weights may be trained.
        ids: prompts and completions, filled up on the right.
        completion: which tokens are the completions'.
    """
    head, size = model.hf.get_output_embeddings(), model.vocabulary_size
    bias = getattr(head, "bias", None)
    readout = replace(model.readout, unembedding=head.weight[:size], bias=None if bias is None else bias[:size])
    predicted = completion[:, 1:]
    logits = readout.logits(model.hidden(ids[:, :-1])[predicted])
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][predicted])


class Optimizer:
    """AdamW over the trained parameters, which decays matrices alone. Its state is there before the first step."""

    def __init__(self, weights: TrainedWeights, config: TuneConfig) -> None:
        self.parameters = weights.parameters
        decays = {True: config.weight_decay, False: 0.0}
        groups = {is_matrix: [p for p in self.parameters.values() if (p.ndim > 1) == is_matrix] for is_matrix in decays}
        self.adamw = torch.optim.AdamW(
            [{"params": group, "weight_decay": decays[kind]} for kind, group in groups.items() if group], fused=True
        )
        for parameter in self.parameters.values():
            zeros = {name: torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_avg_sq")}
            self.adamw.state[parameter] = {"step": parameter.detach().new_zeros(()), **zeros}

    def step(self, rate: float) -> float:
        """Update the parameters by their gradients, if these are finite; returns the norm of the gradients."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), GRADIENT_NORM))
        if math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = rate
            self.adamw.step()
        self.adamw.zero_grad()
        return norm

    def state(self) -> dict[str, Tensor]:
        """The parameters, and of each the number of steps made and both moments; no copies."""
        moments = {
            f"{name}/{kind}": value
            for name, parameter in self.parameters.items()
            for kind, value in self.adamw.state[parameter].items()
        }
        return {name: parameter.detach() for name, parameter in self.parameters.items()} | moments

    def parsed(self, _: str, facts: dict, tensors: dict[str, Tensor]) -> tuple[list[float], dict[str, Tensor]]:
        """The losses so far, and the tensors of a saved state; raises ValueError if it is none of this run."""
        if {name: value.shape for name, value in tensors.items()} != {
            name: value.shape for name, value in self.state().items()
        }:
            raise ValueError("its tensors are not those of this run")
        return [float(loss) for loss in facts["losses"]], tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue with a `state` that was saved."""
        for name, value in self.state().items():
            value.copy_(tensors[name])


@torch.inference_mode(False)
@torch.enable_grad()
@full_precision()
def train(weights: TrainedWeights, examples: Sequence[Example], config: TuneConfig, state_file: StateFile) -> list[float]:
    """Train a model's weights on examples, in place; a run that was interrupted is continued to the same bits.

    Args:
        weights: what is trained.
        examples: those of all steps, in order.
        config: the schedule.
        state_file: where the state is saved at times, and when an interrupt comes.

    Returns:
        The loss at each step, nats.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
    """
    optimizer = Optimizer(weights, config)
    losses: list[float] = []
    if saved := state_file.read("instruction tuning", optimizer.parsed, FORMAT):
        losses = saved[0]
        optimizer.restore(saved[1])
    del saved
    state_file.count_from(len(losses))
    progress = tqdm(total=config.steps, initial=len(losses), desc=f"tuning {weights.base.name}", unit="step")
    with progress, interrupts_deferred() as interrupted:
        while (step := len(losses)) < config.steps:
            batch = examples[step * config.batch_size : (step + 1) * config.batch_size]
            losses.append(_step(weights, batch, config, optimizer, step))
            progress.set_postfix(loss=f"{sum(losses[-RECENT:]) / len(losses[-RECENT:]):.3f}", refresh=False)
            progress.update()
            if interrupted() or state_file.due(step + 1):
                state_file.write(FORMAT, step + 1, {"losses": losses}, optimizer.state())
            if interrupted():
                raise KeyboardInterrupt(f"Tuning was interrupted after step {step + 1}; the same call goes on from there.")
    return losses


def _step(weights: TrainedWeights, batch: Sequence[Example], config: TuneConfig, optimizer: Optimizer, step: int) -> float:
    """Update the weights by a batch; returns its loss, nats."""
    model = weights.copied
    ids, completion = (part.to(model.device) for part in packed(batch))
    lower = config.dtype == torch.bfloat16
    # without its cache, which within a caller's autocast outlives the step and would hold the weights of the step before
    with torch.autocast(model.device.type, torch.bfloat16, enabled=lower, cache_enabled=False):
        loss = completion_loss(model, ids, completion)
    value = loss.item()
    norm = math.nan
    if math.isfinite(value):
        loss.backward()
        norm = optimizer.step(config.rate(step))
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"The loss or its gradient is not finite at step {step + 1} of tuning {weights.base.name!r} (loss {value}); lower "
            "learning_rate, or use precision='float32'."
        )
    return value
