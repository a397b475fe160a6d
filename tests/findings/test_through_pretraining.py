"""A search in every checkpoint, compared with that of the last one."""

import numpy as np
import pandas as pd
import pytest
from conftest import build

from bigramlib import SparsifyConfig, evaluate, find_subnetwork, load_model
from bigramlib.analysis.overlap import overlap_test
from bigramlib.findings.through_pretraining import r_at_size, through_pretraining


@pytest.fixture(scope="module")
def checkpoints(tokenizer, tmp_path_factory):
    folders = {}
    for step, seed in ((0, 1), (40, 2)):
        folder = tmp_path_factory.mktemp(f"step{step}")
        build("gpt_neox", tokenizer, seed).hf.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[step] = str(folder)
    return folders


def test_every_checkpoint_is_searched_and_compared_with_the_last(checkpoints, corpus, table, monkeypatch):
    monkeypatch.setattr(SparsifyConfig, "suited", lambda model, target, penalty: SparsifyConfig(penalty, steps=30))
    points = through_pretraining(checkpoints, table, corpus, corpus, [0.1, 1.0], max_tokens=1024)
    assert [tuple(row) for row in points[["step", "sparsity_penalty"]].to_numpy()] == [(0, 0.1), (0, 1.0), (40, 0.1), (40, 1.0)]
    row = points.iloc[1]
    first, last = (
        find_subnetwork(load_model(checkpoints[step]), table, corpus, SparsifyConfig(sparsity_penalty=1.0, steps=30))
        for step in (0, 40)
    )
    model = load_model(checkpoints[0])
    measured = evaluate(model, corpus, table, first, max_tokens=1024)
    assert (row.kept, row.r) == (first.kept, pytest.approx(measured.r, abs=1e-9))
    assert row.full_r == pytest.approx(evaluate(model, corpus, table, max_tokens=1024).r, abs=1e-9)
    total = overlap_test(first, last).iloc[-1]
    assert row.times_chance == pytest.approx(total.overlap / total.flat_expected)
    assert (points[points.step == 40].contained == 1.0).all()


def test_r_at_a_size_lies_on_the_line_between_two_subnetworks_in_the_logarithm_of_the_size():
    points = pd.DataFrame(
        {"step": [0, 0, 8, 8], "kept": [1, 100, 1, 1], "density": [0.01, 0.04, 0.1, 0.2], "r": [0.5, 0.9, 0.6, 0.7]}
    )
    at_size = r_at_size(points, 0.02)
    assert at_size.to_dict() == {0: pytest.approx(0.7), 8: pytest.approx(0.6)}


def test_r_at_a_size_leaves_out_subnetworks_without_r():
    some = pd.DataFrame({"step": [1, 1, 2], "kept": [1, 5, 5], "density": [0.01, 0.05, 0.05], "r": [np.nan, 0.9, np.nan]})
    assert r_at_size(some, 0.01).tolist() == pytest.approx([0.9, np.nan], nan_ok=True)
