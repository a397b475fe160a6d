"""What is exported to lm-eval is YAML there, and gives the prompts that are given here."""

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from bigramlib.instruction.lm_eval import export
from bigramlib.instruction.prompts import TEXT, WORLD
from bigramlib.instruction.tasks import Task

PAIRS = tuple((f"{{{{ {number} }}}}", f"<{number}> é") for number in range(60))
TASK = Task("the task/1", "rule", "numbers", ("Put it in brackets.", "Write it so."), PAIRS)


def read(path):
    config = yaml.safe_load(path.read_text())
    files = config["dataset_kwargs"]["data_files"]
    return config, {part: pq.read_table(file).to_pylist() for part, file in files.items()}


@pytest.mark.parametrize("prompt_format", [TEXT, WORLD])
def test_demonstrations_joined_as_lm_eval_joins_them_are_our_prompt(tmp_path, prompt_format):
    config, rows = read(*export([TASK], tmp_path, 3, prompt_format))
    assert (config["doc_to_text"], config["doc_to_target"], config["num_fewshot"]) == ("text", "answer", 3)
    shown = [row["text"] + config["target_delimiter"] + row["answer"] for row in rows["shots"][:3]]
    asked = rows["test"][0]
    prompt = prompt_format.few_shot(TASK.split("shots")[:3], TASK.split("test")[0])
    assert config["fewshot_delimiter"].join([*shown, asked["text"]]) == prompt.text
    assert config["target_delimiter"] + asked["answer"] == prompt.answer
    assert tuple(config["generation_kwargs"]["until"]) == prompt_format.ends


def test_without_demonstrations_the_instruction_is_given(tmp_path):
    config, rows = read(*export([TASK], tmp_path, 0))
    prompts = [TEXT.instruction("Put it in brackets.", pair).text for pair in TASK.split("test")]
    assert [row["text"] for row in rows["test"]] == prompts and config["num_fewshot"] == 0


def test_all_tested_pairs_and_all_demonstrations_are_written(tmp_path):
    _, rows = read(*export([TASK], tmp_path))
    for part in ("test", "shots"):
        assert [row["answer"] for row in rows[part]] == [answer for _, answer in TASK.split(part)]


@pytest.mark.parametrize("form", ["[{}]", "['a', '{}']", "2001-02-{:02d}", "{}", "{{{{ {} }}}}", "null"])
def test_answers_that_look_like_lists_dates_or_templates_reach_lm_eval_as_texts(tmp_path, form):
    task = Task(
        "forms", "rule", "forms", ("Do it.",), tuple((str(number), form.format(1 + number % 28)) for number in range(60))
    )
    config, _ = read(*export([task], tmp_path))
    rows = load_dataset(config["dataset_path"], cache_dir=str(tmp_path / "cache"), **config["dataset_kwargs"])[
        config["test_split"]
    ]
    assert config["doc_to_target"] in rows.column_names, "lm-eval takes a column as it is, and evaluates what a template gives"
    assert rows[config["doc_to_target"]][:] == [answer for _, answer in task.split("test")]


def test_exact_answers_are_counted_after_greedy_generation(tmp_path):
    config, _ = read(*export([TASK], tmp_path))
    assert config["output_type"] == "generate_until" and config["generation_kwargs"]["do_sample"] is False
    assert [metric["metric"] for metric in config["metric_list"]] == ["exact_match"]
    assert config["generation_kwargs"]["max_gen_toks"] > max(len(answer) for _, answer in PAIRS)


def test_names_of_files_are_plain_and_the_task_is_known_by_its_hash(tmp_path):
    (path,) = export([TASK], tmp_path / "new folder")
    config, _ = read(path)
    assert path.name == "bigramlib_the_task_1.yaml" and config["task"] == path.stem
    assert config["metadata"]["hash"] == TASK.hash


def test_too_few_demonstrations_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"'the task/1' has \d+ demonstrations, fewer than 50"):
        export([TASK], tmp_path / "folder", 50)
    assert not (tmp_path / "folder").exists()


def test_tasks_with_files_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same name as another"):
        export([TASK, Task("the task 1", "rule", "numbers", ("Do it.",), PAIRS)], tmp_path)
