"""How long does the overlap test take on two subnetworks of a model of a billion parameters?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from transformers import LlamaConfig

from benchmarks.measuring import Figure, elapsed, save
from bigramlib import Subnetwork
from bigramlib.analysis.overlap import overlap_test
from bigramlib.models.discovery import architecture_of, without_weights

QUESTION = "overlap"
BILLION = LlamaConfig(
    vocab_size=32_000,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
)
DENSITIES = (0.002, 0.02, 0.2)


def measure(config: LlamaConfig = BILLION, densities: Sequence[float] = DENSITIES) -> tuple[pd.DataFrame, list[Figure]]:
    """Seconds of the test on random masks, by density; the paper's subnetworks keep some 0.2 to 2 % of the weights."""
    rows, figures = [], []
    for density in densities:
        a, b = (random_subnetwork(config, density, seed) for seed in (0, 1))
        seconds = elapsed(lambda a=a, b=b: overlap_test(a, b))
        rows.append({"weights": a.total, "density": density, "kept": a.kept, "seconds": seconds})
        figures.append(Figure(QUESTION, f"seconds, {a.total:.2g} weights, {density:.1%} kept", seconds, at_most=10))
    return pd.DataFrame(rows), figures


def random_subnetwork(config: LlamaConfig, density: float, seed: int) -> Subnetwork:
    """Independent random masks of a model's shape; no weights are made."""
    generator = torch.Generator().manual_seed(seed)
    architecture = architecture_of(without_weights(config))
    masks = {name: torch.rand(shape, generator=generator) < density for name, shape in architecture.shapes.items()}
    return Subnetwork(masks, architecture)


if __name__ == "__main__":
    save(QUESTION, *measure())
