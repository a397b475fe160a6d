"""A model predicts with the vocabulary of its tokenizer, and results record where it came from."""

import pytest
from conftest import PADDED, VOCABULARY, build, token_ids

from bigramlib import LanguageModel, load_model, randomly_initialized

ORIGIN = ("model", "model_source", "model_revision", "model_origin")


def origin(model: LanguageModel) -> tuple[str, ...]:
    facts = model.facts()
    return tuple(facts[name] for name in ORIGIN)


def test_padding_rows_of_the_unembedding_are_cut_off(any_model):
    assert any_model.hf.get_output_embeddings().weight.shape[0] == PADDED
    assert any_model.unembed(any_model.hidden(token_ids())).shape[-1] == VOCABULARY


@pytest.mark.parametrize("revision", ["", "step32"])
def test_an_embedded_model_and_its_control_record_their_source_and_revision(revision):
    name = f"mini@{revision}" if revision else "mini"
    model = load_model(name)
    assert origin(model) == (name, "mini", revision, "pretrained")
    control = randomly_initialized(model, seed=3)
    assert origin(control) == (f"{name} (random, seed 3)", "mini", revision, "random")


def test_a_folder_is_its_own_source_even_with_an_at_in_its_name(tokenizer, tmp_path):
    made = build("llama", tokenizer)
    folder = tmp_path / "model@home"
    made.hf.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    assert origin(made) == ("tiny llama", "tiny llama", "", "pretrained")
    assert origin(load_model(folder)) == (str(folder), str(folder), "", "pretrained")
