"""`make gpu-check` asks all its questions of a pretended GPU at toy size, and says so where there is none."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build
from pretended_gpu import pretended_gpu

from benchmarks import gpu_check, measuring, memory

COLUMNS = {
    "agreement": ["device", "precision", "seed", "kept", "jaccard"],
    "step": ["model", "device", "precision", "sequences", "ours", "fine_tuning"],
    "memory": ["weights", "precision", "model_MiB", "training_MiB", "bytes_per_weight"],
    "search": ["model", "precision", "sequences", "lambda", "steps", "converged", "kept", "density", "r", "kl"],
}


@pytest.fixture
def allocated(monkeypatch):
    """A GPU whose allocator says that a model took 1 MiB, and its training 3."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Toy (80 GB)")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)


def test_all_questions_are_answered_on_a_gpu(tokenizer, corpus, held_out, quick, allocated, monkeypatch, tmp_path, capsys):
    models = {name: build("llama", tokenizer, seed) for seed, name in enumerate((gpu_check.SMALL, gpu_check.LARGE))}
    for model in models.values():
        monkeypatch.setattr(type(model), "load_corpus", lambda *_: (corpus, held_out))
    monkeypatch.setattr(gpu_check, "load_model", lambda name, device: models[name].to(device))
    monkeypatch.setattr(memory, "SHAPE", (16, 1, 280))
    monkeypatch.setattr(gpu_check, "PAPERS_BATCH", 3)
    monkeypatch.setattr(gpu_check, "REPEATS", 1)
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    with pretended_gpu():
        gpu_check.main()
    folder = tmp_path / "nvidia-toy-80-gb"
    tables = {question: pd.read_csv(folder / f"{question}.csv") for question in COLUMNS}
    assert {question: list(table.columns) for question, table in tables.items()} == COLUMNS
    assert all(np.isfinite(table.select_dtypes("number").to_numpy()).all() for table in tables.values())
    first, seed, same, _ = tables["agreement"].jaccard
    assert first == same == 1 > seed
    assert list(tables["memory"].training_MiB) == [2, 2] and set(tables["step"].device) == {"cuda"}
    assert list(tables["search"].sequences) == [2, 3]
    assert set(pd.read_csv(folder / "summary.csv").question) == {"agreement", "step", "memory"}


def test_without_a_gpu_one_sentence_says_so_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_check, "load_model", None)
    with pytest.raises(SystemExit, match="needs a CUDA GPU, and this PyTorch finds none"):
        gpu_check.main()
