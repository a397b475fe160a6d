"""What `make` asks of the library: `python -m bigramlib check | claims | tidy`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bigramlib.disk import written_whole
from bigramlib.findings.parameters import PARAMETERS
from bigramlib.findings.style import figure_folder
from bigramlib.findings.summary import claims_table
from bigramlib.models.loading import load_model


def main() -> None:
    """Check the variables of `make reproduce`, print the table of claims, or tidy executed notebooks."""
    parser = argparse.ArgumentParser(prog="bigramlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser(
        "check", help="say in one sentence what is wrong with these values, else name the model's folder"
    )
    for name in ("model", "corpus", "text-column", "device", "notebooks"):
        checked.add_argument(f"--{name}", required=True)
    shown = commands.add_parser("claims", help="print the claims checked for a model")
    shown.add_argument("--model", required=True)
    tidied = commands.add_parser("tidy", help="strip what changes with every execution from notebooks")
    tidied.add_argument("notebooks", nargs="+", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "check":
            check_values(options.model, options.corpus, options.device, options.notebooks.split(), options.text_column)
            sys.stdout.write(f"{figure_folder(options.model, '.')}\n")
        elif options.command == "claims":
            sys.stdout.write(format_claims(options.model))
        else:
            for path in options.notebooks:
                tidy(path)
    except (ValueError, OSError) as error:
        sys.exit(f"make: {error}")


def check_values(model: str, corpus: str, device: str, notebooks: list[str], text_column: str = "text") -> None:
    """Raise ValueError, naming the value and the remedy, unless all of them can be used."""
    known = sorted(path.stem[:2] for path in Path("notebooks").glob("[0-9][0-9]_*.ipynb"))
    for number in notebooks or [""]:
        if number not in known:
            raise ValueError(f"NOTEBOOKS has {number!r}; choose from {' '.join(known)}.")
    values = {"MODEL": model, "CORPUS": corpus, "DEVICE": device, "TEXT_COLUMN": text_column}
    for name, value in values.items():
        PARAMETERS[name.lower()](name, value)
    load_model(model)


def format_claims(model: str) -> str:
    """The claims of a model as aligned text."""
    table = claims_table(figure_folder(model, "figures"))
    table = table[table.holds != "not measured"]
    lines = [f"{row.holds:>10}  {row.claim}\n{'':12}paper: {row.paper}; ours: {row.ours}" for row in table.itertuples()]
    return "\n".join([f"Claims checked on {model} ({(table.holds == 'yes').sum()} of {len(table)} hold):", *lines, ""])


def tidy(path: Path) -> None:
    """Strip injected parameters, times, temporary metadata and progress bars from a notebook, so that only results remain."""
    import nbformat  # it comes with the extra "notebooks", which nothing else here needs

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
    executed = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count is not None]
    for number, cell in enumerate(executed, 1):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for counted in (cell, *(output for output in cell.outputs if "execution_count" in output)):
            counted.execution_count = number
    with written_whole(path) as temporary:
        nbformat.write(notebook, temporary)


if __name__ == "__main__":
    main()
