"""make: values reach the library as they were typed, the store is one, and only `make clean` removes anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from bigramlib.__main__ import DEFAULTS

ROOT = Path(__file__).parents[2]
RECORDER = """#!/bin/sh
for value in "$@"; do printf '%s\\n' "$value"; done > "{calls}/$(basename "$0") $$"
env > "{calls}/env"
"""
PARAMETERS = "\n".join(f"{name} = None" for name in ("corpus", "text_column", "device", "figures"))
NOTEBOOK = """
from pathlib import Path
Path(figures).mkdir(exist_ok=True)
(Path(figures) / "given").write_text("\\n".join([model, corpus, text_column, device]))
"""


class Checkout:
    """The Makefile among stubs that record what they are called with."""

    def __init__(self, root):
        self.root, self.calls = root, root.parent / "calls"
        self.calls.mkdir()
        for folder in (".venv/bin", "notebooks", "figures/mini"):
            (root / folder).mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", root)
        for file in ("pyproject.toml", "constraints.txt", ".venv/ready"):
            (root / file).touch()
        for name in ("python", "jupyter", "ruff", "mypy", "lint-imports"):
            self.stub(name, RECORDER.format(calls=self.calls))

    def stub(self, name, script):
        (self.root / ".venv/bin" / name).write_text(script)
        (self.root / ".venv/bin" / name).chmod(0o755)

    def begin(self, *arguments, **environment):
        outside = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "BIGRAMLIB_STORE", *DEFAULTS}
        inherited = {name: value for name, value in os.environ.items() if name not in outside}
        return subprocess.Popen(
            ["make", "-s", *arguments],
            cwd=self.root,
            env=inherited | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def make(self, *arguments, **environment):
        process = self.begin(*arguments, **environment)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def called(self, name):
        """The arguments of each call of a stub."""
        return [file.read_text().splitlines() for file in self.calls.glob(f"{name} *")]

    def environment(self):
        return dict(line.split("=", 1) for line in (self.calls / "env").read_text().splitlines() if "=" in line)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "a check out")


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize(
    "value",
    ["texts", "", "a space/b.txt", "it's", 'the "text" of $it', "a$b", "$(shell id)", "a`id`", "文章", "a#b", "a\\b", "~/c"],
)  # fmt: skip
def test_values_reach_the_library_as_they_were_typed(checkout, value, how):
    given = dict.fromkeys([*DEFAULTS, "BIGRAMLIB_STORE"], value)
    arguments, outside = (map("=".join, given.items()), {}) if how == "argument" else ([], given)
    code, output = checkout.make("reproduce", *arguments, **outside)
    assert code == 0, output
    assert checkout.environment().items() >= given.items()


def test_what_is_not_given_is_left_to_the_library(checkout):
    checkout.make("reproduce")
    assert not {*DEFAULTS, "BIGRAMLIB_STORE"} & set(checkout.environment())


@pytest.mark.parametrize("target", ["reproduce", "figures", "pretrain", "notebooks", "report"])
def test_notebooks_are_executed_by_the_library(checkout, target):
    assert checkout.make(target) == (0, "")
    assert checkout.called("python") == [["-m", "bigramlib", target]]


def test_values_with_spaces_and_quotes_reach_the_notebook_from_the_command_line_of_make(checkout, tmp_path):
    checkout.stub("python", f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(NOTEBOOK),
    ]
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), checkout.root / "notebooks/01_a.ipynb")
    (checkout.root / "it's my $text.txt").write_text("text")
    given = ["NOTEBOOKS=01", "CORPUS=it's my $text.txt", 'TEXT_COLUMN=the "text" of $it']
    code, output = checkout.make("reproduce", *given, BIGRAMLIB_STORE=str(tmp_path / "store"), PROCESSES="1")
    assert code == 0, output
    assert "== notebook 01 on mini\n" in output and "Claims checked on mini (0 of 0 hold):" in output
    expected = ["mini", f"{checkout.root}/it's my $text.txt", 'the "text" of $it', "cpu"]
    assert (checkout.root / "figures/given").read_text().splitlines() == expected
    code, output = checkout.make("reproduce", "MODEL=mistyped", BIGRAMLIB_STORE=str(tmp_path / "store"))
    assert code != 0 and output.startswith("make: NOTEBOOKS has '02'; choose from 01.\n")


@pytest.mark.parametrize("target", ["reproduce", "pretrain", "notebooks", "report", "lab", "bench", "test", "cluster-test"])
def test_a_failing_command_fails_the_target(checkout, target):
    for name in ("python", "jupyter"):
        checkout.stub(name, "#!/bin/sh\nexit 3\n")
    assert checkout.make(target)[0] != 0


def test_all_checks_are_made_before_the_notebooks_are_executed_anew(checkout):
    assert checkout.make("test")[0] == 0
    assert checkout.called("ruff") and checkout.called("mypy") == checkout.called("lint-imports") == [[]]
    side_by_side = ["-m", "pytest", "-q", "--numprocesses", "2", "--dist", "worksteal"]
    tests = [side_by_side, ["-m", "pytest", "-q", "-s", "tests/project/committed_notebooks.py"]]
    assert sorted(checkout.called("python")) == tests


def test_what_the_tests_on_slurm_lack_is_said_before_anything_is_built(checkout):
    (checkout.root / ".venv/ready").unlink()
    code, output = checkout.make("cluster-test", "SLURM=sh no-such-daemon", "PYTHON=false")
    assert code != 0 and output.startswith("make: no-such-daemon is missing; apt-get install slurm-wlm munge ")


def test_the_tests_on_slurm_are_run_where_its_programs_are(checkout):
    assert checkout.make("cluster-test", "SLURM=sh")[0] == 0
    assert checkout.called("python") == [["-m", "pytest", "-q", "-s", "tests/cluster/on_slurm.py"]]


@pytest.mark.parametrize(
    ("named", "expected"),
    [(None, None), ("", ""), ("my store", "{root}/my store"), ("/a b/c", "/a b/c"), ("~/a$b", "~/a$b"), ("a$b", "{root}/a$b")],
)
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_relative_stores_count_from_the_checkout_in_jupyterlab_too(checkout, named, expected, how):
    given = {} if named is None else {"BIGRAMLIB_STORE": named}
    checkout.make("lab", *map("=".join, given.items())) if how == "argument" else checkout.make("lab", **given)
    found = checkout.environment().get("BIGRAMLIB_STORE")
    assert found == (expected and expected.format(root=checkout.root))


@pytest.mark.parametrize(("user", "options"), [("0", ["--allow-root"]), ("1000", [])])
def test_jupyterlab_starts_for_root_too_as_in_a_container(checkout, user, options):
    checkout.stub("id", f"#!/bin/sh\necho {user}\n")
    checkout.make("lab", PATH=f"{checkout.root}/.venv/bin:{os.environ['PATH']}")
    assert checkout.called("jupyter") == [["lab", "--notebook-dir=notebooks", *options]]


def test_runs_at_the_same_time_do_not_disturb_each_other(checkout):
    checkout.stub("python", '#!/bin/sh\nmkdir -p .store && sleep $SLEEP && touch ".store/$FOLDER"\n')
    masks = checkout.root / ".store"
    assert checkout.make("reproduce", FOLDER="first", SLEEP="0")[0] == 0
    slow = checkout.begin("reproduce", FOLDER="slow", SLEEP="2")
    assert checkout.make("reproduce", FOLDER="quick", SLEEP="0")[0] == 0
    assert slow.poll() is None and {file.name for file in masks.iterdir()} == {"first", "quick"}
    slow.communicate(timeout=60)
    assert slow.returncode == 0 and {file.name for file in masks.iterdir()} == {"first", "quick", "slow"}


def test_clean_removes_what_is_the_checkouts_own_and_says_so(checkout, tmp_path):
    for folder in (".store/subnetworks", ".executed/mini"):
        (checkout.root / folder).mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    code, output = checkout.make("clean", BIGRAMLIB_STORE=str(tmp_path / "mine"))
    assert code == 0 and f"removing {checkout.root}/.store" in output and f"removing {checkout.root}/.executed" in output
    assert not (checkout.root / ".store").exists() and not (checkout.root / ".executed").exists()
    assert (tmp_path / "mine").exists() and (checkout.root / "figures/mini").exists()
    assert checkout.make("clean") == (0, "")


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize("named", [".store", ".store/mine", "{root}/.store/mine", ".store/a$b $(c)", "~/.store/mine"])
def test_clean_never_removes_a_store_that_the_user_named(checkout, tmp_path, named, how):
    for folder in ("mine", "a$b $(c)"):
        (checkout.root / ".store" / folder).mkdir(parents=True)
    (tmp_path / ".store" / "mine").mkdir(parents=True)
    given = {"BIGRAMLIB_STORE": named.format(root=checkout.root)}
    arguments, outside = (["=".join(*given.items())], {}) if how == "argument" else ([], given)
    code, output = checkout.make("clean", *arguments, HOME=str(checkout.root), CDPATH=str(tmp_path), **outside)
    assert code == 0 and ".store is left" in output and (checkout.root / ".store/mine").exists()
