"""How much memory does mask training take above the model itself, for each maskable weight?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from benchmarks.measuring import MIB, Figure, peak_bytes, save
from benchmarks.training_steps import HEAD_SIZE, batch, mask_training, random_model, random_text
from bigramlib import BigramTable, SparsifyConfig

QUESTION = "memory"
SHAPE = (1024, 12, 512)


def measure(width: int = SHAPE[0], layers: int = SHAPE[1], vocabulary: int = SHAPE[2]) -> tuple[pd.DataFrame, list[Figure]]:
    """Peak resident memory of fresh processes that load a random model, and that also train its masks for two steps.

    Those that only load it have trained a tiny one before, so that what the libraries take is counted on both sides.
    """
    model = random_model(width, layers, vocabulary)
    weights = sum(weight.numel() for weight in model.maskable.values())
    del model
    alone = peak_bytes(_load, width, layers, vocabulary)
    peaks = {precision: peak_bytes(_train, width, layers, vocabulary, precision) for precision in ("float32", "bfloat16")}
    return above_model(weights, alone, peaks)


def above_model(weights: int, alone: int, peaks: Mapping[str, int]) -> tuple[pd.DataFrame, list[Figure]]:
    """What mask training takes above the model.

    Args:
        weights: maskable weights of the model.
        alone: bytes that the model takes alone.
        peaks: bytes at most while its masks are trained, by precision.
    """
    rows = []
    for precision, peak in peaks.items():
        row = {"weights": weights, "precision": precision, "model_MiB": alone / MIB, "training_MiB": (peak - alone) / MIB}
        rows.append(row | {"bytes_per_weight": (peak - alone) / weights})
    table = pd.DataFrame(rows)
    return table, [
        Figure(QUESTION, f"bytes per maskable weight above the model, {row.precision}", row.bytes_per_weight, at_most=16)
        for row in table.itertuples()
    ]


def _load(width: int, layers: int, vocabulary: int) -> None:
    _train(HEAD_SIZE, 1, vocabulary, "float32")
    random_model(width, layers, vocabulary)


def _train(width: int, layers: int, vocabulary: int, precision: str) -> None:
    config = SparsifyConfig(batch_size=1, sequence_length=16, precision=precision)
    corpus = random_text(vocabulary)
    model = random_model(width, layers, vocabulary)
    step = mask_training(model, BigramTable.from_corpus(corpus), batch(corpus, config), config)
    step()
    step()


if __name__ == "__main__":
    save(QUESTION, *measure())
