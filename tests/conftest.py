"""Tiny random models and corpora; shape annotations of the library are enforced; nothing reaches the network; one thread."""

import copy
import importlib
import os
import pkgutil

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from jaxtyping import install_import_hook

with install_import_hook("bigramlib", "beartype.beartype"):
    import bigramlib

    for module in pkgutil.walk_packages(bigramlib.__path__, "bigramlib."):
        if module.name != "bigramlib.__main__":
            importlib.import_module(module.name)

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BioGptConfig,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoConfig,
    OpenAIGPTConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    XGLMConfig,
)

from bigramlib import BigramTable, LanguageModel, SparsifyConfig, Study, Subnetwork, TokenCorpus
from bigramlib.models.mini import train_tokenizer

plt.switch_backend("agg")

VOCABULARY = 280
PADDED = 288
TEXT = ["the cat sat on the mat and the dog sat on the cat", "a dog and a cat met a rat; the rat sat down", "no cats here"] * 3
WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "a", "dog", "met", "a", "rat"]
SHAPE = {"vocab_size": PADDED, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = SHAPE | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 24}
CONFIGS = {
    "gpt_neox": GPTNeoXConfig(**SHAPE, intermediate_size=24, max_position_embeddings=64),
    "gpt2": GPT2Config(vocab_size=PADDED, n_embd=16, n_layer=2, n_head=2, n_positions=128),
    "llama": LlamaConfig(**GROUPED, max_position_embeddings=64),
    "mistral": MistralConfig(**GROUPED, max_position_embeddings=64),
    "qwen2": Qwen2Config(**GROUPED, max_position_embeddings=64),
    "qwen3": Qwen3Config(**GROUPED, max_position_embeddings=64),
    "olmo": OlmoConfig(**GROUPED, max_position_embeddings=64),
    "olmo2": Olmo2Config(**GROUPED, max_position_embeddings=64),
    "gemma2": Gemma2Config(**GROUPED, max_position_embeddings=64, final_logit_softcapping=5.0, query_pre_attn_scalar=4),
    "gemma3_text": Gemma3TextConfig(**GROUPED, max_position_embeddings=64, query_pre_attn_scalar=4),
}

OPT = {"vocab_size": PADDED, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24}
EXPERTS = GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64}
UNUSUAL = {
    "opt": OPTConfig(**OPT, word_embed_proj_dim=16, max_position_embeddings=64),
    "opt_350m": OPTConfig(**OPT, word_embed_proj_dim=8, max_position_embeddings=64, do_layer_norm_before=False),
    "bloom": BloomConfig(vocab_size=PADDED, hidden_size=16, n_layer=2, n_head=2),
    "gptj": GPTJConfig(vocab_size=PADDED, n_embd=16, n_layer=2, n_head=2, n_positions=64, rotary_dim=4),
    "openai-gpt": OpenAIGPTConfig(vocab_size=PADDED, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "biogpt": BioGptConfig(**SHAPE, intermediate_size=24, max_position_embeddings=64),
    "xglm": XGLMConfig(vocab_size=PADDED, d_model=16, num_layers=2, attention_heads=2, ffn_dim=24, max_position_embeddings=64),
    "granite": GraniteConfig(**GROUPED, max_position_embeddings=64, logits_scaling=8.0, embedding_multiplier=12.0),
    "cohere": CohereConfig(**GROUPED, max_position_embeddings=64, logit_scale=0.0625),
    "gemma": GemmaConfig(**GROUPED, max_position_embeddings=64),
    "mixtral": MixtralConfig(**EXPERTS),
    "gpt_oss": GptOssConfig(**EXPERTS),
    "gemma3": Gemma3Config(
        text_config=GROUPED | {"max_position_embeddings": 64, "query_pre_attn_scalar": 4},
        vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        | {"image_size": 8, "patch_size": 4},
        mm_tokens_per_image=4,
    ),
}
"""Models that differ from those of CONFIGS in what comes before, within or after their layers."""


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="session")
def tokenizer():
    trained = train_tokenizer(TEXT, VOCABULARY)
    assert len(trained) == VOCABULARY
    return trained


def build(name: str, tokenizer, seed: int = 0) -> LanguageModel:
    """A tiny random model with weights large enough that every matrix matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(copy.deepcopy((CONFIGS | UNUSUAL)[name]), attn_implementation="eager")
        with torch.no_grad():
            for parameter in hf.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return LanguageModel(f"tiny {name}", hf, tokenizer)


@pytest.fixture
def written(tokenizer, tmp_path):
    """Write a folder with a model whose stored weights are changed in some way."""

    def write(hf, changed=lambda tensors: tensors):
        hf.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        stored = changed(load_file(tmp_path / "model.safetensors"))
        save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return write


@pytest.fixture
def axes():
    """Four places to draw in; what is drawn there is rendered at the end."""
    figure, places = plt.subplots(1, 4, figsize=(24, 4))
    yield list(places)
    figure.canvas.draw()
    plt.close(figure)


@pytest.fixture(scope="session")
def documents():
    """A hundred short documents of few words, so that most bigrams of one occur in others."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, 40)) for _ in range(100)]


@pytest.fixture
def in_folders(tokenizer, documents, tmp_path):
    """The paths of a tiny model and of a text."""
    folder, text = tmp_path / "model", tmp_path / "text.txt"
    build("gpt_neox", tokenizer).hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text.write_text("\n".join(documents))
    return folder, text


@pytest.fixture
def study(model, documents):
    return Study(model, documents)


@pytest.fixture
def checkpoints(study, tokenizer, monkeypatch):
    """Three checkpoints of pretraining, the last of which is the model of the study; every study has them."""
    earlier = {step: study.with_model(build("gpt_neox", tokenizer, seed)) for step, seed in ((0, 1), (16, 2))}
    every = earlier | {40: study}
    monkeypatch.setattr(Study, "checkpoints", lambda self: every)
    return every


@pytest.fixture
def quick(monkeypatch):
    """Every search of a study takes three steps."""

    def suited(model, target, sparsity_penalty=10.0, seed=0):
        flattening = None if target.reads_context else 0.5
        short = {"steps": 3, "batch_size": 2, "sequence_length": 16, "flattening": flattening}
        return SparsifyConfig(sparsity_penalty=sparsity_penalty, seed=seed, **short)

    monkeypatch.setattr(SparsifyConfig, "suited", suited)


@pytest.fixture(scope="session")
def sparse(model):
    """A random fifth of the weights."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.2 for name, weight in model.maskable.items()}
    return Subnetwork(masks, model.architecture)


@pytest.fixture(scope="session", params=CONFIGS)
def any_model(request, tokenizer):
    return build(request.param, tokenizer)


@pytest.fixture(scope="session", params=UNUSUAL)
def unusual_model(request, tokenizer):
    return build(request.param, tokenizer)


@pytest.fixture(scope="session")
def model(tokenizer):
    return build("gpt_neox", tokenizer)


@pytest.fixture(scope="session")
def capped_model(tokenizer):
    return build("gemma2", tokenizer)


@pytest.fixture(scope="session")
def corpus():
    """Five documents of random tokens, some of them frequent; tokens 250 and above never occur."""
    generator = np.random.default_rng(0)
    lengths = [400, 3, 700, 1, 500]
    ids = (generator.random(sum(lengths)) ** 2 * 250).astype(np.int64)
    return TokenCorpus(ids, np.cumsum([0, *lengths[:-1]]), VOCABULARY, "random")


@pytest.fixture(scope="session")
def table(corpus):
    return BigramTable.from_corpus(corpus)


@pytest.fixture
def half(model) -> Subnetwork:
    """A random half of the weights."""
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(weight.shape, generator=generator) < 0.5 for name, weight in model.maskable.items()}
    return Subnetwork(masks, model.architecture, {"sparsity_penalty": 3.0, "converged": True})


@pytest.fixture(scope="session")
def held_out():
    """Three documents of random tokens, some of which `corpus` does not have."""
    generator = np.random.default_rng(7)
    ids = (generator.random(900) ** 2 * 260).astype(np.int64)
    return TokenCorpus(ids, np.array([0, 130, 500]), VOCABULARY, "held out")


@pytest.fixture(scope="session")
def single_tokens():
    """Documents of one token each, in which there is nothing to predict."""
    return TokenCorpus(np.arange(300) % 200, np.arange(300), VOCABULARY, "words")


@pytest.fixture(scope="session")
def unseen():
    """Text that shares no bigram with `table_of_other_text`."""
    return TokenCorpus(np.random.default_rng(0).integers(250, VOCABULARY, 900), np.array([0, 300, 600]), VOCABULARY)


@pytest.fixture(scope="session")
def table_of_other_text():
    return BigramTable.from_corpus(TokenCorpus(np.arange(400) % 100, np.array([0]), VOCABULARY))


def token_ids(seed: int = 0, shape: tuple[int, int] = (2, 9)) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


__all__ = ["bigramlib", "build", "token_ids"]
