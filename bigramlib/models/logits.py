"""Next-token logits and what is computed from them, in parts that fit into memory.

A batch has a logit for each position and each token of the vocabulary: 2 GB for 16 sequences of 128 tokens at a vocabulary of
256,000. So no function here holds more than `LOGITS_AT_ONCE` of them, except where all logits are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_AT_ONCE = 2**22
"""How many logits may be in memory together."""
LOWEST_EXPONENT = -80.0
"""How far below the largest logit another one counts on a CPU, nats: below it, exp makes subnormal numbers, slow there."""


@dataclass(frozen=True)
class Readout:
    """How a model turns last hidden states into next-token logits.

    Attributes:
        unembedding: one row for each token.
        bias: of the logits; None where there is none.
        cap: bound of a tanh cap on the logits; None where they are linear in the hidden state.
        scale: what the logits are multiplied by, before any cap (Cohere, Granite).
    """

    unembedding: Float[Tensor, "vocab d_model"]
    bias: Float[Tensor, " vocab"] | None = None
    cap: float | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, hf: PreTrainedModel, vocabulary_size: int, scale: float = 1.0) -> Readout:
        """That of a model; rows of the unembedding beyond the vocabulary, which only pad the matrix, are cut off."""
        head = hf.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return cls(
            head.weight[:vocabulary_size].detach(),
            None if bias is None else bias[:vocabulary_size].detach(),
            getattr(hf.config.get_text_config(), "final_logit_softcapping", None),
            scale,
        )

    def measured(self, own: Float[Tensor, "*shape vocab"], hidden: Float[Tensor, "*shape d_model"]) -> Readout:
        """The readout that comes nearest to a model's own logits of last hidden states: this one, or a scale without a cap."""
        if agree(own, self.logits(hidden)):
            return self
        plain = replace(self, cap=None, scale=1.0)
        flat = plain.logits(hidden).double()
        return replace(plain, scale=float((own.double() * flat).sum() / (flat * flat).sum()))

    def logits(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape vocab"]:
        """All logits of last hidden states."""
        return self._finished(torch.nn.functional.linear(hidden, self.unembedding, self.bias))

    def logits_of(self, hidden: Float[Tensor, "*shape d_model"], tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The logit of one token for each last hidden state."""
        logits = torch.linalg.vecdot(hidden, self.unembedding[tokens])
        return self._finished(logits if self.bias is None else logits + self.bias[tokens])

    def log_partition(self, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape"]:
        """Log sum exp of the logits of each hidden state, nats; in parts where there are many."""
        if self.scale == 1:
            return log_partition(hidden, self.unembedding, self.bias, self.cap)
        bias = None if self.bias is None else self.bias * self.scale
        return log_partition(hidden * self.scale, self.unembedding, bias, self.cap)

    def _finished(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def agree(own: Tensor, computed: Tensor, rounding: float = 1e-3) -> bool:
    """Whether two computations of the same logits, or hidden states, differ by rounding alone: by this share at most."""
    return torch.allclose(computed, own, rtol=rounding, atol=rounding * float(own.abs().max()))


def row_chunks(rows: int, positions: int, vocabulary_size: int) -> list[slice]:
    """A batch cut into parts of whole sequences, each with at most `LOGITS_AT_ONCE` logits, or of a single sequence.

    Args:
        rows: sequences in the batch.
        positions: tokens in each sequence.
        vocabulary_size: logits of each position.
    """
    size = max(1, LOGITS_AT_ONCE // (positions * vocabulary_size))
    return [slice(begin, begin + size) for begin in range(0, rows, size)]


def by_rows(
    loss: Callable[[Tensor, slice], Tensor], hidden: Float[Tensor, "batch pos d_model"], vocabulary_size: int
) -> Float[Tensor, "batch pos"]:
    """A loss of each position, computed for some sequences at a time, as `row_chunks` cuts the batch.

    Only the hidden states get gradients.

    Args:
        loss: takes the hidden states of some sequences and says which they are in the batch; gives the loss of each of their
            positions, which may depend on the hidden state of that position alone.
        hidden: last hidden states.
        vocabulary_size: logits of each position.
    """
    chunks = row_chunks(hidden.shape[0], hidden.shape[1], vocabulary_size)
    return loss(hidden, chunks[0]) if len(chunks) == 1 else _ByRows.apply(hidden, chunks, loss)


def log_partition(
    hidden: Float[Tensor, "*shape d_model"],
    unembedding: Float[Tensor, "vocab d_model"],
    bias: Float[Tensor, " vocab"] | None = None,
    cap: float | None = None,
) -> Float[Tensor, "*shape"]:
    """Log sum exp of the logits of each hidden state, nats. Only the hidden states get gradients.

    The vocabulary is taken in parts, with a running maximum, as in memory-efficient attention (Rabe & Staats 2021). The
    gradient is the mean of the unembedding's rows, weighted by the softmax of the logits; it is summed up in the same pass,
    while the logits of a part are in memory. Under autocast, matrix products are computed in its lower precision and
    everything else in float32.

    Args:
        hidden: last hidden states.
        unembedding: one row for each token.
        bias: of the logits.
        cap: bound of a tanh cap on the logits.
    """
    return _LogPartition.apply(hidden, unembedding, bias, cap)


class _ByRows(torch.autograd.Function):
    """Computes gradients in the forward pass, while the logits of a part are in memory, and keeps nothing else."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        chunks: list[slice],
        loss: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        losses, gradients = [], []
        for rows in chunks:
            part = hidden[rows].detach().requires_grad_(context.needs_input_grad[0])
            with torch.set_grad_enabled(context.needs_input_grad[0]):
                found = loss(part, rows)
                if context.needs_input_grad[0]:
                    gradients += torch.autograd.grad(found.sum(), part)
            losses.append(found.detach())
        if gradients:
            context.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, outer: Tensor) -> tuple[Tensor, None, None]:
        return context.saved_tensors[0] * outer[..., None], None, None


class _LogPartition(torch.autograd.Function):
    """`log_partition` with its gradient."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        unembedding: Tensor,
        bias: Tensor | None,
        cap: float | None,
    ) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else unembedding.dtype
        flat = hidden.flatten(0, -2).to(dtype)
        maximum = torch.full((len(flat), 1), -torch.inf, dtype=torch.float32, device=hidden.device)
        total = torch.zeros_like(maximum)
        expected = torch.zeros_like(flat, dtype=torch.float32) if context.needs_input_grad[0] else None
        size = max(1, LOGITS_AT_ONCE // len(flat))
        for begin in range(0, len(unembedding), size):
            rows = unembedding[begin : begin + size].to(dtype)
            logits = torch.nn.functional.linear(flat, rows).float()
            if bias is not None:
                logits += bias[begin : begin + size]
            slope = None
            if cap is not None:
                logits = logits.div_(cap).tanh_()
                slope = 1 - logits**2
                logits *= cap
            larger = torch.maximum(maximum, logits.amax(-1, keepdim=True))
            shrink = (maximum - larger).exp_()
            logits.sub_(larger)
            if kind == "cpu":
                logits.clamp_(LOWEST_EXPONENT)
            weights = logits.exp_()
            maximum, total = larger, total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
            if expected is not None:
                if slope is not None:
                    weights *= slope
                expected.mul_(shrink).add_(weights.to(dtype) @ rows)
        if expected is not None:
            context.save_for_backward(expected.div_(total).view(hidden.shape))
        return (maximum + total.log()).view(hidden.shape[:-1])

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, outer: Tensor) -> tuple[Tensor, None, None, None]:
        (expected,) = context.saved_tensors
        return expected * outer[..., None], None, None, None
