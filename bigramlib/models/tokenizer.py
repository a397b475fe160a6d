"""What the tokenizer says of a model's texts: which tokens stand before every text, and which end a document."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def tokens_before(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that a tokenizer puts before every text, mostly none or one that begins a sequence.

    They are found by comparing a short text with and without special tokens. Not every tokenizer knows the letter "a", so
    some of its own tokens are tried after it.
    """
    pieces = ["a", *(tokenizer.decode([token]) for token in sorted(tokenizer.get_vocab().values())[:64])]
    for piece in pieces:
        try:
            alone, whole = (tokenizer(piece, add_special_tokens=special)["input_ids"] for special in (False, True))
        except Exception:  # of tokenizers: some have no token for what they do not know
            continue
        places = [place for place in range(len(whole)) if whole[place : place + len(alone)] == alone]
        if alone and len(places) == 1:
            return whole[: places[0]]
    return []


def tokens_ending(tokenizer: PreTrainedTokenizerBase, hf: PreTrainedModel, vocabulary_size: int) -> list[int]:
    """The ids that end a document, in order.

    They are all that the tokenizer, the model's configuration and its generation configuration call an end of sequence, and
    the token that begins a sequence, because some models know only that one.
    """
    named = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    for config in (hf.config, hf.generation_config):
        ends = getattr(config, "eos_token_id", None)
        named += ends if isinstance(ends, list | tuple) else [ends]
    return sorted({token for token in named if token is not None and 0 <= token < vocabulary_size})
