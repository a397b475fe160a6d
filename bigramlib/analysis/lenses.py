"""Linear maps between layer boundaries, and what can be read through them: next token, current token, rotation (finding 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bigramlib.analysis.intervals import correlation, correlation_interval, mean_interval, warn_of_few
from bigramlib.analysis.residual import ResidualMoments, residual_stream
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import full_precision
from bigramlib.text.corpus import SEQUENCE_LENGTH, TokenCorpus

ALPHA = 1.0
RECALLS = (1, 5, 10)
MEASURES = ("dot_recall", "recall", "direct_recall")
LENS_TOKENS = 16_384


def lens_report(
    model: LanguageModel,
    moments: ResidualMoments,
    corpus: TokenCorpus,
    *,
    alpha: float = ALPHA,
    max_tokens: int | None = LENS_TOKENS,
    sequence_length: int = SEQUENCE_LENGTH,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Fit ridge maps from every layer boundary and read them on other text (paper, finding 6 b, c, d).

    Args:
        model: the model.
        moments: to fit on; a subnetwork is read alone if they are its.
        corpus: text to read on, other than that of the moments.
        alpha: the ridge penalty (see `ridge_maps`).
        max_tokens: at most so many tokens, spread evenly over the corpus; None for all.
        sequence_length: tokens of a sequence.
        batch_size: sequences of a batch; a batch takes some ten times its tokens times vocabulary in bytes.

    Returns:
        One row for each boundary (layer 0 is what enters the first layer), with columns

        - layer;
        - r (with its 95 % interval over documents, r_low, r_high), cross_entropy, kl: of the prediction read through the map
          to the final residual, the final norm and the unembedding, with the (sub)network's own output: Pearson's r of the
          surprisals of the text's next tokens, and means of -sum p log q and sum p log p/q in nats, p the own output;
        - dot_recall_1, dot_recall_5, dot_recall_10: share of tokens that are among the first k read through the map to the
          token embedding, by the release's measure: the dot product of what is read with each row of the embedding matrix,
          both as they are; dot_recall_1 with its interval dot_recall_1_low, dot_recall_1_high;
        - recall_1, recall_5, recall_10 (recall_1_low, recall_1_high): the same by our measure: the cosine of what is read
          with each row, both less the mean embedding of the text. A dot product favours long rows, and what ridge regression
          cannot predict it shrinks towards the mean, so this finds tokens that the release's measure misses;
        - direct_recall_1, direct_recall_5, direct_recall_10: by cosine without a map, the stream itself compared with the
          embeddings (not in the paper: a wide stream can hide the token from the eye and still give it to a fitted map);
        - rotation_final, rotation_input, rotation_penultimate: `rotation` of the maps to the final residual, to the token
          embedding and to the last boundary but one, degrees.

    Raises:
        ValueError: the corpus is that of the moments.
    """
    if corpus.hash == moments.corpus_hash:
        raise ValueError("The lenses were fitted on this very text; read them on other text, such as the evaluation split.")
    model.check_vocabulary(corpus)
    last = moments.layers
    maps = {target: ridge_maps(moments, target, alpha) for target in moments.cross}
    reading = _Reading(model, moments, maps[last], maps["input"])
    current, following, valid = corpus.windows(sequence_length, max_tokens)
    documents = corpus.documents(sequence_length, max_tokens)
    warn_of_few(documents)
    batches = [
        reading.of_batch(stream, current[batch], following[batch], valid[batch])
        for batch, stream in residual_stream(model, current, moments.subnetwork, batch_size)
    ]
    own, surprisals, cross_entropies, kls, *ranks = (np.concatenate(parts, axis=-1) for parts in zip(*batches, strict=True))
    report = pd.DataFrame({"layer": range(last + 1)})
    report["r"] = [correlation(row, own) for row in surprisals]
    intervals = [correlation_interval(row, own, documents[valid]) for row in surprisals]
    report["r_low"], report["r_high"] = zip(*intervals, strict=True)
    report["cross_entropy"] = cross_entropies.mean(axis=1)
    report["kl"] = kls.mean(axis=1)
    for measure, found in zip(MEASURES, ranks, strict=True):
        for k in RECALLS:
            report[f"{measure}_{k}"] = (found <= k).mean(axis=1)
    for measure, found in zip(MEASURES[:2], ranks[:2], strict=True):
        bounds = [mean_interval((row <= 1).astype(float), documents.ravel()) for row in found]
        report[f"{measure}_1_low"], report[f"{measure}_1_high"] = np.clip(bounds, 0, 1).T
    for name, target in (("final", last), ("input", "input"), ("penultimate", last - 1)):
        report[f"rotation_{name}"] = [rotation(matrix) for matrix in maps[target]]
    return report


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


def rotation(matrix: Float[Tensor, "d_model d_model"]) -> float:
    """How far a square map turns the plane of a typical eigenvector: median absolute argument of its eigenvalues, degrees."""
    return float(np.median(np.degrees(np.abs(np.angle(torch.linalg.eigvals(matrix).numpy())))))


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
    return scores.shape[1] - (scores < scores.gather(1, tokens[:, None])).sum(1)


class _Reading:
    """Reads batches of a residual stream through the maps to the final residual and to the token embedding."""

    def __init__(self, model: LanguageModel, moments: ResidualMoments, to_final: Tensor, to_input: Tensor) -> None:
        self.model = model
        self.mean, self.to_final, self.to_input = (
            part.to(model.device, torch.float32) for part in (moments.mean, to_final, to_input)
        )
        with torch.inference_mode(), full_precision():
            self.rows = model.hf.get_input_embeddings()(torch.arange(model.vocabulary_size, device=model.device))
            weights = torch.as_tensor(moments.token_counts / moments.n, dtype=torch.float32, device=model.device)
            self.mean_row = weights @ self.rows
            self.directions = torch.nn.functional.normalize(self.rows - self.mean_row)

    @torch.inference_mode()
    @full_precision()
    def of_batch(
        self,
        stream: Float[Tensor, "boundaries batch pos d_model"],
        current: Int[np.ndarray, "batch pos"],
        following: Int[np.ndarray, "batch pos"],
        valid: Bool[np.ndarray, "batch pos"],
    ) -> Sequence[np.ndarray]:
        """(own surprisals [tokens], surprisals, cross-entropies, KLs [boundaries, tokens], all in nats where the next token
        is in the same document; ranks by each of `MEASURES` [boundaries, batch * pos]).
        """
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
