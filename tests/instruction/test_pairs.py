import copy
import dataclasses

import numpy as np
import pytest
from conftest import build

from bigramlib import load_model
from bigramlib.instruction import pairs
from bigramlib.instruction.answers import exact_matches
from bigramlib.instruction.pairs import (
    FEW_SHOT,
    GIVEN_EXAMPLES,
    HELD_OUT,
    OTHER_TASK,
    READ_FEW_SHOT,
    RELEASED,
    TUNED,
    WRITES_EXAMPLES,
    ZERO_SHOT,
    Items,
    base_scores,
    facts,
    released_scores,
    scores,
    tuned_halves,
    tuned_scores,
    written_scores,
)
from bigramlib.instruction.prompts import TEXT, WORLD
from bigramlib.instruction.scores import by_task
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning_config import TuneConfig


def task(name, answer):
    pairs = tuple((f"{name} {number}", answer(number)) for number in range(40))
    return Task(name, "rule", name[0], (f"Do {name}.", f"Please do {name}."), pairs)


TASKS = [task("cat", lambda n: "a"), task("dog", lambda n: str(n % 3)), task("rat", lambda n: "sat"), task("mat", str)]
QUICK = TuneConfig(steps=3, batch_size=4, warmup_steps=1, rank=None)


@pytest.fixture
def items():
    return Items(TASKS, TEXT, count=6, shots=2)


@pytest.fixture(scope="module")
def world():
    return load_model("world-a0")


def test_a_base_of_the_world_learns_in_context_what_it_has_seen(world):
    asked = Items.suited(world, count=20)
    seen = [known for known in asked.tasks if known.name in ("kind0", "kind3", "table1", "first_two")]
    means = by_task(scores(world, FEW_SHOT, asked, asked.few_shot, seen)).mean()
    assert asked.prompt_format == WORLD and means[FEW_SHOT] > 0.8


def test_a_model_of_text_is_asked_the_builtin_tasks(model):
    asked = Items.suited(model)
    assert asked.prompt_format == TEXT and len(asked.tasks) > 30


def test_demonstrations_are_of_the_task_and_never_tested(items):
    for known in items.tasks:
        shown = [given for given, _ in known.split("shots")]
        for prompt, (given, answer) in zip(items.few_shot(known), items.of(known), strict=True):
            *demonstrations, last = prompt.text.split("\n\n")
            assert len(demonstrations) == 2 and given in last and prompt.answer == f" {answer}"
            assert all(any(text.startswith(f"Input: {one}\n") for one in shown) for text in demonstrations)


def test_demonstrations_of_another_task_are_of_others_alone(items):
    for known in items.tasks:
        for prompt in items.other_task(known):
            assert known.name not in prompt.text.rpartition("\n\n")[0] and known.name in prompt.text.rpartition("\n\n")[2]


def test_the_same_is_asked_again(items):
    again = Items(TASKS, TEXT, count=6, shots=2)
    for known in TASKS:
        for way in ("few_shot", "other_task", "instruction"):
            assert getattr(items, way)(known) == getattr(again, way)(known)


def test_scores_are_exact_matches(model, items):
    table = scores(model, FEW_SHOT, items, items.few_shot)
    asked = [prompt for known in TASKS for prompt in items.few_shot(known)]
    assert table.correct.tolist() == exact_matches(model, asked, TEXT.ends).tolist()
    assert list(table.columns) == ["task", "kind", "cluster", "arm", "input", "correct"]
    assert table.input.tolist() == [given for known in TASKS for given, _ in items.of(known)]


def test_base_scores_have_three_arms(model, items):
    assert set(base_scores(model, items).arm) == {ZERO_SHOT, FEW_SHOT, OTHER_TASK}


def test_every_task_is_scored_by_a_model_tuned_on_it_and_by_one_that_was_not(model, items, monkeypatch):
    halves = tuned_halves(model, items, QUICK)
    shown = [{known.name for known in half} for _, half in halves]
    assert not shown[0] & shown[1] and set.union(*shown) == {known.name for known in TASKS}
    right = {tuned.name: names for (tuned, _), names in zip(halves, shown, strict=True)}
    asked = []

    def matches(tuned, prompts, ends, precision):
        asked.extend((tuned.name, prompt.text) for prompt in prompts)
        return np.array([any(f"Input: {name}" in prompt.text for name in right[tuned.name]) for prompt in prompts])

    monkeypatch.setattr(pairs, "exact_matches", matches)
    means = by_task(tuned_scores(halves, items))
    assert (means[TUNED] == 1).all() and (means[HELD_OUT] == 0).all()


def test_the_base_is_given_what_the_tuned_model_wrote(tokenizer, items, monkeypatch):
    model, given = build("gpt2", tokenizer), []
    text = "\n\nInput: x 1\nOutput: p\n\nInput: x 2\nOutput: q\n\nInput: x 3\nOutput: a"
    monkeypatch.setattr(pairs, "generated", lambda tuned, prompts, tokens: [text] * len(prompts))

    def matches(base, prompts, ends, precision):
        given.extend(prompts)
        return np.ones(len(prompts), dtype=bool)

    monkeypatch.setattr(pairs, "exact_matches", matches)
    means = by_task(written_scores(model, items, QUICK))
    assert means[WRITES_EXAMPLES]["cat"] == 1 and means[WRITES_EXAMPLES]["rat"] == 0
    assert (means[GIVEN_EXAMPLES] == 1).all()
    assert all(prompt.text.startswith("Input: x 1\nOutput: p\n\nInput: x 2\nOutput: q\n\nInput: ") for prompt in given)


def test_a_released_model_and_its_base_are_read_alike(model, items, monkeypatch):
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}!"
    released = dataclasses.replace(model, name="released", tokenizer=tokenizer)
    said = {model.name: " it is a.\n", "released": "It is a."}
    monkeypatch.setattr(pairs, "generated", lambda asked, prompts, ends, tokens: [said[asked.name]] * len(prompts))
    means = by_task(released_scores(model, released, items))
    assert means.loc["cat", RELEASED] == means.loc["cat", READ_FEW_SHOT] == 1
    assert means.loc["rat", RELEASED] == means.loc["rat", READ_FEW_SHOT] == 0


def test_a_pair_of_different_vocabularies_is_refused(model, items, world):
    with pytest.raises(ValueError, match="different vocabularies"):
        released_scores(model, world, items)


def test_a_released_model_without_chat_template_is_refused(model, items):
    with pytest.raises(ValueError, match="no chat template"):
        released_scores(model, dataclasses.replace(model, name="other"), items)


def test_more_shots_than_a_task_has_are_refused():
    with pytest.raises(ValueError, match="fewer than the 39 asked for"):
        Items(TASKS, TEXT, shots=39)


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="Two tasks are called 'cat'"):
        Items([TASKS[0], TASKS[0]], TEXT)


def test_one_task_alone_has_no_other(items):
    with pytest.raises(ValueError, match="give at least two tasks"):
        Items(TASKS[:1], TEXT, shots=2).other_task(TASKS[0])


def test_facts_say_what_guessing_scores():
    table = facts(TASKS)
    assert table.majority["cat"] == 1 and table.majority["mat"] < 0.2 and table.answer_length["rat"] == 3


def test_tasks_that_a_model_cannot_read_or_that_are_too_few_are_refused_before_any_work(model, world, items):
    items.check(model)
    with pytest.raises(ValueError, match="cannot read the prompts"):
        items.check(world)
    with pytest.raises(ValueError, match="There are 3 tasks"):
        dataclasses.replace(items, tasks=TASKS[:3]).check(model)


def test_an_answer_with_an_end_in_it_is_refused():
    pairs = tuple((str(number), "two\nlines") for number in range(20))
    with pytest.raises(ValueError, match="which ends an answer"):
        Items([Task("poem", "rule", "all", ("Write.",), pairs)], TEXT, shots=1)


def test_a_written_example_with_the_asked_input_is_not_given_to_the_base(tokenizer, items, monkeypatch):
    model, given = build("gpt2", tokenizer), []
    asked = items.of(TASKS[0])[0][0]
    text = f"\n\nInput: {asked}\nOutput: a\n\nInput: x\nOutput: q\n\nInput: y\nOutput: a"
    monkeypatch.setattr(pairs, "generated", lambda tuned, prompts, tokens: [text] * len(prompts))
    monkeypatch.setattr(
        pairs, "exact_matches", lambda base, prompts, ends, precision: given.extend(prompts) or np.ones(len(prompts))
    )
    written_scores(model, items, QUICK)
    assert any(prompt.text.endswith(f"Input: {asked}\nOutput:") for prompt in given)
    assert not any(prompt.text.count(f"Input: {asked}\n") > 1 for prompt in given)


def test_upper_case_is_not_read_leniently_where_examples_were_written(tokenizer, items, monkeypatch):
    text = "\n\nInput: x\nOutput: q\n\nInput: z\nOutput: q\n\nInput: y\nOutput: SAT"
    monkeypatch.setattr(pairs, "generated", lambda tuned, prompts, tokens: [text] * len(prompts))
    assert by_task(written_scores(build("gpt2", tokenizer), items, QUICK))[WRITES_EXAMPLES]["rat"] == 0
