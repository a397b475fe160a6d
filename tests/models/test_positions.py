"""Sequences longer than a model can read are refused, and those longer than it was made for are told of."""

import pytest
import torch
from conftest import build
from test_identity import with_first

from bigramlib import LanguageModel, SparsifyConfig, find_subnetwork


@pytest.mark.parametrize("first", [(), ("<|endoftext|>",), ("Ġcat", "Ġdog")])
def test_sequences_longer_than_the_table_of_positions_are_refused_with_the_longest_length(tokenizer, corpus, table, first):
    plain = build("gpt2", tokenizer)
    model = LanguageModel("short", plain.hf, with_first(tokenizer, *first)) if first else plain
    longest = 128 - len(first)
    assert model.hidden(torch.zeros(1, longest, dtype=torch.long)).shape[1] == longest
    message = f"has 128 positions, too few for sequences of {longest + 1} tokens.*use a sequence_length of at most {longest}"
    with pytest.raises(ValueError, match=message):
        model.hidden(torch.zeros(1, longest + 1, dtype=torch.long))
    with pytest.raises(ValueError, match="use a sequence_length of at most"):
        find_subnetwork(model, table, corpus, SparsifyConfig(steps=1, sequence_length=129))
    with pytest.raises(ValueError, match="use a sequence_length of at most"):
        model.sample("the cat", tokens=200)
    assert len(next(model.sample_documents(100))) <= longest


def test_rotary_models_may_read_longer_sequences_which_is_told_once(tokenizer, caplog):
    model = build("gpt_neox", tokenizer)
    for _ in range(2):
        model.hidden(torch.zeros(1, 65, dtype=torch.long))
    assert caplog.text.count("longer than the 64 positions") == 1


def test_of_unusual_models_those_with_a_table_refuse_longer_sequences_and_all_others_read_them(unusual_model):
    ids = torch.zeros(1, 65, dtype=torch.long)
    assert unusual_model.hidden(ids[:, :64]).isfinite().all()
    if unusual_model.name.removeprefix("tiny ") in ("opt", "opt_350m", "gptj", "openai-gpt", "biogpt"):
        with pytest.raises(ValueError, match="use a sequence_length of at most 64"):
            unusual_model.hidden(ids)
    else:
        assert unusual_model.hidden(ids).isfinite().all()
