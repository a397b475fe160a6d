"""What the tokenizer puts before every text, which tokens end it, and which ids there are."""

import numpy as np
import pytest
import torch
from conftest import build
from test_identity import with_first, word_tokenizer
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from bigramlib import BigramTable, LanguageModel, evaluate
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.models.tokenizer import token_texts


def with_beginning(tokenizer):
    """The same tokenizer, with a beginning-of-sequence token before every text."""
    changed = type(tokenizer)(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()))
    changed.add_special_tokens({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    changed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", changed.bos_token_id)]
    )
    return changed


@pytest.mark.parametrize("first", [(), ("Ġcat",), ("Ġcat", "Ġdog"), ("<|endoftext|>",)])
def test_whatever_the_tokenizer_puts_before_a_text_is_the_prefix(tokenizer, first):
    given = with_first(tokenizer, *first) if first else tokenizer
    model = LanguageModel("tiny", build("llama", tokenizer).hf, given)
    assert (
        model.prefix == given("the cat")["input_ids"][: len(first)] == [given.convert_tokens_to_ids(token) for token in first]
    )
    ids = torch.arange(10).view(2, 5)
    assert model.hidden(ids).shape[:2] == (2, 5)


@pytest.mark.parametrize(
    "vocabulary",
    [{"A": 0, "C": 1, "G": 2, "T": 3}, {"0": 0, "1": 1}, {"你": 0, "好": 1, "吗": 2}],
    ids=["bases", "digits", "another script"],
)
def test_alphabets_without_the_letter_a_are_read(tokenizer, vocabulary):
    core = Tokenizer(models.BPE(vocabulary, []))
    given = PreTrainedTokenizerFast(tokenizer_object=core)
    model = LanguageModel("tiny", build("llama", tokenizer).hf, given)
    assert model.prefix == [] and model.vocabulary_size == len(vocabulary)


def test_ids_with_gaps_are_not_cut_off(tokenizer):
    given = word_tokenizer({"a": 0, "b": 1, "c": 100, "d": 150, "?": 2}, unk_token="?")
    model = LanguageModel("tiny", build("llama", tokenizer).hf, given)
    assert model.vocabulary_size == 151
    train, _ = model.load_corpus([f"c d {'a ' * number}" for number in range(1, 6)])
    table = BigramTable.from_corpus(train)
    assert table.surprisals(np.array([100]), np.array([150])) < np.inf


def test_tokens_beyond_the_embedding_are_named_where_they_would_be_used(tokenizer):
    hf = build("llama", tokenizer).hf
    given = word_tokenizer({f"w{i}": i for i in range(400)} | {"?": 400}, unk_token="?")
    model = LanguageModel("tiny", hf, given)
    assert model.vocabulary_size == hf.config.vocab_size
    with pytest.raises(ValueError, match="has tokens that 'tiny' has no embedding of"):
        model.sample("w1 w399")
    core = Tokenizer.from_str(given.backend_tokenizer.to_str())
    core.post_processor = processors.TemplateProcessing(single="w399 $A", special_tokens=[("w399", 399)])
    with pytest.raises(ValueError, match=r"puts the token 399 before every text, but the model has embeddings of 288"):
        LanguageModel("tiny", hf, PreTrainedTokenizerFast(tokenizer_object=core))


def test_every_end_of_text_that_the_model_knows_ends_a_document(tokenizer):
    model = build("llama", tokenizer)
    model.hf.generation_config.eos_token_id = [17, 23]
    model.hf.config.eos_token_id = [5, -1, 10_000]
    assert {5, 17, 23, tokenizer.eos_token_id} == set(model.end_tokens)
    documents = list(model.sample_documents(3000))
    assert not {5, 17, 23} & {token for document in documents for token in document}


def test_a_beginning_of_sequence_token_stands_before_every_sequence_and_is_never_measured(tokenizer, corpus, table):
    plain = build("gpt_neox", tokenizer)
    model = LanguageModel("with beginning", plain.hf, with_beginning(tokenizer))
    assert plain.prefix == [] and model.prefix == [model.tokenizer.bos_token_id]
    ids = torch.arange(10).view(2, 5)
    by_hand = torch.cat([torch.full((2, 1), model.prefix[0]), ids], 1)
    assert torch.allclose(model.hidden(ids), plain.hidden(by_hand)[:, 1:])
    assert not torch.allclose(model.hidden(ids), plain.hidden(ids))
    assert len(evaluate(model, corpus, table, max_tokens=256).surprisals) == len(
        evaluate(plain, corpus, table, max_tokens=256).surprisals
    )
    first, second = (ResidualMoments.collect(m, corpus, max_tokens=256) for m in (plain, model))
    assert first.n == second.n
    assert torch.allclose(first.mean[0], second.mean[0]) and not torch.allclose(first.mean[1], second.mean[1])


def test_tokens_read_as_they_do_within_a_text(tokenizer):
    ids = tokenizer(" the cat sat", add_special_tokens=False)["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == " the cat sat"
    spaced = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"▁the": 0, "s": 1, "▁": 2}, [])))
    spaced.backend_tokenizer.decoder = decoders.Metaspace()
    assert spaced.decode([0]) == "the" and token_texts(spaced, [0, 1, 0]) == [" the", "s", " the"]


def test_a_token_that_is_no_whole_character_is_called_by_its_name(tokenizer):
    first, second = tokenizer("é", add_special_tokens=False)["input_ids"]
    assert token_texts(tokenizer, [first, second]) == tokenizer.convert_ids_to_tokens([first, second])
