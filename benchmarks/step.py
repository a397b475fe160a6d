"""What does a mask-training step cost beside a plain fine-tuning step of the same weights, and beside other mask trainers?

BIGRAMLIB_BENCH_MODELS names the models; the first is also stepped with dense targets and, if installed, NeuroSurgeon.
"""

from __future__ import annotations

import importlib.util
import os

import pandas as pd

from benchmarks.measuring import Figure, devices, interleaved, median_ratio, save
from benchmarks.training_steps import batch, dense_targets, fine_tuning, mask_training, neurosurgeon
from bigramlib import BigramTable, LanguageModel, SparsifyConfig, TokenCorpus, load_model
from bigramlib.training.config import fast_precision

QUESTION = "step"


def measure(
    model: LanguageModel, corpus: TokenCorpus, config: SparsifyConfig, repeats: int = 5, others: bool = False
) -> tuple[pd.DataFrame, list[Figure]]:
    """Seconds of a step of each kind on the same batch of running text.

    Args:
        model: the model, on its device.
        corpus: text.
        config: batch size and precision; all maskable weights are searched.
        repeats: rounds.
        others: also time dense targets and, if it is installed, NeuroSurgeon.
    """
    table, ids = BigramTable.from_corpus(corpus), batch(corpus, config).to(model.device)
    cases = {"ours": mask_training(model, table, ids, config), "fine_tuning": fine_tuning(model, ids, config)}
    if others:
        cases["dense_targets"] = dense_targets(model, table, ids, config)
        if importlib.util.find_spec("NeuroSurgeon"):
            cases["neurosurgeon"] = neurosurgeon(model, table, ids, config)
    times = interleaved(cases, repeats)
    place = f"{model.name}, {model.device.type}, {config.precision}, {config.batch_size} x {config.sequence_length}"
    figures = [Figure(QUESTION, f"ours / fine-tuning step, {place}", median_ratio(times, "ours", "fine_tuning"), at_most=1.15)]
    if others:
        surgeon = median_ratio(times, "neurosurgeon", "ours") if "neurosurgeon" in cases else float("nan")
        figures += [
            Figure(QUESTION, f"dense targets / ours, {place}", median_ratio(times, "dense_targets", "ours"), at_least=20),
            Figure(QUESTION, f"NeuroSurgeon / ours, {place}", surgeon, at_least=1),
        ]
    facts = {"model": model.name, "device": model.device.type, "precision": config.precision, "sequences": config.batch_size}
    return pd.DataFrame([facts | times.median().to_dict()]), figures


if __name__ == "__main__":
    tables, figures = [], []
    for place, name in enumerate(os.environ.get("BIGRAMLIB_BENCH_MODELS", "mini,smollm2-135m-instruct").split(",")):
        for device in devices():
            model = load_model(name, device)
            text = model.load_corpus("sotu")[0]
            shape = {"batch_size": 8} if place == 0 else {"batch_size": 2, "precision": fast_precision(model.device)}
            table, found = measure(model, text, SparsifyConfig(**shape), others=place == 0)
            tables.append(table)
            figures += found
    save(QUESTION, pd.concat(tables), figures)
