"""Every benchmark measures, at toy size."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import CONFIGS

from benchmarks import (
    counting,
    evaluation,
    growth,
    lm_eval_agreement,
    measuring,
    memory,
    overlap,
    residual_pass,
    step,
    steps_to_quality,
    sweep,
)
from bigramlib import BigramTable, SparsifyConfig
from bigramlib.cluster.searches import Search
from bigramlib.cluster.sweep import grid
from bigramlib.instruction.prompts import TEXT
from bigramlib.instruction.tasks import Task

TOY = SparsifyConfig(batch_size=1, sequence_length=8)


def searches_of(in_folders) -> list[Search]:
    folder, text = map(str, in_folders)
    return grid([folder], [text], seeds=[0, 1], settings={"steps": 2, "batch_size": 1, "sequence_length": 8})


def toy(question: str, model, corpus, in_folders) -> tuple[pd.DataFrame, list[measuring.Figure]]:
    penalties = {"paper_penalties": [2.0], "penalties": [1.0, 4.0]}
    return {
        "step": partial(step.measure, model, corpus, TOY, repeats=1, others=True),
        "steps_to_quality": partial(
            steps_to_quality.measure,
            model,
            corpus,
            corpus,
            **penalties,
            default=replace(TOY, steps=2),
            steps=2,
            sequence_length=8,
        ),
        "memory": partial(memory.measure, 16, 1, 280),
        "counting": partial(counting.measure, corpus, [1000, 2500], repeats=1),
        "evaluation": partial(evaluation.measure, model, corpus, BigramTable.from_corpus(corpus), 256, repeats=1),
        "residual_pass": partial(residual_pass.measure, model, corpus, 256, repeats=1),
        "overlap": partial(overlap.measure, CONFIGS["llama"], [0.1]),
        "growth": partial(growth.measure, [16, 32], [1, 2], [64, 128], repeats=1),
        "sweep": lambda: sweep.measure(searches_of(in_folders), 10, 20),
    }[question]()


@pytest.mark.parametrize(
    "question", ["step", "steps_to_quality", "memory", "counting", "evaluation", "residual_pass", "overlap", "growth", "sweep"]
)
def test_a_benchmark_measures_and_is_saved(question, model, corpus, in_folders, monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    for module in (memory, counting, growth):
        monkeypatch.setattr(module, "peak_bytes", lambda function, *arguments: measuring._peak_of(function, arguments))
    monkeypatch.setattr(
        memory, "peak_bytes_together", lambda function, count, *given: measuring._peak_of(function, (0, 1, *given))
    )
    table, figures = toy(question, model, corpus, in_folders)
    folder = measuring.save(question, table, figures)
    summary = pd.read_csv(folder / "summary.csv")
    assert len(pd.read_csv(folder / f"{question}.csv")) == len(table) > 0
    assert list(summary.columns) == ["question", "figure", "value", "goal", "met"]
    assert set(summary.question) == {question} and len(summary) == len(figures)
    assert np.isfinite(table.select_dtypes("number").to_numpy()).all()
    if question == "growth":
        growth.plot(table).savefig(folder / "growth.png")


def test_peak_memory_is_that_of_the_call_in_a_process_of_its_own():
    small, large = (measuring.peak_bytes(bytearray, size) for size in (2**10, 2**28))
    assert large - small == pytest.approx(2**28, rel=0.1)


def test_lm_eval_is_judged_item_by_item_on_its_own_prompts(model, monkeypatch):
    task = Task("t", "rule", "c", ("Do it.",), tuple((f"w{number}", "yes") for number in range(20)))
    shown, (pair, *_) = task.split("shots")[:2], task.split("test")
    prompt = TEXT.few_shot(shown, pair)
    strange = replace(prompt, text="w" + prompt.text)
    logged = [
        {"arguments": [(asked.text, {})], "target": "yes", "exact_match": right}
        for asked, right in ((prompt, 1.0), (prompt, 0.0), (strange, 0.0))
    ]
    monkeypatch.setattr(lm_eval_agreement, "judged", lambda *_: logged)
    monkeypatch.setattr(lm_eval_agreement, "exact_matches", lambda model, prompts, ends: np.array([True, True, False]))
    table, (alike, layout) = lm_eval_agreement.measure(model, [task], TEXT, 2)
    assert table[["items", "alike", "right_lm_eval", "right_here", "our_layout"]].to_numpy().tolist() == [[3, 2, 1, 2, 2]]
    assert alike.value == layout.value == pytest.approx(2 / 3)
