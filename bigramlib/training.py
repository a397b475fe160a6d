"""Continuous sparsification: find the few weights that predict a target (Savarese et al. 2020; paper, recipe).

One logit s for each maskable weight; the forward pass uses W * sigmoid(beta s); the loss is the mean KL to the target plus
lambda times the mean gate; beta grows until the gates are decided; the mask is s > 0. Logits are updated block by block
while the backward pass runs, so a step is a plain fine-tuning step plus a few elementwise sweeps over a block at a time.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import bigramlib
from bigramlib.corpus import TokenCorpus
from bigramlib.models import LanguageModel
from bigramlib.progress import tqdm
from bigramlib.store import content_hash, store_folder
from bigramlib.subnetwork import Subnetwork
from bigramlib.targets import BoundTarget, Target

ZERO_WEIGHT_LOGIT = -1e6
SMALL_MODEL, LARGE_MODEL = 5_000_000, 50_000_000
"""Maskable weights up to which, and from which on, a model is searched in other ways (`SparsifyConfig.suited`)."""
CHECK_EVERY = 10


@dataclass(frozen=True)
class SparsifyConfig:
    """How to find a subnetwork; `suited` is the schedule for a model and a target, `paper` is the paper's.

    Attributes:
        sparsity_penalty: lambda, nats for keeping every weight; larger finds smaller subnetworks.
        steps: optimizer steps at most.
        batch_size, sequence_length: tokens of one step.
        learning_rate: of AdamW on the mask logits (other settings are torch's defaults).
        final_beta: beta grows geometrically from 1 to this over `steps`.
        flattening: None trains on running text. A power a draws i.i.d. tokens in proportion to (unigram probability)^a
            and weights their losses back to the unigram distribution: the target depends on the current token alone,
            so this is the same objective with less noise, though in unnatural contexts.
        attention: False drops all attention weights beforehand and searches the MLPs alone: the target depends on the current
            token alone, which is all that an MLP sees, so steps cost less and contexts add no noise.
        layers: search this many layers from the first on and drop the weights of later ones beforehand; None searches all.
        precision: of the forward and backward pass; logits, their updates and the model's own weights are float32 always.
        undecided_share: stop when gates between 0.1 and 0.9 are at most this share of the gates above 0.9.
        attempts: runs whose loss stays unstable (`is_unstable`) are tried again with another shuffle, so often in all.
        seed: of the batches.
    """

    sparsity_penalty: float | int = 10.0
    steps: int = 150
    batch_size: int = 8
    sequence_length: int = 128
    learning_rate: float = 9e-3
    final_beta: float = 1000.0
    flattening: float | None = 0.5
    attention: bool = True
    layers: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    undecided_share: float = 0.01
    attempts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sparsity_penalty", float(self.sparsity_penalty))
        if not (self.sparsity_penalty >= 0 and math.isfinite(self.sparsity_penalty)):
            raise ValueError(
                f"sparsity_penalty (lambda) is {self.sparsity_penalty}; it must be zero or a positive number. "
                "Use Subnetwork.full or Subnetwork.empty for the limits."
            )
        for name in ("steps", "batch_size", "sequence_length", "attempts", "layers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be a positive number.")
        if not self.final_beta >= 1:
            raise ValueError(f"final_beta is {self.final_beta}; it must be at least 1, where beta starts.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}; use 'float32' or 'bfloat16'.")
        if self.flattening is not None and not 0 <= self.flattening <= 1:
            raise ValueError(f"flattening is {self.flattening}; it must lie between 0 and 1, or be None for running text.")

    @property
    def dtype(self) -> torch.dtype:
        """The type of masked weights and activations."""
        return getattr(torch, self.precision)

    @classmethod
    def suited(
        cls, model: LanguageModel, target: Target, sparsity_penalty: float | int = 10.0, seed: int = 0
    ) -> SparsifyConfig:
        """The shortest schedule known to find good subnetworks in a model of this size, for this target.

        A target that reads the context is learnt from running text, a bigram table from i.i.d. tokens. Models above
        `SMALL_MODEL` maskable weights are computed in bfloat16 and take more steps of fewer tokens, at a higher rate, with beta
        growing slowly. Above `LARGE_MODEL` only the MLPs of the first eight layers are searched for a bigram table: that
        attention and later layers keep nothing is imposed there, not found.
        """
        maskable = sum(weight.numel() for weight in model.maskable.values())
        chosen = cls(sparsity_penalty=sparsity_penalty, seed=seed)
        if maskable > SMALL_MODEL:
            chosen = replace(chosen, precision="bfloat16")
        if target.reads_context:
            return replace(chosen, flattening=None)
        if maskable > SMALL_MODEL:
            chosen = replace(chosen, steps=600, batch_size=2, learning_rate=3e-2, final_beta=100.0)
        if maskable > LARGE_MODEL:
            chosen = replace(chosen, steps=1000, attention=False, layers=8)
        return chosen

    @classmethod
    def paper(cls, sparsity_penalty: float, seed: int = 0) -> SparsifyConfig:
        """The recipe of the paper's release: 15,000 steps of 32 x 128 tokens of running text, beta times 1.001 a step."""
        steps = 15_000
        return cls(
            sparsity_penalty=sparsity_penalty,
            steps=steps,
            batch_size=32,
            learning_rate=5e-5,
            final_beta=1.001**steps,
            flattening=None,
            attempts=4,
            seed=seed,
        )


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
        subnetwork, losses = _train(model, target, _batches(corpus, config, shuffled), config)
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


def flattened_sample(
    probability: Float[np.ndarray, " vocab"], power: float, n: int, generator: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Draw n tokens, flattened, as evenly as possible, with weights that undo the flattening.

    Systematic sampling with expected counts min(cap, c p^power): frequent tokens are not drawn again while rarer ones
    could be (the cap is 1 while n is below the number of tokens that occur), and no token's count is off its expectation
    by more than one.

    Returns:
        (tokens, weights): [n] ids in random order; [n] importance weights p / expected count, which sum to about 1.
    """
    tokens = np.flatnonzero(probability)
    wish = probability[tokens] ** power
    cap = max(1.0, n / len(tokens))
    low, high = 0.0, cap / wish.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(cap, middle * wish).sum() < n else (low, middle)
    expected = np.minimum(cap, high * wish)
    order = generator.permutation(len(tokens))
    edges = np.cumsum(expected[order])
    points = (generator.random() + np.arange(n)) * (edges[-1] / n)
    drawn = order[np.minimum(np.searchsorted(edges, points, side="right"), len(tokens) - 1)]
    drawn = drawn[generator.permutation(n)]
    return tokens[drawn], probability[tokens[drawn]] / expected[drawn]


def _batches(
    corpus: TokenCorpus, config: SparsifyConfig, generator: np.random.Generator
) -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that draws (ids, weights), both [batch, pos]; the weights of a batch sum to 1."""
    shape = (config.batch_size, config.sequence_length)
    if config.flattening is None:
        uniform = torch.full(shape, 1 / math.prod(shape))
        return lambda: (torch.from_numpy(corpus.sample(*shape, generator)), uniform)
    counts = np.bincount(np.asarray(corpus.ids), minlength=corpus.vocabulary_size)
    probability = counts / counts.sum()

    def draw() -> tuple[Tensor, Tensor]:
        tokens, weights = flattened_sample(probability, config.flattening, math.prod(shape), generator)
        weights = torch.from_numpy(weights / weights.sum()).float()
        return torch.from_numpy(tokens).view(shape), weights.view(shape)

    return draw


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
                kl = (_divergences(model, divergence, ids, hidden) * weights).sum()
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


def _divergences(model: LanguageModel, divergence: BoundTarget, ids: Tensor, hidden: Tensor) -> Tensor:
    """The KL of each position; where a batch has many logits, never with all of them in memory."""
    chunks = model.row_chunks(*ids.shape)
    if len(chunks) == 1:
        return divergence(ids, hidden, model.unembed(hidden))
    return _ByChunks.apply(hidden, chunks, lambda part, rows: divergence(ids[rows], part, model.unembed(part)))


class _ByChunks(torch.autograd.Function):
    """A loss of each position that depends on that position's hidden state alone, chunk by chunk of the batch.

    The gradient to the hidden states is taken in the forward pass, while a chunk's logits exist; nothing else is kept. The
    unembedding is frozen, so there is no other gradient.
    """

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        chunks: list[slice],
        function: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        losses, gradients = [], []
        for rows in chunks:
            part = hidden[rows].detach().requires_grad_()
            with torch.enable_grad():
                loss = function(part, rows)
                gradients += torch.autograd.grad(loss.sum(), part)
            losses.append(loss.detach())
        context.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, outer: Tensor) -> tuple[Tensor, None, None]:
        return context.saved_tensors[0] * outer[..., None], None, None


class _Gates:
    """Mask logits and masked weights of a model's maskable matrices, updated block by block during the backward pass.

    Above the model itself a weight costs its logit, AdamW's two moments and the masked weight: gradients live for one
    attention block or MLP at a time, and gates are computed where they are needed.
    """

    def __init__(self, model: LanguageModel, config: SparsifyConfig) -> None:
        self.n = sum(weight.numel() for weight in model.maskable.values())
        self.penalty = config.sparsity_penalty / self.n
        self.shapes = {name: weight.shape for name, weight in model.maskable.items()}
        searched = set(model.architecture.within(config.layers, config.attention))
        blocks = model.architecture.blocks
        self.dropped = [block for block, names in blocks.items() if searched.isdisjoint(names)]
        kept = [names for names in blocks.values() if not searched.isdisjoint(names)]
        self.blocks = [_BlockGates({name: model.maskable[name] for name in names}, config) for names in kept]
        self.masked = {name: masked for block in self.blocks for name, masked in block.masked.items()}

    def close(self, beta: float) -> None:
        """Refresh the masked weights for a step; the backward pass that follows updates the logits."""
        for block in self.blocks:
            block.close(beta, self.penalty)

    def mean(self) -> float:
        """The mean gate of this step over all maskable weights."""
        return sum(float(block.open) for block in self.blocks) / self.n

    @torch.no_grad()
    def decided(self, beta: float) -> tuple[int, int]:
        """(gates above 0.9, gates between 0.1 and 0.9) for the logits as they are now."""
        threshold = math.log(9) / beta
        on = sum(int((block.logits > threshold).sum()) for block in self.blocks)
        return on, sum(int((block.logits.abs() < threshold).sum()) for block in self.blocks)

    def masks(self) -> dict[str, Tensor]:
        """The hard masks s > 0, on the CPU; nothing is kept of matrices that were not searched."""
        masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in self.shapes.items()}
        for block in self.blocks:
            for name, part in block.split(block.logits > 0):
                masks[name] = part.cpu().clone()
        return masks


class _BlockGates:
    """The gates of an attention block or MLP: flat logits with their optimizer, and masked weights whose gradients drive it."""

    def __init__(self, weights: dict[str, Tensor], config: SparsifyConfig) -> None:
        self.weights = weights
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        self.logits = torch.nn.Parameter(torch.zeros_like(flat).masked_fill_(flat == 0, ZERO_WEIGHT_LOGIT))
        self.optimizer = torch.optim.AdamW([self.logits], lr=config.learning_rate, fused=True)
        self.masked = {name: torch.zeros_like(weight, dtype=config.dtype).requires_grad_() for name, weight in weights.items()}
        block = weakref.proxy(self)  # a tensor's hooks are invisible to the garbage collector
        for name, masked in self.masked.items():
            masked.register_post_accumulate_grad_hook(partial(_BlockGates._arrived, block, name))

    def split(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The part of each matrix in a flat tensor, as views."""
        pieces = flat.split([weight.numel() for weight in self.weights.values()])
        for (name, weight), piece in zip(self.weights.items(), pieces, strict=True):
            yield name, piece.view(weight.shape)

    def gate(self) -> Tensor:
        """sigmoid(beta s), flat."""
        return torch.mul(self.logits.detach(), self.beta).sigmoid_()

    @torch.no_grad()
    def close(self, beta: float, penalty: float) -> None:
        """Refresh the masked weights, and get ready for their gradients."""
        self.beta, self.penalty = beta, penalty
        flat = self.gate()
        self.open = flat.sum()
        for name, gate in self.split(flat):
            self.masked[name].copy_(gate.mul_(self.weights[name]))
        self.pending = set(self.weights)
        self.gradient: Tensor | None = None

    @torch.no_grad()
    def _arrived(self, name: str, masked: Tensor) -> None:
        """Take over the gradient of one masked matrix; after the last one, turn them into those of the logits and step."""
        if self.gradient is None:
            self.gradient = torch.empty_like(self.logits)
        torch.mul(masked.grad, self.weights[name], out=dict(self.split(self.gradient))[name])
        masked.grad = None
        self.pending.discard(name)
        if not self.pending:
            gate = self.gate()
            self.gradient.add_(self.penalty).mul_(gate).mul_(gate.neg_().add_(1)).mul_(self.beta)
            self.logits.grad, self.gradient = self.gradient, None
            self.optimizer.step()
            self.logits.grad = None
