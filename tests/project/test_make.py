"""make: values reach the notebooks as they were typed, the store is one, and only `make clean` removes anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bigramlib.models.loading import EMBEDDED
from bigramlib.models.packages import PACKAGED

ROOT = Path(__file__).parents[2]
SETTINGS = ("HF_HUB_DISABLE_TELEMETRY", "WANDB_MODE", "BIGRAMLIB_TEXT_PROGRESS", "TQDM_MININTERVAL")
RECORDER = """#!/bin/sh
for value in "$@"; do printf '%s\\n' "$value"; done > "{calls}/$(basename "$0") $$"
env > "{calls}/env"
case "$3" in check) [ -z "$REFUSED" ] || {{ echo "$REFUSED" >&2; exit 1; }}; echo "${{FOLDER-a-folder}}";; esac
"""


class Checkout:
    """The Makefile among stubs that record what they are called with."""

    def __init__(self, root):
        self.root, self.calls = root, root.parent / "calls"
        self.calls.mkdir()
        for folder in (".venv/bin", "notebooks/settings", "figures/mini", "tests"):
            (root / folder).mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", root)
        for file in ("pyproject.toml", "constraints.txt", ".venv/ready", "notebooks/01_a.ipynb", "notebooks/02_b.ipynb"):
            (root / file).touch()
        for name in ("python", "papermill", "jupyter"):
            self.stub(name, RECORDER.format(calls=self.calls))

    def stub(self, name, script):
        (self.root / ".venv/bin" / name).write_text(script)
        (self.root / ".venv/bin" / name).chmod(0o755)

    def begin(self, *arguments, **environment):
        outside = {
            "MAKEFLAGS",
            "MFLAGS",
            "MAKELEVEL",
            "MODEL",
            "CORPUS",
            "TEXT_COLUMN",
            "DEVICE",
            "NOTEBOOKS",
            "BIGRAMLIB_STORE",
        }
        inherited = {name: value for name, value in os.environ.items() if name not in {*outside, *SETTINGS}}
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
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def called(self, name):
        """The arguments of each call of a stub."""
        return [file.read_text().splitlines() for file in self.calls.glob(f"{name} *")]

    def given(self):
        """What the only notebook run by papermill got, by parameter."""
        (call,) = self.called("papermill")
        return {call[at + 1]: call[at + 2] for at, value in enumerate(call) if value == "-r"}

    def environment(self):
        return dict(line.split("=", 1) for line in (self.calls / "env").read_text().splitlines() if "=" in line)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "a check out")


@pytest.mark.parametrize("variable", ["MODEL", "CORPUS"])
@pytest.mark.parametrize(
    "name",
    [
        "texts",
        "./texts",
        "texts/a.jsonl",
        "with a space/b.txt",
        "it's",
        'a"quote',
        "a$b",
        "a$(b",
        "a`id`",
        "文章",
        "a#b",
        "a.b",
    ],
)
def test_what_lies_beside_the_makefile_is_found_from_the_notebooks(checkout, variable, name):
    (checkout.root / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout.root / name).touch()
    code, output = checkout.make("reproduce", "NOTEBOOKS=01", f"{variable}={name}")
    assert code == 0, output
    given = Path(checkout.given()[variable.lower()])
    assert given.is_absolute() and given.samefile(checkout.root / name)
    checks = [call for call in checkout.called("python") if "check" in call]
    assert f"--{variable.lower()}={given}" in checks[0]


@pytest.mark.parametrize("value", ["alice/base", "alice/base@step3", "gpt2", "hf:allenai/c4:en:train", "/nowhere/at/all"])
def test_a_name_of_nothing_here_stays_as_it_is(checkout, value):
    checkout.make("reproduce", "NOTEBOOKS=01", f"MODEL={value}", f"CORPUS={value}")
    assert checkout.given()["model"] == checkout.given()["corpus"] == value


@pytest.mark.parametrize("value", ["hf:data", "hf:data:en", "hf:data:en:train", "hf:data: of mine"])
def test_a_local_dataset_is_named_by_where_it_lies(checkout, value):
    (checkout.root / "data").mkdir()
    (checkout.root / "data: of mine").mkdir()
    checkout.make("reproduce", "NOTEBOOKS=01", f"CORPUS={value}")
    assert checkout.given()["corpus"] == value.replace("data", f"{checkout.root}/data", 1)


def test_names_that_the_library_knows_are_not_taken_for_folders(checkout):
    known = [line.partition(":= ")[2].split() for line in (ROOT / "Makefile").read_text().splitlines() if "MODELS :=" in line]
    assert known == [[*EMBEDDED, "stories15m", "smollm2-135m-instruct", "gemma-3-270m"]] and set(known[0]) == {
        *EMBEDDED,
        *PACKAGED,
    }
    for name in ("mini", "mini@step256", "sotu", "self"):
        (checkout.root / name).mkdir()
    checkout.make("reproduce", "NOTEBOOKS=01", "MODEL=mini@step256", "CORPUS=self")
    assert checkout.given()["model"] == "mini@step256" and checkout.given()["corpus"] == "self"


def test_other_values_and_the_home_folder_reach_the_notebook(checkout, tmp_path):
    values = {"CORPUS": "~/my texts", "DEVICE": "cuda:0", "TEXT_COLUMN": 'the "text" of $it'}
    checkout.make("reproduce", "NOTEBOOKS=01", *(f"{name}={value}" for name, value in values.items()), HOME=str(tmp_path))
    given = checkout.given()
    assert given["corpus"] == f"{tmp_path}/my texts"
    assert (given["device"], given["text_column"]) == (values["DEVICE"], values["TEXT_COLUMN"])
    assert given["figures"] == f"{checkout.root}/figures"


def test_notebooks_run_in_order_with_the_settings_of_their_model_and_are_kept_by_model(checkout):
    settings = checkout.root / "notebooks/settings/mini/02.yaml"
    settings.parent.mkdir()
    settings.touch()
    code, output = checkout.make("reproduce", "NOTEBOOKS=02 01")
    assert code == 0 and [line[12:14] for line in output.splitlines() if line.startswith("== ")] == ["02", "01"]
    calls = {call[call.index("--log-output") + 1]: call for call in checkout.called("papermill")}
    assert "notebooks/settings/mini/02.yaml" in calls["notebooks/02_b.ipynb"] and "-f" not in calls["notebooks/01_a.ipynb"]
    assert ".executed/a-folder/02.ipynb" in calls["notebooks/02_b.ipynb"]


def test_a_refused_value_runs_nothing_and_leaves_nothing(checkout):
    code, output = checkout.make("reproduce", "MODEL=mistyped", REFUSED="make: There is no model 'mistyped'.")
    assert code != 0 and output.splitlines()[0] == "make: There is no model 'mistyped'."
    assert not checkout.called("papermill")
    assert not (checkout.root / ".executed").exists() and not (checkout.root / ".store").exists()


def test_a_failing_notebook_ends_the_run(checkout):
    checkout.stub("papermill", "#!/bin/sh\nexit 3\n")
    assert checkout.make("reproduce")[0] != 0
    assert not [call for call in checkout.called("python") if "claims" in call]


@pytest.mark.parametrize("target", ["reproduce", "lab", "bench"])
@pytest.mark.parametrize(
    ("named", "expected"),
    [(None, "{root}/.store"), ("", "{root}/.store"), ("my store", "{root}/my store"), ("/a b/c", "/a b/c")],
)
def test_reproduce_lab_and_bench_share_one_store(checkout, target, named, expected):
    checkout.make(target, **({} if named is None else {"BIGRAMLIB_STORE": named}))
    assert checkout.environment()["BIGRAMLIB_STORE"] == expected.format(root=checkout.root)


@pytest.mark.parametrize("target", ["test", "notebooks", "pretrain"])
def test_tests_and_committed_notebooks_keep_out_of_the_users_store(checkout, target):
    for name in ("ruff", "mypy"):
        checkout.stub(name, "#!/bin/sh\n")
    checkout.make(target, f"BIGRAMLIB_STORE={checkout.root}/mine")
    assert checkout.environment()["BIGRAMLIB_STORE"].startswith(f"{checkout.root}/.executed/")


def test_headless_settings_reach_headless_runs_only(checkout):
    checkout.make("reproduce")
    assert set(SETTINGS) <= set(checkout.environment())
    checkout.make("lab")
    assert not set(SETTINGS) & set(checkout.environment())


def test_runs_for_other_models_and_at_the_same_time_keep_each_others_masks(checkout):
    checkout.stub("papermill", '#!/bin/sh\nmkdir -p "$BIGRAMLIB_STORE" && sleep $SLEEP && touch "$BIGRAMLIB_STORE/$FOLDER"\n')
    masks = checkout.root / ".store"
    assert checkout.make("reproduce", "NOTEBOOKS=01", FOLDER="first", SLEEP="0")[0] == 0
    slow = checkout.begin("reproduce", "NOTEBOOKS=01", FOLDER="slow", SLEEP="2")
    assert checkout.make("reproduce", "NOTEBOOKS=01", FOLDER="quick", SLEEP="0")[0] == 0
    assert checkout.make("reproduce", "NOTEBOOKS=01", FOLDER="third", SLEEP="0")[0] == 0
    assert slow.poll() is None and {file.name for file in masks.iterdir()} == {"first", "quick", "third"}
    slow.communicate(timeout=60)
    assert slow.returncode == 0 and {file.name for file in masks.iterdir()} == {"first", "quick", "third", "slow"}


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
