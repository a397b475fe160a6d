"""Notebook 00: pretrain mini, the model that comes with the library, and test whether it is a language model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerBase

from bigramlib.analysis.evaluate import evaluate
from bigramlib.analysis.yardsticks import table_cross_entropies
from bigramlib.findings.claims import Claim, Verdict, check
from bigramlib.findings.style import BLUE, figure_folder
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.mini import ASSETS, PretrainConfig, load_checkpoint, model_card
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import TokenCorpus

CLAIMS = {
    "language model": Claim(
        "The model is a language model, not a bigram table: its held-out cross-entropy is clearly lower",
        "assumed",
        "{model:.2f} nats; bigram table, interpolated, {bigram:.2f}; unigram {unigram:.2f}",
        lambda model, bigram, unigram: model < bigram - 0.3 and bigram < unigram,
    ),
}


def folders(setting: str, figures: str | Path | None) -> tuple[Path, Path | None]:
    """The folders of the trained model and its figures; only the setting "mini" replaces packaged files and has figures."""
    if setting == "mini":
        return ASSETS / "mini", figure_folder("mini", figures)
    return Path(tempfile.mkdtemp()), None


def held_out_cross_entropies(
    network: GPTNeoXForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainConfig,
    folder: Path,
    text: tuple[TokenCorpus, TokenCorpus],
    source: str,
) -> dict[str, float]:
    """How well the trained model, the bigram table and the unigram table predict held-out text; also writes the model card.

    Args:
        network: the model. Its weights are replaced by those of its last checkpoint, which were rounded when they were stored.
        tokenizer: its tokenizer.
        config: the settings that it was trained with.
        folder: where it was written.
        text: (training text, held-out text).
        source: what the text came from, for the model card.

    Returns:
        Nats per held-out token: "model", "bigram table" (mixed with the unigram table, see `table_cross_entropies`) and
        "unigram table".
    """
    train, held_out = text
    network.load_state_dict(load_checkpoint(folder / f"step{config.steps}.safetensors"), strict=False)
    model = LanguageModel(folder.name, network, tokenizer)
    table = BigramTable.from_corpus(train)
    references = table_cross_entropies(table, held_out, max_tokens=None)
    result = evaluate(model, held_out, table, max_tokens=None)
    found = {"model": result.cross_entropy, "bigram table": references["bigram"], "unigram table": references["unigram"]}
    (folder / "README.md").write_text(model_card(config, source, found))
    return found


def judge(folder: Path | None, cross_entropies: dict[str, float]) -> list[Verdict]:
    """The claims of notebook 00, judged by what `held_out_cross_entropies` returns."""
    model, bigram, unigram = cross_entropies.values()
    return [check(folder, CLAIMS["language model"], model=model, bigram=bigram, unigram=unigram)]


def plot_losses(axes: Axes, losses: pd.DataFrame, references: dict[str, float]) -> None:
    """Draw the training loss (columns step, loss; nats per token), with held-out cross-entropies as horizontal lines."""
    smooth = losses.loss.rolling(25, min_periods=1).mean()
    axes.plot(losses.step, losses.loss, color="#bbbbbb", linewidth=0.5)
    axes.plot(losses.step, smooth, color=BLUE, label="training loss")
    for (name, value), style in zip(references.items(), ("-", "--", ":", "-."), strict=False):
        axes.axhline(value, color="black", linewidth=0.9, linestyle=style, label=f"{name} {value:.2f}")
    axes.set(xlabel="optimizer step", ylabel="nats per token", title="Pretraining, with held-out references")
    axes.legend(frameon=False)
