"""The optimizer of the mask logits: AdamW. Another optimizer is put in its place here.

The key under which a result is kept does not show which optimizer found it: change the key too (`results.store_key`).
"""

from __future__ import annotations

import torch
from torch import Tensor


class LogitOptimizer:
    """AdamW (Loshchilov & Hutter 2019) for the logits of one block, with torch's defaults but for what it is given.

    Its state is there from the beginning, not from the first step on, so that a search can be saved at any step.
    """

    def __init__(self, logits: torch.nn.Parameter, learning_rate: float, second_moment_decay: float) -> None:
        self.logits = logits
        self.adamw = torch.optim.AdamW([logits], lr=learning_rate, betas=(0.9, second_moment_decay), fused=True)
        zeros = {name: torch.zeros_like(logits.detach()) for name in ("exp_avg", "exp_avg_sq")}
        self.adamw.state[logits] = {"step": logits.detach().new_zeros(()), **zeros}

    def step(self, gradient: Tensor) -> None:
        """Update the logits in place by a gradient of their shape."""
        self.logits.grad = gradient
        self.adamw.step()
        self.logits.grad = None

    def state(self) -> dict[str, Tensor]:
        """The number of steps made and both moments, by AdamW's names; no copies."""
        return dict(self.adamw.state[self.logits])

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue with a `state` that was saved; its tensors lie on the logits' device."""
        self.adamw.state[self.logits] = state
