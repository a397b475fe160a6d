"""Checkpoints of the embedded model in one byte a weight: int8 rows with one fp32 scale each, in safetensors.

The rounded weights *are* the embedded model: pretraining reports its figures on them, and masks are trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bigramlib.store import written_whole

_SCALE = "::scale"


def save_checkpoint(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write named tensors; matrices are rounded to 127 steps a side of each row's largest value, vectors stay fp32."""
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        value = value.detach().float().cpu()
        if value.ndim == 2:
            scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            tensors[name] = (value / scale).round().to(torch.int8)
            tensors[name + _SCALE] = scale
        else:
            tensors[name] = value.contiguous()
    with written_whole(path) as temporary:
        save_file(tensors, temporary)


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read what `save_checkpoint` wrote, as fp32 tensors."""
    tensors = load_file(path)
    return {
        name: value.float() * tensors[name + _SCALE] if name + _SCALE in tensors else value
        for name, value in tensors.items()
        if not name.endswith(_SCALE)
    }
