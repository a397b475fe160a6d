"""A safetensors file of named tensors, with facts about them as JSON and a hash of both, by which damage is seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigramlib.disk import reading, safe_tensors, written_whole
from bigramlib.store import content_hash

DAMAGED = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""The errors that reading a damaged file leads to."""


def write_tensors(file: Path, form: str, facts: dict, tensors: Mapping[str, Tensor]) -> None:
    """Write a file whole, or leave what was there.

    Args:
        file: its path.
        form: the name and version of the file's format.
        facts: what JSON can hold.
        tensors: of any device; they are written as they are, in their own types.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": form, "facts": facts, "hash": _hash(facts, tensors)}
    with written_whole(file) as temporary:
        save_file(tensors, temporary, metadata={"bigramlib": json.dumps(header)})


def read_tensors(file: Path, *forms: str) -> tuple[str, dict, dict[str, Tensor]]:
    """The format, the facts and the tensors (on the CPU) that a file holds.

    Args:
        file: its path.
        forms: the formats that are allowed.

    Raises:
        FileNotFoundError: there is no such file.
        OSError, MemoryError: it cannot be read just now.
        One of DAMAGED: it is damaged, or of another format.
    """
    with reading(file):
        metadata, tensors = safe_tensors(file, safe_open)
    header = json.loads(metadata["bigramlib"])
    if header["format"] not in forms:
        raise ValueError("another version of bigramlib wrote it")
    if header["hash"] != _hash(header["facts"], tensors):
        raise ValueError("its content does not have the hash that it states")
    return header["format"], header["facts"], tensors


def _hash(facts: dict, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of facts and tensors. It does not depend on the order of the tensors."""
    parts: list[object] = [json.loads(json.dumps(facts))]
    for name in sorted(tensors):
        tensor = tensors[name]
        parts += [name, str(tensor.dtype), list(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy()]
    return content_hash(*parts)
