"""Compressed files read as what they hold."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
FORMATS: dict[bytes, Callable] = {
    rb"\x1f\x8b\x08": gzip.open,
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": bz2.open,
    rb"\xfd7zXZ\0": lzma.open,
    rb"\x28\xb5\x2f\xfd": lambda file: io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd")),
}
"""How a file begins, and what opens it."""


def plain_suffix(path: Path) -> str:
    """The suffix that says what a file holds, in small letters: ".jsonl" of "A.JSONL" and of "a.jsonl.gz"."""
    suffixes = Path(path.name.lower()).suffixes
    if suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def decompressed(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed if it is compressed, whatever its name says.

    Raises:
        ValueError: it ends early or is damaged.
    """
    with path.open("rb") as file:
        head = file.peek(16)
        opener = next((opener for start, opener in FORMATS.items() if re.match(start, head)), None)
        if opener is None:
            yield file
            return
        try:
            with opener(file) as stream:
                yield stream
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise ValueError(f"{str(path)!r} is compressed, and damaged or cut off ({error}); fetch it again.") from None
