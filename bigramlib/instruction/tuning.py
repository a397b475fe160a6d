"""Instruction tuning: look the tuned model up in the store, else tune a copy of the base and keep what changed there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from bigramlib.instruction.adapter import TrainedWeights, check_lora
from bigramlib.instruction.examples import draw_texts, ending, tokenized
from bigramlib.instruction.prompts import TEXT, PromptFormat
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning_config import TuneConfig
from bigramlib.instruction.tuning_loop import train
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.locks import one_at_a_time
from bigramlib.numeric import full_precision
from bigramlib.saved_state import StateFile, unfinished
from bigramlib.store import check_writable, content_hash, locked, set_aside, store_folder
from bigramlib.tensor_file import DAMAGED, read_tensors, write_tensors
from bigramlib.version import __version__

__all__ = ["TuneConfig", "instruction_tune", "key_facts", "store_key"]
FORMAT = "bigramlib tuned weights 1"
log = logging.getLogger(__name__)


@torch.inference_mode(False)
@full_precision()
@one_at_a_time
def instruction_tune(
    model: LanguageModel,
    tasks: Sequence[Task],
    config: TuneConfig | None = None,
    prompt_format: PromptFormat = TEXT,
) -> LanguageModel:
    """Tune a copy of a model to answer the inputs of tasks when it is given an instruction.

    The loss is that of the answer and its end alone. What changed is kept in the store under a key made of the model, the
    tasks, the format and the config. Asking again with the same four returns it; a run that was interrupted is continued to
    the same bits. A second process that asks meanwhile waits. A damaged file in the store is renamed and the run repeated.

    Args:
        model: the base, which never changes.
        tasks: what it is tuned on: on their tuning pairs, each task as often as any other.
        config: the settings; the defaults of `TuneConfig` if not given.
        prompt_format: the layout of prompts.

    Returns:
        The tuned model: a plain model with the parameters of the base by the same names.

    Raises:
        FloatingPointError: the loss is not finite.
        ModuleNotFoundError: LoRA is asked for and peft is not installed.
        OSError: what the store holds cannot be read just now, or the store cannot be written.
        ValueError: there are no tasks, one has too few pairs, or an example is longer than the model's positions.
    """
    config = config or TuneConfig()
    check_lora(model, config)
    facts = key_facts(model, tasks, config, prompt_format)
    key = store_key(facts)
    file, name = store_folder("tuned") / f"{key}.safetensors", f"{model.name}+tuned-{key[:8]}"
    if stored := _stored(file, facts, model, config, aside=False):
        return stored.tuned(name)
    examples = tokenized(model, draw_texts(tasks, config, prompt_format), prompt_format)
    with locked(file):
        if stored := _stored(file, facts, model, config):
            return stored.tuned(name)
        check_writable(file.parent)
        weights, state_file = TrainedWeights.of(model, config), StateFile(unfinished(file.name))
        losses = train(weights, examples, config, state_file)
        more = {**model.facts(), "model": name, "library": f"bigramlib {__version__}", "losses": losses}
        _keep(file, {"key": facts, **more}, weights.changed())
        state_file.remove()
    return weights.tuned(name)


def key_facts(model: LanguageModel, tasks: Sequence[Task], config: TuneConfig, prompt_format: PromptFormat) -> dict:
    """What a tuned model depends on. The key in the store is made of it."""
    base = model.facts()
    facts = {
        "weights_hash": base["weights_hash"],
        "tasks": [task.hash for task in tasks],
        "format": asdict(prompt_format) | {"ends": list(prompt_format.ends)},
        "ending": ending(model),
        "config": config.facts(),
    }
    return facts if "model_hash" not in base else facts | {"model_hash": base["model_hash"]}


def store_key(facts: dict) -> str:
    """The name, without its suffix, of a tuned model's file in the store, made of its `key_facts`."""
    return content_hash(*facts.values(), "instruction tuning 1")[:24]


def _keep(file: Path, facts: dict, tensors: dict[str, Tensor]) -> None:
    """Write what changed, whole or not at all."""
    try:
        write_tensors(file, FORMAT, facts, tensors)
    except SafetensorError as error:
        raise OSError(f"The tuned weights could not be written to {str(file)!r} ({error}); make room there.") from error


def _stored(file: Path, facts: dict, model: LanguageModel, config: TuneConfig, aside: bool = True) -> TrainedWeights | None:
    """The trained weights that the store holds, or None. A file that is damaged or of another run counts as none.

    Args:
        file: where they lie.
        facts: the `key_facts` that it must state.
        model: the base.
        config: the settings.
        aside: whether to rename a file that counts as none; only the holder of the file's lock may.

    Raises:
        OSError, MemoryError: the file cannot be read just now; it is left as it is.
    """
    try:
        _, found, tensors = read_tensors(file, FORMAT)
        if found["key"] != facts:
            raise ValueError("it holds the weights of another run")
        weights = TrainedWeights.of(model, config)
        weights.check(tensors)
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        if aside:
            set_aside(file, f"it is not a whole file of tuned weights ({error})")
        return None
    weights.restore(tensors)
    return weights
