"""One streaming pass measures what a naive computation measures."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VOCABULARY, build
from scipy.stats import pearsonr
from torch.nn import functional

from bigramlib import BigramTable, Subnetwork, TokenCorpus, ablate, evaluate, frontier
from bigramlib.analysis.evaluate import best_within, rises_by_bigram_surprisal, smallest_reaching, table_cross_entropies
from bigramlib.findings.through_pretraining import r_at_size


@pytest.fixture(scope="module")
def held_out():
    generator = np.random.default_rng(7)
    ids = (generator.random(900) ** 2 * 260).astype(np.int64)
    return TokenCorpus(ids, np.array([0, 130, 500]), VOCABULARY, "held out")


def naive(model, corpus, table, length):
    """Surprisals in bits, bigram surprisals in bits and KL in nats, one sequence at a time from full dense rows."""
    own, bigram, kl = [], [], []
    for begin in range(0, len(corpus) - length, length):
        ids = torch.from_numpy(corpus.ids[begin : begin + length + 1])
        log_probability = model.hf(ids[None, :-1]).logits[0, :, :VOCABULARY].log_softmax(-1)
        rows = table.probabilities(ids[:-1].numpy())
        for position in range(length):
            if begin + position + 1 in corpus.starts:
                continue
            following = ids[position + 1]
            own.append(-log_probability[position, following].item() / np.log(2))
            with np.errstate(divide="ignore"):
                bigram.append(-np.log2(rows[position, following]))
            kl.append(functional.kl_div(log_probability[position], torch.from_numpy(rows[position]), reduction="sum").item())
    return np.array(own), np.array(bigram), np.array(kl)


@pytest.mark.parametrize("logits_at_once", [2**22, 1])
def test_measures_equal_a_naive_computation(any_model, held_out, table, logits_at_once, monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", logits_at_once)
    result = evaluate(any_model, held_out, table, sequence_length=32, batch_size=3, max_tokens=None)
    own, bigram, kl = naive(any_model, held_out, table, 32)
    finite = np.isfinite(bigram)
    assert 0 < finite.sum() < len(bigram)
    assert np.allclose(result.surprisals, own, atol=1e-3)
    assert np.allclose(result.bigram_surprisals, bigram)
    assert result.r == pytest.approx(pearsonr(own[finite], bigram[finite])[0], abs=1e-4)
    clipped = np.where(finite, bigram, bigram[finite].max())
    assert result.r_clipped == pytest.approx(pearsonr(own, clipped)[0], abs=1e-4)
    assert result.kl == pytest.approx(kl.mean(), abs=1e-3)
    assert result.cross_entropy == pytest.approx(own.mean() * np.log(2), abs=1e-3)
    assert result.perplexity == pytest.approx(np.exp(result.cross_entropy))


def test_a_subnetwork_is_evaluated_by_itself(model, held_out, table):
    some = Subnetwork(
        {name: torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) < 0.2 for name, w in model.maskable.items()},
        model.architecture,
    )
    through = evaluate(model, held_out, table, some)
    with some.applied(model):
        direct = evaluate(model, held_out, table)
    assert through.cross_entropy == direct.cross_entropy
    assert through.cross_entropy != evaluate(model, held_out, table).cross_entropy
    assert evaluate(model, held_out, table, Subnetwork.full(model)).r == evaluate(model, held_out, table).r


def test_a_model_that_is_the_table_correlates_perfectly(model, held_out, table, monkeypatch):
    with np.errstate(divide="ignore"):
        rows = torch.from_numpy(np.log(table.probabilities(np.arange(VOCABULARY)))).float().clamp(min=-30)
    ids_seen = []
    monkeypatch.setattr(type(model), "hidden", lambda self, ids: ids_seen.append(ids) or torch.zeros(*ids.shape, 16))
    monkeypatch.setattr(type(model), "unembed", lambda self, hidden: rows[ids_seen[-1]])
    logits_of = lambda self, hidden, tokens: rows[ids_seen[-1]].gather(-1, tokens[..., None])[..., 0]  # noqa: E731
    monkeypatch.setattr(type(model), "logits_of", logits_of)
    result = evaluate(model, held_out, table)
    assert result.r == pytest.approx(1, abs=1e-6)
    assert result.r_clipped < 1


def test_ablation_rows_are_those_of_the_pieces(model, held_out, table):
    some = Subnetwork(
        {name: torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) < 0.2 for name, w in model.maskable.items()},
        model.architecture,
    )
    rows = ablate(model, some, held_out, table, draws=3)
    assert list(rows.index) == ["full", "subnetwork", "random", "full - subnetwork", "full - random", "empty"]
    assert rows.cross_entropy["full - subnetwork"] == evaluate(model, held_out, table, ~some).cross_entropy
    draws = [evaluate(model, held_out, table, some.random_like(draw)).r for draw in range(3)]
    assert rows.r["random"] == pytest.approx(np.mean(draws))
    assert rows.r_spread["random"] == pytest.approx(np.ptp(draws) / 2)
    assert rows.r_spread["full"] == 0
    assert list(rows.kept[["full", "subnetwork", "empty"]]) == [some.total, some.kept, 0]


def test_frontier_has_each_subnetwork_and_its_controls(model, held_out, table):
    some = (~Subnetwork.empty(model)).random_like(0)
    points = frontier(model, {1.0: some, 2.0: Subnetwork.empty(model)}, held_out, table, draws=2)
    assert list(points.case) == ["full", "empty", "subnetwork", "random subnetwork", "subnetwork", "random subnetwork"]
    assert points.r[0] == pytest.approx(points.r[2])


def test_the_best_within_a_density_is_the_one_of_highest_r_below_it():
    points = pd.DataFrame({"case": "subnetwork", "kept": [1, 4, 6, 90], "total": 100, "r": [0.5, 0.8, 0.7, 0.99]})
    assert best_within(points, 0.05).r == 0.8
    assert best_within(points, 0.02).r == 0.5
    assert np.isnan(best_within(points, 0.001).r)


def test_the_smallest_reaching_an_r_is_the_headline_and_the_best_stands_in_if_none_does():
    points = pd.DataFrame({"case": "subnetwork", "kept": [1, 4, 6, 90], "total": 100, "r": [0.5, 0.96, 0.955, 0.99]})
    assert smallest_reaching(points, 0.95).kept == 4
    assert smallest_reaching(points, 0.995).kept == 90


def test_table_cross_entropies_are_those_of_the_best_mixture(table, held_out):
    found = table_cross_entropies(table, held_out, max_tokens=None)
    current, following, valid = held_out.windows()
    rows = table.probabilities(current[valid])
    smoothed = (table.unigram_counts + 1) / (table.unigram_counts.sum() + VOCABULARY)
    mixtures = [
        -np.log(weight * rows[np.arange(len(rows)), following[valid]] + (1 - weight) * smoothed[following[valid]]).mean()
        for weight in np.linspace(0.01, 0.99, 99)
    ]
    assert found["bigram"] == pytest.approx(min(mixtures))
    assert found["unigram"] == pytest.approx(-np.log(smoothed[following[valid]]).mean())


def test_text_of_another_vocabulary_is_refused(model, corpus):
    small = TokenCorpus(np.arange(200) % 50, np.array([0]), 50)
    with pytest.raises(ValueError, match="vocabulary of 50, but the model"):
        evaluate(model, small, BigramTable.from_corpus(small))


def test_rises_are_means_over_tokens_of_like_bigram_surprisal(model, held_out, table):
    before = evaluate(model, held_out, table)
    after = evaluate(model, held_out, table, Subnetwork.empty(model))
    rises = rises_by_bigram_surprisal(before, after, bins=4)
    assert rises.tokens.sum() == len(before.surprisals)
    assert rises.tokens.iloc[-1] == np.isinf(before.bigram_surprisals).sum()
    weighted = (rises.rise * rises.tokens).sum() / rises.tokens.sum()
    assert weighted * np.log(2) == pytest.approx(after.cross_entropy - before.cross_entropy)
    assert rises.bigram_surprisal.is_monotonic_increasing


def test_a_model_whose_surprisals_do_not_vary_has_no_r(tokenizer, held_out, table):
    flat = build("gpt_neox", tokenizer)
    flat.hf.get_output_embeddings().weight.zero_()
    result = evaluate(flat, held_out, table)
    assert np.isnan([result.r, *result.r_interval, result.r_clipped]).all()
    assert result.cross_entropy == pytest.approx(np.log(VOCABULARY))
    points = frontier(flat, {1.0: Subnetwork.full(flat), 2.0: Subnetwork.empty(flat)}, held_out, table, draws=1)
    assert points.r.isna().all() and np.isfinite(points.cross_entropy).all()
    assert smallest_reaching(points, 0.95).sparsity_penalty == best_within(points, 1.1).sparsity_penalty == 1.0


def test_text_that_shares_no_bigram_with_the_table_is_measured_without_r(model, table):
    unseen = TokenCorpus(np.random.default_rng(0).integers(250, VOCABULARY, 900), np.array([0, 300, 600]), VOCABULARY)
    of_other_text = BigramTable.from_corpus(TokenCorpus(np.arange(400) % 100, np.array([0]), VOCABULARY))
    result = evaluate(model, unseen, of_other_text)
    assert np.isinf(result.bigram_surprisals).all()
    assert np.isnan([result.r, *result.r_interval, result.r_clipped]).all()
    assert np.isfinite([result.cross_entropy, result.kl]).all()
    known = table_cross_entropies(of_other_text, unseen)
    assert known["seen"] == 0 and np.isfinite(list(known.values())).all()
    rises = rises_by_bigram_surprisal(result, evaluate(model, unseen, of_other_text, Subnetwork.empty(model)))
    assert rises.tokens.tolist() == [len(result.surprisals)] and np.isfinite(rises).all(axis=None)


def test_where_no_r_is_known_the_best_is_the_first_and_without_subnetworks_there_is_none():
    unknown = pd.DataFrame({"case": "subnetwork", "kept": [4, 1], "total": 100, "r": np.nan})
    assert smallest_reaching(unknown, 0.95).kept == best_within(unknown, 0.5).kept == 4
    nothing = unknown.assign(case="full")
    assert smallest_reaching(nothing, 0.95).isna().all() and best_within(nothing, 0.5).isna().all()
    some = pd.DataFrame({"step": [1, 1, 2], "kept": [1, 5, 5], "density": [0.01, 0.05, 0.05], "r": [np.nan, 0.9, np.nan]})
    assert r_at_size(some, 0.01).tolist() == pytest.approx([0.9, np.nan], nan_ok=True)


def test_documents_of_single_tokens_have_nothing_to_predict(model, table):
    single = TokenCorpus(np.arange(300) % 200, np.arange(300), VOCABULARY, "words")
    for measure in (lambda: evaluate(model, single, table), lambda: table_cross_entropies(table, single)):
        with pytest.raises(ValueError, match="Every document of the corpus 'words' is a single token"):
            measure()


def test_fewer_tokens_are_evaluated_when_asked(model, held_out, table):
    assert len(evaluate(model, held_out, table, max_tokens=200, sequence_length=32).surprisals) <= 192


def test_full_row_of_an_ablation_is_the_evaluation_of_the_model(model, held_out, table):
    some = Subnetwork.full(model).random_like(0)
    rows, whole = ablate(model, some, held_out, table, draws=1), evaluate(model, held_out, table)
    assert rows.loc["full", ["r", "r_clipped", "kl", "cross_entropy", "perplexity"]].tolist() == [
        whole.r, whole.r_clipped, whole.kl, whole.cross_entropy, whole.perplexity
    ]  # fmt: skip


def test_full_minus_random_is_the_complement_of_each_random(model, held_out, table):
    masks = {name: torch.arange(w.numel()).view(w.shape) % 5 == 0 for name, w in model.maskable.items()}
    some = Subnetwork(masks, model.architecture)
    rows = ablate(model, some, held_out, table, draws=2)
    draws = [evaluate(model, held_out, table, ~some.random_like(draw)).cross_entropy for draw in range(2)]
    assert rows.cross_entropy["full - random"] == pytest.approx(np.mean(draws))
    assert rows.kept["full - random"] == some.total - some.kept
