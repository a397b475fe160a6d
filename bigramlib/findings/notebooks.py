"""Execute the numbered notebooks: one with given parameters, all as they are committed, or 00 to train mini again."""

from __future__ import annotations

import logging
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bigramlib.disk import written_whole
from bigramlib.tensor_file import read_tensors

NOTEBOOKS = Path("notebooks")
EXECUTED = Path(".executed")
OWN_STORE = EXECUTED / "store"
"""The store of `make notebooks` and `make figures`: the masks that come with a checkout, and what is made of them."""
MASKS = Path("tests/subnetworks.zip")
HEADLESS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    "BIGRAMLIB_TEXT_PROGRESS": "1",
    "TQDM_MININTERVAL": "3",
}
"""Environment variables of notebooks that are executed without JupyterLab."""


WIDGET = "application/vnd.jupyter.widget-view+json"
"""The live form of a widget. Committed notebooks keep only its HTML, as it lives no longer than the kernel that made it."""


class NotebookError(Exception):
    """The execution of a notebook failed before its last cell."""


def numbered(number: str) -> Path:
    """The path of the notebook whose name begins with these two digits."""
    return next(NOTEBOOKS.glob(f"{number}_*.ipynb"))


def say(sentence: str) -> None:
    """Print a sentence immediately, so that it comes before the output of the notebooks."""
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


def pretrain() -> None:
    """Train mini from the beginning with notebook 00, and replace its files in the package."""
    parameters = {"setting": "mini", "figures": str(Path("figures").absolute())}
    execute(numbered("00"), EXECUTED / "00.ipynb", OWN_STORE, parameters)


def execute_committed() -> None:
    """Execute all notebooks with their own parameters, and keep their new outputs, figures, masks and adapters.

    Masks of earlier runs are used again. To train all masks anew, remove tests/subnetworks.zip and .executed/store first.
    """
    if MASKS.exists():
        take_shipped(OWN_STORE)
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        executed = EXECUTED / path
        copy_with_figures(path, executed, "../figures")
        execute(executed, executed, OWN_STORE, {})
        take_outputs(path, executed)
    with written_whole(MASKS) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in kept(OWN_STORE):
            archive.write(path, path.relative_to(OWN_STORE))


def take_shipped(store: Path) -> None:
    """Put the masks and adapters that come with a checkout into a store. What it has by their names stays as it is.

    Raises:
        ValueError: the working directory is not the root of a checkout that has them.
    """
    if not MASKS.exists():
        raise ValueError(f"{MASKS} is missing; go to the root of a checkout, where git checkout {MASKS} brings it back.")
    with zipfile.ZipFile(MASKS) as archive:
        for name in archive.namelist():
            if not name.endswith("/") and not (store / name).exists():
                with written_whole(store / name, replace=False) as temporary:
                    temporary.write_bytes(archive.read(name))


def kept(store: Path) -> list[Path]:
    """The things of a store that are kept beside the notebooks: masks, and the adapters of the tuned models that have some.

    Tuned models of which all weights changed are left out: they are large, and small models are tuned again in seconds.
    """
    from bigramlib.instruction.tuning import FORMAT  # slow to import, and nothing else here needs it

    tuned = sorted((store / "tuned").glob("*.safetensors"))
    adapters = [file for file in tuned if read_tensors(file, FORMAT)[1]["key"]["config"]["rank"] is not None]
    return [store / "subnetworks", *sorted((store / "subnetworks").iterdir()), *adapters]


def execute(notebook: Path, output: Path, store: Path, parameters: Mapping[str, object], folder: Path = NOTEBOOKS) -> None:
    """Execute a notebook in a kernel of this process (see `kernel.py`), and save it even if it fails.

    Args:
        notebook: its path.
        output: the path to save the executed notebook to.
        store: the folder of the store to use.
        parameters: values that replace the notebook's own, by name.
        folder: its working directory.

    Raises:
        NotebookError: the notebook failed before its last cell.
    """
    import papermill  # it comes with the extra "notebooks", which nothing else here needs
    from nbclient.exceptions import DeadKernelError

    from bigramlib.findings.kernel import kernel_for_notebook

    logging.basicConfig(format=f"[{notebook.stem[:2]}] %(message)s", force=True)
    logging.getLogger("papermill").setLevel(logging.INFO)
    os.environ.update(HEADLESS | {"BIGRAMLIB_STORE": str(store.absolute())})
    output.parent.mkdir(parents=True, exist_ok=True)
    options = {"kernel_name": "python3", "cwd": folder, "progress_bar": False, "log_output": True}
    try:
        with kernel_for_notebook(folder) as kernel:
            papermill.execute_notebook(notebook, output, parameters, km=kernel, **options)
    except papermill.PapermillExecutionError as error:
        raise NotebookError(f"{error}notebook {notebook.name} failed ({error.ename}: {error.evalue}); see {output}") from error
    except DeadKernelError as error:
        raise NotebookError(f"notebook {notebook.name} was ended before its last cell ({error}); see {output}") from error


@dataclass(frozen=True)
class Execution:
    """A notebook to be executed; see `execute`."""

    notebook: Path
    output: Path
    store: Path
    parameters: dict[str, object] = field(hash=False)

    def run(self) -> None:
        """Execute it, wherever this is called."""
        say(f"== {self} on {self.parameters['model']}")
        execute(self.notebook, self.output, self.store, self.parameters, self.notebook.parent)

    def __str__(self) -> str:
        return f"notebook {self.notebook.stem[:2]}"


def copy_with_figures(notebook: Path, copy: Path, folder: str) -> None:
    """Copy a notebook, and set the parameter `figures` of the copy to a folder. Nothing else changes.

    Raises:
        ValueError: the notebook has no parameter `figures = None`.
    """
    import nbformat  # it comes with the extra "notebooks", which nothing else here needs

    content = nbformat.read(notebook, as_version=4)
    tagged = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", [])]
    line, replaced = re.compile(r"^figures = None(?=\s|$)", re.MULTILINE), f"figures = {folder!r}"
    if len(tagged) != 1 or len(line.findall(tagged[0].source)) != 1:
        raise ValueError(f"{notebook} needs one cell tagged 'parameters' with a line `figures = None`.")
    tagged[0].source = line.sub(lambda _: replaced, tagged[0].source)
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, copy)


def take_outputs(notebook: Path, executed: Path) -> None:
    """Copy the outputs of an executed copy into the code cells of a notebook."""
    import nbformat  # it comes with the extra "notebooks", which nothing else here needs

    content, copy = (nbformat.read(path, as_version=4) for path in (notebook, executed))
    for cell, new in zip(content.cells, copy.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = new.outputs, new.execution_count
    with written_whole(notebook) as temporary:
        nbformat.write(content, temporary)
    tidy(notebook)


def tidy(notebook: Path) -> None:
    """Remove injected parameters, times, temporary metadata, progress bars and live widgets, and number the cells anew."""
    import nbformat  # it comes with the extra "notebooks", which nothing else here needs
    import nbstripout  # it comes with the extra "test"

    content = nbstripout.strip_output(
        nbformat.read(notebook, as_version=4),
        keep_output=True,
        keep_count=True,
        keep_id=True,
        extra_keys=["metadata.papermill", "cell.metadata.papermill", "cell.metadata.execution"],
        drop_tagged_cells=["injected-parameters"],
        drop_output_types={"stream:stderr"},
    )
    executed = [cell for cell in content.cells if cell.cell_type == "code" and cell.execution_count]
    for number, cell in enumerate(executed, 1):  # nbstripout cannot number anew
        for counted in (cell, *(output for output in cell.outputs if "execution_count" in output)):
            counted["execution_count"] = number
        for output in cell.outputs:
            if "text/html" in (data := output.get("data", {})):
                data.pop(WIDGET, None)
    with written_whole(notebook) as temporary:
        nbformat.write(content, temporary)
