"""How do the time and memory of a step grow with the width and depth of the model, and with its vocabulary?"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure as Picture

from benchmarks.measuring import MIB, Figure, interleaved, peak_bytes, save
from benchmarks.training_steps import batch, mask_training, random_model, random_text
from bigramlib import BigramTable, SparsifyConfig
from bigramlib.findings.style import use_house_style

QUESTION = "growth"
CONFIG = SparsifyConfig(batch_size=2)
WIDTHS, DEPTHS, VOCABULARIES = (128, 256, 512), (2, 4, 8), (1024, 4096, 16384, 65536)


def measure(
    widths: Sequence[int] = WIDTHS,
    depths: Sequence[int] = DEPTHS,
    vocabularies: Sequence[int] = VOCABULARIES,
    repeats: int = 3,
) -> tuple[pd.DataFrame, list[Figure]]:
    """Seconds and peak memory of a step over a grid of widths and depths, and over vocabularies at the smallest shape.

    The slopes of log seconds over log weights and over log vocabulary are 1 where the cost is in proportion; so are the
    slopes of log memory.
    """
    shapes = [("weights", width, depth, min(vocabularies)) for width in widths for depth in depths]
    shapes += [("vocabulary", min(widths), min(depths), vocabulary) for vocabulary in vocabularies]
    rows = []
    for along, *shape in shapes:
        model, step = _prepared(*shape)
        weights = sum(weight.numel() for weight in model.maskable.values())
        row = dict(zip(("along", "width", "depth", "vocabulary", "weights"), (along, *shape, weights), strict=True))
        row["seconds"] = interleaved({"step": step}, repeats).step.median()
        del model, step
        rows.append(row | {"MiB": peak_bytes(_steps, *shape) / MIB})
    table = pd.DataFrame(rows)
    figures = [
        Figure(QUESTION, f"slope of log {measured} over log {along}", slope(table, along, measured), at_most=1.1)
        for along in ("weights", "vocabulary")
        for measured in ("seconds", "MiB")
    ]
    return table, figures


def slope(table: pd.DataFrame, along: str, measured: str) -> float:
    """The power with which a measure grows."""
    part = table[table.along == along]
    return float(np.polyfit(np.log(part[along]), np.log(part[measured]), 1)[0])


def plot(table: pd.DataFrame) -> Picture:
    """Seconds and memory over maskable weights and over vocabulary, with their slopes."""
    use_house_style()
    picture, panels = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for row, measured in zip(panels, ("seconds", "MiB"), strict=True):
        for axes, along in zip(row, ("weights", "vocabulary"), strict=True):
            part = table[table.along == along]
            colours = {"hue": "depth", "palette": "viridis"} if along == "weights" else {}
            sns.scatterplot(part, x=along, y=measured, ax=axes, **colours)
            label = f"maskable {along}" if along == "weights" else "vocabulary"
            axes.set(xscale="log", yscale="log", xlabel=label, title=f"slope {slope(table, along, measured):.2f}")
            axes.set_ylabel("a step (s)" if measured == "seconds" else "peak memory of the process (MiB)")
    return picture


def _prepared(width: int, depth: int, vocabulary: int) -> tuple[object, object]:
    corpus, model = random_text(vocabulary), random_model(width, depth, vocabulary)
    return model, mask_training(model, BigramTable.from_corpus(corpus), batch(corpus, CONFIG), CONFIG)


def _steps(width: int, depth: int, vocabulary: int) -> None:
    _, step = _prepared(width, depth, vocabulary)
    step()
    step()


if __name__ == "__main__":
    table, figures = measure()
    folder = save(QUESTION, table, figures)
    plot(table).savefig(folder / f"{QUESTION}.png", metadata={"Software": None})
