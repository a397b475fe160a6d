"""Finding a model by its name: embedded, from a package, in a folder or .gguf file, or on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bigramlib.models import llama2c
from bigramlib.models.folders import WEIGHTS, built, read_config, read_folder, read_tokenizer, reason
from bigramlib.models.gguf import read_gguf
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.mini import ASSETS, load_checkpoint
from bigramlib.models.packages import PACKAGED, packaged_model

WORLD_BASES = ("world-a0", "world-b0", "world-c0", "world-a1", "world-b1", "world-c1")
EMBEDDED = ("mini", *WORLD_BASES)
FACTS = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""What to fetch from the hub before the weights."""


def load_model(name: str | Path, device: str = "cpu") -> LanguageModel:
    """Load a frozen fp32 language model.

    Args:
        name: "mini" (the embedded model) or one of its checkpoints ("mini@step256"); a base model of the small world
            ("world-a0", see `bigramlib.instruction.world`); a pretrained model that pip or npm can bring ("stories15m",
            "smollm2-135m-instruct", "gemma-3-270m"); a local folder in Hugging Face format; a .gguf file; or a hub id,
            optionally with a revision ("EleutherAI/pythia-160m@step3000").
        device: where to put it.

    Raises:
        ValueError: there is no such model or checkpoint, its architecture is not known, or it is not a whole model in
            safetensors or GGUF that loads without custom code.
        FloatingPointError: a weight is NaN or infinite.

    Example:
        >>> model = load_model("mini@step256")
        >>> model.revision
        'step256'
    """
    name = str(name)
    source, _, revision = name.partition("@")
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (a home that is not known is no error)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise ValueError(f"{name!r} cannot be looked at ({reason(error)}); check the path and its permissions.") from error
    if source in EMBEDDED:
        name = name.removesuffix("@")
        hf, tokenizer = _embedded(source, revision, name)
    elif name in PACKAGED:
        hf, tokenizer = read_folder(packaged_model(name, _convert), name)
    elif is_folder or is_file:
        source, revision = name, ""
        hf, tokenizer = read_folder(path, name) if is_folder else read_gguf(path, name)
    else:
        hf, tokenizer = read_folder(_fetched(source, revision or None, name), name)
    return LanguageModel(name, hf, tokenizer, source, revision).to(device)


def checkpoint_names(name: str) -> dict[int, str]:
    """Names for `load_model` of an embedded model's pretraining checkpoints, by step.

    Of any other model no checkpoints are known, so it stands alone, at step 0.
    """
    if name in EMBEDDED:
        return {step: f"{name}@step{step}" for step in _embedded_steps(name)}
    return {0: name}


def _embedded(stem: str, revision: str, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An embedded model at a pretraining checkpoint, by default its last one, and its tokenizer."""
    folder = ASSETS / stem
    steps = _embedded_steps(stem)
    step = revision.removeprefix("step") or str(steps[-1])
    if step not in map(str, steps):
        raise ValueError(
            f"The embedded model {stem!r} has no checkpoint {revision!r}; use one of {', '.join(f'step{s}' for s in steps)}."
        )
    hf = built(read_config(folder, name), load_checkpoint(folder / f"step{step}.safetensors"), name)
    return hf, read_tokenizer(folder, name)


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


def _fetched(repo: str, revision: str | None, name: str) -> Path:
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
    return fetched([*FACTS, WEIGHTS, "model-*-of-*.safetensors"])
