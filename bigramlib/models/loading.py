"""Loading of models: embedded, packaged, from folders and .gguf files, and from the hub; what is not whole is refused."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import torch
from gguf import GGUFReader
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bigramlib.models import llama2c
from bigramlib.models.architectures import Architecture
from bigramlib.models.folders import (
    CONFIG,
    WEIGHTS,
    built,
    check_whole,
    quiet,
    read_config,
    read_tensors,
    read_tokenizer,
    reason,
)
from bigramlib.models.language_model import RANDOM, LanguageModel
from bigramlib.models.mini import ASSETS, load_checkpoint
from bigramlib.models.packages import PACKAGED, packaged_model

EMBEDDED = ("mini",)
FACTS = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
"""What to fetch from the hub before the weights."""


def load_model(name: str | Path, device: str = "cpu") -> LanguageModel:
    """Load a frozen fp32 language model.

    Args:
        name: "mini" (the embedded model) or one of its checkpoints ("mini@step256"); a pretrained model that pip or npm can
            bring ("stories15m", "smollm2-135m-instruct", "gemma-3-270m"); a local folder in Hugging Face format; a .gguf
            file; or a hub id, optionally with a revision ("EleutherAI/pythia-160m@step3000").
        device: where to put it.

    Raises:
        ValueError: there is no such model or checkpoint, its architecture is not known, or it is not a whole model in
            safetensors or GGUF that loads without custom code.
        FloatingPointError: a weight is NaN or infinite.
    """
    name = str(name)
    stem, _, revision = name.partition("@")
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (a home that is not known is no error)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise ValueError(f"{name!r} cannot be looked at ({reason(error)}); check the path and its permissions.") from error
    if stem in EMBEDDED:
        model = _load_embedded(stem, revision)
    elif name in PACKAGED:
        model = _load_folder(packaged_model(name, _convert), name)
    elif is_folder:
        model = _load_folder(path, name)
    elif is_file:
        model = _load_gguf(path, name)
    else:
        model = _load_folder(_fetched(stem, revision or None, name), name)
    return model.to(device)


def checkpoint_names(name: str) -> dict[int, str]:
    """The pretraining checkpoints of an embedded model as names for `load_model`, by step; any other model is its own last."""
    if name in EMBEDDED:
        return {step: f"{name}@step{step}" for step in _embedded_steps(name)}
    return {0: name}


@torch.inference_mode(False)
def randomly_initialized(model: LanguageModel, seed: int = 0, keep_embeddings: bool = False) -> LanguageModel:
    """A model of the same shape with fresh random weights (paper's control).

    Args:
        model: the model whose shape it gets.
        seed: of the weights.
        keep_embeddings: keep the trained embeddings, of positions too where there are any, and the trained unembedding.
    """
    config = copy.deepcopy(model.hf.config)
    embedding, unembedding = model.hf.get_input_embeddings(), model.hf.get_output_embeddings()
    config.tie_word_embeddings = embedding.weight is unembedding.weight
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if keep_embeddings:
        for name, module in model.hf.named_modules():
            if isinstance(module, torch.nn.Embedding) or module is unembedding:
                hf.get_submodule(name).load_state_dict(module.state_dict())
    suffix = ", trained embeddings" if keep_embeddings else ""
    return replace(model, name=f"{model.name}{RANDOM}{suffix}, seed {seed})", hf=hf).to(model.device)


def _load_embedded(stem: str, revision: str) -> LanguageModel:
    folder = ASSETS / stem
    steps = _embedded_steps(stem)
    step = revision.removeprefix("step") or str(steps[-1])
    if step not in map(str, steps):
        raise ValueError(
            f"The embedded model {stem!r} has no checkpoint {revision!r}; use one of {', '.join(f'step{s}' for s in steps)}."
        )
    name = f"{stem}@{revision}" if revision else stem
    hf = built(read_config(folder, name), load_checkpoint(folder / f"step{step}.safetensors"), name)
    return LanguageModel(name, hf, read_tokenizer(folder, name))


def _embedded_steps(stem: str) -> list[int]:
    return sorted(int(file.stem.removeprefix("step")) for file in (ASSETS / stem).glob("step*.safetensors"))


def _convert(file: Path, folder: Path) -> None:
    """Write the model file of a package as a Hugging Face folder."""
    if file.suffix == ".gguf":
        model = _load_gguf(file, str(file))
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    else:
        llama2c.convert(file, folder)


def _load_folder(folder: Path, name: str) -> LanguageModel:
    config, tokenizer = read_config(folder, name), read_tokenizer(folder, name)
    return LanguageModel(name, built(config, read_tensors(folder, name), name), tokenizer)


def _load_gguf(path: Path, name: str) -> LanguageModel:
    from transformers import GgufConfig
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    remedy = "load the Hugging Face model that it was made from"
    if path.suffix.lower() != ".gguf":
        raise ValueError(f"{name!r} is a file and no .gguf file; give the folder that it lies in, with its {CONFIG}.")
    source, options = path.parent, {"gguf_file": str(path.absolute()), "trust_remote_code": False}
    try:
        file = GGUFReader(path)
        for field in file.fields.values():
            if field.name.endswith(".rope.scaling.type") and field.contents() != "none":
                raise ValueError(f"transformers does not read its {field.name}")
        Architecture.of(AutoConfig.from_pretrained(source, **options))
        with quiet():
            hf, report = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
        used = set(get_gguf_hf_weights_map(hf, TensorProcessor()))
        report["unexpected_keys"] = {tensor.name for tensor in file.tensors} - used
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        raise ValueError(f"{name!r} cannot be read as a GGUF model ({reason(error)}); {remedy}.") from error
    check_whole(hf, report, name, remedy)
    return LanguageModel(name, hf, tokenizer)


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
