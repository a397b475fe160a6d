"""A pass that differs from the one before in a few weights has the bits of a pass on its own, and computes less."""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from conftest import CONFIGS, UNUSUAL, build, token_ids

from bigramlib.models.architectures import holder, is_module
from bigramlib.models.reuse import Reuse


@contextmanager
def computed(model):
    """Which maskable matrices are used within the context."""
    found = []
    with ExitStack() as stack:
        for name in filter(is_module, model.maskable):
            module = model.hf.get_submodule(holder(name))
            hook = module.register_forward_hook(lambda *_, name=name: found.append(name))
            stack.callback(hook.remove)
        yield found


@pytest.mark.parametrize("name", [*CONFIGS, *UNUSUAL])
def test_each_pass_has_the_bits_of_one_on_its_own(name, tokenizer):
    model = build(name, tokenizer)
    ids, reuse = token_ids(), Reuse(model.hf, model.architecture)
    with reuse.on():
        assert torch.equal(model.hidden(ids), model.hidden(ids))
    for name, weight in reversed(model.maskable.items()):
        with model.replaced({name: weight.data * 0.5}):
            alone = model.hidden(ids)
            reuse.forget([name])
            with reuse.on():
                assert torch.equal(model.hidden(ids), alone)
        reuse.forget([name])
    assert not any("forward" in vars(module) for module in model.hf.modules())


@pytest.mark.parametrize("changed", [0, 1])
def test_only_the_changed_module_and_what_comes_after_it_is_computed(tokenizer, changed):
    model = build("llama", tokenizer)
    ids, reuse = token_ids(), Reuse(model.hf, model.architecture)
    name = f"model.layers.{changed}.mlp.up_proj.weight"
    with reuse.on(), computed(model) as first:
        model.hidden(ids)
    with model.replaced({name: model.maskable[name].data * 0.5}), computed(model) as second:
        reuse.forget([name])
        with reuse.on():
            model.hidden(ids)
    assert set(first) == set(model.maskable)
    assert set(second) == {
        other for other in model.maskable if f"layers.{changed}.mlp" in other or (changed == 0 and "layers.1." in other)
    }


def test_other_tokens_are_computed_anew(model):
    reuse = Reuse(model.hf, model.architecture)
    with reuse.on():
        model.hidden(token_ids(0))
        found = model.hidden(token_ids(1))
    assert torch.equal(found, model.hidden(token_ids(1)))


def test_what_was_kept_is_not_changed_in_place_by_what_comes_after(model):
    ids, reuse = token_ids(), Reuse(model.hf, model.architecture)
    block = model.hf.get_submodule(next(iter(model.architecture.blocks)))
    with reuse.on():
        expected = model.hidden(ids)
        given = block.register_forward_hook(lambda *call: call[-1][0].zero_())
        model.hidden(ids)
        given.remove()
        assert torch.equal(model.hidden(ids), expected)


def test_what_was_skipped_within_stays_skipped(any_model):
    ids, blocks = token_ids(), list(any_model.architecture.blocks)[:1]
    with any_model.skipping(blocks):
        expected = any_model.hidden(ids)
        with Reuse(any_model.hf, any_model.architecture).on():
            assert torch.equal(any_model.hidden(ids), expected)
        assert torch.equal(any_model.hidden(ids), expected)
    assert not any("forward" in vars(module) for module in any_model.hf.modules())
