"""Pairs of a base model and models tuned from it: how well each does on every task, in every arm of the comparison.

The arms are those of Bigoulaeva et al. (2025), with two controls more: demonstrations of another task, and tasks that were
held out of tuning. Tasks are divided into two halves and a model is tuned on each, so that every task has a model that was
tuned on it, and one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bigramlib.instruction.answers import LONGEST_ANSWER, Precision, exact_matches, generated, is_right
from bigramlib.instruction.examples import draw_texts, tokenized
from bigramlib.instruction.prompts import TEXT, WORLD, Prompt, PromptFormat, chat, prompt_tokens
from bigramlib.instruction.sources import load_tasks
from bigramlib.instruction.tasks import Pair, Task, halves
from bigramlib.instruction.tuning import instruction_tune
from bigramlib.instruction.tuning_config import TuneConfig, is_small
from bigramlib.instruction.world import world_tokenizer
from bigramlib.instruction.written import written_answer, written_demonstrations
from bigramlib.models.language_model import LanguageModel
from bigramlib.text.vocabulary import tokenizer_hash

ZERO_SHOT = "base, instruction alone"
FEW_SHOT = "base, demonstrations"
OTHER_TASK = "base, demonstrations of another task"
TUNED = "tuned on the task"
HELD_OUT = "tuned on other tasks"
WRITES_EXAMPLES = "tuned to write examples first"
GIVEN_EXAMPLES = "base, the examples that the tuned model wrote"
RELEASED = "tuned model as released"
READ_FEW_SHOT = "base, demonstrations, read like the released model"
SHOTS, ITEMS = 4, 60
FEWEST_TASKS, FEWEST_PAIRS = 4, 3
"""As many tasks as an interval needs, and as many pairs of each as writing two examples and an answer needs."""


@dataclass(frozen=True)
class Items:
    """What is asked: for each task, inputs with an instruction and demonstrations drawn for each of them.

    Attributes:
        tasks: the tasks.
        prompt_format: the layout of prompts.
        count: tested inputs of each task; where a task has fewer, they come again with other demonstrations.
        shots: demonstrations in a prompt.
        seed: of what is drawn.
        precision: of matrix products when answers are scored.
    """

    tasks: Sequence[Task]
    prompt_format: PromptFormat = TEXT
    count: int = ITEMS
    shots: int = SHOTS
    seed: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for task in self.tasks:
            task.items(1)
            task.shots(self.shots, np.random.default_rng(0))
            for _, answer in task.pairs:
                if end := next((end for end in self.prompt_format.ends if end in answer), None):
                    raise ValueError(
                        f"The task {task.name!r} has the answer {answer!r} with {end!r}, which ends an answer; leave it out or "
                        "give a prompt format with other ends."
                    )
        names = [task.name for task in self.tasks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"Two tasks are called {twice!r}; give each its own name.")

    @classmethod
    def suited(cls, model: LanguageModel, source: str = "", count: int = ITEMS, shots: int = SHOTS, seed: int = 0) -> Items:
        """Those for a model: tasks of the small world, in its layout, for models of it; for others the builtin tasks.

        Args:
            model: the model that will be asked.
            source: other tasks, for `load_tasks`.
            count: tested inputs of each task.
            shots: demonstrations in a prompt.
            seed: of what is drawn.
        """
        world = model.tokenizer_hash == tokenizer_hash(world_tokenizer())
        tasks = load_tasks(source or ("world" if world else "builtin"))
        precision: Precision = "float32" if is_small(model) else "bfloat16"
        return cls(tasks, WORLD if world else TEXT, count, shots, seed, precision)

    def check(self, *models: LanguageModel) -> None:
        """Raise ValueError, before hours of tuning, unless models can be asked all of this and a base be tuned on it.

        Args:
            models: the base, and others that are asked.
        """
        if len(self.tasks) < FEWEST_TASKS:
            raise ValueError(f"There are {len(self.tasks)} tasks; a correlation over tasks needs at least {FEWEST_TASKS}.")
        for task in self.tasks:
            if (count := len(task.split("tuning"))) < FEWEST_PAIRS:
                raise ValueError(f"The task {task.name!r} has {count} pairs to tune on and needs {FEWEST_PAIRS}; give it more.")
            for model in models:
                for text, answer in prompt_tokens(model, self.few_shot(task)):
                    model.check_length(len(text) + len(answer))

    def of(self, task: Task) -> list[Pair]:
        """The tested pairs of a task."""
        return task.items(self.count, self.seed)

    def few_shot(self, task: Task) -> list[Prompt]:
        """Demonstrations, then the input."""
        generator = self._generator(task)
        return [self.prompt_format.few_shot(task.shots(self.shots, generator), pair) for pair in self.of(task)]

    def other_task(self, task: Task) -> list[Prompt]:
        """Demonstrations of another task, drawn for each input."""
        generator, others = self._generator(task), [other for other in self.tasks if other.name != task.name]
        if not others:
            raise ValueError("Demonstrations of another task need a second task; give at least two tasks.")
        drawn = [others[index].shots(self.shots, generator) for index in generator.integers(len(others), size=self.count)]
        return [self.prompt_format.few_shot(shots, pair) for shots, pair in zip(drawn, self.of(task), strict=True)]

    def instructions(self, task: Task) -> list[str]:
        """An instruction, drawn for each input."""
        return [task.instructions[index] for index in self._generator(task).integers(len(task.instructions), size=self.count)]

    def instruction(self, task: Task) -> list[Prompt]:
        """An instruction, then the input."""
        drawn = zip(self.instructions(task), self.of(task), strict=True)
        return [self.prompt_format.instruction(instruction, pair) for instruction, pair in drawn]

    def _generator(self, task: Task) -> np.random.Generator:
        return np.random.default_rng([self.seed, int(task.hash[:8], 16)])


def scores(
    model: LanguageModel, arm: str, items: Items, prompts: Callable[[Task], list[Prompt]], tasks: Iterable[Task] | None = None
) -> pd.DataFrame:
    """Exact match of each item in one arm.

    Args:
        model: the model that answers.
        arm: what the arm is called.
        items: what is asked.
        prompts: gives the prompts of a task, one for each of its items (a method of `items`).
        tasks: which tasks; all of `items` by default.

    Returns:
        Columns task, kind, cluster, arm, input, correct: one row for each item.
    """
    tasks = list(items.tasks if tasks is None else tasks)
    asked = [prompt for task in tasks for prompt in prompts(task)]
    return score_table(arm, items, tasks, exact_matches(model, asked, items.prompt_format.ends, items.precision))


def base_scores(base: LanguageModel, items: Items) -> pd.DataFrame:
    """The arms of the base alone: instruction, demonstrations, demonstrations of another task. Columns as in `scores`."""
    arms = {ZERO_SHOT: items.instruction, FEW_SHOT: items.few_shot, OTHER_TASK: items.other_task}
    return pd.concat([scores(base, arm, items, prompts) for arm, prompts in arms.items()], ignore_index=True)


def tuned_halves(base: LanguageModel, items: Items, config: TuneConfig) -> list[tuple[LanguageModel, list[Task]]]:
    """Two models tuned from a base, each with the half of the tasks that it was tuned on."""
    return [(instruction_tune(base, half, config, items.prompt_format), half) for half in halves(items.tasks, config.seed)]


def tuned_scores(pair: Sequence[tuple[LanguageModel, list[Task]]], items: Items) -> pd.DataFrame:
    """The arms of tuned models: instructions for tasks in tuning and for held-out tasks. Columns as in `scores`.

    Args:
        pair: what `tuned_halves` returns.
        items: what is asked.
    """
    found = []
    for model, half in pair:
        shown = {task.name for task in half}
        held_out = [task for task in items.tasks if task.name not in shown]
        found.append(scores(model, TUNED, items, items.instruction, half))
        found.append(scores(model, HELD_OUT, items, items.instruction, held_out))
    return pd.concat(found, ignore_index=True)


def written_scores(base: LanguageModel, items: Items, config: TuneConfig, examples: int = 2) -> pd.DataFrame:
    """The fair comparison (SampleGen): a model tuned to write examples before it answers, and the base given those examples.

    An example with the asked input itself is left out. Both arms are right where the answer is exactly right.

    Args:
        base: the base model.
        items: what is asked.
        config: how to tune; each half of the tasks has its model.
        examples: how many examples are written.

    Returns:
        Columns as in `scores`; arms `WRITES_EXAMPLES` (the tuned model's own answer) and `GIVEN_EXAMPLES` (the base's answer
        after those examples in the few-shot layout).
    """
    found = []
    config, layout = replace(config, written_examples=examples), items.prompt_format
    for model, half in tuned_halves(base, items, config):
        trained = tokenized(base, draw_texts(half, config, layout), layout)
        longest = max(len(example.ids) - example.prompt_length for example in trained)
        pairs = [pair for task in half for pair in items.of(task)]
        prompts = [prompt for task in half for prompt in items.instruction(task)]
        texts = generated(model, prompts, tokens=longest + longest // 4)
        own = [written_answer(text, layout) == answer for text, (_, answer) in zip(texts, pairs, strict=True)]
        written = [written_demonstrations(text, layout) for text in texts]
        shown = [[one for one in some if one[0] != asked][:examples] for some, (asked, _) in zip(written, pairs, strict=True)]
        given = [layout.few_shot(some, pair) for some, pair in zip(shown, pairs, strict=True)]
        found.append(score_table(WRITES_EXAMPLES, items, half, np.array(own)))
        found.append(score_table(GIVEN_EXAMPLES, items, half, exact_matches(base, given, layout.ends, items.precision)))
    return pd.concat(found, ignore_index=True)


def facts(tasks: Iterable[Task]) -> pd.DataFrame:
    """What else may explain scores, by task.

    Columns kind, cluster, majority (share of the most frequent answer), answer_length (characters), tuning_pairs (how many).
    """
    rows = {
        task.name: (task.kind, task.cluster, task.majority_share, task.answer_length, len(task.split("tuning")))
        for task in tasks
    }
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["kind", "cluster", "majority", "answer_length", "tuning_pairs"]
    )


def score_table(arm: str, items: Items, tasks: Sequence[Task], correct: np.ndarray) -> pd.DataFrame:
    """What `scores` returns, of answers to each item of some tasks, in their order, that are known to be right or wrong."""
    rows = [(task.name, task.kind, task.cluster, arm, given) for task in tasks for given, _ in items.of(task)]
    return pd.DataFrame(rows, columns=["task", "kind", "cluster", "arm", "input"]).assign(correct=correct)


def read_scores(
    model: LanguageModel, arm: str, items: Items, prompts: Callable[[Task], list[Prompt]], tokens: int = LONGEST_ANSWER
) -> pd.DataFrame:
    """As `scores`, but the model writes, and a text is right if its first line holds the answer (`is_right`).

    Chat models answer in sentences, so exact match says little of them. One that thinks aloud first is not read well: its first
    line is no answer.

    Args:
        model: the model that answers.
        arm: what the arm is called.
        items: what is asked.
        prompts: gives the prompts of a task.
        tokens: how long an answer may be.
    """
    asked = [prompt for task in items.tasks for prompt in prompts(task)]
    answers = [answer for task in items.tasks for _, answer in items.of(task)]
    texts = generated(model, asked, items.prompt_format.ends, tokens)
    right = [is_right(text, answer, lenient=True) for text, answer in zip(texts, answers, strict=True)]
    return score_table(arm, items, items.tasks, np.array(right))


def released_scores(base: LanguageModel, instruct: LanguageModel, items: Items) -> pd.DataFrame:
    """A released model that was tuned from the base, and the base with demonstrations, both read by `read_scores`.

    Reading the base alone leniently, or alone strictly, would make or hide a difference.

    Args:
        base: the base model.
        instruct: the released model; it is asked in its chat template.
        items: what is asked.

    Returns:
        Columns as in `scores`; arms `RELEASED` and `READ_FEW_SHOT`.

    Raises:
        ValueError: the two have different vocabularies, or the released model has no chat template.
    """
    ids, others = base.tokenizer.get_vocab(), instruct.tokenizer.get_vocab()
    if differing := next((token for token, number in ids.items() if others.get(token) != number), None):
        raise ValueError(
            f"{base.name!r} and {instruct.name!r} have different vocabularies (the token {differing!r}), so one was not tuned "
            "from the other; give a base and a model tuned from it."
        )

    def chats(task: Task) -> list[Prompt]:
        drawn = zip(items.instructions(task), items.of(task), strict=True)
        return [chat(instruct, instruction, pair) for instruction, pair in drawn]

    arms = ((RELEASED, instruct, chats), (READ_FEW_SHOT, base, items.few_shot))
    return pd.concat([read_scores(model, arm, items, prompts) for arm, model, prompts in arms], ignore_index=True)
