"""A small world: 30 tasks over some 330 words, the text that shows them, and base models that saw some of the tasks.

It is small enough to pretrain models in minutes that learn tasks from demonstrations, with full knowledge of what each model
has seen. A task is a rule (reverse three words) or a table of facts (each name's partner). The text is made of lists of one
task's pairs in many layouts, and of names said over and over, because models learn in-context only after they have learnt to
repeat (induction). How much of the text shows a task (its exposure) differs by a factor of 32 between tasks, and a third of
the tasks is never shown to a base model.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bigramlib.instruction.tasks import Pair, Task
from bigramlib.models.mini import PretrainConfig
from bigramlib.text.corpus import TokenCorpus
from bigramlib.text.vocabulary import tokenizer_hash

END_OF_TEXT = "<end>"
SEPARATORS = (":", "->", "=", "is", "+", "&", "@", "~")
"""Between an input and its answer."""
ENDS = (";", ".", "|", "/")
"""After an answer."""
PROMPTS = ("~", "/")
"""The separator and end of prompts (`WORLD`); no document has both."""
YES, NO = "yes", "no"
CLASS_SIZE = 36
CLASSES = tuple(tuple(f"{letter}{number}" for number in range(CLASS_SIZE)) for letter in "abcdef")
"""Six classes of names."""
NUMBERS = tuple(map(str, range(CLASS_SIZE)))
"""A seventh class, whose names have an order."""
ONE_TO_ONE = ((0, 1), (0, 2), (0, 3), (1, 0), (1, 4), (1, 5), (6, 2), (6, 4))
TO_SIX_VALUES = ((0, 4), (0, 5), (1, 2), (1, 6), (6, 3), (6, 5))
"""The classes of inputs and answers of tables. Many tasks have inputs of the same class, so that an input alone says little."""
LARGEST_TASK = 3000
BASES = ("a", "b", "c")
"""What a base model has seen: each letter stands for another third of the tasks that is never shown."""
LOWEST_EXPOSURE = 1 / 32
PRETRAINING = PretrainConfig(
    vocabulary_size=327,
    width=128,
    heads=4,
    dropout=0.0,
    sequence_length=64,
    steps=1000,
    warmup_steps=50,
    weight_decay=0.05,
    checkpoint_steps=(1000,),
)
"""How the bases were pretrained."""


@cache
def world_tasks() -> tuple[Task, ...]:
    """The 30 tasks: 14 tables of facts and 16 rules. Their instructions are two words without meaning of their own."""
    found = _facts() | _rules()
    return tuple(
        Task(name, kind, cluster, (f"{name}-1", f"{name}-2"), tuple(pairs)) for name, (kind, cluster, pairs) in found.items()
    )


def _facts() -> dict[str, tuple[str, str, list[Pair]]]:
    """Tables from one class to another: each name to its own, or to one of six."""
    generator, classes, found = random.Random(5), [*CLASSES, NUMBERS], {}
    for number, (source, target) in enumerate(ONE_TO_ONE):
        answers = generator.sample(classes[target], CLASS_SIZE)
        found[f"table{number}"] = "fact", "tables", list(zip(classes[source], answers, strict=True))
    for number, (source, target) in enumerate(TO_SIX_VALUES):
        values = generator.sample(classes[target], 6)
        found[f"kind{number}"] = "fact", "kinds", [(name, generator.choice(values)) for name in classes[source]]
    return found


def _rules() -> dict[str, tuple[str, str, list[Pair]]]:
    generator = random.Random(6)
    names = [name for group in CLASSES for name in group]
    threes = list({tuple(generator.sample(names, 3)): None for _ in range(LARGEST_TASK)})
    alike = [(x, y, x) if generator.random() < 0.5 else (x, y, z) for x, y, z in threes]
    ones = [*CLASSES[0], *CLASSES[1], *NUMBERS]
    numbers = list(itertools.permutations(range(CLASS_SIZE), 2))
    found: dict[str, tuple[str, str, list[Pair]]] = {}

    def rule(name: str, cluster: str, inputs: list, answer: Callable[..., tuple]) -> None:
        given = {" ".join(map(str, words)): " ".join(map(str, answer(*words))) for words in inputs}
        found[name] = "rule", cluster, list(given.items())

    rule("copy", "copying", [(name,) for name in ones], lambda x: (x,))
    rule("twice", "copying", [(name,) for name in ones], lambda x: (x, x))
    rule("first", "places", threes, lambda x, y, z: (x,))
    rule("second", "places", threes, lambda x, y, z: (y,))
    rule("last", "places", threes, lambda x, y, z: (z,))
    rule("first_two", "places", threes, lambda x, y, z: (x, y))
    rule("ends", "places", threes, lambda x, y, z: (x, z))
    rule("reverse", "orders", threes, lambda x, y, z: (z, y, x))
    rule("rotate", "orders", threes, lambda x, y, z: (y, z, x))
    rule("swap", "orders", numbers, lambda x, y: (y, x))
    rule("larger", "numbers", numbers, lambda x, y: (max(x, y),))
    rule("smaller", "numbers", numbers, lambda x, y: (min(x, y),))
    rule("is_larger", "numbers", numbers, lambda x, y: (YES if x > y else NO,))
    rule("next", "numbers", [(number,) for number in range(CLASS_SIZE - 1)], lambda x: (x + 1,))
    rule("previous", "numbers", [(number,) for number in range(1, CLASS_SIZE)], lambda x: (x - 1,))
    rule("same", "places", alike, lambda x, y, z: (YES if x == z else NO,))
    return found


def exposures(base: str) -> dict[str, float]:
    """How much each task is shown to a base model: 1/32 to 1, in relation to other tasks, or 0 for the tasks never shown.

    Raises:
        ValueError: there is no such base.
    """
    if base not in BASES:
        raise ValueError(f"The small world has no base {base!r}; choose one of {', '.join(BASES)}.")
    names = [task.name for task in world_tasks()]
    generator = random.Random(f"exposure {base}")
    shares = {name: LOWEST_EXPOSURE ** generator.random() for name in names}
    order = random.Random(3).sample(names, len(names))
    return shares | dict.fromkeys(order[BASES.index(base) :: len(BASES)], 0.0)


@cache
def world_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the world; words are separated by spaces."""
    instructions = [instruction for task in world_tasks() for instruction in task.instructions]
    words = [END_OF_TEXT, *SEPARATORS, *ENDS, YES, NO, *itertools.chain(*CLASSES), *NUMBERS, *instructions]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT)


TITLED = 0.25
REPEATED = 0.25


def world_documents(base: str, tokens: int, seed: int) -> Iterator[list[str]]:
    """Documents, as words, until they have so many words together, as a base model reads them.

    Args:
        base: one of `BASES`.
        tokens: how many words.
        seed: of what is drawn.
    """
    shares = {task: share for task, share in exposures(base).items() if share}
    tasks = {task.name: task for task in world_tasks() if task.name in shares}
    shown = {name: _shown(task) for name, task in tasks.items()}
    generator, written = random.Random(seed), 0
    names = [*itertools.chain(*CLASSES), *NUMBERS]
    layouts = [layout for layout in itertools.product(SEPARATORS, ENDS) if layout != PROMPTS]
    while written < tokens:
        if generator.random() < REPEATED:
            words = generator.choices(names, k=generator.randint(4, 14)) * generator.randint(2, 4)
        else:
            (name,) = generator.choices(list(shares), list(shares.values()))
            separator, end = generator.choice(layouts)
            pairs = generator.choices(shown[name], k=generator.randint(3, 10))
            words = [word for given, answer in pairs for word in (*given.split(), separator, *answer.split(), end)]
            if generator.random() < TITLED:
                words += [generator.choice(tasks[name].instructions), end]
        written += len(words) + 1
        yield [*words, END_OF_TEXT]


def _shown(task: Task) -> list[Pair]:
    """What pretraining shows of a task: all pairs of facts, which cannot be inferred, and of rules with few inputs.

    Of rules with many inputs it never shows the tested ones.
    """
    few = len(task.pairs) <= len(CLASSES) * CLASS_SIZE
    return [*task.split("shots"), *task.split("tuning"), *(task.split("test") if few else ())]


def world_corpus(base: str, tokens: int, seed: int) -> TokenCorpus:
    """The documents of `world_documents` as token ids."""
    ids = world_tokenizer().get_vocab()
    documents = [[ids[word] for word in words] for words in world_documents(base, tokens, seed)]
    starts = np.cumsum([0, *map(len, documents[:-1])])
    return TokenCorpus(
        np.concatenate([np.array(document, dtype=np.int32) for document in documents]),
        starts.astype(np.int64),
        1 + max(ids.values()),
        f"small world {base}",
        tokenizer_hash(world_tokenizer()),
        "world",
    )
