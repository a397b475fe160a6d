"""Two processes that search together, each with half of the gates, find what one finds, in one store, whatever happens."""

import multiprocessing
import socket
from dataclasses import replace

import numpy as np
import pytest
import together
import torch
from conftest import build
from searches import FOUR_SEQUENCES

from bigramlib import Subnetwork, find_subnetwork
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


def run(folder, config, count=2, **options) -> list[int]:
    """Exit codes of the processes that search together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        processes.Process(target=together.search, args=(folder, config, rank, count, port), kwargs=options)
        for rank in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        assert process.exitcode is not None, "a process hangs"
    return [process.exitcode for process in started]


def found(folder) -> Subnetwork:
    (file,) = (folder / "store" / "subnetworks").iterdir()
    return Subnetwork.load(file)


@pytest.fixture
def alone(place, tokenizer, table, corpus):
    """What one process finds."""
    model = build("llama", tokenizer)
    return lambda config: find_subnetwork(model, table, corpus, config)


@pytest.mark.parametrize("changes", [{}, {"steps": 60, "undecided_share": 0.01}, {"precision": "bfloat16", "layers": 1}])
def test_two_processes_that_take_whole_batches_find_the_bits_that_one_finds(place, alone, changes):
    config = replace(CONFIG, **changes)
    assert run(place, config) == [0, 0]
    both, one = found(place), alone(config)
    assert both.hash == one.hash and both.provenance["history"] == one.provenance["history"]
    assert {(place / f"found-{rank}").read_text() for rank in (0, 1)} == {one.hash}
    assert not list((place / "store" / "unfinished").iterdir())


def test_two_processes_that_divide_the_batch_find_almost_the_same_weights(place, alone):
    config = replace(CONFIG, steps=60)
    assert run(place, config, whole_batch=False) == [0, 0]
    both, one = found(place), alone(config)
    assert (both & one).kept > 0.98 * (both | one).kept > 0
    pairs = zip(both.history().kl, one.history().kl, strict=True)
    assert all(mine == pytest.approx(other, rel=0.02) for mine, other in pairs)


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_dies_ends_the_other_and_one_or_two_go_on_to_the_same_bits(place, alone, count):
    codes = run(place, CONFIG, trouble="die")
    assert codes[1] == together.DIED and codes[0] not in (0, together.DIED)
    assert "Another process of this search has ended" in (place / "errors-0").read_text()
    (state,) = (place / "store" / "unfinished").iterdir()
    assert SavedState(state).load()[0].step == 5
    assert run(place, CONFIG, count) == [0] * count
    assert found(place).hash == alone(CONFIG).hash


def test_two_processes_go_on_from_the_state_of_one(place, alone):
    assert run(place, CONFIG, 1, trouble="") == [0]
    expected = found(place)
    assert expected.hash == alone(CONFIG).hash


def test_memory_that_runs_out_in_one_process_halves_the_passes_of_both(place, alone):
    assert run(place, replace(CONFIG, steps=60), whole_batch=False, trouble="memory") == [0, 0]
    both, one = found(place), alone(replace(CONFIG, steps=60))
    assert both.provenance["passes"] == 2
    assert (both & one).kept > 0.98 * (both | one).kept > 0


@pytest.mark.parametrize("weights", [1, 63, 64, 65, 128, 1000])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_weight_is_kept_by_one_process(weights, count):
    matrix = torch.arange(weights)
    parts = [Ranks(rank, count).part(matrix) for rank in range(count)]
    assert torch.equal(torch.cat(parts), matrix)
    assert max(map(len, parts)) <= Ranks(0, count).part_size(weights)
