"""Text drawn from a model follows its own probabilities, its ends of text and the seed."""

import numpy as np
import pytest
import torch
from conftest import build, token_ids
from test_identity import with_first
from test_tokenizer import with_beginning

from bigramlib import LanguageModel
from bigramlib.models.sampling import Sampler


def test_sampling_continues_the_prompt_and_follows_its_seed(any_model):
    texts = [any_model.sample("the cat", tokens=8, seed=seed) for seed in (0, 0, 1)]
    assert all(text.startswith("the cat") for text in texts)
    assert texts[0] == texts[1] != texts[2]


def test_each_token_is_drawn_from_what_the_model_predicts_after_all_before_it(unusual_model):
    ids = token_ids(shape=(3, 4))
    drawn = unusual_model.sampler.draw(ids, 9, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for _ in range(drawn.shape[1]):
        reached = unusual_model.unembed(unusual_model.hidden(ids))[:, -1].softmax(-1, dtype=torch.float64).cumsum(-1)
        place = reached[:, -1:] * torch.rand(3, 1, generator=generator, dtype=torch.float64)
        ids = torch.cat([ids, torch.searchsorted(reached, place, right=True)], dim=1)
    assert torch.equal(drawn, ids[:, 4:])


def test_sampling_is_at_temperature_1_whatever_the_model_prefers(tokenizer):
    plain, greedy = build("gpt_neox", tokenizer), build("gpt_neox", tokenizer)
    greedy.hf.generation_config.temperature = 0.01
    greedy.hf.generation_config.top_p = 0.01
    assert greedy.sample("the cat", tokens=8) == plain.sample("the cat", tokens=8)


def test_own_samples_are_documents_of_the_model_and_are_kept(tokenizer, monkeypatch):
    monkeypatch.setattr("bigramlib.models.sampling.SELF_TOKENS", 3000)
    model = LanguageModel("sampler", build("llama", tokenizer).hf, with_beginning(tokenizer))
    train, evaluation = model.load_corpus("self", evaluation_share=0.2)
    assert len(train) + len(evaluation) >= 3000 and len(train.starts) > 10
    assert model.tokenizer.eos_token_id not in np.asarray(train.ids)
    lengths = np.diff(train.starts)
    assert lengths.max() <= 63 and lengths.min() >= 1
    monkeypatch.setattr(Sampler, "documents", None)
    assert model.load_corpus("self", evaluation_share=0.2)[0].hash == train.hash


def test_own_samples_follow_the_model(tokenizer):
    model = LanguageModel("sampler", build("gpt_neox", tokenizer).hf, with_beginning(tokenizer))
    first = np.array([document[0] for document in model.sample_documents(20_000, batch_size=256) if document])
    drawn = np.bincount(first, minlength=model.vocabulary_size) / len(first)
    with torch.no_grad():
        start = torch.tensor([model.prefix])
        probability = model.hf(start).logits[0, 0, : model.vocabulary_size].softmax(-1).numpy().copy()
    probability[model.tokenizer.eos_token_id] = 0
    probability /= probability.sum()
    assert np.abs(drawn - probability).max() < 5 * np.sqrt(probability.max() / len(first))


def test_own_samples_are_of_the_model_with_its_first_token(tokenizer, monkeypatch):
    monkeypatch.setattr("bigramlib.models.sampling.SELF_TOKENS", 2000)
    plain = build("llama", tokenizer)
    begun = LanguageModel(plain.name, plain.hf, with_first(tokenizer, "Ġcat"))
    assert plain.load_corpus("self")[0].hash != begun.load_corpus("self")[0].hash


def test_own_samples_are_of_the_ends_of_text_that_the_model_knows(tokenizer, monkeypatch):
    monkeypatch.setattr("bigramlib.models.sampling.SELF_TOKENS", 2000)
    first, second = (build("llama", tokenizer) for _ in range(2))
    second.hf.generation_config.eos_token_id = [17]
    assert first.hash == second.hash
    assert 17 in first.load_corpus("self")[0].ids and 17 not in second.load_corpus("self")[0].ids


def test_a_model_that_ends_every_text_at_once_is_told_of(tokenizer, monkeypatch):
    model = build("llama", tokenizer)
    monkeypatch.setattr(Sampler, "draw", lambda self, ids, tokens, generator: torch.full((len(ids), 1), self.end_tokens[0]))
    with pytest.raises(ValueError, match=r"ends its own texts at once \(0 tokens in 4096 documents\)"):
        model.load_corpus("self")
