"""Where the store keeps what a search found: its key, made of all that the result depends on, and the file under it."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from bigramlib.store import content_hash, set_aside
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.target import Target
from bigramlib.text.corpus import TokenCorpus
from bigramlib.training.config import SparsifyConfig

log = logging.getLogger(__name__)


def key_facts(
    model_facts: dict, target: Target, corpus: TokenCorpus, config: SparsifyConfig, start_hash: str | None = None
) -> dict:
    """What the result of a run depends on. The key in the store is made of it, and of no other `LanguageModel.facts`.

    Args:
        model_facts: `LanguageModel.facts`.
        target: what it predicts.
        corpus: training text.
        config: the schedule.
        start_hash: of the subnetwork that it started from, if any.
    """
    facts = {
        "weights_hash": model_facts["weights_hash"],
        "target_hash": target.hash,
        "corpus_hash": corpus.hash,
        "config": config.facts(),
    }
    facts |= {"start_hash": start_hash} if start_hash else {}
    return facts if "model_hash" not in model_facts else facts | {"model_hash": model_facts["model_hash"]}


def store_key(facts: dict) -> str:
    """The name, without its suffix, of a run's file in the store, made of its `key_facts`."""
    return content_hash(*facts.values(), "mask training 1")[:24]


def stored_subnetwork(file: Path, facts: dict, aside: bool = True) -> Subnetwork | None:
    """The subnetwork that the store holds for a run, or None. A file that is damaged or of another run counts as none.

    Args:
        file: where it lies.
        facts: what its provenance must say.
        aside: whether to rename a file that counts as none; only the holder of the file's lock may.

    Raises:
        OSError, MemoryError: the file cannot be read just now; it is left as it is.
    """
    try:
        found = Subnetwork.load(file)
        for name, value in facts.items():
            if found.provenance.get(name) != value:
                mine = found.provenance.get(name)
                raise ValueError(f"it is a subnetwork of another run: its {name} is {mine!r}, not {value!r}")
    except FileNotFoundError:
        return None
    except ValueError as error:
        if aside:
            set_aside(file, error)
        return None
    return found


def warn_of_earlier(file: Path, facts: dict) -> None:
    """Warn if the store holds this run's subnetwork from version 0.1, whose keys did not tell configuration and tokenizer."""
    earlier = file.with_name(f"{store_key({name: value for name, value in facts.items() if name != 'model_hash'})}.safetensors")
    with suppress(OSError, MemoryError):
        found = stored_subnetwork(earlier, {}, aside=False) if earlier != file else None
        if found is None or "model_hash" in found.provenance:
            return
        log.warning(
            "%r was found by an earlier version in a model of these weights, but does not say of which configuration and "
            "tokenizer, so the mask is trained again; Subnetwork.load reads the file as it is.",
            str(earlier),
        )
