"""What a model writes that was tuned to write its own demonstrations, taken apart."""

from __future__ import annotations

import re
from string import Formatter

from bigramlib.instruction.prompts import PromptFormat
from bigramlib.instruction.tasks import Pair


def written_demonstrations(text: str, prompt_format: PromptFormat) -> list[Pair]:
    """The demonstrations in what a model wrote: all whole pairs before the last, in which it answers the input.

    Parts of the text that are no pair are left out; a text without any gives an empty list.
    """
    return [pair for pair in _pairs(text, prompt_format)[:-1] if pair is not None]


def written_answer(text: str, prompt_format: PromptFormat) -> str | None:
    """The answer in what a model wrote after its demonstrations; None if the last that it wrote is no whole pair."""
    last = (_pairs(text, prompt_format) or [None])[-1]
    return None if last is None else last[1]


def _pairs(text: str, prompt_format: PromptFormat) -> list[Pair | None]:
    """The parts of a text that are laid out like demonstrations; None stands for a part that is not."""
    opening = re.escape(prompt_format.question.partition("{")[0])
    whole = re.compile(
        _pattern(prompt_format.question, "input", ".+?") + _pattern(prompt_format.answer, "answer", ".*"), re.DOTALL
    )
    parts = re.split(f"{re.escape(prompt_format.gap)}(?={opening})", prompt_format.gap + text.rstrip())
    return [_pair(whole.fullmatch(part.lstrip()), prompt_format) for part in parts if part.strip()]


def _pattern(template: str, name: str, field: str) -> str:
    """A template of `str.format` with one field, as a regular expression."""
    literals = Formatter().parse(template)
    return "".join(re.escape(literal) + (f"(?P<{name}>{field})" if found else "") for literal, found, *_ in literals)


def _pair(match: re.Match | None, prompt_format: PromptFormat) -> Pair | None:
    """The pair that a part of a text matched, its answer cut where it ends; None if there is none or one half is empty."""
    if match is None:
        return None
    answer = match["answer"]
    places = [place for end in prompt_format.ends if (place := answer.find(end)) >= 0]
    pair = match["input"].strip(), answer[: min(places, default=None)].strip()
    return pair if all(pair) else None
