"""What a model must be to be used here; anything else is refused in a sentence that names the remedy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bigramlib.text.vocabulary import Tokenized

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_plain(hf: object, tokenizer: object, name: str, whole: bool = True) -> None:
    """Raise ValueError unless these are a model and a tokenizer of transformers, with weights that can be changed.

    Args:
        hf: the model.
        tokenizer: its tokenizer.
        name: what the user calls the model, for messages.
        whole: whether no weights may be left out.
    """
    if not isinstance(hf, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"{name!r} is made of a {type(hf).__name__} and a {type(tokenizer).__name__}; give a model and "
            "a tokenizer of transformers, without wrappers around them."
        )
    if any(parameter.is_inference() for parameter in hf.parameters()):
        raise ValueError(f"{name!r} was made within torch.inference_mode(); load it outside of that.")
    if whole and any(parameter.is_meta for parameter in hf.parameters()):
        raise ValueError(f"{name!r} has weights on the device 'meta', which holds none; load them onto the CPU.")
    if not tokenizer.get_vocab():
        raise ValueError(f"The tokenizer of {name!r} has no tokens; use the model's own tokenizer.")


def check_finite(weights: Mapping[str, Tensor], name: str) -> None:
    """Raise FloatingPointError, naming the first of the model's weights in memory that is NaN or infinite."""
    for parameter, weight in weights.items():
        if not weight.is_meta and not bool(weight.isfinite().all()):
            count = int((~weight.isfinite()).sum())
            raise FloatingPointError(
                f"{count} of the weights {parameter!r} of {name!r} are not finite numbers; load an intact copy of the model."
            )


def check_nothing_added(hf: PreTrainedModel, configured: PreTrainedModel, name: str) -> None:
    """Raise ValueError if a model has parameters that the model which its configuration describes has not."""
    if added := sorted(set(hf.state_dict()) - set(configured.state_dict())):
        raise ValueError(
            f"The model {name!r} has the parameter {added[0]!r}, which is none of its architecture; merge adapters into "
            "the model first (merge_and_unload of PEFT)."
        )


def check_prefix(prefix: list[int], vocabulary_size: int, name: str) -> None:
    """Raise ValueError if the tokenizer puts a token before every text that the model has no embedding of."""
    if max(prefix, default=0) >= vocabulary_size:
        raise ValueError(
            f"The tokenizer of {name!r} puts the token {max(prefix)} before every text, but the model has "
            f"embeddings of {vocabulary_size} tokens; use the model's own tokenizer."
        )


def hooked(hf: PreTrainedModel) -> str | None:
    """The place of the first module that has a hook or forward pass of the user's, which may change what a model predicts.

    None if there is none. The hooks that transformers and bigramlib set are no such hooks.
    """
    for place, module in hf.named_modules():
        hooks = [hook for kind in HOOKS for hook in getattr(module, kind).values()]
        ours = [hook for hook in hooks if str(getattr(hook, "__module__", "")).split(".")[0] in ("transformers", "bigramlib")]
        if len(ours) < len(hooks) or "forward" in vars(module):
            return place
    return None


def check_unhooked(hf: PreTrainedModel, name: str) -> None:
    """Raise ValueError if a model is `hooked`: nothing that is recorded of the model would tell of it."""
    if (place := hooked(hf)) is not None:
        raise ValueError(
            f"The module {place!r} of {name!r} has a hook or another forward pass, so what is found in this model could "
            "not be told from what is found in the plain one; remove it (handle.remove(), del module.forward)."
        )


def check_device(device: str | torch.device) -> None:
    """Raise ValueError unless there is such a device here that can hold weights."""
    try:
        usable = not torch.empty(0, device=device).is_meta
        said = "it holds no weights"
    except (RuntimeError, AssertionError, TypeError) as error:
        usable, said = False, str(error).split(". ")[0].splitlines()[0]
    if not usable:
        raise ValueError(f"The device {str(device)!r} is not available here ({said}); use 'cpu'.")


def check_vocabulary(text: Tokenized, vocabulary_size: int, tokenizer_hash: str, name: str) -> None:
    """Raise ValueError unless a text has token ids of a model's vocabulary.

    Args:
        text: a corpus, or the bigram table of one.
        vocabulary_size: of the model.
        tokenizer_hash: of the model's tokenizer.
        name: what the user calls the model, for messages.
    """
    if text.vocabulary_size != vocabulary_size:
        raise ValueError(
            f"{text.description} has token ids for a vocabulary of {text.vocabulary_size}, but the model {name!r} has "
            f"{vocabulary_size} tokens; tokenize the text with the model's own tokenizer."
        )
    if text.tokenizer_hash is not None and text.tokenizer_hash != tokenizer_hash:
        raise ValueError(
            f"{text.description} has token ids of another tokenizer than that of the model {name!r}, though both have "
            f"{vocabulary_size} tokens; tokenize the text with the model's own tokenizer."
        )
