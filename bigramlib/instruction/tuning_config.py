"""How to tune: the settings of instruction tuning."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import torch

from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import number, whole_number

if TYPE_CHECKING:
    Whole = int
    Real = float
else:  # what may be given; what is kept is a plain int or float
    Whole = Real = object

SMALL = 10**7
"""Models of fewer parameters are tuned whole, and scored in float32."""
AT_LEAST = {"steps": 1, "batch_size": 1, "warmup_steps": 0, "written_examples": 0, "rank": 1, "seed": 0}
"""The whole numbers among the settings, with the least that each may be."""


def is_small(model: LanguageModel) -> bool:
    """Whether a model has fewer than `SMALL` parameters."""
    return sum(parameter.numel() for parameter in model.hf.parameters()) < SMALL


@dataclass(frozen=True)
class TuneConfig:
    """How to tune a model on tasks.

    Attributes:
        steps: optimizer steps.
        batch_size: examples of one step.
        learning_rate: of AdamW (Loshchilov & Hutter 2019), at its highest: after `warmup_steps`, from where it falls linearly
            to zero.
        warmup_steps: steps over which the rate grows linearly.
        weight_decay: of matrices; norms and biases have none.
        rank: of the low-rank changes of the maskable matrices (LoRA, Hu et al. 2021); None tunes all weights of the model.
        alpha: the changes are scaled by alpha / rank.
        written_examples: how many other examples of the task the model is tuned to write before it answers (SampleGen of
            Bigoulaeva et al. 2025); 0 tunes it to answer at once.
        precision: of the forward and backward pass; weights and their updates are float32 always.
        seed: of the examples, and of the adapter's first weights.
    """

    steps: Whole = 60
    batch_size: Whole = 16
    learning_rate: Real = 3e-4
    warmup_steps: Whole = 10
    weight_decay: Real = 0.01
    rank: Whole | None = 16
    alpha: Real = 16.0
    written_examples: Whole = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Whole = 0

    def __post_init__(self) -> None:
        for name, least in AT_LEAST.items():
            if name != "rank" or self.rank is not None:
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        for name in ("learning_rate", "weight_decay", "alpha"):
            object.__setattr__(self, name, float(number(name, getattr(self, name))))
            if not (0 <= getattr(self, name) < math.inf) or (name != "weight_decay" and not getattr(self, name)):
                allowed = "zero or a positive number" if name == "weight_decay" else "a positive number"
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}.")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be less than the {self.steps} steps.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; use 'float32' or 'bfloat16'.")

    @classmethod
    def suited(cls, model: LanguageModel, seed: int = 0) -> TuneConfig:
        """Settings that were tried on models of such a size: small ones are tuned whole, others through LoRA in bfloat16."""
        if is_small(model):
            return cls(steps=100, batch_size=32, learning_rate=5e-4, rank=None, seed=seed)
        return cls(precision="bfloat16", seed=seed)

    def facts(self) -> dict:
        """The settings on which the result depends, as they enter its key."""
        return {name: value for name, value in asdict(self).items() if not (name == "alpha" and self.rank is None)}

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations in matrix products."""
        return getattr(torch, self.precision)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        rising = (step + 1) / max(1, self.warmup_steps)
        falling = (self.steps - step) / (self.steps - self.warmup_steps)
        return self.learning_rate * min(rising, falling)
