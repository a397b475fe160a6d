"""The committed notebooks, executed anew side by side, show what they showed. It takes minutes: `make test` names this file."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from figure_comparison import folder_differences

from bigramlib.findings.notebooks import HEADLESS, copy_with_figures
from bigramlib.subnetworks.subnetwork import Subnetwork

ROOT = Path(__file__).parents[2]
ANEW = ROOT / ".executed" / "test"
LIVE = "02"
"""The notebook that trains masks: those of one lambda, in mini and in its two controls. It loads the others."""
LIVE_PENALTY, LIVE_MASKS = 10, 3
SLOWEST_FIRST = [LIVE, "12", "13", "08", "16"]
LAST = ["09", "10"]
"""The notebooks that show what the others wrote."""
PROCESSES = 2


@pytest.fixture(scope="module")
def anew():
    """Copies of the notebooks, which write their figures into made/, beside the committed figures and two stores with masks."""
    shutil.rmtree(ANEW, ignore_errors=True)
    shutil.copytree(ROOT / "figures", ANEW / "figures")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        copy_with_figures(path, ANEW / "notebooks" / path.name, "../made")
    for store in ("store", "live"):
        shutil.unpack_archive(ROOT / "tests" / "subnetworks.zip", ANEW / store)
    for mask in masks_of_the_live_penalty():
        mask.unlink()
    return ANEW


def masks_of_the_live_penalty():
    files = (ANEW / "live" / "subnetworks").glob("*.safetensors")
    return [file for file in files if Subnetwork.load(file).provenance["sparsity_penalty"] == LIVE_PENALTY]


def compare_outputs(number):
    """Execute a notebook by nbval, which compares its outputs with those that it holds; returns whether they agree."""
    begun = time.monotonic()
    (notebook,) = (ANEW / "notebooks").glob(f"{number}_*.ipynb")
    store = ANEW / ("live" if number == LIVE else "store")
    options = ["--nbval", "--nbval-cell-timeout", "1200", "-p", "no:cacheprovider", "--rootdir", ANEW, notebook]
    environment = os.environ | HEADLESS | {"BIGRAMLIB_STORE": str(store)}
    command = [sys.executable, "-m", "pytest", "-q", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    agrees = done.returncode == 0
    said = "agrees" if agrees else f"differs:\n{done.stdout}{done.stderr}"
    print(f"notebook {number}, {time.monotonic() - begun:.0f} s: {said}", flush=True)
    return agrees


def test_notebooks_trained_live_or_with_the_masks_of_make_notebooks_show_what_they_showed(anew):
    numbers = [path.name[:2] for path in sorted((anew / "notebooks").glob("*.ipynb"))]
    order = SLOWEST_FIRST + [number for number in numbers if number not in (*SLOWEST_FIRST, *LAST)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        agree = dict(zip(order, pool.map(compare_outputs, order), strict=True))
        agree |= dict(zip(LAST, pool.map(compare_outputs, LAST), strict=True))
    assert sorted(agree) == numbers and not [number for number, same in agree.items() if not same]
    assert len(masks_of_the_live_penalty()) == LIVE_MASKS


@pytest.mark.parametrize("model", ["mini", "world-a0"])
def test_figures_made_anew_have_the_numbers_of_the_committed_ones(anew, model):
    found = folder_differences(ROOT / "figures" / model, anew / "made" / model)
    assert not found, "\n".join(found)
