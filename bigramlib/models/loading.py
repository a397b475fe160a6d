"""Finding a model by its name: embedded, from a package, in a folder or .gguf file, or on the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from bigramlib.models import llama2c
from bigramlib.models.architectures import Architecture
from bigramlib.models.discovery import architecture_of, text_config, without_weights
from bigramlib.models.folders import WEIGHTS, read_config, read_folder, read_tokenizer, reason
from bigramlib.models.gguf import read_gguf
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.mini import ASSETS, load_checkpoint
from bigramlib.models.packages import PACKAGED, packaged_model
from bigramlib.models.partial import built_within

WORLD_BASES = ("world-a0", "world-b0", "world-c0", "world-a1", "world-b1", "world-c1")
EMBEDDED = ("mini", *WORLD_BASES)
FACTS = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""What to fetch from the hub before the weights."""
STORED = (WEIGHTS, "model-*-of-*.safetensors")


def load_model(name: str | Path, device: str = "cpu", *, layers: int | None = None, attention: bool = True) -> LanguageModel:
    """Load a frozen fp32 language model.

    For a search of some layers, or of MLPs alone, the matrices that it never computes can be left out of memory. Searches, and
    evaluations of what they find, give the same bits and keys as in the whole model; what needs more raises ValueError.

    Args:
        name: "mini" (the embedded model) or one of its checkpoints ("mini@step256"); a base model of the small world
            ("world-a0", see `bigramlib.instruction.world`); a pretrained model that pip or npm can bring ("stories15m",
            "smollm2-135m-instruct", "gemma-3-270m"); a local folder in Hugging Face format; a .gguf file; or a hub id,
            optionally with a revision ("EleutherAI/pythia-160m@step3000").
        device: where to put it.
        layers: load the attention and MLP matrices of so many layers from the first on; None loads all.
        attention: False leaves those of attention out.

    Raises:
        ValueError: there is no such model or checkpoint, its architecture is not known, or it is not a whole model in
            safetensors or GGUF that loads without custom code; matrices are to be left out of a .gguf file.
        FloatingPointError: a weight is NaN or infinite.

    Example:
        >>> model = load_model("mini@step256")
        >>> model.revision
        'step256'
    """
    name = str(name)
    source, _, revision = name.partition("@")
    path, is_folder, is_file = _path(name)
    if source in EMBEDDED:
        name = name.removesuffix("@")
        config, tokenizer, tensors = _embedded(source, revision, name)
    elif name in PACKAGED:
        config, tokenizer, tensors = read_folder(packaged_model(name, _convert), name)
    elif is_file:
        if layers is not None or not attention:
            raise ValueError(f"{name!r} is read whole; leave layers and attention away, or save it as a folder first.")
        return LanguageModel(name, *read_gguf(path, name), source=name).to(device)
    elif is_folder:
        source, revision = name, ""
        config, tokenizer, tensors = read_folder(path, name)
    else:
        config, tokenizer, tensors = read_folder(_fetched(source, revision or None, name), name)
    hf, whole_hash = built_within(config, tensors, name, layers, attention)
    return LanguageModel(name, hf, tokenizer, source, revision, whole_hash=whole_hash).to(device)


def architecture_named(name: str | Path) -> Architecture:
    """The layout of the model that `load_model` finds by this name, of which only the config is read.

    Raises:
        ValueError: there is no such model, or its architecture is not known.
    """
    name = str(name)
    source, _, revision = name.partition("@")
    path, is_folder, is_file = _path(name)
    if is_file and source not in EMBEDDED and name not in PACKAGED:
        return LanguageModel(name, *read_gguf(path, name)).architecture
    if source in EMBEDDED:
        folder = ASSETS / source
    elif name in PACKAGED:
        folder = packaged_model(name, _convert)
    else:
        folder = path if is_folder else _fetched(source, revision or None, name, [])
    return architecture_of(without_weights(text_config(read_config(folder, name))))


def _path(name: str) -> tuple[Path, bool, bool]:
    """The path that a name may be, and whether it is a folder, or a file."""
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (a home that is not known is no error)
    try:
        return path, path.is_dir(), path.is_file()
    except OSError as error:
        raise ValueError(f"{name!r} cannot be looked at ({reason(error)}); check the path and its permissions.") from error


def checkpoint_names(name: str) -> dict[int, str]:
    """Names for `load_model` of an embedded model's pretraining checkpoints, by step.

    Of any other model no checkpoints are known, so it stands alone, at step 0.
    """
    if name in EMBEDDED:
        return {step: f"{name}@step{step}" for step in _embedded_steps(name)}
    return {0: name}


def _embedded(stem: str, revision: str, name: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, dict[str, Tensor]]:
    """The config of an embedded model, its tokenizer, and its weights at a pretraining checkpoint, by default the last one."""
    folder = ASSETS / stem
    steps = _embedded_steps(stem)
    step = revision.removeprefix("step") or str(steps[-1])
    if step not in map(str, steps):
        raise ValueError(
            f"The embedded model {stem!r} has no checkpoint {revision!r}; use one of {', '.join(f'step{s}' for s in steps)}."
        )
    return read_config(folder, name), read_tokenizer(folder, name), load_checkpoint(folder / f"step{step}.safetensors")


def _embedded_steps(stem: str) -> list[int]:
    return sorted(int(file.stem.removeprefix("step")) for file in (ASSETS / stem).glob("step*.safetensors"))


def _convert(file: Path, folder: Path) -> None:
    """Write the model file of a package as a Hugging Face folder."""
    if file.suffix == ".gguf":
        model = LanguageModel(str(file), *read_gguf(file, str(file)))
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    else:
        llama2c.convert(file, folder)


def _fetched(repo: str, revision: str | None, name: str, weights: Sequence[str] = STORED) -> Path:
    """The folder of a hub model in the hub's own cache; the weights are fetched only for a config that can be loaded."""

    def fetched(patterns: list[str]) -> Path:
        try:
            return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
        except Exception as error:
            raise ValueError(
                f"There is no model {name!r}: it is not embedded ({', '.join(EMBEDDED)}), not packaged "
                f"({', '.join(PACKAGED)}), not a local model folder or .gguf file, "
                f"and the Hugging Face hub did not give it ({reason(error)}). Check its name, the network "
                "and, if it is gated, that you are logged in (hf auth login)."
            ) from None

    read_config(fetched(FACTS), name)
    return fetched([*FACTS, *weights])
