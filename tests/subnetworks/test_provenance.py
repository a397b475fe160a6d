"""What was found in a model belongs to it; from which model and text is read from new facts and from old names."""

import zipfile
from pathlib import Path

import pytest
import torch
from conftest import build

from bigramlib import Subnetwork
from bigramlib.subnetworks.provenance import origins

EARLIER = Path(__file__).parents[1] / "subnetworks.zip"


@pytest.fixture
def bound(model, half) -> Subnetwork:
    """As if found in the model by training."""
    return Subnetwork(half.masks, half.architecture, {"model": model.name, "weights_hash": model.weights_hash})


def derived(bound):
    full = bound | ~bound
    return {
        "itself": bound, "complement": ~bound, "random": bound.random_like(0), "union": full, "difference": full - bound,
        "complement of random": ~bound.random_like(1),
    }  # fmt: skip


def test_what_was_found_in_a_model_is_refused_on_other_weights_unless_transplanted_on_purpose(model, bound, tokenizer):
    other = build("gpt_neox", tokenizer, seed=1)
    for found in derived(bound).values():
        with found.applied(model):
            pass
        message = rf"found in 'tiny gpt_neox' with the weights {model.weights_hash[:12]}, but 'tiny gpt_neox' has the weights"
        with pytest.raises(ValueError, match=message), found.applied(other):
            pass
        moved = found.transplanted(other)
        with moved.applied(other):
            assert all(torch.equal(other.maskable[name] != 0, mask) for name, mask in moved.masks.items())
        assert moved.hash == found.hash and moved.provenance["from"] == found.provenance
        with pytest.raises(ValueError, match=r"take subnetwork\.transplanted"):
            moved.check_fits(model)
    with pytest.raises(ValueError, match="a model with model_type gpt_neox, but 'tiny llama' has llama"):
        bound.transplanted(build("llama", tokenizer))


def test_what_is_defined_by_place_alone_is_of_every_model_of_its_shape(model, half, tokenizer):
    other = build("gpt_neox", tokenizer, seed=1)
    for found in (half, Subnetwork.full(model), Subnetwork.heads(model, [(0, 1)]), ~Subnetwork.mlp(model, 1)):
        with found.applied(other):
            pass


def test_a_subnetwork_of_weights_beneath_others_is_applied_within_them(model, bound, tokenizer):
    half = bound.random_like(0)
    with half.applied(model):
        of_half = Subnetwork(bound.masks, bound.architecture, {"model": "half", "weights_hash": model.weights_hash})
        with bound.applied(model), of_half.applied(model):
            pass
    with pytest.raises(ValueError, match="found in 'half' with the weights"), of_half.applied(model):
        pass
    assert model.identity.beneath == []


@pytest.mark.parametrize(
    ("name", "source", "revision", "origin"),
    [
        ("mini", "mini", "", "pretrained"),
        ("mini@step256", "mini", "step256", "pretrained"),
        ("mini (random, seed 0)", "mini", "", "random"),
        ("mini (random, trained embeddings, seed 0)", "mini", "", "random"),
        ("mini@step256 (random, seed -3)", "mini", "step256", "random"),
        ("mini (random, seed 0) (random, trained embeddings, seed 1)", "mini", "", "random"),
        ("EleutherAI/pythia-160m@step3000", "EleutherAI/pythia-160m", "step3000", "pretrained"),
        ("EleutherAI/pythia-160m@refs/pr/1", "EleutherAI/pythia-160m", "refs/pr/1", "pretrained"),
        ("smollm2-135m-instruct", "smollm2-135m-instruct", "", "pretrained"),
        ("/data/runs@home/llama (random picks)", "/data/runs@home/llama (random picks)", "", "pretrained"),
        ("/data/runs@home/llama (random, seed 1)", "/data/runs@home/llama", "", "random"),
        ("./runs@home", "./runs@home", "", "pretrained"),
        ("~/runs@home", "~/runs@home", "", "pretrained"),
        ("many/parts/of@a/path", "many/parts/of@a/path", "", "pretrained"),
    ],
)
def test_the_name_of_a_model_in_an_older_file_is_taken_apart(name, source, revision, origin):
    found = origins({"model": name, "corpus": "sotu (train)"})
    expected = {"model_source": source, "model_revision": revision, "model_origin": origin, "corpus_source": "sotu"}
    assert found == expected


@pytest.mark.parametrize(
    ("corpus", "source"),
    [
        ("sotu (train)", "sotu"),
        ("sotu (evaluation)", "sotu"),
        ("a (train) (train)", "a (train)"),
        ("list of 3 documents (train)", "list of 3 documents"),
        ("hf:owner/name:split (train)", "hf:owner/name:split"),
        ("random", "random"),
    ],
)
def test_the_name_of_a_text_in_an_older_file_is_that_of_its_source_and_split(corpus, source):
    assert origins({"model": "mini", "corpus": corpus})["corpus_source"] == source


def test_stated_origins_are_taken_as_they_are():
    stated = {"model_source": "a@b", "model_revision": "c", "model_origin": "random", "corpus_source": "text (train)"}
    assert origins({"model": "mini@step256", "corpus": "sotu (train)"} | stated) == stated


def test_what_no_model_and_text_are_named_for_has_no_origins(model):
    assert set(origins(Subnetwork.empty(model).provenance).values()) == {""}


def test_origins_of_subnetworks_of_this_and_earlier_versions(tmp_path):
    zipfile.ZipFile(EARLIER).extractall(tmp_path)
    files = sorted((tmp_path / "subnetworks").iterdir())
    found = {tuple(origins(Subnetwork.load(file).provenance).values()) for file in files}
    steps = ("step0", "step32", "step64", "step128", "step256", "step512", "step1024")
    expected = {("mini", step, "pretrained", "sotu") for step in ("", *steps)} | {
        ("mini", "", origin, "sotu") for origin in ("random", "tuned")
    }
    assert found == expected
