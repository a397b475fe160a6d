"""A grid of searches, and what their subnetworks are like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd
import torch

from bigramlib.analysis.evaluate import MAX_TOKENS, evaluate
from bigramlib.cluster.executors import Executor, on_each
from bigramlib.cluster.searches import Search
from bigramlib.models.loading import architecture_named, checkpoint_names, load_model
from bigramlib.numeric import Number
from bigramlib.text.sources import check_source
from bigramlib.training.config import SparsifyConfig

ALL = "all"
"""In place of checkpoints: those that are known of a model."""


def grid(
    models: Sequence[str],
    corpora: Sequence[str] = ("sotu",),
    penalties: Sequence[Number] = (10,),
    seeds: Sequence[Number] = (0,),
    *,
    checkpoints: Sequence[str] = (),
    targets: Sequence[str] = ("bigram",),
    controls: Sequence[str] = ("",),
    device: str = "cpu",
    text_column: str = "text",
    settings: Mapping[str, Any] | None = None,
) -> list[Search]:
    """Every combination as a `Search` with the schedule that suits it, those of one model and text next to each other.

    Args:
        models: names for `load_model`.
        corpora: sources for `LanguageModel.load_corpus`.
        penalties: sparsity penalties (lambda).
        seeds: of the batches, and of the weights of controls.
        checkpoints: of each model, as they come after the "@" of its name; "all" stands for those of an embedded model. The
            model itself if empty.
        targets: as `target` of `Search`.
        controls: as `control` of `Search`.
        device: as in `Search`.
        text_column: as in `Search`.
        settings: fields of `SparsifyConfig` in place of the suited ones.

    Raises:
        ValueError: there is no such model, checkpoint, text or setting, or a list is empty.
    """
    _check_lists(models=models, corpora=corpora, penalties=penalties, seeds=seeds, targets=targets, controls=controls)
    for corpus in corpora:
        check_source(corpus)
    searches = []
    for model in models:
        maskable = architecture_named(model).size
        for name, corpus, control, target in product(_checkpoints(model, checkpoints), corpora, controls, targets):
            suited = SparsifyConfig.suited_to(maskable, target == "model", torch.device(device))
            reader = "" if name == model else model
            named = Search(name, corpus, suited.with_settings(settings or {}), target, control, 0, reader, device, text_column)
            for penalty, seed in product(penalties, seeds):
                config = replace(named.config, sparsity_penalty=penalty, seed=seed)
                searches.append(replace(named, config=config, control_seed=config.seed if control else 0))
    return searches


def _check_lists(**lists: Sequence) -> None:
    """Raise ValueError if a list has nothing in it."""
    for name, values in lists.items():
        if not values:
            raise ValueError(f"{name} is empty; give at least one value.")


def _checkpoints(model: str, checkpoints: Sequence[str]) -> list[str]:
    """Names of the wanted checkpoints of a model, each of which is there."""
    if not checkpoints:
        return [model]
    if ALL in checkpoints:
        return list(checkpoint_names(model).values())
    names = [f"{model}@{checkpoint}" for checkpoint in checkpoints]
    for name in names:
        load_model(name)
    return names


def measured(
    searches: Iterable[Search], executor: Executor | None = None, *, max_tokens: int | None = MAX_TOKENS
) -> pd.DataFrame:
    """Measure the subnetworks of searches on held-out text; those that the store lacks are found before.

    Args:
        searches: the searches.
        executor: where they are measured, as in `find_subnetworks`.
        max_tokens: as in `evaluate`.

    Returns:
        One row for each: the fields of `Search` but its config, sparsity_penalty, seed, kept and total (weights), density,
        first_mlp_share, r with its 95 % interval r_low to r_high, kl and cross_entropy (nats per token), tokens (measured),
        converged, steps, and the masks' hash.

    Raises:
        ExceptionGroup: as `find_subnetworks` does.
    """
    asked = [(search, max_tokens) for search in dict.fromkeys(searches)]
    found = on_each(_measurement, asked, executor, "measurements")
    return pd.DataFrame([search.facts | found[search, max_tokens] for search, _ in asked])


def _measurement(asked: tuple[Search, int | None]) -> dict[str, Any]:
    """What `measured` says of one search."""
    search, max_tokens = asked
    subnetwork, subject = search.subnetwork(), search.subject()
    evaluation = evaluate(subject.model, subject.held_out, subject.table, subnetwork, max_tokens=max_tokens)
    low, high = evaluation.r_interval
    return {
        "kept": subnetwork.kept,
        "total": subnetwork.total,
        "density": subnetwork.density,
        "first_mlp_share": subnetwork.first_mlp_share(),
        "r": evaluation.r,
        "r_low": low,
        "r_high": high,
        "kl": evaluation.kl,
        "cross_entropy": evaluation.cross_entropy,
        "tokens": evaluation.tokens,
        "converged": subnetwork.provenance["converged"],
        "steps": subnetwork.provenance["steps"],
        "hash": subnetwork.hash,
    }
