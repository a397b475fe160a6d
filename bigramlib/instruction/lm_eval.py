"""Tasks for lm-evaluation-harness (lm-eval): the same prompts and the same measure there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bigramlib.disk import written_whole
from bigramlib.instruction.prompts import TEXT, PromptFormat
from bigramlib.instruction.tasks import Pair, Part, Task

PARTS: tuple[Part, ...] = ("test", "shots")
PREFIX = "bigramlib_"
ROOM = 8
"""More tokens are generated than the longest answer has characters, by so many."""


def export(tasks: Sequence[Task], folder: str | Path, shots: int = 4, prompt_format: PromptFormat = TEXT) -> list[Path]:
    """Write each task as a YAML file and two JSON Lines files: what is tested, and what is shown.

    lm-eval then generates until an answer ends, and counts those that are exactly right:
    `lm_eval --include_path FOLDER --tasks bigramlib_plural,bigramlib_capital ...`. The YAML files hold the absolute path of the
    folder, because lm-eval would look for a relative one where it is started.

    Args:
        tasks: what to write.
        folder: where to; files there are replaced.
        shots: demonstrations before each input, drawn by lm-eval. Without any, the first instruction stands before the input.
        prompt_format: the layout of prompts.

    Returns:
        The YAML files.

    Raises:
        ValueError: a task has no pair to test, or fewer demonstrations than that.
    """
    for task in tasks:
        task.items(1)
        if shots > len(task.split("shots")):
            raise ValueError(f"The task {task.name!r} has {len(task.split('shots'))} demonstrations, fewer than {shots}.")
    return [_export(task, Path(folder).absolute(), shots, prompt_format) for task in tasks]


def _export(task: Task, folder: Path, shots: int, prompt_format: PromptFormat) -> Path:
    name = PREFIX + "".join(letter if letter.isalnum() else "_" for letter in task.name)
    files = {part: folder / f"{name}_{part}.jsonl" for part in PARTS}
    for part, path in files.items():
        _write(path, "".join(_row(task, pair, shots, prompt_format) for pair in task.split(part)))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {part: str(path) for part, path in files.items()}},
        "test_split": "test",
        "fewshot_split": "shots",
        "num_fewshot": shots,
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": prompt_format.answer.format(answer=""),
        "fewshot_delimiter": prompt_format.gap,
        "output_type": "generate_until",
        "generation_kwargs": {
            "until": list(prompt_format.ends),
            "do_sample": False,
            "max_gen_toks": ROOM + max(len(answer) for _, answer in task.pairs),
        },
        "filter_list": [{"name": "answer", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "hash": task.hash},
    }
    _write(folder / f"{name}.yaml", json.dumps(config, indent=1) + "\n")  # JSON is YAML too
    return folder / f"{name}.yaml"


def _row(task: Task, pair: Pair, shots: int, prompt_format: PromptFormat) -> str:
    prompt = prompt_format.few_shot([], pair) if shots else prompt_format.instruction(task.instructions[0], pair)
    return json.dumps({"text": prompt.text, "answer": pair[1]}) + "\n"


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
