"""Where in a model kept weights lie: by layer, component, attention head and MLP dimension; and masks of such places.

A component is one of q, k, v, o, "mlp in", "mlp gate" and "mlp out" of one layer, or of one expert of it. A unit of a component
is an attention head or an MLP dimension (see `bigramlib.models.components.Component`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bigramlib.models.architectures import Architecture
from bigramlib.models.components import ATTENTION_COMPONENTS, MLP_COMPONENTS
from bigramlib.numeric import whole_number


def component_table(masks: Mapping[str, Tensor], architecture: Architecture) -> pd.DataFrame:
    """One row for each component.

    Returns:
        Columns layer, component, expert (only of models with experts; missing for all that is no expert's), kept (weights),
        total (weights), density (kept / total), share (of all kept weights).
    """
    table = _placed(architecture, [component.of(masks[component.parameter]) for component in architecture.components])
    table["density"] = table.kept / table.total
    table["share"] = table.kept / max(1, table.kept.sum())
    return table


def unit_table(masks: Mapping[str, Tensor], architecture: Architecture) -> pd.DataFrame:
    """One row for each attention head and MLP dimension of each component.

    Returns:
        Columns layer, component, expert (as in `component_table`), unit (number of the head or dimension), kept (weights),
        total (weights).
    """
    counted: dict[str, list[np.ndarray]] = {"unit": [], "kept": [], "total": []}
    for component in architecture.components:
        mask = component.matrix(masks[component.parameter])
        groups, size = component.units.shape
        counted["unit"].append(np.arange(groups))
        counted["kept"].append(mask.sum(dim=1 - component.axis).numpy()[component.units].sum(axis=1))
        counted["total"].append(np.full(groups, size * mask.shape[1 - component.axis]))
    places = _placed(architecture, None)
    repeated = places.loc[places.index.repeat([len(units) for units in counted["unit"]])].reset_index(drop=True)
    return repeated.assign(**{column: np.concatenate(parts) for column, parts in counted.items()})


def _placed(architecture: Architecture, parts: list[Tensor] | None) -> pd.DataFrame:
    """The places of all components, and, if their parts of masks are given, how many weights are kept of how many."""
    components = architecture.components
    table = pd.DataFrame({"layer": [c.layer for c in components], "component": [c.name for c in components]})
    if any(component.expert is not None for component in components):
        table["expert"] = pd.array([component.expert for component in components], dtype="Int64")
    if parts is not None:
        table["kept"] = [int(part.sum()) for part in parts]
        table["total"] = [part.numel() for part in parts]
    return table


def density_grid(components: pd.DataFrame) -> pd.DataFrame:
    """The kept share of each layer (rows) and component (columns), all experts of a layer together.

    Args:
        components: a `component_table`.
    """
    counts = components.groupby(["layer", "component"], sort=False)[["kept", "total"]].sum()
    return (counts.kept / counts.total).unstack("component", sort=False)


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
        The numbers of weights; the index `unit` numbers the dimensions, after `expert` where there are experts.
    """
    units = units[(units.layer == 0) & units.component.str.startswith("mlp")]
    by = [column for column in ("expert", "unit") if column in units]
    return units.groupby(by, dropna=False).kept.sum()


def gini(counts: Sequence[int] | pd.Series) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, close to 1 if one of many holds everything."""
    ordered = np.sort(np.asarray(counts, dtype=float))
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / max(1e-300, n * ordered.sum()))


def head_units(architecture: Architecture, layer: int, head: int) -> dict[str, list[int]]:
    """The units of one attention head, by component; of k and v the head that it shares with its group.

    Raises:
        ValueError: there is no such head, or no attention in this layer.
    """
    counts = {part.name: len(part.units) for part in architecture.of_layer(layer) if part.name in ATTENTION_COMPONENTS}
    if not counts:
        raise ValueError(f"Layer {layer} has no attention heads.")
    head = checked_index("head", head, counts["o"])
    return {name: [head * count // counts["o"]] for name, count in counts.items()}


def checked_heads(architecture: Architecture, pairs: Iterable) -> list[tuple[int, int]]:
    """The layer and the number of each of some attention heads, as plain ints.

    Raises:
        ValueError: there is no such head, or what is given are no pairs.
    """
    pairs = list(pairs)
    if not all(isinstance(pair, Sequence | np.ndarray) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"Heads are named by pairs of layer and head, such as [(0, 3), (2, 1)], not by {pairs!r}.")
    heads = []
    for pair in pairs:
        layer, head = (whole_number(what, index) for what, index in zip(("layer", "head"), pair, strict=True))
        layer = checked_index("layer", layer, architecture.layers)
        heads.append((layer, head_units(architecture, layer, head)["o"][0]))
    return heads


def head_masks(
    weights: Mapping[str, Tensor], architecture: Architecture, heads: Iterable[tuple[int, int]]
) -> dict[str, Tensor]:
    """Masks that keep some attention heads, given by layer and number; `weights` are the maskable ones of the model."""
    masks = {name: torch.zeros(weight.shape, dtype=torch.bool, device="cpu") for name, weight in weights.items()}
    for layer, head in heads:
        for name, mask in part_masks(weights, architecture, layer, head_units(architecture, layer, head)).items():
            masks[name] |= mask
    return masks


def mlp_units(
    architecture: Architecture, layer: int, dimensions: Sequence[int] | None = None, expert: int | None = None
) -> dict[str, list[int] | None]:
    """Some dimensions of a layer's MLP or of one of its experts, or all of them, by component.

    Without dimensions and expert it is the whole of a mixture, all experts and what stands beside them: None for each
    component. With dimensions alone it is what stands beside the experts.

    Raises:
        ValueError: there is no such dimension, expert or MLP.
    """
    parts = [part for part in architecture.of_layer(layer) if part.name in MLP_COMPONENTS]
    experts = len({part.expert for part in parts} - {None})
    if experts and dimensions is None and expert is None:
        return dict.fromkeys(part.name for part in parts)
    chosen = [part for part in parts if part.expert == expert]
    if not chosen:
        has = "an MLP without experts; name none" if parts else "no MLP"
        if experts:
            has = f"{experts} experts, numbered from 0; name one of them as expert"
        raise ValueError(f"Layer {layer} has {has}.")
    counts = {part.name: len(part.units) for part in chosen}
    return {
        name: [checked_index("MLP dimension", each, count) for each in (range(count) if dimensions is None else dimensions)]
        for name, count in counts.items()
    }


def part_masks(
    weights: Mapping[str, Tensor],
    architecture: Architecture,
    layer: int,
    units: Mapping[str, list[int] | None],
    expert: int | None = None,
) -> dict[str, Tensor]:
    """Masks that keep a part of one layer.

    Args:
        weights: the maskable weights of the model, of which only the shapes count.
        architecture: their layout.
        layer: from 0.
        units: the units to keep, by component (see `head_units` and `mlp_units`); None for the whole component, in all experts;
            the whole layer if it is empty.
        expert: whose units they are; None for those of attention, of ordinary MLPs and of what stands beside experts.
    """
    masks = {name: torch.zeros(weight.shape, dtype=torch.bool, device="cpu") for name, weight in weights.items()}
    for component in architecture.of_layer(layer):
        chosen = units.get(component.name)
        if not units or (component.name in units and (chosen is None or component.expert == expert)):
            component.fill_(masks[component.parameter], True, chosen)
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
