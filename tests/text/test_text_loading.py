"""Text of any form becomes documents of token ids, split by document, once."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigramlib import TokenCorpus, load_corpus
from bigramlib.models.mini import train_tokenizer
from bigramlib.text.loading import held_out
from bigramlib.text.sources import read_documents

DOCUMENTS = [f"the cat sat on mat number {number}, and the dog on rat {number * 7}" for number in range(40)]


def jsonl(path):
    path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in DOCUMENTS))
    return path


def parquet(path):
    pd.DataFrame({"text": DOCUMENTS}).to_parquet(path)
    return path


def folder(path):
    path.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (path / f"{number:03}.txt").write_text(text)
    return path


def parquet_dataset(path):
    path.mkdir()
    parquet(path / "train.parquet")
    return f"hf:{path}"


def dataset(path):
    path.mkdir()
    jsonl(path / "train.jsonl")
    return f"hf:{path}"


def lines(path):
    path.write_text("\n".join(DOCUMENTS))
    return path


def separated(path):
    path.write_text("\n<|endoftext|>\n".join(text.replace(", ", ",\n") for text in DOCUMENTS))
    return path


FORMS = {
    "lines": (lines, "a.txt"),
    "separated": (separated, "b.txt"),
    "folder": (folder, "c"),
    "jsonl": (jsonl, "d.jsonl"),
    "parquet": (parquet, "e.parquet"),
    "hf": (dataset, "f"),
    "hf parquet": (parquet_dataset, "g"),
}


HELD_OUT = [
    (0.3, 0, [2, 4, 6, 13, 16, 19]),
    (0.08, 1, [1, 10, 18]),
    (0.0001, 2, [6]),
]


def texts_of(corpus, tokenizer) -> list[str]:
    return [tokenizer.decode(ids) for ids in np.split(np.asarray(corpus.ids), corpus.starts[1:])]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_documents(form, tmp_path):
    write, name = FORMS[form]
    found = list(read_documents(str(write(tmp_path / name))))
    assert [text.replace("\n", " ") for text in found] == DOCUMENTS


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_and_splits_by_document(form, tmp_path, tokenizer):
    write, name = FORMS[form]
    train, evaluation = load_corpus(write(tmp_path / name), tokenizer, evaluation_share=0.2)
    texts = [
        tokenizer.decode(ids).replace("\n", " ")
        for corpus in (train, evaluation)
        for ids in np.split(np.asarray(corpus.ids), corpus.starts[1:])
    ]
    assert sorted(texts) == sorted(DOCUMENTS)
    assert 0.15 < len(evaluation) / (len(train) + len(evaluation)) < 0.27


def test_the_split_follows_its_seed(tmp_path, tokenizer):
    source = lines(tmp_path / "a.txt")
    hashes = {seed: load_corpus(source, tokenizer, seed=seed)[1].hash for seed in (0, 1)}
    assert hashes[0] != hashes[1]
    assert load_corpus(source, tokenizer, seed=0)[1].hash == hashes[0]


def test_tokens_are_cached_by_content_and_memory_mapped(tmp_path, tokenizer, monkeypatch):
    source = lines(tmp_path / "a.txt")
    first, _ = load_corpus(source, tokenizer)
    assert isinstance(first.ids, np.memmap)
    calls = []
    monkeypatch.setattr("bigramlib.text.loading.write_splits", lambda *a: calls.append(a) or pytest.fail("tokenized again"))
    load_corpus(source, tokenizer)
    assert not calls
    source.write_text(source.read_text() + "\none more line")
    with pytest.raises(pytest.fail.Exception):
        load_corpus(source, tokenizer)


def test_a_dataset_split_and_configuration_are_chosen_by_name(tmp_path):
    dataset(tmp_path / "data")
    (tmp_path / "data" / "test.jsonl").write_text(json.dumps({"text": "held out"}) + "\n")
    assert list(read_documents(f"hf:{tmp_path / 'data'}:test")) == ["held out"]
    assert list(read_documents(f"hf:{tmp_path / 'data'}:default:test")) == ["held out"]


def test_another_text_column_can_be_named(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    train, _ = load_corpus(path, tokenizer, text_column="body")
    assert len(train) > 100


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty; give it some text"),
        ("blank.txt", b"\n  \n\n", "is empty; give it some text"),
        ("single.txt", b"one document only", "is a single document; give at least two"),
        ("latin.txt", "caf\xe9\n".encode("latin-1"), "is not UTF-8 .*iconv"),
        ("column.jsonl", b'{"body": "a"}\n', r"has no column 'text' but \['body'\]; name the text column"),
        ("number.jsonl", b'{"text": 5}\n', "column 'text' of .* holds int, not text; name the text column"),
        ("broken.jsonl", b'{"text": "a"}\n{"text"\n', "Line 2 of .* is not JSON"),
        ("list.jsonl", b"[1]\n", "Line 1 of .* is not a JSON object"),
        ("numbers.json", b'[{"text": "a"}, 1]', "Item 2 of .* is neither a JSON object nor text"),
        ("numbers.csv", b"text\n1\n2.5\n", "column 'text' of .* holds numbers, not text; name the text column"),
        ("comma.csv", b"id,text\n1,one, two\n", "Row 1 of .* has 3 fields, but its header 2; .* into quotes"),
        ("quote.csv", b'text\n"one" two\n', "Line 2 of .* is not CSV"),
        ("column.csv", b"body\none\n", r"has no column 'text' but \['body'\]"),
        ("cut.parquet", b"PAR1 and no more", "is not a whole Parquet file"),
        ("cut.txt.gz", gzip.compress(b"one\ntwo\n", mtime=0)[:-9], "is compressed, and damaged or cut off"),
        ("half.jsonl", b'{"text": "a"}\n{"text": "b \\ud800"}\n', r"Document 2 of .* holds '\\ud800', half of a character"),
        ("same.txt", b"one\none\none\n", "is a single document, 3 times the same; give at least two"),
    ],
)
def test_bad_text_gets_one_clear_sentence_and_leaves_no_cache(tmp_path, tokenizer, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path / name, tokenizer)
    assert not list((tmp_path / "store" / "corpora").glob("*"))


def test_a_parquet_file_without_the_column_is_refused(tmp_path, tokenizer):
    pd.DataFrame({"body": DOCUMENTS}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"has no column 'text' but \['body'\]"):
        load_corpus(tmp_path / "a.parquet", tokenizer)


def test_a_parquet_column_that_is_not_text_is_refused(tmp_path, tokenizer):
    pd.DataFrame({"text": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column 'text' of .* holds int, not text"):
        load_corpus(tmp_path / "a.parquet", tokenizer)


@pytest.mark.parametrize("inside", ["\u2028", "\x0c", "\x85", "\x1c"])
def test_only_newlines_end_a_document(tmp_path, inside):
    documents = [f"one{inside}document", "another"]
    text, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("\n".join(documents) + "\n", encoding="utf-8")
    rows.write_text("".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in documents), encoding="utf-8")
    assert list(read_documents(str(text))) == list(read_documents(str(rows))) == documents


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}', encoding="utf-8-sig")
    assert list(read_documents(str(tmp_path / "a.txt"))) == ["one", "two"]
    assert list(read_documents(str(tmp_path / "a.jsonl"))) == ["one"]


def test_another_split_seed_share_or_tokenizer_is_tokenized_anew(tmp_path, tokenizer, monkeypatch):
    source = lines(tmp_path / "a.txt")
    load_corpus(source, tokenizer)
    monkeypatch.setattr("bigramlib.text.loading.write_splits", lambda *a: pytest.fail("tokenized"))
    for changed in ({"seed": 1}, {"evaluation_share": 0.3}, {"text_column": "body"}):
        with pytest.raises(pytest.fail.Exception, match="tokenized"):
            load_corpus(source, tokenizer, **changed)
    with pytest.raises(pytest.fail.Exception, match="tokenized"):
        load_corpus(source, train_tokenizer(["another text"], 270))


def test_the_held_out_share_is_of_tokens_and_leaves_both_splits_a_document(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text(
        "\n".join([f"{n:05}" for n in range(90)] + ["a cat and a dog and " * 50 + str(n) for n in range(10)])
    )
    train, evaluation = load_corpus(tmp_path / "a.txt", tokenizer, evaluation_share=0.3)
    assert 0.25 < len(evaluation) / (len(train) + len(evaluation)) < 0.45
    train, evaluation = load_corpus(tmp_path / "a.txt", tokenizer, evaluation_share=0.9999)
    assert len(train.starts) == 1
    assert len(evaluation.starts) == 99


def test_unknown_sources_and_empty_folders_are_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="There is no corpus 'nowhere'; use 'sotu', 'self'"):
        load_corpus("nowhere", tokenizer)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"has no \.txt files"):
        load_corpus(tmp_path / "nothing", tokenizer)


def test_a_dataset_that_cannot_be_looked_up_is_named(tokenizer):
    with pytest.raises(ValueError, match="The dataset 'no/such' could not be looked up"):
        load_corpus("hf:no/such", tokenizer)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_zero_to_one_is_refused(tokenizer, share):
    with pytest.raises(ValueError, match=f"evaluation_share is {share}; it must lie between 0 and 1"):
        load_corpus("sotu", tokenizer, evaluation_share=share)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 8), min_size=2, max_size=30).filter(lambda n: len(set(n)) > 1), st.integers(0, 5))
def test_the_same_document_never_stands_in_both_splits_and_counts_stay(tokenizer, numbers, seed):
    documents = [DOCUMENTS[number] for number in numbers]
    train, evaluation = (texts_of(split, tokenizer) for split in load_corpus(documents, tokenizer, seed=seed))
    assert not set(train) & set(evaluation)
    assert sorted(train + evaluation) == sorted(documents)


@pytest.mark.parametrize(("share", "seed", "expected"), HELD_OUT)
def test_documents_that_all_differ_are_split_as_in_earlier_versions(share, seed, expected):
    assert np.flatnonzero(held_out(np.arange(1, 21), share, seed)).tolist() == expected


@pytest.mark.parametrize("form", [list, tuple, np.array, iter, pd.Series])
def test_a_list_of_strings_is_a_corpus(tokenizer, form, model):
    splits = load_corpus(form(DOCUMENTS), tokenizer)
    assert sorted(text for split in splits for text in texts_of(split, tokenizer)) == sorted(DOCUMENTS)
    assert splits[0].name == "list of 40 documents (train)"
    assert model.load_corpus(form(DOCUMENTS))[1].hash == splits[1].hash
    assert load_corpus([*DOCUMENTS[:-1], "another"], tokenizer)[0].hash != splits[0].hash


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (["one", 2], "Document 2 of the list is a int; give a list of strings"),
        ([None, "two"], "Document 1 of the list is a NoneType"),
        ({"a": "one", "b": "two"}, "not a dict"),
        ({"one", "two"}, "not a set"),
        ([b"one", b"two"], "Document 1 of the list is a bytes"),
        (["one only"], "list of 1 documents' is a single document; give at least two"),
        ([], "list of 0 documents' is empty"),
        (["one", "two \ud83d"], r"Document 2 of 'the list' holds '\\ud83d', half of a character"),
    ],
)
def test_a_list_of_something_else_is_refused(tokenizer, documents, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(documents, tokenizer)


def test_a_model_reads_another_text_column(tmp_path, model):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    train, evaluation = model.load_corpus(tmp_path / "a.jsonl", text_column="body")
    assert len(train.starts) + len(evaluation.starts) == len(DOCUMENTS)


def test_the_default_corpus_is_there():
    documents = list(read_documents("sotu"))
    assert len(documents) > 200
    assert documents[0].startswith("Fellow-Citizens of the Senate")


def test_documents_that_differ_in_white_space_only_stand_in_one_split(tokenizer):
    texts = [f"{end}the{space}cat {number} sat{end}" for number in range(12) for space in " \t" for end in ("", "\n", "  ")]
    for seed in range(5):
        splits = load_corpus(texts, tokenizer, seed=seed, evaluation_share=0.3)
        documents = [np.split(np.asarray(split.ids), split.starts[1:]) for split in splits]
        words = [{" ".join(tokenizer.decode(ids).split()) for ids in split} for split in documents]
        assert not words[0] & words[1] and sum(len(split.starts) for split in splits) == len(texts)


def test_a_table_of_pandas_is_not_taken_for_the_list_of_its_columns(tokenizer):
    table = pd.DataFrame({"id": range(3), "text": ["one dog", "two cats", "three rats"]})
    with pytest.raises(ValueError, match="A DataFrame is a table; give its text column"):
        load_corpus(table, tokenizer)
    assert load_corpus(table.text, tokenizer)[0].hash == load_corpus(list(table.text), tokenizer)[0].hash


def test_a_share_may_come_as_a_text_and_what_is_no_number_is_refused_in_a_sentence(tokenizer):
    texts = [f"the cat sat on mat {number}" for number in range(20)]
    hashes = {load_corpus(texts, tokenizer, evaluation_share=share)[0].hash for share in ("2e-1", 0.2, np.float64(0.2))}
    assert len(hashes) == 1
    for share in ("many", True):
        with pytest.raises(ValueError, match=r"evaluation_share is .*; it must be a number"):
            load_corpus(texts, tokenizer, evaluation_share=share)


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, np.uint8])
def test_numbers_of_every_kind_are_taken_and_give_the_same_text(tmp_path, tokenizer, kind):
    source = lines(tmp_path / "a.txt")
    train, evaluation = load_corpus(source, tokenizer, seed=kind(3), evaluation_share=np.float64(0.25))
    assert evaluation.hash == load_corpus(source, tokenizer, seed=3, evaluation_share=0.25)[1].hash
    assert np.array_equal(train.windows(kind(8), kind(64))[0], train.windows(8, 64)[0])
    assert np.array_equal(train.documents(kind(8), kind(64)), train.documents(8, 64))


@pytest.mark.parametrize("number", [1.5, float("nan"), float("inf")])
def test_numbers_that_are_not_whole_are_refused(tmp_path, tokenizer, number):
    corpus = TokenCorpus(np.arange(80), np.array([0]), 80)
    with pytest.raises(ValueError, match=r"max_tokens is .*; it must be a whole number"):
        corpus.windows(8, number)
    with pytest.raises(ValueError, match=r"seed is .*; it must be a whole number"):
        load_corpus(lines(tmp_path / "a.txt"), tokenizer, seed=number)
    with pytest.raises(ValueError, match=r"seed is -1; it must be at least 0"):
        load_corpus(tmp_path / "a.txt", tokenizer, seed=-1)


def test_a_corpus_knows_what_it_came_from(tmp_path, model):
    source = str(lines(tmp_path / "a.txt"))
    for split, kind in zip(model.load_corpus(source), ("train", "evaluation"), strict=True):
        assert (split.source, split.name, split.description) == (
            source,
            f"{source} ({kind})",
            f"The corpus '{source} ({kind})'",
        )
    assert {split.source for split in model.load_corpus(DOCUMENTS)} == {"list of 40 documents"}
