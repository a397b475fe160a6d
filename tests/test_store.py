"""Stored things are named by their content and written whole; annotations are enforced while testing."""

import importlib
import logging
import pkgutil

import numpy as np
import pytest
import torch

import bigramlib
from bigramlib import SparsifyConfig, Subnetwork, find_subnetwork
from bigramlib.store import content_hash, store_folder, stored_folder, tensors_hash, written_whole

MODULES = [module.name for module in pkgutil.iter_modules(bigramlib.__path__) if module.name != "__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_shape_annotations_are_enforced_in_every_module(name):
    assert "jaxtyping" in type(importlib.import_module(f"bigramlib.{name}").__loader__).__module__


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((np.zeros(2, np.int32),), (np.zeros(1, np.int64),)),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        (("a", "b"), ("b", "a")),
        (("ab",), ("a", "b")),
        ((b"a",), ("a",)),
    ],
    ids=["dtype", "shape", "order", "boundary", "bytes"],
)
def test_different_content_has_different_hashes(one, other):
    assert content_hash(*one) != content_hash(*other)


def test_order_of_keys_and_strides_do_not_change_a_hash():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    wide = np.arange(12).reshape(3, 4)
    assert content_hash(wide.T) == content_hash(wide.T.copy())
    a, b = torch.zeros(2), torch.ones(3)
    assert tensors_hash({"a": a, "b": b}) == tensors_hash({"b": b, "a": a}) != tensors_hash({"a": b, "b": a})


def test_the_store_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "elsewhere"))
    assert store_folder("corpora") == tmp_path / "elsewhere" / "corpora"
    assert store_folder("corpora").is_dir()


def test_a_failed_write_leaves_nothing_and_a_good_one_replaces_a_folder(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), written_whole(target) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [file.name for file in target.iterdir()] == ["old"]
    with written_whole(target) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [file.name for file in target.iterdir()] == ["new"]
    assert list(tmp_path.glob(".folder*")) == []


QUICK = SparsifyConfig(sparsity_penalty=1.0, steps=2, batch_size=2, sequence_length=16)


def test_a_folder_is_made_once_and_made_again_only_if_it_is_not_as_it_was_written(tmp_path, caplog):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("content")

    folder = tmp_path / "thing"
    for _ in range(2):
        assert stored_folder(folder, make) == folder
    assert len(made) == 1
    for number, damage in enumerate((lambda file: file.write_text("other"), lambda file: file.unlink())):
        damage(folder / "inner" / "a")
        with caplog.at_level(logging.WARNING):
            stored_folder(folder, make)
        assert len(made) == number + 2 and (folder / "inner" / "a").read_text() == "content"
        aside = "thing.damaged" if number == 0 else "thing.damaged-2"
        assert (tmp_path / aside).is_dir()
        assert f"{folder} was set aside as {aside!r} and is made again: inner/a is missing or not as it was" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "of another run"])
def test_a_damaged_subnetwork_in_the_store_is_named_set_aside_and_trained_again(model, table, corpus, caplog, damage):
    expected = find_subnetwork(model, table, corpus, QUICK)
    (file,) = store_folder("subnetworks").iterdir()
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    if damage == "of another run":
        Subnetwork(expected.masks, expected.architecture, expected.provenance | {"corpus_hash": "another"}).save(file)
    else:
        file.write_bytes({"truncated": content[:-9], "flipped": bytes(flipped), "foreign": b"foreign"}[damage])
    damaged = file.read_bytes()
    with caplog.at_level(logging.WARNING):
        again = find_subnetwork(model, table, corpus, QUICK)
    assert again.hash == expected.hash and Subnetwork.load(file).hash == expected.hash
    assert file.with_name(f"{file.name}.damaged").read_bytes() == damaged
    reason = "its corpus_hash is 'another', not" if damage == "of another run" else "is not a whole subnetwork file"
    assert f"{file} was set aside as '{file.name}.damaged'" in caplog.text and reason in caplog.text
