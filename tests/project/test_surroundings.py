"""What a caller does around the library, or to a model in its hands, changes no result silently."""

import copy
import dataclasses
import json
import pickle
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build
from test_identity import QUICK, saved, with_first, word_tokenizer
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bigramlib import (
    BigramTable,
    LanguageModel,
    ModelTarget,
    SparsifyConfig,
    Subnetwork,
    TokenCorpus,
    evaluate,
    find_subnetwork,
    load_model,
    randomly_initialized,
)
from bigramlib.analysis.behaviours import repeated_sequences, token_losses
from bigramlib.analysis.lenses import lens_report
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.models.mini import PretrainConfig, build_model, pretrain
from bigramlib.subnetworks.published import load_published, save_published
from bigramlib.subnetworks.stored import stored_subnetworks


@contextmanager
def by_default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AROUND = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "bfloat16": lambda: by_default(torch.bfloat16),
    "float64": lambda: by_default(torch.float64),
    "another device": lambda: torch.device("meta"),
}


def measured(model, table, corpus):
    """Numbers of every kind."""
    found = find_subnetwork(model, table, corpus, dataclasses.replace(QUICK, flattening=None))
    target = find_subnetwork(model, ModelTarget(model), corpus, QUICK)
    moments = ResidualMoments.collect(model, corpus, found, sequence_length=16, max_tokens=512)
    held_out = TokenCorpus(corpus.ids[::-1].copy(), np.array([0, 50, 90, 400]), corpus.vocabulary_size)
    lens = lens_report(model, moments, held_out, sequence_length=16, max_tokens=256)
    return (
        found.hash,
        target.hash,
        found.random_like(1).hash,
        evaluate(model, corpus, table, found, sequence_length=16).surprisals.tolist(),
        token_losses(model, Subnetwork.layer(model, 0), repeated_sequences(corpus, 2, 8)).tolist(),
        moments.mean.tolist(),
        lens.fillna(-1).to_numpy().tolist(),
        list(model.sample_documents(300, batch_size=4)),
        randomly_initialized(model, keep_embeddings=True).weights_hash,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("around", AROUND)
def test_what_is_switched_around_the_library_changes_no_result(around, tokenizer, table, corpus, tmp_path, monkeypatch):
    model = build("gpt2", tokenizer)
    plain = measured(model, table, corpus)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another store"))
    with AROUND[around]():
        again = measured(model, table, corpus)
    assert again == plain


@pytest.mark.parametrize("around", ["inference", "no gradients"])
def test_pretraining_where_gradients_are_switched_off(around, corpus, tmp_path):
    config = PretrainConfig(vocabulary_size=280, width=16, layers=1, heads=2, sequence_length=16, batch_size=2, steps=3,
                            warmup_steps=1, checkpoint_steps=(3,))  # fmt: skip
    plain = pretrain(build_model(config), corpus, config, tmp_path / "plain")
    with AROUND[around]():
        assert pretrain(build_model(config), corpus, config, tmp_path / "within") == plain


def new_parameter(model):
    matrix = model.hf.get_submodule("model.layers.0.mlp.up_proj")
    matrix.weight = torch.nn.Parameter(torch.ones_like(matrix.weight))


def assigned(model):
    model.hf.load_state_dict({name: part * 1.5 for name, part in model.hf.state_dict().items()}, assign=True)


def through_numpy(model):
    next(iter(model.maskable.values())).numpy()[:] *= 2


@pytest.mark.parametrize("edit", [new_parameter, assigned, through_numpy], ids=lambda edit: edit.__name__)
def test_masks_reach_parameters_that_were_put_in_their_place_later(edit, tokenizer, table, corpus):
    model = build("llama", tokenizer)
    target, own = ModelTarget(model).hash, find_subnetwork(model, table, corpus, QUICK)
    _ = model.maskable
    edit(model)
    parameters = dict(model.hf.named_parameters())
    with Subnetwork.empty(model).applied(model):
        assert not any(parameters[name].any() for name in model.architecture.maskable)
    assert all(parameters[name].any() for name in model.architecture.maskable)
    assert ModelTarget(model).hash != target
    assert find_subnetwork(model, table, corpus, QUICK).provenance["weights_hash"] != own.provenance["weights_hash"]


def rectified(hf):
    hf.model.layers[1].mlp.act_fn = torch.nn.ReLU()


def turned(hf):
    hf.model.rotary_emb.inv_freq.mul_(2)


def sharper(hf):
    hf.model.layers[0].self_attn.scaling *= 3


def rounded(hf):
    hf.bfloat16()


@pytest.mark.parametrize("edit", [rectified, turned, sharper, rounded], ids=lambda edit: edit.__name__)
def test_a_model_changed_before_it_is_wrapped_is_another_model(edit, tokenizer):
    model = build("llama", tokenizer)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.copy_(parameter.bfloat16())
    hf = copy.deepcopy(model.hf)
    assert LanguageModel("copy", copy.deepcopy(hf), tokenizer).hash == copy.deepcopy(model).hash == model.hash
    edit(hf)
    other = LanguageModel("edited", hf, tokenizer)
    assert other.weights_hash == model.weights_hash and other.hash != model.hash


def hooked(hf):
    hf.model.layers[0].register_forward_hook(lambda module, given, output: output * 0)


def replaced(hf):
    hf.model.layers[0].mlp.forward = lambda hidden: hidden


@pytest.mark.parametrize("hook", [hooked, replaced], ids=lambda hook: hook.__name__)
def test_nothing_is_stored_of_a_model_with_hooks(hook, tokenizer, table, corpus):
    model = build("llama", tokenizer)
    model.hf(torch.arange(5)[None], output_hidden_states=True)
    find_subnetwork(model, table, corpus, QUICK)
    hook(model.hf)
    message = r"'model.layers.0(.mlp)?' of 'tiny llama' has a hook or another forward pass"
    with pytest.raises(ValueError, match=message):
        find_subnetwork(model, table, corpus, QUICK)
    with pytest.raises(ValueError, match=message):
        _ = ModelTarget(model).hash
    with pytest.raises(ValueError, match=message):
        model.load_corpus("self")
    evaluate(model, corpus, table, sequence_length=16)


def test_a_model_put_back_into_training_mode_predicts_as_before(tokenizer, table, corpus):
    hf = build("gpt_neox", tokenizer).hf
    for module in hf.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model = LanguageModel("dropping", hf, tokenizer)
    before = evaluate(model, corpus, table, sequence_length=16).cross_entropy
    model.hf.train().requires_grad_(True)
    assert evaluate(model, corpus, table, sequence_length=16).cross_entropy == before
    drawn = list(model.sample_documents(200, batch_size=4))
    model.hf.train()
    assert list(model.sample_documents(200, batch_size=4)) == drawn
    model.hf.train().requires_grad_(True)
    found = find_subnetwork(model, table, corpus, QUICK)
    assert found.hash == find_subnetwork(LanguageModel("dropping", hf, tokenizer), table, corpus, QUICK).hash
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in hf.parameters())


def test_what_is_no_plain_model_is_refused_in_a_sentence(tokenizer):
    hf = build("llama", tokenizer).hf
    for odd, given in ((torch.nn.DataParallel(hf), tokenizer), (hf, tokenizer.backend_tokenizer), (hf, None)):
        with pytest.raises(ValueError, match="give a model and a tokenizer of transformers"):
            made = object.__new__(LanguageModel)  # around the types that are checked in tests alone
            made.__dict__.update(name="odd", hf=odd, tokenizer=given)
            made.__post_init__()
    with pytest.raises(ValueError, match="on the device 'meta'"):
        LanguageModel("odd", copy.deepcopy(hf).to("meta"), tokenizer)
    hf.model.layers[0].mlp.up_proj.lora_A = torch.nn.Linear(16, 2)
    with pytest.raises(ValueError, match=r"up_proj.lora_A.bias', which is none of its architecture; merge adapters"):
        LanguageModel("odd", hf, tokenizer)
    model = build("llama", tokenizer)
    with pytest.raises(ValueError, match="'meta' is not available here"):
        model.to("meta")
    model.hf.model.layers[0].mlp.up_proj = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"has no parameter 'model.layers.0.mlp.up_proj.weight'"):
        Subnetwork.full(model)


@pytest.mark.parametrize("special", [False, True])
def test_the_prefix_is_found_where_it_is_an_ordinary_word_and_where_all_tokens_are_special(tokenizer, special):
    vocabulary = {"<s>": 0, "?": 1, "a": 2, "b": 3, "c": 4}
    names = {"extra_special_tokens": list(vocabulary)} if special else {}
    core = Tokenizer.from_str(word_tokenizer(vocabulary, unk_token="?").backend_tokenizer.to_str())
    hf = build("llama", tokenizer).hf
    for single, prefix in (("<s> $A", [0]), ("a $A", [2]), ("<s> a $A", [0, 2]), ("$A b", []), ("? $A a", [1])):
        words = [(word, vocabulary[word]) for word in vocabulary if word in single.split()]
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=words)
        given = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(core.to_str()), unk_token="?", **names)
        assert LanguageModel("tiny", hf, given).prefix == prefix


def test_a_tokenizer_without_a_token_for_what_it_does_not_know(tokenizer):
    model = LanguageModel("tiny", build("llama", tokenizer).hf, word_tokenizer({"sun": 0, "moon": 1}))
    assert model.prefix == [] and model.vocabulary_size == 2
    assert len(model.load_corpus(["sun moon", "moon"])[0]) > 0
    with pytest.raises(ValueError, match="cannot read the text"):
        model.load_corpus(["sun moon", "a star"])
    with pytest.raises(ValueError, match="cannot read the prompt 'a star'"):
        model.sample("a star")
    with pytest.raises(ValueError, match="has no tokens; use the model's own"):
        LanguageModel("tiny", model.hf, word_tokenizer({}))


def test_samples_take_numbers_of_every_kind_and_no_lone_surrogates(model):
    assert model.sample("cat", tokens=np.int64(3), seed=np.int64(1)) == model.sample("cat", tokens=3, seed=1)
    with pytest.raises(ValueError, match=r"tokens is 2.5; it must be a whole number"):
        model.sample("cat", tokens=2.5)
    with pytest.raises(ValueError, match="cannot read the prompt"):
        model.sample("\ud800")


@pytest.mark.parametrize("first", [(), ("Ġcat",)])
def test_models_of_very_few_positions(tokenizer, first):
    config = copy.deepcopy(build("gpt2", tokenizer).hf.config)
    config.n_positions = 1 + len(first)
    hf = type(build("gpt2", tokenizer).hf)(config)
    model = LanguageModel("short", hf, with_first(tokenizer, *first))
    assert model.hidden(torch.zeros(1, 1, dtype=torch.long)).shape[1] == 1
    if first:
        assert all(len(document) <= 1 for document in model.sample_documents(5))
    else:
        with pytest.raises(ValueError, match="has 1 positions, too few to draw documents"):
            next(model.sample_documents(5))


@pytest.mark.parametrize(
    "setting",
    [
        {"attention": "false"}, {"attention": None}, {"with_replacement": 0, "flattening": None}, {"final_beta": np.inf},
        {"undecided_share": np.nan}, {"undecided_share": None}, {"sparsity_penalty": None}, {"sparsity_penalty": 10**400},
        {"learning_rate": 10**400}, {"steps": None}, {"seed": None},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused_at_once(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        SparsifyConfig(**setting)


def test_switches_of_numpy_are_switches(model, table, corpus):
    given = dataclasses.replace(QUICK, attention=np.False_)
    assert given.attention is False
    assert find_subnetwork(model, table, corpus, given).provenance["config"] == json.loads(json.dumps(given.facts()))


def test_provenance_of_numpy_numbers_is_saved_and_what_is_no_json_is_named(model, tmp_path):
    masks = Subnetwork.full(model).masks
    facts = {"score": np.float32(0.5), "counts": np.arange(3), "loss": torch.tensor(2.0), "file": Path("a/b")}
    Subnetwork(masks, model.architecture, facts).save(tmp_path / "mask.safetensors")
    expected = {"score": 0.5, "counts": [0, 1, 2], "loss": 2.0, "file": str(Path("a/b"))}
    assert Subnetwork.load(tmp_path / "mask.safetensors").provenance == expected
    with pytest.raises(ValueError, match=r"provenance of the subnetwork is not JSON \(a set\)"):
        Subnetwork(masks, model.architecture, {"kinds": {1}}).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"seed is 2.7"):
        Subnetwork.full(model).random_like(2.7)


def test_masks_of_other_shapes_are_not_combined(model):
    wide = AutoModelForCausalLM.from_config(type(model.hf.config)(**model.hf.config.to_dict() | {"intermediate_size": 32}))
    full = Subnetwork.full(model)
    other = Subnetwork.full(LanguageModel("wide", wide, model.tokenizer))
    with pytest.raises(ValueError, match="of models with different shapes"):
        full & other
    with pytest.raises(ValueError, match=r"is torch.bool of shape \(48, 16\) on meta; it must be a bool tensor of shape"):
        Subnetwork({name: mask.to("meta") for name, mask in full.masks.items()}, model.architecture)


def test_published_numbers_that_are_no_masks_are_refused(model, tmp_path):
    save_published(Subnetwork.full(model), model.name, tmp_path / "mask.pkl")
    content = pickle.loads((tmp_path / "mask.pkl").read_bytes())
    name = next(iter(model.maskable))
    for odd in (2, 255):
        content[name] = np.full(content[name].shape, odd, dtype=np.uint8)
        (tmp_path / "mask.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="neither 0 nor 1"):
            load_published(tmp_path / "mask.pkl", model)
    with pytest.raises(ValueError, match=r"names no file; write hf://owner"):
        load_published("hf://owner", model)


def test_text_of_another_vocabulary_has_no_moments_in_a_model(model, corpus):
    other = dataclasses.replace(corpus, tokenizer_hash="another")
    with pytest.raises(ValueError, match="token ids of another tokenizer"):
        ResidualMoments.collect(model, other, sequence_length=16)


def test_subnetworks_of_another_configuration_are_not_found_nor_taken_for_earlier_ones(tmp_path, tokenizer, caplog):
    mini = load_model("mini")
    source = tmp_path / "text.txt"
    source.write_text("\n".join(f"the cat sat on {number} mats with {number} dogs and a rat" for number in range(200)))
    changed = load_model(saved(mini, tmp_path / "changed", layer_norm_eps=0.1))
    assert changed.weights_hash == mini.weights_hash == mini.hash != changed.hash
    train, _ = mini.load_corpus(str(source))
    table = BigramTable.from_corpus(train)
    quick = dataclasses.replace(QUICK, batch_size=1, steps=1)
    ours = find_subnetwork(mini, table, train, quick)
    with pytest.raises(ValueError, match="configuration, vocabulary or first token is another"):
        ours.check_fits(changed)
    theirs = find_subnetwork(changed, table, train, dataclasses.replace(quick, sparsity_penalty=2.0))
    find_subnetwork(changed, table, train, quick)
    assert "earlier version" not in caplog.text
    assert set(stored_subnetworks(mini, table.hash)) == {1.0}
    assert theirs.provenance["model_hash"] == changed.hash
