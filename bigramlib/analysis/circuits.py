"""Which attention heads and MLPs, added whole to a subnetwork, make it better at a behaviour (paper, finding 7).

A bigram subnetwork serves as the base that circuits are built on. A behaviour is a choice of tokens to predict, such as
repeated ones; being better at it means a lower cross-entropy on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from bigramlib.analysis.evaluate import MAX_TOKENS, evaluate
from bigramlib.analysis.intervals import mean_interval, warn_of_few
from bigramlib.models.language_model import LanguageModel
from bigramlib.numeric import full_precision
from bigramlib.progress import tqdm
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


def evaluate_edits(
    model: LanguageModel,
    corpus: TokenCorpus,
    table: BigramTable,
    edits: Mapping[str, Subnetwork],
    *,
    max_tokens: int | None = MAX_TOKENS,
) -> pd.DataFrame:
    """The bigram correlation of a model with each of several edits of a subnetwork.

    Args:
        model: the model.
        corpus: held-out text.
        table: the bigram table.
        edits: edited subnetworks, by a name that says what was done.
        max_tokens: as in `evaluate`.

    Returns:
        One row for each, in their order: edit (its name), kept (weights), r with its 95 % interval r_low to r_high.
    """
    rows = []
    for name, edited in edits.items():
        measured = evaluate(model, corpus, table, edited, max_tokens=max_tokens)
        rows.append((name, edited.kept, measured.r, *measured.r_interval))
    return pd.DataFrame(rows, columns=["edit", "kept", "r", "r_low", "r_high"])


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
    counted = behaviour.chosen if behaviour.compared is None else behaviour.chosen | behaviour.compared
    found = []
    with torch.inference_mode(), full_precision(), subnetwork.applied(model):
        for begin in range(0, len(behaviour.ids), BATCH):
            here = slice(begin, begin + BATCH)
            ids, following, place = (
                torch.from_numpy(np.ascontiguousarray(part[here])).to(model.device)
                for part in (behaviour.ids, behaviour.following, counted)
            )
            hidden = model.hidden(ids)[place]
            found.append(model.log_partition(hidden) - model.logits_of(hidden, following[place]))
    losses = np.zeros(counted.shape)
    losses[counted] = torch.cat(found).cpu().numpy()
    return losses[behaviour.chosen] - (0.0 if behaviour.compared is None else losses[behaviour.compared])


def part_names(model: LanguageModel) -> list[str]:
    """The names of all attention heads ("head 0.3" is head 3 of layer 0) and MLPs ("mlp 0"), as `part` takes them."""
    shape = model.architecture
    heads = [f"head {layer}.{head}" for layer in range(shape.layers) for head in range(shape.heads)]
    return heads + [f"mlp {layer}" for layer in range(shape.layers)]


def part(model: LanguageModel, name: str) -> Subnetwork:
    """The subnetwork of all weights of one attention head or MLP.

    Args:
        model: the model.
        name: one of `part_names`.

    Raises:
        ValueError: there is no such part.
    """
    if name not in part_names(model):
        raise ValueError(f"There is no part {name!r} of {model.name!r}; take one of part_names, such as 'head 0.0' or 'mlp 0'.")
    kind, _, place = name.partition(" ")
    if kind == "mlp":
        return Subnetwork.mlp(model, int(place))
    return Subnetwork.head(model, *map(int, place.split(".")))


def gains(model: LanguageModel, base: Subnetwork, behaviours: Sequence[Behaviour]) -> pd.DataFrame:
    """How much each head and each MLP, added whole to a base by itself, lowers the cross-entropy of each behaviour.

    Args:
        model: the model.
        base: the subnetwork that parts are added to.
        behaviours: what to measure.

    Returns:
        One row for each behaviour and part, and for the part "full model", with everything added: behaviour, part, added
        (weights), cross_entropy (nats per chosen token), gain (by how much it fell) with its 95 % interval low to high.
    """
    warn_of_few(*(behaviour.documents[behaviour.chosen] for behaviour in behaviours))
    before = {behaviour.name: token_losses(model, base, behaviour) for behaviour in behaviours}
    rows = []
    for name in tqdm([*part_names(model), "full model"], desc="adding", unit="part"):
        larger = Subnetwork.full(model) if name == "full model" else base | part(model, name)
        for behaviour in behaviours:
            after = token_losses(model, larger, behaviour)
            gain = before[behaviour.name] - after
            low, high = mean_interval(gain, behaviour.documents[behaviour.chosen])
            facts = {"behaviour": behaviour.name, "part": name, "added": larger.kept - base.kept}
            rows.append(facts | {"cross_entropy": after.mean(), "gain": gain.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def best_head(bought: pd.DataFrame, behaviour: Behaviour) -> dict[str, str | float]:
    """The attention head with the largest gain on a behaviour.

    Args:
        bought: what `gains` returns.
        behaviour: one of those that it measured.

    Returns:
        part (its name), gain (nats per chosen token) with its 95 % interval low to high, and full: the full model's gain.
    """
    table = bought[bought.behaviour == behaviour.name].set_index("part")
    best = table.loc[table.gain[table.index.str.startswith("head")].idxmax()]
    return {"part": best.name, "gain": best.gain, "low": best.low, "high": best.high, "full": table.gain["full model"]}


def build_up(
    model: LanguageModel,
    base: Subnetwork,
    behaviour: Behaviour,
    *,
    parts: Sequence[str] | None = None,
    steps: int | None = None,
) -> pd.DataFrame:
    """Greedily add whole heads and MLPs to a base, always the one that lowers the cross-entropy most.

    Every remaining part is tried at every step, so a part that only works together with another is added once that one is.

    Args:
        model: the model.
        base: the subnetwork to begin with.
        behaviour: whose cross-entropy to lower. Judge the result on other text (`follow`).
        parts: the names to choose from, of `part_names`; all by default. For deep models, which have many parts, give a few,
            such as those with the largest `gains`.
        steps: how many to add; all by default.

    Returns:
        A path: one row for each step, the base first: step, part, kept (weights), cross_entropy (nats per chosen token).
    """
    current, remaining = base, list(parts or part_names(model))
    steps = len(remaining) if steps is None else min(steps, len(remaining))
    rows = [{"step": 0, "part": "base", "kept": base.kept, "cross_entropy": token_losses(model, base, behaviour).mean()}]
    with tqdm(total=sum(len(remaining) - step for step in range(steps)), desc="building up", unit="trial") as progress:
        for step in range(1, steps + 1):
            best = (np.inf, "", current)
            for name in remaining:
                larger = current | part(model, name)
                value = float(token_losses(model, larger, behaviour).mean())
                best = min(best, (value, name, larger), key=lambda trial: trial[0])
                progress.update()
            value, name, current = best
            remaining.remove(name)
            rows.append({"step": step, "part": name, "kept": current.kept, "cross_entropy": value})
    return pd.DataFrame(rows)


def follow(model: LanguageModel, base: Subnetwork, path: pd.DataFrame, behaviours: Sequence[Behaviour]) -> pd.DataFrame:
    """The cross-entropy of other behaviours, or on other text, along a path of `build_up`.

    Args:
        model: the model.
        base: the subnetwork that the path began with.
        path: what `build_up` returned.
        behaviours: what to measure.

    Returns:
        One row for each step and behaviour: step, part, kept (weights), behaviour, cross_entropy (nats per chosen token) with
        its 95 % interval low to high.
    """
    warn_of_few(*(behaviour.documents[behaviour.chosen] for behaviour in behaviours))
    current, rows = base, []
    for step, name in tqdm(list(zip(path.step, path.part, strict=True)), desc="following", unit="step"):
        current = current | part(model, name) if step else base
        for behaviour in behaviours:
            values = token_losses(model, current, behaviour)
            low, high = mean_interval(values, behaviour.documents[behaviour.chosen])
            facts = {"step": step, "part": name, "kept": current.kept, "behaviour": behaviour.name}
            rows.append(facts | {"cross_entropy": values.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def passes(path: pd.DataFrame, level: float) -> pd.Series:
    """The first step of a path from which on the cross-entropy stays at or below a level (nats per chosen token).

    Returns:
        Its row; all NaN if the path ends above the level.
    """
    staying = path[::-1].cross_entropy.le(level).cummin()[::-1]
    return path[staying].iloc[0] if staying.any() else pd.Series(np.nan, index=path.columns)
