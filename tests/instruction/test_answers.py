import copy
import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from bigramlib import LanguageModel
from bigramlib.instruction.answers import exact_matches, generated, is_right, matches_and_scores, option_matches, option_scores
from bigramlib.instruction.prompts import TEXT, Prompt, chat, prompt_tokens

STARTS = ["the cat", "a dog and", "no cats here", "the rat sat down on", "mat", "a"]


def texts(model, prompt, tokens):
    """Greedy decoding, token by token, without any cache."""
    ids = [*model.prefix, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    written = []
    for _ in range(tokens):
        with torch.no_grad():
            written.append(int(model.hf(torch.tensor([ids + written])).logits[0, -1, : model.vocabulary_size].argmax()))
    return [model.tokenizer.decode([token]) for token in written], written


def ends_for(model, prompt, length):
    """An answer of so many tokens that greedy decoding writes, and the text of the token after it."""
    pieces, written = texts(model, prompt, length + 1)
    answer = model.tokenizer.decode(written[:length])
    kept = model.tokenizer(answer, add_special_tokens=False)["input_ids"] == written[:length]
    return (answer, pieces[length]) if kept and pieces[length].strip() and not set(written) & set(model.end_tokens) else None


def greedy_answers(model):
    found = [(start, *end) for start in STARTS for length in (1, 2, 3) if (end := ends_for(model, start, length))]
    assert len(found) >= 3
    return found


def test_exact_match_is_greedy_decoding(any_model):
    for start, answer, end in greedy_answers(any_model):
        right = Prompt(start, answer)
        wrong = Prompt(start, answer + "?")
        assert exact_matches(any_model, [right, wrong], [end]).tolist() == [True, False]


def test_an_answer_that_does_not_end_is_wrong(model):
    for start, answer, _ in greedy_answers(model):
        assert not exact_matches(model, [Prompt(start, answer)], ["no such end"])[0]


def test_a_batch_gives_what_each_prompt_gives_alone(any_model):
    prompts = [Prompt(start, " " + word) for start in STARTS for word in ("cat", "a", "sat on the mat")]
    prompts += [Prompt(start, answer) for start, answer, _ in greedy_answers(any_model)]
    ends = ["a", "t", " "]
    alone = [exact_matches(any_model, [prompt], ends)[0] for prompt in prompts]
    assert exact_matches(any_model, prompts, ends).tolist() == alone
    written = generated(any_model, prompts, tokens=5)
    assert written == [generated(any_model, [prompt], tokens=5)[0] for prompt in prompts]


def test_generation_is_greedy_decoding_without_a_cache(any_model):
    for start in STARTS:
        _, written = texts(any_model, start, 6)
        ended = next((place for place, token in enumerate(written) if token in any_model.end_tokens), 6)
        assert generated(any_model, [Prompt(start, "x")], tokens=6) == [any_model.tokenizer.decode(written[:ended])]


def test_generation_stops_before_an_end(model):
    whole = generated(model, [Prompt("the cat", "x")], tokens=8)[0]
    mark = whole.strip()[1]
    assert (
        generated(model, [Prompt("the cat", "x")], [mark], tokens=8)[0]
        == whole[: whole.index(mark, whole.index(whole.strip()))]
    )


def test_option_scores_are_mean_log_probabilities(model):
    prompt, options = Prompt("the cat", " sat"), [" sat", " on the mat", " a dog"]
    (scores,) = option_scores(model, [prompt], [options])
    for option, score in zip(options, scores, strict=True):
        text, answer = (model.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt.text, option))
        ids = torch.tensor([[*model.prefix, *text, *answer]])
        logits = model.hf(ids).logits[0, :, : model.vocabulary_size].log_softmax(-1)
        begin = ids.shape[1] - len(answer)
        expected = np.mean([logits[begin + place - 1, token].item() for place, token in enumerate(answer)])
        assert score == pytest.approx(expected, abs=1e-5)


def test_one_reading_gives_both_matches_and_scores(any_model):
    right = greedy_answers(any_model)
    prompts = [Prompt(start, answer) for start, answer, _ in right] + [Prompt(start, " on the mat") for start in STARTS]
    ends = [end for *_, end in right]
    found, scores = matches_and_scores(any_model, prompts, ends)
    alone = np.concatenate(option_scores(any_model, prompts, [[prompt.answer] for prompt in prompts]))
    assert found.any() and found.tolist() == exact_matches(any_model, prompts, ends).tolist()
    assert np.array_equal(scores, alone)


def test_the_likeliest_option_is_chosen(model):
    options = [" sat", " on the mat", " a dog"]
    (scores,) = option_scores(model, [Prompt("the cat", " sat")], [options])
    prompts = [Prompt("the cat", option) for option in options]
    assert option_matches(model, prompts, [options] * 3).tolist() == (np.arange(3) == scores.argmax()).tolist()


@pytest.mark.parametrize(
    ("text", "answer", "exact", "lenient"),
    [
        (" Paris\nInput:", "Paris", True, True),
        ("\n\nparis.", "Paris", True, True),
        ("The capital is Paris.", "Paris", False, True),
        ("Comparison", "Paris", False, False),
        ("Lyon\nParis", "Paris", False, False),
        ("", "Paris", False, False),
        ("It is St. John's, I think.", "St. John's", False, True),
        ("Washington, D.C.", "Washington, D.C.", True, True),
    ],
)
def test_a_reading_is_the_first_line(text, answer, exact, lenient):
    assert (is_right(text, answer), is_right(text, answer, lenient=True)) == (exact, lenient)


def test_an_answer_longer_than_the_context_is_refused(tokenizer):
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=288, n_embd=16, n_layer=1, n_head=2, n_positions=8))
    model = LanguageModel("short", hf, tokenizer)
    with pytest.raises(ValueError, match="8 positions"):
        exact_matches(model, [Prompt("the cat", " sat on the mat and the dog sat")], TEXT.ends)


def test_an_empty_answer_is_refused(model):
    with pytest.raises(ValueError, match="has no tokens"):
        exact_matches(model, [Prompt("the cat", "")], TEXT.ends)


def test_a_tokenizer_without_chat_template_is_refused(model):
    with pytest.raises(ValueError, match="no chat template"):
        chat(model, "Say it.", ("x", "y"))


def with_template(model, template, tokenizer=None):
    tokenizer = copy.deepcopy(tokenizer or model.tokenizer)
    tokenizer.chat_template = template
    return dataclasses.replace(model, tokenizer=tokenizer)


def test_a_template_keeps_its_first_token_where_nothing_else_puts_it(model):
    chatting = with_template(model, "<|endoftext|>{{ messages[0].content }}!")
    assert chatting.prefix == [] and chat(chatting, "Say it.", ("x", "y")).text == "<|endoftext|>Say it.\nx!"


def test_what_stands_before_every_text_is_not_put_twice(model):
    backend = copy.deepcopy(model.tokenizer.backend_tokenizer)
    backend.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    chatting = with_template(model, "<|endoftext|>{{ messages[0].content }}!", tokenizer)
    assert chatting.prefix == [0] and chat(chatting, "Say it.", ("x", "y")).text == "Say it.\nx!"


def test_an_answer_has_the_tokens_that_it_has_after_its_text(model):
    backend = copy.deepcopy(model.tokenizer.backend_tokenizer)
    backend.normalizer = normalizers.Prepend(" ")  # as SentencePiece: every text begins with a space
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    spaced = dataclasses.replace(model, tokenizer=tokenizer)
    ((text, answer),) = prompt_tokens(spaced, [Prompt("the dog sat", " on")])
    assert text + answer == tokenizer("the dog sat on")["input_ids"] and answer != tokenizer(" on")["input_ids"]


def test_scores_do_not_depend_on_the_callers_precision(model):
    prompts = [Prompt(start, " cat") for start in STARTS]
    expected = option_scores(model, prompts, [[" cat", " dog"]] * len(prompts))
    with torch.autocast("cpu", torch.bfloat16):
        found = option_scores(model, prompts, [[" cat", " dog"]] * len(prompts))
    assert np.array_equal(np.concatenate(expected), np.concatenate(found))
