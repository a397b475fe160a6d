"""Models load frozen, in fp32, and are seen through TransformerLens as they are."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import PADDED, SHAPE, VOCABULARY, build, token_ids
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, GPTNeoXConfig

from bigramlib import LanguageModel, Subnetwork, load_model, randomly_initialized
from bigramlib.models.loading import checkpoint_names
from bigramlib.models.mini import ASSETS, load_checkpoint


def test_padding_rows_of_the_unembedding_are_cut_off(any_model):
    assert any_model.hf.get_output_embeddings().weight.shape[0] == PADDED
    assert any_model.unembed(any_model.hidden(token_ids())).shape[-1] == VOCABULARY


def test_replaced_weights_are_used_and_leave_the_model_alone(any_model):
    ids = token_ids()
    before = any_model.hidden(ids)
    doubled = {name: 2 * weight for name, weight in any_model.maskable.items()}
    assert not torch.allclose(any_model.hidden(ids, doubled), before)
    assert torch.equal(any_model.hidden(ids), before)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_the_bridge_shows_the_model_and_its_subnetwork(tokenizer, architecture):
    model = build(architecture, tokenizer)
    ids = token_ids()
    for subnetwork in (Subnetwork.full(model), Subnetwork.full(model).random_like(0) - Subnetwork.full(model).random_like(1)):
        with subnetwork.applied(model):
            bridge = model.bridge()
            expected = model.hf(ids).logits
        logits, cache = bridge.run_with_cache(ids)
        assert torch.allclose(logits, expected, atol=1e-4)
        assert cache["blocks.0.hook_resid_pre"].shape == (*ids.shape, model.hf.config.hidden_size)


def test_the_bridge_shows_a_model_without_attention_biases_and_leaves_it_without(tokenizer):
    torch.manual_seed(0)
    config = GPTNeoXConfig(**SHAPE, intermediate_size=24, max_position_embeddings=64, attention_bias=False)
    model = LanguageModel("without biases", AutoModelForCausalLM.from_config(config), tokenizer)
    before = set(dict(model.hf.named_parameters()))
    assert torch.allclose(model.bridge()(token_ids()), model.hf(token_ids()).logits, atol=1e-4)
    assert set(dict(model.hf.named_parameters())) == before


def test_a_skipped_block_writes_what_it_writes_without_its_weights(any_model):
    ids = token_ids(0, (2, 9))
    full = Subnetwork.full(any_model)
    for blocks in ([block] for block in any_model.architecture.blocks):
        dropped = [name for block in blocks for name in any_model.architecture.blocks[block]]
        masks = {name: torch.zeros_like(mask) if name in dropped else mask for name, mask in full.masks.items()}
        with Subnetwork(masks, any_model.architecture).applied(any_model):
            expected = any_model.hidden(ids)
        whole = any_model.hidden(ids)
        with any_model.skipping(blocks):
            assert torch.allclose(any_model.hidden(ids), expected, atol=1e-5)
        assert not torch.allclose(whole, expected, atol=1e-3)
        assert torch.equal(any_model.hidden(ids), whole)


def test_a_saved_model_loads_frozen_in_fp32_whatever_it_was_saved_in(model, tokenizer, tmp_path):
    copy.deepcopy(model.hf).half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.hf.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.hf.parameters())
    assert not loaded.hf.training
    assert torch.allclose(loaded.hf(token_ids()).logits, model.hf(token_ids()).logits, atol=0.1)


def test_mini_is_the_last_of_its_checkpoints():
    names = checkpoint_names("mini")
    assert len(names) >= 8 and next(iter(names)) == 0
    last = load_model(names[max(names)])
    assert load_model("mini").weights_hash == last.weights_hash != load_model("mini@step0").weights_hash


def test_every_weight_of_mini_comes_from_its_checkpoint():
    stored = load_checkpoint(ASSETS / "mini" / "step0.safetensors")
    loaded = dict(load_model("mini@step0").hf.named_parameters())
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[name], parameter) for name, parameter in loaded.items())


def test_unknown_names_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"There is no model 'no/such-model'.*not embedded \(mini\)"):
        load_model("no/such-model")
    with pytest.raises(ValueError, match=r"'mini' has no checkpoint 'step7'; use one of step0, step32"):
        load_model("mini@step7")


def test_a_local_model_of_an_unknown_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert' is not known; known are"):
        load_model(tmp_path)


def test_a_broken_gguf_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(ValueError, match=r"model\.gguf.* cannot be read as a GGUF model"):
        load_model(tmp_path / "model.gguf")


def test_a_gguf_file_of_an_unknown_architecture_is_refused(tmp_path):
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"as a GGUF model \(The architecture 'mamba' is not known; known are gemma2"):
        load_model(tmp_path / "model.gguf")


def test_random_initialisation_keeps_only_the_embeddings_it_is_told_to(any_model):
    fresh, kept = randomly_initialized(any_model), randomly_initialized(any_model, keep_embeddings=True)
    embedding = any_model.hf.get_input_embeddings().weight
    assert torch.equal(kept.hf.get_input_embeddings().weight, embedding)
    assert torch.equal(kept.hf.get_output_embeddings().weight, any_model.hf.get_output_embeddings().weight)
    assert not torch.equal(fresh.hf.get_input_embeddings().weight, embedding)
    name = any_model.architecture.maskable[0]
    assert not torch.equal(kept.maskable[name], any_model.maskable[name])
    assert torch.equal(
        randomly_initialized(any_model, seed=3).maskable[name], randomly_initialized(any_model, seed=3).maskable[name]
    )


def test_random_initialisation_keeps_embeddings_of_positions_and_an_untied_unembedding(tokenizer):
    model = build("gpt2", tokenizer)
    model.hf.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.hf.lm_head.weight))
    kept = randomly_initialized(model, keep_embeddings=True).hf
    assert torch.equal(kept.transformer.wte.weight, model.hf.transformer.wte.weight)
    assert torch.equal(kept.transformer.wpe.weight, model.hf.transformer.wpe.weight)
    assert torch.equal(kept.lm_head.weight, model.hf.lm_head.weight)
    assert not torch.equal(randomly_initialized(model).hf.transformer.wpe.weight, model.hf.transformer.wpe.weight)
    tied = build("gpt2", tokenizer)
    fresh = randomly_initialized(tied, keep_embeddings=True).hf
    assert fresh.lm_head.weight is fresh.transformer.wte.weight


def test_sampling_continues_the_prompt_and_follows_its_seed(any_model):
    texts = [any_model.sample("the cat", tokens=8, seed=seed) for seed in (0, 0, 1)]
    assert all(text.startswith("the cat") for text in texts)
    assert texts[0] == texts[1] != texts[2]


def test_sampling_is_at_temperature_1_whatever_the_model_prefers(tokenizer):
    plain, greedy = build("gpt_neox", tokenizer), build("gpt_neox", tokenizer)
    greedy.hf.generation_config.temperature = 0.01
    greedy.hf.generation_config.top_p = 0.01
    assert greedy.sample("the cat", tokens=8) == plain.sample("the cat", tokens=8)


def test_a_model_whose_logits_are_not_its_unembedding_is_refused(tokenizer):
    hf = copy.deepcopy(build("gpt_neox", tokenizer).hf)
    hf.get_output_embeddings().register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ValueError, match="logits of 'odd' are not its unembedding of the last hidden state"):
        LanguageModel("odd", hf, tokenizer)


def test_a_model_without_its_matrices_names_the_missing_one(tokenizer):
    hf = copy.deepcopy(build("llama", tokenizer).hf)
    del hf.model.layers[0].mlp.up_proj
    with pytest.raises(ValueError, match=r"has no parameter 'model.layers.0.mlp.up_proj.weight', which .* should have"):
        LanguageModel("odd", hf, tokenizer)
