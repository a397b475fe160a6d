"""The builtin tasks are whole; files of others become tasks or a sentence that names the line."""

import gzip
import json

import pytest

from bigramlib.instruction import sources
from bigramlib.instruction.sources import load_tasks
from bigramlib.instruction.tasks import halves
from bigramlib.instruction.world import world_tasks

HEAD = {"name": "double", "kind": "rule", "cluster": "numbers", "instructions": ["Double the number."]}
PAIRS = [{"input": str(number), "output": str(2 * number)} for number in range(30)]
RULES = {
    "copy": lambda text: text,
    "reverse": lambda text: " ".join(text.split()[::-1]),
    "swap": lambda text: " ".join(text.split()[::-1]),
    "second": lambda text: text.split()[1],
    "upper": str.upper,
    "length": lambda text: str(len(text)),
    "add": lambda text: str(sum(map(int, text.split(" and ")))),
    "larger": lambda text: str(max(map(int, text.split(" and ")))),
    "parity": lambda text: ("even", "odd")[int(text) % 2],
}


def written(path, *rows) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")


def test_there_are_some_forty_builtin_tasks_of_both_kinds():
    tasks = load_tasks("builtin")
    assert 36 <= len(tasks) <= 44
    assert {task.kind for task in tasks} == {"rule", "fact"}
    assert 6 <= len({task.cluster for task in tasks}) <= 9


def test_builtin_tasks_are_files_in_the_form_that_any_folder_has_and_small():
    assert [task.hash for task in load_tasks(sources.BUILTIN)] == [task.hash for task in load_tasks("builtin")]
    assert sum(file.stat().st_size for file in sources.BUILTIN.iterdir()) < 1_000_000


@pytest.mark.parametrize("task", load_tasks("builtin"), ids=lambda task: task.name)
def test_a_builtin_task_has_sentences_short_answers_and_enough_in_every_part(task):
    assert 2 <= len(task.instructions) <= 4
    assert all(sentence[0].isupper() and sentence.endswith(".") and len(sentence.split()) > 2 for sentence in task.instructions)
    assert max(len(answer) for _, answer in task.pairs) < 45
    assert all(text == text.strip() and "\n" not in text for pair in task.pairs for text in pair)
    assert min(len(task.split(part)) for part in ("shots", "tuning", "test")) >= 12
    assert len(task.pairs) <= 400


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_can_be_computed_holds_for_every_builtin_pair(name):
    (task,) = (task for task in load_tasks("builtin") if task.name == name)
    assert all(answer == RULES[name](given) for given, answer in task.pairs)


def test_well_known_facts_are_as_one_knows_them():
    answers = {task.name: dict(task.pairs) for task in load_tasks("builtin")}
    assert answers["capital"]["United Kingdom"] == "London" and answers["currency"]["Japan"] == "JPY"
    assert answers["country_fr"]["Germany"] == "Allemagne" and answers["element"]["iron"] == "Fe"
    assert answers["plural"]["child"] == "children" and answers["past"]["think"] == "thought"
    assert "None" not in {answer for task in answers.values() for answer in task.values()}


def test_halves_of_the_builtin_tasks_have_every_cluster():
    first, second = halves(load_tasks("builtin"))
    assert {task.cluster for task in first} == {task.cluster for task in second}


def test_a_folder_of_files_is_read_compressed_or_not(tmp_path):
    written(tmp_path / "b.jsonl", HEAD, "", *PAIRS)
    options = HEAD | {"name": "other", "options": [row["output"] for row in PAIRS]}
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, [options, *PAIRS])).encode()))
    (tmp_path / "notes.txt").write_text("not a task")
    other, double = load_tasks(tmp_path)
    assert (double.name, other.name) == ("double", "other")
    assert double.pairs == other.pairs == tuple((row["input"], row["output"]) for row in PAIRS)
    assert len(other.options) == 30 and not double.options


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "'.*a.jsonl' is empty; write"),
        (["{"], "Line 1 of '.*a.jsonl' is not JSON"),
        (["[1]"], "Line 1 of '.*a.jsonl' is not a JSON object; write"),
        ([PAIRS[0]], "Line 1 of '.*a.jsonl' has no text in 'name'; write"),
        ([HEAD | {"instructions": "Do it."}], "Line 1 of '.*a.jsonl' has no list of texts in 'instructions'"),
        ([HEAD | {"instructions": [3]}], "Line 1 of '.*a.jsonl' has no text in 'instructions'"),
        ([HEAD | {"options": []}, PAIRS[0]], "Line 1 of '.*a.jsonl' has no list of texts in 'options'"),
        ([HEAD, PAIRS[0], "", {"input": "3"}], "Line 4 of '.*a.jsonl' has no text in 'output'; write"),
        ([HEAD, {"input": "3", "output": 6}], "Line 2 of '.*a.jsonl' has no text in 'output'"),
        ([HEAD, PAIRS[0], "never"], "Line 3 of '.*a.jsonl' is not JSON"),
        ([HEAD, {"input": "\ud800", "output": "x"}], "Line 2 of '.*a.jsonl' holds .*half of a character"),
        ([HEAD], "a.jsonl' holds no task: The task 'double' has no pairs"),
        ([HEAD, PAIRS[0], PAIRS[0] | {"output": "9"}], "a.jsonl' holds no task: The task 'double' has the input '0' twice"),
    ],
)
def test_a_file_in_another_form_is_refused_with_its_line(tmp_path, rows, message):
    written(tmp_path / "a.jsonl", *rows)
    with pytest.raises(ValueError, match=message):
        load_tasks(tmp_path)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\x80\x04\x95abc")
    with pytest.raises(ValueError, match="is a pickle"):
        load_tasks(tmp_path)


def test_two_tasks_of_one_name_are_refused(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        written(tmp_path / name, HEAD, *PAIRS)
    with pytest.raises(ValueError, match=r"Two files of .* have a task named 'double'; rename one"):
        load_tasks(tmp_path)


@pytest.mark.parametrize("source", ["", "nothing", "builtins"])
def test_an_unknown_source_is_answered_with_what_can_be_given(source):
    with pytest.raises(ValueError, match=f"There are no tasks '{source}'; use 'builtin', 'world', 'bigbench', 'hf:"):
        load_tasks(source)


def test_a_folder_without_tasks_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no \.jsonl files; put each task into one"):
        load_tasks(tmp_path)


def test_the_tasks_of_the_world_come_from_its_file():
    assert load_tasks("world") == list(world_tasks())


@pytest.mark.parametrize("columns", [("input", "output"), ("inputs", "target"), ("question", "answer")])
def test_a_dataset_is_read_by_the_usual_names_of_columns(tmp_path, columns):
    given, answer = columns
    written(tmp_path / "train.jsonl", *({given: row["input"], answer: row["output"], "n": 1} for row in [*PAIRS, PAIRS[0]]))
    (task,) = load_tasks(f"hf:{tmp_path}")
    assert task.pairs == tuple((row["input"], row["output"]) for row in PAIRS) and task.kind == "other"
    assert task.instructions[0].startswith("Answer" if given == "question" else "Write")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "answer": "b"}, r"has none of the columns input, inputs, question, but \['answer', 'text'\]; rename"),
        ({"input": "a", "label": "b"}, "has none of the columns output, target, answer"),
        ({"input": "a", "output": 3}, "Row 1 of 'hf:.*' has no text in 'output'; write texts into both columns"),
    ],
)
def test_a_dataset_without_texts_in_such_columns_is_refused(tmp_path, row, message):
    written(tmp_path / "train.jsonl", row)
    with pytest.raises(ValueError, match=message):
        load_tasks(f"hf:{tmp_path}")


def test_a_split_that_a_dataset_lacks_is_named(tmp_path):
    written(tmp_path / "train.jsonl", *PAIRS)
    with pytest.raises(ValueError, match=r"The dataset 'hf:.*:test' could not be read"):
        load_tasks(f"hf:{tmp_path}:test")
