"""Where things lie on disk, how they are named by their content, and how they are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

ASSETS = Path(__file__).parent / "assets"


def store_folder(kind: str) -> Path:
    """Folder for one kind of stored thing ("corpora", "subnetworks"), made if missing.

    It lies under `$BIGRAMLIB_STORE`, by default `~/.cache/bigramlib`.
    """
    folder = Path(os.environ.get("BIGRAMLIB_STORE") or "~/.cache/bigramlib").expanduser() / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def content_hash(*parts: object) -> str:
    """SHA-256 (hex) of a sequence of JSON-able values, arrays and bytes, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary file name or folder name beside `path`; rename it to `path` on success, delete it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = workplace / path.name
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
