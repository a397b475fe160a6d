"""Threads that share a model and a store get what they would get one after the other."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from conftest import build, token_ids
from searches import QUICK

from bigramlib import Subnetwork, find_subnetwork
from bigramlib.analysis.evaluate import evaluate

SEEDS = range(6)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool


def test_two_threads_find_the_subnetworks_that_one_finds(threads, tokenizer, table, corpus, monkeypatch, tmp_path):
    def hashes(run) -> list[str]:
        shared = build("gpt_neox", tokenizer)
        return list(run(lambda seed: find_subnetwork(shared, table, corpus, replace(QUICK, steps=8, seed=seed)).hash, SEEDS))

    alone = hashes(map)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    assert hashes(threads.map) == alone


def test_the_same_search_in_two_threads_is_made_once(threads, tokenizer, table, corpus):
    shared = build("gpt_neox", tokenizer)
    found = list(threads.map(lambda _: find_subnetwork(shared, table, corpus, replace(QUICK, steps=8)), range(4)))
    assert len({each.hash for each in found}) == 1


def test_a_model_is_measured_whole_while_another_thread_masks_it(threads, tokenizer, table, held_out):
    shared = build("gpt_neox", tokenizer)
    empty, whole = Subnetwork.empty(shared), shared.hash

    def measured(masked: bool) -> float:
        return evaluate(shared, held_out, table, empty if masked else None).cross_entropy

    expected = [measured(False), measured(True)]
    assert list(threads.map(measured, [False, True] * 6)) == expected * 6
    assert shared.hash == whole


def test_passes_wait_while_another_thread_skips_blocks(threads, tokenizer):
    shared = build("gpt_neox", tokenizer)
    with torch.no_grad():
        plain = shared.hidden(token_ids())

        def skipped() -> None:
            with shared.skipping(shared.architecture.blocks):
                shared.hidden(token_ids())

        jobs = [threads.submit(skipped if odd else lambda: shared.hidden(token_ids()).detach()) for odd in (0, 1) * 20]
        assert all(torch.equal(job.result(), plain) for job in jobs[::2])
