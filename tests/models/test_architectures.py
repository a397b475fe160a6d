"""Heads and components are where the architectures' layouts say they are."""

import pytest
import torch
from conftest import build, token_ids
from transformers import GPT2Config, LlamaConfig

from bigramlib.models.discovery import architecture_of, without_weights


def test_components_cover_each_maskable_weight_exactly_once(any_model):
    covered = {name: torch.zeros(weight.shape) for name, weight in any_model.maskable.items()}
    for component in any_model.architecture.components:
        index = component.index(covered[component.parameter])
        covered[component.parameter].index_add_(
            component.axis, index, torch.ones_like(covered[component.parameter]).index_select(component.axis, index)
        )
    assert all((count == 1).all() for count in covered.values())


def test_maskable_parameters_are_all_attention_and_mlp_matrices(any_model):
    matrices = {
        name
        for name, parameter in any_model.hf.named_parameters()
        if parameter.ndim == 2 and not any(word in name for word in ("embed", "wte", "wpe", "lm_head"))
    }
    assert set(any_model.maskable) == matrices


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_zeroing_a_head_changes_only_what_that_head_writes(any_model, tokenizer, name):
    model = build(any_model.architecture.model_type, tokenizer)
    if model.architecture.model_type == "olmo2":  # its norms of q and k reach across heads: take them away
        attention = model.hf.model.layers[0].self_attn
        attention.q_norm = attention.k_norm = torch.nn.Identity()
    components = {c.name: c for c in model.architecture.components if c.layer == 0}
    written = heads_written(model, components["o"])
    before = written()
    part, group = components[name], 1
    part.fill_(model.maskable[part.parameter], 0.0, group)
    changed = (written() - before).abs().amax(dim=(0, 1)) > 1e-7
    shared = model.architecture.heads // len(part.units)
    expected = torch.zeros(model.architecture.heads, dtype=torch.bool)
    expected[group * shared : (group + 1) * shared] = True
    by_head = changed.view(model.architecture.heads, -1).any(dim=1)
    assert torch.equal(by_head, expected)


def test_zeroing_the_output_columns_of_a_head_is_zeroing_what_it_writes(any_model, tokenizer):
    model = build(any_model.architecture.model_type, tokenizer)
    output = next(c for c in model.architecture.components if c.name == "o" and c.layer == 0)
    module = model.hf.get_submodule(output.parameter.removesuffix(".weight"))
    values = torch.zeros(1, 1, model.architecture.heads * model.architecture.head_size)
    values[..., output.units[1]] = 1.0
    nothing = module(torch.zeros_like(values))
    assert not torch.allclose(module(values), nothing)
    output.fill_(model.maskable[output.parameter], 0.0, 1)
    assert torch.allclose(module(values), nothing)


def test_an_mlp_dimension_is_one_row_of_in_and_one_column_of_out(any_model, tokenizer):
    model = build(any_model.architecture.model_type, tokenizer)
    components = {c.name: c for c in model.architecture.components if c.layer == 1}
    ids = token_ids()
    for removed in ("mlp in", "mlp out"):
        assert len(components[removed].units) == model.architecture.mlp_size
    components["mlp out"].fill_(model.maskable[components["mlp out"].parameter], 0.0, 5)
    without_out = model.hf(ids).logits
    components["mlp in"].fill_(model.maskable[components["mlp in"].parameter], 0.0, 5)
    assert torch.allclose(model.hf(ids).logits, without_out, atol=1e-6)


def test_head_and_mlp_sizes_of_the_config_come_before_what_the_width_implies():
    def sizes(config) -> tuple[int, int]:
        found = architecture_of(without_weights(config))
        return found.head_size, found.mlp_size

    assert sizes(LlamaConfig(hidden_size=16, num_attention_heads=4, head_dim=8, intermediate_size=20)) == (8, 20)
    assert sizes(GPT2Config(n_embd=16, n_head=2)) == (8, 64)
    assert sizes(GPT2Config(n_embd=16, n_head=2, n_inner=24)) == (8, 24)


def heads_written(model, output):
    """A function that runs the model and returns what enters the first attention output, [batch, pos, heads * size]."""
    module = model.hf.get_submodule(output.parameter.removesuffix(".weight"))

    def run() -> torch.Tensor:
        seen = []
        handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        model.hf(token_ids())
        handle.remove()
        return seen[0]

    return run
