"""Checkpoints keep their weights to one part in 254 of a row, and pretraining can be repeated without repeating it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bigramlib import LanguageModel, TokenCorpus, load_model
from bigramlib.models import mini as pretraining
from bigramlib.models.mini import ASSETS, SETTINGS, build_model, load_checkpoint, model_card, pretrain, save_checkpoint

CONFIG = replace(
    SETTINGS["tiny"],
    vocabulary_size=280,
    steps=12,
    warmup_steps=3,
    checkpoint_steps=(0, 4, 12),
    batch_size=4,
    sequence_length=16,
)


@pytest.fixture
def counting():
    """Text in which each token is followed by the next number."""
    return TokenCorpus(np.arange(3000) % 280, np.array([0]), 280)


def test_rounding_moves_no_weight_by_more_than_half_a_step(tmp_path):
    weights = {"matrix": torch.randn(7, 50), "vector": torch.randn(50), "zero": torch.zeros(3, 4)}
    save_checkpoint(tmp_path / "a.safetensors", weights)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    step = weights["matrix"].abs().amax(dim=1, keepdim=True) / 127
    assert ((loaded["matrix"] - weights["matrix"]).abs() <= step / 2 * 1.001).all()
    assert torch.equal(loaded["vector"], weights["vector"])
    assert torch.equal(loaded["zero"], weights["zero"])


def test_rounded_weights_are_kept_exactly(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", {"matrix": torch.randn(7, 50)})
    once = load_checkpoint(tmp_path / "a.safetensors")
    save_checkpoint(tmp_path / "b.safetensors", once)
    assert torch.allclose(load_checkpoint(tmp_path / "b.safetensors")["matrix"], once["matrix"], rtol=1e-6)


def test_pretraining_learns_and_saves_its_checkpoints(tmp_path, counting, tokenizer):
    config = replace(CONFIG, steps=150, checkpoint_steps=(0, 150))
    model = build_model(config)
    losses = pretrain(model, counting, config, tmp_path)
    assert np.mean(losses[-10:]) < losses[0] - 1
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == ["step0.safetensors", "step150.safetensors"]
    fresh = build_model(config)
    fresh.load_state_dict(load_checkpoint(tmp_path / "step150.safetensors"), strict=False)
    ids = torch.arange(8)[None]
    assert torch.allclose(LanguageModel("a", fresh, tokenizer).hf(ids).logits, model(ids).logits, atol=0.2)


def test_a_finished_run_is_read_and_another_recipe_trains_again(tmp_path, counting, monkeypatch):
    losses = pretrain(build_model(CONFIG), counting, CONFIG, tmp_path)
    monkeypatch.setattr(pretraining.torch.optim, "AdamW", lambda *a, **o: pytest.fail("trained"))
    assert np.allclose(pretrain(build_model(CONFIG), counting, CONFIG, tmp_path), losses, atol=1e-4)
    with pytest.raises(pytest.fail.Exception, match="trained"):
        pretrain(build_model(CONFIG), counting, replace(CONFIG, seed=1), tmp_path)


def test_the_card_states_recipe_and_results():
    card = model_card(CONFIG, "sotu", {"model": 3.7, "bigram table": 4.6})
    assert "| bigram table | 4.600 |" in card
    assert "| warmup_steps | 3 |" in card


def test_another_recipe_leaves_no_checkpoint_of_the_one_before(tmp_path, counting):
    pretrain(build_model(CONFIG), counting, CONFIG, tmp_path)
    shorter = replace(CONFIG, steps=4, checkpoint_steps=(4,))
    pretrain(build_model(shorter), counting, shorter, tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["step4.safetensors"]


def test_another_text_trains_again(tmp_path, counting, monkeypatch):
    pretrain(build_model(CONFIG), counting, CONFIG, tmp_path)
    monkeypatch.setattr(pretraining.torch.optim, "AdamW", lambda *a, **o: pytest.fail("trained"))
    with pytest.raises(pytest.fail.Exception, match="trained"):
        pretrain(build_model(CONFIG), TokenCorpus(np.arange(500) % 280, np.array([0]), 280), CONFIG, tmp_path)


def test_pretraining_follows_its_seed(tmp_path, counting):
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        config = replace(CONFIG, seed=seed)
        runs.append(pretrain(build_model(config), counting, config, tmp_path / str(number)))
    assert runs[0] == runs[1] != runs[2]


def test_a_loss_that_is_not_finite_stops_pretraining(tmp_path, counting):
    model = build_model(CONFIG)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="pretraining loss became nan at step 1; lower learning_rate"):
        pretrain(model, counting, CONFIG, tmp_path)


def test_every_weight_of_mini_comes_from_its_checkpoint():
    stored = load_checkpoint(ASSETS / "mini" / "step0.safetensors")
    loaded = dict(load_model("mini@step0").hf.named_parameters())
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[name], parameter) for name, parameter in loaded.items())
