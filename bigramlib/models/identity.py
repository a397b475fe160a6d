"""What makes a model the model it is: weights, configuration, vocabulary, and what its tokenizer puts before every text."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from bigramlib.models.locks import lock_of
from bigramlib.store import content_hash, tensors_hash

IRRELEVANT = frozenset({
    "_attn_implementation", "_model_name_or_path", "_name_or_path", "architectures", "attention_dropout",
    "attention_probs_dropout_prob", "attn_pdrop", "auto_map", "bos_token_id", "classifier_dropout", "dtype", "embd_pdrop",
    "eos_token_id", "hidden_dropout", "id2label", "initializer_range", "label2id", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "resid_pdrop", "return_dict", "torch_dtype",
    "transformers_version", "unk_token_id", "use_cache", "vocab_size",
})  # fmt: skip
"""Fields of a configuration that the forward pass of a frozen model does not depend on, or that its weights show."""

KNOWN_BY_WEIGHTS = {
    "78bd3ae5a8632dc333181b082db437635aab7f629a74bf467a57e4cc2f28fb22": "mini, at every checkpoint",
    "c67c8bac7448f7711bc2e0578b74f631b2953ec7026dcf7fac412ed491e14b0e": "stories15m",
    "dd95eece1b88281f3982c8ca754cdd931a50034502a6607ce9126d502536c691": "smollm2-135m-instruct",
    "a0c1063ecbed0a6f059d1bff08c8c1dd4e23c5d96e126dc9d1ec1084aa494bda": "gemma-3-270m",
}
"""Hashes of all but the weights of the models that came with version 0.1, which knew a model by its weights alone: with just
this configuration and tokenizer they keep that identity, and so what was found in them."""


class Identity:
    """The hashes by which a result knows the model that it was found in.

    Attributes:
        hf: the model.
        beneath: (weights hash, model hash) of the model before each of the replacements of weights that hold now, the first
            one first.
    """

    def __init__(
        self, hf: PreTrainedModel, configured: PreTrainedModel, prefix: list[int], tokenizer_hash: str, whole_hash: str = ""
    ) -> None:
        """Begin with a model as it is now.

        Args:
            hf: the model.
            configured: what its configuration describes (`as_configured`).
            prefix: the tokens that stand before every text.
            tokenizer_hash: of its tokenizer's vocabulary.
            whole_hash: of all weights, if some are left out of memory.
        """
        self.hf = hf
        self.beneath: list[tuple[str, str]] = []
        self._built = build_hash(configured)
        self._text = (prefix, tokenizer_hash)
        self._known: tuple[list, str] | None = None
        self._whole = (_hash_in_memory(hf), whole_hash) if whole_hash else None

    @property
    def weights_hash(self) -> str:
        """SHA-256 (hex) of all weights, taken again when they were changed in place."""
        with lock_of(self.hf):
            state = weights_state(self.hf)
            if self._known is None or self._known[0] != state:
                found = _hash_in_memory(self.hf)
                if self._whole:
                    before, whole = self._whole
                    found = whole if found == before else content_hash(whole, found)
                self._known = state, found
            return self._known[1]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of all that the model's predictions depend on."""
        beside = self._beside_weights()
        return self.weights_hash if beside in KNOWN_BY_WEIGHTS else content_hash("model", self.weights_hash, beside)

    def forget(self) -> None:
        """Have the weights hashed anew at the next asking, even if no change of theirs can be seen."""
        self._known = None

    @contextmanager
    def weights_replaced(self) -> Iterator[None]:
        """Within the context the weights are others, and `beneath` knows the model by its own."""
        self.beneath.append((self.weights_hash, self.hash))
        known, self._known = self._known, None
        try:
            yield
        finally:
            self.beneath.pop()
            self._known = known

    def _beside_weights(self) -> str:
        """SHA-256 (hex) of what the model's predictions depend on beside its weights."""
        stored = set(self.hf.state_dict())
        buffers = {name: buffer for name, buffer in self.hf.named_buffers() if name in stored}
        now = build_hash(self.hf)
        edited = None if now == self._built else now
        return content_hash(configuration(self.hf.config), tensors_hash(buffers), edited, *self._text)


def configuration(config: PretrainedConfig) -> dict:
    """The fields that the forward pass depends on, where they are not their architecture's default, as JSON-able values.

    So a field that a later version of transformers adds, at its default, leaves the identity as it was. The configurations of
    a model's parts (of text, of images) are taken in the same way.
    """
    default = type(config)().to_dict()
    chosen = {
        name: value
        for name, value in config.to_dict().items()
        if name not in IRRELEVANT and (name not in default or default[name] != value)
    }
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    chosen |= {name: configuration(part) for name, part in parts.items() if isinstance(part, PretrainedConfig)}
    return json.loads(json.dumps(chosen | {"model_type": config.model_type}, sort_keys=True, default=str))


def as_configured(hf: PreTrainedModel) -> PreTrainedModel:
    """A model of the same class and configuration whose weights are empty memory: what was changed by hand is not in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"), no_init_weights():
            return type(hf)(copy.deepcopy(hf.config)).eval()
    finally:
        torch.set_default_dtype(before)


def build_hash(hf: PreTrainedModel) -> str:
    """SHA-256 (hex) of a model's modules, their numbers and computed buffers: of what it is built of beside what it stores.

    What the forward pass itself replaces in rotary embeddings, by the length of the text, is left out.
    """
    stored = set(hf.state_dict())
    numbers: dict[str, dict] = {}
    buffers: dict[str, torch.Tensor] = {}
    for name, module in hf.named_modules():
        if any(kind in str(getattr(module, "rope_type", "")) for kind in ("dynamic", "longrope")):
            continue
        buffers |= {f"{name}.{part}": buffer for part, buffer in module.named_buffers(recurse=False)}
        if name:
            plain = {key: value for key, value in vars(module).items() if type(value) in (bool, int, float)}
            numbers[name] = {key: value for key, value in plain.items() if key != "training" and key[0] != "_"}
    return content_hash(str(hf), numbers, tensors_hash({name: part for name, part in buffers.items() if name not in stored}))


def weights_state(hf: PreTrainedModel) -> list[tuple[int, int, float]]:
    """What tells of weights that were changed in place, at a tenth of a hash's cost.

    It is where each lies, torch's count of its changes, and its sum, since the count misses changes through `.data`.
    """
    weights = [weight for weight in hf.parameters() if not weight.is_meta]
    return [(weight.data_ptr(), weight._version, float(weight.detach().sum())) for weight in weights]


def _hash_in_memory(hf: PreTrainedModel) -> str:
    """SHA-256 (hex) of all weights but those that are left out."""
    return tensors_hash({name: weight for name, weight in hf.named_parameters() if not weight.is_meta})
