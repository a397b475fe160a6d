"""The survey finds every model's bigram subnetworks in the store, and only those."""

import numpy as np
import pytest
from conftest import build

from bigramlib import BigramTable, ModelTarget, SparsifyConfig, find_subnetwork, load_model, randomly_initialized
from bigramlib.survey import survey, surveyed_names

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
