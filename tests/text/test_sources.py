"""Files of every kind give their documents letter by letter; what is not text is refused, and folders hold no copies."""

import bz2
import csv
import gzip
import json
import lzma
import os
import zipfile

import pandas as pd
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_strangers import mutated

from bigramlib.text.loading import load_corpus
from bigramlib.text.sources import check_source, read_documents

DOCUMENTS = [
    "one dog",
    '  two "cats", and a dog ',
    "three\nlines,\n<b>no</b> markup",
    "NA",
    "null",
    "2020-01-01",
    "7",
    "cœur 日本\u2028",
]


def zstandard(content: bytes) -> bytes:
    return pyarrow.compress(content, "zstd", asbytes=True)


COMPRESSIONS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard,
    ".GZ": gzip.compress,
}


def json_lines(path, documents):
    path.write_text("".join(json.dumps({"n": 1, "text": text}, ensure_ascii=False) + "\n" for text in documents), "utf-8")


def json_array(path, documents):
    path.write_text(json.dumps([{"text": text} for text in documents], indent=1))


def json_strings(path, documents):
    path.write_text(json.dumps(documents))


def table(separator):
    def write(path, documents):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=separator).writerows([["id", "text"], *enumerate(documents)])

    return write


def frame(path, documents):
    with path.open("wb") as file:
        pd.DataFrame({"text": documents}).to_parquet(file)


FORMS = {
    ".jsonl": json_lines, ".NDJSON": json_lines, ".jsonlines": json_lines, ".json": json_lines, ".Json": json_array,
    " array.json": json_strings, ".txt": json_lines, "": json_array, ".csv": table(","), ".CSV": table(","),
    ".tsv": table("\t"), ".parquet": frame, ".PARQUET": frame, ".data": frame,
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMS)
def test_tables_give_their_documents_letter_by_letter(tmp_path, suffix):
    path = tmp_path / f"Überraschung mit Leerzeichen{suffix}"
    FORMS[suffix](path, DOCUMENTS)
    check_source(path)
    assert list(read_documents(path)) == DOCUMENTS


@pytest.mark.parametrize("packed", COMPRESSIONS)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv", ".tsv"])
def test_compressed_files_are_read_as_what_they_hold_whatever_their_name_says(tmp_path, suffix, packed):
    path = tmp_path / f"a{suffix}"
    if suffix == ".txt":
        path.write_text("\n<|endoftext|>\n".join(DOCUMENTS))
    else:
        FORMS[suffix](path, DOCUMENTS)
    content = COMPRESSIONS[packed](path.read_bytes())
    for name in (f"b{suffix}{packed}", f"c{suffix}"):
        (tmp_path / name).write_bytes(content)
        assert list(read_documents(tmp_path / name)) == DOCUMENTS


free_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(
    lambda text: not text.isspace() and "<|endoftext|>" not in text
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(free_text, min_size=2, max_size=6), st.sampled_from(sorted(set(FORMS) - {".txt", "", ".data"})))
def test_any_text_comes_out_of_a_table_as_it_went_in(tmp_path, documents, suffix):
    documents = ["surely no number", *documents]
    FORMS[suffix](tmp_path / f"a{suffix}", documents)
    assert list(read_documents(tmp_path / f"a{suffix}")) == documents


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(free_text, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_plain_text_is_cut_at_the_ends_of_lines_only(tmp_path, documents, end, ended):
    documents = ["surely plain", *(text.replace("\n", " ").replace("\r", " ") for text in documents)]
    text = end.join(documents) + (end if ended else "")
    (tmp_path / "a.txt").write_bytes(text.encode())
    whole = text.replace("\r\n", "\n").replace("\r", "\n")
    assert list(read_documents(tmp_path / "a.txt")) == whole.removesuffix("\n").split("\n")
    (tmp_path / "folder").mkdir(exist_ok=True)
    (tmp_path / "folder" / "a.txt").write_bytes(text.encode())
    assert list(read_documents(tmp_path / "folder")) == [whole]


def office(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<w:document/>")
    return path.read_bytes()


FOREIGN = {
    "a.html": (b"<p>one</p>\n<p>two</p>", "HTML"),
    "a.txt": (b"\n<!-- saved -->\n<!DOCTYPE html>\n<title>one</title>", "HTML"),
    "b.txt": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<doc>one</doc>', "XML"),
    "a.ipynb": (b'{"cells": [],\n "nbformat": 4}', "a notebook"),
    "c.txt": (b"%PDF-1.7\n1 0 obj\n", "a PDF"),
    "d.txt": ("one\ntwo".encode("utf-16"), "UTF-16"),
    "e.txt": ("one\ntwo".encode("utf-16-le"), "UTF-16"),
    "f.txt": (b"\x80\x04\x95\n", "a pickle"),
    "a.pkl": (b"(lp0\n", "a pickle"),
    "g.txt": (b"{\\rtf1 one}", "RTF"),
    "h.txt.gz": (gzip.compress(b"a/b.txt" + bytes(505)), "an archive"),
    "i": (b"\x7fELF\x02\x01\x01\0", "a program's file"),
    "j.txt": (b'<div class="page">\none\n', "HTML or XML"),
    "wiki_00": (b'\n<doc id="12" url="x" title="One">\nOne\n', "HTML or XML"),
    "k.txt": (b"<p>one</p>\n<p>two</p>", "HTML"),
    "l.txt": (b"% a note\n\\documentclass{article}\n", "LaTeX"),
    "m.txt": (b"%!PS-Adobe-3.0\n", "PostScript"),
    "table.csv": (b"<html><body>Please log in\n", "HTML"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_text_is_refused_before_any_work(tmp_path, tokenizer, name):
    content, what = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    for read in (check_source, lambda path: list(read_documents(path)), lambda path: load_corpus(path, tokenizer)):
        with pytest.raises(ValueError, match=f"{name}' is .*{what}.* convert it"):
            read(tmp_path / name)


def test_archives_are_refused_and_a_notebook_by_another_name_too(tmp_path):
    office(tmp_path / "a.docx")
    with pytest.raises(ValueError, match="a zip archive or an office document"):
        check_source(tmp_path / "a.docx")
    notebook = json.dumps({"cells": [{"source": ["one"]}], "nbformat": 4}, indent=1)
    for name in ("a.json", "a.txt"):
        (tmp_path / name).write_text(notebook)
        with pytest.raises(ValueError, match="is not JSON"):
            list(read_documents(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        "< 5 apples\n> 6 pears",
        "<unk> is\nunknown",
        "<a> and <b>",
        "<think>\nso</think>",
        '{"so"}\n{it goes}',
        "<3 you\nbye",
        "[Applause.]\nThank you",
        '["Hi", he said]\n{"so"} it',
        "a\\b\n%d",
    ],
)
def test_prose_with_signs_of_markup_is_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    check_source(tmp_path / "a.txt")
    assert list(read_documents(tmp_path / "a.txt")) == text.split("\n")


def filled(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return folder


def test_hidden_files_and_copies_in_a_folder_are_no_documents(tmp_path):
    shown = ["A.TXT", "b.txt", "deep/er/c.txt"]
    hidden = [
        ".ipynb_checkpoints/b-checkpoint.txt",
        ".git/d.txt",
        "._b.txt",
        "__MACOSX/b.txt",
        "b.txt~",
        ".e.txt",
        "deep/.f/g.txt",
    ]
    found = list(read_documents(filled(tmp_path / ".texts", [*shown, *hidden, "notes.md", "meta.csv"])))
    assert found == [f"text of {name}" for name in shown]


def test_links_in_a_folder_are_followed_once_and_circles_end(tmp_path):
    elsewhere = filled(tmp_path / "elsewhere", ["x.txt", "y.txt"])
    folder = filled(tmp_path / "texts", ["a.txt"])
    (folder / "b.txt").symlink_to(elsewhere / "x.txt")
    (folder / "more").symlink_to(elsewhere)
    (folder / "twice").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    assert list(read_documents(folder)) == ["text of a.txt", "text of x.txt", "text of x.txt", "text of y.txt"]


def test_a_folder_of_tables_gives_the_documents_of_all_and_compressed_texts_are_documents(tmp_path, tokenizer):
    (tmp_path / "tables").mkdir()
    json_lines(tmp_path / "tables" / "1.jsonl", ["one", "two"])
    table(",")(tmp_path / "tables" / "2.csv", ["three"])
    assert list(read_documents(tmp_path / "tables")) == ["one", "two", "three"]
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.txt.gz").write_bytes(gzip.compress(b"one\n\ntwo"))
    (tmp_path / "packed" / "b.txt").touch()
    assert list(read_documents(tmp_path / "packed")) == ["one\n\ntwo", ""]
    assert list(read_documents(filled(tmp_path / "notes", ["a.md", "b.TEXT"]))) == ["text of a.md", "text of b.TEXT"]
    with pytest.raises(ValueError, match="single document"):
        load_corpus(tmp_path / "packed", tokenizer)


def test_a_folder_that_cannot_be_listed_whole_is_an_error(tmp_path, monkeypatch):
    folder = filled(tmp_path / "texts", ["a.txt", "deep/b.txt"])
    whole = os.scandir

    def denied(place):
        if str(place).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(place))
        return whole(place)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(PermissionError, match="deep"):
        list(read_documents(folder))


def test_a_file_is_known_by_what_it_holds_and_not_by_its_name(tmp_path, tokenizer):
    text = "\n".join(f"document {number}" for number in range(20))
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(text)
    hashes = {load_corpus(tmp_path / name, tokenizer)[0].hash for name in ("a.txt", "b.txt")}
    assert len(hashes) == 1 and len(list((tmp_path / "store" / "corpora").iterdir())) == 1


def test_what_names_no_source_is_refused_in_one_short_sentence(tmp_path, tokenizer, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    os.mkfifo(tmp_path / "pipe")
    for source, message in (
        ("a whole text " * 1000, r"There is no corpus 'a whole text .*\.\.\.'; use"),
        ("~/texts", "There is no corpus '~/texts'; use"),
        (str(tmp_path / "pipe"), "is neither a file nor a folder"),
        ("hf:a:b:c:d", "has too many parts"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            load_corpus(source, tokenizer)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("wanted", ["validation", "nonsense:train"])
def test_a_split_or_configuration_that_a_dataset_lacks_is_named(tmp_path, wanted):
    json_lines(tmp_path / "train.jsonl", DOCUMENTS[:3])
    with pytest.raises(ValueError, match=f"hf:.*{wanted}' could not be read .*; check its name, configuration and split"):
        list(read_documents(f"hf:{tmp_path}:{wanted}"))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my texts.txt").write_text("one\ntwo")
    assert list(read_documents("~/my texts.txt")) == ["one", "two"]


def test_a_folder_read_as_a_dataset_leaves_nothing_behind(tmp_path, monkeypatch):
    import datasets

    (tmp_path / "data").mkdir()
    json_lines(tmp_path / "data" / "train.jsonl", ["one", "two"])
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert list(read_documents(f"hf:{tmp_path / 'data'}")) == ["one", "two"]
    assert not list((tmp_path / "cache").iterdir())


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".data"]),
    st.sampled_from(sorted(COMPRESSIONS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
    st.none() | st.floats(0, 1),
)
def test_mutated_files_give_text_or_a_sentence(tmp_path, suffix, packed, change, cut):
    path = tmp_path / f"mutated{suffix}"
    FORMS[suffix](path, DOCUMENTS)
    content = COMPRESSIONS[packed](path.read_bytes()) if suffix != ".parquet" else path.read_bytes()
    path.write_bytes(mutated(content, change, cut))
    try:
        assert all(type(text) is str for text in read_documents(path))
    except ValueError as error:
        assert f"mutated{suffix}" in str(error)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ""]), st.binary(max_size=80))
def test_any_bytes_give_text_or_a_sentence(tmp_path, suffix, content):
    path = tmp_path / f"bytes{suffix}"
    path.write_bytes(content)
    try:
        assert all(type(text) is str for text in read_documents(path))
    except ValueError as error:
        assert f"bytes{suffix}" in str(error)


def test_a_separator_ends_a_document_wherever_it_stands_in_a_file_or_a_folder_of_files(tmp_path):
    (tmp_path / "a.txt").write_text("one\n  two\n<|endoftext|>\nthree<|endoftext|> \nfour<|endoftext|>five\n\nsix")
    (tmp_path / "b.txt").write_text("seven\neight\n")
    documents = ["one\n  two", "three", "four", "five\n\nsix"]
    assert list(read_documents(tmp_path / "a.txt")) == documents
    assert list(read_documents(tmp_path)) == [*documents, "seven\neight\n"]


@pytest.mark.parametrize("form", [json_lines, json_array, json_strings, frame])
def test_a_table_by_the_name_of_a_text_is_read_as_a_table_in_a_folder_too(tmp_path, form):
    form(tmp_path / "a.txt", DOCUMENTS)
    (tmp_path / "b.txt").write_text("plain\ntext")
    assert list(read_documents(tmp_path)) == [*DOCUMENTS, "plain\ntext"]


def test_json_of_another_layout_is_never_counted_as_text(tmp_path):
    (tmp_path / "a.txt").write_text("".join(json.dumps({"text": text}, indent=1) + "\n" for text in DOCUMENTS))
    with pytest.raises(ValueError, match=r"Line 1 of .* is not JSON"):
        list(read_documents(tmp_path / "a.txt"))


@pytest.mark.parametrize("within", [False, True])
def test_pipes_and_links_to_nothing_are_named_and_nobody_waits_for_them(tmp_path, within):
    (tmp_path / "other.txt").write_text("one")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("nowhere")
    for name, message in (("pipe.txt", "neither a file nor a folder"), ("link.txt", "a link to nothing")):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (tmp_path / name).rename(folder / name)
        with pytest.raises(ValueError, match=f"{name}' is {message}"):
            check_source(folder if within else folder / name)


def test_no_name_at_all_is_not_the_folder_where_one_is(tmp_path, monkeypatch, tokenizer):
    filled(tmp_path / "here", ["a.txt"])
    monkeypatch.chdir(tmp_path / "here")
    for read in (check_source, lambda source: list(read_documents(source)), lambda source: load_corpus(source, tokenizer)):
        with pytest.raises(ValueError, match="There is no corpus ''"):
            read("")
    with pytest.raises(ValueError, match="There is no corpus"):
        load_corpus("a\0b", tokenizer)


@pytest.mark.parametrize("name", ["json", "text", "csv", "a/b"])
def test_a_dataset_in_a_folder_is_that_folder_whatever_its_name(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    json_lines(tmp_path / name / "train.jsonl", ["one", "two"])
    for other in ("x.jsonl", "x.csv"):
        FORMS[other[1:]](tmp_path / other, ["of another folder"])
    (tmp_path / "x.txt").write_text("of another folder")
    assert list(read_documents(f"hf:{name}")) == ["one", "two"]


def test_a_dataset_of_markup_or_a_file_in_place_of_one_is_refused_before_any_work(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("<!doctype html>\n<p>one</p>")
    json_lines(tmp_path / "a.jsonl", ["one"])
    for place, message in (("data", "is HTML, not plain text"), ("a.jsonl", "is a file, not a dataset; .* without 'hf:'")):
        for read in (check_source, lambda source: list(read_documents(source))):
            with pytest.raises(ValueError, match=message):
                read(f"hf:{tmp_path / place}")


def test_files_of_other_kinds_in_a_folder_are_left_out_with_a_warning(tmp_path, caplog):
    assert list(read_documents(filled(tmp_path, ["LICENSE.txt", "a.md", "b.jsonl", "c.png"]))) == ["text of LICENSE.txt"]
    assert "is read from its .txt files; 2 others are left out, such as 'a.md'" in caplog.text
