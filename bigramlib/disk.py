"""Safe reading and writing of files: written completely or not at all, with clear error messages."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

DAY = 24 * 3600.0
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Error numbers of a disk that is full or cannot be written to."""
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
"""Error numbers of a file system that does not support a request."""
LONGEST_PREFIX = 100


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of reading a file within the block into one sentence that says why. The file does not count as damaged.

    Raises:
        FileNotFoundError: the file does not exist; this error is passed on unchanged.
        OSError: it cannot be read at the moment (permission, too many open files, a stale handle, a broken disk).
        MemoryError: there is too little memory.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, MemoryError) as error:
        sentence = f"{str(path)!r} could not be read ({reason(error)}); it was left as it is, so mend that and try again."
        raise said(error, sentence) from error


def safe_tensors(path: Path, opener: Callable) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Read a safetensors file: by mapping it into memory or, if that fails, by reading all its bytes.

    Args:
        path: the file.
        opener: `safetensors.safe_open`.

    Returns:
        (metadata, tensors by name).

    Raises:
        SafetensorError: the file could be read but is damaged.
        OSError: the file cannot be read at the moment.
    """
    try:
        with opener(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        content = path.read_bytes()
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {}), tensors


@contextmanager
def written_whole(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to `path` to write a file or folder to. On success it is renamed to `path`, else deleted.

    All files get the permissions that the umask gives to new files.

    Args:
        path: the path of the finished file or folder. Its parent folder is created if it is missing.
        replace: whether to replace what exists at `path` when the block ends. If False, that is kept.

    Raises:
        OSError: it cannot be written; what was at `path` before is unchanged.
    """
    workplace, ours = None, True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f"{_leftover_prefix(path)}{_HERE}-{os.getpid()}.", dir=path.parent))
        temporary = workplace / path.name
        ours = False
        yield temporary
        ours = True
        _settle(temporary, _new_file_mode(workplace))
        if not replace and path.exists():
            return
        if temporary.is_dir() and path.is_dir():
            path.replace(workplace / "before")
        try:
            temporary.replace(path)
        except OSError:
            if replace or not path.exists():  # otherwise another process has just been faster
                raise
    except OSError as error:
        if not ours and error.errno not in UNWRITABLE:
            raise
        sentence = f"{str(path)!r} could not be written ({reason(error)}); make room there, or make it writable."
        raise said(error, sentence) from error
    finally:
        if workplace is not None:
            shutil.rmtree(workplace, ignore_errors=True)


def _new_file_mode(folder: Path) -> int:
    """The permissions of new files in a folder. A file is created to see them, since reading the umask would change it."""
    probe = folder / ".probe"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def _settle(temporary: Path, mode: int) -> None:
    """Set the permissions of files, and write their content to the disk before they are renamed."""
    for file in [temporary] if temporary.is_file() else temporary.rglob("*"):
        if file.is_file():
            with suppress(OSError):  # some mounts have one mode for all
                file.chmod(mode)
            with file.open("rb+") as written:
                try:
                    os.fsync(written.fileno())
                except OSError as error:
                    if error.errno not in UNSUPPORTED:
                        raise


def _leftover_prefix(path: Path) -> str:
    """How the names of temporary folders for `path` begin. Long names are cut, since file systems limit their length."""
    return f".{os.fsdecode(os.fsencode(path.name)[:LONGEST_PREFIX])}."


def remove_leftovers(path: Path) -> None:
    """Remove temporary folders for `path` that killed processes of this machine left, or that are older than a day."""
    prefix = _leftover_prefix(path)
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            newest = max(part.stat().st_mtime for part in [leftover, *leftover.rglob("*")])
            if _is_of_the_dead(leftover.name.removeprefix(prefix)) or time.time() - newest > DAY:
                shutil.rmtree(leftover, ignore_errors=True)


def _is_of_the_dead(writer: str) -> bool:
    """Whether the process that a temporary folder is named after ran on this machine and has ended."""
    here, _, number = writer.split(".")[0].partition("-")
    if os.name != "posix" or here != _HERE or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _machine() -> str:
    """A name for this machine since its last start. Containers with their own process numbers get names of their own."""
    name = socket.gethostname()
    with suppress(OSError):
        name += str(Path("/proc/self/ns/pid").readlink()) + Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


_HERE = _machine()


def reason(error: BaseException) -> str:
    """The message of an error, without its number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def said(error: OSError | MemoryError, sentence: str) -> OSError | MemoryError:
    """A new error of the same kind, with a sentence as its message."""
    if isinstance(error, MemoryError):
        return MemoryError(sentence)
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    again = kind(sentence)
    again.errno = error.errno
    return again


def located(value: str, known: Collection[str]) -> str:
    """Make the path of a model or corpus absolute, since notebooks and workers have another working directory.

    Names that are not existing paths are returned unchanged. So are known names, even if there is a folder with that name.
    """
    if value.partition("@")[0] in known:
        return value
    scheme, dataset = ("hf:", value.removeprefix("hf:")) if value.startswith("hf:") else ("", value)
    if scheme and not exists(dataset):
        path, colon, rest = dataset.partition(":")
    else:
        path, colon, rest = dataset, "", ""
    path = os.path.expanduser(path)  # noqa: PTH111 (an unknown ~user is no error)
    return f"{scheme}{Path(path).absolute() if exists(path) else path}{colon}{rest}"


def exists(path: str) -> bool:
    """Whether a file or folder exists; False also for texts that cannot be the name of a file."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises OSError for long names)
