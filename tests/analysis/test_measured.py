"""What was measured once is found again, bit by bit; whatever could alter a figure has it measured anew."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build
from pandas.testing import assert_frame_equal

from bigramlib import FunctionTarget, LanguageModel, Subnetwork, TokenCorpus, evaluate
from bigramlib.analysis import evaluate as evaluating
from bigramlib.analysis import measured
from bigramlib.analysis.lenses import lens_report
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.store import store_folder

SHORT = {"sequence_length": 32, "batch_size": 4}
"""Seven batches of the held-out text."""
FIRST = SHORT["sequence_length"] * SHORT["batch_size"]
RARE = VOCABULARY - 30
"""Tokens from this one on stand in no first batch."""


def files():
    return sorted(store_folder("measurements").iterdir())


def figures(found):
    """All figures of an evaluation, as bytes."""
    names = ("r", "r_interval", "r_clipped", "kl", "cross_entropy", "surprisals", "bigram_surprisals", "documents", "positions")
    return {name: np.asarray(getattr(found, name)).tobytes() for name in names}


@pytest.fixture
def own(tokenizer):
    """A model that a test may change."""
    return build("gpt_neox", tokenizer)


@pytest.fixture
def late(held_out):
    """The held-out text without rare tokens, and then a document of all tokens."""
    ids = held_out.ids[held_out.ids < RARE]
    return TokenCorpus(np.concatenate([ids, np.arange(VOCABULARY)[::-1]]), np.array([0, 300, len(ids)]), VOCABULARY)


@pytest.fixture
def counted(monkeypatch):
    """The number of passes over the model in each evaluation."""
    numbers = []
    windows, hidden = evaluating.windows_with_next_tokens, LanguageModel.hidden

    def beginning(*arguments):
        numbers.append(0)
        return windows(*arguments)

    def passing(self, ids):
        numbers[-1] += 1
        return hidden(self, ids)

    monkeypatch.setattr(evaluating, "windows_with_next_tokens", beginning)
    monkeypatch.setattr(LanguageModel, "hidden", passing)
    return numbers


@pytest.mark.parametrize("part", [None, "sparse", "half"])
def test_what_is_found_again_is_what_was_measured_bit_by_bit(own, held_out, table, part, request, counted):
    subnetwork = part and request.getfixturevalue(part)
    unkept = evaluate(own, held_out, table, subnetwork, keep=False, **SHORT)
    assert not store_folder("measurements").exists() or not files()
    first, again = (evaluate(own, held_out, table, subnetwork, **SHORT) for _ in range(2))
    assert figures(first) == figures(again) == figures(unkept)
    assert again.surprisals.dtype == np.float64 and type(again.kl) is float
    assert counted == [7, 7, 1] and len(files()) == 1


def test_every_architecture_is_found_again(any_model, held_out, table, counted):
    first, again = (evaluate(any_model, held_out, table, **SHORT) for _ in range(2))
    assert figures(first) == figures(again) and counted == [7, 1]


def test_a_subnetwork_that_is_applied_is_told_from_the_model_and_found_as_itself(own, held_out, table, sparse, counted):
    whole = evaluate(own, held_out, table, **SHORT)
    with sparse.applied(own):
        inside = evaluate(own, held_out, table, **SHORT)
    assert figures(evaluate(own, held_out, table, sparse, **SHORT)) == figures(inside) != figures(whole)
    assert figures(evaluate(own, held_out, table, Subnetwork.full(own), **SHORT)) == figures(whole)
    assert counted == [7, 7, 1, 1]


def test_masks_that_are_changed_in_place_are_measured_anew(own, held_out, table, half, counted):
    before = evaluate(own, held_out, table, half, **SHORT)
    next(iter(half.masks.values()))[:2] = True
    assert figures(evaluate(own, held_out, table, half, **SHORT)) != figures(before)
    assert counted == [7, 7]


def test_other_text_batches_and_tables_are_measured_for_themselves(own, held_out, table, counted):
    evaluate(own, held_out, table, **SHORT)
    other = TokenCorpus(held_out.ids, np.array([0, 130]), VOCABULARY)
    for text, settings in ((held_out, SHORT | {"batch_size": 5}), (held_out, SHORT | {"max_tokens": 600}), (other, SHORT)):
        unkept = evaluate(own, text, table, keep=False, **settings)
        assert figures(evaluate(own, text, table, **settings)) == figures(unkept)
    unkept = evaluate(own, held_out, table.unigram(), keep=False, **SHORT)
    assert figures(evaluate(own, held_out, table.unigram(), **SHORT)) == figures(unkept)
    assert 1 not in counted and len(files()) == 5


def embedding(model):
    return model.hf.get_input_embeddings().weight


def one_row(model):
    embedding(model).data[RARE, 0] += 1.0


def one_bit(model):
    numbers = embedding(model).data.numpy()
    numbers[RARE, 0] = np.nextafter(numbers[RARE, 0], np.float32(np.inf))


def two_rows(model):
    embedding(model).data[[RARE, RARE + 1]] = embedding(model).data[[RARE + 1, RARE]]


def another_parameter(model):
    weight = embedding(model).detach().clone()
    weight[RARE:, 0] *= 2
    model.hf.get_input_embeddings().weight = torch.nn.Parameter(weight, requires_grad=False)


def altered(ids, found):
    return torch.where((ids >= RARE)[..., None], found.roll(1, -1), found)


def a_hook(model):
    model.hf.get_input_embeddings().register_forward_hook(lambda _, given, found: altered(given[0], found))


def a_forward_pass(model):
    layer = model.hf.get_input_embeddings()
    original = layer.forward
    layer.forward = lambda ids: altered(ids, original(ids))


CHANGES = [one_row, one_bit, two_rows, another_parameter, a_hook, a_forward_pass]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_only_tokens_beyond_the_first_batch_is_seen(own, late, table, change, counted):
    before = evaluate(own, late, table, **SHORT)
    assert late.ids[: FIRST + 1].max() < RARE
    change(own)
    found = evaluate(own, late, table, **SHORT)
    unkept = evaluate(own, late, table, keep=False, **SHORT)
    assert figures(found) == figures(unkept)
    assert figures(found) != figures(before)
    assert np.array_equal(found.surprisals[: FIRST // 2], before.surprisals[: FIRST // 2])


def test_other_numbers_than_float32_and_modules_in_training_are_measured_every_time(own, held_out, table, counted):
    own.hf.double()
    for _ in range(2):
        evaluate(own, held_out, table, **SHORT)
    own.hf.float()
    own.hf.get_input_embeddings().train()
    for _ in range(2):
        evaluate(own, held_out, table, **SHORT)
    assert counted == [7] * 4 and not files()


def test_code_that_was_changed_by_hand_is_measured_for_itself(own, held_out, table, monkeypatch, counted):
    plain = evaluate(own, held_out, table, **SHORT)
    kind = type(own.final_norm)
    original = kind.forward
    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", lambda self, hidden: 2 * original(self, hidden))
        assert figures(evaluate(own, held_out, table, **SHORT)) != figures(plain)
    assert figures(evaluate(own, held_out, table, **SHORT)) == figures(plain)
    assert counted == [7, 7, 1]


def test_a_model_edited_while_it_is_measured_is_not_kept(own, held_out, table, monkeypatch):
    original = type(own).hidden

    def editing(self, ids):
        embedding(self).data[RARE] += 1.0
        return original(self, ids)

    monkeypatch.setattr(type(own), "hidden", editing)
    evaluate(own, held_out, table, **SHORT)
    assert not files()


def test_a_target_that_is_a_function_is_measured_every_time(own, held_out, counted):
    for level in (280, 140):
        uniform = FunctionTarget("uniform", lambda ids, level=level: torch.full((*ids.shape, VOCABULARY), 1 / level))
        assert evaluate(own, held_out, uniform, **SHORT).bigram_surprisals[0] == pytest.approx(np.log2(level))
    assert counted == [7, 7] and not files()


def test_what_takes_one_batch_is_not_kept(own, held_out, table):
    evaluate(own, held_out, table)
    assert not files()


@pytest.mark.parametrize("damage", ["cut", "another", "altered"])
def test_a_damaged_file_is_set_aside_and_measured_anew(own, held_out, table, sparse, damage, caplog, counted):
    evaluate(own, held_out, table, sparse, **SHORT)
    (other,) = files()
    first = evaluate(own, held_out, table, **SHORT)
    (file,) = set(files()) - {other}
    content = file.read_bytes()
    broken = {"cut": content[:-9], "another": other.read_bytes(), "altered": content[:-9] + b"\0" * 9}[damage]
    file.write_bytes(broken)
    assert figures(evaluate(own, held_out, table, **SHORT)) == figures(first)
    assert "is not a whole measurement" in caplog.text
    assert file.with_name(f"{file.name}.damaged").read_bytes() == broken
    assert figures(evaluate(own, held_out, table, **SHORT)) == figures(first)
    assert counted == [7, 7, 7, 1]


@pytest.mark.parametrize("whole", [True, False])
def test_a_store_that_cannot_be_written_keeps_nothing_and_is_no_error(own, held_out, table, whole, monkeypatch, counted):
    first = evaluate(own, held_out, table, **SHORT)
    (file,) = files()
    if not whole:
        file.write_bytes(b"damaged")

    for name in ("pathlib.Path.replace", "pathlib.Path.mkdir", "tempfile.mkdtemp"):
        monkeypatch.setattr(name, Mock(side_effect=PermissionError("read-only")))
    for _ in range(2):
        assert figures(evaluate(own, held_out, table, **SHORT)) == figures(first)
    assert counted == ([7, 1, 1] if whole else [7, 7, 7]) and files() == [file]


def test_a_file_that_cannot_be_read_just_now_is_left_as_it_is(own, held_out, table, monkeypatch):
    first = evaluate(own, held_out, table, **SHORT)
    (file,) = files()
    content = file.read_bytes()

    monkeypatch.setattr("bigramlib.tensor_file.safe_tensors", Mock(side_effect=OSError("a stale handle")))
    assert figures(evaluate(own, held_out, table, **SHORT)) == figures(first)
    assert file.read_bytes() == content and files() == [file]


def test_many_that_measure_the_same_at_once_leave_one_file(tokenizer, held_out, table):
    models = [build("gpt_neox", tokenizer) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda model: evaluate(model, held_out, table, **SHORT), models))
    assert all(figures(each) == figures(found[0]) for each in found)
    assert [file.suffix for file in files()] == [".safetensors"]


def moments_and_lenses(model, corpus, held_out, subnetwork=None, **settings):
    """Moments, and what lenses of them read, as bytes."""
    found = ResidualMoments.collect(model, corpus, subnetwork, **SHORT, **settings)
    report = lens_report(model, found, held_out, **SHORT, **settings)
    cross = {str(target): part.numpy().tobytes() for target, part in found.cross.items()}
    frame = {name: (column.dtype, column.to_numpy().tobytes()) for name, column in report.items()}
    return cross | {"mean": found.mean.numpy().tobytes(), "scatter": found.scatter.numpy().tobytes(), "report": frame}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "opt_350m"])
def test_moments_and_lenses_are_found_again_bit_by_bit(tokenizer, corpus, held_out, masked, name, monkeypatch):
    model = build(name, tokenizer)
    subnetwork = Subnetwork.layer(model, 0) if masked else None
    unkept = moments_and_lenses(model, corpus, held_out, subnetwork, keep=False)
    assert not files()
    assert moments_and_lenses(model, corpus, held_out, subnetwork) == unkept and len(files()) == 2
    monkeypatch.setattr(measured, "write_measurement", lambda *_: pytest.fail("measured"))
    assert moments_and_lenses(model, corpus, held_out, subnetwork) == unkept


@pytest.mark.parametrize("change", [one_row, a_hook])
def test_moments_and_lenses_of_a_model_that_was_changed_in_memory_are_measured_anew(own, late, held_out, change):
    before = moments_and_lenses(own, late, held_out)
    change(own)
    found = moments_and_lenses(own, late, held_out)
    assert found == moments_and_lenses(own, late, held_out, keep=False) != before


def test_lenses_of_other_maps_are_read_for_themselves(own, corpus, held_out):
    found = ResidualMoments.collect(own, corpus, **SHORT)
    for alpha in (1.0, 100.0):
        kept, unkept = (lens_report(own, found, held_out, alpha=alpha, keep=keep, **SHORT) for keep in (True, False))
        assert_frame_equal(kept, unkept, check_exact=True)
    assert len(files()) == 3


def test_large_moments_are_not_kept(own, corpus, monkeypatch):
    monkeypatch.setattr("bigramlib.analysis.residual.KEPT_NUMBERS", 4 * 3 * 16**2 - 1)
    ResidualMoments.collect(own, corpus, **SHORT)
    assert not files()
