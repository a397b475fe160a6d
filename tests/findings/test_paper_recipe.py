"""The short schedule is compared with the paper's recipe seed by seed, and the claims follow from the numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bigramlib import SparsifyConfig
from bigramlib.findings import paper_recipe as measured
from bigramlib.findings.paper_recipe import PAPER, SHORT


@pytest.fixture
def families(sparse):
    """Overlapping random subnetworks with provenance, as searches leave them."""
    config = vars(SparsifyConfig(batch_size=2, sequence_length=16))

    def found(seed):
        provenance = {"config": config | {"seed": seed}, "steps": 3 + seed}
        return replace(sparse.random_like(seed), provenance=provenance)

    return {SHORT: [found(0), found(1)], PAPER: [found(0), found(1)]}


def test_the_recipe_is_the_papers_but_for_its_batches_and_attempts():
    config, paper = measured.paper_config(10, 4, seed=1), SparsifyConfig.paper(10.0, seed=1)
    assert config == replace(paper, batch_size=4, attempts=1)
    assert (config.steps, config.learning_rate, config.flattening) == (15_000, 5e-5, None)


def test_both_are_searched_on_each_seed(study, monkeypatch):
    quick = SparsifyConfig(steps=2, batch_size=1, sequence_length=16, flattening=None)
    monkeypatch.setattr(SparsifyConfig, "paper", lambda penalty, seed: replace(quick, sparsity_penalty=penalty, seed=seed))
    monkeypatch.setattr(SparsifyConfig, "suited", lambda *given: replace(quick, sparsity_penalty=given[2], seed=given[3]))
    found = measured.find_both(study, {SHORT: 2.0, PAPER: 3.0}, 2, [0, 1])
    facts = {name: [one.provenance["config"] for one in members] for name, members in found.items()}
    assert [config["seed"] for config in facts[SHORT]] == [config["seed"] for config in facts[PAPER]] == [0, 1]
    assert {config["sparsity_penalty"] for config in facts[SHORT]} == {2.0}
    assert {(config["sparsity_penalty"], config["batch_size"]) for config in facts[PAPER]} == {(3.0, 2)}


def test_the_same_masks_agree_in_everything(study, families):
    table = measured.compare(study, families, draws=1)
    assert list(table.read_tokens) == [3 * 32, 4 * 32] * 2
    short, paper = (table[table.schedule == schedule].drop(columns="schedule") for schedule in (SHORT, PAPER))
    pd.testing.assert_frame_equal(short.reset_index(drop=True), paper.reset_index(drop=True))
    agreed, placed = measured.agreement(families), measured.places(families)
    assert agreed["two seeds, short schedule"] == agreed["two seeds, paper's recipe"] < 1
    assert np.allclose(placed.sum(), 1) and placed.min(axis=1).sum() == pytest.approx(1)
    turned = measured.turns(study, families, 256, 256)
    assert set(turned.model) == {SHORT, PAPER}
    found = measured.judge(None, table.assign(penalty=3), agreed.to_frame(3), {3: placed}, turned)
    assert {verdict.holds for verdict in found} == {"yes"}
    losses = measured.losses_by_token(study, families, tokens=256)
    assert set(losses.schedule) == {SHORT, PAPER} and "case" not in losses


@pytest.mark.parametrize("bad", [10, 30])
@pytest.mark.parametrize("worse", ["common", "across", "r", "rise", "turn"])
def test_each_claim_fails_where_its_number_is_bad_at_either_lambda(worse, bad):
    rows = [{"schedule": schedule, "penalty": penalty, "density": 0.01, "first_mlp_share": 0.6, "r": 0.95, "rise": 0.2,
             "random_rise": 0.01} for penalty in (10, 30) for schedule in (SHORT, PAPER)]  # fmt: skip
    agreed = pd.DataFrame({penalty: [0.6, 0.4, 0.39, 0.01] for penalty in (10, 30)})
    placed = {penalty: pd.DataFrame({SHORT: [0.6, 0.4], PAPER: [0.6, 0.4]}) for penalty in (10, 30)}
    lenses = pd.DataFrame({"layer": range(3), "r": [0.5, 0.9, 0.95]})
    later = lenses.assign(r=[0.5, 0.6, 0.95]) if worse == "turn" else lenses
    turned = pd.concat([later.assign(model=SHORT), lenses.assign(model=PAPER)])
    if worse in rows[0]:
        rows[2 * (bad == 30)][worse] *= 0.5
    elif worse == "across":
        agreed.loc[2, bad] = 0.3
    elif worse == "common":
        placed[bad][SHORT] = [0.4, 0.6]
    verdicts = measured.judge(None, pd.DataFrame(rows), agreed, placed, turned)
    expected = ["common", "across", "r", "rise", "turn"].index(worse)
    assert [verdict.holds for verdict in verdicts] == ["no" if place == expected else "yes" for place in range(5)]
    assert "lambda 10 and 30: Jaccard " in verdicts[1].ours
