"""Models in single .gguf files, as llama.cpp has them, read by transformers; what it would drop silently is refused."""

from __future__ import annotations

from pathlib import Path

import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bigramlib.models.discovery import architecture_of, without_weights
from bigramlib.models.folders import CONFIG, check_whole, quiet, reason

REMEDY = "load the Hugging Face model that it was made from"


def read_gguf(path: Path, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The fp32 model in a .gguf file, dequantised, and its tokenizer.

    Args:
        path: the file.
        name: what the user calls the model, for messages.

    Raises:
        ValueError: it is no whole .gguf file of a known architecture, or transformers would not read all that is in it.
    """
    from transformers import GgufConfig
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    if path.suffix.lower() != ".gguf":
        raise ValueError(f"{name!r} is a file and no .gguf file; give the folder that it lies in, with its {CONFIG}.")
    source, options = path.parent, {"gguf_file": str(path.absolute()), "trust_remote_code": False}
    try:
        file = GGUFReader(path)
        for field in file.fields.values():
            if field.name.endswith(".rope.scaling.type") and field.contents() != "none":
                raise ValueError(f"transformers does not read its {field.name}")
        architecture_of(without_weights(AutoConfig.from_pretrained(source, **options)))
        with quiet():
            hf, report = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
        used = set(get_gguf_hf_weights_map(hf, TensorProcessor()))
        report["unexpected_keys"] = {tensor.name for tensor in file.tensors} - used
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        raise ValueError(f"{name!r} cannot be read as a GGUF model ({reason(error)}); {REMEDY}.") from error
    check_whole(hf, report, name, REMEDY)
    return hf, tokenizer
