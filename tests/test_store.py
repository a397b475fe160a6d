"""Stored things are named by their content and written whole; annotations are enforced while testing."""

import importlib
import pkgutil

import numpy as np
import pytest
import torch

import bigramlib
from bigramlib.store import content_hash, store_folder, tensors_hash, written_whole

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
