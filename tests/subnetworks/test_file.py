"""A subnetwork survives the disk; files that are damaged or foreign are refused."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bigramlib import Subnetwork

EARLIER = Path(__file__).parents[1] / "subnetworks.zip"


def test_saving_and_loading_keeps_masks_and_provenance_in_one_bit_a_weight(any_model, tmp_path):
    masks = {name: torch.rand(weight.shape) < 0.3 for name, weight in any_model.maskable.items()}
    saved = Subnetwork(masks, any_model.architecture, {"a": [1, {"b": 0.5}]})
    saved.save(tmp_path / "mask.safetensors")
    loaded = Subnetwork.load(tmp_path / "mask.safetensors")
    assert loaded.hash == saved.hash
    assert loaded.provenance == saved.provenance
    assert loaded.architecture == any_model.architecture
    assert (tmp_path / "mask.safetensors").stat().st_size < saved.total / 8 + 8000


def test_a_truncated_file_is_refused_at_any_length(half, tmp_path):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    whole = path.read_bytes()
    for length in (0, 4, 9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole subnetwork file of this library"):
            Subnetwork.load(path)


def test_a_flipped_bit_is_noticed(half, tmp_path):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    altered = bytearray(path.read_bytes())
    altered[-10] ^= 1
    path.write_bytes(bytes(altered))
    with pytest.raises(ValueError, match="hash that it states"):
        Subnetwork.load(path)


def test_any_flipped_bit_of_the_file_is_noticed_or_harmless(half, tmp_path):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, 8 * len(whole), 37):
        altered = bytearray(whole)
        altered[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(altered))
        try:
            loaded = Subnetwork.load(path)
        except ValueError as error:
            assert "not a whole subnetwork file" in str(error)
            refused += 1
        else:
            assert (loaded.hash, loaded.provenance, loaded.architecture) == (half.hash, half.provenance, half.architecture)
    assert refused > 0.95 * 8 * len(whole) / 37


@pytest.mark.parametrize("header", ["[]", "{}", "not json", '{"format": "another"}'])
def test_a_foreign_header_is_refused(tmp_path, header):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors", metadata={"bigramlib": header})
    with pytest.raises(ValueError, match="not a whole subnetwork file"):
        Subnetwork.load(tmp_path / "foreign.safetensors")


def test_foreign_and_missing_files_are_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not a whole subnetwork file"):
        Subnetwork.load(tmp_path / "foreign.safetensors")
    with pytest.raises(FileNotFoundError, match="no subnetwork file"):
        Subnetwork.load(tmp_path / "missing.safetensors")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(half, tmp_path, monkeypatch):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    before = path.read_bytes()

    def fail(packed, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("bigramlib.subnetworks.file.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        (~half).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*mask*")) == [path]


def test_files_of_earlier_versions_are_read_and_written_again_to_the_same_bytes(tmp_path):
    zipfile.ZipFile(EARLIER).extractall(tmp_path)
    files = sorted((tmp_path / "subnetworks").iterdir())
    for file in files:
        found, before = Subnetwork.load(file), file.read_bytes()
        found.save(file)
        assert file.read_bytes() == before
    assert files


def test_the_first_files_state_no_hash_of_their_facts_and_are_read(half, tmp_path):
    path = tmp_path / "mask.safetensors"
    half.save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["bigramlib"])
    assert list(header) == ["format", "hash", "shapes", "architecture", "provenance", "facts_hash"]
    assert header["format"] == "bigramlib subnetwork 1" and header["hash"] == half.hash
    del header["facts_hash"]
    save_file(load_file(path), path, metadata={"bigramlib": json.dumps(header)})
    assert Subnetwork.load(path).hash == half.hash
