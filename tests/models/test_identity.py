"""A model is its weights, its configuration, its vocabulary and what its tokenizer puts first; any other is another model."""

import json
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, build
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bigramlib import LanguageModel, ModelTarget, SparsifyConfig, Subnetwork, find_subnetwork, load_model
from bigramlib.models.identity import configuration
from bigramlib.training import search as training

QUICK = SparsifyConfig(sparsity_penalty=1.0, steps=3, batch_size=2, sequence_length=16)


def saved(model: LanguageModel, folder: Path, **changes) -> Path:
    """A folder of the model with changes to its configuration."""
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    facts = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def with_first(tokenizer, *tokens: str) -> PreTrainedTokenizerFast:
    """The same vocabulary, but these tokens are put before every text."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    ids = [(token, core.token_to_id(token)) for token in tokens]
    core.post_processor = processors.TemplateProcessing(single=" ".join([*tokens, "$A"]), special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=tokenizer.eos_token)


CHANGES = {
    "activation": {"hidden_act": "relu"},
    "norm epsilon": {"rms_norm_eps": 1.0},
    "rotary base": {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_corrected_configuration_makes_another_model(tokenizer, tmp_path, corpus, table, monkeypatch, change):
    first = load_model(saved(build("llama", tokenizer), tmp_path / "first"))
    second = load_model(saved(first, tmp_path / "second", **CHANGES[change]))
    assert first.weights_hash == second.weights_hash and first.hash != second.hash
    assert ModelTarget(first).hash != ModelTarget(second).hash
    found = find_subnetwork(first, table, corpus, QUICK)
    with pytest.raises(ValueError, match=r"second' has, but whose configuration, vocabulary or first token is another"):
        found.check_fits(second)
    with found.transplanted(second).applied(second):
        pass
    trainings = []
    original = training.train
    monkeypatch.setattr(training, "train", lambda *given: trainings.append(given) or original(*given))
    find_subnetwork(second, table, corpus, QUICK)
    assert len(trainings) == 1
    assert find_subnetwork(load_model(tmp_path / "first"), table, corpus, QUICK).hash == found.hash
    assert len(trainings) == 1


def test_what_no_forward_pass_depends_on_leaves_the_model_as_it_is(tokenizer, tmp_path):
    first = load_model(saved(build("llama", tokenizer), tmp_path / "first"))
    unlike = {
        "initializer_range": 0.5,
        "use_cache": False,
        "architectures": None,
        "transformers_version": "4",
        "bos_token_id": 7,
    }
    assert load_model(saved(first, tmp_path / "second", **unlike)).hash == first.hash


@pytest.mark.parametrize("name", CONFIGS)
def test_the_identity_states_what_is_not_a_default_and_survives_saving(name, tokenizer, tmp_path):
    model = build(name, tokenizer)
    facts = configuration(model.hf.config)
    assert json.loads(json.dumps(facts)) == facts and facts["model_type"] == model.hf.config.model_type
    assert "use_cache" not in facts
    assert load_model(saved(model, tmp_path / "saved")).hash == model.hash


def test_what_the_tokenizer_puts_first_is_part_of_the_model(tokenizer, corpus, table, monkeypatch):
    plain = build("llama", tokenizer)
    begun = LanguageModel(plain.name, plain.hf, with_first(tokenizer, tokenizer.eos_token))
    assert begun.hash != plain.hash and begun.weights_hash == plain.weights_hash
    found = find_subnetwork(plain, table, corpus, QUICK)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(pytest.fail.Exception, match="trained"):
        find_subnetwork(begun, table, corpus, QUICK)
    with pytest.raises(ValueError, match="first token is another"):
        found.check_fits(begun)


def test_another_vocabulary_of_equal_size_makes_another_model_and_is_refused_as_target(model, tokenizer):
    turned = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = turned["model"]["vocab"]
    first, second = list(vocabulary)[5:7]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(turned)), eos_token=tokenizer.eos_token)
    another = LanguageModel(model.name, model.hf, other)
    assert another.vocabulary_size == model.vocabulary_size and another.hash != model.hash
    with pytest.raises(ValueError, match="has another tokenizer than"):
        ModelTarget(another).bind(model)


def in_place(model):
    with torch.no_grad():
        next(model.hf.parameters()).add_(0.1)


def through_data(model):
    next(iter(model.maskable.values())).data.mul_(2.0)


def loaded(model):
    model.hf.load_state_dict({name: part * 1.5 for name, part in model.hf.state_dict().items()})


def activation(model):
    model.hf.model.layers[0].mlp.act_fn = torch.nn.ReLU()


def configured(model):
    model.hf.config.rms_norm_eps = 0.5


@pytest.mark.parametrize("edit", [in_place, through_data, loaded, activation, configured], ids=lambda edit: edit.__name__)
def test_a_model_edited_in_place_is_another_model(tokenizer, table, corpus, edit):
    model = build("llama", tokenizer)
    before = model.hash
    found = find_subnetwork(model, table, corpus, QUICK)
    edit(model)
    with pytest.raises(ValueError, match="The subnetwork was found in"):
        found.check_fits(model)
    again = find_subnetwork(model, table, corpus, QUICK)
    assert model.hash != before
    assert again.provenance["model_hash"] == model.hash != found.provenance["model_hash"]


def test_applied_subnetworks_are_no_edits(model, table, corpus):
    before = model.hash
    found = find_subnetwork(model, table, corpus, QUICK)
    with found.applied(model):
        assert model.hash != before
        with Subnetwork.empty(model).applied(model):
            assert model.hash != before
    assert model.hash == before and model.weights_hash == found.provenance["weights_hash"]


def test_mini_keeps_the_identity_that_its_published_masks_state():
    model = load_model("mini")
    assert model.hash == model.weights_hash and "model_hash" not in model.facts()
    assert LanguageModel("mini", model.hf, with_first(model.tokenizer, model.tokenizer.eos_token)).hash != model.weights_hash
    model.hf.config.layer_norm_eps = 0.1
    assert model.hash != model.weights_hash


def word_tokenizer(vocabulary: dict[str, int], **names) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=names.get("unk_token")))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)
