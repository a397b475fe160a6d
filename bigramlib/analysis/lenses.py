"""Ridge lenses: linear maps fitted between layer boundaries, and what can be read through them (paper, finding 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bigramlib.analysis.intervals import correlation, correlation_interval, mean_interval, warn_of_few
from bigramlib.analysis.measured import measured_once, told_apart
from bigramlib.analysis.residual import ResidualMoments, residual_stream
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import full_precision, whole_number
from bigramlib.text.corpus import SEQUENCE_LENGTH, TokenCorpus

ALPHA = 1.0
"""The ridge penalty of the paper."""
RECALLS = (1, 5, 10)
RECALL_MEASURES = ("dot_recall", "recall", "direct_recall")
"""Three ways to look for the current token in what a boundary holds; each ranks the embeddings of all tokens, as rows.

These are what tokens bring into the residual stream (`LanguageModel.embedded`).

- dot_recall: the release's measure. What is read through the map to the token embedding is compared by its dot product with
  each row, both as they are.
- recall: ours. The same, by cosine, after the text's mean embedding is taken from both. A dot product favours long rows, and
  ridge regression shrinks what it cannot predict towards the mean, so this finds tokens that the release's measure misses.
- direct_recall: by cosine without a map, the stream itself compared with the rows (not in the paper: a wide stream can hide
  the token from a direct comparison and still give it to a fitted map).
"""
READ = ("own", "surprisals", "cross_entropies", "kls", *RECALL_MEASURES)
"""What is read of each batch, in order."""
VERSION = "lens readings 1"
"""Another one is due when readings change, so that what the store holds is measured again."""
LENS_TOKENS = 16_384
"""How much text is read unless asked otherwise."""


def lens_report(
    model: LanguageModel,
    moments: ResidualMoments,
    corpus: TokenCorpus,
    *,
    alpha: float = ALPHA,
    max_tokens: int | None = LENS_TOKENS,
    sequence_length: int = SEQUENCE_LENGTH,
    batch_size: int = 16,
    keep: bool = True,
) -> pd.DataFrame:
    """Fit ridge maps from every layer boundary and read other text through them (paper, finding 6 b, c, d).

    Args:
        model: the model.
        moments: what the maps are fitted to. If they are a subnetwork's, that subnetwork alone is read.
        corpus: text to read, other than that of the moments.
        alpha: the ridge penalty (see `ridge_maps`).
        max_tokens: at most so many tokens, spread evenly over the corpus; None for all.
        sequence_length: tokens of a sequence.
        batch_size: sequences of a batch; a batch takes some ten times its tokens times vocabulary in bytes.
        keep: as in `evaluate`.

    Returns:
        One row for each boundary: layer (0 is what enters the first layer) and

        - r (with its 95 % interval r_low to r_high), cross_entropy, kl: how close the next-token prediction q, read through
          the map to the final residual, is to the (sub)network's own prediction p: Pearson's r of their surprisals of the
          text's next tokens, and the means of -sum p log q and of sum p log p/q, nats per token;
        - each of `RECALL_MEASURES` with _1, _5 or _10: the share of tokens that it ranks among the first 1, 5 or 10. The first
          two have intervals, dot_recall_1_low to dot_recall_1_high and recall_1_low to recall_1_high;
        - rotation_final, rotation_input, rotation_penultimate: `rotation` of the maps to the final residual, to the token
          embedding and to the last boundary but one, degrees. Where token embeddings are narrower than the stream (OPT-350m),
          the map to them has no more directions than they have.

    Raises:
        ValueError: the corpus is that of the moments.
    """
    if corpus.hash == moments.corpus_hash:
        raise ValueError("The lenses were fitted on this very text; read them on other text, such as the evaluation split.")
    model.check_vocabulary(corpus)
    batch_size = whole_number("batch_size", batch_size, least=1)
    maps = {target: ridge_maps(moments, target, alpha) for target in moments.cross}
    current, following, valid = corpus.windows(sequence_length, max_tokens)
    documents = corpus.documents(sequence_length, max_tokens)
    warn_of_few(documents)
    found = _Reader(model, moments, maps).read(current, following, valid, batch_size, keep)
    columns = {"layer": range(moments.layers + 1)} | _predicted(found, documents[valid]) | _recalled(found, documents.ravel())
    width = model.hf.get_input_embeddings().weight.shape[1]
    return pd.DataFrame(columns | _rotated(maps, moments.layers, width))


def ridge_maps(
    moments: ResidualMoments, target: int | str, alpha: float = ALPHA
) -> Float[Tensor, "boundaries d_model d_model"]:
    """The ridge regression of a target on each boundary: x_target ~ mean_target + (x - mean) @ map.

    As in scikit-learn's `Ridge`, alpha is added to the eigenvalues of the unnormalised X^T X, and the intercept is free.

    Args:
        moments: what to fit.
        target: "input" (token embedding), layers - 1 or layers (final residual).
        alpha: the penalty, in squared units of the stream summed over tokens; 1.0 in the paper.

    Raises:
        ValueError: another target.
    """
    if target not in moments.cross:
        raise ValueError(f"There are no cross moments with boundary {target}; choose one of {list(moments.cross)}.")
    penalty = alpha * torch.eye(moments.mean.shape[1], dtype=torch.float64, device="cpu")
    return torch.linalg.solve(moments.scatter + penalty, moments.cross[target])


def rotation(matrix: Float[Tensor, "d_model d_model"], rank: int | None = None) -> float:
    """How far a square map turns vectors: the median absolute angle of its complex eigenvalues, in degrees, 0 to 180.

    Args:
        matrix: the map.
        rank: how many of the largest eigenvalues count, all others being zero but for rounding; all, if not given.
    """
    eigenvalues = torch.linalg.eigvals(matrix).numpy()
    largest = eigenvalues[np.argsort(-np.abs(eigenvalues))[:rank]]
    return float(np.median(np.degrees(np.abs(np.angle(largest)))))


def token_ranks(
    read: Float[Tensor, "tokens d_model"], rows: Float[Tensor, "vocab d_model"], tokens: Int[Tensor, " tokens"]
) -> Int[Tensor, " tokens"]:
    """The rank, from 1, of each token's row among all by its dot product with what was read; ties count against it.

    Args:
        read: a vector for each token.
        rows: of the vocabulary; of length 1 to rank by cosine.
        tokens: the right answers.
    """
    scores = read @ rows.T
    right = scores.gather(1, tokens[:, None])
    beaten = scores.lt_(right).sum(1)  # ones and zeros in place: on a CPU bools would take ten times as long
    return scores.shape[1] - beaten.long()


@dataclass(frozen=True)
class _Readings:
    """What was read at every boundary.

    Only tokens whose next token is in the same document have predictions; the current token is looked for at all positions.

    Attributes:
        own: surprisals of the next tokens by the (sub)network's own prediction, nats.
        surprisals: the same by the prediction that is read.
        cross_entropies: of the prediction that is read, under the own one, nats.
        kls: from the own prediction to the one that is read, nats.
        ranks: of the current token, from 1, by each of `RECALL_MEASURES`.
    """

    own: Float[np.ndarray, " tokens"]
    surprisals: Float[np.ndarray, "boundaries tokens"]
    cross_entropies: Float[np.ndarray, "boundaries tokens"]
    kls: Float[np.ndarray, "boundaries tokens"]
    ranks: Mapping[str, Int[np.ndarray, "boundaries positions"]]


class _Reader:
    """Reads a residual stream through the maps to the final residual and to the token embedding."""

    def __init__(self, model: LanguageModel, moments: ResidualMoments, maps: Mapping[int | str, Tensor]) -> None:
        self.model = model
        self.subnetwork = moments.subnetwork
        self.mean, self.to_final, self.to_input = (
            part.to(model.device, torch.float32) for part in (moments.mean, maps[moments.layers], maps["input"])
        )
        with torch.inference_mode(), full_precision():
            self.rows = model.embedded(torch.arange(model.vocabulary_size, device=model.device))
            weights = torch.as_tensor(moments.token_counts / moments.n, dtype=torch.float32, device=model.device)
            self.mean_row = weights @ self.rows
            self.directions = torch.nn.functional.normalize(self.rows - self.mean_row)

    def read(
        self,
        current: Int[np.ndarray, "sequences pos"],
        following: Int[np.ndarray, "sequences pos"],
        valid: Bool[np.ndarray, "sequences pos"],
        batch_size: int,
        keep: bool,
    ) -> _Readings:
        """Run the text and read every boundary, batch by batch; or find in the store what was read so."""
        apart = told_apart(self.model, self.subnetwork) if keep and len(current) > batch_size else None
        batches = (
            self._of_batch(stream, current[batch], following[batch], valid[batch])
            for batch, stream in residual_stream(self.model, current, self.subnetwork, batch_size)
        )
        first = next(batches)
        maps = [part.cpu().numpy() for part in (self.mean, self.to_final, self.to_input, self.mean_row)]
        parts = (VERSION, current, following, valid, batch_size, *maps, *first)

        def make() -> dict[str, Tensor]:
            joined = [np.concatenate(each, axis=-1) for each in zip(first, *batches, strict=True)]
            return {name: torch.from_numpy(each) for name, each in zip(READ, joined, strict=True)}

        tensors = measured_once(self.model, self.subnetwork, apart, parts, make)
        found = {name: tensor.numpy() for name, tensor in tensors.items()}
        ranks = {measure: found.pop(measure) for measure in RECALL_MEASURES}
        return _Readings(**found, ranks=ranks)

    @torch.inference_mode()
    @full_precision()
    def _of_batch(
        self,
        stream: Float[Tensor, "boundaries batch pos d_model"],
        current: Int[np.ndarray, "batch pos"],
        following: Int[np.ndarray, "batch pos"],
        valid: Bool[np.ndarray, "batch pos"],
    ) -> Sequence[np.ndarray]:
        """The fields of `_Readings` in their order, for one batch; the ranks by each of `RECALL_MEASURES` come last."""
        keep = torch.from_numpy(valid.ravel()).to(stream.device)
        tokens, targets = (torch.from_numpy(ids.ravel()).to(stream.device) for ids in (current, following))
        targets = targets[keep, None]
        stream = stream.flatten(1, 2)
        own = self._log_probabilities(stream[-1, keep])
        probability = own.exp()
        entropy = -torch.linalg.vecdot(probability, own)
        rows = []
        for boundary, activations in enumerate(stream):
            deviation = activations - self.mean[boundary]
            lens = self._log_probabilities(self.mean[-1] + deviation[keep] @ self.to_final[boundary])
            cross_entropy = -torch.linalg.vecdot(probability, lens)
            read = deviation @ self.to_input[boundary]
            ranks = (
                token_ranks(self.mean_row + read, self.rows, tokens),
                token_ranks(read, self.directions, tokens),
                token_ranks(deviation, self.directions, tokens),
            )
            rows.append((-lens.gather(1, targets)[:, 0], cross_entropy, cross_entropy - entropy, *ranks))
        measured = [torch.stack(parts).cpu().numpy() for parts in zip(*rows, strict=True)]
        return [-own.gather(1, targets)[:, 0].cpu().numpy(), *measured]

    def _log_probabilities(self, final_residual: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens vocab"]:
        return self.model.unembed(self.model.final_norm(final_residual)).log_softmax(-1)


def _predicted(found: _Readings, documents: Int[np.ndarray, " tokens"]) -> dict[str, object]:
    """The columns of `lens_report` about the next token."""
    intervals = [correlation_interval(row, found.own, documents) for row in found.surprisals]
    low, high = zip(*intervals, strict=True)
    return {
        "r": [correlation(row, found.own) for row in found.surprisals],
        "r_low": low,
        "r_high": high,
        "cross_entropy": found.cross_entropies.mean(axis=1),
        "kl": found.kls.mean(axis=1),
    }


def _recalled(found: _Readings, documents: Int[np.ndarray, " positions"]) -> dict[str, object]:
    """The columns of `lens_report` about the current token."""
    shares = {f"{measure}_{k}": (ranks <= k).mean(axis=1) for measure, ranks in found.ranks.items() for k in RECALLS}
    intervals = {}
    for measure in RECALL_MEASURES[:2]:
        bounds = [mean_interval((row <= 1).astype(float), documents) for row in found.ranks[measure]]
        intervals[f"{measure}_1_low"], intervals[f"{measure}_1_high"] = np.clip(bounds, 0, 1).T
    return shares | intervals


def _rotated(maps: Mapping[int | str, Tensor], last: int, width: int) -> dict[str, object]:
    """The columns of `lens_report` about the maps themselves; token embeddings have this width."""
    targets: dict[str, tuple] = {"final": (last, None), "input": ("input", width), "penultimate": (last - 1, None)}
    return {f"rotation_{name}": [rotation(matrix, rank) for matrix in maps[target]] for name, (target, rank) in targets.items()}
