"""The style of all figures, and how a figure is saved together with the data that it was drawn from."""

from __future__ import annotations

import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bigramlib.disk import written_whole
from bigramlib.models.loading import EMBEDDED
from bigramlib.models.packages import PACKAGED
from bigramlib.store import content_hash

PAPER_R = 0.95
"""The r that a subnetwork must exceed to count as predicting like the bigram table (paper, finding 1)."""
LONGEST_NAME = 100
BLUE, ORANGE, RED, GREY = "#1f5fa8", "#d98a2b", "#b03a3a", "#8a8a8a"


def use_house_style() -> None:
    """Set seaborn's theme for every figure of the project."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9)
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100, "savefig.dpi": 150})


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


def save_figure(figure: Figure, folder: Path | None, name: str, data: pd.DataFrame) -> None:
    """Write NN_name.png, .pdf and the data as .csv, if there is a folder; the same data always give the same bytes."""
    if folder is None:
        return
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        with written_whole(folder / f"{name}.{suffix}") as file:
            figure.savefig(file, bbox_inches="tight", metadata=metadata)
    save_table(data, folder, name)


def save_table(data: pd.DataFrame, folder: Path | None, name: str, float_format: str | None = "%.6g") -> None:
    """Write NN_name.csv, if there is a folder. Numbers have six digits by default; float_format None writes all digits."""
    if folder is not None:
        with written_whole(folder / f"{name}.csv") as file:
            data.to_csv(file, index=False, float_format=float_format)


def write_above(axes: Axes, value: float, position: int) -> None:
    """Write a value above its point, in a figure with a row for each case."""
    axes.annotate(f"{value:.2f}", (value, position), xytext=(0, 6), textcoords="offset points", ha="center", fontsize="small")


def pretraining_axis(axes: Axes, steps: pd.Series) -> None:
    """Show pretraining steps on the horizontal axis; a model without checkpoints has a single point on it."""
    if steps.nunique() == 1:
        axes.set(xlim=(steps.iloc[0] - 1, steps.iloc[0] + 1))
        axes.set_xticks([steps.iloc[0]], ["the model as released"])
        return
    axes.set_xscale("symlog", linthresh=16)
    axes.set(xlabel="pretraining step", xlim=(-3, 1.4 * steps.max()))
