"""Published pickles are read without executing what they name."""

import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import build

from bigramlib import LanguageModel, Subnetwork
from bigramlib.subnetworks.published import load_published, read_pickle, save_published


@pytest.fixture(params=["gpt2", "gpt_neox"])
def published(request, tokenizer, tmp_path):
    """A model, a subnetwork of it, and that subnetwork as the release pickles it."""
    model = build(request.param, tokenizer)
    subnetwork = Subnetwork.full(model).random_like(0) - Subnetwork.heads(model, [(0, 1)])
    return model, subnetwork, tmp_path / "masks.pickle"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(published, protocol):
    model, subnetwork, path = published
    content = {name: mask.numpy() for name, mask in subnetwork.masks.items()}
    path.write_bytes(pickle.dumps(content | {"orig_model_name": model.name}, protocol=protocol))
    loaded = load_published(path, model)
    assert loaded.hash == subnetwork.hash
    assert loaded.provenance["model"] == model.name


def test_what_is_written_is_a_plain_pickle_and_is_read_again(published):
    model, subnetwork, path = published
    save_published(subnetwork, f"someone/{model.name}", path)
    content = pickle.loads(path.read_bytes())
    assert content.pop("orig_model_name") == f"someone/{model.name}"
    assert {name: (array.dtype, array.shape) for name, array in content.items()} == {
        name: (np.dtype(bool), tuple(mask.shape)) for name, mask in subnetwork.masks.items()
    }
    assert load_published(path, model).hash == subnetwork.hash


def test_arrays_in_fortran_order_and_of_integers_are_read(published):
    model, subnetwork, path = published
    content = {name: np.asfortranarray(mask.numpy().astype(np.int64)) for name, mask in subnetwork.masks.items()}
    path.write_bytes(pickle.dumps(content))
    assert load_published(path, model).hash == subnetwork.hash


class Executes:
    """Unpickled as it is, this makes a file."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["alone", "as a value", "as a key", "inside an array"])
@pytest.mark.parametrize("function", ["system", "eval", "open", "getattr", "import_module"])
def test_nothing_that_a_pickle_names_is_executed(tmp_path, protocol, where, function):
    import importlib

    mark = tmp_path / "executed"
    hostile = {
        "system": Executes(os.system, f"touch {mark}"),
        "eval": Executes(eval, f"open({str(mark)!r}, 'w')"),
        "open": Executes(open, str(mark), "w"),
        "getattr": Executes(getattr, "text", "upper"),
        "import_module": Executes(importlib.import_module, "this"),
    }[function]
    content = {
        "alone": lambda: hostile,
        "as a value": lambda: {"a": hostile},
        "as a key": lambda: {(hostile, 1): 2},
        "inside an array": lambda: {"a": np.array([[hostile]], dtype=object)},
    }[where]()
    path = tmp_path / "hostile.pickle"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(ValueError, match="is not a published subnetwork: it"):
        read_pickle(path)
    assert not mark.exists() and "this" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        b"\x80\x04\x8e" + (2**60).to_bytes(8, "little"),
        b"cnumpy\nndarray\n((I100000000000\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"c_codecs\nencode\n(S'abc'\nS'zip'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'/etc/passwd'\ntR.",
        b"Pidentity\n.",
        b"cnumpy\ndtype.__class__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x0c__import__.os\x93.",
        b"cbuiltins\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(S'true'\ntR.",
        b"cfunctools\npartial\n(cos\nsystem\nS'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02\x82\x01.",
        b"cnumpy\nndarray\n)\x81.",
        b"cnumpy\ndtype\n(S'b1'\nI0\nI1\ntR(I3\nS'O'\nNNNI-1\nI-1\nI63\ntb.",
        b"cnumpy\ndtype\n(S'b1'\nI0\nI1\ntR}S'dtype'\nS'O8'\nsb.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1000000\nI1000000\ntcnumpy\ndtype\n(S'b1'\nI0\nI1\ntRI0\nC\x01atb.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nI1\ntS'O'\nI0\nC\x01atb.",
        b"cnumpy.core.numeric\n_frombuffer\n(C\x01acnumpy\ndtype\n(S'b1'\ntR(I-1\nI9999999999999999999999\ntS'C'\ntR.",
        b"cnumpy.core.numeric\n_frombuffer\n(cnumpy\nndarray\nNNNtR.",
        b"c_codecs\nencode.__call__\n.",
        b"c_codecs\ndecode\n(S'x'\nS'unicode_escape'\ntR.",
        b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"a",
        b"\x8b\xff\xff\xff\x7f1.",
        b"(" * 100_000 + b".",
    ],
)
def test_damaged_and_hostile_streams_are_refused(tmp_path, content):
    path = tmp_path / "a.pickle"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pickle'"):
        read_pickle(path)


@pytest.mark.parametrize(
    "content", [[1], {"a": 1}, {"a": np.zeros((2, 2))}, {"a": np.zeros(3, bool)}, {3: np.zeros((1, 1), bool)}]
)
def test_other_contents_are_refused(tmp_path, content):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"a\.pickle"):
        read_pickle(path)


def test_a_subnetwork_of_another_model_is_refused_but_the_name_of_a_folder_says_nothing(published, tokenizer):
    model, subnetwork, path = published
    save_published(subnetwork, "EleutherAI/pythia-160m", path)
    with pytest.raises(ValueError, match="is a subnetwork of 'EleutherAI/pythia-160m', but the model is 'tiny"):
        load_published(path, model)
    assert load_published(path, LanguageModel("pythia-160m@step3000", model.hf, tokenizer)).hash == subnetwork.hash
    assert load_published(path, LanguageModel(str(path.parent), model.hf, tokenizer)).hash == subnetwork.hash
    path.write_bytes(pickle.dumps({name: mask.numpy()[1:] for name, mask in subnetwork.masks.items()}))
    with pytest.raises(ValueError, match=r"but in 'tiny .*' it is \("):
        load_published(path, model)
    path.write_bytes(pickle.dumps({"some.weight": np.zeros((1, 1), bool)}))
    with pytest.raises(ValueError, match=r"does not fit 'tiny .*has \['some.weight'\] beyond"):
        load_published(path, model)


def test_places_on_the_hub_are_checked_and_reported(model):
    with pytest.raises(ValueError, match="names no file; write hf://owner"):
        load_published("hf://owner/repository", model)
    with pytest.raises(ValueError, match=r"'masks/a.pickle' of 'owner/repository' \(revision v1\) could not be had"):
        load_published("hf://owner/repository/masks/a.pickle@v1", model)
    with pytest.raises(FileNotFoundError, match="There is no file 'nowhere'"):
        load_published(Path("nowhere"), model)


def test_hostile_pickles_do_execute_when_unpickled_as_they_are():
    assert pickle.load(io.BytesIO(pickle.dumps(Executes(os.getpid)))) == os.getpid()


def test_a_pickle_that_cannot_be_read_just_now_is_not_called_a_wrong_one(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "masks.pickle").touch()
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(PermissionError, match=r"masks\.pickle' could not be read \(Permission denied\)"):
        read_pickle(tmp_path / "masks.pickle")
