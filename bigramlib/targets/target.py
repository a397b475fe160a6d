"""What every target has in common, and how to write a new one.

A target says, for each position of a text, which distribution over the next token a subnetwork should predict. Mask training
minimises the Kullback-Leibler divergence (KL) from the target's distribution p to the model's own. The model's logits are a
function of its last hidden state h, so

    KL = log Z(h) - sum over tokens c of p(c) logit(c | h) - H(p)        in nats,

with the log partition function log Z, and the entropy H of the target.

There are four: `BigramTable`, `TrigramTable`, `ModelTarget` (the full model itself) and `FunctionTarget` (any function of one's
own). A function is the short way to a new target: it gives the probabilities of all next tokens, as an array
[batch, pos, vocab]. The long way is a class that has the members of `Target`, as `trigram.py` has them:

1. `reads_context`: whether the prediction after a token depends on more than that token. If so, training takes running text;
   else it can also take tokens that are drawn one by one.
2. `hash`: a text that changes with everything that its predictions depend on. Results are stored under it.
3. `bind(model)`: first `model.check_vocabulary(self)`, which needs the properties `vocabulary_size`, `tokenizer_hash` and
   `description`. Then whatever can be computed once for the model. It returns a function (or an object with `__call__`) from
   ids and hidden states to the KL of each position.
4. The object that `bind` returns should also have a method `entropy(ids)`. With it a run is judged stable or unstable by the
   cross-entropy, which is the KL plus this entropy. Without it the KL alone is used.
5. `surprisals(current, following)`, if `evaluate` is to take it too (`MeasurableTarget`).

Any table with finitely many contexts can leave the KL to `table_divergence.bound_table`, which never holds a distribution over
the whole vocabulary for each position. The trigram table has one row for each pair of tokens, and turns ids into numbers of
rows. A table of one's own that looks at the current token alone needs no class: `BigramTable` takes any counts, also shares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from bigramlib.models.language_model import LanguageModel


BoundTarget = Callable[[Tensor, Tensor], Tensor]
"""A target that was prepared for a model.

A function from ids [batch, pos] and last hidden states [batch, pos, d_model] to the KL of each position [batch, pos], in nats.
It may have a method `entropy`, from ids [batch, pos] to the target's own entropy at each position [batch, pos], in nats."""


@runtime_checkable
class Target(Protocol):
    """Anything that a subnetwork can be trained to predict.

    Attributes:
        reads_context: whether the prediction after a token depends on more than that token.
    """

    reads_context: ClassVar[bool]

    @property
    def hash(self) -> str:
        """A text that differs between targets with different predictions."""
        ...

    def bind(self, model: LanguageModel) -> BoundTarget:
        """Prepare the target for a model: its vocabulary, its unembedding and its device.

        Raises:
            ValueError: target and model do not share a vocabulary.
        """
        ...


@runtime_checkable
class MeasurableTarget(Target, Protocol):
    """A target that a model can also be compared with on text, by `evaluate`: it says how surprising each next token is."""

    def surprisals(self, current: np.ndarray, following: np.ndarray) -> np.ndarray:
        """-log2 of the target's probability of the following token, in bits; infinite where that is zero.

        Args:
            current: ids [sequences, pos]; the tokens before a position in its sequence are its context.
            following: ids [sequences, pos]: the token after each.
        """
        ...
