"""Prompts: how an input, demonstrations or an instruction become text, and how the end of an answer is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from bigramlib.instruction.tasks import Pair


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


def chat(tokenizer: PreTrainedTokenizerBase, instruction: str, pair: Pair) -> Prompt:
    """An instruction and an input in the chat template of a tokenizer.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("The tokenizer has no chat template; use few-shot or instruction prompts for this model.")
    messages = [{"role": "user", "content": f"{instruction}\n{pair[0]}"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return Prompt(text.removeprefix(tokenizer.bos_token or ""), pair[1])
