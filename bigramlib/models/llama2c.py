"""Model files of llama2.c (Karpathy's TinyStories models) as Hugging Face folders."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HEADER = struct.Struct("<7i")
FIRST_BYTE_TOKEN = 3
SPACE = "▁"


def convert(file: Path, folder: Path) -> None:
    """Write a llama2.c file, the weights followed by the tokenizer, as a Hugging Face folder.

    The weights are a header (width, MLP size, layers, heads, key-value heads, vocabulary, context length; int32; a negative
    vocabulary means an untied unembedding) and float32 weights; the tokenizer is the longest token's length and then, for each
    token, its score, length and bytes.

    Raises:
        ValueError: the file is shorter than its header says, or has an untied unembedding.
    """
    data = memoryview(file.read_bytes())
    try:
        config = _read_config(data)
        weights, end = _read_weights(data, config)
        pieces = _read_tokenizer(data[end:], config.vocab_size)
    except (struct.error, ValueError, MemoryError) as error:
        raise ValueError(f"{file.name!r} is not a whole llama2.c model with its tokenizer: {error}.") from None
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    _tokenizer(pieces).save_pretrained(folder)


def _read_config(data: memoryview) -> LlamaConfig:
    """The shape that the header states.

    Raises:
        ValueError: no model has this shape, or not one in so few bytes.
    """
    width, mlp_size, layers, heads, key_value_heads, vocabulary, context = HEADER.unpack_from(data)
    if vocabulary < 0:
        raise ValueError("its unembedding is not tied to its embedding")
    sizes = (width, mlp_size, layers, heads, key_value_heads, vocabulary, context)
    if min(sizes) < 1 or width % heads or heads % key_value_heads or width // heads % 2:
        raise ValueError(f"its header states sizes that no model has: {sizes}")
    if 4 * layers * width * (width + mlp_size) > len(data):
        raise ValueError("it is shorter than its header says")
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )


def _read_weights(data: memoryview, config: LlamaConfig) -> tuple[dict[str, torch.Tensor], int]:
    """The weights by their names in transformers, and the place where they end."""
    width, mlp_size, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    place = HEADER.size

    def read(*shape: int) -> torch.Tensor:
        nonlocal place
        array = np.frombuffer(data, "<f4", count=math.prod(shape), offset=place)
        place += array.nbytes
        return torch.from_numpy(array.reshape(shape).copy())

    head_size = width // heads
    key_width = head_size * key_value_heads
    embedding = read(config.vocab_size, width)
    stacked = {
        "input_layernorm": read(layers, width),
        "self_attn.q_proj": _half_split(read(layers, width, width), heads),
        "self_attn.k_proj": _half_split(read(layers, key_width, width), key_value_heads),
        "self_attn.v_proj": read(layers, key_width, width),
        "self_attn.o_proj": read(layers, width, width),
        "post_attention_layernorm": read(layers, width),
        "mlp.gate_proj": read(layers, mlp_size, width),
        "mlp.down_proj": read(layers, width, mlp_size),
        "mlp.up_proj": read(layers, mlp_size, width),
    }
    weights = {f"model.layers.{layer}.{name}.weight": part[layer] for name, part in stacked.items() for layer in range(layers)}
    weights |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), embedding)
    weights["model.norm.weight"] = read(width)
    read(2, config.max_position_embeddings, head_size // 2)  # the sines and cosines of positions, which transformers computes
    return weights, place


def _half_split(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of each head: llama2.c rotates neighbours (0, 1), (2, 3) ..., transformers rotates the two halves."""
    layers, width, inputs = rows.shape
    pairs = rows.view(layers, heads, width // heads // 2, 2, inputs)
    return pairs.transpose(2, 3).reshape(layers, width, inputs)


def _read_tokenizer(data: memoryview, vocabulary: int) -> list[tuple[str, float]]:
    """(piece, score) of each token; pieces spelled as in SentencePiece."""
    place, pieces = 4, []
    for token in range(vocabulary):
        score, length = struct.unpack_from("<fi", data, place)
        piece = bytes(data[place + 8 : place + 8 + length])
        if length < 0 or len(piece) < length:
            raise ValueError("its tokenizer ends early")
        place += 8 + length
        byte = token - FIRST_BYTE_TOKEN
        text = f"<0x{byte:02X}>" if 0 <= byte < 256 else piece.decode().strip("\n").replace(" ", SPACE)
        pieces.append((("<unk>", "<s>", "</s>")[token] if token < FIRST_BYTE_TOKEN else text, score))
    return pieces


def _tokenizer(pieces: list[tuple[str, float]]) -> PreTrainedTokenizerFast:
    """SentencePiece's byte-pair encoding: merge the pair whose union has the highest score; unknown characters as bytes."""
    ids = {piece: token for token, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces[FIRST_BYTE_TOKEN + 256 :]:
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [(-score, ids[left], ids[right], (left, right)) for left, right in splits if left in ids and right in ids]
    model = models.BPE(ids, [pair for *_, pair in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
