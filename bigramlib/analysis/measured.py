"""What passes over text gave, kept in the store by content, so that no two notebooks measure the same.

A measurement is found again by all that it depends on: the model's weights, hashed anew at each asking, masked as they are at
that moment; its configuration, modules and buffers; the text, token by token; the target; and what the first batch gives, which
is always computed. So another machine, number of threads or version of PyTorch, and code that was changed by hand, measure
for themselves, as far as they would give other bits. A model that cannot be told apart so is measured every time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from bigramlib.disk import remove_leftovers
from bigramlib.models.checks import hooked
from bigramlib.models.language_model import LanguageModel
from bigramlib.store import content_hash, set_aside, store_folder
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.tensor_file import DAMAGED, read_tensors, write_tensors

FORM = "bigramlib measurement 1"
log = logging.getLogger(__name__)


def told_apart(model: LanguageModel, subnetwork: Subnetwork | None = None) -> str | None:
    """A text that differs between models, as they are now, that predict differently; None for one that has no such text.

    It is that of the model of which only the subnetwork is kept, if one is given. A model has none that has hooks or forward
    passes of the user's, of which only a part is in training mode, whose numbers are not all float32, or that is not on the
    CPU, where passes take longer than hashing.
    """
    if subnetwork:
        with subnetwork.applied(model):
            return told_apart(model)
    hf = model.hf
    numbers = [number for number in (*hf.parameters(), *hf.buffers()) if not number.is_meta and number.is_floating_point()]
    plain = all(number.dtype == torch.float32 and number.device.type == "cpu" for number in numbers)
    partly_training = not hf.training and any(module.training for module in hf.modules())
    if not plain or partly_training or hooked(hf) is not None:
        return None
    model.identity.forget()
    return model.hash


def measured_once(
    model: LanguageModel,
    subnetwork: Subnetwork | None,
    apart: str | None,
    parts: Sequence[object],
    make: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The tensors of a measurement, by name: from the store, or made, and kept there.

    Args:
        model: the model. If it is changed meanwhile, nothing is kept.
        subnetwork: keep only these weights; None for the whole model.
        apart: what `told_apart` gave before the first pass; with None they are only made.
        parts: what else they depend on, as in `measurement_file`.
        make: makes them.
    """
    if apart is None:
        return make()
    file = measurement_file(apart, *parts)
    if found := read_measurement(file):
        return found
    made = make()
    if told_apart(model, subnetwork) == apart:
        write_measurement(file, made)
    return made


def measurement_file(*parts: object) -> Path:
    """Where the store keeps a measurement.

    Args:
        parts: all that it depends on, as `content_hash` takes it: what it is, with its version, what `told_apart` gave, and
            so on.
    """
    return store_folder("measurements") / f"{content_hash(FORM, *parts)[:24]}.safetensors"


def read_measurement(file: Path) -> dict[str, Tensor] | None:
    """The tensors of a measurement; None if the store does not hold it, or it cannot be read just now.

    A damaged file is renamed with a warning, and counts as none.
    """
    try:
        _, facts, tensors = read_tensors(file, FORM)
        if facts["file"] != file.name:
            raise ValueError("it is another measurement")
        return tensors
    except DAMAGED as error:
        with suppress(OSError):  # it stays in a store that is read-only
            set_aside(file, f"it is not a whole measurement ({error})")
    except (OSError, MemoryError) as error:
        log.info("A measurement is made again: %s", error)
    return None


def write_measurement(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Keep the tensors of a measurement, by name, if the store can be written to."""
    remove_leftovers(file)
    try:
        write_tensors(file, FORM, {"file": file.name}, tensors)
    except (OSError, SafetensorError) as error:
        log.info("A measurement is not kept: %s", error)
