"""Files read and written with care: whole or not at all, with the umask's mode, and with errors that say what is wrong."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

DAY = 24 * 3600.0
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What disks say that are full or cannot be written."""
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems say to a request that they do not know."""
LONGEST_PREFIX = 100


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within the block, what keeps a file from being read just now is said in a sentence. It does not make the file damaged.

    Raises:
        OSError: permission, descriptors, a stale handle, a broken disk.
        MemoryError: there is too little.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, MemoryError) as error:
        sentence = f"{str(path)!r} could not be read ({reason(error)}); it was left as it is, so mend that and try again."
        raise said(error, sentence) from error


def safe_tensors(path: Path, opener: Callable) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of a safetensors file, mapped into memory or, on mounts that cannot do so, read.

    Args:
        path: the file.
        opener: `safetensors.safe_open`.

    Raises:
        SafetensorError: it was read whole and is damaged.
        OSError: it cannot be read just now.
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
    """Yield a temporary file name or folder name beside `path`; rename it to `path` on success, delete it on failure.

    Files get the mode that the umask gives to new ones, whoever wrote them.

    Args:
        path: where it shall lie; its folder is made if missing.
        replace: otherwise what another process has put there meanwhile stays.

    Raises:
        OSError: it cannot be written; what was there before stays as it was.
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
    """The mode that new files get in a folder by the umask, which only making one tells without changing it."""
    probe = folder / ".probe"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def _settle(temporary: Path, mode: int) -> None:
    """Give files their mode and let the disk have their content before their name."""
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
    """How what is half-written of a file or folder begins; names may be as long as a file system takes."""
    return f".{os.fsdecode(os.fsencode(path.name)[:LONGEST_PREFIX])}."


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes of this machine left half-written beside `path`, and what is older than a day."""
    prefix = _leftover_prefix(path)
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            newest = max(part.stat().st_mtime for part in [leftover, *leftover.rglob("*")])
            if _is_of_the_dead(leftover.name.removeprefix(prefix)) or time.time() - newest > DAY:
                shutil.rmtree(leftover, ignore_errors=True)


def _is_of_the_dead(writer: str) -> bool:
    """Whether the process that a leftover is named by ran on this machine, and has ended."""
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
    """A name for this machine since it started and, where they are apart, the process numbers in this container."""
    name = socket.gethostname()
    with suppress(OSError):
        name += str(Path("/proc/self/ns/pid").readlink()) + Path("/proc/sys/kernel/random/boot_id").read_text()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


_HERE = _machine()


def reason(error: BaseException) -> str:
    """What an error says, without its number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def said(error: OSError | MemoryError, sentence: str) -> OSError | MemoryError:
    """The same kind of error with a sentence as its text."""
    if isinstance(error, MemoryError):
        return MemoryError(sentence)
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    again = kind(sentence)
    again.errno = error.errno
    return again
