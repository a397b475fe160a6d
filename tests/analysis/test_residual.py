"""Streamed moments are those of all activations at once, of the model as Hugging Face runs it, which stays untouched."""

import copy
import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CONFIGS, SHAPE, VOCABULARY, build, token_ids
from test_identity import with_first
from transformers import GPTNeoXConfig

from bigramlib import LanguageModel, Subnetwork, TokenCorpus
from bigramlib.analysis import residual
from bigramlib.analysis.residual import ResidualMoments, covariance_similarity, residual_stream
from bigramlib.models.bridge import bridged
from bigramlib.models.layers import recorded

PER_ARCHITECTURE = pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "opt_350m", "bloom", "granite"])
FURTHER = {"opt_350m": "model.decoder.project_in", "bloom": "transformer.word_embeddings_layernorm"}
"""The modules that token embeddings go through on their way into the stream, of the models that have one."""


def stacked(model, ids: np.ndarray, subnetwork: Subnetwork | None = None) -> torch.Tensor:
    """All activations at once, float64 [boundaries, tokens, d_model]."""
    batches = [stream for _, stream in residual_stream(model, ids, subnetwork)]
    return torch.cat(batches, dim=1).flatten(1, 2).double()


def embedded(model, ids: np.ndarray) -> torch.Tensor:
    """The token embeddings alone, float64 [tokens, d_model]."""
    tokens = model.hf.get_input_embeddings()(torch.from_numpy(ids).flatten())
    further = FURTHER.get(model.name.removeprefix("tiny "))
    return (model.hf.get_submodule(further)(tokens) if further else tokens).detach().double()


def moments_of(activations: torch.Tensor, tokens: torch.Tensor | None = None) -> ResidualMoments:
    """The moments of given activations, float64 [boundaries, tokens, d_model], with token embeddings [tokens, d_model]."""
    mean = activations.mean(1)
    centred = activations - mean[:, None]
    last = len(activations) - 1
    tokens = activations[0] if tokens is None else tokens
    targets = {"input": tokens - tokens.mean(0), last - 1: centred[last - 1], last: centred[last]}
    cross = {name: centred.mT @ target for name, target in targets.items()}
    counts = np.zeros(VOCABULARY, dtype=np.int64)
    return ResidualMoments(activations.shape[1], mean, centred.mT @ centred, cross, counts, None, "")


def test_the_stream_is_what_hugging_face_computes_up_to_the_final_norm(any_model, caplog):
    ids = token_ids(shape=(3, 9))
    [(batch, stream)] = residual_stream(any_model, ids.numpy(), batch_size=3)
    inputs = []
    handle = any_model.final_norm.register_forward_pre_hook(lambda _, inside: inputs.append(inside[0]))
    output = any_model.hf(ids, output_hidden_states=True)
    handle.remove()
    assert batch == slice(0, 3) and "residual stream" not in caplog.text
    for ours, theirs in zip(stream, [*output.hidden_states[:-1], inputs[0]], strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    read = any_model.unembed(any_model.final_norm(stream[-1]))
    assert torch.allclose(read, output.logits[..., :VOCABULARY], rtol=1e-4, atol=1e-4)


def test_the_stream_of_unusual_models_is_theirs_too_whoever_reads_it(unusual_model, caplog):
    ids = token_ids(shape=(3, 9))
    [(_, stream)] = residual_stream(unusual_model, ids.numpy())
    output = unusual_model.hf(ids, output_hidden_states=True)
    for ours, theirs in zip(stream, output.hidden_states[:-1], strict=False):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    read = unusual_model.unembed(unusual_model.final_norm(stream[-1]))
    assert torch.allclose(read, output.logits[..., :VOCABULARY], rtol=1e-4, atol=1e-4)
    told = unusual_model.architecture.model_type in ("biogpt", "openai-gpt")
    assert caplog.text.count("The residual stream of") == told


def by_hooks(model, ids: np.ndarray) -> torch.Tensor:
    """The residual stream as plain hooks on the model see it, [boundaries, batch, pos, d_model]."""
    with recorded(model.hf) as seen, torch.no_grad():
        model.hidden(torch.from_numpy(ids))
    return torch.stack(seen.stream)


def not_built(*_, **__):
    raise AssertionError("No adapter for this. Write one.")


def not_run(hf, tokenizer, architecture, name):
    bridge = bridged(hf, tokenizer, architecture, name)
    bridge.run_with_cache = not_built
    return bridge


def shifted(hf, tokenizer, architecture, name):
    wrong = copy.deepcopy(hf)
    with torch.no_grad():
        wrong.gpt_neox.layers[1].mlp.dense_4h_to_h.bias += 0.05
    return bridged(wrong, tokenizer, architecture, name)


BUILDING = "transformer_lens.model_bridge.sources._bridge_builder.build_bridge_from_module"
BRIDGING = "bigramlib.models.language_model.bridged"


@pytest.mark.parametrize(
    ("place", "fails", "why"),
    [
        (BUILDING, not_built, r"TransformerLens cannot show the model 'tiny gpt_neox' \(AssertionError: No adapter for this\)"),
        (BRIDGING, not_run, r"its bridge cannot be run \(AssertionError: No adapter for this\)"),
        (BRIDGING, shifted, "its bridge computes something else"),
    ],
)
def test_where_transformer_lens_fails_or_is_wrong_plain_hooks_are_used_and_that_is_said_once(
    model, half, monkeypatch, caplog, place, fails, why
):
    ids = token_ids(shape=(3, 9)).numpy()
    monkeypatch.setattr(place, fails)
    for subnetwork in (None, half):
        caplog.clear()
        batches = [stream for _, stream in residual_stream(model, ids, subnetwork, batch_size=2)]
        with half.applied(model) if subnetwork else nullcontext():
            assert torch.allclose(torch.cat(batches, dim=1), by_hooks(model, ids), atol=1e-6)
        message = f"^The residual stream of 'tiny gpt_neox' is read by plain hooks, not through TransformerLens: {why}.$"
        assert [bool(re.match(message, record.getMessage())) for record in caplog.records] == [True]


def test_plain_hooks_leave_nothing_on_the_model_between_batches(model, half, monkeypatch):
    monkeypatch.setattr(BUILDING, not_built)
    before = {name: parameter.clone() for name, parameter in model.hf.named_parameters()}
    for _ in residual_stream(model, token_ids(shape=(3, 9)).numpy(), half, batch_size=1):
        assert all(torch.equal(parameter, before[name]) for name, parameter in model.hf.named_parameters())
        assert not [hook for part in model.hf.modules() for hook in (*part._forward_hooks, *part._forward_pre_hooks)]


def test_plain_hooks_and_transformer_lens_leave_out_the_prefix(tokenizer, monkeypatch):
    plain = build("gpt_neox", tokenizer)
    begun = LanguageModel(plain.name, plain.hf, with_first(tokenizer, "\u0120cat"))
    ids = token_ids(shape=(3, 9)).numpy()
    [(_, through)] = residual_stream(begun, ids)
    monkeypatch.setattr(BUILDING, not_built)
    [(_, hooked)] = residual_stream(begun, ids)
    assert hooked.shape == (3, 3, 9, 16)
    assert torch.allclose(hooked, through, atol=1e-5)
    assert not torch.allclose(hooked[-1], by_hooks(plain, ids)[-1], atol=1e-2)


def test_transformer_lens_is_tried_out_once_on_few_tokens(model, monkeypatch):
    shapes, hidden = [], LanguageModel.hidden
    monkeypatch.setattr(LanguageModel, "hidden", lambda self, ids: shapes.append(tuple(ids.shape)) or hidden(self, ids))
    assert len(list(residual_stream(model, token_ids(shape=(5, 30)).numpy(), batch_size=2))) == 3
    assert shapes == [(1, 16)]


@PER_ARCHITECTURE
def test_moments_equal_those_of_all_activations_at_once(tokenizer, corpus, architecture):
    model = build(architecture, tokenizer)
    moments = ResidualMoments.collect(model, corpus, sequence_length=20, max_tokens=900, batch_size=4)
    current, _, _ = corpus.windows(20, 900)
    expected = moments_of(stacked(model, current), embedded(model, current))
    assert moments.n == current.size == 900
    assert moments.layers == 2 and set(moments.cross) == {"input", 1, 2}
    assert moments.token_counts.sum() == 900 and moments.token_counts[current[0, 0]] == (current == current[0, 0]).sum()
    assert torch.allclose(moments.mean, expected.mean, rtol=1e-5, atol=1e-5)
    for ours, theirs in [(moments.scatter, expected.scatter), *((moments.cross[t], expected.cross[t]) for t in expected.cross)]:
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
    assert torch.allclose(moments.scatter[1] / 899, torch.cov(stacked(model, current)[1].T), rtol=1e-4, atol=1e-4)


def test_the_target_of_the_map_to_the_input_is_the_token_embedding_without_positions(any_model, corpus):
    moments = ResidualMoments.collect(any_model, corpus, sequence_length=20, max_tokens=400)
    current = corpus.windows(20, 400)[0]
    tokens = embedded(any_model, current)
    boundaries = stacked(any_model, current)
    expected = moments_of(boundaries, tokens).cross["input"]
    assert torch.allclose(moments.cross["input"], expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    has_positions = any_model.architecture.model_type == "gpt2"
    assert torch.allclose(boundaries[0], tokens, atol=1e-4) != has_positions


def test_moments_do_not_depend_on_the_batch_size(any_model, corpus):
    one, eight = (ResidualMoments.collect(any_model, corpus, sequence_length=25, batch_size=size) for size in (1, 8))
    assert one.n == eight.n
    assert torch.allclose(one.mean, eight.mean, rtol=1e-5, atol=1e-5)
    for ours, theirs in [(one.scatter, eight.scatter), *((one.cross[t], eight.cross[t]) for t in one.cross)]:
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_a_large_common_offset_does_not_cost_precision(model, corpus, monkeypatch):
    activations = 1e8 + torch.randn(3, 40, 20, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batches = ((slice(begin, begin + 8), activations[:, begin : begin + 8]) for begin in range(0, 40, 8))
    monkeypatch.setattr(residual, "residual_stream", lambda *_: batches)
    moments = ResidualMoments.collect(model, corpus, sequence_length=20, max_tokens=800)
    expected = moments_of(activations.flatten(1, 2))
    assert torch.allclose(moments.scatter, expected.scatter, atol=1e-3)
    assert torch.allclose(moments.cross[2], expected.cross[2], atol=1e-3)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "bloom", "biogpt"])
def test_a_subnetwork_is_seen_and_the_model_left_as_it_was(tokenizer, corpus, architecture):
    model = build(architecture, tokenizer)
    before = {name: parameter.clone() for name, parameter in model.hf.named_parameters()}
    subnetwork = Subnetwork.empty(model)
    moments = ResidualMoments.collect(model, corpus, subnetwork, sequence_length=20)
    assert moments.subnetwork is subnetwork
    writes = moments.scatter[-1] - moments.scatter[0]
    assert writes.abs().max() < 1e-4 * moments.scatter[0].abs().max()
    full = ResidualMoments.collect(model, corpus, sequence_length=20)
    assert not torch.allclose(full.scatter[-1], full.scatter[0], rtol=0.1)
    assert {name for name, _ in model.hf.named_parameters()} == set(before)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.hf.named_parameters())
    hooks = [hook for module in model.hf.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    assert not hooks


def test_a_model_of_one_layer_has_its_embeddings_as_last_boundary_but_one(tokenizer, corpus, monkeypatch):
    config = GPTNeoXConfig(**(SHAPE | {"num_hidden_layers": 1}), intermediate_size=24, max_position_embeddings=64)
    monkeypatch.setitem(CONFIGS, "gpt_neox", config)
    moments = ResidualMoments.collect(build("gpt_neox", tokenizer), corpus, sequence_length=20)
    assert set(moments.cross) == {"input", 0, 1}
    assert torch.equal(moments.cross["input"], moments.cross[0])
    assert torch.allclose(moments.cross[0][1], moments.cross[1][0].T)


def test_text_shorter_than_a_sequence_is_refused(model):
    short = TokenCorpus(np.arange(50), np.array([0]), VOCABULARY, "short")
    with pytest.raises(ValueError, match="fewer than one sequence of 128"):
        ResidualMoments.collect(model, short)


def test_similarity_is_1_with_itself_symmetric_and_blind_to_scale_and_mean():
    activations = torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0)).double()
    activations[3] = 7.0 * activations[1] - 100.0
    similarity = covariance_similarity(moments_of(activations))
    assert np.allclose(np.diag(similarity), 1.0)
    assert np.allclose(similarity, similarity.T)
    assert similarity[1, 3] == pytest.approx(1.0)
    assert 0 < similarity[0, 1] < 1
    covariances = [np.cov(part.numpy().T) for part in activations]
    expected = (covariances[0] * covariances[2]).sum() / np.linalg.norm(covariances[0]) / np.linalg.norm(covariances[2])
    assert similarity[0, 2] == pytest.approx(expected)


def test_similarity_of_activations_in_disjoint_directions_is_0():
    moments = moments_of(torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0)).double())
    scatter = moments.scatter.clone()
    scatter[0, 3:], scatter[0, :, 3:], scatter[1, :3], scatter[1, :, :3] = 0, 0, 0, 0
    assert covariance_similarity(replace(moments, scatter=scatter))[0, 1] == 0
