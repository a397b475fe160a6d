"""Models are compared by the tables that the other notebooks wrote: each figure of the comparison is one of theirs."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bigramlib.findings.across_models import TABLES, frontiers, judge, plot_models, summary, surveyed
from bigramlib.findings.claims import recorded
from bigramlib.findings.first_layer_turn import CLAIMS

FIGURES = Path(__file__).parents[2] / "figures"


def test_every_model_with_figures_is_compared_by_what_its_notebooks_found():
    models = surveyed(FIGURES)
    assert list(models) == sorted(models) == sorted(file.parent.name for file in FIGURES.glob("*/02_frontier.csv"))
    points, found = frontiers(models), summary(models)
    assert set(points.case) == {"full", "empty", "subnetwork"} and list(points.model.unique()) == list(models)
    for name, tables in models.items():
        row, frontier = found.loc[name], tables["02_frontier"]
        trained = frontier[(frontier.model == "trained") & (frontier.case == "subnetwork")]
        reaching = trained[trained.r > 0.95].sort_values("kept")
        best = (trained.sort_values("r", ascending=False) if reaching.empty else reaching).iloc[0]
        assert (row.kept, row.maskable, row.r) == (best.kept, best.total, best.r)
        assert (row["share kept"], row["in first MLP"]) == (best.kept / best.total, best.first_mlp_share)
        assert row["full r"] == frontier[frontier.case == "full"].r.iloc[0]
        removed = tables["04_ablation"].set_index(["subnetwork", "case"])
        size = next(size for size, case in removed.index if removed.kept[size, "subnetwork"] == best.kept)
        rises = removed.rise[size]
        assert (row["without it, nats"], row["without random, nats"]) == (rises["full - subnetwork"], rises["full - random"])
        assert f"rises most at layer {row['turn at layer']:g} (" in recorded(FIGURES / name)[CLAIMS["turn"].text][2]


def test_what_was_not_measured_on_a_model_is_missing(tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(FIGURES / "mini/02_frontier.csv", tmp_path / "one")
    missing = ["without it, nats", "without random, nats", "turn at layer"]
    found = summary(surveyed(tmp_path))
    assert found[missing].isna().all(axis=None) and found.drop(columns=missing).notna().all(axis=None)
    other = pd.read_csv(FIGURES / "mini/04_ablation.csv").query("kept != 37827")
    other.to_csv(tmp_path / "one/04_ablation.csv", index=False)
    assert summary(surveyed(tmp_path))[missing].isna().all(axis=None)


def test_a_mask_that_was_searched_again_is_the_one_that_was_removed_though_a_few_weights_differ(tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(FIGURES / "mini/04_ablation.csv", tmp_path / "one")
    frontier = pd.read_csv(FIGURES / "mini/02_frontier.csv")
    frontier.assign(kept=frontier.kept.replace(37827, 37830)).to_csv(tmp_path / "one/02_frontier.csv", index=False)
    found, own = summary(surveyed(tmp_path)).loc["one"], summary(surveyed(FIGURES, ["mini"])).loc["mini"]
    assert (found.kept, own.kept) == (37830, 37827)
    assert found["without it, nats"] == own["without it, nats"]


def test_models_are_compared_that_are_wanted_and_refused_where_they_have_no_figures(tmp_path):
    with pytest.raises(ValueError, match=r"has no 02_frontier\.csv of any model; run notebook 02 on it first"):
        surveyed(tmp_path)
    for name in ("mini", "owner--other-3fa0c1"):
        (tmp_path / name).mkdir()
        for table in TABLES:
            shutil.copy(FIGURES / "mini" / f"{table}.csv", tmp_path / name)
    assert list(surveyed(tmp_path)) == ["mini", "owner--other-3fa0c1"] and list(surveyed(tmp_path, ["mini"])) == ["mini"]
    with pytest.raises(ValueError, match=r"has no 02_frontier\.csv of owner/third; run notebook 02"):
        surveyed(tmp_path, ["mini", "owner/third"])


def rows(r=0.96, without=3.0, random=0.1, names=("mini", "other")):
    found = pd.DataFrame({"model": names, "r": [r, 0.8][: len(names)], "without it, nats": [3.0, without][-len(names) :]})
    return found.assign(**{"without random, nats": random}).set_index("model")


@pytest.mark.parametrize(
    ("values", "reaches", "costs"),
    [
        ({}, True, True),
        ({"r": 0.94}, False, True),
        ({"names": ("other",)}, False, True),
        ({"without": 0.05}, True, False),
        ({"names": ("mini",)}, True, True),
        ({"without": np.nan}, True, True),
        ({"names": ("other",), "without": np.nan}, False, False),
    ],
)
def test_all_models_together_are_judged_by_their_rows(values, reaches, costs):
    assert judge(rows(**values)) == {
        "mini reaches r > 0.95": reaches,
        "removing the subnetwork costs more than removing random weights, in every model": costs,
    }


def frontier_of(model, *, total=1000):
    rows = pd.DataFrame({"case": ["full", "subnetwork", "subnetwork"], "kept": [total, 100, 10], "total": total})
    return rows.assign(model=model, r=[0.5, 0.96, 0.8], r_low=0.7, r_high=0.99)


def test_each_model_is_drawn_over_weights_and_over_their_share(axes):
    plot_models(axes[:2], pd.concat([frontier_of("mini"), frontier_of("other", total=10_000)]))
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["mini", "other"]
    lines = [[list(container.lines[0].get_xdata()) for container in place.containers] for place in axes[:2]]
    assert lines == [[[10, 100], [10, 100]], [[0.01, 0.1], [0.001, 0.01]]]
    assert list(axes[0].containers[0].lines[0].get_ydata()) == [0.8, 0.96]


def test_no_two_models_look_alike(axes):
    plot_models(axes[:2], pd.concat([frontier_of(f"model {number}") for number in range(12)]))
    lines = [container.lines[0] for container in axes[0].containers]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == len(lines) == 12


def test_one_model_with_one_subnetwork_is_drawn(axes):
    plot_models(axes[:2], frontier_of("mini").head(2))
    assert [len(place.containers) for place in axes[:2]] == [1, 1]
