"""Of a model and a target, the store's best subnetwork for each penalty is found, and nothing else."""

from conftest import build

from bigramlib import ModelTarget, SparsifyConfig, Subnetwork, find_subnetwork, randomly_initialized
from bigramlib.store import store_folder
from bigramlib.subnetworks.stored import stored_provenances, stored_subnetworks


def search(model, target, corpus, penalty=1.0, steps=3, seed=0, start=None):
    short = {"batch_size": 2, "sequence_length": 16, "flattening": None}
    config = SparsifyConfig(sparsity_penalty=penalty, steps=steps, seed=seed, **short)
    return find_subnetwork(model, target, corpus, config, start=start)


def test_the_best_for_each_penalty_is_taken_and_those_of_other_models_and_targets_are_not(model, table, corpus, tokenizer):
    assert stored_subnetworks(model, table.hash) == {} == stored_provenances()
    search(model, table, corpus)
    longest = search(model, table, corpus, steps=5)
    search(model, table, corpus, steps=5, seed=1)
    other = search(model, table, corpus, penalty=0.5)
    search(model, ModelTarget(model), corpus, penalty=7.0)
    search(randomly_initialized(model), table, corpus, penalty=8.0)
    search(build("llama", tokenizer), table, corpus, penalty=9.0)
    found = stored_subnetworks(model, table.hash)
    assert [(penalty, each.hash) for penalty, each in found.items()] == [(0.5, other.hash), (1.0, longest.hash)]
    assert found[1.0].provenance["config"]["seed"] == 0 and len(stored_provenances()) == 7


def test_a_search_that_started_from_another_counts_with_it(model, table, corpus):
    whole = search(model, table, corpus, steps=5)
    search(model, table, corpus, steps=6)
    search(model, table, corpus, steps=2, start=whole)
    search(model, table, corpus, steps=2, start=Subnetwork.full(model))
    assert stored_subnetworks(model, table.hash)[1.0].provenance["start_hash"] == whole.hash


def test_only_the_masks_that_are_taken_are_read_and_a_damaged_one_gives_way_to_the_next(
    model, table, corpus, monkeypatch, caplog
):
    first, second, best = (search(model, table, corpus, steps=steps) for steps in (3, 4, 5))
    read, load = [], Subnetwork.load
    monkeypatch.setattr(Subnetwork, "load", lambda file: read.append(file) or load(file))
    assert stored_subnetworks(model, table.hash)[1.0].hash == best.hash and len(read) == 1
    content = bytearray(read[0].read_bytes())
    content[-1] ^= 255
    read[0].write_bytes(content)
    assert stored_subnetworks(model, table.hash)[1.0].hash == second.hash != first.hash
    assert "A file of the store is left out" in caplog.text


def test_what_was_not_found_by_training_or_cannot_be_read_is_left_out(model, table, corpus, caplog):
    found = search(model, table, corpus)
    Subnetwork.full(model).save(store_folder("subnetworks") / "by hand.safetensors")
    (store_folder("subnetworks") / "empty.safetensors").touch()
    (store_folder("subnetworks") / "folder.safetensors").mkdir()
    (store_folder("subnetworks") / "link.safetensors").symlink_to("nowhere")
    assert {penalty: each.hash for penalty, each in stored_subnetworks(model, table.hash).items()} == {1.0: found.hash}
    assert all(left in caplog.text for left in ("A file of the store is left out", "empty", "folder", "link"))
