"""Notebook 12: answers with weights put back and with parts taken away are those of such models, and parts are compared."""

import numpy as np
import pandas as pd
import pytest

from bigramlib import Subnetwork
from bigramlib.findings import answers_after_tuning
from bigramlib.findings.answers_after_tuning import (
    answers,
    by_part,
    drops,
    plot_parts,
    put_back,
    same_parts,
    tuning_cost,
)
from bigramlib.instruction.pairs import FEW_SHOT, TUNED, Items
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning import TuneConfig

LETTERS = "abcdefgh"
CAT = Task("cat", "rule", "letters", ("Say it.",), tuple((f"{a} {b}", "cat") for a in LETTERS for b in LETTERS))
FIRST = Task("first", "rule", "letters", ("Say it.",), tuple((f"{a} {b}", a) for a in LETTERS for b in LETTERS))
CONFIG = TuneConfig(steps=40, batch_size=4, warmup_steps=2, learning_rate=1e-2, rank=None)


@pytest.fixture
def items():
    return Items([CAT, FIRST], count=4, shots=1)


@pytest.fixture
def tuned(study):
    return study.randomly_initialized(1, keep_embeddings=True)


def test_answers_are_means_over_tasks(study, items):
    both = answers(study.model, items)
    parts = [answers(study.model, Items([task], count=4, shots=1)) for task in items.tasks]
    for measure in ("correct", "nats"):
        assert both[measure] == pytest.approx(np.mean([part[measure] for part in parts]))
    assert both["nats"] > 1


def test_the_cost_of_tuning_shows_text_and_answers_of_both_models(study, tuned, items):
    table = tuning_cost({"base": study, "tuned": tuned}, items, 512)
    assert list(table.index) == ["base", "tuned"]
    assert table.text["tuned"] == tuned.evaluate(max_tokens=512).cross_entropy
    assert table.nats["base"] == answers(study.model, items)["nats"]


def test_with_all_weights_put_back_the_tuned_model_answers_as_the_base(study, items, tokenizer):
    from conftest import build

    changed = build("gpt_neox", tokenizer)
    for weight in changed.maskable.values():
        weight.data *= 0.5
    before = changed.weights_hash
    table = put_back(study.model, changed, Subnetwork.mlp(study.model, 0), items)
    assert table.nats["nothing"] == answers(changed, items)["nats"]
    assert table.nats["all maskable weights"] == answers(study.model, items)["nats"]
    assert table.lost["nothing"] == 0 and table.lost["all maskable weights"] == 1
    assert changed.weights_hash == before


def test_a_part_costs_what_the_model_without_it_answers_less(study, items, monkeypatch):
    monkeypatch.setattr(answers_after_tuning, "ABLE", 0.0)
    table = drops(study.model, items, CONFIG)
    assert set(table.arm) == {FEW_SHOT, TUNED} and len(table) == 2 * 2 * (4 + 2)
    assert table[table.arm == TUNED]["drop"].max() > 0
    assert list(by_part(table).index) == ["head 0.0", "head 0.1", "head 1.0", "head 1.1", "mlp 0", "mlp 1"]


def test_tasks_that_a_model_cannot_do_are_left_out(study, items):
    assert drops(study.model, items, CONFIG).empty


def dropped(seed=0, same=True):
    """Drops of twelve parts in five tasks, with an interaction that both arms share or not."""
    generator = np.random.default_rng(seed)
    parts, tasks = [f"head 0.{number}" for number in range(11)] + ["mlp 0"], list("abcde")
    means, own = generator.random(12), generator.normal(0, 0.1, (2, 12, 5))
    rows = [
        {"task": task, "part": part, "arm": arm, "drop": means[p] + own[0 if same else side, p, t]}
        for side, arm in enumerate((FEW_SHOT, TUNED))
        for p, part in enumerate(parts)
        for t, task in enumerate(tasks)
    ]
    return pd.DataFrame(rows)


def test_parts_that_matter_alike_are_seen_apart_from_what_they_matter_for():
    alike, other = same_parts(dropped()), same_parts(dropped(same=False))
    assert alike["rho"] == pytest.approx(1) and alike["p"] < 0.01
    assert alike["interaction"] == pytest.approx(1) and alike["interaction_p"] < 0.05
    assert other["rho"] > 0.5 and abs(other["interaction"]) < 0.4 and other["interaction_p"] > 0.05
    assert (alike["parts"], alike["tasks"]) == (12, 5)


def test_parts_are_drawn_and_those_that_matter_named(axes):
    plot_parts(axes[0], dropped())
    names = {text.get_text() for text in axes[0].texts}
    means = by_part(dropped())
    assert {name for name in means.index if means.loc[name].max() > 0.08} <= names
