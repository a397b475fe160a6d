"""The GPU that the tests pretend refuses what a real one refuses, and notes what one is waited for."""

import numpy as np
import pytest
import torch
from pretended_gpu import CPU, GPU, MixedDevicesError, pretended_gpu


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (lambda here, there: here + there, MixedDevicesError),
        (lambda here, there: here @ there.T, MixedDevicesError),
        (lambda here, there: torch.cat([here, there]), MixedDevicesError),
        (lambda here, there: there[here[0].long()], MixedDevicesError),
        (lambda here, there: torch.add(here, here, out=there), MixedDevicesError),
        (lambda here, there: here.sum().add_(there.sum()), MixedDevicesError),
        (lambda here, there: (here.clone().requires_grad_() * there.cpu()).sum().to(GPU) + here, MixedDevicesError),
        (lambda here, there: there.numpy(), TypeError),
        (lambda here, there: np.asarray(there), TypeError),
    ],
)
def test_tensors_of_two_devices_do_not_meet(refused, error):
    with pretended_gpu():
        here, there = torch.zeros(3, 3), torch.zeros(3, 3, device="cuda")
        assert (here.device, there.device, (there * 2 + here.sum())[:, :1].device, there.cpu().device) == (CPU, GPU, GPU, CPU)
        with pytest.raises(error):
            refused(here, there)


def test_a_hook_within_a_backward_pass_is_seen_too():
    places = []
    with pretended_gpu() as gpu:
        weight = torch.ones(3, device=GPU, requires_grad=True)
        weight.register_hook(lambda gradient: places.append(gradient.new_tensor([1.0]).device))
        (weight * 2).sum().backward()
        assert places == [GPU] and gpu.waits == [(__name__, "upload")] and weight.grad.tolist() == [2.0] * 3
        weight.register_hook(lambda gradient: gradient + torch.zeros(3))
        with pytest.raises(MixedDevicesError):
            (weight * 2).sum().backward()


@pytest.mark.parametrize(
    ("call", "waits"),
    [
        (lambda there: there.sum().item(), ["_local_scalar_dense"]),
        (lambda there: bool((there > 0).any()), ["_local_scalar_dense"]),
        (lambda there: there.tolist(), ["tolist"]),
        (lambda there: there[there > 0], ["index"]),
        (lambda there: there.cpu(), ["download"]),
        (lambda there: torch.zeros(3).copy_(there), ["download"]),
        (lambda there: torch.zeros(3).to(there.device, non_blocking=True), ["upload"]),
        (lambda there: there.new_tensor([1.0]), ["upload"]),
        (lambda there: there.copy_(torch.zeros(3).pin_memory(), non_blocking=True), []),
        (lambda there: torch.zeros(3).pin_memory().to(there.device, non_blocking=True) + there.new_full((3,), 2.0), []),
    ],
)
def test_what_waits_is_noted_with_who_asked_for_it(call, waits):
    with pretended_gpu() as gpu:
        there = torch.zeros(3, device=GPU)
        call(there)
        assert gpu.waits == [(__name__, operation) for operation in waits]
