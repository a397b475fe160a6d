"""Masks by parameter name: what they must be, whether they fit a model, and their hash.

A mask is a bool tensor on the CPU of the shape of its parameter, a matrix or the matrices of all experts; True keeps a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bigramlib.models.architectures import Architecture
from bigramlib.store import content_hash

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


def check_masks(masks: Mapping[str, Tensor], architecture: Architecture) -> None:
    """Raise ValueError unless there is a mask for each maskable parameter of an architecture, and for nothing else."""
    if set(masks) != set(architecture.maskable):
        odd = sorted(set(masks) ^ set(architecture.maskable))[0]
        raise ValueError(f"Masks must name exactly the maskable parameters of the architecture; {odd!r} does not match.")
    for name, mask in masks.items():
        if not isinstance(mask, Tensor):
            raise ValueError(f"The mask of {name!r} is a {type(mask).__name__}; it must be a bool tensor on the CPU.")
        shape = architecture.shapes[name]
        if mask.dtype != torch.bool or mask.shape != shape or mask.device.type != "cpu":
            what = f"{mask.dtype} of shape {tuple(mask.shape)}" + f" on {mask.device}" * (mask.device.type != "cpu")
            raise ValueError(f"The mask of {name!r} is {what}; it must be a bool tensor of shape {shape} on the CPU.")


def check_shapes(masks: Mapping[str, Tensor], architecture: Architecture, model: LanguageModel) -> None:
    """Raise ValueError, naming the first difference, unless a model has this architecture and weights of these shapes."""
    mine, theirs = architecture.facts, model.architecture.facts
    if mine != theirs:
        odd = next(key for key in mine if mine[key] != theirs[key])
        raise ValueError(
            f"The subnetwork is of a model with {odd} {mine[odd]}, but {model.name!r} has {theirs[odd]}; "
            "load the model it was found in."
        )
    for name, weight in model.maskable.items():
        if name not in masks or masks[name].shape != weight.shape:
            found = tuple(masks[name].shape) if name in masks else "missing"
            raise ValueError(
                f"The mask of {name!r} is {found}, but in {model.name!r} the weight is {tuple(weight.shape)}; load the model "
                "it was found in."
            )


def shuffled(masks: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Masks that keep as many weights of each parameter, drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, mask in masks.items():
        flat = torch.zeros(mask.numel(), dtype=torch.bool, device="cpu")
        flat[torch.randperm(mask.numel(), generator=generator, device="cpu")[: int(mask.sum())]] = True
        found[name] = flat.view(mask.shape)
    return found


def masks_hash(masks: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of masks with their names, in their order."""
    return content_hash(*(part for name in masks for part in (name, masks[name].numpy())))
