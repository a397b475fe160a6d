"""Files of many kinds become documents, letter by letter; what is not text is refused and never counted.

The readers of `datasets` would turn dates into times and some missing values into numbers, and cut fields off.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from bigramlib.text.compression import decompressed, plain_suffix

DOCUMENT_SEPARATOR = "<|endoftext|>"
HEAD = 2**12
LOOKED_AT = 100
FOREIGN_SUFFIXES = {
    ".htm": "HTML", ".html": "HTML", ".xhtml": "HTML", ".xml": "XML", ".svg": "XML", ".tex": "LaTeX", ".rtf": "RTF",
    ".ipynb": "a notebook", ".pkl": "a pickle", ".pickle": "a pickle", ".pt": "a pickle",
}  # fmt: skip
FOREIGN_HEADS = {
    rb"\s*(<!--.*?-->\s*)*<(!doctype|html|head|body)\b": "HTML",
    rb"\s*<\?xml\b": "XML",
    rb"\s*<[a-z][\w:.-]*\s+[\w:.-]+\s*=\s*[\"'][^<>]*>": "HTML or XML",
    rb"\s*<(title|meta|div|p|span|table|ul|ol|h[1-6]|article|section|center|pre|a|b|i)\s*>.*</": "HTML",
    rb"(\s|%[^\n]*\n)*\\documentclass\b": "LaTeX",
    rb"%!PS\b": "PostScript",
    rb"\{\\rtf": "RTF",
    rb"%PDF-": "a PDF",
    rb"PK\x03\x04": "a zip archive or an office document",
    rb"\xd0\xcf\x11\xe0": "an office document",
    rb"\x80[\x02-\x05]": "a pickle",
    rb"\xff\xfe|\xfe\xff": "UTF-16 text",
    rb".*\0": "UTF-16 text, an archive or a program's file",
}


def check_is_text(path: Path) -> None:
    """Raise ValueError if a file holds markup or something else that would be counted as text."""
    if plain_suffix(path) == ".parquet":
        return
    with decompressed(path) as stream:
        head = stream.read(HEAD).removeprefix(codecs.BOM_UTF8)
    what = FOREIGN_SUFFIXES.get(plain_suffix(path)) or next(
        (what for pattern, what in FOREIGN_HEADS.items() if re.match(pattern, head, re.DOTALL | re.IGNORECASE)), None
    )
    if what and not head.startswith(b"PAR1"):
        raise ValueError(
            f"{str(path)!r} is {what}, not plain text in UTF-8, and what is not text must not be counted; "
            "convert it (iconv, pandoc, unzip) to plain text, JSON Lines, CSV or Parquet."
        )


def reader(path: Path) -> Callable[[Path, str], Iterator[str]]:
    """What reads a file: by its name or, if that says nothing, by its content."""
    if plain_suffix(path) in READERS:
        return READERS[plain_suffix(path)]
    with decompressed(path) as stream:
        head = stream.read(HEAD)
    if head.startswith(b"PAR1"):
        return _parquet
    if re.match(rb'(\xef\xbb\xbf)?\s*[{\[]\s*["{]', head) and _is_json(path):
        return _json
    return _text


def _is_json(path: Path) -> bool:
    """Whether it begins with a whole JSON object, on one line or several, or is JSON from its beginning to its end."""
    for text in (next((line for line in lines(path) if line.strip()), ""), "\n".join(lines(path))):
        try:
            value, end = json.JSONDecoder().raw_decode(text.strip())
        except (ValueError, RecursionError):
            continue
        return isinstance(value, dict) or end == len(text.strip())
    return False


def _decoded(path: Path) -> Iterator[str]:
    """Lines with their ends, those being newlines only; others, as U+2028, stand within a document."""
    with decompressed(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise ValueError(
                    f"The file {str(path)!r} is not UTF-8 (line {number}); convert it, for example with iconv."
                ) from None
            yield text


def lines(path: Path, last: bool = False) -> Iterator[str]:
    """Lines without their ends, in whichever of the three usual ways they end.

    Args:
        path: the file.
        last: whether what follows the last end, if it is nothing, is a line too.
    """
    ended = True
    for text in _decoded(path):
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        yield from lines
        if not (ended := not rest):
            yield rest
    if ended and last:
        yield ""


def documents(path: Path, text_column: str, whole: bool) -> Iterator[str]:
    """The documents of a file; `whole` makes plain text without separators a single one."""
    check_is_text(path)
    if (read := reader(path)) is _text and whole and not _has_separators(path):
        yield "\n".join(lines(path, last=True))
    else:
        yield from read(path, text_column)


def _has_separators(path: Path) -> bool:
    return any(DOCUMENT_SEPARATOR in line for line in lines(path))


def _text(path: Path, text_column: str) -> Iterator[str]:
    """One document a line or, if there are separators, on lines of their own or not, one between each two of them."""
    if not _has_separators(path):
        yield from lines(path)
        return
    document: list[str] = []
    for line in chain(lines(path), [DOCUMENT_SEPARATOR]):
        first, *others = line.split(DOCUMENT_SEPARATOR)
        if first.strip() or not others:
            document.append(first)
        for other in others:
            yield "\n".join(document)
            document = [other] if other.strip() else []


def _json_lines(path: Path, text_column: str) -> Iterator[str]:
    for number, line in enumerate(lines(path), 1):
        if line.strip():
            place = f"Line {number} of {str(path)!r}"
            row = _parsed(line, place)
            if not isinstance(row, dict):
                raise ValueError(f"{place} is not a JSON object; write one object with a text column a line.")
            yield column(row, text_column, path)


def _json(path: Path, text_column: str) -> Iterator[str]:
    """An array of objects or strings, or JSON Lines."""
    if not next((line for line in lines(path) if line.strip()), "").lstrip().startswith("["):
        yield from _json_lines(path, text_column)
        return
    rows = _parsed("\n".join(lines(path)), repr(str(path)))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict | str):
            raise ValueError(f"Item {number} of {str(path)!r} is neither a JSON object nor text; write an array of objects.")
        yield row if isinstance(row, str) else column(row, text_column, path)


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not JSON ({error}); write one JSON object a line.") from None


def _csv(path: Path, text_column: str) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(_decoded(path), delimiter="\t" if plain_suffix(path) == ".tsv" else ",", strict=True)
    try:
        header = next(rows, [])
        if not header:
            return
        column(dict.fromkeys(header, ""), text_column, path)
        texts = _cells(rows, header, header.index(text_column), path)
        first = list(islice(texts, LOOKED_AT))
        if any(first) and all(_is_number(text) for text in first if text):
            raise _no_text("numbers", text_column, path)
        yield from chain(first, texts)
    except csv.Error as error:
        raise ValueError(f"Line {rows.line_num} of {str(path)!r} is not CSV ({error}); write it with a CSV library.") from None


def _cells(rows: Iterator[list[str]], header: list[str], place: int, path: Path) -> Iterator[str]:
    for number, row in enumerate(rows, 1):
        if row and len(row) != len(header):
            raise ValueError(
                f"Row {number} of {str(path)!r} has {len(row)} fields, but its header {len(header)}; "
                "put texts that hold the separator into quotes."
            )
        yield row[place] if row else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(path: Path, text_column: str) -> Iterator[str]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            column(dict.fromkeys(table.schema_arrow.names, ""), text_column, path)
            for batch in table.iter_batches(columns=[text_column]):
                yield from (column({text_column: text}, text_column, path) for text in batch.column(0).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{str(path)!r} is not a whole Parquet file ({error}); fetch or write it again.") from None


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".jsonl": _json_lines, ".ndjson": _json_lines, ".jsonlines": _json_lines, ".json": _json,
    ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
}  # fmt: skip


def column(row: dict, text_column: str, source: object) -> str:
    """The text of a row; none at all is an empty one.

    Raises:
        ValueError: it has no such column, or no text there.
    """
    if text_column not in row:
        raise ValueError(
            f"{str(source)!r} has no column {text_column!r} but {sorted(row)}; name the text column with text_column."
        )
    text = row[text_column]
    if not isinstance(text, str | None):
        raise _no_text(type(text).__name__, text_column, source)
    return text or ""


def _no_text(kind: str, text_column: str, source: object) -> ValueError:
    return ValueError(
        f"The column {text_column!r} of {str(source)!r} holds {kind}, not text; name the text column with text_column."
    )
