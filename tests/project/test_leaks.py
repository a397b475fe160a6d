"""Eighty rounds of everything leave no memory, file, hook or patch behind."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import psutil
from conftest import build

from bigramlib import SparsifyConfig, Subnetwork, TokenCorpus, evaluate, find_subnetwork
from bigramlib.analysis.lenses import lens_report
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.store import store_folder

ROUNDS, MEASURED_EVERY, WARM_UP = 80, 4, 4
MOST_GROWTH = 2**20


def hooks(model) -> int:
    kinds = [kind for kind in vars(model.hf) if kind.endswith("_hooks")]
    on_modules = sum(len(getattr(module, kind) or ()) for module in model.hf.modules() for kind in kinds)
    patched = sum("forward" in vars(module) or "parametrizations" in module._modules for module in model.hf.modules())
    on_tensors = sum(len(parameter._backward_hooks or ()) for parameter in model.hf.parameters())
    return on_modules + patched + on_tensors


def test_eighty_rounds_of_everything_leave_nothing_behind(tokenizer, corpus, table):
    model = build("gpt_neox", tokenizer)
    before = {name: parameter.clone() for name, parameter in model.hf.named_parameters()}
    config = SparsifyConfig(sparsity_penalty=1.0, steps=1, batch_size=2, sequence_length=8)
    other = TokenCorpus(np.asarray(corpus.ids)[::-1].copy(), np.array([0]), corpus.vocabulary_size)
    process = psutil.Process()
    small = {"max_tokens": 32, "sequence_length": 16}
    moments = ResidualMoments.collect(model, corpus, **small)
    memory, files = [], []
    for number in range(ROUNDS):
        found = find_subnetwork(model, table, corpus, config)
        file = store_folder("subnetworks") / "copy.safetensors"
        found.save(file)
        found = Subnetwork.load(file)
        evaluate(model, other, table, found, **small)
        lens_report(model, moments, other, **small)
        shutil.rmtree(store_folder("subnetworks"))
        if number % MEASURED_EVERY == 0:
            gc.collect()
            memory.append(process.memory_info().rss)
            files.append(len(list(Path(f"/proc/{os.getpid()}/fd").iterdir())) if Path("/proc").exists() else process.num_fds())
    growth = np.median(memory[-4:]) - np.median(memory[WARM_UP : WARM_UP + 4])
    print(f"memory grew by {growth / 2**20:.2f} MiB; open files {files[WARM_UP]} and {files[-1]}")
    assert growth < MOST_GROWTH
    assert files[-1] <= files[WARM_UP]
    assert hooks(model) == 0 and model.identity.beneath == []
    assert all(np.array_equal(parameter, before[name]) for name, parameter in model.hf.named_parameters())
    assert not list(store_folder("unfinished").iterdir())
