"""Mixtures of experts load from folders with the weights that were saved, and every expert is told from the others."""

import re

import pytest
import torch
from conftest import token_ids
from mixtures import MIXTURES, mixture, random_model
from transformers import Llama4Config, Llama4ForConditionalGeneration, Qwen3MoeConfig

from bigramlib import load_model
from bigramlib.models.discovery import architecture_of, without_weights

EXPERT = "model.layers.1.block_sparse_moe.experts.{}.w1.weight"


@pytest.fixture(scope="module", params=MIXTURES)
def model(request, tokenizer):
    return mixture(request.param, tokenizer)


def test_a_mixture_loads_from_its_folder_as_it_was_saved(model, written):
    loaded = load_model(written(model.hf))
    assert torch.equal(loaded.hf(token_ids()).logits, model.hf(token_ids()).logits)
    assert loaded.hash == model.hash and loaded.architecture == model.architecture


def lacking(*names):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def renumbered(tensors):
    """The third of three experts is called the fourth."""
    return {re.sub(r"experts\.2\.", "experts.3.", name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lacking(EXPERT.format(1)), re.escape(EXPERT.format(1))),
        (lacking(EXPERT.format(2)), re.escape(EXPERT.format(2))),
        (
            lacking(*(EXPERT.format(2).replace("w1", f"w{matrix}") for matrix in (1, 2, 3))),
            "of another size are model.layers.1",
        ),
        (lacking(*(EXPERT.format(expert) for expert in range(3))), "cannot be loaded|they lack model.layers.1"),
        (renumbered, r"they lack model\.layers\.0.*experts\.2\..* and 3 more"),
    ],
)
def test_a_missing_expert_is_named(written, changed, said):
    path = written(random_model(MIXTURES["plain"]), changed)
    with pytest.raises(ValueError, match=said) as caught:
        load_model(path)
    assert repr(str(path)) in str(caught.value) and "\n" not in str(caught.value)


def test_experts_are_put_together_by_their_numbers_not_by_their_order(written):
    config = MIXTURES["plain"].__class__(**MIXTURES["plain"].to_dict() | {"num_local_experts": 12})
    hf = random_model(config)
    loaded = load_model(written(hf, lambda tensors: dict(sorted(tensors.items(), reverse=True))))
    assert torch.equal(loaded.hf(token_ids()).logits, hf(token_ids()).logits)


@pytest.fixture
def llama4():
    vision = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    widths = {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16, "patch_size": 14}
    text = MIXTURES["stored inputs first"].to_dict()
    return random_model(Llama4Config(text_config=text, vision_config=vision | widths), Llama4ForConditionalGeneration)


def test_of_a_model_whose_causal_part_reads_only_text_this_part_loads(written, llama4):
    loaded = load_model(written(llama4))
    assert not any("vision" in name for name, _ in loaded.hf.named_parameters())
    assert torch.equal(loaded.hf(token_ids()).logits, llama4(token_ids()).logits)


def test_of_such_a_model_a_missing_text_weight_is_named(written, llama4):
    with pytest.raises(ValueError, match=r"they lack model\.layers\.0\.feed_forward\.experts\.down_proj"):
        load_model(written(llama4, lacking("language_model.model.layers.0.feed_forward.experts.down_proj")))


def test_components_of_experts_cover_each_weight_exactly_once(model):
    covered = {name: torch.zeros(weight.shape) for name, weight in model.maskable.items()}
    for part in model.architecture.components:
        matrix = part.matrix(covered[part.parameter])
        matrix.index_add_(part.axis, part.index(matrix), torch.ones_like(part.of(covered[part.parameter])))
    assert all((count == 1).all() for count in covered.values())


def test_routers_are_not_masked(model):
    assert not [name for name in model.maskable if re.search(r"router|gate\.weight|shared_expert_gate", name)]


def test_skipped_experts_write_what_they_write_without_weights_and_others_go_on(model):
    ids = token_ids()
    for block, names in model.architecture.blocks.items():
        without = model.hidden(ids, {name: torch.zeros_like(model.maskable[name]) for name in names})
        with model.skipping([block]):
            assert torch.allclose(model.hidden(ids), without, atol=1e-5)
        assert not torch.allclose(model.hidden(ids), without, atol=1e-3)


def test_experts_of_one_parameter_share_the_places_of_their_units():
    config = Qwen3MoeConfig(num_hidden_layers=3, num_experts=128, hidden_size=64, moe_intermediate_size=24, vocab_size=280)
    components = architecture_of(without_weights(config)).components
    assert len(components) == 3 * (4 + 3 * 128)
    assert len({id(part.units) for part in components}) == 3 * (4 + 3)
