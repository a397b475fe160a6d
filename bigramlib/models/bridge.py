"""A model seen through TransformerLens."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from bigramlib.models.architectures import Architecture

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def bridged(hf: PreTrainedModel, architecture: Architecture) -> TransformerBridge:
    """A TransformerLens bridge around a copy of a model; the bridge rewrites what it wraps (it splits fused QKV matrices)."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module  # slow to import

    hf = copy.deepcopy(hf)
    architecture.add_fused_biases(hf)
    hf.config.architectures = [type(hf).__name__]
    return build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None)
