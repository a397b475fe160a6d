"""Where things lie on disk, how they are named by their content, made once, written whole or not at all, and checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from bigramlib.disk import reading, reason, remove_leftovers, said, written_whole

PACKAGE = Path(__file__).parent
HASHES = "hashes.json"
HASHED_AT_ONCE = 2**20
log = logging.getLogger(__name__)


def store_root() -> Path:
    """The folder that keeps everything: `$BIGRAMLIB_STORE`, in a source checkout `.store`, else `~/.cache/bigramlib`.

    A relative `$BIGRAMLIB_STORE` counts from where it is first used, also for later processes and other working directories.

    Raises:
        ValueError: it lies in a home folder, and there is none.
    """
    named = os.environ.get("BIGRAMLIB_STORE")
    checkout = PACKAGE.parent
    if not named and (checkout / "pyproject.toml").is_file() and (checkout / "Makefile").is_file():
        return checkout / ".store"
    try:
        root = Path(named or "~/.cache/bigramlib").expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"There is no home folder for {named or 'the store'}; set BIGRAMLIB_STORE to a folder.") from None
    if named:
        os.environ["BIGRAMLIB_STORE"] = str(root)
    return root


def store_folder(kind: str) -> Path:
    """Folder for one kind of stored thing ("corpora", "subnetworks") under `store_root`, made if it is missing and can be."""
    folder = store_root() / kind
    with suppress(OSError):  # a store may be read-only; writing into it says so
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def content_hash(*parts: object) -> str:
    """SHA-256 (hex) of a sequence of JSON-able values, arrays (integers as int64) and bytes, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            dtype = np.dtype(np.int64) if part.dtype.kind in "iu" else part.dtype
            digest.update(f"{dtype}{part.shape}".encode())
            flat = np.ascontiguousarray(part).reshape(-1)
            for begin in range(0, flat.size, HASHED_AT_ONCE):
                digest.update(flat[begin : begin + HASHED_AT_ONCE].astype(dtype, copy=False).data)
        elif isinstance(part, bytes):
            digest.update(b"bytes%d:" % len(part))
            digest.update(part)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=_plain).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _plain(value: object) -> object:
    """A NumPy number as the Python number that it is."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be hashed")


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of named fp32 tensors, whatever their order."""
    parts: list[object] = []
    for name in sorted(tensors):
        parts += [name, tensors[name].detach().float().cpu().numpy()]
    return content_hash(*parts)


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Raise OSError, before any work, unless new things can be kept in a folder of the store."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sentence = f"Nothing can be kept in {str(folder)!r} ({reason(error)}); set BIGRAMLIB_STORE to a folder of yours."
        raise said(error, sentence) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a stored thing: of several processes that want to make it, one does and the others wait.

    The lock goes with its process, however that ends. It only saves work: where none can be had (a file system without locks,
    a lock file of another user), two processes may do the same, and the content that each commits is the same.
    """
    lock = FileLock(store_folder("locks") / f"{path.parent.name}-{path.name}.lock", fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("Another process is making %s; waiting for it.", path)
            lock.acquire(poll_interval=0.2)
    except (OSError, NotImplementedError) as error:
        log.warning("%s is made without a lock (%s): another process may do the same work.", path, reason(error))
    try:
        remove_leftovers(path)
        yield
    finally:
        with suppress(OSError):
            lock.release()


def set_aside(path: Path, why: object) -> None:
    """Rename a stored thing that cannot be trusted to "<name>.damaged", so that it is neither used nor lost, and say so.

    Nothing happens if another process has done so already.

    Raises:
        OSError: it cannot be renamed.
    """
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    try:
        path.replace(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        sentence = (
            f"{str(path)!r} is damaged ({why}) and cannot be set aside ({reason(error)}); "
            "set BIGRAMLIB_STORE to a folder of yours."
        )
        raise said(error, sentence) from error
    log.warning("%s was set aside as %r and is made again: %s", path, aside.name, why)


def stored_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the store, made only if it is not there yet or not as it was made; a whole one is read without any lock.

    Args:
        folder: where it lies.
        make: fills an empty folder.

    Raises:
        OSError: it cannot be read just now, or not be written.
    """
    with reading(folder):
        if folder.exists() and not _altered(folder):
            return folder
    with locked(folder):
        with reading(folder):
            altered = _altered(folder) if folder.exists() else None
        if altered:
            set_aside(folder, f"{altered} is missing or not as it was written")
        if not folder.exists():
            check_writable(folder.parent)
            with written_whole(folder, replace=False) as temporary:
                temporary.mkdir()
                make(temporary)
                hashes = {str(file.relative_to(temporary)): file_hash(file) for file in temporary.rglob("*") if file.is_file()}
                (temporary / HASHES).write_text(json.dumps(hashes, indent=1))
    return folder


def _altered(folder: Path) -> str | None:
    """A file of a stored folder that has not the SHA-256 it was written with; folders of before version 0.2 state none."""
    if not (folder / HASHES).exists():
        return None
    try:
        hashes = json.loads((folder / HASHES).read_text())
        present = {str(file.relative_to(folder)) for file in folder.rglob("*")}
        return next((name for name in hashes if name not in present or file_hash(folder / name) != hashes[name]), None)
    except FileNotFoundError as error:  # another process is setting it aside
        return str(error.filename)
    except (ValueError, TypeError):
        return HASHES
