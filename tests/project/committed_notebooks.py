"""The committed notebooks, executed anew, show what they showed. It takes half an hour: `make test` names this file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from figure_comparison import folder_differences

from bigramlib.findings.notebooks import HEADLESS, copy_with_figures

ROOT = Path(__file__).parents[2]
ANEW = ROOT / ".executed" / "test"
LIVE = "02_find_subnetworks.ipynb"


@pytest.fixture(scope="module")
def anew():
    """Copies of the notebooks, which write their figures into made/, beside the committed figures and an empty store."""
    shutil.rmtree(ANEW, ignore_errors=True)
    shutil.copytree(ROOT / "figures", ANEW / "figures")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        copy_with_figures(path, ANEW / "notebooks" / path.name, "../made")
    return ANEW


def compare_outputs(*arguments):
    """Execute notebooks by nbval, which compares their outputs with those that they hold."""
    options = ["--nbval", "--nbval-cell-timeout", "1200", "-p", "no:cacheprovider", "--rootdir", ANEW]
    environment = os.environ | HEADLESS | {"BIGRAMLIB_STORE": str(ANEW / "store")}
    subprocess.run([sys.executable, "-m", "pytest", "-q", *options, *arguments], cwd=ROOT, env=environment, check=True)


def test_notebook_02_trains_its_masks_live_and_the_others_load_those_of_make_notebooks(anew):
    compare_outputs(anew / "notebooks" / LIVE)
    shutil.unpack_archive(ROOT / "tests" / "subnetworks.zip", anew / "store")
    compare_outputs(anew / "notebooks", "--ignore", anew / "notebooks" / LIVE)


@pytest.mark.parametrize("model", ["mini", "world-a0"])
def test_figures_made_anew_have_the_numbers_of_the_committed_ones(anew, model):
    found = folder_differences(ROOT / "figures" / model, anew / "made" / model)
    assert not found, "\n".join(found)
