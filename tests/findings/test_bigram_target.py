"""Notebook 01: the bigram table is described as it is, and the full model is measured at each checkpoint."""

import numpy as np
import pandas as pd
import pytest

from bigramlib import evaluate
from bigramlib.findings import pretrain_mini
from bigramlib.findings.bigram_target import (
    CLAIMS,
    along_pretraining,
    judge,
    likeliest_successors,
    plot_checkpoints,
    table_facts,
)
from bigramlib.findings.claims import recorded

REFERENCES = {"bigram": 4.0, "unigram": 5.0, "seen": 0.9}


def along(*rs, cross_entropy=3.0):
    columns = {"step": [16 * place for place in range(len(rs))], "r": rs, "r_clipped": rs, "kl": 1.0}
    return pd.DataFrame(columns | {"cross_entropy": [*[6.0] * (len(rs) - 1), cross_entropy]})


def test_the_facts_of_the_table_are_those_of_its_counts(study):
    counts = study.table.counts.toarray()
    used = counts[counts.sum(axis=1) > 0]
    rows = used / used.sum(axis=1, keepdims=True)
    entropies = -(rows * np.log(np.where(rows > 0, rows, 1))).sum(axis=1)
    facts = table_facts(study, 0.25)
    assert facts["training tokens"] == f"{len(study.train):,}" and facts["vocabulary"] == "280"
    assert facts["distinct bigrams"] == str((counts > 0).sum())
    assert facts["mean entropy of P, over training tokens"].endswith(" nats")
    mean = np.average(entropies, weights=used.sum(axis=1))
    assert float(facts["mean entropy of P, over training tokens"].split()[0]) == pytest.approx(mean, abs=0.02)
    assert facts["held-out tokens whose bigram was seen"] == "25.0%"


def test_the_likeliest_successors_of_frequent_tokens_are_shown_with_their_probabilities(study):
    found = likeliest_successors(study, ranks=[0, 2], successors=3)
    assert list(found.columns) == ["1.", "2.", "3."] and len(found) == 2
    by_frequency = np.argsort(-np.bincount(study.train.ids, minlength=280))
    decode = study.model.tokenizer.decode
    assert found.index[0] == repr(decode([by_frequency[0]]))
    following = study.table.counts.toarray()[by_frequency[0]]
    likeliest, share = following.argmax(), following.max() / following.sum()
    assert found.iloc[0, 0] == f"{decode([likeliest])!r} {share:.2f}"


def test_every_checkpoint_of_the_full_model_is_evaluated_on_the_studys_text(study, checkpoints):
    found = along_pretraining(study, 256)
    assert list(found.columns) == ["step", "r", "r_clipped", "kl", "cross_entropy", "tokens"] and list(found.step) == [
        0,
        16,
        40,
    ]
    for row, checkpoint in zip(found.itertuples(), checkpoints.values(), strict=True):
        plain = evaluate(checkpoint.model, study.held_out, study.table, max_tokens=256)
        measured = (row.r, row.r_clipped, row.kl, row.cross_entropy)
        assert measured == (plain.r, plain.r_clipped, plain.kl, plain.cross_entropy)


def test_the_last_checkpoint_is_the_language_model(tmp_path):
    judge(tmp_path, along(0.9, 0.5, cross_entropy=3.0), REFERENCES)
    claim = pretrain_mini.CLAIMS["language model"]
    assert recorded(tmp_path)[claim.text][2:] == ("3.00 nats; bigram table, interpolated, 4.00; unigram 5.00", "yes")
    assert judge(None, along(0.9, 0.5, cross_entropy=3.9), REFERENCES)[0].holds == "no"


def test_the_full_model_is_not_bigram_where_its_last_r_is_low(tmp_path):
    for last, holds in ((0.5, "yes"), (0.95, "no")):
        verdict = judge(tmp_path, along(0.95, last), REFERENCES)[1]
        assert (verdict.claim, verdict.ours, verdict.holds) == (CLAIMS["model is not bigram"], f"r {last:.3f}", holds)
    assert len(recorded(tmp_path)) == 3


@pytest.mark.parametrize(("rs", "holds"), [((0.1, 0.8, 0.5), "yes"), ((0.1, 0.51, 0.5), "no"), ((0.1, 0.3, 0.5), "no")])
def test_the_model_is_most_bigram_early_where_r_has_a_peak_before_the_end(tmp_path, rs, holds):
    verdict = judge(tmp_path, along(*rs), REFERENCES)[2]
    assert (verdict.claim, verdict.holds) == (CLAIMS["early bigram"], holds)
    assert verdict.ours == f"r {max(rs):.3f} at step {16 * int(np.argmax(rs))}, {rs[-1]:.3f} at the end"
    assert recorded(tmp_path)[verdict.claim.text][3] == holds


def test_a_model_without_checkpoints_cannot_tell_about_early_pretraining(tmp_path):
    verdicts = judge(tmp_path, along(0.5), REFERENCES)
    assert [verdict.holds for verdict in verdicts] == ["yes", "yes", "not testable"]
    assert recorded(tmp_path)[CLAIMS["early bigram"].text][2] == "this model has no pretraining checkpoints"


def test_checkpoints_are_drawn_with_both_tables_as_references(axes):
    plot_checkpoints(axes[0], along(0.1, 0.8, 0.5), REFERENCES)
    twin = axes[0].figure.axes[-1]
    assert list(axes[0].lines[0].get_ydata()) == [0.1, 0.8, 0.5]
    own, *references = twin.lines
    assert list(own.get_ydata()) == [6.0, 6.0, 3.0] and [line.get_ydata()[0] for line in references] == [4.0, 5.0]
    assert [text.get_text() for text in twin.texts] == ["bigram table", "unigram table"]
