"""Each model has a folder of figures of its own, and nothing is written where nothing was asked for."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from bigramlib.findings.style import figure_folder, pretraining_axis, save_figure, save_table, use_house_style
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
    save_figure(figure, None, "01_a", data)
    assert not list(tmp_path.iterdir())
    folder = figure_folder("mini", "figures")
    save_figure(figure, folder, "01_a", data)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(first) == {"01_a.png", "01_a.pdf", "01_a.csv"} and first["01_a.csv"] == b"x\n0.333333\n"
    save_figure(figure, folder, "01_a", data)
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


def test_a_model_without_checkpoints_has_one_place_on_the_axis_of_pretraining(axes):
    pretraining_axis(axes[0], pd.Series([0, 0]))
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["the model as released"]
    assert axes[0].get_xscale() == "linear" and axes[0].get_xlim() == (-1, 1)
