"""The store on disk: where it is, how things in it are named by hashes of their content, made once, locked and checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """The folder of the store: `$BIGRAMLIB_STORE`; if unset, `.store` in a source checkout, otherwise `~/.cache/bigramlib`.

    A relative `$BIGRAMLIB_STORE` is made absolute at its first use, in the working directory of that moment. Child processes
    get the absolute path.

    Raises:
        ValueError: the folder would be in a home folder, and there is no home folder.
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
    """The folder for one kind of stored thing ("corpora", "subnetworks") in the store, created if possible."""
    folder = store_root() / kind
    with suppress(OSError):  # a store may be read-only; writing into it says so
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def content_hash(*parts: object) -> str:
    """SHA-256 (hex) of a sequence of values, in order: bytes, arrays (integers count as int64), or what JSON can hold."""
    return _hash(parts)


def _hash(parts: Iterable[object]) -> str:
    """`content_hash` of values that are made one after the other."""
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
    """Convert a NumPy number to a Python number."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be hashed")


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of named tensors as float32; their order does not matter."""
    return _hash(part for name in sorted(tensors) for part in (name, tensors[name].detach().float().cpu().numpy()))


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Raise OSError if nothing can be written to a folder of the store. Call it before long work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        sentence = f"Nothing can be kept in {str(folder)!r} ({reason(error)}); set BIGRAMLIB_STORE to a folder of yours."
        raise said(error, sentence) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a stored thing within the block, so that one process makes it while the others wait.

    The lock ends with its process, even if that is killed. It only avoids double work. Where there can be no lock (a file
    system without locks, a lock file of another user), two processes may make the same thing; both write the same content.
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
    """Rename a damaged thing in the store to "<name>.damaged" and warn, so that it is not used but not lost either.

    Nothing happens if another process has already renamed it.

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
    """Make a folder of the store if it does not exist, or if a file in it is missing or has changed since it was written.

    If the folder is complete, no lock is taken.

    Args:
        folder: its path.
        make: a function that fills an empty folder.

    Returns:
        The same path.

    Raises:
        OSError: the folder cannot be read at the moment, or cannot be written.
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
    """The first file of a stored folder that is missing or whose SHA-256 has changed; None if there is no such file.

    Folders that were made before version 0.2 have no recorded SHA-256 and are not checked.
    """
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
