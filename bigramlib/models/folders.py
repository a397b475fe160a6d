"""Model folders in Hugging Face format, read so that nothing in them is run or unpickled and nothing absent goes unnoticed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors import SafetensorError, safe_open
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from bigramlib.models.discovery import OTHER_SENSES, architecture_of, text_config, without_weights

CONFIG, INDEX, TOKENIZER, WEIGHTS = "config.json", "model.safetensors.index.json", "tokenizer.json", "model.safetensors"
ADAPTER = "adapter_config.json"
QUANTIZED = ("quantization_config", "compression_config", "quantization")
"""Entries of a config that say that the weights are quantised; `QUANTIZED_FILES` say it beside the config."""
QUANTIZED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
OLD_BUFFERS = re.compile(r"(attn|attention)\.(bias|masked_bias|causal_mask)$|rotary_emb\.inv_freq$")
"""Constants that older versions of transformers stored among the weights."""
EXPERT = re.compile(r"(.*\bexperts\.)(\d+)\.(.*)")
"""The name of a weight of one expert, where experts are stored one by one."""
NAMED = 3
"""How many parameters a message names."""


def read_folder(folder: Path, name: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, dict[str, Any]]:
    """The config of the model in a folder, its tokenizer, and its weights, not read from disk yet.

    Arguments as in `read_config`.

    Raises:
        ValueError: it is no plain causal language model of a known architecture in safetensors.
    """
    return read_config(folder, name), read_tokenizer(folder, name), read_tensors(folder, name)


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """The config of a model that can be loaded.

    Args:
        folder: where it lies.
        name: what the user calls the model, for messages.

    Raises:
        ValueError: there is none, it is damaged, or it describes something else than a plain causal language model of a
            known architecture: an adapter, quantised weights, custom code.
    """
    try:
        files = {file.name for file in folder.iterdir()}
    except OSError as error:
        raise ValueError(f"The model folder {name!r} cannot be read just now ({reason(error)}).") from error
    if ADAPTER in files:
        raise ValueError(
            f"{name!r} holds an adapter ({ADAPTER}), not a whole model; merge it into its base model (merge_and_unload of "
            "PEFT), save that into another folder and load it."
        )
    facts = _read_object(folder / CONFIG, name)
    kind = facts.get("model_type")
    if not isinstance(kind, str):
        raise ValueError(f"The {CONFIG} of {name!r} states no model_type; load a folder as save_pretrained writes it.")
    if kind not in CONFIG_MAPPING and "auto_map" in facts:
        raise ValueError(
            f"The model {name!r} needs custom code, which is never run here: transformers itself does not know its "
            f"architecture {kind!r}; load a model, or a conversion of this one, that needs none."
        )
    if any(map(facts.get, QUANTIZED)) or not files.isdisjoint(QUANTIZED_FILES):
        raise ValueError(f"The model {name!r} is quantised, which cannot be masked; load the unquantised model instead.")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with quiet():
            architecture_of(without_weights(config))
    except Exception as error:
        raise ValueError(f"No model can be made of the {CONFIG} of {name!r}: {reason(error)}.") from error
    return config


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; arguments as in `read_config`.

    Raises:
        ValueError: it is missing, damaged or custom code.
    """
    remedy = f"put its {TOKENIZER} into the folder, as save_pretrained of its tokenizer writes it"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        said = "it needs custom code, which is never run here" if "custom code" in str(error) else reason(error)
        raise ValueError(f"The tokenizer of {name!r} cannot be loaded ({said}); {remedy}.") from error
    parts = set(tokenizer.vocab_files_names.values()) - {TOKENIZER}
    if not (folder / TOKENIZER).exists() and not (parts and all((folder / part).exists() for part in parts)):
        raise ValueError(f"The model {name!r} has no tokenizer; {remedy}.")
    return tokenizer


def read_tensors(folder: Path, name: str) -> dict[str, Any]:
    """The weights in a folder by name, not read from disk yet; arguments as in `read_config`.

    Raises:
        ValueError: there are no weights in safetensors, or one of their files is missing or damaged.
    """
    files = [WEIGHTS] if (folder / WEIGHTS).exists() else []
    if not files and (folder / INDEX).exists():
        places = _read_object(folder / INDEX, name).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            raise ValueError(f"The {INDEX} of {name!r} states no weight_map; fetch it again.")
        files = sorted(set(places.values()))
    if not files or not all(file.endswith(".safetensors") for file in files):
        raise ValueError(
            f"The model {name!r} has no weights in safetensors, and pickles (pytorch_model.bin) are never read, since they can "
            "run code; where you trust them, load them by transformers and save_pretrained the model into another folder."
        )
    tensors: dict[str, Any] = {}
    for file in files:
        try:
            opened = safe_open(folder / file, framework="pt")
            tensors |= {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (it is no dict)
        except FileNotFoundError as error:
            raise ValueError(f"The weights {file!r} of {name!r} are missing; fetch them again.") from error
        except OSError as error:
            raise ValueError(f"The weights {file!r} of {name!r} cannot be read just now ({reason(error)}).") from error
        except SafetensorError as error:
            raise ValueError(f"The weights {file!r} of {name!r} are damaged ({reason(error)}); fetch them again.") from error
    return tensors


def built(config: PretrainedConfig, tensors: Mapping[str, Any], name: str) -> PreTrainedModel:
    """The fp32 model of a config with these weights.

    Args:
        config: the model's.
        tensors: its weights by name, or slices of safetensors that are read only now.
        name: what the user calls it, for messages.

    Raises:
        ValueError: the weights are not exactly those of the model.
    """
    kind, text = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], text_config(config)
    if text is not config:
        tensors = {key: tensor for key, tensor in tensors.items() if not re.search(OTHER_SENSES, key)}
    _check_experts(tensors, name)
    try:
        with quiet():
            hf, report = kind.from_pretrained(
                None,
                config=text,
                state_dict=tensors,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise ValueError(
            f"The model {name!r} cannot be loaded ({reason(error)}); check that its {CONFIG} and its weights belong together."
        ) from error
    hf.config.name_or_path = config.name_or_path
    check_whole(hf, report, name, "load all weights of a causal language model, with the config it was saved with")
    if text.tie_word_embeddings and hf.get_input_embeddings().weight is not hf.get_output_embeddings().weight:
        raise ValueError(
            f"The {CONFIG} of {name!r} says that its unembedding is its embedding, but its weights have another one "
            f"({_unembedding(hf)}); state tie_word_embeddings false where that one is right."
        )
    return hf


def check_whole(hf: PreTrainedModel, report: Mapping[str, Any], name: str, remedy: str) -> None:
    """Raise ValueError, naming the first parameters, unless the files had exactly the weights of the model.

    Args:
        hf: the model as loaded.
        report: `output_loading_info` of transformers, which knows what may be absent.
        name: what the user calls it.
        remedy: what to do where nothing better is known.
    """
    missing = [key for key in hf.state_dict() if key in report["missing_keys"]]
    unexpected = sorted(key for key in report["unexpected_keys"] if not OLD_BUFFERS.search(key))
    resized = [
        f"{key} ({'x'.join(map(str, stored))} for {'x'.join(map(str, wanted))})"
        for key, stored, wanted in sorted(report["mismatched_keys"])
    ]
    faults = {"they lack": missing, "they have, for no part of the model,": unexpected, "of another size are": resized}
    if not any(faults.values()):
        return
    if missing and (prefix := _prefix(hf, unexpected)):
        remedy = f"save the model inside the wrapper that put {prefix!r} before every name, or take that off the names"
    elif missing == [_unembedding(hf)] and not unexpected and not resized:
        remedy = f"if its unembedding is its embedding, state tie_word_embeddings true in its {CONFIG}, else fetch it again"
    said = ", ".join(f"{fault} {_listed(keys)}" for fault, keys in faults.items() if keys)
    raise ValueError(f"The weights of {name!r} do not fit its config: {said}; {remedy}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the context transformers neither warns nor shows progress: what it would report is refused in one sentence."""
    level = logging.get_verbosity()
    shown = logging.is_progress_bar_enabled() and not are_progress_bars_disabled()  # one switch of transformers turns both
    logging.set_verbosity_error()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def reason(error: BaseException) -> str:
    """What an error says, cut to its first sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(". :") if lines else type(error).__name__


def _read_object(path: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        others = sorted(file.name for file in path.parent.glob("*.gguf"))
        remedy = f"give the path of its file {others[0]!r}" if others else "load a folder as save_pretrained writes it"
        raise ValueError(f"The model folder {name!r} has no {path.name}; {remedy}.") from error
    except OSError as error:
        raise ValueError(f"The {path.name} of {name!r} cannot be read just now ({reason(error)}).") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The {path.name} of {name!r} is not JSON ({reason(error)}); fetch it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"The {path.name} of {name!r} is not a JSON object; fetch it again.")
    return found


def _check_experts(names: Iterable[str], name: str) -> None:
    """Raise ValueError unless of every matrix that all experts of a layer have, all of them are among the weights.

    transformers stacks stored experts in the order of their numbers, without asking whether one is missing between others.
    """
    numbers: dict[str, dict[str, set[int]]] = {}
    for key in names:
        if found := EXPERT.fullmatch(key):
            module, number, matrix = found.groups()
            numbers.setdefault(module, {}).setdefault(matrix, set()).add(int(number))
    missing = [
        f"{module}{number}.{matrix}"
        for module, stored in numbers.items()
        for matrix in stored
        for number in sorted(set(range(1 + max(set().union(*stored.values())))) - stored[matrix])
    ]
    if missing:
        raise ValueError(f"The weights of {name!r} do not fit each other: they lack {_listed(missing)}; fetch them again.")


def _unembedding(hf: PreTrainedModel) -> str:
    head = hf.get_output_embeddings()
    return next(f"{name}.weight" for name, module in hf.named_modules() if module is head)


def _prefix(hf: PreTrainedModel, unexpected: list[str]) -> str | None:
    """What stands before every unexpected name, if they are names of the model or of its base model without it."""
    names = set(hf.state_dict())
    names |= {name.removeprefix(f"{hf.base_model_prefix}.") for name in names}
    parts = unexpected[0].split(".") if unexpected else []
    prefixes = (".".join(parts[:count]) + "." for count in range(1, len(parts)))
    return next((prefix for prefix in prefixes if {prefix + name for name in names}.issuperset(unexpected)), None)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
