"""Bad input to any public function gets the right error, in a sentence that names the culprit and the remedy."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from conftest import build

from bigramlib import (
    BigramTable,
    ModelTarget,
    SparsifyConfig,
    Subnetwork,
    TokenCorpus,
    evaluate,
    find_subnetwork,
    load_corpus,
    load_model,
)
from bigramlib.analysis.behaviours import Behaviour
from bigramlib.analysis.circuits import part
from bigramlib.analysis.lenses import lens_report, ridge_maps
from bigramlib.analysis.overlap import overlap_test
from bigramlib.analysis.residual import ResidualMoments
from bigramlib.findings.reproduction import check_values
from bigramlib.subnetworks.published import load_published
from bigramlib.text.sources import read_documents


@pytest.fixture(scope="module")
def given(model, tokenizer, corpus, table):
    """What the cases start from."""
    other = build("llama", tokenizer)
    small = TokenCorpus(np.arange(200) % 50, np.array([0]), 50)
    moments = ResidualMoments.collect(model, corpus, max_tokens=64, sequence_length=32)
    return SimpleNamespace(
        model=model, other=other, tokenizer=tokenizer, corpus=corpus, small=small, table=table, moments=moments,
        full=Subnetwork.full(model), strange=BigramTable.from_corpus(small),
    )  # fmt: skip


def config(**values):
    return lambda g: SparsifyConfig(**values)


def ids(values, starts=(0,), size=10):
    return lambda g: TokenCorpus(np.array(values, dtype=np.int64), np.array(starts, dtype=np.int64), size)


def counts(values, unigram):
    return lambda g: BigramTable(scipy.sparse.csr_array(np.array(values)), np.array(unigram))


def values(model="mini", corpus="sotu", device="cpu", notebooks=("01",)):
    return lambda g: check_values(model, corpus, device, list(notebooks))


def nothing_chosen(g):
    zeros = np.zeros((1, 4), dtype=np.int64)
    return Behaviour("vain", zeros, zeros, zeros.astype(bool), zeros)


def bound_elsewhere(g):
    facts = {"model": "another", "weights_hash": "f" * 64}
    return evaluate(g.model, g.corpus, g.table, Subnetwork(g.full.masks, g.full.architecture, facts))


CASES = [
    (
        "penalty below zero",
        config(sparsity_penalty=-1),
        ValueError,
        r"sparsity_penalty .* is -1.0; it must be zero",
    ),
    ("infinite penalty", config(sparsity_penalty=float("inf")), ValueError, r"Use Subnetwork.full or Subnetwork.empty"),
    ("penalty not a number", config(sparsity_penalty=float("nan")), ValueError, r"sparsity_penalty .* is nan; it must be zero"),
    ("no steps", config(steps=0), ValueError, r"steps is 0; it must be a whole number, at least 1"),
    ("no layers", config(layers=0), ValueError, r"layers is 0; it must be a whole number, at least 1"),
    ("no batch", config(batch_size=0), ValueError, r"batch_size is 0; it must be a whole number, at least 1"),
    ("negative length", config(sequence_length=-1), ValueError, r"sequence_length is -1; it must be a whole number"),
    ("no attempts", config(attempts=0), ValueError, r"attempts is 0; it must be a whole number, at least 1"),
    ("negative seed", config(seed=-1), ValueError, r"seed is -1; it must be a whole number, at least 0"),
    ("no learning", config(learning_rate=0.0), ValueError, r"learning_rate is 0.0; it must be a positive number"),
    ("endless learning", config(learning_rate=float("inf")), ValueError, r"learning_rate is inf; it must be a positive number"),
    ("falling beta", config(final_beta=0.5), ValueError, r"final_beta is 0.5; it must be at least 1, where beta starts"),
    ("beta not a number", config(final_beta=float("nan")), ValueError, r"final_beta is nan; it must be at least 1"),
    ("sharpened", config(flattening=1.5), ValueError, r"flattening is 1.5; it must lie between 0 and 1, or be None"),
    ("empty corpus", ids([]), ValueError, r"The corpus 'unnamed' has no tokens; give it some text"),
    ("token beyond", ids([1, 10]), ValueError, r"ids run from 1 to 10, but the vocabulary has 10 .*own tokenizer"),
    ("negative token", ids([-1, 2]), ValueError, r"ids run from -1 to 2, .*tokenize the text with the model's own"),
    ("no first start", ids([1, 2], (1,)), ValueError, r"Document starts must begin with 0 and increase; pass the index"),
    ("starts fall", ids([1, 2, 3], (0, 2, 1)), ValueError, r"Document starts must begin with 0 and increase"),
    ("start beyond", ids([1, 2], (0, 2)), ValueError, r"starts after the last token; pass starts below len"),
    ("sequence too long", lambda g: g.corpus.windows(10**9), ValueError, r"'random' has 1604 tokens .*smaller sequence_length"),
    ("no sequence", lambda g: g.corpus.windows(0), ValueError, r"sequence_length is 0; it must be at least 1"),
    ("too few tokens", lambda g: g.corpus.windows(16, 3), ValueError, r"max_tokens is 3, fewer than .* 16 .*larger max_tokens"),
    ("sample too long", lambda g: g.corpus.sample(1, 10**6, np.random.default_rng(0)), ValueError, r"smaller sequence_length"),
    ("unknown text", lambda g: load_corpus("nowhere", g.tokenizer), ValueError, r"no corpus 'nowhere'; use 'sotu', 'self'"),
    (
        "all held out",
        lambda g: g.model.load_corpus("sotu", evaluation_share=1.0),
        ValueError,
        r"share is 1.0; it must lie",
    ),
    ("nothing held out", lambda g: g.model.load_corpus("sotu", evaluation_share=0.0), ValueError, r"share is 0.0; it must lie"),
    (
        "unknown dataset",
        lambda g: load_corpus("hf:no/such", g.tokenizer),
        ValueError,
        r"'no/such' could not .*check its name",
    ),
    ("missing text", lambda g: list(read_documents("/no/such.txt")), OSError, r"/no/such.txt"),
    ("counts do not fit", counts([[1, 2], [3, 4]], [1]), ValueError, r"shape \(2, 2\) do not fit 1 .*use one vocabulary"),
    ("negative counts", counts([[1, -2], [3, 4]], [1, 1]), ValueError, r"Counts must not be negative"),
    ("infinite counts", counts([[1.0, np.inf], [0, 1]], [1, 1]), ValueError, r"Counts must be finite, so that .*sums to 1"),
    (
        "table of others",
        lambda g: g.strange.bind(g.model),
        ValueError,
        r"table has token ids for a vocabulary of 50, .*own tokenizer",
    ),
    (
        "text of others",
        lambda g: find_subnetwork(g.model, g.table, g.small),
        ValueError,
        r"vocabulary of 50, but the model 'tiny gpt_neox' has 280 tokens; tokenize",
    ),
    (
        "table of another tokenizer",
        lambda g: replace(g.table, tokenizer_hash="another").bind(g.model),
        ValueError,
        r"bigram table has token ids of another tokenizer .*both have 280 tokens; tokenize",
    ),
    (
        "text of another tokenizer",
        lambda g: evaluate(g.model, replace(g.corpus, tokenizer_hash="another"), g.table),
        ValueError,
        r"corpus 'random' has token ids of another tokenizer .*both have 280 tokens; tokenize",
    ),
    ("no surprisals", lambda g: evaluate(g.model, g.corpus, ModelTarget(g.model)), ValueError, r"gives no surprisals"),
    ("evaluated on it", lambda g: evaluate(g.model, g.small, g.table), ValueError, r"vocabulary of 50, but .*own tokenizer"),
    (
        "table in evaluation",
        lambda g: evaluate(g.model, g.corpus, g.strange),
        ValueError,
        r"The bigram table has .* of 50, but",
    ),
    ("batch of none", lambda g: evaluate(g.model, g.corpus, g.table, batch_size=0), ValueError, r"batch_size is 0; it must be"),
    ("no tokens", lambda g: evaluate(g.model, g.corpus, g.table, max_tokens=0), ValueError, r"fewer than one sequence of 128"),
    ("other shape", lambda g: evaluate(g.other, g.corpus, g.table, g.full), ValueError, r"model_type gpt_neox, but .*load the"),
    ("other weights", bound_elsewhere, ValueError, r"found in 'another' with the weights ffff.*load that model .*transplanted"),
    (
        "other target",
        lambda g: ModelTarget(load_model("mini")).bind(g.model),
        ValueError,
        r"has 4096 .*share a vocabulary",
    ),
    ("no such layer", lambda g: Subnetwork.layer(g.model, 2), ValueError, r"no layer 2; the model has 2, numbered from 0"),
    ("no such head", lambda g: Subnetwork.heads(g.model, [(0, -1)]), ValueError, r"no head -1; the model has 2, numbered"),
    ("heads that are no pairs", lambda g: Subnetwork.heads(g.model, [0, 1]), ValueError, r"pairs of layer and head, such as"),
    ("no such dimension", lambda g: Subnetwork.mlp(g.model, 0, [24]), ValueError, r"no MLP dimension 24; the model has 24"),
    ("masks missing", lambda g: Subnetwork({}, g.model.architecture), ValueError, r"Masks must name exactly the maskable"),
    (
        "masks of numbers",
        lambda g: Subnetwork({name: mask.float() for name, mask in g.full.masks.items()}, g.model.architecture),
        ValueError,
        r"is torch.float32 of shape \(48, 16\); it must be a bool tensor of shape \(48, 16\)",
    ),
    (
        "union of strangers",
        lambda g: g.full | Subnetwork.full(g.other),
        ValueError,
        r"combine subnetworks of one model",
    ),
    (
        "overlap of strangers",
        lambda g: overlap_test(g.full, Subnetwork.full(g.other)),
        ValueError,
        r"compare subnetworks of",
    ),
    ("missing mask", lambda g: Subnetwork.load("nowhere.safetensors"), FileNotFoundError, r"no subnetwork file 'nowhere.safe"),
    ("no hub mask", lambda g: Subnetwork.from_pretrained("no/such"), ValueError, r"'no/such' .*check the name and the network"),
    ("missing pickle", lambda g: load_published("nowhere", g.model), FileNotFoundError, r"There is no file 'nowhere'"),
    ("hub place", lambda g: load_published("hf://a/b", g.model), ValueError, r"'hf://a/b' names no file; write hf://owner"),
    ("unknown model", lambda g: load_model("no/such"), ValueError, r"There is no model 'no/such': it is not embedded"),
    ("unknown checkpoint", lambda g: load_model("mini@step7"), ValueError, r"no checkpoint 'step7'; use one of step0"),
    ("unknown device", lambda g: load_model("mini", "abacus"), ValueError, r"device 'abacus' is not available .*use 'cpu'"),
    ("nothing to continue", lambda g: g.model.sample(""), ValueError, r"prompt '' has no tokens; give .* some text"),
    ("nothing to draw", lambda g: g.model.sample("the", tokens=0), ValueError, r"tokens is 0; it must be at least 1"),
    ("nothing chosen", nothing_chosen, ValueError, r"No token of the behaviour 'vain' is chosen; give more text or a looser"),
    ("unknown part", lambda g: part(g.model, "nose 1"), ValueError, r"no part 'nose 1' of 'tiny gpt_neox'; take one of"),
    ("part beyond", lambda g: part(g.model, "head 9.0"), ValueError, r"no part 'head 9.0' .*such as 'head 0.0' or 'mlp 0'"),
    ("unknown boundary", lambda g: ridge_maps(g.moments, 9), ValueError, r"no cross moments with boundary 9; choose one of"),
    (
        "own text",
        lambda g: lens_report(g.model, g.moments, g.corpus),
        ValueError,
        r"on this very text; read them on other",
    ),
    ("lens on others", lambda g: lens_report(g.model, g.moments, g.small), ValueError, r"vocabulary of 50, but the model"),
    ("make MODEL", values(model="nothing/here"), ValueError, r"There is no model 'nothing/here'"),
    ("make CORPUS", values(corpus="nowhere"), ValueError, r"There is no corpus 'nowhere'; use 'sotu'"),
    ("make DEVICE", values(device="abacus"), ValueError, r"DEVICE 'abacus' is not available here; use DEVICE=cpu"),
    ("make NOTEBOOKS", values(notebooks=["77"]), ValueError, r"NOTEBOOKS has '77'; choose from 00 01 02"),
]


@pytest.mark.parametrize(("call", "error", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_is_refused_with_culprit_and_remedy(given, call, error, message):
    with pytest.raises(error, match=message):
        call(given)


def test_the_table_is_large_and_states_every_case_once():
    assert len({case[0] for case in CASES}) == len(CASES) >= 40
