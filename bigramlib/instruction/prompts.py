"""Prompts: how an input, demonstrations or an instruction become text, and how the end of an answer is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bigramlib.instruction.tasks import Pair
from bigramlib.models.language_model import LanguageModel


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and the answer that should come next.

    Attributes:
        text: all that the model reads.
        answer: the right continuation, with the space that may begin it.
    """

    text: str
    answer: str


@dataclass(frozen=True)
class PromptFormat:
    """The layout of prompts, as templates for `str.format`.

    Attributes:
        question: the input, up to where the answer begins.
        answer: the answer, with what joins it to the question.
        gap: what stands between an answer and the next question.
        instructed: an instruction before a question.
        ends: an answer is over where the text goes on with one of these. Ends are compared as text, because a tokenizer may
            have one token for two line ends.
    """

    question: str = "Input: {input}\nOutput:"
    answer: str = " {answer}"
    gap: str = "\n\n"
    instructed: str = "{instruction}\n{question}"
    ends: tuple[str, ...] = ("\n",)

    def few_shot(self, demonstrations: Sequence[Pair], pair: Pair) -> Prompt:
        """Demonstrations, then the input of a pair."""
        shown = "".join(self.shown(demonstration) + self.gap for demonstration in demonstrations)
        return Prompt(shown + self._question(pair), self._answer(pair))

    def instruction(self, instruction: str, pair: Pair) -> Prompt:
        """An instruction, then the input of a pair: what instruction tuning trains on."""
        return Prompt(self.instructed.format(instruction=instruction, question=self._question(pair)), self._answer(pair))

    def shown(self, pair: Pair) -> str:
        """A pair as a demonstration."""
        return self._question(pair) + self._answer(pair)

    def _question(self, pair: Pair) -> str:
        return self.question.format(input=pair[0])

    def _answer(self, pair: Pair) -> str:
        return self.answer.format(answer=pair[1])


TEXT = PromptFormat()
"""For models of text. No document of the small world and few texts anywhere have this layout."""
WORLD = PromptFormat("{input} ~", " {answer}", " / ", "{instruction} / {question}", (";", ".", "|", "/"))
"""For models of the small world; no document there has this separator together with this end."""


def chat(model: LanguageModel, instruction: str, pair: Pair) -> Prompt:
    """An instruction and an input in the chat template of a model's tokenizer.

    What the template begins with and `LanguageModel.prefix` puts before every text is left out, so that it stands there once.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"The tokenizer of {model.name!r} has no chat template; use few-shot or instruction prompts for it.")
    messages = [{"role": "user", "content": f"{instruction}\n{pair[0]}"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return Prompt(text.removeprefix(tokenizer.decode(model.prefix) if model.prefix else ""), pair[1])


def prompt_tokens(model: LanguageModel, prompts: Sequence[Prompt]) -> list[tuple[list[int], list[int]]]:
    """The token ids of each prompt's text, and of its answer as it follows that text.

    Many tokenizers write a word after a space in another way than at the beginning of a text, so an answer is cut out of the
    tokens of the whole. Only where a token covers the end of the text and the beginning of the answer are they tokenised apart.

    Raises:
        ValueError: the tokenizer cannot read a prompt, or it has no tokens before or in the answer.
    """
    texts = _read(model, [prompt.text for prompt in prompts])
    wholes = _read(model, [prompt.text + prompt.answer for prompt in prompts])
    found = []
    for prompt, text, whole in zip(prompts, texts, wholes, strict=True):
        joined = whole[: len(text)] == text and len(whole) > len(text)
        answer = whole[len(text) :] if joined else _read(model, [prompt.answer])[0]
        if not text or not answer:
            raise ValueError(f"The prompt {prompt!r} has no tokens, or its answer has none; give both some text.")
        found.append((text, answer))
    return found


def _read(model: LanguageModel, texts: list[str]) -> list[list[int]]:
    try:
        return model.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    except Exception as error:  # of tokenizers: no token for what they do not know
        raise ValueError(
            f"The tokenizer of {model.name!r} cannot read the prompts, such as {texts[0]!r} ({error}); give tasks in its words."
        ) from error
