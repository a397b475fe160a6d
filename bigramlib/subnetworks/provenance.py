"""Where a subnetwork comes from: the facts that are kept with it, and what follows from them.

A provenance is a dict that JSON can hold. That of a subnetwork found by training states its model ("model", "weights_hash",
perhaps "model_hash"), its text and its settings. That of one made from others states how ("origin"). Both hold the provenances
of what they were made from: in "start" for the subnetwork that a search started from, in "of" for complements, unions,
intersections and differences, in "like" for random controls, in "from" for transplanted masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


def found_in(provenance: object) -> set[tuple[str, str]]:
    """The models in which a subnetwork, or those that it was made from, were found by training.

    Returns:
        Pairs of `LanguageModel.weights_hash` and `LanguageModel.hash`. The second is empty where only the first was recorded.
        There are no pairs for a subnetwork that was made by naming layers, heads or dimensions.
    """
    if not isinstance(provenance, dict):
        return set()
    if "weights_hash" in provenance:
        return {(str(provenance["weights_hash"]), str(provenance.get("model_hash", "")))}
    sources = provenance.get("of", provenance.get("like"))
    return set().union(*map(found_in, sources if isinstance(sources, list) else [sources]))


def model_of(provenance: dict) -> str:
    """The name of the model in which a subnetwork, or the first of those that it was made from, was found."""
    while "model" not in provenance:
        sources = provenance.get("of", provenance.get("like", {"model": "an unknown model"}))
        provenance = sources[0] if isinstance(sources, list) else sources
    return provenance["model"]


def check_found_in(provenance: dict, model: LanguageModel) -> None:
    """Raise ValueError, naming the difference, if a subnetwork was found by training in another model than this one.

    Within `Subnetwork.applied` the model counts as what it is now and as what it was before.
    """
    for weights_hash, model_hash in sorted(found_in(provenance)):
        if any(weights == weights_hash and model_hash in ("", whole) for weights, whole in _known_as(model)):
            continue
        if weights_hash == model.weights_hash:
            raise ValueError(
                f"The subnetwork was found in {model_of(provenance)!r}, whose weights {model.name!r} has, but whose "
                "configuration, vocabulary or first token is another; load that model, or, if you mean to use it on this "
                "one, take subnetwork.transplanted(model)."
            )
        raise ValueError(
            f"The subnetwork was found in {model_of(provenance)!r} with the weights {weights_hash[:12]}, but "
            f"{model.name!r} has the weights {model.weights_hash[:12]}; load that model and revision, or, if you "
            "mean to use it on other weights, take subnetwork.transplanted(model)."
        )


def _known_as(model: LanguageModel) -> Iterator[tuple[str, str]]:
    """What a model was before and what it is now, last because hashing the weights of the moment takes longest."""
    yield from model.identity.beneath
    yield model.weights_hash, model.hash


def plain_facts(provenance: dict) -> dict:
    """A provenance as JSON gives it back: numbers and arrays of NumPy and torch become plain numbers and lists, paths texts.

    Raises:
        ValueError: it holds something that JSON cannot hold.
    """

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray | np.generic | Tensor):
            return value.tolist()
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"a {type(value).__name__}")

    try:
        return json.loads(json.dumps(provenance, default=plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"The provenance of the subnetwork is not JSON ({error}); keep texts, numbers and lists.") from error
