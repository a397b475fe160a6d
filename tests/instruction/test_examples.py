"""Examples show tuning pairs alone, and the loss is on their completions alone."""

import copy
from dataclasses import replace

import pytest
import torch
from conftest import build
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from tunings import FIRST, LAST, WHOLE

from bigramlib.instruction.examples import draw_texts, ending, packed, tokenized
from bigramlib.instruction.prompts import TEXT, WORLD
from bigramlib.instruction.tuning_loop import completion_loss


@pytest.fixture(scope="module")
def beginning(tokenizer):
    """A tokenizer that puts a token before every text."""
    changed = copy.deepcopy(tokenizer)
    token = changed.eos_token
    changed.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, changed.eos_token_id)]
    )
    return changed


def batch(model, config=WHOLE, form=TEXT):
    return packed(tokenized(model, draw_texts([FIRST, LAST], config, form), form))


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gemma2"])
def test_the_loss_is_the_cross_entropy_of_completions(beginning, name):
    model = build(name, beginning)
    assert len(model.prefix) == 1
    ids, completion = batch(model)
    sums, count = 0.0, 0
    for row, marked in zip(ids, completion, strict=True):
        places = marked.nonzero()[:, 0]
        read = torch.tensor([[*model.prefix, *row[: places[-1] + 1].tolist()]])
        with torch.no_grad():
            logits = model.hf(read).logits[0, len(model.prefix) - 1 : -1, : model.vocabulary_size]
        sums += functional.cross_entropy(logits[places], row[places], reduction="sum").item()
        count += len(places)
    with torch.no_grad():
        assert completion_loss(model, ids, completion).item() == pytest.approx(sums / count, rel=1e-5)


def test_what_is_predicted_of_prompts_does_not_count(model):
    ids, completion = batch(model)
    hidden = model.hidden(ids)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        before = completion_loss(model, ids, completion)
        patch.setattr(type(model), "hidden", lambda self, read: hidden[:, : read.shape[1]])
        other = torch.where(completion, ids, (ids + 7) % model.vocabulary_size)
        torch.testing.assert_close(completion_loss(model, other, completion), before)


def test_no_gradient_comes_from_prompts(model):
    ids, completion = batch(model)
    reached = []
    with pytest.MonkeyPatch.context() as patch:
        hidden = model.hidden(ids[:, :-1]).detach().requires_grad_()
        patch.setattr(type(model), "hidden", lambda *_: hidden)
        completion_loss(model, ids, completion).backward()
        reached = hidden.grad.abs().sum(-1) > 0
    assert torch.equal(reached, completion[:, 1:])


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama", "mistral", "gemma2", "gemma3_text"])
@torch.no_grad()
def test_what_stands_on_the_right_changes_nothing_so_no_attention_mask_is_needed(tokenizer, name):
    model = build(name, tokenizer)
    examples = tokenized(model, draw_texts([FIRST, LAST], WHOLE, TEXT), TEXT)
    ids, _ = packed(examples)
    assert len({len(example.ids) for example in examples}) > 1
    together = model.hidden(ids)
    for row, example in enumerate(examples):
        alone = model.hidden(torch.from_numpy(example.ids)[None])[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)


def test_examples_are_tuning_pairs_under_one_of_their_tasks_instructions():
    drawn = draw_texts([FIRST, LAST], replace(WHOLE, steps=60), TEXT)
    expected = {
        (TEXT.instruction(instruction, pair).text, TEXT.instruction(instruction, pair).answer)
        for task in (FIRST, LAST)
        for instruction in task.instructions
        for pair in task.split("tuning")
    }
    assert {(prompt.text, prompt.answer) for _, prompt in drawn} <= expected
    shares = [sum(task is each for each, _ in drawn) / len(drawn) for task in (FIRST, LAST)]
    assert len(drawn) == 180 and min(shares) > 0.4


@pytest.mark.parametrize("form", [TEXT, WORLD])
def test_prompt_and_completion_are_tokenised_apart_and_end_with_the_end_of_text(model, form):
    drawn = draw_texts([FIRST], WHOLE, form)
    for (_, prompt), example in zip(drawn, tokenized(model, drawn, form), strict=True):
        parts = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt.text, prompt.answer)]
        assert example.ids.tolist() == [*parts[0], *parts[1], model.tokenizer.eos_token_id]
        assert example.prompt_length == len(parts[0])


def test_the_end_is_the_tokenizers_even_where_another_token_ends_documents_too(tokenizer):
    model = build("llama", tokenizer)
    model.__dict__["end_tokens"] = [5, model.tokenizer.eos_token_id]
    assert ending(model) == [model.tokenizer.eos_token_id]


def test_without_an_end_of_text_an_answer_ends_with_the_formats_gap(tokenizer):
    model = build("gpt_neox", tokenizer)
    model.__dict__["end_tokens"] = []
    drawn = draw_texts([FIRST], WHOLE, WORLD)
    for (_, prompt), example in zip(drawn, tokenized(model, drawn, WORLD), strict=True):
        assert model.tokenizer.decode(example.ids[example.prompt_length :]) == prompt.answer + " / "


@pytest.mark.parametrize("form", [TEXT, WORLD])
def test_a_completion_with_written_examples_shows_other_tuning_pairs_then_the_input_again(form):
    for task, prompt in draw_texts([FIRST, LAST], replace(WHOLE, written_examples=2), form):
        given = next(pair for pair in task.split("tuning") if prompt.text.endswith(form.instruction("", pair).text[1:]))
        *written, last = [pair for part in prompt.answer.split(form.gap) for pair in task.pairs if form.shown(pair) == part]
        assert last == given and given not in written and len(set(written)) == 2
        assert set(written) <= set(task.split("tuning"))
        assert prompt.answer == form.gap + form.gap.join(form.shown(pair) for pair in (*written, given))
