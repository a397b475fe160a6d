"""The pickle files in which Chang & Bergen (2025) publish their subnetworks: read without trusting them, and written.

Such a file is a pickled dict. It holds a bool array under the name of each maskable parameter, and under "orig_model_name" the
name of the model. Unpickling a file calls whatever functions the file names. The reader here knows only the few names that
plain bool and integer arrays need, and puts harmless versions in their place; a file that names anything else is refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import torch

from bigramlib.disk import reading, written_whole
from bigramlib.models.architectures import Architecture
from bigramlib.models.language_model import LanguageModel
from bigramlib.subnetworks.hub import downloaded
from bigramlib.subnetworks.subnetwork import Subnetwork

MODEL_NAME = "orig_model_name"
HUB = "hf://"


def load_published(source: str | Path, model: LanguageModel) -> Subnetwork:
    """Read a published subnetwork. Nothing in the file is executed.

    Args:
        source: a file, or "hf://owner/repository/path/to/file[@revision]".
        model: the model in which the subnetwork was found. Its parameters must have the names and shapes of the arrays in the
            file (GPT-2 stores [in, out] matrices), and it must have the name that the file states unless it was loaded from a
            local folder. The file does not state a revision; the subnetwork counts as one of the revision given here.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a published subnetwork, or one of another model, or the model has experts.
    """
    _check_matrices(model.architecture)
    path = _local(str(source))
    content = read_pickle(path)
    name = content.pop(MODEL_NAME, None)
    found = {parameter: array for parameter, array in content.items() if not isinstance(array, str)}
    if isinstance(name, str) and _stem(name) != _stem(model.name) and not Path(model.name).expanduser().exists():
        raise ValueError(f"{str(source)!r} is a subnetwork of {name!r}, but the model is {model.name!r}; load that model.")
    missing, odd = sorted(set(model.maskable) - set(found)), sorted(set(found) - set(model.maskable))
    if missing or odd:
        raise ValueError(
            f"{str(source)!r} does not fit {model.name!r}: it lacks {missing[:1]} and has {odd[:1]} beyond its maskable "
            "parameters; load the model that it was found in."
        )
    for parameter, weight in model.maskable.items():
        if found[parameter].shape != weight.shape:
            raise ValueError(
                f"In {str(source)!r} {parameter!r} is {found[parameter].shape}, but in {model.name!r} it is "
                f"{tuple(weight.shape)}; load the model that it was found in."
            )
    for parameter, array in found.items():
        if not np.isin(array, (0, 1)).all():
            raise ValueError(f"In {str(source)!r} {parameter!r} has numbers that are neither 0 nor 1; give masks, not weights.")
    masks = {parameter: torch.from_numpy(found[parameter].astype(bool)) for parameter in model.maskable}
    facts = model.facts() | {"published_model": name, "origin": "published", "source": str(source)}
    return Subnetwork(masks, model.architecture, facts)


def save_published(subnetwork: Subnetwork, model_name: str, path: str | Path) -> None:
    """Write a subnetwork as a pickle file that the code of Chang & Bergen (2025) can load.

    Args:
        subnetwork: what to write.
        model_name: the name of its model, which is written as "orig_model_name".
        path: where to write it.

    Raises:
        ValueError: the model has experts.
    """
    _check_matrices(subnetwork.architecture)
    content = {name: mask.numpy() for name, mask in subnetwork.masks.items()} | {MODEL_NAME: model_name}
    with written_whole(Path(path).expanduser()) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=4))


def read_pickle(path: Path) -> dict[str, np.ndarray | str]:
    """Read a pickled dict of matrices without executing anything that the file names.

    Returns:
        Matrices of bools or integers by name, and the text "orig_model_name" if there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds anything else, or is damaged.
        OSError: it cannot be read at the moment.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    with reading(path):
        pickled = io.BytesIO(path.read_bytes())
    try:
        content = _AdmittingUnpickler(pickled).load()
    except MemoryError:
        raise ValueError(f"{str(path)!r} claims to need more memory than there is; it is damaged or hostile.") from None
    except Exception as error:
        raise ValueError(f"{str(path)!r} is not a published subnetwork: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds a {type(content).__name__}, not a dict of arrays.")
    found: dict[str, np.ndarray | str] = {}
    for name, value in content.items():
        array = getattr(value, "array", None) if type(value) is _Array else None
        if type(name) is str and array is not None and array.ndim == 2:
            found[name] = array
        elif name == MODEL_NAME and type(value) is str:
            found[name] = value
        else:
            kind = "an array of another shape" if type(value) is _Array else f"a {type(value).__name__}"
            raise ValueError(f"In {str(path)!r}, {name!r} is {kind}, not a bool matrix.")
    return found


class _Dtype:
    """Takes the place of numpy.dtype in a pickle file: bools and integers, of some byte order."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or name.lstrip("<>=|") not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
            raise pickle.UnpicklingError(f"it has an array of {name!r}, not of bools or integers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError("it makes an array in an unusual way")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Takes the place of numpy.ndarray in a pickle file: an array made from bytes and a `_Dtype`."""

    array: np.ndarray

    def __init__(self, *_: object) -> None:
        raise pickle.UnpicklingError("it makes an array in an unusual way")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("it makes an array in an unusual way")
        _, shape, dtype, fortran, content = state
        self.array = _array_of_bytes(content, dtype, shape, "F" if fortran else "C").array


def _empty_array(kind: object, shape: object, code: object) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("it makes an array in an unusual way")
    return _Array.__new__(_Array)


def _array_of_bytes(content: object, dtype: object, shape: object, order: object) -> _Array:
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("it makes an array in an unusual way")
    if not isinstance(shape, tuple) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it makes an array in an unusual way")
    found = _Array.__new__(_Array)
    found.array = np.frombuffer(content, dtype.dtype).reshape(shape, order=order)
    return found


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes text in an unusual way")
    return text.encode("latin1")


_ADMITTED = {
    "multiarray._reconstruct": _empty_array,
    "numeric._frombuffer": _array_of_bytes,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _latin1,
}


class _AdmittingUnpickler(pickle.Unpickler):
    """Replaces the names in `_ADMITTED` and refuses all others."""

    def find_class(self, module: str, name: str) -> object:
        asked = f"{module}.{name}"
        for core in ("numpy.core.", "numpy._core."):
            asked = asked.removeprefix(core)
        if asked not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no plain array needs")
        return _ADMITTED[asked]

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


def _check_matrices(architecture: Architecture) -> None:
    """Raise ValueError if a model has experts: each array in a published file is one matrix."""
    if experts := next((name for name, shape in architecture.shapes.items() if len(shape) == 3), None):
        raise ValueError(
            f"The model has experts ({experts!r}), and the pickles of Chang & Bergen (2025) hold none; save its subnetworks by "
            "Subnetwork.save and load them by Subnetwork.load."
        )


def _local(source: str) -> Path:
    """The path of a file, which is first fetched if it is on the hub."""
    if not source.startswith(HUB):
        return Path(source).expanduser()
    place, _, revision = source.removeprefix(HUB).partition("@")
    owner, _, rest = place.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise ValueError(f"{source!r} names no file; write hf://owner/repository/path/to/file[@revision].")
    return downloaded(f"{owner}/{repository}", file, revision or None)


def _stem(name: str) -> str:
    """The name of a model without owner and revision, in lower case."""
    return name.rstrip("/").split("/")[-1].split("@")[0].lower()
