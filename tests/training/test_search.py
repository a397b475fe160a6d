"""Mask training is the paper's mathematics, stops when it should, and gives the same bits again."""

import copy
import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build
from torch.func import functional_call
from torch.nn import functional

from bigramlib import ModelTarget, SparsifyConfig, Subnetwork, TokenCorpus, find_subnetwork
from bigramlib.store import store_folder
from bigramlib.training import search as training
from bigramlib.training.batches import batches, flattened_sample
from bigramlib.training.config import fast_precision
from bigramlib.training.gates import Gates
from bigramlib.training.loop import train
from bigramlib.training.run import Run, SavedState
from bigramlib.training.step import OptimizerStep
from bigramlib.training.stopping import CHECK_EVERY, count_gates, is_unstable


def trained(model, target, corpus, config) -> tuple[Subnetwork, list[float]]:
    """One run from its beginning: the subnetwork and the cross-entropy of each step."""
    run = Run()
    return train(model, target, corpus, config, run, None, SavedState(store_folder("unfinished") / "run")), run.losses


QUICK = SparsifyConfig(sparsity_penalty=1.0, steps=30, batch_size=2, sequence_length=16, learning_rate=0.05)


@pytest.mark.parametrize("logits_at_once", [2**22, 1])
@pytest.mark.parametrize("flattening", [None, 0.5])
def test_steps_equal_hand_written_ones(tokenizer, corpus, table, flattening, logits_at_once, monkeypatch):
    monkeypatch.setattr("bigramlib.models.logits.LOGITS_AT_ONCE", logits_at_once)
    model = build("llama", tokenizer)
    model.maskable["model.layers.0.mlp.up_proj.weight"][0, :5] = 0.0
    config = replace(QUICK, steps=4, flattening=flattening, final_beta=16.0)
    found, losses = trained(model, table, corpus, config)
    draw = batches(corpus, config, np.random.default_rng([config.seed, 0]))
    logits = {name: torch.where(weight == 0, -1e6, 0.0).requires_grad_() for name, weight in model.maskable.items()}
    n = sum(weight.numel() for weight in logits.values())
    optimizer = torch.optim.AdamW(logits.values(), lr=config.learning_rate)
    beta, expected_losses = 1.0, []
    for _ in range(4):
        ids, weights = draw()
        gates = {name: torch.sigmoid(beta * value) for name, value in logits.items()}
        masked = {name: weight * gates[name] for name, weight in model.maskable.items()}
        own = functional_call(model.hf, masked, (ids,)).logits[..., :VOCABULARY]
        dense = torch.from_numpy(table.probabilities(ids.flatten().numpy())).float()
        kl = functional.kl_div(own.log_softmax(-1).flatten(0, 1), dense, reduction="none").sum(-1)
        loss = (kl * weights.flatten()).sum() + config.sparsity_penalty / n * sum(gate.sum() for gate in gates.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        beta *= 2.0
        cross_entropy = -(dense * own.log_softmax(-1).flatten(0, 1)).sum(-1)
        expected_losses.append((cross_entropy * weights.flatten()).sum().item())
    assert np.allclose(losses, expected_losses, rtol=1e-4)
    agreement = [(found.masks[name] == (value > 0)).float().mean() for name, value in logits.items()]
    assert min(agreement) > 0.99
    assert not found.masks["model.layers.0.mlp.up_proj.weight"][0, :5].any()


def test_a_planted_subnetwork_is_found(tokenizer):
    model = build("gpt_neox", tokenizer)
    planted = Subnetwork.full(model).random_like(0)
    generator = torch.Generator().manual_seed(1)
    masks = {name: torch.rand(mask.shape, generator=generator) < 0.15 for name, mask in planted.masks.items()}
    planted = Subnetwork(masks, model.architecture)
    teacher = build("gpt_neox", tokenizer)
    for name, weight in teacher.maskable.items():
        weight *= masks[name]
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 4000)
    text = TokenCorpus(ids, np.array([0]), VOCABULARY)
    config = SparsifyConfig(
        sparsity_penalty=0.3, steps=400, batch_size=4, sequence_length=32, learning_rate=0.02, flattening=None
    )
    found = find_subnetwork(model, ModelTarget(teacher), text, config)
    hit = (found & planted).kept
    chance = found.kept * planted.kept / planted.total
    assert found.density < 0.4
    assert hit > 2.5 * chance
    assert found.history().kl.iloc[-1] < 0.3 * found.history().kl.iloc[0]


def test_an_overwhelming_penalty_collapses_the_mask_and_stops(model, table, corpus):
    config = replace(QUICK, sparsity_penalty=1e6, steps=2000)
    found = find_subnetwork(model, table, corpus, config)
    assert found.kept == 0
    assert found.provenance["converged"]
    assert found.provenance["steps"] < 2000


def test_too_few_steps_are_recorded_as_not_converged(model, table, corpus):
    assert not find_subnetwork(model, table, corpus, replace(QUICK, steps=2, final_beta=1.0)).provenance["converged"]


def test_same_seed_same_bits_another_seed_other_bits(model, table, corpus, monkeypatch, tmp_path):
    first = find_subnetwork(model, table, corpus, QUICK)
    other = find_subnetwork(model, table, corpus, replace(QUICK, seed=1))
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    again = find_subnetwork(model, table, corpus, QUICK)
    assert first.hash == again.hash != other.hash
    assert first.provenance == again.provenance


def test_asking_again_returns_the_stored_subnetwork_and_any_change_trains_another(model, table, corpus, monkeypatch):
    stored = find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    assert find_subnetwork(model, table, corpus, QUICK).hash == stored.hash
    for changed in ((model, table.unigram(), corpus, QUICK), (model, table, corpus, replace(QUICK, sparsity_penalty=2.0))):
        with pytest.raises(pytest.fail.Exception, match="trained"):
            find_subnetwork(*changed)


def test_training_leaves_the_model_as_it_was(any_model, table, corpus):
    before = {name: parameter.clone() for name, parameter in any_model.hf.named_parameters()}
    find_subnetwork(any_model, table, corpus, replace(QUICK, steps=3))
    assert all(torch.equal(parameter, before[name]) for name, parameter in any_model.hf.named_parameters())
    assert not any(parameter.requires_grad for parameter in any_model.hf.parameters())


def test_weights_that_are_not_finite_stop_training_with_a_clear_error(tokenizer, table, corpus):
    model = build("gpt_neox", tokenizer)
    next(iter(model.maskable.values()))[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"1 of the weights 'gpt_neox.* of 'tiny gpt_neox' are not finite"):
        find_subnetwork(model, table, corpus, QUICK)


def test_a_corpus_of_another_vocabulary_is_refused(model, table):
    with pytest.raises(ValueError, match="vocabulary of 1000, but the model 'tiny gpt_neox' has 280 tokens"):
        find_subnetwork(model, table, TokenCorpus(np.arange(900), np.array([0]), 1000), QUICK)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sparsity_penalty", -1.0, r"sparsity_penalty \(lambda\) is -1.0; it must be zero or a positive number"),
        ("sparsity_penalty", float("inf"), r"Subnetwork.full or Subnetwork.empty"),
        ("steps", 0, "steps is 0; it must be a whole number, at least 1"),
        ("learning_rate", 0.0, "learning_rate is 0.0; it must be a positive number"),
        ("final_beta", 0.5, "final_beta is 0.5"),
        ("flattening", 1.5, "flattening is 1.5"),
    ],
)
def test_a_config_out_of_range_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        SparsifyConfig(**{field: value})


def test_equal_penalties_make_equal_runs_whatever_their_type(model, table, corpus, monkeypatch):
    found = find_subnetwork(model, table, corpus, replace(QUICK, sparsity_penalty=1.0))
    monkeypatch.setattr(training, "train", None)
    assert find_subnetwork(model, table, corpus, replace(QUICK, sparsity_penalty=1)).kept == found.kept


def test_the_suited_schedule_follows_the_target_and_the_size(model, table, monkeypatch):
    assert SparsifyConfig.suited(model, table, 3.0, seed=2) == SparsifyConfig(sparsity_penalty=3.0, seed=2)
    assert SparsifyConfig.suited(model, ModelTarget(model)).flattening is None
    monkeypatch.setattr("bigramlib.training.config.SMALL_MODEL", 10)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    assert SparsifyConfig.suited(model, table).precision == "float32"
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    middle = SparsifyConfig.suited(model, table)
    assert middle.attention and middle.precision == "bfloat16" and middle.flattening is not None
    monkeypatch.setattr("bigramlib.training.config.LARGE_MODEL", 10)
    large = SparsifyConfig.suited(model, table)
    assert not large.attention and large.precision == "bfloat16" and large.flattening is not None
    pruning = SparsifyConfig.suited(model, ModelTarget(model))
    assert pruning.attention and pruning.layers is None and pruning.flattening is None


@pytest.mark.parametrize(
    ("device", "units", "precision"),
    [("cuda", "AVX2", "bfloat16"), ("cpu", "AVX512", "bfloat16"), ("cpu", "AVX2", "float32"), ("mps", "AVX512", "float32")],
)
def test_bfloat16_is_chosen_where_it_is_fast(monkeypatch, device, units, precision):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: units)
    assert fast_precision(torch.device(device)) == precision


def test_a_subnetwork_knows_what_was_searched_for_it(model, table, corpus):
    everywhere = find_subnetwork(model, table, corpus, replace(QUICK, steps=1))
    first_mlp = find_subnetwork(model, table, corpus, replace(QUICK, steps=1, attention=False, layers=1))
    assert everywhere.searched() == everywhere.total
    assert first_mlp.searched() == Subnetwork.mlp(model, 0).kept
    blocks = model.architecture.blocks
    searched = [block for block, names in blocks.items() if set(names) <= set(model.architecture.within(1, attention=False))]
    assert set(blocks) - set(first_mlp.empty_blocks) <= set(searched)


def test_blocks_dropped_from_the_subnetwork_are_not_dropped_from_a_target_that_is_the_same_model(model, corpus, monkeypatch):
    config = replace(QUICK, steps=1, attention=False, flattening=None)
    itself = find_subnetwork(model, ModelTarget(model), corpus, config)
    twin = find_subnetwork(model, ModelTarget(replace(model, hf=copy.deepcopy(model.hf))), corpus, replace(config, attempts=2))
    assert itself.provenance["history"] == twin.provenance["history"]


def test_the_paper_schedule_is_the_release_recipe():
    config = SparsifyConfig.paper(50.0)
    assert (config.steps, config.batch_size, config.sequence_length) == (15_000, 32, 128)
    assert config.learning_rate == 5e-5
    assert config.final_beta ** (1 / config.steps) == pytest.approx(1.001)
    assert config.flattening is None
    assert not config.with_replacement
    assert config.attempts == 3


def test_unstable_runs_are_tried_again_with_another_shuffle(model, table, corpus, monkeypatch):
    verdicts = iter([True, True, False, False])
    monkeypatch.setattr(training, "is_unstable", lambda losses: next(verdicts))
    found = find_subnetwork(model, table, corpus, replace(QUICK, steps=2, attempts=5))
    assert found.provenance["attempt"] == 2
    assert not found.provenance["unstable"]


FALLING = list(np.linspace(5.0, 1.0, 300))


@pytest.mark.parametrize(
    ("curve", "unstable"),
    [
        (FALLING, False),
        (FALLING[:100] + [9.0] * 5 + FALLING[100:], False),
        (FALLING[:100] + [9.0] * 200, True),
        (FALLING[:150] + [9.0] * 100 + [1.0] * 99, True),
        (FALLING[:150] + [9.0] * 100 + [1.0] * 101, False),
        ([0.1] * 50 + [0.13] * 200, True),
        ([1.0] * 5, False),
        ([3.0] + [4.0] * 60, True),
        ([3.0, 4.0] + [3.0] * 200, False),
        ([3.0, 2.9, 3.3], True),
        ([4.0], False),
        ([], False),
    ],
    ids=[
        "falls",
        "spike",
        "jump that stays",
        "recovers too late",
        "recovers in time",
        "rise by a quarter",
        "even",
        "jump at the second step",
        "spike at the second step",
        "jump of a short run",
        "one step",
        "none",
    ],
)
def test_instability_is_a_jump_that_is_not_made_good(curve, unstable):
    assert is_unstable(curve) is unstable


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [8, 50, 130])
def test_weights_undo_the_flattening_on_average(power, n):
    generator = np.random.default_rng(0)
    probability = np.append(generator.dirichlet(np.full(60, 0.3)), 0.0)
    total = np.zeros(61)
    for _ in range(3000):
        tokens, weights = flattened_sample(probability, power, n, generator)
        np.add.at(total, tokens, weights)
    deviation = np.abs(total / 3000 - probability)
    assert deviation.max() < 0.02
    assert total[60] == 0


def test_no_token_is_drawn_twice_while_others_are_left():
    probability = np.random.default_rng(0).dirichlet(np.full(60, 0.3))
    for seed in range(50):
        tokens, _ = flattened_sample(probability, 0.5, 40, np.random.default_rng(seed))
        assert len(set(tokens)) == 40


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [8, 50, 130])
def test_no_count_is_off_its_expectation_by_more_than_one(power, n):
    probability = np.random.default_rng(0).dirichlet(np.full(60, 0.3))
    for seed in range(20):
        tokens, weights = flattened_sample(probability, power, n, np.random.default_rng(seed))
        drawn, first, counts = np.unique(tokens, return_index=True, return_counts=True)
        assert (np.abs(counts - probability[drawn] / weights[first]) < 1 + 1e-6).all()


def test_power_one_draws_in_proportion_so_that_the_weights_are_equal():
    probability = np.random.default_rng(0).dirichlet(np.full(60, 5.0))
    _, weights = flattened_sample(probability, 1.0, 10, np.random.default_rng(0))
    assert np.allclose(weights, 0.1)


def test_batch_weights_sum_to_one(corpus):
    for flattening in (None, 0.5):
        _, weights = batches(corpus, replace(QUICK, flattening=flattening), np.random.default_rng(0))()
        assert weights.sum() == pytest.approx(1)


def test_a_weight_that_is_exactly_zero_starts_closed_and_still_counts(tokenizer):
    model = build("gpt_neox", tokenizer)
    name = model.architecture.maskable[0]
    model.maskable[name][0, :5] = 0.0
    gates = Gates(model, QUICK)
    gates.begin_step(1.0)
    gates.hidden(torch.zeros(1, 1, dtype=torch.long))
    assert (next(iter(gates.blocks.values())).logits[:5] == -1e6).all()
    assert gates.total == sum(weight.numel() for weight in model.maskable.values())
    assert gates.mean() == pytest.approx(0.5 * (gates.total - 5) / gates.total)


@pytest.mark.parametrize(("undecided", "stops"), [(2, True), (3, False)])
def test_training_stops_when_undecided_gates_are_few_beside_the_gates_that_are_on(
    model, table, corpus, monkeypatch, undecided, stops
):
    monkeypatch.setattr("bigramlib.training.loop.count_gates", lambda gates, beta: (200, undecided))
    found = find_subnetwork(model, table, corpus, replace(QUICK, undecided_share=0.01))
    assert found.provenance["converged"] is stops
    assert found.provenance["steps"] == (CHECK_EVERY if stops else QUICK.steps)


def test_gates_are_decided_at_a_tenth_and_nine_tenths(tokenizer):
    gates = Gates(build("gpt_neox", tokenizer), QUICK)
    values = torch.logit(torch.tensor([0.05, 0.15, 0.5, 0.85, 0.95, 0.99])) / 8
    with torch.no_grad():
        for block in gates.blocks.values():
            block.logits.fill_(-100.0)
        block.logits[:6] = values
    assert count_gates(gates, 8.0) == (2, 3)


def test_another_corpus_or_model_trains_another(model, table, corpus, tokenizer, monkeypatch):
    find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    shorter = TokenCorpus(corpus.ids[:400], np.array([0]), VOCABULARY)
    for changed in ((build("gpt_neox", tokenizer, seed=1), corpus), (model, shorter)):
        with pytest.raises(pytest.fail.Exception, match="trained"):
            find_subnetwork(changed[0], table, changed[1], QUICK)


def test_a_subnetwork_of_a_subnetwork_is_not_taken_for_one_of_the_model(model, table, corpus):
    of_model = find_subnetwork(model, table, corpus, QUICK)
    half = Subnetwork.full(model).masks
    half = Subnetwork({name: torch.arange(m.numel()).view(m.shape) % 2 == 0 for name, m in half.items()}, model.architecture)
    with half.applied(model):
        of_half = find_subnetwork(model, table, corpus, QUICK)
    assert (of_half - half).kept == 0 < (of_model - half).kept


@pytest.mark.parametrize("limits", [{"attention": False}, {"layers": 1}, {"attention": False, "layers": 1}])
def test_what_is_not_searched_is_not_kept(any_model, table, corpus, limits):
    found = find_subnetwork(any_model, table, corpus, replace(QUICK, sparsity_penalty=0.0, steps=3, **limits))
    searched = any_model.architecture.within(**limits)
    assert 0 < len(searched) < len(any_model.architecture.maskable)
    for name, mask in found.masks.items():
        assert mask.any() == (name in searched)


def test_searching_mlps_alone_is_a_search_with_closed_attention(model, table, corpus, monkeypatch):
    config = replace(QUICK, attention=False)
    skipped, losses = trained(model, table, corpus, config)
    monkeypatch.setattr(type(model), "skipping", lambda self, blocks: nullcontext())
    with (Subnetwork.mlp(model, 0) | Subnetwork.mlp(model, 1)).applied(model):
        computed, expected = trained(model, table, corpus, config)
    assert np.allclose(losses, expected, rtol=1e-4)
    assert (skipped & computed).kept > 0.99 * (skipped | computed).kept


def test_bfloat16_finds_what_float32_finds_as_well_as_another_seed_does(table, corpus, tokenizer):
    model = build("llama", tokenizer)
    config = replace(QUICK, steps=100, learning_rate=0.03)
    reference = find_subnetwork(model, table, corpus, config)
    lower = find_subnetwork(model, table, corpus, replace(config, precision="bfloat16"))
    other = find_subnetwork(model, table, corpus, replace(config, seed=1))
    jaccard = [(reference & found).kept / (reference | found).kept for found in (lower, other)]
    assert lower.kept == pytest.approx(reference.kept, rel=0.05)
    assert jaccard[0] > jaccard[1]
    assert model.maskable[model.architecture.maskable[0]].dtype == torch.float32


def test_a_backward_pass_leaves_no_gradients_and_no_gates_behind(model, table, corpus):
    gates = Gates(model, QUICK)
    gates.begin_step(1.0)
    ids = torch.from_numpy(corpus.ids[:32]).long().view(2, 16)
    before = [block.logits.detach().clone() for block in gates.blocks.values()]
    table.bind(model)(ids, gates.hidden(ids)).sum().backward()
    for block, logits in zip(gates.blocks.values(), before, strict=True):
        assert not torch.equal(block.logits, logits)
        assert block.gradient is None and block.logits.grad is None
        assert all(masked.grad is None for masked in block.masked.values())


def test_masked_weights_share_memory_and_are_made_again_as_they_were(any_model, table, corpus):
    gates = Gates(any_model, QUICK)
    logits = {}
    with torch.no_grad():
        for block in gates.blocks.values():
            block.logits.normal_(generator=torch.Generator().manual_seed(0))
            logits |= {name: part.clone().requires_grad_() for name, part in block.split(block.logits)}
    ids = torch.from_numpy(corpus.ids[:32]).long().view(2, 16)
    divergence = table.bind(any_model)
    gates.begin_step(2.0)
    divergence(ids, gates.hidden(ids)).sum().backward()
    opened = {name: torch.sigmoid(2.0 * part) for name, part in logits.items()}
    masked = {name: gate * any_model.maskable[name] for name, gate in opened.items()}
    penalty = gates.penalty_per_weight * sum(gate.sum() for gate in opened.values())
    (divergence(ids, any_model.hidden(ids, masked)).sum() + penalty).backward()
    for block in gates.blocks.values():
        for name, moment in block.split(block.optimizer.state()["exp_avg"]):
            assert torch.allclose(moment, 0.1 * logits[name].grad, rtol=1e-3, atol=1e-7)
    assert len({part.untyped_storage().data_ptr() for part in gates.masked.values()}) == 1


def test_gates_are_freed_with_their_tensors(model):
    gates = Gates(model, QUICK)
    logits = weakref.ref(next(iter(gates.blocks.values())).logits)
    del gates
    gc.collect()
    assert logits() is None


def test_a_loss_that_is_not_finite_though_the_weights_are_stops_training(model, table, corpus):
    class Broken:
        reads_context, hash = False, "broken"

        def bind(self, model):
            return lambda ids, hidden: model.log_partition(hidden) * float("inf")

    with pytest.raises(FloatingPointError, match=r"loss became inf at step 1 .*weights are finite; lower learning_rate"):
        find_subnetwork(model, Broken(), corpus, QUICK)


def test_a_target_whose_rows_do_not_sum_to_one_is_named(model, table, corpus):
    class Heavy:
        reads_context, hash = False, "heavy"

        def bind(self, model):
            bound = table.bind(model)
            return lambda ids, hidden: bound(ids, hidden) - 0.5 * model.log_partition(hidden).abs() - 3.0

    with pytest.raises(FloatingPointError, match=r"no KL is negative; each row of the target must sum to 1"):
        find_subnetwork(model, Heavy(), corpus, QUICK)


def test_a_dead_layer_is_named_and_logits_that_are_all_equal_are_refused(tokenizer, table, corpus, caplog):
    model = build("llama", tokenizer)
    model.maskable["model.layers.1.mlp.down_proj.weight"].zero_()
    find_subnetwork(model, table, corpus, replace(QUICK, steps=2))
    (message,) = caplog.messages
    assert "No weight in 3 of 14 matrices of 'tiny llama' changes the loss" in message
    assert all(f"model.layers.1.mlp.{name}_proj.weight" in message for name in ("up", "gate", "down"))
    model = build("llama", tokenizer)
    model.hf.get_output_embeddings().weight.zero_()
    with pytest.raises(FloatingPointError, match="No weight of 'tiny llama' changes the loss: its logits are the same"):
        find_subnetwork(model, table, corpus, QUICK)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off_around_a_search_change_nothing(model, table, corpus, monkeypatch, tmp_path, around):
    found = find_subnetwork(model, table, corpus, QUICK)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    with around():
        again = find_subnetwork(model, table, corpus, QUICK)
    assert again.hash == found.hash


def test_settings_may_be_numbers_of_numpy_or_texts_of_yaml(model, table, corpus, monkeypatch):
    given = SparsifyConfig(
        np.float32(1), steps=np.int64(30), batch_size=2.0, sequence_length="16", learning_rate="5e-2", seed=np.uint8(0)
    )
    assert given == QUICK and all(type(value) in (int, float, bool, str, type(None)) for value in vars(given).values())
    found = find_subnetwork(model, table, corpus, given)
    monkeypatch.setattr(training, "train", None)
    assert find_subnetwork(model, table, corpus, QUICK).hash == found.hash


def test_without_replacement_each_sequence_comes_once_and_a_run_goes_on_where_it_was(corpus):
    config = replace(QUICK, flattening=None, with_replacement=False, batch_size=3)
    whole = len(corpus) // config.sequence_length
    draw = batches(corpus, config, np.random.default_rng([0, 0]))
    drawn = np.concatenate([draw()[0].numpy() for _ in range(2 * whole)])
    text = np.asarray(corpus.ids)[: whole * config.sequence_length].reshape(whole, -1)
    first, second, third = drawn[:whole], drawn[whole : 2 * whole], drawn[2 * whole : 3 * whole]
    for part in (first, second, third):
        assert sorted(map(tuple, part)) == sorted(map(tuple, text))
    assert not np.array_equal(first, text) and not np.array_equal(first, second)
    on = batches(corpus, config, np.random.default_rng([0, 0]), begun=whole)
    assert np.array_equal(on()[0].numpy(), drawn[3 * whole : 3 * whole + 3])
    another = batches(corpus, config, np.random.default_rng([0, 1]))
    assert not np.array_equal(another()[0].numpy(), drawn[:3])


def test_an_interrupted_run_without_replacement_ends_with_the_same_bits(model, table, corpus, monkeypatch, tmp_path):
    config = replace(QUICK, flattening=None, with_replacement=False)
    whole = find_subnetwork(model, table, corpus, config)
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "another"))
    monkeypatch.setattr("bigramlib.training.run.EVERY_STEPS", 1)
    monkeypatch.setattr("bigramlib.training.run.WRITING_SHARE", 1e9)
    take = OptimizerStep.take

    def interrupted(self, *arguments):
        if self.run.step == 17:
            raise KeyboardInterrupt
        return take(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(OptimizerStep, "take", interrupted)
        find_subnetwork(model, table, corpus, config)
    assert find_subnetwork(model, table, corpus, config).hash == whole.hash


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_steps_of_more_tokens_than_the_text_has_kinds_draw_in_proportion_to_the_power(power):
    probability = np.random.default_rng(0).dirichlet(np.full(20, 2.0))
    drawn = np.zeros(20)
    for seed in range(200):
        tokens, _ = flattened_sample(probability, power, 100, np.random.default_rng(seed))
        drawn += np.bincount(tokens, minlength=20)
    expected = probability**power / (probability**power).sum()
    assert np.allclose(drawn / drawn.sum(), expected, rtol=0.05)


def test_stability_is_judged_on_the_cross_entropy_of_every_kind_of_target(model, table, corpus):
    config = replace(QUICK, steps=2, flattening=None)
    for target in (table, ModelTarget(model)):
        _, losses = trained(model, target, corpus, config)
        ids, _ = batches(corpus, config, np.random.default_rng([config.seed, 0]))()
        with torch.no_grad():
            logits = model.unembed(model.hidden(ids))
            dense = (
                logits.softmax(-1)
                if target is not table
                else torch.from_numpy(table.probabilities(ids.flatten().numpy())).float().view_as(logits)
            )
            half = model.hidden(ids, {name: weight / 2 for name, weight in model.maskable.items()})
            expected = -(dense * model.unembed(half).log_softmax(-1)).sum(-1).mean()
        assert losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_a_target_without_an_entropy_is_judged_by_its_kl(model, table, corpus):
    class Bare:
        reads_context, hash = False, "bare"

        def bind(self, model):
            bound = table.bind(model)
            return lambda ids, hidden: bound(ids, hidden)

    config = replace(QUICK, steps=2, flattening=None)
    _, bare = trained(model, Bare(), corpus, config)
    _, whole = trained(model, table, corpus, config)
    ids, weights = batches(corpus, config, np.random.default_rng([config.seed, 0]))()
    assert bare[0] + float((table.bind(model).entropy(ids) * weights).sum()) == pytest.approx(whole[0])


def test_a_model_edited_while_its_mask_is_trained_stores_nothing(tokenizer, table, corpus, monkeypatch):
    model = build("gpt_neox", tokenizer)
    original = training.train

    def editing(*arguments):
        found = original(*arguments)
        next(iter(model.maskable.values())).data.mul_(2)
        return found

    monkeypatch.setattr(training, "train", editing)
    with pytest.raises(ValueError, match="was changed while its mask was trained, so nothing was stored"):
        find_subnetwork(model, table, corpus, QUICK)
    assert not list(store_folder("subnetworks").iterdir())


def test_a_subnetwork_of_an_earlier_version_on_weights_alone_is_told_of_and_not_taken(model, table, corpus, caplog):
    found = find_subnetwork(model, table, corpus, QUICK)
    facts = {name: value for name, value in found.provenance.items() if name != "model_hash"}
    key = training.store_key({name: facts[name] for name in ("weights_hash", "target_hash", "corpus_hash", "config")})
    (file,) = store_folder("subnetworks").iterdir()
    replace(found, provenance=facts).save(file.with_name(f"{key}.safetensors"))
    file.unlink()
    assert find_subnetwork(model, table, corpus, QUICK).provenance["model_hash"] == model.hash
    assert f"{key}.safetensors' was found by an earlier version" in caplog.text


def test_a_subnetwork_records_what_is_known_of_its_model_and_its_key_does_not_depend_on_where_that_came_from(
    model, table, corpus
):
    provenance = find_subnetwork(model, table, corpus, QUICK).provenance
    assert provenance | model.facts() == provenance
    assert provenance["model_hash"] == model.hash
    (file,) = store_folder("subnetworks").iterdir()
    elsewhere = model.facts() | {"model": "another name", "model_source": "elsewhere", "model_revision": "2"}
    assert training.store_key(training.key_facts(elsewhere, table, corpus, QUICK)) == file.stem


def test_no_gate_makes_subnormal_numbers_and_none_that_counts_is_lost(model):
    gates = Gates(model, QUICK)
    block = next(iter(gates.blocks.values()))
    with torch.no_grad():
        block.logits.copy_(torch.linspace(-1.0, 1.0, block.logits.numel()))
    gates.begin_step(90.0)
    made = block.make_masked_weights().clone()
    exact = torch.sigmoid(block.logits.detach() * 90.0)
    assert ((made == 0) | (made >= 1e-20)).all() and (made == 0).any()
    assert torch.equal(made[exact >= 1e-20], exact[exact >= 1e-20])
