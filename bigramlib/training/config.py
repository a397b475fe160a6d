"""How to search: the settings of continuous sparsification, and the schedules that suit a model or follow the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from bigramlib.numeric import number, whole_number
from bigramlib.targets.target import Target

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel

    Whole = int
    Real = float
    Switch = bool
else:  # what may be given; what is kept is a plain int or float
    Whole = Real = Switch = object

AT_LEAST_1 = ("steps", "batch_size", "sequence_length", "layers", "attempts")
SWITCHES, OPTIONAL = ("with_replacement", "attention"), ("flattening", "layers")
NUMBERS = (
    "sparsity_penalty",
    "learning_rate",
    "second_moment_decay",
    "first_beta",
    "final_beta",
    "flattening",
    "undecided_share",
)
LATER_DEFAULTS = {"with_replacement": True, "first_beta": 1.0, "second_moment_decay": 0.999}
"""Settings that came after version 0.1, with what was done before. So set, they leave no trace: its runs are found again."""
START = "start"
"""The setting that leaves no trace in `facts` at all: what a run started from is told by its masks, not by how they came."""
SMALL_MODEL, LARGE_MODEL = 5_000_000, 50_000_000
"""Maskable weights up to which, and from which on, a model is searched in other ways (`SparsifyConfig.suited`)."""


@dataclass(frozen=True)
class SparsifyConfig:
    """How to find a subnetwork; `suited` is the schedule for a model and a target, `paper` is the paper's.

    Attributes:
        sparsity_penalty: lambda, nats for keeping every weight; larger finds smaller subnetworks.
        steps: optimizer steps at most.
        batch_size, sequence_length: tokens of one step.
        learning_rate: of AdamW on the mask logits (other settings but the next one are torch's defaults).
        second_moment_decay: AdamW's second beta. Gradients grow with beta, a hundredfold within a search; at 0.95 the step size
            keeps pace with them, at torch's 0.999 steps become too long, and searches of deep models with attention collapse.
        first_beta, final_beta: beta grows geometrically from the first to the last over `steps`. The last should decide all
            gates, so a smaller learning rate needs a larger one. What is undecided at the end is kept or dropped all the same,
            and a warning says that the mask may predict worse than the loss.
        flattening: None trains on running text. A power a draws i.i.d. tokens in proportion to (unigram probability)^a
            and weights their losses back to the unigram distribution: the target depends on the current token alone,
            so this is the same objective with less noise, though in unnatural contexts.
        with_replacement: whether sequences of running text are drawn from random places; False goes through the text in
            sequences that do not overlap, each once, in shuffled order.
        attention: False drops all attention weights beforehand and searches the MLPs alone: the target depends on the current
            token alone, which is all that an MLP sees, so steps cost less and contexts add no noise.
        layers: search this many layers from the first on and drop the weights of later ones beforehand; None searches all.
        precision: of the forward and backward pass; logits, their updates and the model's own weights are float32 always.
        undecided_share: of undecided gates, at which a run ends (`stopping.are_decided`); below 0 it uses all its steps.
        attempts: a run that is unstable (`stopping.is_unstable`) is repeated on other batches, up to so many attempts in all.
        seed: of the batches.
        start: how to find the subnetwork that this search starts from (`find_subnetwork`); None starts from none. Lambda and
            seed are the same in both.

    Example:
        >>> config = SparsifyConfig.suited(model, table, 30)
        >>> config.sparsity_penalty
        30.0
    """

    sparsity_penalty: Real = 10.0
    steps: Whole = 150
    batch_size: Whole = 8
    sequence_length: Whole = 128
    learning_rate: Real = 9e-3
    second_moment_decay: Real = 0.999
    first_beta: Real = 1.0
    final_beta: Real = 1000.0
    flattening: Real | None = 0.5
    with_replacement: Switch = True
    attention: Switch = True
    layers: Whole | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    undecided_share: Real = 0.01
    attempts: Whole = 1
    seed: Whole = 0
    start: SparsifyConfig | None = None

    def __post_init__(self) -> None:
        for name in SWITCHES:
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name} is {value!r}; it must be True or False.")
            object.__setattr__(self, name, bool(value))
        for name in AT_LEAST_1 + NUMBERS + ("seed",):
            if (value := getattr(self, name)) is not None or name not in OPTIONAL:
                plain = float(number(name, value)) if name in NUMBERS else whole_number(name, value)
                object.__setattr__(self, name, plain)
                if plain < (least := int(name in AT_LEAST_1)) and name not in NUMBERS:
                    raise ValueError(f"{name} is {plain}; it must be a whole number, at least {least}.")
        if not (self.sparsity_penalty >= 0 and math.isfinite(self.sparsity_penalty)):
            raise ValueError(
                f"sparsity_penalty (lambda) is {self.sparsity_penalty}; it must be zero or a positive number. "
                "Use Subnetwork.full or Subnetwork.empty for the limits."
            )
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be a positive number.")
        if not 0 <= self.second_moment_decay < 1:
            raise ValueError(f"second_moment_decay is {self.second_moment_decay}; it must be at least 0 and below 1.")
        if not 0 < self.first_beta < math.inf:
            raise ValueError(f"first_beta is {self.first_beta}; it must be a positive number.")
        if not self.first_beta <= self.final_beta < math.inf:
            raise ValueError(
                f"final_beta is {self.final_beta}; it must be at least {self.first_beta:g}, where beta starts, and finite."
            )
        if not math.isfinite(self.undecided_share):
            raise ValueError(f"undecided_share is {self.undecided_share}; it must be a finite number.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; use 'float32' or 'bfloat16'.")
        if self.flattening is not None and not 0 <= self.flattening <= 1:
            raise ValueError(f"flattening is {self.flattening}; it must lie between 0 and 1, or be None for running text.")
        if self.flattening is not None and not self.with_replacement:
            raise ValueError("with_replacement=False goes through running text; set flattening to None.")
        if self.start is not None:
            self._take_start(self.start)

    def _take_start(self, start: SparsifyConfig) -> None:
        """Give the first of two searches the lambda and seed of this one; raise ValueError if it searches more than this."""
        if not isinstance(start, SparsifyConfig):
            raise ValueError(f"start is {start!r}; give the SparsifyConfig of the search to start from.")
        layers, of_start = (math.inf if each.layers is None else each.layers for each in (self, start))
        if start.attention > self.attention or of_start > layers:
            raise ValueError(
                "start searches attention or layers that this search drops; set attention and layers so that this one searches "
                "all that start does."
            )
        same = replace(start, sparsity_penalty=self.sparsity_penalty, seed=self.seed)
        object.__setattr__(self, START, same)

    def facts(self) -> dict:
        """The settings as they enter keys and provenance: those of `LATER_DEFAULTS` only where they are other than there."""
        return {
            name: value
            for name, value in vars(self).items()
            if name != START and not (name in LATER_DEFAULTS and LATER_DEFAULTS[name] == value)
        }

    def with_settings(self, settings: Mapping[str, Any]) -> SparsifyConfig:
        """The same config with some fields set.

        Args:
            settings: fields by name. `start` may be given so too: the fields of the search to start from that are set.

        Raises:
            ValueError: there is no such field, or a value cannot be used.
        """
        if unknown := sorted(set(settings) - set(vars(self))):
            raise ValueError(f"settings has {unknown[0]!r}, which SparsifyConfig lacks; it has {', '.join(vars(self))}.")
        start = settings.get(START, self.start)
        if isinstance(start, Mapping):
            if fixed := sorted({"sparsity_penalty", "seed"} & start.keys()):
                raise ValueError(f"start has {fixed[0]!r}, which is the same in both searches; leave it out there.")
            start = replace(self, start=None).with_settings(start)
        return replace(self, **{**settings, START: start})

    @property
    def dtype(self) -> torch.dtype:
        """The type of masked weights and activations."""
        return getattr(torch, self.precision)

    @classmethod
    def suited(cls, model: LanguageModel, target: Target, sparsity_penalty: Real = 10.0, seed: Whole = 0) -> SparsifyConfig:
        """The shortest schedule known to find good subnetworks in a model of this size, for this target (see `suited_to`)."""
        return cls.suited_to(model.architecture.size, target.reads_context, model.device, sparsity_penalty, seed)

    @classmethod
    def suited_to(
        cls,
        maskable: int,
        reads_context: bool,
        device: torch.device,
        sparsity_penalty: Real = 10.0,
        seed: Whole = 0,
    ) -> SparsifyConfig:
        """What `suited` chooses, for a model that need not be loaded.

        A target that reads the context is learnt from running text, a bigram table from i.i.d. tokens: for that, many small
        steps find smaller and better subnetworks than few large ones. Models above `SMALL_MODEL` maskable weights are computed
        in `fast_precision`, at a higher rate, with beta growing slowly. Above `LARGE_MODEL` only the MLPs of the first eight
        layers are searched for a bigram table: that attention and later layers keep nothing is imposed there, not found.

        Args:
            maskable: the number of maskable weights of the model.
            reads_context: `Target.reads_context`.
            device: where it is searched.
            sparsity_penalty: lambda.
            seed: of the batches.
        """
        chosen = cls(sparsity_penalty=sparsity_penalty, seed=seed)
        if maskable > SMALL_MODEL:
            chosen = replace(chosen, precision=fast_precision(device))
        if reads_context:
            return replace(chosen, flattening=None)
        if maskable > SMALL_MODEL:
            chosen = replace(chosen, steps=600, batch_size=2, learning_rate=3e-2, final_beta=100.0)
        else:
            chosen = replace(chosen, steps=600, batch_size=1, learning_rate=3e-3, second_moment_decay=0.95, first_beta=16.0)
        if maskable > LARGE_MODEL:
            chosen = replace(chosen, steps=1000, batch_size=4, attention=False, layers=8)
        return chosen

    @classmethod
    def paper(cls, sparsity_penalty: Real, seed: Whole = 0) -> SparsifyConfig:
        """The recipe of the paper's release: 15,000 steps of 32 x 128 tokens, beta times 1.001 a step, three attempts in all.

        It goes through the text without repetition, as long as there is text; its 480,000 sequences are 61M tokens.
        """
        steps = 15_000
        return cls(
            sparsity_penalty=sparsity_penalty,
            steps=steps,
            batch_size=32,
            learning_rate=5e-5,
            final_beta=1.001**steps,
            flattening=None,
            with_replacement=False,
            attempts=3,
            seed=seed,
        )


def fast_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision in which a device is fastest: bfloat16 on a CUDA GPU and on a CPU with AVX-512.

    Without vector units for it bfloat16 only costs: with AVX2 alone a step was some 35 times slower than in float32.
    """
    fast = device.type == "cuda" or (device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512")
    return "bfloat16" if fast else "float32"
