"""What other processes do in the tests of interruptions: train on a model and a text that lie in a folder."""

import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from bigramlib import BigramTable, SparsifyConfig, TokenCorpus, find_subnetwork, load_model, saved_state
from bigramlib.training import search as training

INTERRUPTED = 77


def train(folder: Path, config: SparsifyConfig, every: int = 1, begun=None, file_size: int | None = None) -> None:
    """Find a subnetwork in the store within the folder, with a state after `every` steps and files of a size at most."""
    os.environ |= {"BIGRAMLIB_STORE": str(folder / "store"), "TQDM_DISABLE": "1"}
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    saved_state.EVERY_STEPS, saved_state.WRITING_SHARE = every, 1.0
    _count_trainings(folder / "trainings")
    model = load_model(folder)
    before = model.weights_hash
    corpus = TokenCorpus(np.load(folder / "ids.npy"), np.load(folder / "starts.npy"), model.vocabulary_size)
    table = BigramTable.from_corpus(corpus)
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    if begun is not None:
        begun.send("begun")
    try:
        find_subnetwork(model, table, corpus, config)
    except KeyboardInterrupt:
        model.identity.forget()
        patched = [name for name, module in model.hf.named_modules() if "forward" in module.__dict__]
        gradients = [name for name, parameter in model.hf.named_parameters() if parameter.requires_grad]
        handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        sys.exit(INTERRUPTED if handler and model.weights_hash == before and not patched and not gradients else 1)
    except OSError as error:
        (folder / "error").write_text(str(error))
        sys.exit(2)


def _count_trainings(file: Path) -> None:
    """Write a line whenever a training begins."""
    original = training.train

    def counted(*arguments):
        with file.open("a") as out:
            out.write(f"{os.getpid()}\n")
        return original(*arguments)

    training.train = counted
