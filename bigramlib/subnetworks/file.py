"""The file of a subnetwork: one safetensors file with a bit for each maskable weight and everything else as JSON.

Its tensors are the masks, eight weights a byte (`numpy.packbits`). Its metadata hold one JSON text under "bigramlib":

    format          "bigramlib subnetwork 1"
    hash            SHA-256 of the masks
    shapes          of the masks, by parameter name, in order
    architecture    the facts of `Architecture`
    provenance      see provenance.py
    facts_hash      SHA-256 of architecture and provenance; the first files lack it
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from bigramlib.disk import reading, safe_tensors, written_whole
from bigramlib.models.architectures import Architecture, held, in_order, layer_of
from bigramlib.store import content_hash
from bigramlib.subnetworks.masks import check_masks, masks_hash
from bigramlib.subnetworks.provenance import plain_facts

FORMAT = "bigramlib subnetwork 1"
MOST_EXPERTS = 2**18
"""More experts than this, counted in each parameter that holds some, are in no file that this library wrote."""
DAMAGED = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""The errors that reading a damaged or hostile file leads to."""


def write_file(
    path: str | Path, masks: Mapping[str, Tensor], architecture: Architecture, provenance: dict, known_hash: str
) -> None:
    """Write the file of a subnetwork, whole or not at all; `known_hash` is the `masks_hash` of its masks.

    Raises:
        ValueError: the provenance is not JSON.
        OSError: it cannot be written; a file that was there before stays as it was.
    """
    header = {
        "format": FORMAT,
        "hash": known_hash,
        "shapes": {name: list(mask.shape) for name, mask in masks.items()},
        "architecture": architecture.facts,
        "provenance": plain_facts(provenance),
    }
    header["facts_hash"] = facts_hash(header)
    packed = {name: np.packbits(mask.numpy()) for name, mask in masks.items()}
    try:
        with written_whole(Path(path).expanduser()) as temporary:
            save_file(packed, temporary, metadata={"bigramlib": json.dumps(header)})
    except SafetensorError as error:
        raise OSError(f"The subnetwork could not be written to {str(path)!r} ({error}); make room there.") from error


def read_file(path: str | Path) -> tuple[dict[str, Tensor], Architecture, dict, str]:
    """Read the masks, the architecture, the provenance and the hash of the masks that `write_file` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or altered, or not of this format.
        OSError, MemoryError: it cannot be read at the moment, which does not mean that it is damaged.
    """
    with _file(path) as place:
        return _checked(*safe_tensors(place, safe_open))


def read_provenance(path: str | Path) -> dict:
    """Read the provenance alone, from the beginning of a file; its masks are neither read nor checked.

    Raises:
        FileNotFoundError, ValueError, OSError, MemoryError: as `read_file` does.
    """
    with _file(path) as place, safe_open(place, framework="pt") as file:
        return _checked_header(file.metadata() or {})["provenance"]


@contextmanager
def _file(path: str | Path) -> Iterator[Path]:
    """Within the context a file is read; whatever shows that it is damaged becomes one sentence."""
    path = Path(path).expanduser()
    try:
        with reading(path):
            if not path.is_file():
                raise FileNotFoundError(f"There is no subnetwork file {str(path)!r}.")
            yield path
    except DAMAGED as error:
        raise ValueError(
            f"{str(path)!r} is not a whole subnetwork file of this library ({error}); fetch or train it again."
        ) from None


def facts_hash(header: dict) -> str:
    """SHA-256 (hex) of the architecture and the provenance in a header."""
    return content_hash(json.dumps([header["architecture"], header["provenance"]]))


def _checked(metadata: dict[str, str], tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Architecture, dict, str]:
    """What a file holds, once all of it is as its header states; raises one of `DAMAGED` where it is not."""
    header = _checked_header(metadata)
    masks = {name: _unpacked(name, tensors[name], shape) for name, shape in header["shapes"].items()}
    architecture = Architecture(**header["architecture"], shapes={name: tuple(mask.shape) for name, mask in masks.items()})
    _check_sizes(architecture)
    check_masks(masks, architecture)
    if masks_hash(masks) != header["hash"]:
        raise ValueError("its masks do not have the hash that it states")
    return masks, architecture, header["provenance"], header["hash"]


def _checked_header(metadata: dict[str, str]) -> dict:
    """What a file states of its masks, if it can be true and has the hash that it states."""
    header = json.loads(metadata["bigramlib"])
    if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}")
    _check_claims(header)
    if header.get("facts_hash", facts_hash(header)) != facts_hash(header):
        raise ValueError("its provenance or architecture does not have the hash that it states")
    return header


def _unpacked(name: str, packed: Tensor, shape: list) -> Tensor:
    """The mask of some shape of which these are the packed bits."""
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != (-(-count // 8),):
        raise ValueError(f"the mask of {name!r} does not have the bits of its shape {shape}")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool).reshape(shape))


def _check_claims(header: dict) -> None:
    """Raise ValueError if a header states what no model has, before memory is taken for it."""
    facts, shapes = header["architecture"], list(header["shapes"].values())
    numbers = {name: value for name, value in facts.items() if name != "model_type"}
    if not isinstance(facts["model_type"], str) or not all(map(_is_size, numbers.values())):
        raise ValueError("its architecture has a size that is not a positive whole number, or a type that is no text")
    if not shapes or not all(
        isinstance(shape, list) and len(shape) in (2, 3) and all(map(_is_size, shape)) for shape in shapes
    ):
        raise ValueError("its masks do not have shapes of two or three positive whole numbers")
    if sum(shape[0] for shape in shapes if len(shape) == 3) > MOST_EXPERTS:
        raise ValueError("it states more experts than any model has")
    if any(size > max(map(max, shapes)) for name, size in numbers.items() if name != "layers"):
        raise ValueError("its architecture is larger than its masks")
    if not isinstance(header["provenance"], dict):
        raise ValueError("its provenance is not a dict")


def _check_sizes(architecture: Architecture) -> None:
    """Raise ValueError unless the sizes of an architecture, as a file states them, are those of its masks."""
    if odd := next((name for name in architecture.shapes if not held(name)), None):
        raise ValueError(f"{odd!r} is the name of no attention or MLP matrix")
    names = in_order(list(architecture.shapes))
    shapes = {name: architecture.shapes[name] for name in names}
    found = Architecture.of(architecture.model_type, 1 + layer_of(names[-1]), architecture.heads, shapes)
    mlps = {len(part.units) for part in found.components if part.name == "mlp out"}
    if replace(found, mlp_size=architecture.mlp_size) != architecture or architecture.mlp_size not in mlps:
        raise ValueError("its masks are not those of its architecture")


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0
