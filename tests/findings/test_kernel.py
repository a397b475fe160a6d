"""Notebooks of one process share a kernel, and none sees what another left there."""

import os
import time

import nbformat
import psutil
import pytest

from bigramlib.findings.kernel import kernel_for_notebook
from bigramlib.findings.notebooks import NotebookError, execute

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
WHERE = "import os\nprint(os.getpid(), os.getcwd(), os.environ['BIGRAMLIB_STORE'])"
LEAVES = """from bigramlib import Study
import warnings
import matplotlib.pyplot as plt
left = 1
plt.figure()
warnings.warn('once', stacklevel=1)"""
FINDS = "import matplotlib.pyplot as plt\nprint('left' in globals(), plt.get_fignums())"


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Executes a notebook with these cells in a folder of this name; gives what each cell printed, and the notebook."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_DISABLE_TELEMETRY", "WANDB_MODE", "BIGRAMLIB_TEXT_PROGRESS", "TQDM_MININTERVAL", "BIGRAMLIB_STORE"):
        monkeypatch.setenv(name, "1")

    def run(folder, *sources):
        (tmp_path / folder).mkdir(exist_ok=True)
        parameters = nbformat.v4.new_code_cell("figures = None", metadata={"tags": ["parameters"]})
        cells = [parameters, *map(nbformat.v4.new_code_cell, sources)]
        path = tmp_path / folder / "01_a.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
        execute(path, tmp_path / folder / "done.ipynb", tmp_path / folder / "store", {}, tmp_path / folder)
        done = nbformat.read(tmp_path / folder / "done.ipynb", as_version=4)
        return [
            "".join(output.text for output in cell.outputs if output.output_type == "stream")
            for cell in done.cells[-len(sources) :]
        ], done

    return run


def test_the_second_notebook_has_the_kernel_of_the_first_as_if_it_were_new(executed, tmp_path):
    (first, warned), _ = executed("one", WHERE, LEAVES)
    (second, found, again), done = executed("two", WHERE, FINDS, LEAVES)
    assert first.split()[0] == second.split()[0] != str(os.getpid())
    assert second.split()[1:] == [f"{tmp_path}/two", f"{tmp_path}/two/store"]
    assert found == "False []\n"
    assert "UserWarning: once" in warned and "UserWarning: once" in again
    assert [cell.execution_count for cell in done.cells] == [1, 2, 3, 4]


def test_notebooks_that_threads_execute_at_the_same_time_have_kernels_of_their_own(executed, tmp_path):
    (first,), _ = executed("one", WHERE)
    with kernel_for_notebook(tmp_path) as kernel:
        (second,), _ = executed("two", WHERE)
        with kernel_for_notebook(tmp_path) as another:
            assert kernel is not another
    (again,), _ = executed("three", WHERE)
    assert first.split()[0] != second.split()[0] and again.split()[0] in (first.split()[0], second.split()[0])


def test_what_a_notebook_had_in_memory_goes_with_it(executed):
    (before, *_), _ = executed("one", WHERE, "import torch\nleft = torch.ones(2**28)")
    kernel = psutil.Process(int(before.split()[0]))
    assert kernel.memory_info().rss < 2**30
    (after,), _ = executed("two", WHERE)
    assert after.split()[0] == before.split()[0]


@pytest.mark.parametrize("fault", ["1 / 0", "import os\nos._exit(1)"])
def test_after_a_notebook_that_failed_the_next_one_has_another_kernel(executed, fault):
    (first,), _ = executed("one", WHERE)
    with pytest.raises(NotebookError):
        executed("two", fault)
    (third,), _ = executed("three", WHERE)
    assert third.split()[0] != first.split()[0]
    end = time.monotonic() + 30
    while psutil.pid_exists(int(first.split()[0])):
        assert time.monotonic() < end
        time.sleep(0.1)
