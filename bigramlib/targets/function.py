"""A function of one's own as the target: whatever gives probabilities of the next token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.models.logits import by_rows
from bigramlib.store import content_hash

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel

SEQUENCES_AT_ONCE = 16
"""For how many sequences the function is asked at a time where surprisals are wanted."""


@dataclass(frozen=True)
class FunctionTarget:
    """What a function predicts, as the target.

    Attributes:
        name: results are stored under it, so give another name to a function that predicts something else.
        probabilities: from ids [batch, pos] to the probability of each next token [batch, pos, vocab], on the device of the
            ids. The tokens at and before a position may count, those after it must not.

    Example:
        >>> always_uniform = FunctionTarget("uniform", lambda ids: torch.full((*ids.shape, 4096), 1 / 4096))
        >>> evaluate(study.model, study.held_out, always_uniform).kl > 0
        True
    """

    reads_context: ClassVar[bool] = True

    name: str
    probabilities: Callable[[Tensor], Tensor]

    @property
    def hash(self) -> str:
        """A text that differs between targets of different names."""
        return content_hash("function target", self.name)

    def surprisals(
        self, current: Int[np.ndarray, "sequences pos"], following: Int[np.ndarray, "sequences pos"]
    ) -> Float[np.ndarray, "sequences pos"]:
        """-log2 of the probability of the following token, in bits."""
        found = []
        for begin in range(0, len(current), SEQUENCES_AT_ONCE):
            ids, chosen = (torch.from_numpy(each[begin : begin + SEQUENCES_AT_ONCE]) for each in (current, following))
            found.append(self.probabilities(ids).cpu().double().gather(-1, chosen[..., None])[..., 0])
        return -torch.cat(found).log2().numpy()

    def bind(self, model: LanguageModel) -> _BoundFunction:
        """Prepare the target for a model."""
        return _BoundFunction(self, model)


@dataclass(frozen=True)
class _BoundFunction:
    """The function's predictions beside a model's."""

    target: FunctionTarget
    model: LanguageModel

    def __call__(self, ids: Int[Tensor, "batch pos"], hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """The KL of each position, in nats."""

        def divergence(part: Tensor, rows: slice) -> Tensor:
            wanted = self._probabilities(ids[rows])
            own = self.model.unembed(part).float().log_softmax(-1)
            return -torch.special.entr(wanted).sum(-1) - (wanted * own).sum(-1)

        return by_rows(divergence, hidden, self.model.vocabulary_size)

    def entropy(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """The entropy of the function's prediction at each position, in nats."""
        return torch.special.entr(self._probabilities(ids)).sum(-1)

    @torch.no_grad()
    def _probabilities(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        found = self.target.probabilities(ids)
        wanted = (*ids.shape, self.model.vocabulary_size)
        if tuple(found.shape) != wanted:
            raise ValueError(
                f"The function of the target {self.target.name!r} gives {tuple(found.shape)} for ids of shape "
                f"{tuple(ids.shape)}, but {self.model.name!r} needs {wanted}: the probability of each next token."
            )
        return found.float()
