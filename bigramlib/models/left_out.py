"""Blocks of a model that are left out of memory, since a search never computes them: their matrices are on the device "meta".

A module that would need them raises instead of running, unless it is skipped (`masking.skipping`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from bigramlib.models.architectures import Architecture


@dataclass(frozen=True)
class Refusal:
    """The hook on a module whose matrices are left out.

    Attributes:
        place: the name of the module.
        model: what the user calls the model.
    """

    place: str
    model: str

    def __call__(self, module: nn.Module, _: object) -> None:
        """Raise ValueError unless the module is skipped, or has other weights for this pass."""
        if "forward" not in vars(module) and any(weight.is_meta for weight in module.parameters(recurse=False)):
            raise _needed(self.place, self.model)


def refuse(hf: PreTrainedModel, model: str) -> None:
    """Let the modules of a model refuse to run whose matrices are left out."""
    for place, module in hf.named_modules():
        if any(weight.is_meta for weight in module.parameters(recurse=False)):
            module.register_forward_pre_hook(Refusal(place, model))


def blocks_left_out(hf: PreTrainedModel, architecture: Architecture) -> list[str]:
    """The blocks, of those in `Architecture.blocks`, whose matrices are left out."""
    absent = {name for name, weight in hf.named_parameters() if weight.is_meta}
    return [block for block, names in architecture.blocks.items() if not absent.isdisjoint(names)]


def check_loaded(hf: PreTrainedModel, architecture: Architecture, name: str, blocks: Iterable[str] | None = None) -> None:
    """Raise ValueError if some blocks of a model, or any if none are named, are left out."""
    wanted = architecture.blocks if blocks is None else blocks
    if absent := next((block for block in blocks_left_out(hf, architecture) if block in wanted), None):
        raise _needed(absent, name)


def move(hf: PreTrainedModel, device: str | torch.device) -> None:
    """Move a model to a device, in place, all but what is left out."""
    hf._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))


def _needed(place: str, model: str) -> ValueError:
    return ValueError(
        f"The weights of {place!r} were left out when {model!r} was loaded (layers, attention of load_model), but are needed "
        "here; load the whole model."
    )
