"""Matrices that are mostly zeros are multiplied without them, with the same results, and afterwards the model is as it was."""

import copy
import threading

import pytest
import torch
from conftest import token_ids

from bigramlib.models.architectures import holder
from bigramlib.models.sparse import sparse_products


@pytest.fixture
def few(any_model):
    """The weights of a model, of which each matrix but the first, a tenth of which is left, keeps one in fifty."""
    generator = torch.Generator().manual_seed(0)
    draws = {name: torch.rand(weight.shape, generator=generator) for name, weight in any_model.maskable.items()}
    dense = next(iter(draws))
    return {name: any_model.maskable[name] * (draw < (0.1 if name == dense else 0.02)) for name, draw in draws.items()}


def replaced_modules(model):
    return [name for name in model.maskable if "forward" in vars(model.hf.get_submodule(holder(name)))]


def test_only_matrices_with_few_weights_are_sparse_and_passes_are_the_same(any_model, few):
    ids = token_ids(0, (3, 11))
    with any_model.replaced(few), torch.inference_mode():
        expected = any_model.hidden(ids)
        with sparse_products(any_model.hf, any_model.architecture):
            assert replaced_modules(any_model) == list(any_model.maskable)[1:]
            assert torch.allclose(any_model.hidden(ids), expected, atol=1e-5)
        assert torch.equal(any_model.hidden(ids), expected)
    assert not replaced_modules(any_model)


@pytest.mark.parametrize(("threads", "kind"), [(1000, torch.float32), (1, torch.float64)])
def test_with_many_threads_or_in_another_precision_all_products_are_dense(model, monkeypatch, threads, kind):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    hf = copy.deepcopy(model.hf).to(kind)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if name in model.maskable:
                weight[1:] = 0
                weight[:, 1:] = 0
    with sparse_products(hf, model.architecture):
        assert not any("forward" in vars(module) for module in hf.modules())


def test_what_was_skipped_around_it_stays_skipped(any_model, few):
    blocks = list(any_model.architecture.blocks)[:1]
    with any_model.replaced(few), any_model.skipping(blocks), torch.inference_mode():
        expected = any_model.hidden(token_ids())
        with sparse_products(any_model.hf, any_model.architecture):
            assert torch.allclose(any_model.hidden(token_ids()), expected, atol=1e-5)
        assert torch.equal(any_model.hidden(token_ids()), expected)


def test_weights_that_another_thread_has_in_the_model_meanwhile_are_not_multiplied(model):
    few = {name: torch.zeros_like(weight) for name, weight in model.maskable.items()}
    found = []

    def enter():
        with sparse_products(model.hf, model.architecture):
            found.append(replaced_modules(model))

    thread = threading.Thread(target=enter)
    with model.replaced(few):
        thread.start()
        thread.join(0.3)
        assert not found
    thread.join()
    assert found == [[]]
