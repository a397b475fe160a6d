"""Which attention heads and MLPs, added whole to a subnetwork, make it better at a behaviour (paper, finding 7).

A bigram subnetwork serves as the base that circuits are built on. Being better at a behaviour means a lower cross-entropy on
its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from bigramlib.analysis.behaviours import Behaviour, token_losses, token_losses_of_each
from bigramlib.analysis.evaluate import MAX_TOKENS, evaluate
from bigramlib.analysis.intervals import mean_interval, warn_of_few
from bigramlib.models.language_model import LanguageModel
from bigramlib.progress import tqdm
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.targets.bigram import BigramTable
from bigramlib.text.corpus import TokenCorpus


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
        One row for each, in their order: edit (its name), kept (weights), r with its 95 % interval r_low to r_high,
        tokens (how many were measured).
    """
    rows = []
    for name, edited in edits.items():
        measured = evaluate(model, corpus, table, edited, max_tokens=max_tokens)
        rows.append((name, edited.kept, measured.r, *measured.r_interval, measured.tokens))
    return pd.DataFrame(rows, columns=["edit", "kept", "r", "r_low", "r_high", "tokens"])


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
    return Subnetwork.heads(model, [[int(number) for number in place.split(".")]])


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
    full = Subnetwork.full(model)
    added = {name: (part(model, name) - base).kept for name in part_names(model)} | {"full model": full.kept - base.kept}
    before = {behaviour.name: token_losses(model, base, behaviour) for behaviour in behaviours}
    after = {behaviour.name: losses_with(model, base, part_names(model), behaviour) for behaviour in behaviours}
    rows = []
    for place, (name, weights) in enumerate(added.items()):
        for behaviour in behaviours:
            whole = name == "full model"
            now = token_losses(model, full, behaviour) if whole else after[behaviour.name][place]
            gain = before[behaviour.name] - now
            low, high = mean_interval(gain, behaviour.documents[behaviour.chosen])
            facts = {"behaviour": behaviour.name, "part": name, "added": weights}
            rows.append(facts | {"cross_entropy": now.mean(), "gain": gain.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def losses_with(
    model: LanguageModel, base: Subnetwork, parts: Sequence[str], behaviour: Behaviour
) -> Float[np.ndarray, "parts chosen"]:
    """The `token_losses` of a base to which each of several parts is added whole, by itself.

    Those of the last layers are measured first: what lies below them is computed once for all.

    Args:
        model: the model.
        base: the subnetwork that parts are added to.
        parts: their names, of `part_names`.
        behaviour: what to measure.
    """
    order = sorted(range(len(parts)), key=lambda place: _layer(parts[place]), reverse=True)
    bar = {"desc": "adding", "unit": "part", "leave": False, "delay": 10}
    found = token_losses_of_each(model, lambda: (base | part(model, parts[place]) for place in tqdm(order, **bar)), behaviour)
    return found[np.argsort(order)]


def _layer(name: str) -> int:
    return int(name.split()[1].split(".")[0])


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
    for step in tqdm(range(1, steps + 1), desc="building up", unit="part"):
        values = [losses.mean() for losses in losses_with(model, current, remaining, behaviour)]
        best = int(np.argmin(values))
        name = remaining.pop(best)
        current = current | part(model, name)
        rows.append({"step": step, "part": name, "kept": current.kept, "cross_entropy": values[best]})
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
    names = list(path.part)
    found = [token_losses_of_each(model, lambda: _growing(model, base, names), behaviour) for behaviour in behaviours]
    rows = []
    for place, grown in enumerate(_growing(model, base, names)):
        for behaviour, losses in zip(behaviours, found, strict=True):
            low, high = mean_interval(losses[place], behaviour.documents[behaviour.chosen])
            facts = {"step": path.step[place], "part": names[place], "kept": grown.kept, "behaviour": behaviour.name}
            rows.append(facts | {"cross_entropy": losses[place].mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def _growing(model: LanguageModel, base: Subnetwork, path: Sequence[str]) -> Iterator[Subnetwork]:
    """The base, and after it what it grows to when all but the first of these parts are added one after another."""
    yield base
    for name in tqdm(path[1:], desc="following", unit="part", leave=False, delay=10):
        base = base | part(model, name)
        yield base


def passes(path: pd.DataFrame, level: float) -> pd.Series:
    """The first step of a path from which on the cross-entropy stays at or below a level (nats per chosen token).

    Returns:
        Its row; all NaN if the path ends above the level.
    """
    staying = path[::-1].cross_entropy.le(level).cummin()[::-1]
    return path[staying].iloc[0] if staying.any() else pd.Series(np.nan, index=path.columns)
