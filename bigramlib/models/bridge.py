"""A model seen through TransformerLens."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bigramlib.models.architectures import Architecture, held, holder
from bigramlib.models.left_out import check_loaded
from bigramlib.models.tokenizer import tokens_before

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def bridged(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, architecture: Architecture, name: str
) -> TransformerBridge:
    """A TransformerLens bridge around a copy of a model; the bridge rewrites what it wraps (it splits fused QKV matrices).

    Args:
        hf: the model.
        tokenizer: its tokenizer; of texts the bridge makes the tokens that this one makes of them, with all that it puts first.
        architecture: its layout.
        name: what the user calls it, for messages.

    Raises:
        ValueError: TransformerLens cannot show such a model.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module  # slow to import

    check_loaded(hf, architecture, name)
    hf = copy.deepcopy(hf)
    _add_fused_biases(hf, architecture)
    hf.config.architectures = [type(hf).__name__]
    try:
        bridge = build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None)
    except Exception as error:  # whatever TransformerLens stumbles over in a model that it does not know
        raise ValueError(f"TransformerLens cannot show the model {name!r} ({in_short(error)}).") from error
    _give_tokenizer(bridge, tokenizer)
    return bridge


def in_short(error: Exception) -> str:
    """The kind of an error of another library, and the first sentence of what it says."""
    said = re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _add_fused_biases(hf: PreTrainedModel, architecture: Architecture) -> None:
    """Give fused QKV matrices that have no bias one of zeros, in place: TransformerLens cannot split them without."""
    for component in architecture.components:
        matrix = hf.get_submodule(holder(component.parameter))
        if component.name == "q" and len(held(component.parameter)) > 1 and matrix.bias is None:
            matrix.bias = nn.Parameter(matrix.weight.new_zeros(matrix.weight.shape[component.axis]))


def _give_tokenizer(bridge: TransformerBridge, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a bridge read texts, without what TransformerLens does to a tokenizer when it builds a bridge with one.

    It would read the tokenizer from disk again, have it put a beginning of sequence before every text, and add tokens to it.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:  # it pads even a single text, by nothing
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)
    bridge.tokenizer = tokenizer
    prefix = tokens_before(tokenizer)
    bridge.cfg.tokenizer_prepends_bos = bridge.cfg.default_prepend_bos = bool(prefix)
    bridge.cfg.tokenizer_appends_eos = len(tokenizer("")["input_ids"]) > len(prefix)
