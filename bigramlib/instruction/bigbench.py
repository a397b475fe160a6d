"""The tasks of BIG-bench that the second paper tests on, out of the source archive on PyPI. Nothing of it is built or run.

Only the tasks are kept, in the store. They are for testing models and must not become part of a pretraining text.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from bigramlib.instruction.tasks import Pair, Task
from bigramlib.models.packages import UNREADABLE, fetched_archive
from bigramlib.store import content_hash, file_hash, store_folder, stored_folder

PACKAGE = "bigbench==1.0.0"
SHA256 = "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2"
LICENCE = "BIG-bench by its many authors (github.com/google/BIG-bench), Apache-2.0; from the PyPI package bigbench 1.0.0"
STORY, CHOICE = "Answer the question about the story", "with one of the choices."
DEDUCTION, TRACKING = f"Say what follows from the text, {CHOICE}", f"Complete the text {CHOICE}"
TASKS = {
    "causal_judgment": ("social", "Say how a typical person would answer the question: Yes or No."),
    "figure_of_speech_detection": ("social", "Name the figure of speech of the sentence."),
    "social_iqa": ("social", f"Answer the question about the situation {CHOICE}"),
    "strange_stories/boolean": ("social", f"{STORY}: yes or no."),
    "strange_stories/multiple_choice": ("social", f"{STORY} {CHOICE}"),
    "logical_deduction/three_objects": ("logic", DEDUCTION),
    "logical_deduction/five_objects": ("logic", DEDUCTION),
    "logical_deduction/seven_objects": ("logic", DEDUCTION),
    "tracking_shuffled_objects/three_objects": ("logic", TRACKING),
    "tracking_shuffled_objects/five_objects": ("logic", TRACKING),
    "tracking_shuffled_objects/seven_objects": ("logic", TRACKING),
}
"""Folders of the tasks in the archive, their clusters, and an instruction; BIG-bench has descriptions instead."""
BACKEND = f'''
from pathlib import Path
class __legacy__:
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        place = Path(folder, "{PACKAGE.replace("==", "-")}.dist-info")
        place.mkdir()
        (place / "METADATA").write_text("Metadata-Version: 2.1\\nName: bigbench\\nVersion: 1.0.0\\n")
        return place.name
'''
"""Stands in for setuptools while pip downloads: pip asks for metadata before it saves a source archive, and for that setuptools
would run the archive's setup.py."""
log = logging.getLogger(__name__)


def bigbench_tasks() -> list[Task]:
    """The tasks; at the first use their archive (358 MB, unpacked by pip to 2 GB for a moment) is fetched.

    Raises:
        ValueError: pip could not get the archive, or it is another one.
    """
    folder = stored_folder(store_folder("tasks") / f"bigbench-{SHA256[:12]}", _fetch)
    return [
        read_task(folder / f"{_name(task)}.json", _name(task), cluster, (sentence, "Choose the right answer."))
        for task, (cluster, sentence) in TASKS.items()
    ]


def _name(task: str) -> str:
    return task.replace("/", "_")


def _fetch(folder: Path) -> None:
    """Download the archive, check it and write its tasks into a folder."""
    log.warning("Fetching %s: %s.", PACKAGE, LICENCE)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        workplace = Path(place)
        archive = _archive(workplace)
        if (found := file_hash(archive)) != SHA256:
            raise ValueError(f"{archive.name} has the SHA-256 {found} instead of {SHA256}, so it was not read; fetch it again.")
        for name, content in members(archive).items():
            (folder / f"{name}.json").write_bytes(content)
    (folder / "LICENCE-NOTE.txt").write_text(LICENCE + "\n")


def _archive(workplace: Path) -> Path:
    """Let pip download the archive. It unpacks nothing that has another SHA-256."""
    backend, requirements = workplace / "backend" / "setuptools", workplace / "requirements.txt"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(BACKEND)
    requirements.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--no-binary",
        "bigbench",
        "--use-pep517",
    ]
    command += ["--no-build-isolation", "--require-hashes", "--dest", ".", "--requirement", str(requirements)]
    environment = {**os.environ, "PYTHONPATH": str(backend.parent), "TMPDIR": str(workplace)}
    remedy = "install pip, check the network, or use other tasks"
    return fetched_archive(command, PACKAGE, workplace / "archive", remedy, environment)


def members(archive: Path) -> dict[str, bytes]:
    """The JSON files of the tasks, by name; the archive is read once, and nothing is unpacked.

    Raises:
        ValueError: it is damaged, or a task is missing.
    """
    prefix = f"{PACKAGE.replace('==', '-')}/bigbench/benchmark_tasks"
    wanted = {f"{prefix}/{task}/task.json": _name(task) for task in TASKS}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as tarball:
            for member in tarball:
                if member.name in wanted and (file := tarball.extractfile(member)) is not None:
                    found[wanted[member.name]] = file.read()
    except UNREADABLE as error:
        raise ValueError(f"The archive {archive.name} is damaged ({error}); fetch it again.") from None
    if missing := sorted(set(wanted.values()) - set(found)):
        raise ValueError(f"The archive {archive.name} has no task {missing[0]!r}; fetch it again.")
    return found


def read_task(path: Path, name: str, cluster: str, instructions: tuple[str, ...]) -> Task:
    """A task of choice in BIG-bench's JSON.

    Options that are the same for all items become those of the task. Others are listed after the input, one a line, in an order
    that only depends on the item. An input that comes twice is taken once or, if its answers differ, not at all.

    Raises:
        ValueError: the file is no such task.
    """
    try:
        examples = json.loads(path.read_text(encoding="utf-8"))["examples"]
        items = [(_one_paragraph(item["input"]), _scores(item["target_scores"])) for item in examples]
        if not items:
            raise ValueError("no examples")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} is no task of choice of BIG-bench ({error!r}); remove it and fetch it again."
        ) from None
    same = len({frozenset(scores) for _, scores in items}) == 1
    answers: dict[str, set[str]] = {}
    for given, scores in items:
        answers.setdefault(given if same else _with_options(given, scores), set()).add(
            max(scores, key=lambda text: scores[text])
        )
    pairs: list[Pair] = [(given, right.pop()) for given, right in answers.items() if len(right) == 1]
    options = tuple(items[0][1]) if same else ()
    return Task(name, "other", cluster, instructions, tuple(pairs), options)


def _one_paragraph(text: str) -> str:
    """A text without empty lines, which stand between the items of a prompt."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _scores(scores: dict[str, Any]) -> dict[str, float]:
    return {_one_paragraph(option): float(score) for option, score in scores.items()}


def _with_options(given: str, scores: dict[str, float]) -> str:
    order = sorted(scores, key=lambda option: content_hash("order", given, option))
    return "\n".join([given, *(f"choice: {option}" for option in order)])
