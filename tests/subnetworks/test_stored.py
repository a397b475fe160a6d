"""Of a model and a target, the store's best subnetwork for each penalty is found, and nothing else."""

from conftest import build

from bigramlib import ModelTarget, SparsifyConfig, Subnetwork, find_subnetwork, randomly_initialized
from bigramlib.store import store_folder
from bigramlib.subnetworks.stored import stored_provenances, stored_subnetworks


def search(model, target, corpus, penalty=1.0, steps=3, seed=0):
    short = {"batch_size": 2, "sequence_length": 16, "flattening": None}
    return find_subnetwork(model, target, corpus, SparsifyConfig(sparsity_penalty=penalty, steps=steps, seed=seed, **short))


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


def test_what_was_not_found_by_training_or_cannot_be_read_is_left_out(model, table, corpus, caplog):
    found = search(model, table, corpus)
    Subnetwork.full(model).save(store_folder("subnetworks") / "by hand.safetensors")
    (store_folder("subnetworks") / "empty.safetensors").touch()
    assert {penalty: each.hash for penalty, each in stored_subnetworks(model, table.hash).items()} == {1.0: found.hash}
    assert "A file of the store is left out" in caplog.text and "empty" in caplog.text
