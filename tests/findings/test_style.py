"""Each model has a folder of figures of its own, and nothing is written where nothing was asked for."""

import base64
import io
import itertools
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from bigramlib.findings.style import (
    COLOURS,
    correlation_axis,
    figure_folder,
    pretraining_axis,
    save_figure,
    save_table,
    show,
    use_house_style,
)
from bigramlib.models.loading import EMBEDDED
from bigramlib.models.packages import PACKAGED


def test_known_models_keep_their_names_and_revisions_have_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (*EMBEDDED, *PACKAGED, "mini@step256", "gpt2"):
        assert figure_folder(name, "root").as_posix() == f"root/{name}"
        assert figure_folder(name, None) is None
    assert figure_folder("EleutherAI/pythia-160m@step3000", "root").name == "EleutherAI--pythia-160m@step3000"
    (tmp_path / "mini").mkdir()
    assert figure_folder("mini", "root").name == "mini"


def test_other_models_have_other_folders_with_names_that_every_file_system_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = ("x", "sub/x", "sub/a b", "sub/a-b", "sub/a:b", "模型", "型", ".hidden")
    for name in local:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "x.gguf").touch()
    names = [*local, "x.gguf", "alice/base", "bob/base", "alice/base@main", "alice--base/", "a/b@refs/pr/1", "a/b@refs-pr-1"]
    names += ["/runs/1/checkpoint-500", "/runs/2/checkpoint-500", "checkpoint-500", "~/checkpoint-500", "~user", "l" * 200]
    folders = [figure_folder(name, "root").relative_to("root").as_posix() for name in names]
    assert len({folder.lower() for folder in folders}) == len(names)
    for folder in folders:
        assert folder.isascii() and folder[0] not in ".-" and len(folder) < 128 and not set(folder) & set(" /:~\\$'\"")
    assert not (tmp_path / "root").exists()


def test_a_local_model_has_one_folder_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "runs/one").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs/one")
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setenv("HOME", str(tmp_path))
    ways = ("one", "./one", "one/", "../runs/one", f"{tmp_path}/runs/one", "~/runs/one", "../link")
    (folder,) = {figure_folder(way, "root").name for way in ways}
    assert folder.startswith("one-")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_figure_is_written_with_its_data_where_a_folder_is_named_and_else_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure, data = plt.figure(), pd.DataFrame({"x": [1 / 3]})
    save_figure(figure, None, "01_a", data, "mini", "sotu")
    assert not list(tmp_path.iterdir())
    folder = figure_folder("mini", "figures")
    save_figure(figure, folder, "01_a", data, "mini", "sotu")
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(first) == {"01_a.png", "01_a.pdf", "01_a.csv"} and first["01_a.csv"] == b"x\n0.333333\n"
    save_figure(figure, folder, "01_a", data, "mini", "sotu")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


def test_a_table_is_written_with_six_digits_or_with_all_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pd.DataFrame({"x": [1 / 3, 2.0], "y": ["a", "b"]})
    save_table(data, None, "01_a")
    assert not list(tmp_path.iterdir())
    save_table(data, tmp_path / "figures", "01_a")
    save_table(data, tmp_path / "figures", "01_b", float_format=None)
    assert (tmp_path / "figures" / "01_a.csv").read_text() == "x,y\n0.333333,a\n2,b\n"
    assert pd.read_csv(tmp_path / "figures" / "01_b.csv").equals(data)


def test_the_house_style_leaves_out_the_upper_and_the_right_line():
    with plt.rc_context({"axes.spines.top": True, "axes.spines.right": True}):
        use_house_style()
        figure, axes = plt.subplots()
        assert not axes.spines["top"].get_visible() and not axes.spines["right"].get_visible()
        plt.close(figure)


def test_steps_of_pretraining_are_on_a_logarithmic_axis_that_begins_at_zero(axes):
    pretraining_axis(axes[0], pd.Series([0, 32, 1600]))
    assert axes[0].get_xscale() == "symlog" and axes[0].get_xlabel() == "pretraining step"
    low, high = axes[0].get_xlim()
    assert low < 0 and 1600 < high < 3200


def test_a_figure_names_its_model_and_text_once_below_all_else_without_folders(tmp_path):
    figure, axes = plt.subplots()
    axes.set_xlabel("steps")
    for _ in range(2):
        save_figure(figure, None, "01_a", pd.DataFrame(), str(tmp_path / "my model"), "sotu")
    (words,) = figure.texts
    assert words.get_text() == "my model on sotu"
    figure.canvas.draw()
    assert words.get_window_extent().y1 < axes.xaxis.label.get_window_extent().y0
    plt.close(figure)


@pytest.mark.parametrize("folder", [None, "figures"])
def test_a_notebook_shows_a_figure_once_with_words_that_describe_it(tmp_path, monkeypatch, folder):
    shown = []
    shell = SimpleNamespace(display_pub=SimpleNamespace(publish=lambda *given: shown.append(given)))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, version_info=(9, 0)))
    figure, axes = plt.subplots()
    axes.set_xlabel("steps")
    save_figure(figure, folder and tmp_path / folder, "01_a", pd.DataFrame(), "mini", "sotu")
    ((data, metadata),) = shown
    assert data["text/plain"] == metadata["image/png"]["alt"] == "Model mini, measured on sotu. steps."
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).width > 100
    assert not plt.fignum_exists(figure.number)


def test_nothing_is_shown_without_a_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    figure = plt.figure()
    show(figure, "words")
    assert plt.fignum_exists(figure.number)
    plt.close(figure)


def test_correlations_near_one_are_stretched_and_all_that_was_drawn_is_seen(axes):
    axes[0].errorbar([1, 2, 3], [-0.3, 0.95, 1.0], 0.001)
    correlation_axis(axes[0])
    low, high = axes[0].get_ylim()
    assert -1 < low < -0.301 and 0.9999 <= high <= 1
    (bottom, middle, top) = axes[0].transData.transform([(0, 0.9), (0, 0.95), (0, 0.98)])[:, 1]
    assert top - middle > middle - bottom > 0


LACKING = {
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "all cones": np.eye(3),
}
"""What is seen of linear RGB (Machado, Oliveira & Fernandes 2009, severity 1)."""
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
APART = 25
"""Colours that differ by less in CIELAB are alike in thin lines: seaborn's orange and green by 22 without green cones."""


def in_lab(colour, lacking):
    """A colour as it is seen, in CIELAB."""
    given = np.array(to_rgb(colour))
    linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(TO_XYZ @ np.clip(LACKING[lacking] @ linear, 1e-3, 1) / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("lacking", LACKING)
def test_colours_stay_apart_for_the_colour_blind(lacking):
    seen = [in_lab(colour, lacking) for colour in COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > APART


def test_the_test_of_colours_finds_those_that_look_alike():
    orange, green = (in_lab(colour, "no green cones") for colour in ("#dd8452", "#55a868"))
    assert np.linalg.norm(orange - green) < APART


def test_lines_take_these_colours_where_none_is_named():
    with plt.rc_context():
        use_house_style()
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == list(COLOURS)
