"""Two processes that search together, each with half of the gates, find what one finds, in one store, whatever happens."""

import multiprocessing
import shutil
import signal
import socket
from dataclasses import replace

import numpy as np
import pytest
import together
import torch
from conftest import build
from searches import FOUR_SEQUENCES, cut

from bigramlib import Subnetwork, find_subnetwork, load_model
from bigramlib.training.ranks import Ranks
from bigramlib.training.run import SavedState

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["bigramlib", "transformers.models.llama.modeling_llama", "tokenizers", "torch.distributed"])
CONFIG = replace(FOUR_SEQUENCES, steps=8, undecided_share=-1.0)


@pytest.fixture
def place(tokenizer, corpus, tmp_path):
    """A folder with a model and a text, for `together.search`."""
    build("llama", tokenizer).hf.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    np.save(tmp_path / "ids.npy", corpus.ids)
    np.save(tmp_path / "starts.npy", corpus.starts)
    return tmp_path


@pytest.fixture
def alone(place, table, corpus, monkeypatch):
    """What one process finds, in a store of its own or in another one."""
    model = load_model(place)

    def search(config, store="alone", start=None):
        with monkeypatch.context() as patch:
            patch.setenv("BIGRAMLIB_STORE", str(place / store))
            return find_subnetwork(model, table, corpus, config, start=start)

    return search


def run(folder, *configs, whole_batch=True, trouble="", start=None) -> list[int]:
    """Exit codes of two processes that search together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [(folder, configs, rank, port, whole_batch, trouble, start) for rank in range(2)]
    started = [processes.Process(target=together.search, args=each) for each in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode is not None, "a process hangs"
    return [process.exitcode for process in started]


def found(folder, number: int = 0) -> Subnetwork:
    """The result of one of the searches, which both processes had."""
    mine, other = (Subnetwork.load(folder / f"{number}-of-rank-{rank}") for rank in (0, 1))
    assert mine.hash == other.hash
    return mine


def test_two_processes_that_take_whole_batches_find_the_bits_that_one_finds(place, alone):
    longer, precise = replace(CONFIG, steps=60, undecided_share=0.01), replace(CONFIG, precision="bfloat16", layers=1)
    configs = CONFIG, longer, precise
    assert run(place, *configs) == [0, 0]
    for number, config in enumerate(configs):
        both, one = found(place, number), alone(config)
        assert both.hash == one.hash and both.history().equals(one.history())
    assert len(list((place / "store" / "subnetworks").iterdir())) == 3
    assert not list((place / "store" / "unfinished").iterdir())


def test_two_processes_start_from_a_subnetwork_as_one_does(place, alone):
    start = alone(replace(CONFIG, seed=1))
    start.save(place / "start")
    assert run(place, CONFIG, start=place / "start") == [0, 0]
    assert found(place).hash == alone(CONFIG, start=start).hash != alone(CONFIG).hash


def test_two_processes_find_the_subnetwork_to_start_from_as_one_does(place, alone):
    config = replace(CONFIG, first_beta=20.0, start=CONFIG)
    assert run(place, config) == [0, 0]
    assert found(place).hash == alone(config).hash == alone(replace(config, start=None), start=alone(CONFIG)).hash


def test_two_processes_drop_blocks_that_close_as_one_does_and_go_on_after_an_end(place, alone):
    start, config = Subnetwork.mlp(load_model(place), 0), replace(CONFIG, steps=24, first_beta=50.0, sparsity_penalty=20.0)
    start.save(place / "start")
    with cut(15):
        alone(config, store="store", start=start)
    assert run(place, config, start=place / "start") == [0, 0]
    assert found(place).hash == alone(config, start=start).hash
    assert len(found(place).empty_blocks) > 1 and found(place).kept


def test_two_processes_that_divide_the_batch_agree_with_one_and_halve_passes_together(place, alone):
    configs = replace(CONFIG, steps=30), replace(CONFIG, seed=1)
    assert run(place, *configs, whole_batch=False, trouble="memory") == [0, 0]
    for number, config in enumerate(configs):
        both, one = found(place, number), alone(config)
        assert both.provenance.get("passes") == (2, None)[number]
        assert both.provenance["processes"] == 2
        assert (both & one).kept > 0.98 * (both | one).kept > 0
        assert both.history().kl.to_numpy() == pytest.approx(one.history().kl.to_numpy(), rel=0.02)


def test_a_killed_process_ends_the_other_and_both_or_one_go_on_to_the_same_bits(place, alone):
    assert run(place, CONFIG, trouble="killed") == [1, -signal.SIGKILL]
    assert "Another process of this search has ended" in (place / "errors-0").read_text()
    (state,) = (place / "store" / "unfinished").iterdir()
    assert SavedState(state).load()[0].step == 5
    shutil.copytree(place / "store", place / "copy")
    assert run(place, CONFIG, trouble="continued") == [0, 0]
    assert found(place).hash == alone(CONFIG, "copy").hash == alone(CONFIG).hash


def test_two_processes_go_on_from_the_state_of_one(place, alone):
    with cut(5):
        alone(CONFIG, "store")
    assert run(place, CONFIG, trouble="continued") == [0, 0]
    assert found(place).hash == alone(CONFIG).hash


def test_processes_that_are_asked_for_different_searches_say_so(place):
    assert run(place, CONFIG, trouble="other") == [1, 1]
    assert "different searches; give all the same" in (place / "errors-1").read_text()


@pytest.mark.parametrize("weights", [1, 63, 64, 65, 128, 1000])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_weight_is_kept_by_one_process(weights, count):
    matrix = torch.arange(weights)
    parts = [Ranks(rank, count).part(matrix) for rank in range(count)]
    assert torch.equal(torch.cat(parts), matrix)
    assert max(map(len, parts)) <= Ranks(0, count).part_size(weights)
