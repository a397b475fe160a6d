"""Where tasks come from: those of this library, of the small world, of BIG-bench, a folder of JSON Lines files, a dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bigramlib.instruction.tasks import Task
from bigramlib.instruction.world import world_tasks
from bigramlib.text.compression import plain_suffix
from bigramlib.text.formats import check_is_text, lines
from bigramlib.text.sources import dataset_rows

BUILTIN = Path(__file__).parent / "assets" / "tasks"
INPUTS = ("input", "inputs", "question")
ANSWERS = ("output", "target", "answer")
"""Names of columns that are looked for in datasets; the first that is there is read."""
HEAD = '{"name": ..., "kind": ..., "cluster": ..., "instructions": [...]}'
PAIR = '{"input": ..., "output": ...}'


def load_tasks(source: str | Path) -> list[Task]:
    """Tasks by the name of their source, in a fixed order.

    Args:
        source: "builtin", "world", "bigbench" (fetched by pip at its first use), "hf:<dataset>[:config][:split]" (one task, by
            default from the split "train"), or a folder of .jsonl files, which may be compressed. The first line of a file is a
            JSON object with name, kind, cluster, instructions (a list) and perhaps options (a list); every other line is an
            object with input and output.

    Raises:
        ValueError: there is no such source, or it holds something else than tasks.
    """
    name = str(source)
    if name == "builtin":
        return _folder(BUILTIN)
    if name == "world":
        return list(world_tasks())
    if name == "bigbench":
        from bigramlib.instruction.bigbench import bigbench_tasks

        return bigbench_tasks()
    if name.startswith("hf:"):
        return [_dataset(name)]
    if not name or not Path(name).expanduser().is_dir():
        raise ValueError(
            f"There are no tasks {name!r}; use 'builtin', 'world', 'bigbench', 'hf:<dataset>[:config][:split]' or a folder of "
            ".jsonl files."
        )
    return _folder(Path(name).expanduser())


def _folder(folder: Path) -> list[Task]:
    files = sorted(file for file in folder.iterdir() if plain_suffix(file) == ".jsonl" and not file.name.startswith("."))
    if not files:
        raise ValueError(f"The folder {str(folder)!r} has no .jsonl files; put each task into one.")
    tasks = [read_task(file) for file in files]
    if repeated := [name for name, times in Counter(task.name for task in tasks).items() if times > 1]:
        raise ValueError(f"Two files of {str(folder)!r} have a task named {repeated[0]!r}; rename one of the two.")
    return tasks


def read_task(path: Path) -> Task:
    """The task in a JSON Lines file; its form is said in `load_tasks`.

    Raises:
        ValueError: it has another form, or the task is none.
    """
    check_is_text(path)
    rows = [(f"Line {number} of {str(path)!r}", line) for number, line in enumerate(lines(path), 1) if line.strip()]
    if not rows:
        raise ValueError(f"{str(path)!r} is empty; write {HEAD} into its first line and {PAIR} into the others.")
    place, first = rows[0]
    head = _object(first, place, HEAD)
    name, kind, cluster = (_text(head, key, place, HEAD) for key in ("name", "kind", "cluster"))
    pairs = []
    for where, line in rows[1:]:
        row = _object(line, where, PAIR)
        pairs.append((_text(row, "input", where, PAIR), _text(row, "output", where, PAIR)))
    instructions, options = _texts(head, "instructions", place), _texts(head, "options", place) if "options" in head else ()
    return _task(path, name, kind, cluster, instructions, pairs, options)


def _task(source: object, name: str, kind: str, cluster: str, instructions: Iterable[str], pairs: Iterable, options=()) -> Task:
    try:
        return Task(name, kind, cluster, tuple(instructions), tuple(pairs), tuple(options))
    except ValueError as error:
        raise ValueError(f"{str(source)!r} holds no task: {error}") from None


def _object(line: str, place: str, form: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}); write {form}.") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place} is not a JSON object; write {form}.")
    return row


def _text(row: dict[str, Any], key: str, place: str, form: str) -> str:
    """A text of a row, without space around it; it is not empty and could be written to a file."""
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{place} has no text in {key!r}; write {form}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(f"{place} holds {half!r}, half of a character (a lone surrogate); remove or replace it.") from None
    return text.strip()


def _texts(head: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    texts = head.get(key)
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{place} has no list of texts in {key!r}; write {HEAD}.")
    return tuple(_text({key: text}, key, place, HEAD) for text in texts)


def _dataset(source: str) -> Task:
    """A dataset as a task. A pair that comes twice is taken once."""
    pairs: dict[tuple[str, str], None] = {}
    given = answer = ""
    for number, row in enumerate(dataset_rows(source), 1):
        if number == 1:
            given, answer = _column(row, INPUTS, source), _column(row, ANSWERS, source)
        place, form = f"Row {number} of {source!r}", "texts into both columns"
        pairs[_text(row, given, place, form), _text(row, answer, place, form)] = None
    if not pairs:
        raise ValueError(f"The dataset {source!r} has no rows; name another split: hf:<dataset>[:config][:split].")
    instruction = "Answer the question." if given == "question" else "Write the output that belongs to the input."
    return _task(source, source.removeprefix("hf:"), "other", "datasets", [instruction], pairs)


def _column(row: dict[str, Any], names: tuple[str, ...], source: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise ValueError(f"{source!r} has none of the columns {', '.join(names)}, but {sorted(row)}; rename one of them.")
    return found
