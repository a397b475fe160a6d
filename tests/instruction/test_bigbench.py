"""Tasks of BIG-bench are taken out of an archive that is fetched once, checked, and neither built nor kept."""

import hashlib
import io
import json
import subprocess
import tarfile

import pytest

from bigramlib.instruction import bigbench
from bigramlib.instruction.bigbench import TASKS, members, read_task
from bigramlib.instruction.sources import load_tasks
from bigramlib.models import packages

SAME = [{"input": f"Is {n} even?\n\nSay so: ", "target_scores": {"Yes": 1 - n % 2, "No": n % 2}} for n in range(40)]
OWN = [{"input": f"{n} and one is", "target_scores": {f"{n + 1}.": 1, f"{n}.": 0, f"{n + 2}.": 0.5}} for n in range(40)]
SENTENCES = ("Say it.", "Choose the right answer.")


def content(examples) -> bytes:
    return json.dumps({"description": "Anything", "examples": examples}).encode()


def archive(path, tasks=tuple(TASKS), cut=None):
    """An archive as on PyPI, with a setup.py that must not run."""
    folder = "bigbench-1.0.0/bigbench/benchmark_tasks"
    files = {f"{folder}/{task}/task.json": content(SAME if "boolean" in task else OWN) for task in tasks}
    files["bigbench-1.0.0/setup.py"] = b"raise SystemExit('built')"
    with tarfile.open(path, "w:gz") as tarball:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tarball.addfile(info, io.BytesIO(text))
    path.write_bytes(path.read_bytes()[:cut])
    return path


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A pip that hands out an archive made here, and notes what it was asked."""
    made = archive(tmp_path / "made.tar.gz")
    monkeypatch.setattr(bigbench, "SHA256", hashlib.sha256(made.read_bytes()).hexdigest())
    asked = []

    def run(command, cwd, env, **_):
        asked.append((command, env))
        (cwd / "bigbench-1.0.0.tar.gz").write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return asked


def test_all_tasks_come_from_one_download(shop):
    tasks = load_tasks("bigbench")
    assert [task.name for task in tasks] == [name.replace("/", "_") for name in TASKS]
    assert [task.hash for task in load_tasks("bigbench")] == [task.hash for task in tasks]
    assert len(shop) == 1


def test_only_the_tasks_are_kept(shop, tmp_path):
    load_tasks("bigbench")
    (folder,) = (tmp_path / "store" / "tasks").iterdir()
    kept = {path.name for path in folder.rglob("*")} - {"hashes.json", "LICENCE-NOTE.txt"}
    assert kept == {f"{name.replace('/', '_')}.json" for name in TASKS}
    assert "Apache-2.0" in (folder / "LICENCE-NOTE.txt").read_text()


def test_pip_is_told_the_hash_and_given_a_backend_that_builds_nothing(shop):
    load_tasks("bigbench")
    ((command, environment),) = shop
    assert {"--require-hashes", "--no-build-isolation", "--use-pep517", "--no-deps"} <= set(command)
    assert environment["PYTHONPATH"].endswith("backend")


def test_the_backend_writes_metadata_and_nothing_else(tmp_path):
    space = {}
    exec(bigbench.BACKEND, space)
    name = space["__legacy__"].prepare_metadata_for_build_wheel(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [name, f"{name}/METADATA"]
    assert "Name: bigbench\nVersion: 1.0.0" in (tmp_path / name / "METADATA").read_text()


def test_another_archive_is_refused_and_leaves_nothing(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(bigbench, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"bigbench-1.0.0.tar.gz has the SHA-256 .* instead of 000.*, so it was not read"):
        load_tasks("bigbench")
    assert not list((tmp_path / "store" / "tasks").iterdir())


def test_a_pip_that_cannot_fetch_is_reported(monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found\n")

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(ValueError, match=r"pip could not fetch bigbench==1.0.0 \(ERROR: No matching .*\); install pip, check"):
        load_tasks("bigbench")


def test_an_archive_without_a_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.tar.gz has no task 'social_iqa'; fetch it again"):
        members(archive(tmp_path / "a.tar.gz", [task for task in TASKS if task != "social_iqa"]))


@pytest.mark.parametrize("cut", [0, 20, -200])
def test_a_damaged_archive_is_refused(tmp_path, cut):
    with pytest.raises(ValueError, match=r"The archive a.tar.gz .*; fetch it again"):
        members(archive(tmp_path / "a.tar.gz", cut=cut))


def test_options_of_all_items_become_those_of_the_task(tmp_path):
    (tmp_path / "a.json").write_bytes(content(SAME))
    task = read_task(tmp_path / "a.json", "even", "logic", SENTENCES)
    assert task.options == ("Yes", "No") and task.instructions == SENTENCES
    assert task.pairs[:2] == (("Is 0 even?\nSay so:", "Yes"), ("Is 1 even?\nSay so:", "No"))


def test_options_of_single_items_are_listed_in_an_order_that_does_not_tell_the_answer(tmp_path):
    (tmp_path / "a.json").write_bytes(content(OWN))
    task = read_task(tmp_path / "a.json", "one more", "logic", SENTENCES)
    places = []
    for number, (given, answer) in enumerate(task.pairs):
        first, *choices = given.split("\n")
        assert first == f"{number} and one is" and answer == f"{number + 1}."
        assert set(choices) == {f"choice: {other}." for other in range(number, number + 3)}
        places.append(choices.index(f"choice: {answer}"))
    assert set(places) == {0, 1, 2} and not task.options


def test_repeated_items_are_taken_once_and_contradictions_not_at_all(tmp_path):
    against = {"input": SAME[1]["input"], "target_scores": {"Yes": 1, "No": 0}}
    (tmp_path / "a.json").write_bytes(content([*SAME, SAME[0], against]))
    task = read_task(tmp_path / "a.json", "even", "logic", SENTENCES)
    assert [given.split()[1] for given, _ in task.pairs] == [str(number) for number in range(40) if number != 1]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"examples": [{"input": "a"}]}', '{"examples": [3]}', '{"examples": []}']
)
def test_what_is_no_task_of_choice_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a.json' is no task of choice of BIG-bench"):
        read_task(tmp_path / "a.json", "a", "logic", SENTENCES)
