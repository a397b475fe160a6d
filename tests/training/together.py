"""What the processes of one search do in its tests: search in a model and a text that lie in a folder."""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from bigramlib import BigramTable, SparsifyConfig, TokenCorpus, find_subnetwork, load_model, saved_state
from bigramlib.training import step
from bigramlib.training.ranks import joined

DIED = 9


def search(
    folder: Path, config: SparsifyConfig, rank: int, count: int, port: int, whole_batch: bool = True, trouble: str = ""
) -> None:
    """Find a subnetwork with the other ranks, in the store within the folder; the state is saved at each step.

    Args:
        folder: with the model and the text.
        config: of the search.
        rank: of this process.
        count: of processes.
        port: where they meet.
        whole_batch: as in `Ranks`.
        trouble: "die" ends rank 1 after its fifth step; "memory" lets memory run out on rank 1, once in the third step.
    """
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"BIGRAMLIB_STORE": str(folder / "store"), "TQDM_DISABLE": "1"}
    sys.stderr = (folder / f"errors-{rank}").open("w")
    torch.set_num_threads(1)
    saved_state.EVERY_STEPS, saved_state.WRITING_SHARE = 1, 1e9
    if rank == 1 and trouble:
        {"die": _die_after_five, "memory": _run_out_in_the_third}[trouble]()
    with joined("cpu", whole_batch) as (ranks, device):
        model = load_model(folder, device)
        corpus = TokenCorpus(np.load(folder / "ids.npy"), np.load(folder / "starts.npy"), model.vocabulary_size)
        found = find_subnetwork(model, BigramTable.from_corpus(corpus), corpus, config, ranks=ranks)
    (folder / f"found-{rank}").write_text(found.hash)


def _die_after_five() -> None:
    original = step.OptimizerStep.take

    def take(self, *batch):
        if self.run.step == 5:
            os._exit(DIED)
        original(self, *batch)

    step.OptimizerStep.take = take


def _run_out_in_the_third() -> None:
    original = step.OptimizerStep._passes
    left = [True]

    def passes(self, ids, weights):
        if self.run.step == 2 and left:
            left.clear()
            raise MemoryError
        return original(self, ids, weights)

    step.OptimizerStep._passes = passes
