"""A search is made once and kept with its provenance; the same search gives the same bits, any other search another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build
from searches import QUICK, cut

from bigramlib import Subnetwork, TokenCorpus, find_subnetwork
from bigramlib.analysis.overlap import jaccard
from bigramlib.numeric import percent
from bigramlib.store import store_folder
from bigramlib.training import search as training
from bigramlib.training.gates import Gates
from bigramlib.training.results import key_facts, store_key


def test_same_seed_same_bits_another_seed_other_bits(model, table, corpus, monkeypatch, tmp_path):
    first = find_subnetwork(model, table, corpus, QUICK)
    other = find_subnetwork(model, table, corpus, replace(QUICK, seed=1))
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    again = find_subnetwork(model, table, corpus, QUICK)
    assert first.hash == again.hash != other.hash
    assert first.provenance == again.provenance


def test_asking_again_returns_the_stored_subnetwork_and_any_change_trains_another(model, table, corpus, monkeypatch):
    stored = find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, QUICK).hash == stored.hash
    for changed in ((model, table.unigram(), corpus, QUICK), (model, table, corpus, replace(QUICK, sparsity_penalty=2.0))):
        with pytest.raises(pytest.fail.Exception, match="trained"):
            find_subnetwork(*changed)


def test_a_corpus_of_another_vocabulary_is_refused(model, table):
    with pytest.raises(ValueError, match="vocabulary of 1000, but the model 'tiny gpt_neox' has 280 tokens"):
        find_subnetwork(model, table, TokenCorpus(np.arange(900), np.array([0]), 1000), QUICK)


def test_a_subnetwork_knows_what_was_searched_for_it(model, table, corpus):
    everywhere = find_subnetwork(model, table, corpus, replace(QUICK, steps=1))
    first_mlp = find_subnetwork(model, table, corpus, replace(QUICK, steps=1, attention=False, layers=1))
    assert everywhere.searched() == everywhere.total
    assert first_mlp.searched() == Subnetwork.mlp(model, 0).kept
    blocks = model.architecture.blocks
    searched = [block for block, names in blocks.items() if set(names) <= set(model.architecture.within(1, attention=False))]
    assert set(blocks) - set(first_mlp.empty_blocks) <= set(searched)


def test_unstable_runs_are_tried_again_with_another_shuffle(model, table, corpus, monkeypatch):
    verdicts = iter([True, True, False, False])
    monkeypatch.setattr(training, "is_unstable", lambda *_: next(verdicts))
    found = find_subnetwork(model, table, corpus, replace(QUICK, steps=2, attempts=5))
    assert found.provenance["attempt"] == 2
    assert not found.provenance["unstable"]


def test_a_search_that_stays_unstable_is_kept_with_a_warning(model, table, corpus, monkeypatch, caplog):
    judged = []
    monkeypatch.setattr(training, "is_unstable", lambda losses, tokens: judged.append(tokens) or True)
    config = replace(QUICK, steps=2, attempts=2, sparsity_penalty=3, seed=4, undecided_share=-1.0)
    found = find_subnetwork(model, table, corpus, config)
    assert (found.provenance["attempt"], found.provenance["unstable"]) == (1, True)
    assert set(judged) == {QUICK.batch_size * QUICK.sequence_length}
    (message,) = caplog.messages
    assert (
        message.startswith("The loss of this search (lambda 3, seed 4) jumped and stayed high") and "attempts to 4" in message
    )


def test_a_search_that_ends_undecided_says_so(model, table, corpus, caplog):
    undecided = replace(QUICK, steps=5, sparsity_penalty=3, seed=4, final_beta=2.0)
    history = find_subnetwork(model, table, corpus, undecided).history()
    (message,) = caplog.messages
    shown = percent(history.undecided.iloc[-1])
    assert message.startswith("This search (lambda 3, seed 4) ended before its gates were decided")
    assert f"{shown} undecided" in message and "final_beta" in message
    caplog.clear()
    find_subnetwork(model, table, corpus, undecided)  # from the store
    find_subnetwork(model, table, corpus, replace(undecided, undecided_share=-1.0))  # takes all its steps by intention
    assert find_subnetwork(model, table, corpus, replace(undecided, steps=60, final_beta=1e5)).provenance["converged"]
    assert not caplog.messages


def half_of(model) -> Subnetwork:
    """A subnetwork of every second weight."""
    full = Subnetwork.full(model).masks
    masks = {name: torch.arange(mask.numel()).view(mask.shape) % 2 == 0 for name, mask in full.items()}
    return Subnetwork(masks, model.architecture)


def test_a_search_can_start_from_a_subnetwork(model, table, corpus, monkeypatch):
    half, still = half_of(model), replace(QUICK, steps=1, learning_rate=1e-9)
    started = find_subnetwork(model, table, corpus, still, start=half)
    assert started.hash == half.hash
    assert started.provenance["start_hash"] == half.hash
    assert not {"start", "start_hash"} & find_subnetwork(model, table, corpus, still).provenance.keys()
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, still, start=half).hash == started.hash
    with pytest.raises(pytest.fail.Exception, match="trained"):
        find_subnetwork(model, table, corpus, still, start=~half)


def test_a_search_that_starts_from_a_subnetwork_goes_on_to_the_same_bits(model, table, corpus, monkeypatch, tmp_path):
    half, config = half_of(model), replace(QUICK, first_beta=50.0)
    whole = find_subnetwork(model, table, corpus, config, start=half)
    again = find_subnetwork(model, table, corpus, config, start=whole)
    assert again.provenance["start"]["config"] == config.facts() and "history" not in again.provenance["start"]
    assert whole.hash not in {half.hash, find_subnetwork(model, table, corpus, config).hash}
    assert whole.provenance["steps"] == config.steps, "its gates are decided from the first step on"
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    with cut(12):
        find_subnetwork(model, table, corpus, config, start=half)
    assert find_subnetwork(model, table, corpus, config, start=half).hash == whole.hash


def test_closed_blocks_are_dropped_after_an_interrupt_too_and_the_mask_is_the_same(model, table, corpus, monkeypatch):
    dropped = []
    drop = Gates.drop
    monkeypatch.setattr(Gates, "drop", lambda gates, blocks: dropped.append(list(blocks)) or drop(gates, blocks))
    config, start = replace(QUICK, first_beta=50.0, sparsity_penalty=20.0), Subnetwork.mlp(model, 0)
    found = find_subnetwork(model, table, corpus, config, start=start)
    assert dropped[0] and set(found.empty_blocks) >= {name for names in dropped for name in names} and found.kept
    monkeypatch.setenv("BIGRAMLIB_STORE", str(store_folder("other")))
    with cut(12):
        find_subnetwork(model, table, corpus, config, start=start)
    before = len(dropped)
    assert find_subnetwork(model, table, corpus, config, start=start).hash == found.hash and dropped[before] == dropped[0]
    monkeypatch.setenv("BIGRAMLIB_STORE", str(store_folder("another")))
    monkeypatch.setattr(Gates, "drop", lambda *_: None)
    assert jaccard(find_subnetwork(model, table, corpus, config, start=start), found) > 0.99


def test_a_search_does_not_start_from_what_it_drops_or_from_another_models_subnetwork(model, table, corpus, tokenizer):
    with pytest.raises(ValueError, match=r"keeps weights of '.*': the config drops them. Set layers and attention"):
        find_subnetwork(model, table, corpus, replace(QUICK, attention=False), start=half_of(model))
    other = find_subnetwork(build("gpt_neox", tokenizer, seed=1), table, corpus, QUICK)
    with pytest.raises(ValueError, match="was found in"):
        find_subnetwork(model, table, corpus, QUICK, start=other)


def test_a_wished_density_is_searched_from_the_start_that_is_given(model, table, corpus):
    half = half_of(model)
    found = find_subnetwork(model, table, corpus, replace(QUICK, sparsity_penalty=10.0), density=0.3, start=half)
    assert found.provenance["start_hash"] == half.hash


def test_a_config_can_say_how_to_find_the_subnetwork_to_start_from(model, table, corpus, monkeypatch):
    first, second = replace(QUICK, sparsity_penalty=2.0, seed=3), replace(QUICK, sparsity_penalty=2.0, seed=3, first_beta=50.0)
    start = find_subnetwork(model, table, corpus, first)
    by_hand = find_subnetwork(model, table, corpus, second, start=start)
    both = replace(second, start=QUICK)
    with pytest.raises(ValueError, match=r"Both start and config\.start say what to start from"):
        find_subnetwork(model, table, corpus, both, start=start)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, both).hash == by_hand.hash, "lambda and seed are those of the second search"
    with pytest.raises(pytest.fail.Exception, match="trained"):
        find_subnetwork(model, table, corpus, replace(second, start=replace(QUICK, steps=3)))


def test_all_of_a_chain_of_searches_is_checked_before_the_first(tokenizer, table, corpus, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    long = replace(QUICK, start=replace(QUICK, start=replace(QUICK, sequence_length=10**6)))
    with pytest.raises(ValueError, match="sequences of 1000000 tokens"):
        find_subnetwork(build("gpt2", tokenizer), table, corpus, long)


def test_another_corpus_or_model_trains_another(model, table, corpus, tokenizer, monkeypatch):
    find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    shorter = TokenCorpus(corpus.ids[:400], np.array([0]), VOCABULARY)
    for changed in ((build("gpt_neox", tokenizer, seed=1), corpus), (model, shorter)):
        with pytest.raises(pytest.fail.Exception, match="trained"):
            find_subnetwork(changed[0], table, changed[1], QUICK)


def test_a_subnetwork_of_a_subnetwork_is_not_taken_for_one_of_the_model(model, table, corpus):
    of_model = find_subnetwork(model, table, corpus, QUICK)
    half = half_of(model)
    with half.applied(model):
        of_half = find_subnetwork(model, table, corpus, QUICK)
    assert (of_half - half).kept == 0 < (of_model - half).kept


def test_a_model_edited_while_its_mask_is_trained_stores_nothing(tokenizer, table, corpus, monkeypatch):
    model = build("gpt_neox", tokenizer)
    original = training.train

    def editing(*arguments):
        found = original(*arguments)
        next(iter(model.maskable.values())).data.mul_(2)
        return found

    monkeypatch.setattr(training, "train", editing)
    with pytest.raises(ValueError, match="was changed while its mask was trained, so nothing was stored"):
        find_subnetwork(model, table, corpus, QUICK)
    assert not list(store_folder("subnetworks").iterdir())


def test_a_subnetwork_of_an_earlier_version_on_weights_alone_is_told_of_and_not_taken(model, table, corpus, caplog):
    found = find_subnetwork(model, table, corpus, QUICK)
    facts = {name: value for name, value in found.provenance.items() if name != "model_hash"}
    key = store_key({name: facts[name] for name in ("weights_hash", "target_hash", "corpus_hash", "config")})
    (file,) = store_folder("subnetworks").iterdir()
    replace(found, provenance=facts).save(file.with_name(f"{key}.safetensors"))
    file.unlink()
    assert find_subnetwork(model, table, corpus, QUICK).provenance["model_hash"] == model.hash
    assert f"{key}.safetensors' was found by an earlier version" in caplog.text


def test_a_subnetwork_records_where_model_and_text_came_from_and_its_key_does_not_depend_on_it(model, table, corpus):
    provenance = find_subnetwork(model, table, replace(corpus, source="a text"), QUICK).provenance
    assert provenance | model.facts() == provenance
    assert provenance["corpus_source"] == "a text"
    assert {"model_source", "model_revision", "model_origin", "corpus_source"} <= provenance.keys()
    assert provenance["model_hash"] == model.hash
    (file,) = store_folder("subnetworks").iterdir()
    elsewhere = model.facts() | {"model": "another name", "model_source": "elsewhere", "model_revision": "2"}
    assert store_key(key_facts(elsewhere, table, corpus, QUICK)) == file.stem
