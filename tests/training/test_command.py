"""The command `search` finds by names what the library finds, and torchrun has several processes do it."""

import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import build

from bigramlib import BigramTable, SparsifyConfig, Subnetwork, find_subnetwork, load_model
from bigramlib.__main__ import command_line
from bigramlib.store import store_folder
from bigramlib.training.command import run_search

SETTINGS = {"steps": 4, "batch_size": 2, "sequence_length": 16, "layers": 1, "attention": False, "flattening": None}


@pytest.fixture
def asked(tokenizer, documents, tmp_path):
    """The options of a short search in a tiny model."""
    build("llama", tokenizer).hf.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(documents):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    names = ["search", "--model", str(tmp_path / "model"), "--corpus", str(tmp_path / "texts"), "--penalty", "2", "--seed", "3"]
    return [*names, *(part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}"))]


def test_it_finds_what_the_library_finds_and_says_where_it_lies(asked, tmp_path, monkeypatch):
    said = run_search(command_line().parse_args(asked))
    found = Subnetwork.load(said.strip().rpartition(": ")[2])
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    model = load_model(tmp_path / "model")
    train, _ = model.load_corpus(tmp_path / "texts")
    table = BigramTable.from_corpus(train)
    config = replace(SparsifyConfig.suited(model, table, 2.0, 3), **SETTINGS)
    assert found.hash == find_subnetwork(model, table, train, config).hash
    assert said.startswith(f"{found.kept:,} of {found.total:,} weights kept ({found.density:.3%}): ")


def test_a_setting_says_what_to_start_from(asked):
    said = run_search(command_line().parse_args([*asked, "--set", "first_beta=50", "--set", f"start={SETTINGS}"]))
    found = Subnetwork.load(said.strip().rpartition(": ")[2])
    assert found.provenance["start"]["steps"] == SETTINGS["steps"] and len(list(store_folder("subnetworks").iterdir())) == 2


def test_torchrun_has_two_processes_search_and_one_of_them_says_so(asked):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "bigramlib", *asked, "--whole-batch"]
    together = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert together.returncode == 0, together.stderr
    (file,) = store_folder("subnetworks").iterdir()
    found, content = Subnetwork.load(file), file.read_bytes()
    assert together.stdout.count("weights kept") == 1 and str(file) in together.stdout
    file.unlink()
    run_search(command_line().parse_args(asked))
    assert Subnetwork.load(file).hash == found.hash and file.read_bytes() == content


@pytest.mark.parametrize(("given", "said"), [("speed=3", "'speed=3' is no setting"), ("steps", "'steps' is no setting")])
def test_a_setting_that_there_is_not_is_refused(asked, given, said):
    with pytest.raises(ValueError, match=said):
        run_search(command_line().parse_args([*asked, "--set", given]))


def test_a_setting_that_cannot_be_is_refused(asked):
    with pytest.raises(ValueError, match="learning_rate is -1"):
        run_search(command_line().parse_args([*asked, "--set", "learning_rate=-1"]))
