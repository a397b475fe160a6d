"""Notebook 15: the explorer of a study's subnetworks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from bigramlib.findings.study import Study
from bigramlib.subnetworks.subnetwork import Subnetwork
from bigramlib.views.explorer import Explorer

PROMPT = "the Senate and House of"


def explore(
    study: Study, subnetworks: Mapping[float, Subnetwork] | Iterable[float] | None = None, prompt: str = PROMPT
) -> Explorer:
    """Explore the bigram subnetworks of a study in JupyterLab: `explore(study)` as the last line of a cell.

    A slider moves over lambda, a map shows where the kept weights are (click it for heads or MLP dimensions), and a prompt can
    be typed: its next tokens by table, subnetwork, model and model without the subnetwork, and what the two write. Where
    widgets are not alive (GitHub, nbviewer, a page made of the notebook), the same is shown as it was when the cell ran.

    Args:
        study: a model, its text and its bigram table.
        subnetworks: subnetworks by sparsity penalty, or penalties to find them for (`Study.find`); those that the store holds
            for this model and text (`Study.stored`), if not given.
        prompt: what is typed at first.

    Raises:
        ModuleNotFoundError: ipywidgets is not installed.
        ValueError: there is no subnetwork, or one is not of this model.

    Example:
        >>> explore(study, {10.0: subnetwork}, "the cat")
        Explorer of 'mini', lambda 10
    """
    if subnetworks is None:
        subnetworks = study.stored()
    elif not isinstance(subnetworks, Mapping):
        subnetworks = {penalty: study.find(penalty) for penalty in subnetworks}
    return Explorer(study.model, study.table, dict(sorted(subnetworks.items())), prompt)


def kept_weights(subnetworks: Mapping[float, Subnetwork]) -> pd.DataFrame:
    """What the map of the explorer shows: the tables of all subnetworks, with a column sparsity_penalty."""
    tables = {penalty: found.table() for penalty, found in subnetworks.items()}
    return pd.concat(tables, names=["sparsity_penalty"]).reset_index("sparsity_penalty")
