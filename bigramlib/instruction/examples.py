"""What instruction tuning trains on: examples drawn from tasks, as tokens, and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from bigramlib.instruction.prompts import Prompt, PromptFormat, prompt_tokens
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning_config import TuneConfig
from bigramlib.models.language_model import LanguageModel


@dataclass(frozen=True)
class Example:
    """A prompt and its completion as tokens, without what the tokenizer puts before every text.

    Attributes:
        ids: of both, [pos].
        prompt_length: how many of them are the prompt's.
    """

    ids: Int[np.ndarray, " pos"]
    prompt_length: int


def draw_texts(tasks: Sequence[Task], config: TuneConfig, prompt_format: PromptFormat) -> list[tuple[Task, Prompt]]:
    """All examples of a run in their order, as texts: `batch_size` for each of its steps, each with its task.

    The task of each is drawn uniformly, then one of its instructions, a tuning pair, and other tuning pairs to be written out.

    Raises:
        ValueError: there are no tasks, or one has too few pairs.
    """
    if not tasks:
        raise ValueError("There are no tasks to tune on; give at least one.")
    for task in tasks:
        if (least := 1 + config.written_examples) > (count := len(task.split("tuning"))):
            raise ValueError(f"The task {task.name!r} has {count} pairs to tune on and needs {least}; give it more pairs.")
    generator = np.random.default_rng(config.seed)
    drawn = []
    for _ in range(config.steps * config.batch_size):
        task = tasks[int(generator.integers(len(tasks)))]
        instruction = task.instructions[int(generator.integers(len(task.instructions)))]
        pairs = task.split("tuning")
        pair, *written = (pairs[place] for place in generator.choice(len(pairs), 1 + config.written_examples, replace=False))
        prompt = prompt_format.instruction(instruction, pair)
        if written:
            shown = prompt_format.few_shot(written, pair)
            prompt = Prompt(prompt.text, prompt_format.gap + shown.text + shown.answer)
        drawn.append((task, prompt))
    return drawn


def ending(model: LanguageModel) -> list[int]:
    """The token that a tuned model ends its answers with, in a list; an empty list if the tokenizer has none."""
    ends = model.end_tokens
    return [model.tokenizer.eos_token_id] if model.tokenizer.eos_token_id in ends else ends[:1]


def tokenized(model: LanguageModel, drawn: Sequence[tuple[Task, Prompt]], prompt_format: PromptFormat) -> list[Example]:
    """Examples as tokens (see `prompt_tokens`); the completion ends as answers do.

    Raises:
        ValueError: one is longer than the model's positions.
    """
    end, most = ending(model), model.positions
    completed = [Prompt(prompt.text, prompt.answer + ("" if end else prompt_format.gap)) for _, prompt in drawn]
    examples = []
    for (task, _), (before, after) in zip(drawn, prompt_tokens(model, completed), strict=True):
        ids = np.array([*before, *after, *end], dtype=np.int64)
        length = len(model.prefix) + len(ids) - 1  # the last token is predicted and not read
        if most is not None and length > most:
            raise ValueError(
                f"An example of the task {task.name!r} has {length} tokens, more than the {most} positions of "
                f"{model.name!r}; leave the task out, shorten its texts, or lower written_examples."
            )
        examples.append(Example(ids, len(before)))
    return examples


def packed(examples: Sequence[Example]) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """A batch, filled up on the right with token 0: its ids, and which of them are the completions'.

    The models are causal, so what stands on the right changes nothing before it, and no attention mask is needed.
    """
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    completion = torch.zeros(len(examples), longest, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.from_numpy(example.ids)
        completion[row, example.prompt_length : len(example.ids)] = True
    return ids, completion
