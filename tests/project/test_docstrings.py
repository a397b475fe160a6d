"""Every public name shows its use in an example of a line or two, which runs as it stands."""

import doctest

import numpy as np
import pytest
import torch

import bigramlib
from bigramlib import Study, Subnetwork, load_model

PUBLIC = sorted(bigramlib.__all__)


@pytest.fixture(scope="module")
def known(documents):
    """What examples may use beside the public names: a study of mini on few words, its parts, and a subnetwork."""
    model = load_model("mini")
    study = Study(model, documents)
    parts = {"study": study, "model": model, "corpus": study.train, "held_out": study.held_out, "table": study.table}
    subnetwork = Subnetwork.mlp(model, 0)
    names = {name: getattr(bigramlib, name) for name in PUBLIC}
    return names | parts | {"texts": documents, "subnetwork": subnetwork, "np": np, "torch": torch}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_runs_as_it_stands(name, known, quick):
    source = getattr(bigramlib, name).__doc__
    examples = doctest.DocTestParser().get_doctest(source, dict(known), name, None, None)
    assert 1 <= len(examples.examples) <= 4 and examples.examples[-1].want, f"{name} has no example, or a long one"
    report: list[str] = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
    assert tried and not failed, "".join(report)
