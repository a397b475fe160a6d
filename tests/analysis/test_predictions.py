"""What is predicted after a prompt is what the model, its parts and the table say, computed plainly."""

import copy

import numpy as np
import pytest
import torch
from conftest import build
from test_tokenizer import with_beginning

from bigramlib import BigramTable, LanguageModel
from bigramlib.analysis.predictions import lens, predictions

PROMPT = "the cat sat on"


def plain(model, text):
    """The probabilities of all next tokens, by the Hugging Face model itself."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    return model.hf(ids).logits[0, -1, : model.vocabulary_size].double().softmax(-1).numpy()


def assert_likeliest(model, found, distribution):
    """These are the likeliest tokens of the distribution, in order, with their probabilities."""
    order = np.argsort(-distribution, kind="stable")[: len(found)]
    np.testing.assert_allclose(found.probability, distribution[order], atol=1e-6)
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in found.token]
    for text, given, probability in zip(found.token, ids, found.probability, strict=True):
        if "Ġ" not in text and len(given) == 1:
            assert distribution[given[0]] == pytest.approx(probability, abs=1e-6)


def test_table_subnetwork_model_and_rest_are_asked_side_by_side(study, sparse):
    model = study.model
    found = predictions(model, study.table, PROMPT, sparse, top=5)
    sources = ["bigram table", "subnetwork", "full model", "without the subnetwork"]
    assert list(found.columns) == [(source, column) for source in sources for column in ("token", "probability")]
    assert list(found.index) == [1, 2, 3, 4, 5] and found.index.name == "rank"
    last = model.tokenizer(PROMPT)["input_ids"][-1:]
    assert_likeliest(model, found["bigram table"], study.table.probabilities(np.array(last))[0])
    assert_likeliest(model, found["full model"], plain(model, PROMPT))
    for source, part in (("subnetwork", sparse), ("without the subnetwork", ~sparse)):
        with part.applied(model):
            assert_likeliest(model, found[source], plain(model, PROMPT))
    tops = {source: tuple(found[source].token) for source in sources}
    assert len(set(tops.values())) == 4


def test_without_a_subnetwork_the_table_and_the_model_are_asked(study):
    found = predictions(study.model, study.table, PROMPT)
    assert list(found.columns.levels[0]) == ["bigram table", "full model"] and len(found) == 8


def test_what_the_tokenizer_puts_before_a_text_is_read_too(tokenizer, documents):
    model = LanguageModel("tiny", build("llama", tokenizer).hf, with_beginning(tokenizer))
    table = BigramTable.from_corpus(model.load_corpus(documents)[0])
    assert_likeliest(model, predictions(model, table, PROMPT)["full model"], plain(model, PROMPT))
    found = lens(model, PROMPT)
    assert found.position.nunique() == len(model.tokenizer(PROMPT)["input_ids"]) - 1


def test_the_last_boundary_of_the_lens_is_the_models_own_prediction_and_others_are_read_through_its_end(study, sparse):
    model = study.model
    ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
    for subnetwork in (None, sparse):
        found = lens(model, PROMPT, subnetwork).set_index(["position", "layer"])
        assert len(found) == ids.shape[1] * 3
        with (subnetwork or ~(sparse - sparse)).applied(model):
            states = copy.deepcopy(model.hf)(ids, output_hidden_states=True).hidden_states
            logits = [model.hf.get_output_embeddings()(model.hf.gpt_neox.final_layer_norm(state)) for state in states[:-1]]
            logits.append(model.hf.get_output_embeddings()(states[-1]))
        for layer, each in enumerate(logits):
            likeliest = each[0, :, : model.vocabulary_size].double().softmax(-1).max(-1)
            np.testing.assert_allclose(found.probability.xs(layer, level="layer"), likeliest.values, atol=1e-5)
        assert "".join(found.token.xs(0, level="layer")) == PROMPT
    last = predictions(model, study.table, PROMPT, sparse)["subnetwork"].iloc[0]
    assert found.iloc[-1].prediction == last.token and found.iloc[-1].probability == pytest.approx(last.probability)


def test_asking_leaves_the_model_as_it_was(study, sparse):
    before = study.model.weights_hash
    predictions(study.model, study.table, PROMPT, sparse)
    lens(study.model, PROMPT, sparse)
    assert study.model.weights_hash == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in study.model.hf.modules())


@pytest.mark.parametrize("ask", [predictions, lambda model, table, prompt: lens(model, prompt)])
def test_prompts_that_cannot_be_read_are_refused(study, ask):
    with pytest.raises(ValueError, match=r"^The prompt '' has no tokens; give"):
        ask(study.model, study.table, "")
    with pytest.raises(ValueError, match="cannot read the prompt"):
        ask(study.model, study.table, "\ud800")


def test_more_tokens_than_the_vocabulary_has_are_not_shown_and_none_is_refused(study):
    assert len(predictions(study.model, study.table, PROMPT, top=10_000)) == study.model.vocabulary_size
    with pytest.raises(ValueError, match="top is 0"):
        predictions(study.model, study.table, PROMPT, top=0)
