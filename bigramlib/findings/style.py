"""The style of all figures, and how a figure is named, saved together with the data that it was drawn from, and shown."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from bigramlib.disk import written_whole
from bigramlib.findings.alt_text import alt_text
from bigramlib.models.loading import EMBEDDED
from bigramlib.models.packages import PACKAGED
from bigramlib.store import content_hash

PAPER_R = 0.95
"""The r that a subnetwork must exceed to count as predicting like the bigram table (paper, finding 1)."""
NEARLY_ONE = 0.9999
LONGEST_NAME = 100
BLUE, ORANGE, RED, GREY = COLOURS = "#1f5fa8", "#e8a33d", "#a02c2c", "#9a9a9a"
"""They stay apart for the colour-blind, whichever cones they lack."""
NAMING = "naming"


def use_house_style() -> None:
    """Set seaborn's theme for every figure of the project."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "savefig.dpi": 150})
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=COLOURS)


def figure_folder(model_name: str, root: str | Path | None) -> Path | None:
    """The folder for a model's figures and claims. It is not created here, but when something is written.

    Each model has its own folder. A hub id names its owner ("alice--base"). The name of a local folder or .gguf file gets a
    hash of its full path, so that it differs from others of the same name.

    Args:
        model_name: a name for `load_model`.
        root: the folder for all models; None if nothing is to be written.
    """
    if root is None:
        return None
    path, base = (Path(os.path.expanduser(given)) for given in (model_name, root))  # noqa: PTH111 (an unknown ~user is no error)
    known = model_name.partition("@")[0] in EMBEDDED or model_name in PACKAGED
    is_local = not known and (path.is_absolute() or model_name[:1] in ".~" or model_name.endswith(".gguf") or path.exists())
    readable = path.resolve().name if is_local else model_name.replace("/", "--")
    safe = re.sub(r"[^A-Za-z0-9._@-]+", "-", readable).strip(".-")[:LONGEST_NAME]
    identity = str(path.resolve()) if is_local else model_name
    return base / (f"{safe}-{content_hash(identity)[:6]}".lstrip("-") if is_local or safe != readable else safe)


def save_figure(figure: Figure, folder: Path | None, name: str, data: pd.DataFrame, model: str, text: str) -> None:
    """Name what a figure is about, save it if there is a folder, and show it in a notebook with words that describe it.

    Args:
        figure: the figure.
        folder: where NN_name.png, .pdf and the data as .csv are written; the same data always give the same bytes.
        name: NN_name.
        data: what the figure was drawn from.
        model: the model that it is about.
        text: what it was measured on.
    """
    name_below(figure, model, text)
    if folder is not None:
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
            with written_whole(folder / f"{name}.{suffix}") as file:
                figure.savefig(file, bbox_inches="tight", metadata=metadata)
        save_table(data, folder, name)
    show(figure, f"Model {model}, measured on {text}. {alt_text(figure)}")


def name_below(figure: Figure, model: str, text: str) -> None:
    """Write below a figure which model it is about and what it was measured on; of paths only the last part."""
    for earlier in [words for words in figure.texts if words.get_gid() == NAMING]:
        earlier.remove()
    short = [Path(given).name if Path(given).is_absolute() else given for given in (model, text)]
    figure.draw_without_rendering()  # places everything, so that what is lowest is known
    box, height = figure.get_tightbbox(), figure.get_figheight()
    place = box.x1 / figure.get_figwidth(), (box.y0 - 0.08) / height
    figure.text(*place, " on ".join(short), ha="right", va="top", fontsize="x-small", color="#555555", gid=NAMING)


def show(figure: Figure, words: str) -> None:
    """Show a figure in a notebook, with words that say what it shows; elsewhere do nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=figure.dpi, bbox_inches="tight")
    data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": words}
    shell.display_pub.publish(data, {"image/png": {"alt": words}})
    plt.close(figure)


def save_table(data: pd.DataFrame, folder: Path | None, name: str, float_format: str | None = "%.6g") -> None:
    """Write NN_name.csv, if there is a folder. Numbers have six digits by default; float_format None writes all digits."""
    if folder is not None:
        with written_whole(folder / f"{name}.csv") as file:
            data.to_csv(file, index=False, float_format=float_format)


def read_tables(folder: Path, names: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Tables of a folder that `save_table` wrote, by name; empty where there is none."""
    files = {name: folder / f"{name}.csv" for name in names}
    return {name: pd.read_csv(file) if file.exists() else pd.DataFrame() for name, file in files.items()}


def write_above(axes: Axes, value: float, position: int) -> None:
    """Write a value above its point, in a figure with a row for each case."""
    axes.annotate(f"{value:.2f}", (value, position), xytext=(0, 6), textcoords="offset points", ha="center", fontsize="small")


def correlation_axis(axes: Axes) -> None:
    """Show what was drawn on a vertical axis of r, stretched towards 1 by Fisher's transformation, so that intervals show."""

    def stretched(r: np.ndarray) -> np.ndarray:
        return np.arctanh(np.clip(r, -NEARLY_ONE, NEARLY_ONE))

    low, high = stretched(axes.dataLim.intervaly)
    margin = 0.06 * (high - low)
    axes.set_yscale("function", functions=(stretched, np.tanh))
    axes.set_ylim(np.tanh(low - margin), np.tanh(high + margin))
    axes.yaxis.set_major_locator(FixedLocator([-0.4, -0.2, 0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99]))
    axes.yaxis.set_major_formatter("{x:g}")


def pretraining_axis(axes: Axes, steps: pd.Series) -> None:
    """Show pretraining steps on the horizontal axis."""
    axes.set_xscale("symlog", linthresh=16)
    axes.set(xlabel="pretraining step", xlim=(-3, 1.4 * steps.max()))
