"""Every type of causal language model in transformers does here what it should, or is refused in a sentence."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import token_ids
from searches import QUICK

from bigramlib import LanguageModel, Subnetwork, find_subnetwork, load_model
from bigramlib.__main__ import main
from bigramlib.models import every_architecture
from bigramlib.models.architectures import holder
from bigramlib.models.components import ATTENTION_COMPONENTS, WRITING_COMPONENTS
from bigramlib.models.discovery import decoder_of
from bigramlib.models.every_architecture import outcome
from bigramlib.models.layers import recorded
from bigramlib.models.self_check import SHARED_NORMS
from bigramlib.models.sparse import sparse_products
from bigramlib.models.tiny import CAUSAL_TYPES, tiny_config, tiny_model
from bigramlib.training.gates import Gates

TABLE = (Path(__file__).parents[2] / "figures" / "architectures.md").read_text().splitlines()
ROWS = {row[0]: row for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE[2:]) if row}
TRIED = [kind for kind in ROWS if kind in CAUSAL_TYPES]
VARIANTS = {
    "opt without final norm": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "falcon, one key-value head": ("falcon", {"multi_query": True}),
    "falcon, a key-value head for each": ("falcon", {"multi_query": False, "alibi": True, "parallel_attn": False}),
    "falcon, grouped": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "cohere, norms of queries and keys": ("cohere", {"use_qk_norm": True}),
    "stablelm, norms of queries and keys": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "gpt_neox, sequential": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "granitemoehybrid, experts": ("granitemoehybrid", {"num_local_experts": 4}),
    "gpt_bigcode, a key-value head for each": ("gpt_bigcode", {"multi_query": False}),
    "gemma3_text, capped": ("gemma3_text", {"final_logit_softcapping": 5.0}),
    "gemma4_text, dense": ("gemma4_text", {"hidden_size_per_layer_input": 0}),
    "gemma4_text, experts": (
        "gemma4_text",
        {"hidden_size_per_layer_input": 0, "enable_moe_block": True, "top_k_experts": 2},
    ),
}
"""Types with other settings, as some released models have them."""
FUSED = [
    *("bloom", "codegen", "fuyu", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "mpt", "openai-gpt"),
    *("persimmon", "phi3", "phi4_multimodal", *(name for name in VARIANTS if name.startswith(("falcon", "gpt_bigcode")))),
]
"""Types that have q, k and v in one matrix."""
GATED = ["aria_text", "glm", "granitemoe", "granitemoehybrid", "llama", "llama4_text", "mixtral", "phi3", "qwen3_moe"]
"""Types whose MLPs have gates, with every order and name of their matrices but that of gpt_oss, which adds 1 to its mlp in."""
REASONS = {
    "bart": r"attention to the output of an encoder, which is never run here \(.*encoder_attn.k_proj.weight.\)$",
    "bert": r"the layers of an encoder such as BERT, where decoders are needed \(.*self.query.weight.\)$",
    "bitnet": "a head cannot be masked by itself, since the weights that it reads by also change what others write.$",
    "deepseek_v3": r"low-rank \(latent\) attention, some of whose matrices belong to all heads together \(.*q_a_proj",
    "diffllama": "a head cannot be masked by itself, since the weights that it reads by also change what others write.$",
    "mamba": r"state-space, recurrent or convolution layers \('backbone.layers.0.mixer.A_log'\)$",
    "modernbert-decoder": "logits of 'modernbert-decoder' are not its unembedding of the last hidden state.$",
    "pegasus": "attention to the output of an encoder, which is never run here",
}
"""What some types are told."""
SOME = list(range(5, 13))
"""Dimensions of MLPs, of which one at least is not always 0."""


@pytest.fixture(scope="module", params=[kind for kind in TRIED if ROWS[kind][1] == "yes"] + list(VARIANTS))
def every_model(request, tokenizer):
    kind, changed = VARIANTS.get(request.param, (request.param, {}))
    return tiny_model(tiny_config(kind, **changed), tokenizer)


def test_components_cover_each_weight_of_every_type_exactly_once(every_model):
    covered = {name: torch.zeros_like(weight) for name, weight in every_model.maskable.items()}
    for part in every_model.architecture.components:
        matrix = part.matrix(covered[part.parameter])
        index = part.index(matrix)
        matrix.index_add_(part.axis, index, torch.ones_like(matrix).index_select(part.axis, index))
    assert all((count == 1).all() for count in covered.values())


def units_of(parts) -> dict[str, list[tuple]]:
    """A head, a key-value head and some dimensions of each kind of MLP: the components and groups that belong to them."""
    heads = {part.name: len(part.units) for part in parts}
    shared = heads.get("o", 0) // heads.get("k", 1)
    found: dict[str, list[tuple]] = {}
    for part in parts:
        if part.name not in ATTENTION_COMPONENTS:
            found.setdefault("dimensions" if part.expert is None else "dimensions of experts", []).append((part, SOME))
        elif part.name in ("k", "v"):
            found.setdefault("key-value head", []).append((part, [0]))
        else:
            found.setdefault("head", []).append((part, [1]))
            if part.name == "o":
                found.setdefault("key-value head", []).append((part, list(range(shared))))
    return found


@pytest.fixture
def without_shared_norms(every_model):
    """Norms of queries and keys over all heads scale heads by one another: they are left out."""
    norms = [module for name, module in every_model.hf.named_modules() if SHARED_NORMS.search(name)]
    hooks = [norm.register_forward_hook(lambda _, inputs, __: inputs[0]) for norm in norms]
    yield
    for hook in hooks:
        hook.remove()


@torch.no_grad()
@pytest.mark.usefixtures("without_shared_norms")
def test_what_a_unit_reads_matters_until_what_it_writes_is_dropped(every_model):
    ids = token_ids()

    def without(drops):
        weights = {part.parameter: every_model.maskable[part.parameter].clone() for part, _ in drops}
        for part, groups in drops:
            part.fill_(weights[part.parameter], 0.0, groups)
        return every_model.hidden(ids, weights)

    whole = without([])
    for layer in range(every_model.architecture.layers):
        for unit, drops in units_of(every_model.architecture.of_layer(layer)).items():
            writing = [(part, groups) for part, groups in drops if part.name in WRITING_COMPONENTS]
            reading = [(part, groups) for part, groups in drops if part.name not in WRITING_COMPONENTS]
            assert writing and reading
            silent = without(writing)
            effect = (whole - silent).abs().max()
            assert effect > 1e-3 and (whole - without(reading)).abs().max() > 1e-3, (layer, unit)
            assert (silent - without(drops)).abs().max() < 1e-3 * effect + 1e-5, (layer, unit)


@torch.no_grad()
@pytest.mark.parametrize("every_model", FUSED, indirect=True)
def test_queries_keys_and_values_are_where_the_layout_says_in_their_common_matrix(every_model):
    def changed(part) -> torch.Tensor:
        """Which positions change if a head computes something else at the first one."""

        def push(_, __, output):
            output = output.clone()
            output[:, 0, part.units[0]] += torch.linspace(-3, 3, part.units.shape[1])
            return output

        hook = every_model.hf.get_submodule(holder(part.parameter)).register_forward_hook(push)
        pushed = every_model.hidden(token_ids())
        hook.remove()
        return (pushed - every_model.hidden(token_ids())).abs().amax((0, 2)) > 1e-4

    q, k, v = (changed(part) for part in every_model.architecture.of_layer(0) if part.name in "qkv")
    assert not q.any()  # there is one key to attend to, whatever the query is
    assert not k[0] and k.any()  # later queries see another key
    assert v[0]


@torch.no_grad()
@pytest.mark.parametrize("every_model", GATED, indirect=True)
def test_what_is_called_a_gate_goes_through_the_activation_function_and_mlp_in_does_not(every_model):
    def negated(name):
        weights = dict(every_model.maskable)
        for part in every_model.architecture.components:
            if part.name == name:
                sign = torch.ones_like(weights[part.parameter])
                part.fill_(sign, -1.0)
                weights[part.parameter] = weights[part.parameter] * sign
        return every_model.hidden(token_ids(), weights)

    assert torch.allclose(negated("mlp in"), negated("mlp out"), atol=1e-4)
    assert not torch.allclose(negated("mlp gate"), negated("mlp out"), atol=1e-3)


def test_gates_of_every_type_compute_what_autograd_does(every_model, table, corpus):
    gates = Gates(every_model, QUICK)
    gates.begin_step(1.0)
    ids = torch.from_numpy(corpus.ids[:32]).long().view(2, 16)
    opened = {name: torch.full_like(weight, 0.5).requires_grad_() for name, weight in every_model.maskable.items()}
    plain = every_model.hidden(ids, {name: gate * every_model.maskable[name] for name, gate in opened.items()})
    hidden = gates.hidden(ids)
    assert torch.allclose(hidden, plain, atol=1e-4)
    divergence = table.bind(every_model)
    divergence(ids, hidden).sum().backward()
    (divergence(ids, plain).sum() + gates.penalty_per_weight * sum(gate.sum() for gate in opened.values())).backward()
    largest = max(gate.grad.abs().max() for gate in opened.values())
    for block in gates.blocks.values():
        for name, moment in block.split(block.optimizer.state()["exp_avg"]):
            assert torch.allclose(moment, 0.1 * 0.25 * opened[name].grad, rtol=1e-3, atol=1e-5 * float(largest))


@torch.no_grad()
def test_skipping_a_block_of_any_type_is_dropping_its_weights(every_model):
    whole = every_model.hidden(token_ids())
    for block, names in every_model.architecture.blocks.items():
        expected = every_model.hidden(token_ids(), {name: torch.zeros_like(every_model.maskable[name]) for name in names})
        with every_model.skipping([block]):
            assert torch.allclose(every_model.hidden(token_ids()), expected, atol=1e-4), block
        assert not torch.allclose(whole, expected, atol=1e-3), block
    assert torch.equal(every_model.hidden(token_ids()), whole)


@torch.no_grad()
def test_few_weights_of_every_type_compute_what_they_do_among_zeros(every_model):
    generator = torch.Generator().manual_seed(0)
    few = {
        name: weight * (torch.rand(weight.shape, generator=generator) < 0.04) for name, weight in every_model.maskable.items()
    }
    with every_model.replaced(few):
        expected = every_model.hidden(token_ids())
        with sparse_products(every_model.hf, every_model.architecture):
            assert torch.allclose(every_model.hidden(token_ids()), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [2**22, 400])
def test_logits_of_every_type_are_those_of_transformers(every_model, monkeypatch, at_once):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", at_once)
    ids, hidden = token_ids(), every_model.hidden(token_ids())
    own = every_model.hf(ids).logits
    assert torch.allclose(every_model.unembed(hidden), own, atol=1e-4)
    assert torch.allclose(every_model.log_partition(hidden), own.logsumexp(-1), atol=1e-4)
    assert torch.allclose(every_model.logits_of(hidden, ids), own.gather(-1, ids[..., None])[..., 0], atol=1e-4)


@torch.no_grad()
def test_the_residual_stream_of_every_type_ends_in_the_last_hidden_state(every_model):
    with recorded(every_model.hf) as seen:
        hidden = decoder_of(every_model.hf)[1](token_ids()).last_hidden_state
    assert len(seen.stream) == every_model.architecture.layers + 1
    assert torch.allclose(every_model.final_norm(seen.stream[-1]), hidden, atol=1e-4)


def test_a_search_in_every_type_gives_a_subnetwork_that_can_be_used_and_kept(every_model, table, corpus, tmp_path):
    found = find_subnetwork(every_model, table, corpus, replace(QUICK, steps=3))
    masked = {name: weight * found.masks[name] for name, weight in every_model.maskable.items()}
    with torch.no_grad(), found.applied(every_model):
        assert torch.equal(every_model.hidden(token_ids()), every_model.hidden(token_ids(), masked))
    assert 0 < found.kept < found.total
    found.save(tmp_path / "found.safetensors")
    loaded = Subnetwork.load(tmp_path / "found.safetensors")
    assert loaded.hash == found.hash and loaded.architecture == every_model.architecture


def test_a_saved_model_of_every_type_is_the_same_model_again(every_model, tmp_path):
    every_model.hf.save_pretrained(tmp_path)
    every_model.tokenizer.save_pretrained(tmp_path)
    again = load_model(str(tmp_path))
    assert again.hash == every_model.hash and again.architecture == every_model.architecture
    assert torch.allclose(again.hidden(token_ids()), every_model.hidden(token_ids()), atol=1e-5)


@torch.no_grad()
def test_every_type_is_sampled_from_as_it_predicts(every_model):
    ids, draws = token_ids(), torch.Generator().manual_seed(0)
    drawn = every_model.sampler.draw(ids, 4, torch.Generator().manual_seed(0))
    for token in drawn.T:
        reached = every_model.hf(ids).logits[:, -1].softmax(-1, dtype=torch.float64).cumsum(-1)
        expected = torch.searchsorted(reached, torch.rand(2, 1, generator=draws, dtype=torch.float64))
        assert torch.equal(token[:, None], expected)
        ids = torch.cat([ids, expected], dim=1)
    assert every_model.sample("the cat", tokens=4).startswith("the cat")


@pytest.mark.parametrize("kind", TRIED)
def test_the_committed_table_is_true_of_every_type(kind, tokenizer):
    _, loads, heads, experts, bridge, note = ROWS[kind]
    found = outcome(kind, tokenizer)
    assert (found.loads, found.heads, found.experts) == (loads, heads, experts)
    assert found.note.split(" (")[0] == note.split(" (")[0] and found.note.count(". ") == 0
    assert found.bridge == bridge or bridge == "no"  # TransformerLens may come to know more types


@pytest.mark.parametrize("kind", REASONS)
def test_a_type_that_cannot_be_used_is_told_why(kind, tokenizer):
    with pytest.raises(ValueError, match=REASONS[kind]):
        tiny_model(tiny_config(kind), tokenizer)


def test_the_command_prints_the_table_and_no_type_ends_it(monkeypatch, capsys):
    def without_odd(kind):
        if kind == "odd":
            raise AttributeError("it has no size. Give it one")
        return tiny_config(kind)

    monkeypatch.setattr(every_architecture, "CAUSAL_TYPES", ("gpt2", "mamba", "odd"))
    monkeypatch.setattr(every_architecture, "tiny_config", without_odd)
    monkeypatch.setattr(LanguageModel, "bridge", lambda model: lambda ids: model.hf(ids).logits + 1)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["bigramlib", "architectures"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| type | loads | heads | experts | bridge | note |"
    assert lines[2] == "| gpt2 | yes | 4 x 8 |  | differs |  |"
    assert lines[3].startswith("| mamba | no |  |  |  | it has state-space")
    assert lines[4].endswith("| not tried: transformers makes no tiny model of it (it has no size) |")
    assert lines[-1] == "1 of 3 types load."
