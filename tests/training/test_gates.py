"""Gates multiply weights as they should, share memory, and are updated in the backward pass."""

import gc
import math
import weakref

import pytest
import torch
from conftest import build
from searches import QUICK

from bigramlib.training.gates import Gates
from bigramlib.training.stopping import CLOSED_GATE, count_gates


def test_a_weight_that_is_exactly_zero_starts_closed_and_still_counts(tokenizer):
    model = build("gpt_neox", tokenizer)
    name = model.architecture.maskable[0]
    model.maskable[name][0, :5] = 0.0
    gates = Gates(model, QUICK)
    gates.begin_step(1.0)
    assert (next(iter(gates.blocks.values())).logits[:5] == -1e6).all()
    assert gates.total == sum(weight.numel() for weight in model.maskable.values())
    opened = sum(float(block.make_masked_weights().sum()) for block in gates.blocks.values())
    assert opened == pytest.approx(0.5 * (gates.total - 5))


@pytest.mark.parametrize("beta", [1.0, 40.0])
def test_gates_start_near_a_mask_whatever_beta_is(tokenizer, beta):
    model = build("gpt_neox", tokenizer)
    name = model.architecture.maskable[0]
    model.maskable[name][0, :5] = 0.0
    masks = {each: torch.rand(weight.shape) < 0.5 for each, weight in model.maskable.items()}
    gates = Gates(model, QUICK)
    gates.start_from(masks, beta)
    gates.begin_step(beta)
    for block in gates.blocks.values():
        for each, gate in block.split(block.make_masked_weights()):
            expected = torch.where(masks[each], 0.9, 0.05).masked_fill(model.maskable[each] == 0, 0.0)
            torch.testing.assert_close(gate, expected)


def test_a_backward_pass_leaves_no_gradients_and_no_gates_behind(model, table, corpus):
    gates = Gates(model, QUICK)
    gates.begin_step(1.0)
    ids = torch.from_numpy(corpus.ids[:32]).long().view(2, 16)
    before = [block.logits.detach().clone() for block in gates.blocks.values()]
    table.bind(model)(ids, gates.hidden(ids)).sum().backward()
    for block, logits in zip(gates.blocks.values(), before, strict=True):
        assert not torch.equal(block.logits, logits)
        assert block.gradient is None and block.logits.grad is None
        assert all(masked.grad is None for masked in block.masked.values())


def test_masked_weights_share_memory_and_are_made_again_as_they_were(any_model, table, corpus):
    gates = Gates(any_model, QUICK)
    logits = {}
    with torch.no_grad():
        for block in gates.blocks.values():
            block.logits.normal_(generator=torch.Generator().manual_seed(0))
            logits |= {name: part.clone().requires_grad_() for name, part in block.split(block.logits)}
    ids = torch.from_numpy(corpus.ids[:32]).long().view(2, 16)
    divergence = table.bind(any_model)
    gates.begin_step(2.0)
    divergence(ids, gates.hidden(ids)).sum().backward()
    opened = {name: torch.sigmoid(2.0 * part) for name, part in logits.items()}
    masked = {name: gate * any_model.maskable[name] for name, gate in opened.items()}
    penalty = gates.penalty_per_weight * sum(gate.sum() for gate in opened.values())
    (divergence(ids, any_model.hidden(ids, masked)).sum() + penalty).backward()
    for block in gates.blocks.values():
        for name, moment in block.split(block.optimizer.state()["exp_avg"]):
            assert torch.allclose(moment, 0.1 * logits[name].grad, rtol=1e-3, atol=1e-7)
    assert len({part.untyped_storage().data_ptr() for part in gates.masked.values()}) == 1


def test_a_block_is_closed_when_its_largest_gate_is_and_then_writes_nothing(any_model, corpus):
    gates = Gates(any_model, QUICK)
    ids = torch.from_numpy(corpus.ids[:32]).long().view(2, 16)
    first, second, *others = gates.blocks
    with torch.no_grad():
        for name in (first, second):
            gates.blocks[name].logits.fill_(math.log(0.99 * CLOSED_GATE) / 5)
        gates.blocks[second].logits[-1] = math.log(1.2 * CLOSED_GATE) / 5
    assert [count_gates(gates, beta)[2] for beta in (4.9, 5.0, 5.5)] == [[], [first], [first, second]]
    gates.drop([first])
    gates.begin_step(5.0)
    masked = {name: torch.zeros_like(any_model.maskable[name]) for name in any_model.architecture.blocks[first]}
    for block in gates.blocks.values():
        block.make_masked_weights()
        masked |= {name: part.clone() for name, part in block.matrices(gates.workspace.masked)}
    torch.testing.assert_close(gates.hidden(ids), any_model.hidden(ids, masked), rtol=1e-3, atol=1e-4)
    assert first in gates.dropped and list(gates.blocks) == [second, *others]
    assert not any(gates.masks()[name].any() for name in any_model.architecture.blocks[first])


def test_one_block_stays_when_all_are_closed(model):
    gates = Gates(model, QUICK)
    for block in gates.blocks.values():
        block.logits.data.fill_(-1.0)
    gates.drop(count_gates(gates, 100.0)[2])
    assert len(gates.blocks) == 1 and set(gates.masked) == set(next(iter(gates.blocks.values())).masked)


def test_gates_are_freed_with_their_tensors(model):
    gates = Gates(model, QUICK)
    logits = weakref.ref(next(iter(gates.blocks.values())).logits)
    del gates
    gc.collect()
    assert logits() is None


def test_no_gate_makes_subnormal_numbers_and_none_that_counts_is_lost(model):
    gates = Gates(model, QUICK)
    block = next(iter(gates.blocks.values()))
    with torch.no_grad():
        block.logits.copy_(torch.linspace(-1.0, 1.0, block.logits.numel()))
    gates.begin_step(90.0)
    made = block.make_masked_weights().clone()
    exact = torch.sigmoid(block.logits.detach() * 90.0)
    assert ((made == 0) | (made >= 1e-20)).all() and (made == 0).any()
    assert torch.equal(made[exact >= 1e-20], exact[exact >= 1e-20])
