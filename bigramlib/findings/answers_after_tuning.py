"""Notebook 12: what tuned models answer with weights put back, and base and tuned models with heads and MLPs taken away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from bigramlib.analysis.circuits import part, part_names
from bigramlib.findings.study import Study
from bigramlib.findings.style import BLUE, GREY, ORANGE
from bigramlib.instruction.answers import matches_and_scores
from bigramlib.instruction.pairs import FEW_SHOT, TUNED, Items, score_table, scores
from bigramlib.instruction.resampling import partial_r, permutation_p, spearman
from bigramlib.instruction.scores import by_task
from bigramlib.instruction.tuning import TuneConfig, instruction_tune
from bigramlib.models.language_model import LanguageModel
from bigramlib.progress import tqdm
from bigramlib.subnetworks.subnetwork import Subnetwork

ABLE = 0.3
"""Tasks that a model answers less often have little to lose; they are left out where parts are compared."""
PERMUTATIONS = 1999
NAMED = 0.08
"""Parts that cost more are named in the figure."""
MEASURES = ["task", "part", "arm", "drop"]


def answers(model: LanguageModel, items: Items) -> dict[str, float]:
    """How well a model answers instructions, as means over tasks.

    Returns:
        correct (share of items), nats (cross-entropy of the right answers, per token; of small models it tells more).
    """
    prompts = [prompt for task in items.tasks for prompt in items.instruction(task)]
    right, likely = matches_and_scores(model, prompts, items.prompt_format.ends, items.precision)
    correct = by_task(score_table(TUNED, items, items.tasks, right))[TUNED].mean()
    return {"correct": float(correct), "nats": float(-likely.mean())}


def tuning_cost(studies: Mapping[str, Study], items: Items, max_tokens: int) -> pd.DataFrame:
    """What tuning did: answers to instructions, and the prediction of held-out text.

    Returns:
        A row for each model: what `answers` returns, text (cross-entropy, nats a token), r (with the bigram table).
    """
    rows = {}
    for name, study in studies.items():
        measured = study.evaluate(max_tokens=max_tokens)
        rows[name] = answers(study.model, items) | {"text": measured.cross_entropy, "r": measured.r}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def put_back(base: LanguageModel, tuned: LanguageModel, subnetwork: Subnetwork, items: Items) -> pd.DataFrame:
    """Whether what tuning taught lies in a subnetwork: the tuned model with some of its weights as they were in the base.

    Returns:
        A row for each case: what `answers` returns, and lost (the share of the fall in nats, base to tuned, that is lost).
    """
    every = Subnetwork.full(base)
    cases = {
        "nothing": ~every,
        "the subnetwork": subnetwork,
        "as many random weights": subnetwork.random_like(0),
        "all but the subnetwork": ~subnetwork,
        "all maskable weights": every,
    }
    rows = {}
    before, after = base.maskable, tuned.maskable
    for case, mask in cases.items():
        mixed = {name: torch.where(mask.masks[name].to(now.device), before[name], now) for name, now in after.items()}
        with tuned.replaced(mixed):
            rows[case] = answers(tuned, items)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("put back")
    first, last = table.nats.iloc[0], table.nats.iloc[-1]
    return table.assign(lost=(table.nats - first) / (last - first))


def drops(base: LanguageModel, items: Items, config: TuneConfig) -> pd.DataFrame:
    """What each attention head and MLP is worth to the base in context, and to a model tuned on all tasks.

    Each part is taken away by itself. Only tasks are kept that both models answer at least in `ABLE` of cases.

    Returns:
        A row for each arm (`FEW_SHOT`, `TUNED`), part and task: task, part, arm, drop (of the share of right answers).
    """
    tuned = instruction_tune(base, items.tasks, config, items.prompt_format)
    found, asked = [], {FEW_SHOT: (base, items.few_shot), TUNED: (tuned, items.instruction)}
    whole = pd.DataFrame({arm: by_task(scores(model, arm, items, give))[arm] for arm, (model, give) in asked.items()})
    able = whole[(whole >= ABLE).all(axis=1)]
    tasks = [task for task in items.tasks if task.name in able.index]
    for name in tqdm(part_names(base) if tasks else [], desc="taking away", unit="part"):
        for arm, (model, give) in asked.items():
            with (~part(model, name)).applied(model):
                left = by_task(scores(model, arm, items, give, tasks))[arm]
            found.append(pd.DataFrame({"task": able.index, "part": name, "arm": arm, "drop": able[arm] - left[able.index]}))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=MEASURES)


def by_part(drops: pd.DataFrame) -> pd.DataFrame:
    """The mean drop over tasks: a row for each part, in the order of `drops`, a column for each arm."""
    means = drops.groupby(["part", "arm"])["drop"].mean().unstack("arm").reindex(columns=[FEW_SHOT, TUNED])
    return means.loc[list(dict.fromkeys(drops.part))]


def same_parts(drops: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Whether the parts that matter in context are those that matter after tuning.

    Returns:
        rho (Spearman's, over parts, of mean drops) and its p (parts permuted), interaction (r over parts and tasks of what is
        left of drops after the means of parts and of tasks) and its p (tasks permuted), parts, tasks. NaN where unknown.
    """
    means = by_part(drops)
    grids = [drops[drops.arm == arm].pivot(index="part", columns="task", values="drop") for arm in (FEW_SHOT, TUNED)]
    left = [(grid - grid.mean()).sub(grid.mean(axis=1) - grid.mean().mean(), axis=0).to_numpy() for grid in grids]
    first, second = left
    r = float(partial_r(first.ravel(), second.ravel()))
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(first.shape[1]) for _ in range(PERMUTATIONS)]
    permuted = np.array([partial_r(first[:, order].ravel(), second.ravel()) for order in orders])
    x, y = means[FEW_SHOT].to_numpy(), means[TUNED].to_numpy()
    return {
        "rho": float(spearman(x, y)),
        "p": permutation_p(x, y, seed, PERMUTATIONS),
        "interaction": r,
        "interaction_p": (1 + int(np.sum(permuted >= r))) / (PERMUTATIONS + 1),
        "parts": len(means),
        "tasks": first.shape[1],
    }


def plot_parts(axes: Axes, drops: pd.DataFrame) -> None:
    """Draw what each part is worth in context against what it is worth after tuning; those that matter are named."""
    means = by_part(drops)
    heads = means.index.str.startswith("head")
    for chosen, colour, label in ((heads, BLUE, "attention heads"), (~heads, ORANGE, "MLPs")):
        axes.scatter(means[FEW_SHOT][chosen], means[TUNED][chosen], color=colour, label=label, zorder=3)
    for name, (x, y) in zip(means.index, means.to_numpy(), strict=True):
        if max(x, y) > NAMED:
            axes.annotate(name, (x, y), xytext=(6, -3), textcoords="offset points", fontsize="small")
    top = 1.15 * max(0.1, float(np.nanmax(means.to_numpy(), initial=0.0)))
    axes.plot([0, top], [0, top], color=GREY, linewidth=0.8, linestyle=":")
    axes.text(top, top, "as much in both", color=GREY, ha="right", va="bottom", fontsize="small")
    axes.set(xlabel="lost in context (base, demonstrations)", ylabel="lost after tuning (instruction)")
    axes.set(title="Share of right answers lost without a part")
    axes.legend(frameon=False, loc="upper left")
