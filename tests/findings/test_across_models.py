"""The survey finds every model's bigram subnetworks in the store, and only those."""

import numpy as np
import pytest
from conftest import build
from safetensors.numpy import save_file

from bigramlib import BigramTable, ModelTarget, SparsifyConfig, Subnetwork, find_subnetwork, load_model, randomly_initialized
from bigramlib.findings.across_models import survey, surveyed_names

WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "a", "dog", "met", "a", "rat"]


@pytest.fixture
def on_disk(tokenizer, tmp_path):
    """A model folder and a text of many small documents."""
    build("gpt_neox", tokenizer).hf.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(WORDS, 40)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return str(tmp_path / "tiny"), str(tmp_path / "text.txt")


def test_models_and_their_bigram_subnetworks_are_found(on_disk):
    name, source = on_disk
    model = load_model(name)
    train, _ = model.load_corpus(source, evaluation_share=0.08)
    table = BigramTable.from_corpus(train)
    short = {"steps": 3, "batch_size": 2, "sequence_length": 16}
    wanted = find_subnetwork(model, table, train, SparsifyConfig(sparsity_penalty=1.0, **short | {"steps": 5}))
    other = find_subnetwork(model, table, train, SparsifyConfig(sparsity_penalty=2.0, **short))
    find_subnetwork(model, table, train, SparsifyConfig(sparsity_penalty=1.0, **short))
    find_subnetwork(model, ModelTarget(model), train, SparsifyConfig(sparsity_penalty=1.0, **short))
    find_subnetwork(randomly_initialized(model), table, train, SparsifyConfig(sparsity_penalty=1.0, **short))
    assert surveyed_names() == {name: source}
    found = survey(name, source)
    assert {penalty: subnetwork.hash for penalty, subnetwork in found.subnetworks.items()} == {
        1.0: wanted.hash,
        2.0: other.hash,
    }
    points = found.points(512)
    row = found.summary(points, 512)
    assert set(points.model) == {name} and row["kept"] in (wanted.kept, other.kept) and row["turn at layer"] in (1, 2)


def test_a_model_without_subnetworks_is_refused(on_disk):
    name, source = on_disk
    with pytest.raises(ValueError, match=r"no bigram subnetwork of any model; run notebook 02"):
        surveyed_names()
    with pytest.raises(ValueError, match=r"The store holds no bigram subnetwork of .*; run notebook 02"):
        survey(name, source)


def test_what_is_no_bigram_subnetwork_that_can_be_read_is_left_out(on_disk, tmp_path, caplog):
    name, source = on_disk
    model = load_model(name)
    config = SparsifyConfig(sparsity_penalty=1.0, steps=3, batch_size=2, sequence_length=16)
    for text in (source, ["the cat sat on mat one", "a dog met a rat and a cat"] + ["and so on"] * 20):
        train, _ = model.load_corpus(text)
        find_subnetwork(model, BigramTable.from_corpus(train), train, config)
    folder = tmp_path / "store" / "subnetworks"
    Subnetwork.full(model).save(folder / "made by hand.safetensors")
    save_file({"a": np.zeros(2)}, folder / "foreign.safetensors")
    (folder / "empty.safetensors").touch()
    (folder / "folder.safetensors").mkdir()
    (folder / "link.safetensors").symlink_to("nowhere")
    assert surveyed_names() == {name: source} and set(survey(name, source).subnetworks) == {1.0}
    for left in ("foreign", "empty", "folder", "link", "There is no corpus 'list of 22 documents'"):
        assert left in caplog.text
