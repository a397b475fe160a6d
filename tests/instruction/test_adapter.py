"""An adapter, merged, predicts what it predicted before, and begins as no change at all."""

import pytest
import torch
from conftest import build, token_ids
from tunings import LORA, WHOLE

from bigramlib.instruction.adapter import TrainedWeights


@pytest.fixture(params=["gpt_neox", "gpt2", "llama", "opt", "bloom", "gptj", "openai-gpt", "granite", "cohere", "gemma3"])
def weights(request, tokenizer):
    """An adapter with random weights."""
    weights = TrainedWeights.of(build(request.param, tokenizer), LORA)
    generator = torch.Generator().manual_seed(3)
    weights.restore({name: 0.3 * torch.randn(p.shape, generator=generator) for name, p in weights.parameters.items()})
    return weights


@torch.no_grad()
def logits(model):
    return model.unembed(model.hidden(token_ids()))


def test_merged_it_predicts_what_the_adapter_did(weights):
    before = logits(weights.copied)
    merged = logits(weights.tuned("tuned"))
    assert (before - logits(weights.base)).abs().max() > 0.1
    torch.testing.assert_close(merged, before, atol=1e-5, rtol=1e-5)


def test_merged_weights_have_the_same_bits_on_every_machine(weights):
    matrices = {name.removesuffix(".weight"): weight.clone() for name, weight in weights.base.maskable.items()}
    parameters = {name: parameter.detach().clone() for name, parameter in weights.parameters.items()}
    merged = weights.tuned("tuned").maskable
    for module, before in matrices.items():
        first, second = parameters[f"{module}.lora_A"], parameters[f"{module}.lora_B"]
        change = LORA.alpha / LORA.rank * sum(second[:, rank, None] * first[rank] for rank in range(LORA.rank))
        change = change.T if weights.base.hf.config.model_type in ("gpt2", "openai-gpt") else change
        assert torch.equal(merged[f"{module}.weight"], before + change)


def test_at_its_beginning_it_changes_nothing_but_is_drawn_from_the_seed(tokenizer):
    model = build("llama", tokenizer)
    weights = TrainedWeights.of(model, LORA)
    torch.testing.assert_close(logits(weights.copied), logits(model), atol=0, rtol=0)
    assert all(bool(p.any()) == name.endswith("lora_A") for name, p in weights.parameters.items())


def test_only_the_adapter_gets_gradients(weights):
    trained = {id(p) for p in weights.copied.hf.parameters() if p.requires_grad}
    assert trained == {id(p) for p in weights.parameters.values()}


def test_of_a_model_that_also_sees_only_what_reads_text_is_tuned(tokenizer):
    model = build("gemma3", tokenizer)
    whole = TrainedWeights.of(model, WHOLE)
    assert set(model.maskable) < set(whole.parameters)
    assert "model.language_model.embed_tokens.weight" in whole.parameters
    assert set(dict(model.hf.named_parameters())) - set(whole.parameters) == {
        name for name in dict(model.hf.named_parameters()) if "vision" in name or "projector" in name
    }
    assert {id(p) for p in whole.copied.hf.parameters() if p.requires_grad} == {id(p) for p in whole.parameters.values()}


def test_of_whole_weights_only_those_that_changed_are_kept(tokenizer):
    weights = TrainedWeights.of(build("llama", tokenizer), WHOLE)
    name = next(iter(weights.parameters))
    assert not weights.changed()
    weights.restore({name: weights.parameters[name].detach() + 1})
    assert set(weights.changed()) == {name}


@pytest.mark.parametrize("config", [LORA, WHOLE])
def test_tensors_of_another_model_are_refused(tokenizer, config):
    weights = TrainedWeights.of(build("llama", tokenizer), config)
    with pytest.raises(ValueError, match="no weight that is tuned, or has another shape"):
        weights.check(TrainedWeights.of(build("gpt_neox", tokenizer), config).parameters)
    name, parameter = next(iter(weights.parameters.items()))
    with pytest.raises(ValueError, match="or has another shape"):
        weights.check({name: parameter[1:]})


def test_an_adapter_that_lacks_a_part_is_refused(weights):
    with pytest.raises(ValueError, match="it lacks"):
        weights.check(dict(list(weights.parameters.items())[1:]))
