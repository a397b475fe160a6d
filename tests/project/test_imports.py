"""What is slow to import is imported when it is needed, and not before."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bigramlib

SLOW = ("transformers", "transformer_lens", "scipy.stats", "matplotlib", "datasets")
LIGHT = (
    "import bigramlib",
    "from bigramlib import BigramTable, SparsifyConfig, Subnetwork, TokenCorpus, TrigramTable, load_corpus",
)


@pytest.mark.parametrize("code", [*LIGHT, "import bigramlib.__main__; bigramlib.__main__.command_line()"])
def test_it_imports_nothing_slow(code):
    said = subprocess.check_output([sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], text=True)
    assert "bigramlib" in said.split() and not set(SLOW) & set(said.split())


def test_type_checkers_see_the_names_and_places_that_are_imported_when_asked_for():
    tree = ast.parse(Path(bigramlib.__file__).read_text())
    seen = {
        alias.asname: node.module.removeprefix("bigramlib.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("bigramlib.")
        for alias in node.names
    }
    assert seen == bigramlib.MODULES | {"__version__": "version"}


def test_public_names_are_listed_and_others_are_unknown():
    assert set(bigramlib.__all__) <= set(dir(bigramlib))
    assert all(getattr(bigramlib, name).__module__ == f"bigramlib.{place}" for name, place in bigramlib.MODULES.items())
    with pytest.raises(AttributeError, match="module 'bigramlib' has no attribute 'nothing'"):
        _ = bigramlib.nothing
