"""Reading a model without the blocks that a search never computes: their matrices are read once, to check and hash them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from bigramlib.models.architectures import held, is_within, layer_of
from bigramlib.models.checks import check_finite
from bigramlib.models.discovery import OTHER_SENSES
from bigramlib.models.folders import built
from bigramlib.models.left_out import refuse
from bigramlib.store import tensors_hash


def built_within(
    config: PretrainedConfig, tensors: Mapping[str, Any], name: str, layers: int | None, attention: bool
) -> tuple[PreTrainedModel, str]:
    """The fp32 model of a config with these weights, without the matrices that lie outside of `Architecture.within`.

    Args:
        config: the model's.
        tensors: all its weights by name, or slices of safetensors.
        name: what the user calls it, for messages.
        layers: as in `Architecture.within`, which says what is kept in memory.
        attention: as there.

    Returns:
        (model, hash): matrices that are left out are on the device "meta"; the SHA-256 (hex) of all weights, with them
        (`Identity.weights_hash`), or "" if nothing is left out.

    Raises:
        ValueError: the weights are not exactly those of the model.
        FloatingPointError: a weight that is left out is NaN or infinite.
    """

    def outside(key: str) -> bool:
        is_matrix = re.search(r"\.\d+\.", key) and held(key) and not re.search(OTHER_SENSES, key)
        return bool(is_matrix) and not is_within(key, layers, attention)

    if not any(map(outside, tensors)):
        return built(config, tensors, name), ""
    hf = built(config, _with(tensors, lambda key: not outside(key)), name)
    refuse(hf, name)

    def of_layer(layer: int) -> PreTrainedModel:
        return built(config, _with(tensors, lambda key: outside(key) and layer_of(key) == layer), name)

    return hf, tensors_hash(_Weights(hf, of_layer, name))


class _Weights(Mapping[str, Tensor]):
    """All weights of a model by parameter name; those that are left out are read when they are asked for, a layer at a time."""

    def __init__(self, hf: PreTrainedModel, of_layer: Callable[[int], PreTrainedModel], name: str) -> None:
        self.here = dict(hf.named_parameters())
        self.of_layer, self.name = of_layer, name
        self.layer, self.read = -1, dict[str, Tensor]()

    def __getitem__(self, parameter: str) -> Tensor:
        if not self.here[parameter].is_meta:
            return self.here[parameter]
        if self.layer != layer_of(parameter):
            self.read.clear()
            self.layer = layer_of(parameter)
            self.read = dict(self.of_layer(self.layer).named_parameters())
        check_finite({parameter: self.read[parameter]}, self.name)
        return self.read[parameter]

    def __iter__(self) -> Iterator[str]:
        return iter(self.here)

    def __len__(self) -> int:
        return len(self.here)


class _Unread:
    """Stands for a stored tensor, of which only the shape is read."""

    def __init__(self, tensor: Any) -> None:
        self.shape = tensor.shape if isinstance(tensor, Tensor) else tensor.get_shape()

    def __getitem__(self, _: object) -> _Unread:
        return self

    def to(self, device: object = None, dtype: torch.dtype | None = None) -> Tensor:
        """An empty tensor of this shape that takes no memory, whatever device is asked for."""
        return torch.empty(self.shape, dtype=dtype, device="meta")


def _with(tensors: Mapping[str, Any], wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The tensors, all but the wanted ones unread."""
    return {key: tensor if wanted(key) else _Unread(tensor) for key, tensor in tensors.items()}
