"""A subnetwork survives the disk; files that are damaged or foreign are refused."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from mixtures import mixture, random_half
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bigramlib import Subnetwork
from bigramlib.subnetworks.file import read_provenance

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


def test_the_provenance_alone_is_read_without_the_masks(half, tmp_path):
    half.save(tmp_path / "half.safetensors")
    content = bytearray((tmp_path / "half.safetensors").read_bytes())
    content[-1] ^= 255
    (tmp_path / "damaged masks.safetensors").write_bytes(content)
    assert read_provenance(tmp_path / "damaged masks.safetensors") == half.provenance
    (tmp_path / "damaged facts.safetensors").write_bytes(bytes(content).replace(b"3.0", b"4.0"))
    with pytest.raises(ValueError, match="is not a whole subnetwork file"):
        read_provenance(tmp_path / "damaged facts.safetensors")
    with pytest.raises(FileNotFoundError, match="There is no subnetwork file"):
        read_provenance(tmp_path / "none.safetensors")


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


def altered(path, change) -> None:
    """Change the header and the tensors of a file and leave out the hash of its facts."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["bigramlib"])
    tensors = load_file(path)
    del header["facts_hash"]
    change(header, tensors)
    save_file(tensors, path, metadata={"bigramlib": json.dumps(header)})


def architecture(**changes):
    return lambda header, _: header["architecture"].update(changes)


def shape(*sizes):
    return lambda header, _: header["shapes"].update({list(header["shapes"])[-1]: sizes})


def million_experts(header, tensors):
    header["shapes"]["model.layers.0.mlp.experts.down_proj"] = [2**20, 1, 1]
    tensors["model.layers.0.mlp.experts.down_proj"] = torch.zeros(2**17, dtype=torch.uint8)


def renamed(header, tensors):
    name = next(iter(header["shapes"]))
    header["shapes"] = {key.replace(name, "layers.0.other.weight"): value for key, value in header["shapes"].items()}
    tensors["layers.0.other.weight"] = tensors.pop(name)


HOSTILE = {
    "no shapes": (lambda header, _: header.update(shapes={}), "two or three positive whole numbers"),
    "one axis": (shape(1152), "two or three positive whole numbers"),
    "four axes": (shape(1, 2, 3, 192), "two or three positive whole numbers"),
    "an empty axis": (shape(2, 0, 16), "two or three positive whole numbers"),
    "a negative axis": (shape(-3, -24, 16), "two or three positive whole numbers"),
    "a fraction": (shape(3, 24, 16.0), "two or three positive whole numbers"),
    "a text": (shape("3", 24, 16), "two or three positive whole numbers"),
    "more than there is memory for": (shape(2**40, 2**40), "does not have the bits of its shape"),
    "a million experts": (million_experts, "more experts than any model has"),
    "other experts": (shape(6, 16, 12), "hash|not those of its architecture"),
    "a single matrix": (shape(72, 16), "hash|not those of its architecture"),
    "a name of nothing": (renamed, "no attention or MLP matrix"),
    "heads that do not divide": (architecture(heads=3), ""),
    "fewer heads": (architecture(heads=2), "not those of its architecture"),
    "more key-value heads": (architecture(key_value_heads=3), "not those of its architecture"),
    "smaller heads": (architecture(head_size=2), "not those of its architecture"),
    "fewer layers": (architecture(layers=1), "not those of its architecture"),
    "a smaller MLP": (architecture(mlp_size=1), "not those of its architecture"),
    "huge heads": (architecture(head_size=2**60), "larger than its masks"),
    "a type that is no text": (architecture(model_type=["phi3"]), "a type that is no text"),
    "another size": (architecture(experts=3), ""),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_states_what_no_model_has_is_refused(tokenizer, tmp_path, case):
    change, said = HOSTILE[case]
    path = tmp_path / "hostile.safetensors"
    random_half(mixture("plain", tokenizer)).save(path)
    altered(path, change)
    with pytest.raises(ValueError, match=f"not a whole subnetwork file of this library .*{said}"):
        Subnetwork.load(path)


def test_a_type_whose_fused_matrix_is_not_known_is_refused(half, tmp_path):
    half.save(tmp_path / "half.safetensors")
    altered(tmp_path / "half.safetensors", architecture(model_type="unheard_of"))
    with pytest.raises(ValueError, match="not a whole subnetwork file of this library"):
        Subnetwork.load(tmp_path / "half.safetensors")
