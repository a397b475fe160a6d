"""How much memory does mask training take above the model itself, for each maskable weight, and is it what is foretold?"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import pandas as pd

from benchmarks.measuring import MIB, Figure, peak_bytes, peak_bytes_together, save
from benchmarks.training_steps import HEAD_SIZE, batch, mask_training, random_model, random_text
from bigramlib import BigramTable, SparsifyConfig
from bigramlib.training.memory import search_memory
from bigramlib.training.ranks import ALONE, Ranks, joined

QUESTION = "memory"
SHAPE = (1024, 12, 512)
PRECISIONS = ("float32", "bfloat16")
TOGETHER = 2
"""Processes that search together."""


def measure(width: int = SHAPE[0], layers: int = SHAPE[1], vocabulary: int = SHAPE[2]) -> tuple[pd.DataFrame, list[Figure]]:
    """Peak resident memory of fresh processes that load a random model, and that also train its masks for two steps.

    Those that only load it have trained a tiny one before, so that what the libraries take is counted on both sides. Two
    processes that train together are measured too, whole batches each; theirs is the peak of the larger one.
    """
    shape = (width, layers, vocabulary)
    alone = peak_bytes(_load, *shape)
    peaks = {precision: peak_bytes(_train, *shape, precision) for precision in PRECISIONS}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {precision: peak_bytes_together(_train_together, TOGETHER, port, *shape, precision) for precision in PRECISIONS}
    model = random_model(*shape)
    table, figures = above_model(model.architecture.size, alone, peaks)
    shared, _ = above_model(model.architecture.size, alone, together)
    table = pd.concat([table.assign(processes=1), shared.assign(processes=TOGETHER)], ignore_index=True)
    foretold = [
        search_memory(model.architecture, 0, _config(row.precision), Ranks(0, row.processes, whole_batch=True))
        for row in table.itertuples()
    ]
    return table.assign(foretold_MiB=[(each.total - each.model) / MIB for each in foretold]), figures


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


def _train(width: int, layers: int, vocabulary: int, precision: str, ranks: Ranks = ALONE) -> None:
    config = _config(precision)
    corpus = random_text(vocabulary)
    model = random_model(width, layers, vocabulary)
    step = mask_training(model, BigramTable.from_corpus(corpus), batch(corpus, config), config, ranks)
    step()
    step()


def _train_together(rank: int, count: int, port: int, width: int, layers: int, vocabulary: int, precision: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu", whole_batch=True) as (ranks, _):
        _train(width, layers, vocabulary, precision, ranks)


def _config(precision: str) -> SparsifyConfig:
    return SparsifyConfig(batch_size=1, sequence_length=16, precision=precision)


if __name__ == "__main__":
    save(QUESTION, *measure())
