"""Tasks for lm-evaluation-harness (lm-eval): the same prompts and the same measure there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bigramlib.disk import written_whole
from bigramlib.instruction.prompts import TEXT, PromptFormat
from bigramlib.instruction.tasks import Part, Task

PARTS: tuple[Part, ...] = ("test", "shots")
PREFIX = "bigramlib_"
ROOM = 8
"""More tokens are generated than the longest answer has characters, by so many."""


def export(tasks: Sequence[Task], folder: str | Path, shots: int = 4, prompt_format: PromptFormat = TEXT) -> list[Path]:
    """Write each task as a YAML file and two Parquet files: what is tested, and what is shown.

    lm-eval then generates until an answer ends, and counts those that are exactly right:
    `lm_eval --include_path FOLDER --tasks bigramlib_plural,bigramlib_capital ...`. The YAML files hold the absolute path of the
    folder, because lm-eval would look for a relative one where it is started. Texts are kept as they are: lm-eval would read
    dates in JSON Lines as times, and an answer in square brackets that comes out of a template as a list. lm-eval
    cuts off the beginning of a prompt that leaves the model no room for so many tokens as may be generated.

    Args:
        tasks: what to write.
        folder: where to; files there are replaced.
        shots: demonstrations before each input, drawn by lm-eval. Without any, the first instruction stands before the input.
        prompt_format: the layout of prompts.

    Returns:
        The YAML files.

    Raises:
        ValueError: a task has no pair to test, or fewer demonstrations than that, or two would have files of one name.
    """
    names = [_file_name(task) for task in tasks]
    if twice := next((task.name for task, name in zip(tasks, names, strict=True) if names.count(name) > 1), None):
        raise ValueError(f"The task {twice!r} would have files of the same name as another; give it another name.")
    for task in tasks:
        task.items(1)
        if shots > len(task.split("shots")):
            raise ValueError(f"The task {task.name!r} has {len(task.split('shots'))} demonstrations, fewer than {shots}.")
    return [_export(task, Path(folder).absolute(), shots, prompt_format) for task in tasks]


def _file_name(task: Task) -> str:
    return PREFIX + "".join(letter if letter.isalnum() else "_" for letter in task.name)


def _export(task: Task, folder: Path, shots: int, prompt_format: PromptFormat) -> Path:
    name = _file_name(task)
    files = {part: folder / f"{name}_{part}.parquet" for part in PARTS}
    for part, path in files.items():
        with written_whole(path) as temporary:
            pq.write_table(_table(task, part, shots, prompt_format), temporary)
    config = {
        "task": name,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {part: str(path) for part, path in files.items()}},
        "test_split": "test",
        "fewshot_split": "shots",
        "num_fewshot": shots,
        "doc_to_text": "text",
        "doc_to_target": "answer",
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
    with written_whole(folder / f"{name}.yaml") as temporary:
        temporary.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")  # JSON is YAML too
    return folder / f"{name}.yaml"


def _table(task: Task, part: Part, shots: int, prompt_format: PromptFormat) -> pa.Table:
    pairs = task.split(part)
    asked = [
        prompt_format.few_shot([], pair) if shots else prompt_format.instruction(task.instructions[0], pair) for pair in pairs
    ]
    columns = {"text": [prompt.text for prompt in asked], "answer": [answer for _, answer in pairs]}
    return pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
