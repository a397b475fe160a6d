"""Whether a model answers right. Base and tuned models are read by the same functions.

`exact_matches` is greedy decoding with exact match, in a single pass over prompt and answer (teacher forcing): if every token
of the answer is the model's first choice after the right ones before it, greedy decoding would have written it, and otherwise
not. What the model would write next must end the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bigramlib.instruction.prompts import Prompt, prompt_tokens
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.locks import lock_of
from bigramlib.numeric import full_precision
from bigramlib.progress import tqdm

Precision = Literal["float32", "bfloat16"]
TOKENS_AT_ONCE = 4096
"""How many tokens, padding included, one pass may have."""
PROMPTS_AT_ONCE = 64
"""How many prompts are continued together."""
LONGEST_ANSWER = 48
"""How many tokens are generated at most."""
PUNCTUATION = " \t.,;:!?\"'`*"


@torch.inference_mode()
@full_precision()
def exact_matches(
    model: LanguageModel, prompts: Sequence[Prompt], ends: Sequence[str], precision: Precision = "float32"
) -> Bool[np.ndarray, " prompt"]:
    """Whether greedy decoding writes exactly the answer of each prompt and then ends it.

    Args:
        model: the model; what stands before every text of it (`LanguageModel.prefix`) is put before each prompt.
        prompts: what to continue, with the right answers.
        ends: an answer has ended where the text goes on with one of these, or with an end of text.
        precision: of matrix products.

    Raises:
        ValueError: a prompt with its answer is longer than the model can read, or has no tokens.
    """
    ending, found = _EndTokens(model, ends), np.zeros(len(prompts), dtype=bool)
    for batch in _read(model, prompts, precision):
        found[batch.rows] = batch.right(model, ending)
    return found


@torch.inference_mode()
@full_precision()
def matches_and_scores(
    model: LanguageModel, prompts: Sequence[Prompt], ends: Sequence[str], precision: Precision = "float32"
) -> tuple[Bool[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
    """`exact_matches`, and how likely the right answers are as `option_scores` has it, nats, from the same passes."""
    ending, found, scores = _EndTokens(model, ends), np.zeros(len(prompts), dtype=bool), np.zeros(len(prompts))
    for batch in _read(model, prompts, precision):
        found[batch.rows], scores[batch.rows] = batch.right(model, ending), batch.likely(model)
    return found, scores


@torch.inference_mode()
@full_precision()
def option_scores(
    model: LanguageModel, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]
) -> list[Float[np.ndarray, " option"]]:
    """How likely a model finds each option as the answer of a prompt: mean log-probability of its tokens, nats.

    The mean over tokens does not favour short options (Brown et al. 2020).

    Args:
        model: the model.
        prompts: what to continue.
        options: the possible answers of each prompt, with the space that may begin them.
    """
    asked = [Prompt(prompt.text, option) for prompt, choices in zip(prompts, options, strict=True) for option in choices]
    scores = np.zeros(len(asked))
    for batch in _read(model, asked):
        scores[batch.rows] = batch.likely(model)
    borders = np.cumsum([len(choices) for choices in options])[:-1]
    return np.split(scores, borders)


def option_matches(
    model: LanguageModel, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]
) -> Bool[np.ndarray, " prompt"]:
    """Whether the right answer of each prompt has the highest of the `option_scores`."""
    scores = option_scores(model, prompts, options)
    best = [choices[int(found.argmax())] for choices, found in zip(options, scores, strict=True)]
    return np.array([answer == prompt.answer for answer, prompt in zip(best, prompts, strict=True)], dtype=bool)


@torch.inference_mode()
@full_precision()
def generated(
    model: LanguageModel, prompts: Sequence[Prompt], ends: Sequence[str] = (), tokens: int = LONGEST_ANSWER
) -> list[str]:
    """What a model writes after each prompt by greedy decoding, up to an end of text, one of `ends`, or so many tokens.

    Prompts with the same number of tokens are continued together.

    Raises:
        ValueError: a prompt leaves no position for an answer.
    """
    model.hf.eval()
    by_length: dict[int, list[int]] = {}
    given = [text for text, _ in prompt_tokens(model, prompts)]
    for number, text in enumerate(given):
        model.check_length(len(text) + 1)
        by_length.setdefault(len(text), []).append(number)
    written = [""] * len(prompts)
    with tqdm(total=len(prompts), desc=f"{model.name} writes", unit="prompt") as progress:
        for numbers in by_length.values():
            for begin in range(0, len(numbers), PROMPTS_AT_ONCE):
                rows = numbers[begin : begin + PROMPTS_AT_ONCE]
                ids = torch.tensor([[*model.prefix, *given[number]] for number in rows], device=model.device)
                for row, answer in zip(rows, _continued(model, ids, tuple(ends), tokens), strict=True):
                    written[row] = answer
                progress.update(len(rows))
    return written


def _continued(model: LanguageModel, ids: Int[Tensor, "row pos"], ends: tuple[str, ...], tokens: int) -> list[str]:
    """What comes after each row."""
    most = tokens if model.positions is None else min(tokens, model.positions - ids.shape[1])
    found: list[list[int]] = [[] for _ in range(len(ids))]
    texts: dict[int, str] = {}
    cache = None
    while len(texts) < len(found):
        with lock_of(model.hf):
            output = model.hf(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, ids = output.past_key_values, output.logits[:, -1:, : model.vocabulary_size].argmax(-1)
        for row, token in enumerate(ids[:, 0].tolist()):
            if row in texts:
                continue
            if token not in model.end_tokens:
                found[row].append(token)
            text = model.tokenizer.decode(found[row])
            begin = len(text) - len(text.lstrip())
            end = min((place for mark in ends if (place := text.find(mark, begin)) >= 0), default=None)
            if end is not None or token in model.end_tokens or len(found[row]) == most:
                texts[row] = text[:end]
    return [texts[row] for row in range(len(found))]


def is_right(text: str, answer: str, lenient: bool = False) -> bool:
    """Whether a written text gives an answer: the first line that is not empty is the answer, apart from case and punctuation.

    Args:
        text: what a model wrote.
        answer: the right answer.
        lenient: whether the answer may also stand as whole words anywhere in that line, as in sentences of chat models. Read
            base and tuned model alike: a lenient reading of one of them makes a difference that is not there.
    """
    line = next((line for line in text.splitlines() if line.strip()), "").casefold()
    if not lenient:
        return line.strip(PUNCTUATION) == answer.strip(PUNCTUATION).casefold()
    written, wanted = (" ".join(word.strip(PUNCTUATION) for word in words.split()) for words in (line, answer.casefold()))
    return f" {wanted} " in f" {written} "


class _EndTokens:
    """Which tokens end an answer: those that end a text, or whose own text begins with one of the ends."""

    def __init__(self, model: LanguageModel, ends: Sequence[str]) -> None:
        self.model, self.ends, self.known = model, tuple(ends), dict.fromkeys(model.end_tokens, True)

    def among(self, tokens: Int[Tensor, " token"]) -> Bool[Tensor, " token"]:
        for token in set(tokens.tolist()) - self.known.keys():
            text = self.model.tokenizer.decode([token])
            self.known[token] = text.startswith(self.ends) or text.lstrip(" ").startswith(self.ends)
        return torch.tensor([self.known[token] for token in tokens.tolist()], device=tokens.device)


@dataclass(frozen=True)
class _Batch:
    """Prompts and answers that went through a model together.

    Attributes:
        rows: the numbers of the prompts.
        hidden: last hidden states.
        tokens: the token that should follow each. What should end an answer has no token; it counts as 0.
        answered: where tokens of the answer and what ends it should follow.
    """

    rows: list[int]
    hidden: Float[Tensor, "row pos d_model"]
    tokens: Int[Tensor, "row pos"]
    answered: Bool[Tensor, "row pos"]

    def right(self, model: LanguageModel, ending: _EndTokens) -> Bool[np.ndarray, " row"]:
        """Whether each token of the answer is the model's first choice, and then one that ends it."""
        row, place = self.answered.nonzero(as_tuple=True)
        parts = self.hidden[self.answered].split(TOKENS_AT_ONCE // 8)
        chosen = torch.cat([model.unembed(part).argmax(-1) for part in parts])
        right = torch.where(place == self._last[row], ending.among(chosen), chosen == self.tokens[row, place])
        wrong = torch.zeros(len(self.rows), dtype=torch.int64, device=row.device).index_add_(0, row, (~right).long())
        return (wrong == 0).cpu().numpy()

    def likely(self, model: LanguageModel) -> Float[np.ndarray, " row"]:
        """The mean log-probability of the tokens of the answer, without what ends it, nats."""
        scored = self.answered.clone()
        scored[torch.arange(len(self.rows)), self._last] = False
        row, place = scored.nonzero(as_tuple=True)
        reached, following = self.hidden[row, place], self.tokens[row, place]
        surprise = model.log_partition(reached) - model.logits_of(reached, following)
        total = torch.zeros(len(self.rows), device=row.device).index_add_(0, row, surprise.float())
        return (-total / scored.sum(1)).cpu().numpy()

    @property
    def _last(self) -> Int[Tensor, " row"]:
        """Where what ends the answer should follow."""
        return self.answered.shape[1] - 1 - self.answered.flip(1).int().argmax(1)


def _read(model: LanguageModel, prompts: Sequence[Prompt], precision: Precision = "float32") -> Iterator[_Batch]:
    """Pass prompts and answers through a model, those of similar length together."""
    given = prompt_tokens(model, prompts)
    model.check_length(max((len(text) + len(answer) for text, answer in given), default=0))
    order = sorted(range(len(given)), key=lambda number: sum(map(len, given[number])), reverse=True)
    with tqdm(total=len(order), desc=f"answers of {model.name}", unit="prompt") as progress:
        while order:
            width = sum(map(len, given[order[0]]))
            rows = order[: max(1, TOKENS_AT_ONCE // width)]
            order = order[len(rows) :]
            ids = torch.zeros(len(rows), width + 1, dtype=torch.long)
            answered = torch.zeros(len(rows), width + 1, dtype=torch.bool)
            for place, number in enumerate(rows):
                text, answer = given[number]
                ids[place, : len(text) + len(answer)] = torch.tensor([*text, *answer])
                answered[place, len(text) : len(text) + len(answer) + 1] = True
            ids, answered = ids.to(model.device), answered.to(model.device)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                hidden = model.hidden(ids[:, :-1])
            yield _Batch(rows, hidden.float(), ids[:, 1:], answered[:, 1:])
            progress.update(len(rows))
