"""What is predicted after a prompt: by the bigram table, a subnetwork, the model, the model without it; and layer by layer."""

from __future__ import annotations

from contextlib import nullcontext

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.models.language_model import LanguageModel
from bigramlib.models.layers import recorded
from bigramlib.models.locks import lock_of
from bigramlib.models.tokenizer import token_texts
from bigramlib.numeric import Number, full_precision, whole_number
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable

TOP = 8
"""How many next tokens are shown unless asked otherwise."""


def predictions(
    model: LanguageModel, table: BigramTable, prompt: str, subnetwork: Subnetwork | None = None, *, top: Number = TOP
) -> pd.DataFrame:
    """The likeliest next tokens after a prompt, side by side.

    Args:
        model: the model.
        table: a bigram table; it looks at the last token of the prompt alone.
        prompt: any text of at least one token.
        subnetwork: also the predictions of this subnetwork, and of the model without it.
        top: how many tokens.

    Returns:
        One row for each rank, from 1. Columns in two levels: "bigram table", "subnetwork", "full model", "without the
        subnetwork" (the first and the third alone if there is no subnetwork), each with token (its text) and probability.

    Raises:
        ValueError: the prompt cannot be read or has no tokens, or model, table and subnetwork do not belong together.
    """
    model.check_vocabulary(table)
    top = min(whole_number("top", top, least=1), model.vocabulary_size)
    ids = prompt_ids(model, prompt)
    found = {"bigram table": torch.from_numpy(table.probabilities(ids[0, -1:].cpu().numpy())[0])}
    if subnetwork:
        found["subnetwork"] = _after(model, ids, subnetwork)
    found["full model"] = _after(model, ids)
    if subnetwork:
        found["without the subnetwork"] = _after(model, ids, ~subnetwork)
    columns: dict[tuple[str, str], list] = {}
    for source, distribution in found.items():
        likeliest = torch.sort(distribution, descending=True, stable=True)
        columns[source, "token"] = token_texts(model.tokenizer, likeliest.indices[:top].tolist())
        columns[source, "probability"] = likeliest.values[:top].tolist()
    return pd.DataFrame(columns, index=pd.RangeIndex(1, top + 1, name="rank"))


def lens(model: LanguageModel, prompt: str, subnetwork: Subnetwork | None = None) -> pd.DataFrame:
    """What each layer boundary predicts at each token of a prompt: the logit lens, without any training.

    The residual stream of a boundary goes through the model's own final norm and unembedding, as if the layers after it were
    not there. So the last boundary gives the model's own prediction.

    Args:
        model: the model.
        prompt: any text of at least one token.
        subnetwork: read this subnetwork instead of the whole model.

    Returns:
        One row for each token and boundary: position (from 0), token, layer (0 is what enters the first layer, l what layer l
        writes, counted from 1), prediction (the text of the likeliest next token), probability.

    Raises:
        ValueError: the prompt cannot be read or has no tokens, or the subnetwork is not of this model.
    """
    ids = prompt_ids(model, prompt)
    tokens = token_texts(model.tokenizer, ids[0].tolist())
    rows = []
    with (
        subnetwork.applied(model) if subnetwork else nullcontext(),
        lock_of(model.hf),
        torch.inference_mode(),
        full_precision(),
    ):
        with recorded(model.hf) as seen:
            model.hidden(ids)
        for layer, stream in enumerate(seen.stream):
            likeliest = _softmax(model, model.final_norm(stream[0, len(model.prefix) :])).max(-1)
            texts = token_texts(model.tokenizer, likeliest.indices.tolist())
            read = zip(tokens, texts, likeliest.values.tolist(), strict=True)
            rows += [(position, token, layer, *found) for position, (token, *found) in enumerate(read)]
    frame = pd.DataFrame(rows, columns=["position", "token", "layer", "prediction", "probability"])
    return frame.sort_values(["position", "layer"], ignore_index=True)


def prompt_ids(model: LanguageModel, prompt: str) -> Int[Tensor, "1 pos"]:
    """The token ids of a prompt, without what the tokenizer puts before it.

    Raises:
        ValueError: it cannot be read or has no tokens.
    """
    ids = model.sampler.read(prompt)
    if not ids:
        raise ValueError(f"The prompt {prompt!r} has no tokens; give some text.")
    return torch.tensor([ids], device=model.device)


@torch.inference_mode()
@full_precision()
def _after(model: LanguageModel, ids: Int[Tensor, "1 pos"], subnetwork: Subnetwork | None = None) -> Float[Tensor, " vocab"]:
    """The probability of each token after a prompt, float64, on the CPU."""
    with subnetwork.applied(model) if subnetwork else nullcontext():
        return _softmax(model, model.hidden(ids)[0, -1])


def _softmax(model: LanguageModel, hidden: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape vocab"]:
    """The probabilities of last hidden states, float64, on the CPU."""
    return model.unembed(hidden).double().softmax(-1).cpu()
