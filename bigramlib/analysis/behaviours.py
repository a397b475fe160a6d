"""Behaviours: tokens whose prediction takes a certain ability, and how well a subnetwork predicts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bigramlib.analysis.evaluate import evaluate
from bigramlib.models.language_model import LanguageModel
from bigramlib.models.masking import replaced
from bigramlib.models.reuse import Reuse
from bigramlib.models.sparse import sparse_products
from bigramlib.numeric import full_precision
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import SEQUENCE_LENGTH, TokenCorpus

BATCH = 32
"""Sequences of a batch."""


@dataclass(frozen=True)
class Behaviour:
    """Tokens to predict, chosen so that predicting them well takes a certain ability.

    Attributes:
        name: of the behaviour.
        ids: [sequences, pos] the text.
        following: [sequences, pos] the token after each.
        chosen: [sequences, pos] whether the prediction of the following token counts.
        documents: [sequences, pos] the document of each token; documents are resampled whole for intervals.
        compared: [sequences, pos] as many tokens, in the same order, whose losses are subtracted from those of the chosen
            ones; by default none are.

    Raises:
        ValueError: no token is chosen.
    """

    name: str
    ids: Int[np.ndarray, "sequences pos"]
    following: Int[np.ndarray, "sequences pos"]
    chosen: Bool[np.ndarray, "sequences pos"]
    documents: Int[np.ndarray, "sequences pos"]
    compared: Bool[np.ndarray, "sequences pos"] | None = None

    def __post_init__(self) -> None:
        if not self.chosen.any():
            raise ValueError(f"No token of the behaviour {self.name!r} is chosen; give more text or a looser choice.")


def running_text(corpus: TokenCorpus, max_tokens: int | None = 8192) -> Behaviour:
    """Every token of held-out text that does not begin a document."""
    ids, following, valid = corpus.windows(max_tokens=max_tokens)
    return Behaviour("running text", ids, following, valid, corpus.documents(max_tokens=max_tokens))


def repeated_sequences(
    corpus: TokenCorpus, sequences: int = 64, length: int = SEQUENCE_LENGTH // 2, seed: int = 0
) -> Behaviour:
    """Random tokens twice in a row: only induction makes the second copy easier than the first (Olsson et al. 2022).

    Tokens are drawn independently from the corpus's unigram distribution. The losses are those of the second copy, without its
    first token, less those of the same tokens in the first copy: about zero without induction, negative with it.

    Args:
        corpus: the text that tokens are drawn from.
        sequences: how many.
        length: tokens of one copy.
        seed: of the drawing.
    """
    generator = np.random.default_rng(seed)
    once = corpus.ids[generator.integers(0, len(corpus), (sequences, length))].astype(np.int64)
    text = np.concatenate([once, once], axis=1)
    ids, following = text[:, :-1], text[:, 1:]
    position, sequence = np.arange(2 * length - 1), np.arange(sequences)[:, None]
    first, second = (np.broadcast_to(here, ids.shape) for here in (position < length - 1, position >= length))
    return Behaviour("induction", ids, following, second, np.broadcast_to(sequence, ids.shape), compared=first)


def inexplicable_tokens(
    model: LanguageModel, corpus: TokenCorpus, table: BigramTable, *, margin: float = 3.0, max_tokens: int | None = 8192
) -> Behaviour:
    """Held-out tokens that the full model predicts at least `margin` bits better than the bigram table does.

    A never-seen bigram counts with the largest finite bigram surprisal of this text.

    Raises:
        ValueError: there are no such tokens.
    """
    measured = evaluate(model, corpus, table, max_tokens=max_tokens)
    finite = np.isfinite(measured.bigram_surprisals)
    bigram_bits = np.where(finite, measured.bigram_surprisals, measured.bigram_surprisals[finite].max(initial=0.0))
    text = running_text(corpus, max_tokens)
    chosen = text.chosen.copy()
    chosen[text.chosen] = bigram_bits - measured.surprisals >= margin
    return Behaviour("bigram-inexplicable tokens", text.ids, text.following, chosen, text.documents)


def token_losses(model: LanguageModel, subnetwork: Subnetwork, behaviour: Behaviour) -> Float[np.ndarray, " chosen"]:
    """The cross-entropy of each chosen token when only the subnetwork is kept, nats.

    If the behaviour compares tokens, the cross-entropy of the compared token is subtracted from each.
    """
    return token_losses_of_each(model, lambda: [subnetwork], behaviour)[0]


def token_losses_of_each(
    model: LanguageModel, subnetworks: Callable[[], Iterable[Subnetwork]], behaviour: Behaviour
) -> Float[np.ndarray, "subnetworks chosen"]:
    """`token_losses` of several subnetworks, to the same bits. The fewer layers differ from one to the next, the sooner.

    Args:
        model: the model.
        subnetworks: gives the subnetworks, one after the other; called once for each batch of text, so that no more than two
            of them are in memory.
        behaviour: what to measure.
    """
    counted = behaviour.chosen if behaviour.compared is None else behaviour.chosen | behaviour.compared
    found = []
    with torch.inference_mode(), full_precision():
        for begin in range(0, len(behaviour.ids), BATCH):
            here = slice(begin, begin + BATCH)
            batch = (behaviour.ids[here], behaviour.following[here], counted[here])
            tensors = [torch.from_numpy(np.ascontiguousarray(part)).to(model.device) for part in batch]
            found.append(np.stack([losses.cpu().numpy() for losses in _batch_losses(model, subnetworks(), *tensors)]))
    losses = np.zeros((len(found[0]), *counted.shape))
    losses[:, counted] = np.concatenate(found, axis=1)
    return losses[:, behaviour.chosen] - (0.0 if behaviour.compared is None else losses[:, behaviour.compared])


def _batch_losses(
    model: LanguageModel,
    subnetworks: Iterable[Subnetwork],
    ids: Int[Tensor, "batch pos"],
    following: Int[Tensor, "batch pos"],
    counted: Bool[Tensor, "batch pos"],
) -> Iterator[Float[Tensor, " counted"]]:
    """The cross-entropy of the counted tokens of a batch with each subnetwork, nats."""
    reuse, masks, masked = Reuse(model.hf, model.architecture), dict[str, Tensor](), dict[str, Tensor]()
    with model.replaced({}):
        parameters = dict(model.hf.named_parameters())
        own = {name: weight.data for name, weight in model.maskable.items() if not weight.is_meta}
        for subnetwork in subnetworks:
            subnetwork.check_fits(model)
            changed = [name for name in own if name not in masks or not torch.equal(masks[name], subnetwork.masks[name])]
            masks |= {name: subnetwork.masks[name] for name in changed}
            masked |= {name: own[name] * masks[name].to(model.device) for name in changed}
            reuse.forget(changed)
            skipped = model.skipping(subnetwork.empty_blocks)
            with replaced(parameters, masked), skipped, sparse_products(model.hf, model.architecture), reuse.on():
                hidden = model.hidden(ids)[counted]
                yield model.log_partition(hidden) - model.logits_of(hidden, following[counted])
