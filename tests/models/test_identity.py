"""A model is its weights, its configuration, its vocabulary and what its tokenizer puts first; any other is another model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, build
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bigramlib import BigramTable, LanguageModel, ModelTarget, SparsifyConfig, Subnetwork, find_subnetwork, load_model
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
    monkeypatch.setattr(training, "train", None)
    with pytest.raises(TypeError):
        find_subnetwork(begun, table, corpus, QUICK)
    with pytest.raises(ValueError, match="first token is another"):
        found.check_fits(begun)


def test_own_samples_are_of_the_model_with_its_first_token(tokenizer, monkeypatch):
    monkeypatch.setattr("bigramlib.models.language_model.SELF_TOKENS", 2000)
    plain = build("llama", tokenizer)
    begun = LanguageModel(plain.name, plain.hf, with_first(tokenizer, "Ġcat"))
    assert plain.load_corpus("self")[0].hash != begun.load_corpus("self")[0].hash


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


@pytest.mark.parametrize("first", [(), ("Ġcat",), ("Ġcat", "Ġdog"), ("<|endoftext|>",)])
def test_whatever_the_tokenizer_puts_before_a_text_is_the_prefix(tokenizer, first):
    given = with_first(tokenizer, *first) if first else tokenizer
    model = LanguageModel("tiny", build("llama", tokenizer).hf, given)
    assert (
        model.prefix == given("the cat")["input_ids"][: len(first)] == [given.convert_tokens_to_ids(token) for token in first]
    )
    ids = torch.arange(10).view(2, 5)
    assert model.hidden(ids).shape[:2] == (2, 5)


def word_tokenizer(vocabulary: dict[str, int], **names) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=names.get("unk_token")))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


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
    assert {5, 17, 23, tokenizer.eos_token_id} == set(model._ends)
    documents = list(model.sample_documents(3000))
    assert not {5, 17, 23} & {token for document in documents for token in document}


def test_a_model_that_ends_every_text_at_once_is_told_of(tokenizer, monkeypatch):
    model = build("llama", tokenizer)
    monkeypatch.setattr(LanguageModel, "_drawn", lambda self, ids, tokens, generator: torch.full((len(ids), 1), self._ends[0]))
    with pytest.raises(ValueError, match=r"ends its own texts at once \(0 tokens in 4096 documents\)"):
        model.load_corpus("self")


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


def test_a_model_made_in_inference_mode_is_refused(tokenizer):
    with torch.inference_mode(), pytest.raises(ValueError, match=r"made within torch.inference_mode"):
        build("llama", tokenizer)


def test_own_samples_are_of_the_ends_of_text_that_the_model_knows(tokenizer, monkeypatch):
    monkeypatch.setattr("bigramlib.models.language_model.SELF_TOKENS", 2000)
    first, second = (build("llama", tokenizer) for _ in range(2))
    second.hf.generation_config.eos_token_id = [17]
    assert first.hash == second.hash
    assert 17 in first.load_corpus("self")[0].ids and 17 not in second.load_corpus("self")[0].ids
