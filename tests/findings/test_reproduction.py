"""`make reproduce` knows which masks notebooks look for, and finds them beforehand."""

import sys
import zipfile
from pathlib import Path

import pytest

from bigramlib import ModelTarget
from bigramlib.__main__ import main
from bigramlib.cluster.searches import Search
from bigramlib.findings import reproduction
from bigramlib.findings.reproduction import draw_figures, execution, in_parts, searches_of
from bigramlib.store import store_root
from bigramlib.training.results import key_facts, store_key

ROOT = Path(__file__).parents[2]
LATER = 4
"""Masks that no one can name beforehand: those of tuned models (12), and another seed of the pruning nearest in size (05)."""


def stored_as(search: Search) -> str:
    """The name of the file that holds the mask."""
    subject = search.subject()
    target = ModelTarget(subject.model) if search.target == "model" else subject.table
    return f"subnetworks/{store_key(key_facts(subject.model.facts(), target, subject.train, search.config))}.safetensors"


def test_the_masks_of_all_notebooks_are_named_beforehand(monkeypatch):
    monkeypatch.chdir(ROOT)
    numbers = sorted(path.name[:2] for path in Path("notebooks").glob("[0-9][0-9]_*.ipynb"))
    searches = [search for number in numbers for search in searches_of(number, {})]
    named = {stored_as(search) for search in sorted(set(searches), key=lambda search: (search.model, search.control))}
    kept = {name for name in zipfile.ZipFile("tests/subnetworks.zip").namelist() if name.endswith(".safetensors")}
    assert named <= kept
    assert len({name for name in kept - named if name.startswith("subnetworks")}) == LATER


def test_settings_in_all_yaml_are_for_every_notebook_that_has_such_a_parameter(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks" / "settings" / "mini"
    folder.mkdir(parents=True)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        (tmp_path / "notebooks" / path.name).symlink_to(path)
    (folder / "all.yaml").write_text("settings: {steps: 7}\ndraws: 2\n")
    (folder / "02.yaml").write_text("draws: 3\n")
    monkeypatch.chdir(tmp_path)
    found = {number: execution(number, "mini", "mini", {"device": "cpu"}).parameters for number in ("01", "02", "04")}
    assert "settings" not in found["01"]
    assert found["02"]["settings"] == found["04"]["settings"] == {"steps": 7}
    assert (found["02"]["draws"], found["04"]["draws"]) == (3, 2)
    assert {search.config.steps for search in searches_of("02", found["02"])} == {7}


@pytest.mark.parametrize("number", ["02", "03", "05", "07", "12", "14", "16"])
def test_settings_of_a_model_and_what_is_given_reach_the_searches(monkeypatch, number):
    monkeypatch.chdir(ROOT)
    given = {"model": "world-a0", "corpus": "self", "penalties": "[7]", "control_penalties": [7], "short_penalties": [7]}
    given |= dict.fromkeys(("penalty", "headline", "ablated"), 7)
    searches = searches_of(number, given)
    assert {(search.model.partition("@")[0], search.corpus) for search in searches} == {("world-a0", "self")}
    assert {search.config.sparsity_penalty for search in searches if search.target == "bigram"} == {7}


@pytest.mark.parametrize(
    ("model", "every", "revisions"),
    [("mini", 1, 8), ("mini", 3, ["step0", "step128", "step1024", "step1600"]), ("mini@step64", 1, ["step64"])],
)
def test_the_searches_of_checkpoints_are_those_that_notebook_07_asks_for(monkeypatch, model, every, revisions):
    monkeypatch.chdir(ROOT)
    found = searches_of("07", {"model": model, "every": every, "penalties": [7]})
    names = [search.model.partition("@")[2] for search in found]
    assert names == revisions if isinstance(revisions, list) else len(set(names)) == revisions


def test_notebooks_wait_for_the_masks_that_are_searched_and_only_for_these(monkeypatch):
    monkeypatch.chdir(ROOT)
    executions = {number: execution(number, "mini", "mini", {}) for number in ("01", "02", "09", "15", "16")}
    searched, drawn = (
        {part: [str(task)[-2:] for task in tasks if task in executions.values()] for part, tasks in parts.items()}
        for parts in (in_parts(executions, search=True), in_parts(executions, search=False))
    )
    assert searched == {"masks, first notebook": ["01"], "notebooks": ["16", "02", "15"], "last notebooks": ["09"]}
    assert drawn == {"notebooks": ["01", "16", "02", "15"], "last notebooks": ["09"]}
    assert len(in_parts(executions, search=True)["masks, first notebook"]) > 1


def test_figures_are_drawn_from_the_masks_of_the_checkout_and_the_users_store_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tests").mkdir()
    with zipfile.ZipFile("tests/subnetworks.zip", "w") as archive:
        for name in ("subnetworks/", "subnetworks/a", "tuned/b"):
            archive.writestr(name, "shipped")
    store = tmp_path / ".executed/store"
    (store / "subnetworks").mkdir(parents=True)
    (store / "subnetworks/a").write_text("found here")
    asked = []
    monkeypatch.setattr(
        reproduction, "reproduce", lambda *given, **more: asked.append((*given, more, store_root())) or ["mini"]
    )
    assert draw_figures(["01"], 2) == ["mini"]
    assert asked == [(None, "sotu", "text", "cpu", ["01"], {"processes": 2, "search": False}, store)]
    assert (store / "subnetworks/a").read_text() == "found here" and (store / "tuned/b").read_text() == "shipped"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "tests/subnetworks.zip is missing; go to the root of a checkout"),
        ({"MODEL": "smollm2"}, "MODEL is 'smollm2', but the masks of a checkout are of its own models and text; use reproduce"),
    ],
)
def test_figures_are_refused_without_masks_and_of_other_models(tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bigramlib", "figures"])
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"^make: {sentence}"):
        main()
    assert not list(tmp_path.iterdir())
