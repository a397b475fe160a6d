"""Stored things are named by their content and written whole; annotations are enforced while testing."""

import errno
import importlib
import logging
import os
import pkgutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

import bigramlib
from bigramlib import SparsifyConfig, Subnetwork, disk, find_subnetwork, load_corpus, store, tensor_file
from bigramlib.disk import remove_leftovers, written_whole
from bigramlib.store import check_writable, content_hash, locked, set_aside, store_folder, stored_folder, tensors_hash
from bigramlib.subnetworks import file as subnetwork_file
from bigramlib.training.results import stored_subnetwork
from bigramlib.training.run import Run, SavedState

MODULES = [
    module.name for module in pkgutil.walk_packages(bigramlib.__path__, "bigramlib.") if module.name != "bigramlib.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_shape_annotations_are_enforced_in_every_module(name):
    assert "jaxtyping" in type(importlib.import_module(name).__loader__).__module__


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((np.zeros(2, np.int32),), (np.zeros(1, np.int64),)),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        (("a", "b"), ("b", "a")),
        (("ab",), ("a", "b")),
        ((b"a",), ("a",)),
    ],
    ids=["dtype", "shape", "order", "boundary", "bytes"],
)
def test_different_content_has_different_hashes(one, other):
    assert content_hash(*one) != content_hash(*other)


def test_order_of_keys_and_strides_do_not_change_a_hash():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    wide = np.arange(12).reshape(3, 4)
    assert content_hash(wide.T) == content_hash(wide.T.copy())
    a, b = torch.zeros(2), torch.ones(3)
    assert tensors_hash({"a": a, "b": b}) == tensors_hash({"b": b, "a": a}) != tensors_hash({"a": b, "b": a})


def test_the_store_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path / "elsewhere"))
    assert store_folder("corpora") == tmp_path / "elsewhere" / "corpora"
    assert store_folder("corpora").is_dir()


def test_a_failed_write_leaves_nothing_and_a_good_one_replaces_a_folder(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), written_whole(target) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert [file.name for file in target.iterdir()] == ["old"]
    with written_whole(target) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [file.name for file in target.iterdir()] == ["new"]
    assert list(tmp_path.glob(".folder*")) == []


QUICK = SparsifyConfig(sparsity_penalty=1.0, steps=2, batch_size=2, sequence_length=16)


def test_a_folder_is_made_once_and_made_again_only_if_it_is_not_as_it_was_written(tmp_path, caplog):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("content")

    folder = tmp_path / "thing"
    for _ in range(2):
        assert stored_folder(folder, make) == folder
    assert len(made) == 1
    for number, damage in enumerate((lambda file: file.write_text("other"), lambda file: file.unlink())):
        damage(folder / "inner" / "a")
        with caplog.at_level(logging.WARNING):
            stored_folder(folder, make)
        assert len(made) == number + 2 and (folder / "inner" / "a").read_text() == "content"
        aside = "thing.damaged" if number == 0 else "thing.damaged-2"
        assert (tmp_path / aside).is_dir()
        assert f"{folder} was set aside as {aside!r} and is made again: inner/a is missing or not as it was" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "of another run"])
def test_a_damaged_subnetwork_in_the_store_is_named_set_aside_and_trained_again(model, table, corpus, caplog, damage):
    expected = find_subnetwork(model, table, corpus, QUICK)
    (file,) = store_folder("subnetworks").iterdir()
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    if damage == "of another run":
        Subnetwork(expected.masks, expected.architecture, expected.provenance | {"corpus_hash": "another"}).save(file)
    else:
        file.write_bytes({"truncated": content[:-9], "flipped": bytes(flipped), "foreign": b"foreign"}[damage])
    damaged = file.read_bytes()
    with caplog.at_level(logging.WARNING):
        again = find_subnetwork(model, table, corpus, QUICK)
    assert again.hash == expected.hash and Subnetwork.load(file).hash == expected.hash
    assert file.with_name(f"{file.name}.damaged").read_bytes() == damaged
    reason = "its corpus_hash is 'another', not" if damage == "of another run" else "is not a whole subnetwork file"
    assert f"{file} was set aside as '{file.name}.damaged'" in caplog.text and reason in caplog.text


def failing(error):
    def call(*arguments, **options):
        raise error

    return call


@pytest.fixture
def writing_fails(monkeypatch):
    """A function after which nothing can be made, renamed or locked."""

    def begin():
        for name in ("mkdir", "rename", "replace", "unlink"):
            monkeypatch.setattr(os, name, failing(OSError(errno.EROFS, "Read-only file system")))
        monkeypatch.setattr(store.FileLock, "acquire", failing(AssertionError("a lock was taken")))

    return begin


def test_finished_things_are_read_without_a_lock_from_a_store_that_cannot_be_written(
    tokenizer, model, table, corpus, writing_fails, caplog
):
    texts = [f"the cat sat on mat {number}" for number in range(20)]
    before = [split.hash for split in load_corpus(texts, tokenizer)], find_subnetwork(model, table, corpus, QUICK).hash
    writing_fails()
    after = [split.hash for split in load_corpus(texts, tokenizer)], find_subnetwork(model, table, corpus, QUICK).hash
    assert before == after and caplog.text == ""


def test_a_store_that_cannot_be_written_says_so_before_any_work(tokenizer, model, table, corpus, tmp_path, monkeypatch):
    (tmp_path / "store").write_text("a file in its place")
    monkeypatch.setattr("bigramlib.training.search.train", failing(AssertionError("trained")))
    for work in (lambda: load_corpus(["one", "two"], tokenizer), lambda: find_subnetwork(model, table, corpus, QUICK)):
        with pytest.raises(OSError, match=r"Nothing can be kept in .*store.*; set BIGRAMLIB_STORE to a folder of yours"):
            work()


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_all_that_is_stored_has_the_mode_of_the_umask(tokenizer, model, table, corpus, tmp_path, umask):
    before = os.umask(umask)
    try:
        load_corpus(["one", "two"], tokenizer)
        find_subnetwork(model, table, corpus, QUICK).save_pretrained(tmp_path / "store" / "folder")
        SavedState(store_folder("unfinished") / "state").save(Run(), {"a": torch.zeros(1)})
    finally:
        os.umask(before)
    entries = list((tmp_path / "store").rglob("*"))
    assert len({entry.parent for entry in entries}) == 7
    for entry in entries:
        assert stat.S_IMODE(entry.stat().st_mode) == (0o777 if entry.is_dir() else 0o666) & ~umask, entry


def test_folders_keep_the_group_of_the_store(tokenizer, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o2775)
    load_corpus(["one", "two"], tokenizer)
    assert all(entry.stat().st_mode & stat.S_ISGID for entry in (tmp_path / "store").rglob("*") if entry.is_dir())


@pytest.mark.parametrize("kind", ["no locks", "no flock", "not supported", "taken place"])
def test_where_no_lock_can_be_had_the_work_is_done_without_one(tmp_path, monkeypatch, caplog, kind):
    if kind == "no locks":
        monkeypatch.setattr("fcntl.flock", failing(OSError(errno.ENOLCK, "No locks available")))
    elif kind == "no flock":
        monkeypatch.setattr("fcntl.flock", failing(OSError(errno.ENOSYS, "Function not implemented")))
    elif kind == "not supported":
        monkeypatch.setattr(store.FileLock, "_acquire", failing(NotImplementedError()))
    else:
        (store_folder("locks") / f"{tmp_path.name}-thing.lock").mkdir()
    for _ in range(2):
        folder = stored_folder(tmp_path / "thing", lambda folder: (folder / "a").write_text("content"))
    assert (folder / "a").read_text() == "content"
    assert caplog.text.count("is made without a lock") == 1
    assert not [entry for entry in store_folder("locks").iterdir() if entry.is_file() and entry.stat().st_size]


UNREADABLE_NOW = [
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.EIO, "Input/output error"),
    MemoryError("Unable to allocate 1.00 GiB"),
]


@pytest.mark.parametrize("error", UNREADABLE_NOW, ids=str)
@pytest.mark.parametrize("thing", ["subnetwork", "state", "corpus"])
def test_what_cannot_be_read_just_now_is_an_error_that_says_so_and_leaves_the_file(
    tokenizer, model, table, corpus, tmp_path, monkeypatch, thing, error
):
    if thing == "subnetwork":
        find_subnetwork(model, table, corpus, QUICK)
        (file,) = store_folder("subnetworks").iterdir()
        read = lambda: stored_subnetwork(file, {})  # noqa: E731
    elif thing == "state":
        file = store_folder("unfinished") / "state"
        SavedState(file).save(Run(step=3), {"a": torch.zeros(1)})
        read = SavedState(file).load
    else:
        load_corpus(["one", "two"], tokenizer)
        (file,) = store_folder("corpora").glob("*/train.ids.npy")
        read = lambda: load_corpus(["one", "two"], tokenizer)  # noqa: E731
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(subnetwork_file, "safe_open", failing(error))
        patch.setattr(tensor_file, "safe_open", failing(error))
        patch.setattr(Path, "read_bytes", failing(error))
        patch.setattr(np, "load", failing(error))
        with pytest.raises(type(error), match=r"could not be read \(.*\); it was left as it is"):
            read()
    assert file.read_bytes() == before and not list((tmp_path / "store").rglob("*damaged*"))
    assert read()


def test_files_are_read_where_they_cannot_be_mapped_into_memory(tokenizer, model, table, corpus, monkeypatch):
    expected = find_subnetwork(model, table, corpus, QUICK)
    state = SavedState(store_folder("unfinished") / "state")
    state.save(Run(step=3), {"a": torch.arange(3.0)})
    hashes = [split.hash for split in load_corpus(["one", "two"], tokenizer)]
    no_maps = OSError(errno.ENODEV, "No such device")
    monkeypatch.setattr(subnetwork_file, "safe_open", failing(no_maps))
    monkeypatch.setattr(tensor_file, "safe_open", failing(no_maps))
    monkeypatch.setattr(np, "memmap", failing(no_maps))
    assert find_subnetwork(model, table, corpus, QUICK).hash == expected.hash
    run, tensors = state.load()
    assert run.step == 3 and tensors["a"].tolist() == [0, 1, 2]
    assert [split.hash for split in load_corpus(["one", "two"], tokenizer)] == hashes


def test_leftovers_of_the_dead_go_at_once_and_those_of_others_after_a_day(tmp_path):
    dead = 2**22 + 1
    names = {f".thing.{disk._HERE}-{dead}.x": False, f".thing.{disk._HERE}-{os.getpid()}.x": True}
    names |= {f".thing.elsewhere-{dead}.x": True, ".thing.old": False, ".things.old": True}
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").touch()
        if name.endswith("old"):
            os.utime(tmp_path / name / "part", (0, 0))
            os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path / "thing")
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_what_another_process_has_stored_meanwhile_stays(tmp_path):
    def make(folder):
        (folder / "a").write_text("mine")
        (tmp_path / "thing").mkdir()
        (tmp_path / "thing" / "a").write_text("theirs")

    assert (stored_folder(tmp_path / "thing", make) / "a").read_text() == "theirs"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "store"] == ["thing"]


def test_what_another_process_has_set_aside_need_not_be(tmp_path, caplog):
    set_aside(tmp_path / "gone", "it is damaged")
    assert caplog.text == "" and not list(tmp_path.glob("gone*"))


def test_what_is_damaged_and_cannot_be_set_aside_is_an_error(tmp_path, writing_fails):
    (tmp_path / "thing").touch()
    writing_fails()
    with pytest.raises(OSError, match=r"is damaged \(it is short\) and cannot be set aside \(Read-only .*set BIGRAMLIB_STORE"):
        set_aside(tmp_path / "thing", "it is short")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, number):
    (tmp_path / "a").write_text("before")
    with (
        pytest.raises(OSError, match=r"a' could not be written \(.*\); make room there"),
        written_whole(tmp_path / "a") as file,
    ):
        file.write_text("half")
        raise OSError(number, os.strerror(number))
    assert (tmp_path / "a").read_text() == "before" and [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_relative_store_stays_where_it_was_first_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIGRAMLIB_STORE", "my store")
    assert store_folder("corpora") == tmp_path / "my store" / "corpora"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store_folder("corpora") == tmp_path / "my store" / "corpora"


def test_a_store_may_lie_in_the_home_folder_and_without_one_its_name_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BIGRAMLIB_STORE", "~/mine")
    assert store_folder("a") == tmp_path / "mine" / "a"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setattr(store, "PACKAGE", tmp_path / "site-packages" / "bigramlib")
    for named in ("", "~/mine"):
        monkeypatch.setenv("BIGRAMLIB_STORE", named)
        with pytest.raises(ValueError, match=r"There is no home folder .*; set BIGRAMLIB_STORE to a folder"):
            store_folder("corpora")


def test_a_checkout_keeps_its_store_with_it_and_an_installed_package_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("BIGRAMLIB_STORE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(store, "PACKAGE", tmp_path / "checkout" / "bigramlib")
    assert store.store_root() == tmp_path / "home" / ".cache" / "bigramlib"
    (tmp_path / "checkout").mkdir()
    for name in ("pyproject.toml", "Makefile"):
        (tmp_path / "checkout" / name).touch()
    assert store.store_root() == tmp_path / "checkout" / ".store"


def test_the_store_is_tried_without_leaving_anything(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())


def test_the_file_of_a_lock_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        with locked(tmp_path / "thing"):
            (lock,) = store_folder("locks").iterdir()
            assert stat.S_IMODE(lock.stat().st_mode) == 0o664
    finally:
        os.umask(before)


def test_numbers_of_numpy_hash_as_the_numbers_that_they_are():
    assert content_hash({"a": np.int64(3)}, np.float64(0.5)) == content_hash({"a": 3}, 0.5)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_files_are_written_where_the_file_system_knows_no_modes_and_no_flushing(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", failing(OSError(number, os.strerror(number))))
    monkeypatch.setattr(os, "chmod", failing(OSError(number, os.strerror(number))))
    with written_whole(tmp_path / "a") as file:
        file.write_text("content")
    assert (tmp_path / "a").read_text() == "content"


def test_a_disk_that_fails_to_flush_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(OSError(errno.EIO, os.strerror(errno.EIO))))
    with pytest.raises(OSError, match="could not be written"), written_whole(tmp_path / "a") as file:
        file.write_text("content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127])
def test_names_may_be_as_long_as_the_file_system_takes(tmp_path, name):
    with written_whole(tmp_path / name) as file:
        file.write_text("content")
    (leftover := tmp_path / f"{disk._leftover_prefix(tmp_path / name)}{disk._HERE}-{2**22 + 1}.x").mkdir()
    remove_leftovers(tmp_path / name)
    assert (tmp_path / name).read_text() == "content" and not leftover.exists()


def test_of_two_processes_that_commit_at_the_same_moment_both_end_well(tmp_path, monkeypatch):
    replace = Path.replace

    def slower(path, target):
        target.mkdir()
        (target / "a").write_text("theirs")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", slower)
    folder = stored_folder(tmp_path / "thing", lambda folder: (folder / "a").write_text("mine"))
    assert (folder / "a").read_text() == "theirs"
