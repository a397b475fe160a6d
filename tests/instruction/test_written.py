"""What a model writes is taken apart into demonstrations and an answer, and anything malformed does no harm."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunings import FIRST, LAST, WHOLE

from bigramlib.instruction.examples import draw_texts
from bigramlib.instruction.prompts import TEXT, WORLD, PromptFormat
from bigramlib.instruction.written import written_answer, written_demonstrations

FORMS = [TEXT, WORLD, PromptFormat("Q: {input}\nA:", " {answer}!", "\n", "{instruction}: {question}", ("!", "\n"))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_was_tuned_on_is_read_back(form, count):
    for task, prompt in draw_texts([FIRST, LAST], replace(WHOLE, written_examples=count), form):
        demonstrations = written_demonstrations(prompt.answer, form)
        assert len(demonstrations) == count and set(demonstrations) <= set(task.pairs)
        assert prompt.answer.endswith(form.answer.format(answer=written_answer(prompt.answer, form)))


def test_inputs_of_several_lines_are_read_back():
    pairs = [("one\n\ntwo", "2"), ("three\nfour", "4")]
    text = TEXT.gap.join(TEXT.shown(pair) for pair in [*pairs, ("five", "5")])
    assert written_demonstrations(text, TEXT) == pairs and written_answer(text, TEXT) == "5"


MALFORMED = {
    "": ([], None),
    "blue": ([], None),
    " blue\n\nInput: a\nOutput: b\n\nInput: c\nOutput: d": ([("a", "b")], "d"),
    "\n\nInput: a\nOutput: b\n\nInput: c": ([("a", "b")], None),
    "\n\nInput: a\nOutput: b\n\nInput: c\nOutput:": ([("a", "b")], None),
    "\n\nInput: a\nOutput:\n\nInput: c\nOutput: d\n": ([], "d"),
    "Input: a\nOutput: b\nand more\n\nInput: c\nOutput: d\n\nmore": ([("a", "b")], "d"),
    "Input:   a \nOutput:  b  \n\n\n\nInput: c\nOutput: d": ([("a", "b")], "d"),
}


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_whole_pair_is_left_out(text):
    assert (written_demonstrations(text, TEXT), written_answer(text, TEXT)) == MALFORMED[text]


@pytest.mark.parametrize("form", FORMS)
@given(
    st.lists(st.sampled_from(["Input: ", "Q: ", "\n", "Output:", "A:", " ~", " / ", "a", " ", "!", "{x}", "\\"])).map("".join)
)
def test_any_text_is_read_without_an_error(form, text):
    pairs, answer = written_demonstrations(text, form), written_answer(text, form)
    assert all(given.strip() and answer.strip() for given, answer in pairs) and answer != ""
