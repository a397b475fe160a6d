"""One streaming pass measures what a naive computation measures."""

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build
from scipy.stats import pearsonr
from torch.nn import functional

from bigramlib import BigramTable, Subnetwork, TokenCorpus, evaluate


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


def test_text_of_another_vocabulary_is_refused(model, corpus):
    small = TokenCorpus(np.arange(200) % 50, np.array([0]), 50)
    with pytest.raises(ValueError, match="vocabulary of 50, but the model"):
        evaluate(model, small, BigramTable.from_corpus(small))


def test_a_model_whose_surprisals_do_not_vary_has_no_r(tokenizer, held_out, table):
    flat = build("gpt_neox", tokenizer)
    flat.hf.get_output_embeddings().weight.zero_()
    result = evaluate(flat, held_out, table)
    assert np.isnan([result.r, *result.r_interval, result.r_clipped]).all()
    assert result.cross_entropy == pytest.approx(np.log(VOCABULARY))


def test_text_that_shares_no_bigram_with_the_table_is_measured_without_r(model, unseen, table_of_other_text):
    result = evaluate(model, unseen, table_of_other_text)
    assert np.isinf(result.bigram_surprisals).all()
    assert np.isnan([result.r, *result.r_interval, result.r_clipped]).all()
    assert np.isfinite([result.cross_entropy, result.kl]).all()


def test_documents_of_single_tokens_have_nothing_to_predict(model, single_tokens, table):
    with pytest.raises(ValueError, match="Every document of the corpus 'words' is a single token"):
        evaluate(model, single_tokens, table)


def test_fewer_tokens_are_evaluated_when_asked(model, held_out, table):
    assert len(evaluate(model, held_out, table, max_tokens=200, sequence_length=32).surprisals) <= 192


def test_the_frame_has_each_token_with_its_next_one_and_their_surprisals_in_nats(study, sparse):
    found, full = study.evaluate(sparse), study.evaluate()
    frame = found.to_frame(full_model=full)
    columns = ["position", "document", "token", "next_token", "bigram_table", "surprisal", "full_model"]
    assert list(frame.columns) == columns and len(frame) == len(found.surprisals)
    for name, bits in {
        "bigram_table": found.bigram_surprisals,
        "surprisal": found.surprisals,
        "full_model": full.surprisals,
    }.items():
        np.testing.assert_allclose(frame[name], bits * np.log(2))
    ids, decode = study.held_out.ids, study.model.tokenizer.decode
    for row in frame.iloc[:: len(frame) // 50].itertuples():
        assert (row.token, row.next_token) == (decode([ids[row.position]]), decode([ids[row.position + 1]]))
        assert study.held_out.starts[row.document] <= row.position
        assert row.document + 1 == len(study.held_out.starts) or row.position + 1 < study.held_out.starts[row.document + 1]
    assert frame.surprisal.mean() == pytest.approx(found.cross_entropy)


def test_evaluations_of_other_tokens_make_no_frame_together(study):
    with pytest.raises(
        ValueError, match=r"^few was measured on other tokens; evaluate it on the same text, with the same max_tokens\.$"
    ):
        study.evaluate().to_frame(few=study.evaluate(max_tokens=256))
