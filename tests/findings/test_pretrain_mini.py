"""Notebook 00: the model as it is stored is measured, and is a language model or not."""

import pandas as pd
import pytest

from bigramlib import BigramTable, LanguageModel, evaluate, load_corpus
from bigramlib.analysis.yardsticks import table_cross_entropies
from bigramlib.findings.claims import recorded
from bigramlib.findings.pretrain_mini import CLAIMS, folders, held_out_cross_entropies, judge, plot_losses
from bigramlib.models.mini import ASSETS, PretrainConfig, build_model, load_checkpoint, pretrain

SMALL = {"vocabulary_size": 280, "width": 16, "layers": 2, "heads": 2, "batch_size": 2, "sequence_length": 16}
CONFIG = PretrainConfig(**SMALL, steps=3, warmup_steps=1, checkpoint_steps=(0, 3))


def test_only_the_setting_mini_replaces_the_embedded_model_and_has_figures(tmp_path):
    assert folders("mini", tmp_path) == (ASSETS / "mini", tmp_path / "mini")
    assert folders("mini", None) == (ASSETS / "mini", None)
    folder, pictures = folders("tiny", tmp_path)
    assert folder.is_dir() and not list(folder.iterdir()) and pictures is None
    assert ASSETS not in folder.parents and folder != folders("tiny", None)[0]
    folder.rmdir()


@pytest.fixture
def trained(tokenizer, documents, tmp_path):
    """A network after three steps, with the folder that it was written to and its text."""
    text = load_corpus(documents, tokenizer)
    network = build_model(CONFIG)
    pretrain(network, text[0], CONFIG, tmp_path, "cpu")
    return network, tmp_path, text


def test_the_model_is_measured_with_its_stored_weights_beside_the_tables(trained, tokenizer):
    network, folder, (train, held_out) = trained
    stored = build_model(CONFIG)
    stored.load_state_dict(load_checkpoint(folder / "step3.safetensors"), strict=False)
    table = BigramTable.from_corpus(train)
    plain = evaluate(LanguageModel("plain", stored, tokenizer), held_out, table, max_tokens=None)
    references = table_cross_entropies(table, held_out, max_tokens=None)
    network.gpt_neox.layers[0].mlp.dense_4h_to_h.weight.data.zero_()
    assert held_out_cross_entropies(network, tokenizer, CONFIG, folder, (train, held_out), "my text") == {
        "model": plain.cross_entropy,
        "bigram table": references["bigram"],
        "unigram table": references["unigram"],
    }


def test_the_model_card_names_the_text_and_the_measured_values(trained, tokenizer):
    network, folder, text = trained
    found = held_out_cross_entropies(network, tokenizer, CONFIG, folder, text, "my text")
    card = (folder / "README.md").read_text()
    assert "my text" in card and all(f"| {name} | {value:.3f} |" in card for name, value in found.items())


@pytest.mark.parametrize(
    ("model", "bigram", "unigram", "holds"),
    [(3.0, 4.0, 5.0, "yes"), (3.8, 4.0, 5.0, "no"), (3.0, 5.1, 5.0, "no"), (4.5, 4.0, 5.0, "no")],
)
def test_a_language_model_is_clearly_better_than_a_bigram_table_that_beats_the_unigram_table(
    tmp_path, model, bigram, unigram, holds
):
    (verdict,) = judge(tmp_path, {"model": model, "bigram table": bigram, "unigram table": unigram})
    assert verdict.holds == holds and verdict.claim is CLAIMS["language model"]
    assert list(recorded(tmp_path)) == [verdict.claim.text]
    assert verdict.ours == f"{model:.2f} nats; bigram table, interpolated, {bigram:.2f}; unigram {unigram:.2f}"


@pytest.mark.parametrize("steps", [1, 40])
def test_losses_are_drawn_as_they_are_and_smoothed_with_a_line_for_each_reference(axes, steps):
    losses = pd.DataFrame({"step": range(1, steps + 1), "loss": [9.0 - step / 10 for step in range(steps)]})
    plot_losses(axes[0], losses, {"model": 3.0, "bigram table": 4.25})
    raw, smooth, *references = axes[0].lines
    assert list(raw.get_ydata()) == list(losses.loss) and len(smooth.get_ydata()) == steps
    assert smooth.get_ydata()[-1] == pytest.approx(losses.loss.iloc[-25:].mean())
    assert [line.get_ydata()[0] for line in references] == [3.0, 4.25]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [
        "training loss",
        "model 3.00",
        "bigram table 4.25",
    ]
