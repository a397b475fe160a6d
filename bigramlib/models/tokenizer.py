"""What the tokenizer says of a model's texts: what stands before every text, what ends a document, how single tokens read."""

from __future__ import annotations

from collections.abc import Sequence

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


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """How each token reads within a text, with a space before it if it has one.

    A token is decoded after itself, because some tokenizers drop the space of the first token of a text. What is no whole
    character, or nothing at all, gets its name in the vocabulary.
    """
    texts: dict[int, str] = {}
    for token in ids:
        if token not in texts:
            alone, twice = (tokenizer.decode([token] * times, clean_up_tokenization_spaces=False) for times in (1, 2))
            text = twice.removeprefix(alone)
            texts[token] = text if text and "\ufffd" not in twice else str(tokenizer.convert_ids_to_tokens(token))
    return [texts[token] for token in ids]
