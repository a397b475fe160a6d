"""A tuned model answers, is the base but for what was tuned, and comes to the same bits however its run went."""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import VOCABULARY, build, token_ids
from safetensors import safe_open
from tunings import CAT, EASY, FIRST, LAST, LORA, WHOLE, interrupted, no_training

from bigramlib.instruction.examples import draw_texts, packed, tokenized
from bigramlib.instruction.prompts import TEXT, WORLD
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning import TuneConfig, instruction_tune
from bigramlib.instruction.tuning_loop import completion_loss
from bigramlib.store import store_folder

KINDS = {"whole": WHOLE, "lora": LORA}
kinds = pytest.mark.parametrize("kind", KINDS)
architectures = pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama"])


def tensors_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.hf.named_parameters()}


def same_bits(one, other) -> bool:
    one, other = tensors_of(one), tensors_of(other)
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def losses() -> list[float]:
    (file,) = store_folder("tuned").glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        return json.loads(opened.metadata()["bigramlib"])["facts"]["losses"]


@torch.no_grad()
def right_share(model, task: Task) -> float:
    """The share of tuning pairs whose whole completion, end included, is what the model finds most likely."""
    config = replace(WHOLE, steps=64)
    ids, completion = packed(tokenized(model, draw_texts([task], config, TEXT), TEXT))
    best = model.unembed(model.hidden(ids[:, :-1])).argmax(-1)
    return ((best == ids[:, 1:]) | ~completion[:, 1:]).all(1).float().mean().item()


@pytest.mark.parametrize(("name", "precision"), [("gpt_neox", "float32"), ("llama", "bfloat16")])
def test_the_loss_falls_and_answers_become_right(tokenizer, name, precision):
    model = build(name, tokenizer)
    config = TuneConfig(steps=100, batch_size=12, learning_rate=3e-2, rank=None, precision=precision)
    tuned = instruction_tune(model, [EASY], config)
    course = losses()
    assert len(course) == 100 and sum(course[-10:]) < 0.2 * sum(course[:10])
    assert right_share(model, EASY) == 0 and right_share(tuned, EASY) > 0.8
    shutil.rmtree(store_folder("tuned"))
    again = instruction_tune(tuned, [CAT], replace(config, steps=40, rank=8))
    assert right_share(tuned, CAT) < 0.7 and right_share(again, CAT) > 0.95
    assert sum(losses()[-10:]) < 0.2 * sum(losses()[:10])


@kinds
def test_the_base_keeps_every_bit(tokenizer, kind):
    model = build("llama", tokenizer)
    before, state = tensors_of(model), [parameter.requires_grad for parameter in model.hf.parameters()]
    tuned = instruction_tune(model, [FIRST], KINDS[kind])
    assert all(torch.equal(before[name], weight) for name, weight in tensors_of(model).items())
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == state
    assert tuned.weights_hash != model.weights_hash


@architectures
def test_lora_changes_the_maskable_matrices_and_no_other_bit(tokenizer, name):
    model = build(name, tokenizer)
    tuned = instruction_tune(model, [FIRST], LORA)
    before, after = tensors_of(model), tensors_of(tuned)
    assert {name: weight.shape for name, weight in before.items()} == {name: weight.shape for name, weight in after.items()}
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(model.maskable)
    assert not [name for name, _ in tuned.hf.named_modules() if "lora" in name]


@architectures
def test_all_weights_change_when_all_are_tuned_also_the_unembedding(tokenizer, name):
    model = build(name, tokenizer)
    after = tensors_of(instruction_tune(model, [FIRST], WHOLE))
    unchanged = {name for name, weight in tensors_of(model).items() if torch.equal(weight, after[name])}
    assert not unchanged


@kinds
def test_a_tuned_model_says_what_it_is(tokenizer, kind):
    model = build("gpt_neox", tokenizer)
    tuned = instruction_tune(model, [FIRST], KINDS[kind])
    (file,) = store_folder("tuned").glob("*.safetensors")
    assert tuned.name == f"tiny gpt_neox+tuned-{file.name[:8]}"
    assert (tuned.origin, tuned.source, tuned.tokenizer) == ("tuned", model.source, model.tokenizer)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in tuned.hf.parameters())


@kinds
def test_interrupted_tuning_ends_in_the_same_bits(tokenizer, kind):
    model = build("llama", tokenizer)
    tasks = [FIRST, LAST]
    whole = instruction_tune(model, tasks, KINDS[kind])
    course = losses()
    shutil.rmtree(store_folder("tuned"))
    with interrupted(4):
        instruction_tune(model, tasks, KINDS[kind])
    assert len(list(store_folder("unfinished").iterdir())) == 1 and not list(store_folder("tuned").iterdir())
    resumed = instruction_tune(model, tasks, KINDS[kind])
    assert same_bits(whole, resumed) and losses() == course
    assert not list(store_folder("unfinished").iterdir())


@kinds
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tokenizer, kind):
    model = build("gpt_neox", tokenizer)
    before = torch.get_rng_state()
    once = instruction_tune(model, [FIRST], KINDS[kind])
    assert torch.equal(torch.get_rng_state(), before)
    shutil.rmtree(store_folder("tuned"))
    torch.rand(3)
    assert same_bits(once, instruction_tune(model, [FIRST], KINDS[kind]))
    assert not same_bits(once, instruction_tune(model, [FIRST], replace(KINDS[kind], seed=1)))


@kinds
def test_asking_again_reads_the_store(tokenizer, kind):
    model = build("llama", tokenizer)
    tuned = instruction_tune(model, [FIRST], KINDS[kind])
    with no_training():
        again = instruction_tune(model, [FIRST], KINDS[kind])
    assert same_bits(tuned, again) and (again.name, again.hash) == (tuned.name, tuned.hash)


def test_the_key_tells_models_tasks_formats_and_settings_apart(tokenizer):
    model = build("gpt_neox", tokenizer)
    calls = [
        (model, [FIRST], WHOLE, TEXT),
        (build("gpt_neox", tokenizer, 1), [FIRST], WHOLE, TEXT),
        (model, [LAST], WHOLE, TEXT),
        (model, [FIRST], WHOLE, WORLD),
        (model, [FIRST], replace(WHOLE, steps=5), TEXT),
        (model, [FIRST], replace(WHOLE, written_examples=1), WORLD),
    ]
    assert len({instruction_tune(*call).name for call in calls}) == len(calls)


def test_the_store_holds_the_adapter_alone(tokenizer):
    model = build("llama", tokenizer)
    instruction_tune(model, [FIRST], LORA)
    (file,) = store_folder("tuned").glob("*.safetensors")
    with safe_open(file, framework="pt") as opened:
        names = set(opened.keys())
    modules = [name.removesuffix(".weight") for name in model.maskable]
    assert names == {f"{module}.{part}" for module in modules for part in ("lora_A", "lora_B")}


@kinds
@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_a_damaged_file_is_set_aside_and_made_again(tokenizer, caplog, kind, damage):
    model = build("gpt_neox", tokenizer)
    tuned = instruction_tune(model, [FIRST], KINDS[kind])
    (file,) = store_folder("tuned").glob("*.safetensors")
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 4
    file.write_bytes({"truncated": content[:-9], "flipped": bytes(flipped), "foreign": b"{}"}[damage])
    with caplog.at_level(logging.WARNING):
        again = instruction_tune(model, [FIRST], KINDS[kind])
    assert same_bits(tuned, again)
    assert "it is not a whole file of tuned weights" in caplog.text
    assert file.exists() and file.with_name(f"{file.name}.damaged").exists()


def test_a_file_of_another_run_is_set_aside(tokenizer, caplog):
    model = build("gpt_neox", tokenizer)
    tuned = instruction_tune(model, [FIRST], LORA)
    (file,) = store_folder("tuned").glob("*.safetensors")
    instruction_tune(model, [LAST], LORA)
    (other,) = set(store_folder("tuned").glob("*.safetensors")) - {file}
    file.write_bytes(other.read_bytes())
    assert same_bits(instruction_tune(model, [FIRST], LORA), tuned)
    assert "the weights of another run" in caplog.text


def test_a_damaged_state_is_set_aside_and_tuning_begins_again(tokenizer, caplog):
    model = build("gpt_neox", tokenizer)
    whole = instruction_tune(model, [FIRST], LORA)
    shutil.rmtree(store_folder("tuned"))
    with interrupted(4):
        instruction_tune(model, [FIRST], LORA)
    (file,) = store_folder("unfinished").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert same_bits(whole, instruction_tune(model, [FIRST], LORA))
    assert "it is not a whole state of instruction tuning" in caplog.text


@kinds
def test_a_loss_that_is_not_finite_is_an_error_that_names_the_remedy(tokenizer, kind):
    config = replace(KINDS[kind], learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"not finite at step \d of tuning 'tiny llama'.*; lower learning_rate"):
        instruction_tune(build("llama", tokenizer), [FIRST], config)
    assert not list(store_folder("tuned").iterdir())


def test_an_example_longer_than_the_positions_is_refused_before_training(tokenizer):
    long = Task("long", "rule", "letters", ("Say it.",), tuple((given * 40, answer) for given, answer in FIRST.pairs))
    with (
        no_training(),
        pytest.raises(ValueError, match=r"task 'long' has \d+ tokens, more than the 64 positions of 'tiny llama'"),
    ):
        instruction_tune(build("llama", tokenizer), [long], WHOLE)


def test_no_tasks_or_too_few_pairs_are_refused_before_training(tokenizer):
    model = build("gpt_neox", tokenizer)
    with no_training(), pytest.raises(ValueError, match="no tasks to tune on; give at least one"):
        instruction_tune(model, [], WHOLE)
    few = replace(FIRST, pairs=FIRST.split("tuning")[:2] + FIRST.split("test"))
    with no_training(), pytest.raises(ValueError, match="'first' has 2 pairs to tune on and needs 3; give it more"):
        instruction_tune(model, [few], replace(WHOLE, written_examples=2))


def test_without_peft_lora_is_refused_in_a_sentence_and_whole_weights_are_tuned(tokenizer, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = build("gpt_neox", tokenizer)
    with (
        no_training(),
        pytest.raises(ModuleNotFoundError, match=r"peft, which is not installed; run pip install 'bigramlib\[lora"),
    ):
        instruction_tune(model, [FIRST], LORA)
    instruction_tune(model, [FIRST], WHOLE)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_experts_are_tuned_as_whole_weights_and_lora_is_refused_in_a_sentence(tokenizer, name):
    model = build(name, tokenizer)
    message = rf"LoRA cannot tune 'tiny {name}', since all experts .*experts.gate_up_proj'\); tune all weights with rank=None"
    with no_training(), pytest.raises(ValueError, match=message):
        instruction_tune(model, [FIRST], LORA)
    tuned = instruction_tune(model, [FIRST], WHOLE)
    assert all(not torch.equal(weight, model.maskable[parameter]) for parameter, weight in tuned.maskable.items())


def test_the_loss_is_that_of_the_models_own_logits(unusual_model):
    ids, completion = token_ids(), token_ids(1) < 200
    with torch.no_grad():
        logits = unusual_model.hf(ids[:, :-1]).logits[completion[:, 1:]][:, :VOCABULARY]
        expected = torch.nn.functional.cross_entropy(logits, ids[:, 1:][completion[:, 1:]])
        assert torch.allclose(completion_loss(unusual_model, ids, completion), expected, atol=1e-5)


def test_a_caller_in_inference_mode_and_autocast_gets_the_same_bits(tokenizer):
    model = build("llama", tokenizer)
    plain = instruction_tune(model, [FIRST], LORA)
    shutil.rmtree(store_folder("tuned"))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        again = instruction_tune(model, [FIRST], LORA)
    assert same_bits(plain, again)


def test_the_tuned_model_is_a_base_for_tuning_again(tokenizer):
    model = build("llama", tokenizer)
    once = instruction_tune(model, [FIRST], LORA)
    twice = instruction_tune(once, [LAST], WHOLE)
    assert twice.name.startswith(once.name) and not same_bits(once, twice)
    ids, completion = packed(tokenized(twice, draw_texts([LAST], WHOLE, TEXT), TEXT))
    with torch.no_grad():
        assert completion_loss(twice, ids, completion).isfinite()
