"""An optimizer step: a batch in forward and backward passes, its losses, and smaller passes if memory runs out."""

from __future__ import annotations

import gc
import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.models.checks import check_finite
from bigramlib.models.language_model import LanguageModel
from bigramlib.targets.target import BoundTarget
from bigramlib.training.config import SparsifyConfig
from bigramlib.training.gates import Gates
from bigramlib.training.ranks import OtherOutOfMemoryError
from bigramlib.training.run import Run
from bigramlib.training.stopping import gradients_watched

LOWEST_KL = {"float32": 0.01, "bfloat16": 0.5}
"""By how many nats rounding may put a batch's KL below zero."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimizerStep:
    """The optimizer steps of one run.

    Attributes:
        model: the frozen model.
        divergence: the KL to the target, for this model.
        gates: what the steps update.
        config: precision and penalty.
        run: how far the run is. Its `passes` grow where memory runs out, its `losses` by `read`; all else of it is the
            caller's to update.
        unread: of each step since the last `read`, the KL and entropy of each pass, [passes, 2], on the model's device.
    """

    model: LanguageModel
    divergence: BoundTarget
    gates: Gates
    config: SparsifyConfig
    run: Run
    unread: list[Tensor] = field(default_factory=list)

    def take(self, ids: Int[Tensor, "batch pos"], weights: Float[Tensor, "batch pos"]) -> None:
        """Update the gates by a batch. Where memory runs out, this and all later batches are taken in twice as many passes.

        The losses stay on the device, so that a GPU is not waited for in each step; `read` gets and checks them.

        Args:
            ids: tokens, [batch, pos].
            weights: of each token's loss, [batch, pos], with sum 1.

        Raises:
            FloatingPointError: no weight changes the loss.
            MemoryError: not even one sequence at a time fits into memory.
        """
        self.gates.begin_step(self.run.beta)
        with gradients_watched(self.gates.masked, self.model) if self.run.step == 0 else nullcontext():
            while True:
                try:
                    losses = self._passes(ids, weights)
                    self.gates.ranks.check()
                    self.unread.append(losses)
                    return
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    if not isinstance(error, OtherOutOfMemoryError):
                        self.gates.ranks.check(out_of_memory=True)
                    self._check_divisible(ids, error)
                self._take_more_passes(len(ids))  # after the except block, which keeps the tensors of the failed pass alive

    def read(self) -> float:
        """Add the losses of all steps since the last reading to the run's; the last of these is the run's latest step.

        A loss is the KL to the target plus the target's entropy (0 if not known), means over the batch, nats.

        Returns:
            The KL of the latest step, nats.

        Raises:
            FloatingPointError: the loss or weights are not finite, or the KL is negative.
        """
        losses, ranks = torch.cat(self.unread), self.gates.ranks
        rows = iter((ranks.sum(losses) if ranks.divide(self.config.batch_size) else losses).tolist())
        for step, passes in enumerate(self.unread, self.run.step - len(self.unread) + 1):
            kl = entropy = 0.0
            for of_pass in islice(rows, len(passes)):
                kl, entropy = kl + of_pass[0], entropy + of_pass[1]
            self._check_loss(kl, step)
            self.run.losses.append(kl + entropy)
        self.unread.clear()
        return kl

    def _passes(self, ids: Int[Tensor, "batch pos"], weights: Float[Tensor, "batch pos"]) -> Float[Tensor, "passes 2"]:
        """Take a batch in `run.passes` forward and backward passes, the last of which updates the gates.

        Returns:
            The part of each pass in the batch's KL and entropy, nats.
        """
        model, gates, passes = self.model, self.gates, min(self.run.passes, len(ids))
        gates.expect_passes(passes)
        losses = []
        entropy_of = getattr(self.divergence, "entropy", torch.zeros_like)
        for part, part_weights in zip(ids.tensor_split(passes), weights.tensor_split(passes), strict=True):
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self.config.dtype == torch.bfloat16):
                hidden = gates.hidden(part)
                kl = (self.divergence(part, hidden) * part_weights).sum()
                entropy = (entropy_of(part) * part_weights).sum()
            losses.append(torch.stack([kl.detach(), entropy]))
            kl.backward()
        return torch.stack(losses)

    def _check_loss(self, kl: float, step: int) -> None:
        """Raise FloatingPointError if the KL of a step's batch (nats) is not finite, or negative beyond rounding."""
        if not math.isfinite(kl):
            check_finite(self.model.maskable, self.model.name)
            raise FloatingPointError(
                f"The loss became {kl} at step {step} (lambda {self.config.sparsity_penalty:g}), though the model's "
                "weights are finite; lower learning_rate, and check the target."
            )
        if kl < -LOWEST_KL[self.config.precision]:
            raise FloatingPointError(
                f"The KL to the target is {kl:.3f} nats at step {step}, but no KL is negative; each row of the "
                "target must sum to 1, and its own entropy must be subtracted."
            )

    def _check_divisible(self, ids: Int[Tensor, "batch pos"], error: BaseException) -> None:
        """Raise MemoryError if each sequence of a batch has a pass of its own already."""
        if self.run.passes >= len(ids):
            raise MemoryError(
                f"Memory ran out at step {self.run.step + 1} even with one sequence of {ids.shape[1]} tokens at a "
                "time; lower sequence_length, search fewer layers or only MLPs, or use precision='bfloat16' or another "
                "device."
            ) from error

    def _take_more_passes(self, sequences: int) -> None:
        """Free what the failed pass held, and take batches of so many sequences in twice as many passes from now on."""
        gc.collect()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.run.passes = min(2 * self.run.passes, sequences)
        log.warning(
            "Memory ran out at step %d; from here on each batch is taken in %d passes of %d sequences, which changes "
            "nothing but rounding and time.",
            self.run.step + 1,
            self.run.passes,
            math.ceil(sequences / self.run.passes),
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's or the host's memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
