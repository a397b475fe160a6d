"""The full model's own predictions as the target: what a pruned model should still predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bigramlib.models.logits import by_rows
from bigramlib.store import content_hash
from bigramlib.targets.target import BoundTarget

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


@dataclass(frozen=True)
class ModelTarget:
    """The full model's own predictions as the target (optimal pruning, finding 5 of Chang & Bergen 2025).

    Attributes:
        model: the model whose predictions are the target.

    Example:
        >>> pruned = find_subnetwork(model, ModelTarget(model), corpus)
        >>> pruned.kept < pruned.total
        True
    """

    reads_context: ClassVar[bool] = True

    model: LanguageModel

    @property
    def hash(self) -> str:
        """A text that differs between models with different predictions."""
        self.model.settle()
        return content_hash("model target", self.model.hash)

    def bind(self, model: LanguageModel) -> BoundTarget:
        """Prepare the target for a model, which is usually the target's model itself.

        Raises:
            ValueError: the two models do not share a vocabulary.
        """
        if model.vocabulary_size != self.model.vocabulary_size:
            raise ValueError(
                f"The target model {self.model.name!r} has {self.model.vocabulary_size} tokens but {model.name!r} has "
                f"{model.vocabulary_size}; both must share a vocabulary."
            )
        if model.tokenizer_hash != self.model.tokenizer_hash:
            raise ValueError(
                f"The target model {self.model.name!r} has another tokenizer than {model.name!r}, though both have "
                f"{model.vocabulary_size} tokens; both must share a vocabulary."
            )
        return _BoundModel(self.model, model)


class _BoundModel:
    """The target's predictions, prepared for a model (maybe the same one, of which some weights are masked)."""

    def __init__(self, target: LanguageModel, model: LanguageModel) -> None:
        self.target, self.model = target, model
        self._last: tuple[Tensor, Tensor] | None = None

    def __call__(self, ids: Int[Tensor, "batch pos"], hidden: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos"]:
        """The KL of each position, in nats."""
        wanted = self._hidden(ids)
        entropies = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)

        def divergence(part: Tensor, rows: slice) -> Tensor:
            target = self._log_probability(wanted[rows])
            probability = target.exp()
            entropies[rows] = -(probability * target).sum(-1)
            own = self.model.unembed(part).float().log_softmax(-1)
            return (probability * (target - own)).sum(-1)

        found = by_rows(divergence, hidden, self.model.vocabulary_size)
        self._last = ids, entropies
        return found

    @torch.no_grad()
    def entropy(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """The entropy of the target's prediction at each position, in nats.

        If the KL of these very ids was the last one computed, its pass over the target has given their entropy too.
        """
        if self._last is not None and self._last[0] is ids:
            return self._last[1]

        def of_rows(part: Tensor, rows: slice) -> Tensor:
            target = self._log_probability(part)
            return -(target.exp() * target).sum(-1)

        return by_rows(of_rows, self._hidden(ids), self.model.vocabulary_size)

    @torch.no_grad()
    def _hidden(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.target.hidden(ids)

    @torch.no_grad()
    def _log_probability(self, hidden: Float[Tensor, "rows pos d_model"]) -> Float[Tensor, "rows pos vocab"]:
        return self.target.unembed(hidden).float().log_softmax(-1)
