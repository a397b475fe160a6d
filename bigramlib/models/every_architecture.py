"""Which types of causal language models can be used: each tried on a tiny model with random weights."""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields
from io import StringIO

import torch
from transformers import PreTrainedTokenizerBase

from bigramlib.models.architectures import Architecture
from bigramlib.models.discovery import architecture_of, without_weights
from bigramlib.models.folders import reason
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.logits import agree
from bigramlib.models.mini import train_tokenizer
from bigramlib.models.tiny import CAUSAL_TYPES, VOCABULARY, tiny_config, tiny_model
from bigramlib.progress import tqdm

TEXT = ["the cat sat on the mat and the dog sat on the cat", "a dog and a cat met a rat; the rat sat down"]


@dataclass(frozen=True)
class Outcome:
    """What came of trying a type, in words.

    Attributes:
        type: the Hugging Face name of the architecture.
        loads: "yes" or "no".
        heads: attention heads of the tiny model, each of which can be masked alone, and their size; empty if it does not load.
        experts: those of an MLP, each of which can be masked alone; empty if there are none.
        bridge: "yes" if a TransformerLens bridge has the model's logits, "differs" if it has others, "no" if there is none.
        note: why it does not load.
    """

    type: str
    loads: str
    heads: str = ""
    experts: str = ""
    bridge: str = ""
    note: str = ""


def architectures_table() -> str:
    """A Markdown table of all types of causal language models in transformers, and how many of them load."""
    tokenizer = train_tokenizer(TEXT, VOCABULARY)
    logging.disable()  # transformers and TransformerLens warn of what does not matter in tiny models
    try:
        outcomes = [outcome(kind, tokenizer) for kind in tqdm(CAUSAL_TYPES, desc="architectures", unit="type")]
    finally:
        logging.disable(logging.NOTSET)
    names = [field.name for field in fields(Outcome)]
    rows = [names, ["---"] * len(names), *(list(asdict(each).values()) for each in outcomes)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    loading = sum(each.loads == "yes" for each in outcomes)
    return "\n".join([*lines, "", f"{loading} of {len(outcomes)} types load.", ""])


def outcome(model_type: str, tokenizer: PreTrainedTokenizerBase) -> Outcome:
    """Try a type; whatever goes wrong is told in the outcome.

    Args:
        model_type: one of `CAUSAL_TYPES`.
        tokenizer: one of `VOCABULARY` tokens.
    """
    try:
        config = tiny_config(model_type)
        bare = without_weights(config)
    except Exception as error:  # whatever the code of a family raises
        return Outcome(model_type, "no", note=f"not tried: transformers makes no tiny model of it ({reason(error)})")
    try:
        architecture_of(bare)  # before weights are made: models that are refused are not always small
        model = tiny_model(config, tokenizer)
    except ValueError as error:
        return Outcome(model_type, "no", note=str(error).removesuffix(".").split(" cannot be used: ")[-1])
    return Outcome(model_type, "yes", _heads(model.architecture), _experts(model.architecture), _bridge(model))


def _heads(architecture: Architecture) -> str:
    shared = architecture.key_value_heads < architecture.heads
    keys = f" ({architecture.key_value_heads} for keys and values)" if shared else ""
    return f"{architecture.heads} x {architecture.head_size}{keys}"


def _experts(architecture: Architecture) -> str:
    return str(len({part.expert for part in architecture.components} - {None}) or "")


@torch.no_grad()
def _bridge(model: LanguageModel) -> str:
    """Whether TransformerLens shows a model as it is."""
    ids = torch.arange(8)[None]
    try:
        with redirect_stdout(StringIO()):
            logits = model.bridge()(ids)
    except Exception:  # TransformerLens raises whatever its code meets in a model that it was not written for
        return "no"
    own = model.hf(ids).logits
    return "yes" if agree(own, logits[..., : own.shape[-1]]) else "differs"
