"""What the two processes of one search do in its tests: search in a model and a text that lie in a folder."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch

from bigramlib import BigramTable, SparsifyConfig, Subnetwork, TokenCorpus, find_subnetwork, load_model, saved_state
from bigramlib.training.gates import Gates
from bigramlib.training.ranks import joined


def search(
    folder: Path,
    configs: Sequence[SparsifyConfig],
    rank: int,
    port: int,
    whole_batch: bool = True,
    trouble: str = "",
    start: Path | None = None,
) -> None:
    """Find subnetworks with the other rank, in the store within the folder; the state is saved at each step.

    Args:
        folder: with the model and the text.
        configs: of the searches.
        rank: of this process.
        port: where they meet.
        whole_batch: as in `Ranks`.
        trouble: of rank 1. "killed": after its fifth step; "memory": it runs out in the third step; "other": it asks for
            other searches; "continued": none, unless more than three steps are made, which an interrupted search has left.
        start: the file of a subnetwork from which the searches start.
    """
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"BIGRAMLIB_STORE": str(folder / "store"), "TQDM_DISABLE": "1"}
    sys.stderr = (folder / f"errors-{rank}").open("w")
    torch.set_num_threads(1)
    saved_state.EVERY_STEPS, saved_state.WRITING_SHARE = 1, 1e9
    if rank == 1 and trouble == "other":
        configs = [replace(config, seed=9) for config in configs]
    elif rank == 1 and trouble:
        _make(trouble)
    with joined("cpu", whole_batch) as (ranks, device):
        model = load_model(folder, device)
        corpus = TokenCorpus(np.load(folder / "ids.npy"), np.load(folder / "starts.npy"), model.vocabulary_size)
        table = BigramTable.from_corpus(corpus)
        near = Subnetwork.load(start) if start else None
        for number, config in enumerate(configs):
            find_subnetwork(model, table, corpus, config, start=near, ranks=ranks).save(folder / f"{number}-of-rank-{rank}")


def _make(trouble: str) -> None:
    """Have one of the forward passes to come go wrong, each of which is a step in a search of whole batches."""
    original, calls = Gates.hidden, count(1)

    def hidden(self, ids):
        number = next(calls)
        if trouble == "killed" and number == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "memory" and number == 3:
            raise MemoryError
        if trouble == "continued" and number > 3:
            raise AssertionError("the search was begun anew")
        return original(self, ids)

    Gates.hidden = hidden
