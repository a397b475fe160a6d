"""A sweep's file is checked before anything runs; its table and figure say how far seeds are apart."""

import pandas as pd
import pytest
import yaml

from bigramlib.findings import sweeps
from bigramlib.findings.sweeps import judge, plot_bands, read_sweep, spread, sweep

POINTS = pd.DataFrame({
    "sparsity_penalty": [3, 3, 10, 10],
    "density": [0.040, 0.041, 0.010, 0.010],
    "r": [0.96, 0.964, 0.95, 0.951],
})  # fmt: skip


def test_a_file_becomes_the_searches_that_it_names(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("models: [mini]\npenalties: [3, 1e1]\nseeds: [0, 1]\ncheckpoints: [step256]\nsettings:\n  steps: 5\n")
    searches = read_sweep(file)
    assert {(search.config.sparsity_penalty, search.config.seed) for search in searches} == {(3, 0), (3, 1), (10, 0), (10, 1)}
    assert {(search.model, search.text_model, search.config.steps) for search in searches} == {("mini@step256", "mini", 5)}


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (None, "There is no file .*; write one that names models, penalties and seeds"),
        ({}, "names no models; add a line such as `models: "),
        ({"model": "mini"}, "has 'model'; a sweep can have models, corpora"),
        ({"models": ["mini"], "penalties": [-1]}, "penalties is -1"),
        ({"models": ["mini"], "seeds": [0, 0]}, "a value comes twice"),
        ({"models": ["no/such-model"]}, "There is no model 'no/such-model'"),
        ({"models": ["mini"], "corpora": ["nowhere.txt"]}, "nowhere.txt"),
        ({"models": ["mini"], "settings": {"setps": 1}}, "settings has 'setps'"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(tmp_path, facts, sentence):
    file = tmp_path / "sweep.yaml"
    if facts is not None:
        file.write_text(yaml.safe_dump(facts))
    with pytest.raises(ValueError, match=sentence):
        read_sweep(file)


def test_a_gpu_that_only_the_workers_have_is_no_fault(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("models: [mini]\ndevice: cuda\n")
    assert read_sweep(file)[0].device == "cuda"


def test_a_sweep_ends_with_its_table(in_folders, tmp_path):
    folder, text = in_folders
    file = tmp_path / "my.yaml"
    settings = {"steps": 4, "batch_size": 2, "sequence_length": 16}
    facts = {"models": [str(folder)], "corpora": [str(text)], "penalties": [1], "seeds": [0, 1], "settings": settings}
    file.write_text(yaml.safe_dump(facts))
    shown = sweep(file, processes=1)
    table = pd.read_csv(tmp_path / "my.csv")
    assert list(table.seed) == [0, 1]
    assert str(tmp_path / "my.csv") in shown
    assert all(f"{kept}" in shown for kept in table.kept)


def test_the_spread_is_between_the_lowest_and_the_highest_seed():
    bands = spread(POINTS)
    assert list(bands.sparsity_penalty) == [3, 10]
    assert list(bands.iloc[0][["seeds", "density_low", "density_high", "r_low", "r_high"]]) == [2, 0.040, 0.041, 0.96, 0.964]
    assert bands.r[1] == pytest.approx(0.9505)


@pytest.mark.parametrize(("change", "holds"), [({}, "yes"), ({"r": 0.02}, "no"), ({"density": 0.005}, "no")])
def test_seeds_agree_if_size_and_r_are_close(change, holds):
    points = POINTS.copy()
    for name, more in change.items():
        points.loc[0, name] += more
    assert [verdict.holds for verdict in judge(None, spread(points))] == [holds]


def test_one_seed_cannot_agree_with_another():
    assert judge(None, spread(POINTS.iloc[[0, 2]]))[0].holds == "not testable"


def test_the_figure_shows_every_search_and_the_band(axes):
    plot_bands(axes[0], spread(POINTS), POINTS)
    assert sum(len(line.get_xdata()) for line in axes[0].lines) >= len(POINTS) + 2
    assert {text.get_text() for text in axes[0].texts} == {"λ 3", "λ 10"}


def test_the_claim_is_among_those_of_all_notebooks():
    from bigramlib.findings.summary import ALL_CLAIMS

    assert sweeps.CLAIMS["seeds agree"] in ALL_CLAIMS.values()
