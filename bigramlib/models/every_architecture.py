"""Which types of causal language models can be used: each tried on a tiny model with random weights."""

from __future__ import annotations

import logging
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, fields
from io import StringIO

import torch
from transformers import PreTrainedTokenizerBase

from bigramlib.models.discovery import architecture_of, without_weights
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.logits import agree
from bigramlib.models.mini import train_tokenizer
from bigramlib.models.tiny import CAUSAL_TYPES, VOCABULARY, tiny_config, tiny_model
from bigramlib.progress import tqdm

TEXT = ["the cat sat on the mat and the dog sat on the cat", "a dog and a cat met a rat; the rat sat down"]


@dataclass(frozen=True)
class Outcome:
    """What came of trying a type.

    Attributes:
        type: the Hugging Face name of the architecture.
        loads: "yes" or "no".
        heads: attention heads that can be masked one by one, and their size, in the tiny model; empty if it does not load.
        experts: in how many experts each matrix of an MLP can be masked one by one; empty if there are none.
        bridge: "yes" if TransformerLens's model has the same logits, "differs" if it has others, "no" if it has no such model.
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
    loading = sum(each.loads == "yes" for each in outcomes)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"{loading} of {len(outcomes)} types load.", ""])


def outcome(model_type: str, tokenizer: PreTrainedTokenizerBase) -> Outcome:
    """Try a type; whatever goes wrong is told in the outcome.

    Args:
        model_type: one of `CAUSAL_TYPES`.
        tokenizer: one of `VOCABULARY` tokens.
    """
    try:
        config = tiny_config(model_type)
        architecture_of(without_weights(config))  # before weights are made, for those that are refused are not always small
        model = tiny_model(config, tokenizer)
    except Exception as error:  # whatever transformers raises where it cannot make a tiny model of a type
        return Outcome(model_type, "no", note=" ".join(str(error).split()))
    architecture = model.architecture
    experts = {part.expert for part in architecture.components} - {None}
    heads = f"{architecture.heads} x {architecture.head_size}"
    return Outcome(model_type, "yes", heads, str(len(experts) or ""), _bridge(model))


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
