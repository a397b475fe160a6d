"""The wheel is whole: installed without the repository it does what the README says, from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[2]
EXTRA = ("ipywidgets", "jupyterlab", "nbformat", "papermill")
EVERYTHING = """
import contextlib, importlib, io, pkgutil, runpy, sys
from pathlib import Path

sys.modules.update(dict.fromkeys(EXTRA))  # as if the extra "notebooks" were not installed

sys.argv[1:], said = ["--help"], io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
    runpy.run_module("bigramlib", run_name="__main__", alter_sys=True)  # python -m bigramlib --help
assert said.getvalue().startswith("usage: bigramlib"), said.getvalue()

import bigramlib
from bigramlib.models.loading import checkpoint_names
from bigramlib.store import store_root

for module in pkgutil.walk_packages(bigramlib.__path__, "bigramlib."):
    assert Path(importlib.import_module(module.name).__file__).is_relative_to(TARGET), module.name
assert store_root() == Path.home() / ".cache" / "bigramlib", store_root()
assert len(checkpoint_names("mini")) > 1
for name in checkpoint_names("mini").values():
    bigramlib.load_model(name)
"""

SHORT_SEARCHES = """
from bigramlib import SparsifyConfig
SparsifyConfig.suited = classmethod(lambda cls, model, target, penalty, seed: cls(penalty, steps=1))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    shutil.copytree(ROOT / "bigramlib", source / "bigramlib", ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source)
    (file,) = built.glob("bigramlib-*.whl")
    return file


def pip(*arguments: object) -> None:
    options = ("--quiet", "--no-index", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", arguments[0], *options, *map(str, arguments[1:])], check=True)


def readme_code() -> str:
    """The README's code on a few sentences, with searches of one training step."""
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    texts = [f"The Congress of the {number} States, and the people of the States. " * 40 for number in range(40)]
    assert code.count('"sotu"') == 1
    return SHORT_SEARCHES + code.replace('"sotu"', repr(texts))


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bigramlib").rglob("*") if path.is_file()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert packed == {name for name in files if "__pycache__" not in name}


def test_installed_without_repository_and_extras_all_modules_checkpoints_and_the_code_of_the_readme_run(wheel, tmp_path):
    """In one process, as importing takes longer than all the rest."""
    target, home = tmp_path / "target", tmp_path / "home"
    home.mkdir()
    pip("install", "--no-deps", "--no-compile", "--target", target, wheel)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BIGRAMLIB_")}
    environment |= {"PYTHONPATH": str(target), "HOME": str(home), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    script = f"EXTRA, TARGET = {EXTRA}, {str(target)!r}\n{EVERYTHING}\n{readme_code()}"
    done = subprocess.run([sys.executable, "-"], input=script, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    density, r = map(float, done.stdout.split())
    assert 0 < density <= 1 and -1 <= r <= 1
    assert (home / "bigram.safetensors").is_file()
    assert (home / ".cache" / "bigramlib" / "subnetworks").is_dir()
