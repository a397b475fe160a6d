"""The explorer shows what the library computes, whatever is moved, clicked or typed, and shows it as plain HTML too."""

import sys
import time
from html import unescape

import pytest
from conftest import build

from bigramlib import Study, Subnetwork, load_model
from bigramlib.analysis.predictions import predictions
from bigramlib.subnetworks.places import density_grid
from bigramlib.views.explorer import NO_BORDER, WRITTEN_TOKENS, Explorer
from bigramlib.views.html import density_html, kept_share, predictions_html

PROMPT = "the cat sat on"
LIVE = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def explorer(study, sparse):
    return Explorer(study.model, study.table, {1.0: sparse, 10.0: Subnetwork.mlp(study.model, 0, [1, 2])}, PROMPT)


def assert_shows(explorer, study, subnetwork, prompt):
    """Everything that the explorer shows is of this subnetwork and prompt."""
    model = study.model
    grid = density_grid(subnetwork.table())
    assert {place: cell.description for place, cell in explorer.cells.items()} == {
        place: kept_share(share) or "0" for place, share in grid.stack().items()
    }
    assert f"{subnetwork.kept:,} of {subnetwork.total:,}" in explorer.size.value
    assert explorer.answers.value == predictions_html(predictions(model, study.table, prompt, subnetwork))
    written = {"full": model.sample(prompt, WRITTEN_TOKENS)}
    with subnetwork.applied(model):
        written["subnetwork"] = model.sample(prompt, WRITTEN_TOKENS)
    assert all(text in unescape(explorer.written.value) for text in written.values())
    assert written["full"] != written["subnetwork"]


def test_it_begins_with_one_of_the_subnetworks_and_the_prompt(explorer, study):
    assert explorer.slider.value == 10.0
    assert_shows(explorer, study, explorer.subnetwork, PROMPT)


def test_the_slider_turns_to_another_subnetwork(explorer, study, sparse):
    explorer.slider.value = 1.0
    assert explorer.subnetwork is sparse
    assert_shows(explorer, study, sparse, PROMPT)


def test_a_text_that_is_typed_is_asked(explorer, study):
    explorer.prompt.value = "a dog met"
    assert_shows(explorer, study, explorer.subnetwork, "a dog met")


def test_a_text_that_cannot_be_asked_is_answered_by_a_sentence_and_the_next_one_is_asked(explorer, study):
    explorer.prompt.value = ""
    assert "has no tokens" in explorer.answers.value and explorer.written.value == ""
    explorer.prompt.value = "a dog"
    assert_shows(explorer, study, explorer.subnetwork, "a dog")


def test_a_click_shows_the_heads_or_dimensions_of_a_cell(explorer, sparse):
    assert "layer 0, mlp" in explorer.units.value
    explorer.cells[1, "q"].click()
    assert "layer 1, q" in explorer.units.value and "2 heads; most weights are kept in none" in explorer.units.value
    assert [place for place, cell in explorer.cells.items() if cell.layout.border_top != NO_BORDER] == [(1, "q")]
    explorer.slider.value = 1.0
    units = sparse.units()
    kept = units[(units.layer == 1) & (units.component == "q")].kept
    assert "layer 1, q" in explorer.units.value and all(
        f"head {head}: {count} of" in explorer.units.value for head, count in enumerate(kept)
    )


def test_where_widgets_are_not_alive_the_same_is_shown(explorer, sparse):
    explorer.slider.value = 1.0
    shown = explorer._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html", LIVE}
    assert shown["text/plain"] == repr(explorer) == "Explorer of 'tiny gpt_neox', lambda 1, 10"
    for part in (
        density_html(density_grid(sparse.table())),
        explorer.answers.value,
        explorer.written.value,
        explorer.units.value,
    ):
        assert part in shown["text/html"]
    assert PROMPT in shown["text/html"] and not {"<style", "<script"} & set(shown["text/html"].split())


def test_there_must_be_subnetworks_of_this_model(study, sparse, tokenizer):
    with pytest.raises(ValueError, match=r"^There is no subnetwork to explore; find one first"):
        Explorer(study.model, study.table, {}, PROMPT)
    with pytest.raises(ValueError, match="subnetwork"):
        Explorer(build("llama", tokenizer), study.table, {1.0: sparse}, PROMPT)


def test_without_ipywidgets_a_sentence_says_what_to_install(study, sparse, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^The explorer needs ipywidgets; pip install 'bigramlib\[notebooks\]' brings it"
    ):
        Explorer(study.model, study.table, {1.0: sparse}, PROMPT)


def test_mini_is_drawn_anew_in_well_under_a_second(documents):
    study = Study(load_model("mini"), documents)
    full = Subnetwork.full(study.model)
    explorer = Explorer(study.model, study.table, {1.0: full.random_like(0), 2.0: Subnetwork.mlp(study.model, 0)}, PROMPT)
    took = []
    for penalty in (1.0, 2.0, 1.0, 2.0):
        begin = time.process_time()
        explorer.slider.value = penalty
        took.append(time.process_time() - begin)
    assert min(took) < 1
