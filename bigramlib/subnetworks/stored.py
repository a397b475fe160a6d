"""The subnetworks that the store holds: which there are, and those of one model and target."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from bigramlib.models.language_model import LanguageModel
from bigramlib.store import store_folder
from bigramlib.subnetworks.file import read_provenance
from bigramlib.subnetworks.subnetwork import Subnetwork

FACTS = {"model", "corpus", "target_hash", "sparsity_penalty", "config", "steps"}
"""Fields that the provenance of every subnetwork has that was found by training."""
Read = TypeVar("Read")
log = logging.getLogger(__name__)


def stored_provenances() -> dict[Path, dict]:
    """The files of the subnetworks in the store that were found by training, with their provenance; no mask is read."""
    files = sorted(store_folder("subnetworks").glob("*.safetensors"))
    found = {file: _readable(read_provenance, file) for file in files}
    return {file: provenance for file, provenance in found.items() if provenance and set(provenance) >= FACTS}


def stored_subnetworks(model: LanguageModel, target_hash: str) -> dict[float, Subnetwork]:
    """The subnetworks in the store that were found in a model for a target, by sparsity penalty, the smallest first.

    Of several for the same penalty, the one that was trained on most tokens is taken, those of a search that it started from
    included, and among equals the one with the lowest seed. A file that cannot be read is left out with a warning.
    """
    wanted = (target_hash, model.weights_hash, model.hash)
    found: dict[float, Subnetwork] = {}
    for file, provenance in sorted(stored_provenances().items(), key=lambda each: _effort(each[1]), reverse=True):
        facts = {"model_hash": provenance["weights_hash"]} | provenance
        if (facts["target_hash"], facts["weights_hash"], facts["model_hash"]) == wanted:
            penalty = facts["sparsity_penalty"]
            if penalty not in found and (subnetwork := _readable(Subnetwork.load, file)):
                found[penalty] = subnetwork
    return dict(sorted(found.items()))


def _readable(read: Callable[[Path], Read], file: Path) -> Read | None:
    """What can be read from a file; None, with a warning, if it cannot be read."""
    try:
        return read(file)
    except (ValueError, OSError) as error:
        log.warning("A file of the store is left out: %s", error)
        return None


def _effort(provenance: dict) -> tuple[int, int]:
    """The tokens that a search was trained on, with those of the search that it started from, and its seed, negative."""
    if not provenance.keys() >= {"config", "steps"}:
        return 0, 0
    config, start = provenance["config"], provenance.get("start", {})
    tokens = int(np.prod([provenance["steps"], config["batch_size"], config["sequence_length"]]))
    return tokens + _effort(start)[0], -config["seed"]
