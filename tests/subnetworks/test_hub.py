"""Subnetworks travel through folders and the hub's client with what is known of them."""

import errno

import pytest
from huggingface_hub import ModelCard

from bigramlib import Subnetwork
from bigramlib.subnetworks.hub import FILE


@pytest.fixture
def subnetwork(model):
    found = Subnetwork.full(model).random_like(0)
    facts = {"model": "mini", "sparsity_penalty": 10.0, "converged": True, "history": [[1, 2.0, 0.5, 0.1]]}
    return Subnetwork(found.masks, found.architecture, facts)


def test_a_folder_gives_back_what_was_saved(subnetwork, tmp_path):
    subnetwork.save_pretrained(tmp_path / "mask")
    loaded = Subnetwork.from_pretrained(tmp_path / "mask")
    assert loaded.hash == subnetwork.hash and loaded.provenance == subnetwork.provenance


def test_the_card_states_the_provenance(subnetwork, tmp_path):
    subnetwork.save_pretrained(tmp_path, "someone/mask")
    card = ModelCard.load(tmp_path / "README.md")
    assert "bigramlib" in card.data.tags and card.data.library_name == "bigramlib"
    for fact in (
        'load_model("mini")',
        'from_pretrained("someone/mask")',
        f"{subnetwork.kept:,} of",
        "- sparsity_penalty: 10.0",
    ):
        assert fact in card.text
    assert "history" not in card.text


def test_pushing_creates_the_repository_and_uploads_the_folder(subnetwork, tmp_path, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo, private, exist_ok):
            calls.append(("create", repo, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            loaded = Subnetwork.from_pretrained(folder_path)
            calls.append(("upload", repo_id, loaded.hash))
            return "address"

    monkeypatch.setattr("bigramlib.subnetworks.hub.HfApi", Api)
    assert subnetwork.push_to_hub("someone/mask", private=True, token="secret") == "address"
    assert calls == [("token", "secret"), ("create", "someone/mask", True, True), ("upload", "someone/mask", subnetwork.hash)]


def test_a_repository_that_cannot_be_had_and_a_broken_folder_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"'subnetwork.safetensors' of 'no/such' \(revision main\) could not be had"):
        Subnetwork.from_pretrained("no/such")
    (tmp_path / FILE).write_bytes(b"broken")
    with pytest.raises(ValueError, match="is not a whole subnetwork file"):
        Subnetwork.from_pretrained(tmp_path)


def test_a_disk_that_is_full_is_not_called_a_wrong_name(monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bigramlib.subnetworks.hub.hf_hub_download", full)
    with pytest.raises(OSError, match=r"'some/mask' could not be kept in the hub's cache \(No space left on device\)"):
        Subnetwork.from_pretrained("some/mask")


def test_a_tilde_is_the_home_folder(subnetwork, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    subnetwork.save("~/my mask.safetensors")
    subnetwork.save_pretrained("~/mask")
    assert Subnetwork.load("~/my mask.safetensors").hash == Subnetwork.from_pretrained("~/mask").hash == subnetwork.hash
    assert {entry.name for entry in tmp_path.iterdir()} >= {"my mask.safetensors", "mask"}
