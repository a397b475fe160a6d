"""Where in a model kept weights lie: by layer, component, attention head and MLP dimension; and masks of such places.

A component is one of q, k, v, o, "mlp in", "mlp gate" and "mlp out" of one layer. A unit of a component is an attention head
or an MLP dimension (see `bigramlib.models.architectures.Component`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bigramlib.models.architectures import Architecture


def component_table(masks: Mapping[str, Tensor], architecture: Architecture) -> pd.DataFrame:
    """One row for each component.

    Returns:
        Columns layer, component, kept (weights), total (weights), density (kept / total), share (of all kept weights).
    """
    rows = []
    for component in architecture.components:
        part = component.of(masks[component.parameter])
        rows.append((component.layer, component.name, int(part.sum()), part.numel()))
    table = pd.DataFrame(rows, columns=["layer", "component", "kept", "total"])
    table["density"] = table.kept / table.total
    table["share"] = table.kept / max(1, table.kept.sum())
    return table


def unit_table(masks: Mapping[str, Tensor], architecture: Architecture) -> pd.DataFrame:
    """One row for each attention head and MLP dimension of each component.

    Returns:
        Columns layer, component, unit (number of the head or dimension), kept (weights), total (weights).
    """
    tables = []
    for component in architecture.components:
        mask = masks[component.parameter]
        counts = mask.sum(dim=1 - component.axis).numpy()[component.units].sum(axis=1)
        groups, size = component.units.shape
        facts = {"layer": component.layer, "component": component.name, "unit": range(groups), "kept": counts}
        tables.append(pd.DataFrame(facts | {"total": size * mask.shape[1 - component.axis]}))
    return pd.concat(tables, ignore_index=True)


def first_mlp_share(components: pd.DataFrame) -> float:
    """Share of the kept weights that lies in the first layer's MLP (finding 2 of Chang & Bergen 2025).

    Args:
        components: a `component_table`.
    """
    return float(components.share[(components.layer == 0) & components.component.str.startswith("mlp")].sum())


def layer_shares(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Share of each subnetwork's kept weights by layer and kind of component.

    Args:
        tables: the `component_table` of each subnetwork.

    Returns:
        Columns layer, kind ("mlp" or "attention"), share (of the subnetwork's kept weights), kept (all its kept weights).
    """
    found = []
    for table in tables:
        kind = np.where(table.component.str.startswith("mlp"), "mlp", "attention")
        shares = table.assign(kind=kind).groupby(["layer", "kind"], as_index=False).share.sum()
        found.append(shares.assign(kept=table.kept.sum()))
    return pd.concat(found, ignore_index=True)


def first_mlp_dimensions(units: pd.DataFrame) -> pd.Series:
    """Number of kept weights into and out of each dimension of the first layer's MLP.

    Args:
        units: a `unit_table`.

    Returns:
        The numbers of weights; the index `unit` numbers the dimensions.
    """
    return units[(units.layer == 0) & units.component.str.startswith("mlp")].groupby("unit").kept.sum()


def gini(counts: Sequence[int] | pd.Series) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, close to 1 if one of many holds everything."""
    ordered = np.sort(np.asarray(counts, dtype=float))
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / max(1e-300, n * ordered.sum()))


def head_units(architecture: Architecture, head: int) -> dict[str, list[int]]:
    """The units of one attention head, by component; of k and v the head that it shares with its group.

    Raises:
        ValueError: there is no such head.
    """
    head = checked_index("head", head, architecture.heads)
    group = head // (architecture.heads // architecture.key_value_heads)
    return {"q": [head], "k": [group], "v": [group], "o": [head]}


def mlp_units(architecture: Architecture, dimensions: Sequence[int] | None = None) -> dict[str, list[int]]:
    """Some dimensions of an MLP, or all of them, by component.

    Raises:
        ValueError: there is no such dimension.
    """
    size = architecture.mlp_size
    chosen = [checked_index("MLP dimension", each, size) for each in (range(size) if dimensions is None else dimensions)]
    return dict.fromkeys(("mlp in", "mlp gate", "mlp out"), chosen)


def part_masks(
    weights: Mapping[str, Tensor], architecture: Architecture, layer: int, units: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """Masks that keep a part of one layer.

    Args:
        weights: the maskable weights of the model, of which only the shapes count.
        architecture: their layout.
        layer: from 0.
        units: the units to keep, by component (see `head_units` and `mlp_units`); the whole layer if it is empty.
    """
    masks = {name: torch.zeros(weight.shape, dtype=torch.bool, device="cpu") for name, weight in weights.items()}
    for component in architecture.components:
        if component.layer == layer and (not units or component.name in units):
            component.fill_(masks[component.parameter], True, units.get(component.name))
    return masks


def checked_index(kind: str, index: int, count: int) -> int:
    """An index of any integer type as a plain int.

    Args:
        kind: what it numbers, for the error.
        index: from 0.
        count: how many of this kind there are.

    Raises:
        ValueError: there is none of this index.
    """
    if not 0 <= index < count or index != int(index):
        raise ValueError(f"There is no {kind} {index}; the model has {count}, numbered from 0.")
    return int(index)
