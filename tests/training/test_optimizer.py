"""The logits are updated as by torch's AdamW, and a saved state continues to the same bits."""

import pytest
import torch

from bigramlib.training.optimizer import LogitOptimizer

GRADIENTS = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("decay", [0.999, 0.95])
def test_steps_are_those_of_adamw_with_the_settings_of_torch(decay):
    logits, expected = (torch.nn.Parameter(torch.ones(20)) for _ in range(2))
    optimizer, adamw = LogitOptimizer(logits, 0.1, decay), torch.optim.AdamW([expected], lr=0.1, betas=(0.9, decay))
    for gradient in GRADIENTS:
        optimizer.step(gradient.clone())
        expected.grad = gradient.clone()
        adamw.step()
    assert torch.allclose(logits, expected) and not torch.allclose(logits, torch.ones(20))
    assert logits.grad is None


def test_a_saved_state_continues_to_the_same_bits():
    logits = torch.nn.Parameter(torch.ones(20))
    optimizer = LogitOptimizer(logits, 0.1, 0.95)
    for gradient in GRADIENTS[:3]:
        optimizer.step(gradient.clone())
    continued = torch.nn.Parameter(logits.detach().clone())
    another = LogitOptimizer(continued, 0.1, 0.95)
    another.restore({name: tensor.clone() for name, tensor in optimizer.state().items()})
    for gradient in GRADIENTS[3:]:
        optimizer.step(gradient.clone())
        another.step(gradient.clone())
    assert torch.equal(logits, continued)
