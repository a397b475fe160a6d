"""The survey finds every model's bigram subnetworks in the store, and only those."""

import numpy as np
import pandas as pd
import pytest
from conftest import WORDS, build
from pandas.testing import assert_frame_equal
from safetensors.numpy import save_file

from bigramlib import BigramTable, ModelTarget, SparsifyConfig, Subnetwork, find_subnetwork, load_model, randomly_initialized
from bigramlib.analysis.controls import smallest_reaching
from bigramlib.findings.across_models import judge, plot_models, survey, surveyed_names
from bigramlib.store import store_folder


@pytest.fixture
def on_disk(tokenizer, tmp_path):
    """A model folder and a text of many small documents."""
    build("gpt_neox", tokenizer).hf.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(WORDS, 40)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return str(tmp_path / "tiny"), str(tmp_path / "text.txt")


def test_models_and_their_bigram_subnetworks_are_found(on_disk):
    name, source = on_disk
    model = load_model(name)
    train, _ = model.load_corpus(source, evaluation_share=0.08)
    table = BigramTable.from_corpus(train)
    short = {"steps": 3, "batch_size": 2, "sequence_length": 16}
    wanted = find_subnetwork(model, table, train, SparsifyConfig(sparsity_penalty=1.0, **short | {"steps": 5}))
    other = find_subnetwork(model, table, train, SparsifyConfig(sparsity_penalty=2.0, **short))
    find_subnetwork(model, table, train, SparsifyConfig(sparsity_penalty=1.0, **short))
    find_subnetwork(model, ModelTarget(model), train, SparsifyConfig(sparsity_penalty=1.0, **short))
    find_subnetwork(randomly_initialized(model), table, train, SparsifyConfig(sparsity_penalty=1.0, **short))
    assert surveyed_names() == {name: source}
    found = survey(name, source)
    assert {penalty: subnetwork.hash for penalty, subnetwork in found.subnetworks.items()} == {
        1.0: wanted.hash,
        2.0: other.hash,
    }
    study = found.study
    assert (study.model.name, study.model.hash, study.table.hash) == (name, model.hash, table.hash)
    points = found.points(512)
    assert_frame_equal(points.drop(columns="model"), study.frontier(found.subnetworks, max_tokens=512))
    row = found.summary(points, 512)
    best = smallest_reaching(points, 0.95)
    chosen = found.subnetworks[best.sparsity_penalty]
    assert set(points.model) == {name} and row["turn at layer"] in (1, 2)
    assert (row["kept"], row["share kept"], row["in first MLP"]) == (chosen.kept, chosen.density, chosen.first_mlp_share())
    damage = study.ablate(chosen, draws=1, max_tokens=512)
    assert (row["r"], row["full r"]) == (best.r, points.r[0])
    assert row["without it, nats"] == damage.rise["full - subnetwork"]
    assert row["without random, nats"] == damage.rise["full - random"]
    assert row["parameters"] == model.hf.num_parameters() and row["maskable"] == chosen.total


def test_only_the_masks_that_are_shown_are_read(on_disk, monkeypatch):
    name, source = on_disk
    model = load_model(name)
    train, _ = model.load_corpus(source, evaluation_share=0.08)
    table = BigramTable.from_corpus(train)
    short = {"batch_size": 2, "sequence_length": 16}
    for steps, penalty in ((3, 1.0), (4, 1.0), (5, 1.0), (3, 2.0)):
        find_subnetwork(model, table, train, SparsifyConfig(sparsity_penalty=penalty, steps=steps, **short))
    find_subnetwork(model, ModelTarget(model), train, SparsifyConfig(sparsity_penalty=1.0, steps=3, **short))
    read, load = [], Subnetwork.load
    monkeypatch.setattr(Subnetwork, "load", lambda file: read.append(file) or load(file))
    assert surveyed_names() == {name: source} and not read
    assert [found.provenance["steps"] for found in survey(name, source).subnetworks.values()] == [5, 3]
    assert len(read) == 2


def test_a_damaged_mask_gives_way_to_the_next(on_disk, caplog):
    name, source = on_disk
    model = load_model(name)
    train, _ = model.load_corpus(source, evaluation_share=0.08)
    table = BigramTable.from_corpus(train)
    for steps in (3, 4):
        config = SparsifyConfig(sparsity_penalty=1.0, steps=steps, batch_size=2, sequence_length=16)
        find_subnetwork(model, table, train, config)
    best = next(file for file in store_folder("subnetworks").iterdir() if Subnetwork.load(file).provenance["steps"] == 4)
    content = bytearray(best.read_bytes())
    content[-1] ^= 255
    best.write_bytes(content)
    assert survey(name, source).subnetworks[1.0].provenance["steps"] == 3
    assert "A file of the store is left out" in caplog.text


def test_a_model_without_subnetworks_is_refused(on_disk):
    name, source = on_disk
    with pytest.raises(ValueError, match=r"no bigram subnetwork of any model; run notebook 02"):
        surveyed_names()
    with pytest.raises(ValueError, match=r"The store holds no bigram subnetwork of .*; run notebook 02"):
        survey(name, source)


def test_what_is_no_bigram_subnetwork_that_can_be_read_is_left_out(on_disk, tmp_path, caplog):
    name, source = on_disk
    model = load_model(name)
    config = SparsifyConfig(sparsity_penalty=1.0, steps=3, batch_size=2, sequence_length=16)
    for text in (source, ["the cat sat on mat one", "a dog met a rat and a cat"] + ["and so on"] * 20):
        train, _ = model.load_corpus(text)
        find_subnetwork(model, BigramTable.from_corpus(train), train, config)
    folder = tmp_path / "store" / "subnetworks"
    Subnetwork.full(model).save(folder / "made by hand.safetensors")
    save_file({"a": np.zeros(2)}, folder / "foreign.safetensors")
    (folder / "empty.safetensors").touch()
    (folder / "folder.safetensors").mkdir()
    (folder / "link.safetensors").symlink_to("nowhere")
    assert surveyed_names() == {name: source} and set(survey(name, source).subnetworks) == {1.0}
    for left in ("foreign", "empty", "folder", "link", "There is no corpus 'list of 22 documents'"):
        assert left in caplog.text


@pytest.fixture
def store(model, tmp_path):
    """Puts a subnetwork with some provenance into the store."""
    folder = tmp_path / "store" / "subnetworks"
    folder.mkdir(parents=True)
    needed = {"target_hash": "", "sparsity_penalty": 1.0, "config": {}, "steps": 1}

    def put(name, corpus="sotu (train)", **facts):
        subnetwork = Subnetwork(
            Subnetwork.mlp(model, 0).masks, model.architecture, needed | {"model": name, "corpus": corpus} | facts
        )
        subnetwork.save(folder / f"{len(list(folder.iterdir()))}.safetensors")

    return put


def test_controls_are_left_out_and_checkpoints_of_a_model_whose_last_one_is_there(store):
    for name in ("mini", "mini@step32", "mini (random, seed 0)", "someone/other@main"):
        store(name)
    assert surveyed_names() == {"mini": "sotu", "someone/other@main": "sotu"}


def test_what_the_fields_of_a_provenance_say_goes_before_names(store):
    fields = {"model_source": "one", "model_revision": "", "model_origin": "pretrained", "corpus_source": "self"}
    store("one", corpus="drawn by one", **fields)
    store("other", corpus="sotu", **fields | {"model_origin": "random"})
    store("one+tuned-0123", corpus="sotu", **fields | {"model_origin": "tuned"})
    assert surveyed_names() == {"one": "self"}


def test_only_the_models_that_are_wanted_are_named(store):
    store("mini")
    store("someone/other")
    assert list(surveyed_names(["mini"])) == ["mini"]
    assert list(surveyed_names()) == ["mini", "someone/other"]
    with pytest.raises(ValueError, match=r"no bigram subnetwork of 'third', only of mini, someone/other; run notebook 02"):
        surveyed_names(["mini", "third"])


def summary(r=0.96, without=3.0, random=0.1, names=("mini", "other")):
    rows = pd.DataFrame({"model": names, "r": [r, 0.8][: len(names)], "without it, nats": [3.0, without][-len(names) :]})
    return rows.assign(**{"without random, nats": random}).set_index("model")


@pytest.mark.parametrize(
    ("values", "reaches", "costs"),
    [
        ({}, True, True),
        ({"r": 0.94}, False, True),
        ({"names": ("other",)}, False, True),
        ({"without": 0.05}, True, False),
        ({"names": ("mini",)}, True, True),
    ],
)
def test_all_models_together_are_judged_by_their_rows(values, reaches, costs):
    assert judge(summary(**values)) == {
        "mini reaches r > 0.95": reaches,
        "removing the subnetwork costs more than removing random weights, in every model": costs,
    }


def frontier_of(model, *, total=1000):
    rows = pd.DataFrame({"case": ["full", "subnetwork", "subnetwork"], "kept": [total, 100, 10], "total": total})
    return rows.assign(model=model, r=[0.5, 0.96, 0.8], r_low=0.7, r_high=0.99)


def test_each_model_is_drawn_over_weights_and_over_their_share(axes):
    plot_models(axes[:2], pd.concat([frontier_of("mini"), frontier_of("other", total=10_000)]))
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["mini", "other"]
    lines = [[list(container.lines[0].get_xdata()) for container in place.containers] for place in axes[:2]]
    assert lines == [[[10, 100], [10, 100]], [[0.01, 0.1], [0.001, 0.01]]]
    assert list(axes[0].containers[0].lines[0].get_ydata()) == [0.8, 0.96]


def test_one_model_with_one_subnetwork_is_drawn(axes):
    plot_models(axes[:2], frontier_of("mini").head(2))
    assert [len(place.containers) for place in axes[:2]] == [1, 1]
