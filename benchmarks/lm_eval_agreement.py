"""Does lm-eval judge the same answers right as our exact match, and how long does each take?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measuring import Figure, elapsed, save
from bigramlib import LanguageModel, load_model
from bigramlib.instruction.answers import exact_matches
from bigramlib.instruction.lm_eval import export
from bigramlib.instruction.prompts import TEXT, WORLD, Prompt, PromptFormat
from bigramlib.instruction.sources import load_tasks
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning import instruction_tune
from bigramlib.instruction.tuning_config import TuneConfig

QUESTION = "lm_eval_agreement"
TUNED_ON = ("copy", "first", "last", "parity")
"""Mini learns some of these in a minute of tuning and others not, so that its answers are both right and wrong."""
MISSING = "lm-eval is not installed; get it with: .venv/bin/pip install --constraint constraints.txt lm-eval==0.4.13"


def measure(
    model: LanguageModel, tasks: Sequence[Task], prompt_format: PromptFormat, shots: int = 4, items: int = 100
) -> tuple[pd.DataFrame, list[Figure]]:
    """Run lm-eval on exported tasks, then judge the very prompts that it made, and compare item by item.

    Returns:
        a row for each task: how many items were compared and judged alike, how many each judged right, how many of lm-eval's
        prompts are in our layout, and the seconds of each.
    """
    rows = []
    for task in tasks:
        samples, theirs = timed(partial(judged, model, task, prompt_format, shots, items))
        prompts = [
            Prompt(sample["arguments"][0][0], prompt_format.answer.format(answer=sample["target"])) for sample in samples
        ]
        found, ours = timed(partial(exact_matches, model, prompts, prompt_format.ends))
        right = np.array([sample["exact_match"] for sample in samples], dtype=bool)
        rows.append(
            {
                "model": model.name,
                "task": task.name,
                "shots": shots,
                "items": len(samples),
                "alike": (right == found).sum(),
                "right_lm_eval": right.sum(),
                "right_here": found.sum(),
                "our_layout": sum(is_ours(prompt, task, prompt_format, shots) for prompt in prompts),
                "seconds_lm_eval": theirs,
                "seconds_here": ours,
            }
        )
    table = pd.DataFrame(rows)
    sums = table.select_dtypes("number").sum()
    case = f"{sums['items']:.0f} items, {model.name}, {shots} demonstrations"
    return table, [
        Figure(QUESTION, f"judged alike, {case}", sums.alike / sums["items"], at_least=0.99),
        Figure(QUESTION, f"prompts in our layout, {case}", sums.our_layout / sums["items"], at_least=1),
    ]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds it takes."""
    found: list = []
    seconds = elapsed(lambda: found.append(call()))
    return found[0], seconds


def judged(model: LanguageModel, task: Task, prompt_format: PromptFormat, shots: int, items: int) -> list[dict]:
    """What lm-eval logs of each item: the prompt that it made, the answer that it read, and whether that is right."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        (file,) = export([task], folder, shots, prompt_format)
        reader = HFLM(model.hf, tokenizer=model.tokenizer, batch_size=32)
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = simple_evaluate(reader, tasks=[file.stem], task_manager=manager, limit=items, bootstrap_iters=0)
    return found["samples"][file.stem]


def is_ours(prompt: Prompt, task: Task, prompt_format: PromptFormat, shots: int) -> bool:
    """Whether a prompt is what our layout makes of a tested input, with so many demonstrations of the part for them."""
    if not shots:
        return prompt in {prompt_format.instruction(task.instructions[0], pair) for pair in task.split("test")}
    *shown, asked = prompt.text.split(prompt_format.gap)
    demonstrations = {prompt_format.shown(pair) for pair in task.split("shots")}
    tested = {prompt_format.few_shot([], pair) for pair in task.split("test")}
    return len(set(shown)) == shots and demonstrations.issuperset(shown) and Prompt(asked, prompt.answer) in tested


if __name__ == "__main__":
    if find_spec("lm_eval") is None:
        raise SystemExit(MISSING)
    mini, builtin = load_model("mini"), [task for task in load_tasks("builtin") if task.name in TUNED_ON]
    tuned = instruction_tune(mini, builtin, TuneConfig.suited(mini), TEXT)
    cases = [
        measure(tuned, builtin, TEXT),
        measure(tuned, builtin, TEXT, shots=0),
        measure(load_model("world-a0"), load_tasks("world"), WORLD),
    ]
    save(QUESTION, pd.concat([table for table, _ in cases]), [figure for _, figures in cases for figure in figures])
