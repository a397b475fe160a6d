"""Where things lie on disk, how they are named by their content, made once, written whole or not at all, and checked."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

ASSETS = Path(__file__).parent / "assets"
HASHES = "hashes.json"
HASHED_AT_ONCE = 2**20
log = logging.getLogger(__name__)


def store_folder(kind: str) -> Path:
    """Folder for one kind of stored thing ("corpora", "subnetworks"), made if missing.

    It lies under `$BIGRAMLIB_STORE`, by default `~/.cache/bigramlib`.
    """
    folder = Path(os.environ.get("BIGRAMLIB_STORE") or "~/.cache/bigramlib").expanduser() / kind
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
            digest.update(json.dumps(part, sort_keys=True).encode())
        digest.update(b"\0")
    return digest.hexdigest()


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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary file name or folder name beside `path`; rename it to `path` on success, delete it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = workplace / path.name
        yield temporary
        for file in [temporary] if temporary.is_file() else temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())  # the disk has the content before the name
        if temporary.is_dir() and path.is_dir():
            path.replace(workplace / "before")
        temporary.replace(path)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left half-written beside `path`; for the holder of its lock."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a stored thing: of several processes that want to make it, one does and the others wait.

    The lock goes with its process, however that ends.
    """
    lock = FileLock(store_folder("locks") / f"{path.parent.name}-{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("Another process is making %s; waiting for it.", path)
        lock.acquire(poll_interval=0.2)
    try:
        remove_leftovers(path)
        yield
    finally:
        lock.release()


def set_aside(path: Path, reason: object) -> None:
    """Rename a stored thing that cannot be trusted to "<name>.damaged", so that it is neither used nor lost, and say so."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.replace(aside)
    log.warning("%s was set aside as %r and is made again: %s", path, aside.name, reason)


def stored_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the store, made only if it is not there yet or not as it was made.

    Args:
        folder: where it lies.
        make: fills an empty folder.
    """
    with locked(folder):
        if folder.exists() and (altered := _altered(folder)):
            set_aside(folder, f"{altered} is missing or not as it was written")
        if not folder.exists():
            with written_whole(folder) as temporary:
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
        whole = {name: (folder / name).is_file() and file_hash(folder / name) == hashes[name] for name in hashes}
    except (ValueError, TypeError):
        return HASHES
    return next((name for name in whole if not whole[name]), None)
