"""The committed notebooks show the figures of figures/mini."""

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from picture_comparison import SAME_PICTURE, ink_elsewhere
from PIL import Image

from bigramlib.findings.style import save_figure, use_house_style

MINI = Path(__file__).parents[2] / "figures" / "mini"
NOTEBOOKS = MINI.parents[1] / "notebooks"
PICTURES = sorted(path for path in MINI.glob("*.png") if path.stem not in ("00_pretraining", "15_explorer"))
"""Those that committed notebooks show; 00 is committed as it trains a smaller model, 15 has a screenshot."""


def shown(path):
    """The pictures that a notebook shows."""
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    pictures = [output.data["image/png"] for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in pictures]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_the_committed_notebook_shows_the_figure(path):
    (notebook,) = NOTEBOOKS.glob(f"{path.name[:2]}_*.ipynb")
    saved = Image.open(path)
    matches = [picture for picture in shown(notebook) if ink_elsewhere(saved, picture) < SAME_PICTURE]
    assert len(matches) == 1, f"{notebook.name} shows {path.name} {len(matches)} times; `make notebooks` makes both anew"


@pytest.mark.parametrize("name", ["04_ablation", "05_agreement", "03_dimensions", "02_frontier"])
def test_a_figure_of_another_model_is_told_apart(name):
    """Those that look most alike."""
    (notebook,) = NOTEBOOKS.glob(f"{name[:2]}_*.ipynb")
    other = Image.open(MINI.parent / "stories15m" / f"{name}.png")
    assert min(ink_elsewhere(other, picture) for picture in shown(notebook)) > SAME_PICTURE


def test_a_figure_of_other_data_is_told_apart(tmp_path):
    use_house_style()
    values = {"shown": [3, 9, 5, 7], "same": [3, 9, 5, 7], "other": [9, 2, 8, 1]}
    for name, heights in values.items():
        figure, axes = plt.subplots(figsize=(5, 3))
        axes.bar(list("abcd"), heights)
        axes.set_ylabel("weights kept")
        save_figure(figure, tmp_path, name, pd.DataFrame({"height": heights}), "mini", "sotu")
        if name == "shown":
            figure.savefig(tmp_path / "shown.png", dpi=figure.dpi, bbox_inches="tight")
        plt.close(figure)
    picture, same, other = (Image.open(tmp_path / f"{name}.png") for name in values)
    assert ink_elsewhere(same, picture) < SAME_PICTURE / 2
    assert ink_elsewhere(other, picture) > SAME_PICTURE
