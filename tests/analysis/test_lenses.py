"""Maps from moments equal a one-shot solve; what is read through them is what a plain loop reads."""

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build
from test_residual import PER_ARCHITECTURE, embedded, moments_of, stacked
from torch.nn import functional

from bigramlib import Subnetwork, TokenCorpus
from bigramlib.analysis.lenses import lens_report, ridge_maps, rotation, token_ranks
from bigramlib.analysis.residual import ResidualMoments

FAST = {"sequence_length": 20, "max_tokens": 600}


@pytest.fixture(scope="module")
def other_text():
    ids = (np.random.default_rng(1).random(900) ** 2 * 250).astype(np.int64)
    return TokenCorpus(ids, np.array([0, 401]), VOCABULARY, "other")


def rotated(degrees: list[float]) -> torch.Tensor:
    """A matrix that turns one plane by each angle, in a random orthonormal basis."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    turns = [torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])]) for a in angles]
    noise = torch.randn(2 * len(turns), 2 * len(turns), generator=torch.Generator().manual_seed(0)).double()
    basis = torch.linalg.qr(noise).Q
    return basis @ torch.block_diag(*turns) @ basis.T


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 50.0])
def test_ridge_maps_equal_a_least_squares_solve_on_all_activations(model, corpus, alpha):
    moments = ResidualMoments.collect(model, corpus, **FAST, batch_size=7)
    activations = stacked(model, corpus.windows(20, 600)[0])
    centred = activations - activations.mean(1, keepdim=True)
    penalty = alpha**0.5 * torch.eye(activations.shape[-1]).double()
    tokens = embedded(model, corpus.windows(20, 600)[0])
    for target, values in {"input": tokens - tokens.mean(0), 1: centred[1], 2: centred[2]}.items():
        for boundary in range(3):
            rows = torch.cat([centred[boundary], penalty])
            wanted = torch.cat([values, torch.zeros_like(penalty)])
            expected = torch.linalg.lstsq(rows, wanted).solution
            assert torch.allclose(ridge_maps(moments, target, alpha)[boundary], expected, atol=1e-4)


def test_a_map_to_another_boundary_is_refused():
    moments = moments_of(torch.randn(6, 30, 4).double())
    with pytest.raises(ValueError, match=r"no cross moments with boundary 2; choose one of \['input', 4, 5\]"):
        ridge_maps(moments, 2)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 135.0, 180.0])
def test_a_rotation_has_its_angle_whatever_its_scale_and_sense(degrees):
    assert rotation(rotated([degrees] * 3)) == pytest.approx(degrees, abs=1e-4)
    assert rotation(5.0 * rotated([-degrees] * 3)) == pytest.approx(degrees, abs=1e-4)


def test_rotation_is_the_median_angle():
    assert rotation(rotated([5.0, 20.0, 170.0])) == pytest.approx(20.0)


def test_directions_that_a_map_does_not_have_do_not_count():
    narrow = torch.zeros(10, 10, dtype=torch.float64)
    narrow[:4, :4] = rotated([30.0, 30.0])
    narrow += 1e-9 * torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).double()
    assert rotation(narrow, 4) == pytest.approx(30.0, abs=1e-3)
    assert rotation(rotated([5.0, 20.0, 170.0]), 6) == rotation(rotated([5.0, 20.0, 170.0]))


def test_the_map_between_activations_and_their_rotation_rotates_so():
    first = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).double()
    moments = moments_of(torch.stack([first, first @ rotated([40.0] * 3)]))
    maps = ridge_maps(moments, 1)
    assert rotation(maps[0]) == pytest.approx(40.0, abs=0.1)
    assert rotation(maps[1]) == 0.0
    assert rotation(ridge_maps(moments, "input")[1]) == pytest.approx(40.0, abs=0.1)


def test_a_direction_ranks_first_for_itself_and_scale_does_not_matter():
    rows = functional.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(0)))
    tokens = torch.arange(30)
    assert (token_ranks(0.01 * rows, rows, tokens) == 1).all()
    assert (token_ranks(-rows, rows, tokens) == 30).all()
    read = rows + torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    cosines = functional.cosine_similarity(read[:, None], rows[None], dim=-1)
    expected = [1 + int((row > row[token]).sum()) for token, row in enumerate(cosines)]
    assert token_ranks(read, rows, tokens).tolist() == expected


@pytest.mark.parametrize("nothing", [0.0, float("nan")])
def test_nothing_read_ranks_last(nothing):
    rows = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    assert (token_ranks(torch.full((4, 8), nothing), rows, torch.arange(4)) == 30).all()


def test_the_last_boundary_recovers_the_models_own_output_and_the_first_the_token(any_model, corpus, other_text):
    moments = ResidualMoments.collect(any_model, corpus, **FAST)
    report = lens_report(any_model, moments, other_text, **FAST, alpha=1e-6)
    first, last = report.iloc[0], report.iloc[-1]
    assert report.layer.tolist() == [0, 1, 2]
    assert last.r == pytest.approx(1.0, abs=1e-5)
    assert last.kl == pytest.approx(0.0, abs=1e-5)
    assert last.rotation_final == pytest.approx(0.0, abs=1e-3)
    assert first.rotation_input == pytest.approx(0.0, abs=1e-3)
    assert (report.kl[:-1] > 1e-3).all() and (report.r[:-1] < 0.999).all()
    assert np.allclose(report.cross_entropy - report.kl, last.cross_entropy, atol=1e-5)
    assert first.recall_1 > (0.8 if any_model.architecture.model_type == "gpt2" else 0.999)  # positions are in the way
    assert (report.dot_recall_1 <= report.dot_recall_5).all() and (report.dot_recall_5 <= report.dot_recall_10).all()
    assert (report.recall_1 <= report.recall_5).all() and (report.recall_5 <= report.recall_10).all()


def test_the_ends_of_unusual_models_are_read_through_their_own_modules(unusual_model, corpus, other_text):
    moments = ResidualMoments.collect(unusual_model, corpus, **FAST)
    report = lens_report(unusual_model, moments, other_text, **FAST, alpha=1e-6)
    first, last = report.iloc[0], report.iloc[-1]
    assert last.r == pytest.approx(1.0, abs=1e-5) and last.kl == pytest.approx(0.0, abs=1e-5)
    assert last.rotation_final == pytest.approx(0.0, abs=1e-3)
    if unusual_model.name != "tiny opt_350m":  # narrow embeddings beside wide positions
        assert first.rotation_input == pytest.approx(0.0, abs=1e-3)
        assert first.recall_1 > (0.8 if unusual_model.name in ("tiny opt", "tiny openai-gpt") else 0.999)
    assert (report.kl[:-1] > 0).all() and (report.r[:-1] < 0.999).all()


@PER_ARCHITECTURE
def test_the_report_is_what_a_plain_loop_measures(tokenizer, corpus, other_text, architecture):
    model = build(architecture, tokenizer)
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.5 for name, weight in model.maskable.items()}
    subnetwork = Subnetwork(masks, model.architecture)
    moments = ResidualMoments.collect(model, corpus, subnetwork, **FAST)
    report = lens_report(model, moments, other_text, **FAST, batch_size=3)
    current, following, valid = (torch.from_numpy(part) for part in other_text.windows(20, 600))
    with subnetwork.applied(model):
        own = model.unembed(model.hidden(current))[valid].double().log_softmax(-1)
    activations = stacked(model, current.numpy(), subnetwork)[1]
    fitted_ids = corpus.windows(20, 600)[0]
    fitted, tokens = stacked(model, fitted_ids, subnetwork), embedded(model, fitted_ids)
    maps = [ridge_maps(moments_of(fitted, tokens), target)[1] for target in (2, "input")]
    targets = (fitted[2].mean(0), tokens.mean(0))
    final, read = (mean + (activations - fitted[1].mean(0)) @ m for mean, m in zip(targets, maps, strict=True))
    lens = model.unembed(model.final_norm(final.float()))[valid.flatten()].double().log_softmax(-1)
    surprisals = [-part.gather(1, following[valid][:, None])[:, 0].numpy() for part in (own, lens)]
    row = report.iloc[1]
    assert row.r == pytest.approx(np.corrcoef(*surprisals)[0, 1], abs=1e-4)
    assert row.cross_entropy == pytest.approx(functional.cross_entropy(lens, own.exp()).item(), abs=1e-4)
    assert row.kl == pytest.approx(functional.kl_div(lens, own, reduction="batchmean", log_target=True).item(), abs=1e-4)
    embedding = embedded(model, np.arange(VOCABULARY))
    centre = tokens.mean(0)
    cosines = functional.normalize(read - centre) @ functional.normalize(embedding - centre).T
    for measure, scores in {"recall": cosines, "dot_recall": read @ embedding.T}.items():
        for k in (1, 5, 10):
            hits = (scores.topk(k).indices == current.flatten()[:, None]).any(1)
            assert row[f"{measure}_{k}"] == pytest.approx(hits.double().mean().item(), abs=0.005)
        assert row[f"{measure}_1_low"] <= row[f"{measure}_1"] <= row[f"{measure}_1_high"]
    assert (row.dot_recall_1 < row.recall_1) == (architecture != "bloom")  # all rows of which are about as long
    assert row.rotation_final == pytest.approx(rotation(maps[0]), abs=0.1)
    width = model.hf.get_input_embeddings().weight.shape[1]
    assert row.rotation_input == pytest.approx(rotation(maps[1], width), abs=0.1)


def test_an_empty_subnetwork_turns_nothing_and_hides_nothing(model, corpus, other_text):
    moments = ResidualMoments.collect(model, corpus, Subnetwork.empty(model), **FAST)
    report = lens_report(model, moments, other_text, **FAST)
    assert (report.recall_1 == 1).all()
    assert (report.kl < 1e-2).all()
    assert (report.filter(like="rotation") < 1e-3).all(axis=None)


def test_reading_leaves_the_model_as_it_was(model, corpus, other_text):
    before = {name: parameter.clone() for name, parameter in model.hf.named_parameters()}
    subnetwork = Subnetwork.full(model).random_like(0)
    lens_report(model, ResidualMoments.collect(model, corpus, subnetwork, **FAST), other_text, **FAST)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.hf.named_parameters())


def test_reading_the_text_that_was_fitted_is_refused(model, corpus):
    moments = ResidualMoments.collect(model, corpus, **FAST)
    with pytest.raises(ValueError, match="fitted on this very text; read them on other text"):
        lens_report(model, moments, corpus, **FAST)


def test_shares_have_intervals_within_0_and_1_and_none_on_one_document(model, corpus, other_text):
    moments = ResidualMoments.collect(model, corpus, **FAST)
    report = lens_report(model, moments, other_text, **FAST)
    bounds = report.filter(regex="recall_1_(low|high)")
    assert bounds.ge(0).all(axis=None) and bounds.le(1).all(axis=None)
    one = lens_report(model, moments, TokenCorpus(other_text.ids, np.array([0]), VOCABULARY, "one"), **FAST)
    assert one.filter(regex="_(low|high)$").isna().all(axis=None)
    assert one.drop(columns=one.filter(regex="_(low|high)$").columns).notna().all(axis=None)
