"""Means and covariances of the residual stream at each layer, in one pass that keeps no activations (paper, finding 6)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.analysis.by_token import Pass, token_by_token, without_attention
from bigramlib.analysis.measured import measured_once, told_apart
from bigramlib.models.bridge import in_short
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.layers import recorded
from bigramlib.numeric import full_precision, whole_number
from bigramlib.progress import tqdm
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.text.corpus import SEQUENCE_LENGTH, TokenCorpus

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

log = logging.getLogger(__name__)

MOMENT_TOKENS = 131_072
"""How much text is run unless asked otherwise."""
KEPT_NUMBERS = 2**22
"""Moments of more numbers, 32 MB, are not kept in the store."""
VERSION = "residual moments 1"
"""Another one is due when moments change, so that what the store holds is measured again."""
STREAMS_AT_ONCE = 2**27
"""How many numbers of residual streams, 512 MB, may be kept so that no token is computed twice where attention is empty."""
TRIED_TOKENS = 16
"""How many tokens TransformerLens is tried out on."""
TOLERANCE = 1e-3
"""By what share of its length each vector of the residual stream may differ in TransformerLens: rounding."""


@dataclass(frozen=True)
class ResidualMoments:
    """Means and centred second moments of the residual stream at each layer boundary, float64, on the CPU.

    Boundary 0 is what enters the first layer: the token embeddings, in GPT-2 with position embeddings; boundary l > 0 is what
    layer l writes out, before any final norm. With X_l the [n, d_model] activations less their mean, and X_input the token
    embeddings alone, without positions, as the model's modules hand them on (`LanguageModel.embedded`: in Gemma scaled, in
    BLOOM normed, in OPT-350m made as wide as the stream), less their mean:

    Attributes:
        n: tokens.
        mean: [boundaries, d_model].
        scatter: [boundaries, d_model, d_model], X_l^T X_l.
        cross: by target t ("input" and the boundaries last-but-one and last): [boundaries, d_model, d_model], X_l^T X_t.
        token_counts: [vocab] how often each token stood in the text.
        subnetwork: the subnetwork they belong to; None for the full model.
        corpus_hash: of the text.
    """

    n: int
    mean: Float[Tensor, "boundaries d_model"]
    scatter: Float[Tensor, "boundaries d_model d_model"]
    cross: Mapping[int | str, Float[Tensor, "boundaries d_model d_model"]]
    token_counts: Int[np.ndarray, " vocab"]
    subnetwork: Subnetwork | None
    corpus_hash: str

    @classmethod
    def collect(
        cls,
        model: LanguageModel,
        corpus: TokenCorpus,
        subnetwork: Subnetwork | None = None,
        *,
        max_tokens: int | None = MOMENT_TOKENS,
        sequence_length: int = SEQUENCE_LENGTH,
        batch_size: int = 16,
        keep: bool = True,
    ) -> ResidualMoments:
        """Measure the moments of a model, or of one of its subnetworks, on running text.

        Args:
            model: the model.
            corpus: text; read lenses that are fitted to these moments on other text.
            subnetwork: keep only these weights; the whole model by default.
            max_tokens: at most so many tokens, spread evenly over the corpus; None for all.
            sequence_length: tokens of a sequence.
            batch_size: sequences of a batch.
            keep: as in `evaluate`; moments of more than `KEPT_NUMBERS` are not kept.
        """
        model.check_vocabulary(corpus)
        current, _, _ = corpus.windows(sequence_length, max_tokens)
        batch_size = whole_number("batch_size", batch_size, least=1)
        apart = told_apart(model, subnetwork) if keep and len(current) > batch_size else None
        batches = iter(residual_stream(model, current, subnetwork, batch_size))
        batch, stream = next(batches)
        if 4 * len(stream) * stream.shape[-1] ** 2 > KEPT_NUMBERS:
            apart = None
        parts = (VERSION, current, batch_size, stream.numpy()) if apart else ()
        every = chain([(batch, stream)], batches)
        tensors = measured_once(model, subnetwork, apart, parts, lambda: _summed(model, current, every))
        last = model.architecture.layers
        return cls(
            n=current.size,
            mean=tensors["mean"],
            scatter=tensors["scatter"],
            cross={target: tensors[f"cross {target}"] for target in ("input", last - 1, last)},
            token_counts=np.bincount(current.ravel(), minlength=model.vocabulary_size),
            subnetwork=subnetwork,
            corpus_hash=corpus.hash,
        )

    @property
    def layers(self) -> int:
        """Number of layers; there is one boundary more."""
        return len(self.mean) - 1


def _summed(
    model: LanguageModel,
    current: Int[np.ndarray, "sequences pos"],
    batches: Iterable[tuple[slice, Float[Tensor, "boundaries batch pos d_model"]]],
) -> dict[str, Tensor]:
    """Of what `residual_stream` yields for a text: "mean", "scatter", and "cross " with each target."""
    last = model.architecture.layers
    for batch, stream in batches:
        embedded = model.embedded(torch.from_numpy(current[batch]).to(stream.device))
        if batch.start == 0:
            # The token embeddings are boundary 0 itself, unless something is added to them; then they are one row more.
            entry = 0 if torch.equal(stream[0], embedded) else last + 1
        activations = (torch.cat([stream, embedded[None]]) if entry else stream).flatten(1, 2).double()
        if batch.start == 0:
            sums = _CentredSums(activations, _pairs(last, entry))
        sums.add(activations)
    sums.centre()
    boundaries = range(last + 1)
    targets = {"cross input": entry, f"cross {last - 1}": last - 1, f"cross {last}": last}
    found = {"mean": sums.mean[: last + 1].cpu(), "scatter": sums.products_of(boundaries, boundaries)}
    return found | {name: sums.products_of(boundaries, [row] * len(boundaries)) for name, row in targets.items()}


class _CentredSums:
    """The mean of each row of activations, and sums over tokens of the products of chosen pairs of rows, batch by batch.

    A row is a layer boundary, or the token embeddings where they are not one. Sums are taken about the first batch's mean, so
    that centring them at the end cancels almost nothing.

    Attributes:
        mean: [rows, d_model]; the first batch's until the sums are centred.
        products: by pair of rows (a, b): [d_model, d_model], X_a^T X_b.
    """

    def __init__(self, first: Float[Tensor, "rows tokens d_model"], pairs: Iterable[tuple[int, int]]) -> None:
        self.mean = first.mean(1)
        self.products = {pair: first.new_zeros(first.shape[-1], first.shape[-1]) for pair in pairs}
        self._n = 0
        self._total = torch.zeros_like(self.mean)

    def add(self, activations: Float[Tensor, "rows tokens d_model"]) -> None:
        """Add the tokens of a batch; its activations are changed in place, to save memory."""
        activations -= self.mean[:, None]
        self._n += activations.shape[1]
        self._total += activations.sum(1)
        for (a, b), product in self.products.items():
            product.addmm_(activations[a].T, activations[b])

    def centre(self) -> None:
        """Take all sums about the mean of all tokens; nothing can be added afterwards."""
        offset = self._total / self._n
        self.mean = self.mean + offset
        for (a, b), product in self.products.items():
            product.addmm_(offset[a, None].T, offset[b, None], alpha=-self._n)

    def products_of(self, rows: Iterable[int], others: Iterable[int]) -> Float[Tensor, "rows d_model d_model"]:
        """X_a^T X_b for each row a and the other row b that goes with it, on the CPU."""
        pairs = zip(rows, others, strict=True)
        found = [self.products[pair] if pair in self.products else self.products[pair[::-1]].T for pair in pairs]
        return torch.stack(found).cpu()


def _pairs(last: int, entry: int) -> list[tuple[int, int]]:
    """The (row, column) of each product to be summed, once each.

    The cross moments of a target with itself are its scatter, and those of two targets are each other's transposes. `entry`,
    the row of the token embeddings, needs no scatter unless it is a boundary.
    """
    targets = {entry, last - 1, last}
    columns = {row: sorted({row, *targets}) for row in range(last + 1)}
    return [(row, column) for row in columns for column in columns[row] if column >= row or row not in targets]


def residual_stream(
    model: LanguageModel, ids: Int[np.ndarray, "sequences pos"], subnetwork: Subnetwork | None = None, batch_size: int = 16
) -> Iterator[tuple[slice, Float[Tensor, "boundaries batch pos d_model"]]]:
    """Run sequences batch by batch: through TransformerLens, or by plain hooks on the model where that does not show it.

    Which of them is tried out on the first tokens; a warning says where plain hooks are used. TransformerLens runs a copy. The
    model's own weights are masked only while it is copied, or while plain hooks run a batch. Without attention each token is
    computed once (see `by_token.py`).

    Yields:
        (batch, stream): which sequences of `ids` the batch holds, and their residual stream at each layer boundary.
    """
    batch_size = whole_number("batch_size", batch_size, least=1)
    masked = partial(subnetwork.applied, model) if subnetwork else nullcontext
    with masked(), full_precision():
        bridge = _checked_bridge(model, torch.from_numpy(ids[:1, :TRIED_TOKENS]).to(model.device))
        by_token = without_attention(model)

    def streamed(tokens: Int[Tensor, "batch pos"]) -> tuple[Tensor, ...]:
        with nullcontext() if bridge else masked(), full_precision():
            stream = _by_bridge(bridge, model, tokens) if bridge else _by_hooks(model, tokens)
        return tuple(stream[:, :, len(model.prefix) :])

    compute: Pass = streamed
    if by_token:
        first, tokens = (torch.from_numpy(part).to(model.device) for part in (ids[:batch_size], np.unique(ids)))
        if model.embedded(tokens).numel() * (model.architecture.layers + 1) <= STREAMS_AT_ONCE:
            compute = token_by_token(streamed, first, tokens)
    for begin in tqdm(range(0, len(ids), batch_size), desc="residual stream", unit="batch", leave=False):
        batch = slice(begin, begin + batch_size)
        yield batch, torch.stack(compute(torch.from_numpy(ids[batch]).to(model.device)))


def _checked_bridge(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> TransformerBridge | None:
    """A bridge around the model as it is now, if it shows the model's own residual stream; else None, with a warning.

    Args:
        model: the model.
        ids: the tokens on which that is tried out.
    """
    try:
        bridge = model.bridge()
        fault = _fault(bridge, model, ids)
    except ValueError as error:
        fault = str(error).rstrip(".")
    if not fault:
        return bridge
    log.warning("The residual stream of %r is read by plain hooks, not through TransformerLens: %s.", model.name, fault)
    return None


def _fault(bridge: TransformerBridge, model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> str:
    """What is wrong with a bridge; empty if it computes what the model does."""
    try:
        seen = _by_bridge(bridge, model, ids)
    except Exception as error:  # whatever TransformerLens stumbles over in a model that it does not know
        return f"its bridge cannot be run ({in_short(error)})"
    own = _by_hooks(model, ids)
    if seen.shape == own.shape and ((seen - own).norm(dim=-1) <= TOLERANCE * own.norm(dim=-1)).all():
        return ""
    return "its bridge computes something else"


@torch.inference_mode()
def _by_bridge(
    bridge: TransformerBridge, model: LanguageModel, ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "boundaries batch more d_model"]:
    """The residual stream, on the prefix too, as a TransformerLens bridge has it."""
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.architecture.layers))]
    _, cache = bridge.run_with_cache(model.prefixed(ids), names_filter=names, return_type=None, logits_to_keep=1)
    return torch.stack([cache[name] for name in names])


@torch.inference_mode()
def _by_hooks(model: LanguageModel, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "boundaries batch more d_model"]:
    """The residual stream, on the prefix too, as hooks on the model see it."""
    with recorded(model.hf) as seen:
        model.hidden(ids)
    return torch.stack(seen.stream)


def covariance_similarity(moments: ResidualMoments) -> Float[np.ndarray, "boundaries boundaries"]:
    """How alike the covariances of each pair of layer boundaries are: their cosine under the Frobenius product, 0 to 1.

    The release does not define the measure of its figure; this one is ours. It does not depend on scale. It does depend on
    the basis, which all boundaries share. Boundaries that do not vary at all give NaN.
    """
    flat = moments.scatter.flatten(1)
    norm = flat.norm(dim=1)
    return (flat @ flat.T / norm[:, None] / norm).numpy()
