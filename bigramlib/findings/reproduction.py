"""`make reproduce` and `make figures`: the masks of all notebooks, then the notebooks, side by side where they can be."""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

from bigramlib.cluster.executors import Executor, on_each
from bigramlib.cluster.searches import Search
from bigramlib.cluster.sweep import grid
from bigramlib.cluster.workers import workers
from bigramlib.disk import located
from bigramlib.findings.notebooks import EXECUTED, NOTEBOOKS, OWN_STORE, Execution, numbered, say, take_shipped
from bigramlib.findings.paper_recipe import paper_config
from bigramlib.findings.parameters import PARAMETERS, checked, read_parameters
from bigramlib.findings.style import figure_folder
from bigramlib.findings.through_pretraining import searched_steps
from bigramlib.models.loading import EMBEDDED, WORLD_BASES, checkpoint_names, load_model
from bigramlib.models.packages import PACKAGED
from bigramlib.store import store_root

CORPORA = ("sotu", "self")
MODEL = "mini"
OWN_MODELS = {"11": "world-a0", "13": "world-a0"}
"""What notebooks are executed on where no model is given: `MODEL`, but those that ask for tasks and not for text."""
WORLD_ALONE = "13"
"""The notebook that needs models whose pretraining is known."""
PATHS = {"tasks", "instruct", "partner"}
"""Parameters in settings that may be paths; relative ones start from the root of the checkout."""
BEGINS, ENDS = "01", ("09", "10")
"""The notebook with the first figure, which needs no masks, and those that show what the others wrote."""

LONGEST = ("12", "13", "16", "08", "02", "05")
"""The notebooks that take longest. They begin first, so that no process waits long for the last one."""


def reproduce(
    model: str | None,
    corpus: str,
    text_column: str,
    device: str,
    numbers: list[str],
    scheduler: str = "",
    processes: int | None = None,
    search: bool = True,
) -> list[str]:
    """Execute notebooks on a model; figures go to figures/<model>/, executed notebooks to .executed/<model>/.

    First all their masks are found, and notebook 01 is executed; then the other notebooks, and at the end 09 and 10. Call it
    in the root of a source checkout. Parameters that a model needs instead of the notebooks' defaults are read from
    notebooks/settings/MODEL/NN.yaml, and from all.yaml there, which is for every notebook that has such a parameter.

    Args:
        model: a name for `load_model`; relative paths start from the working directory. None stands for each notebook's own.
        corpus: a source for `load_corpus`; relative paths start from the working directory.
        text_column: the column or key of the corpus that holds the text.
        device: a device of PyTorch, such as "cuda".
        numbers: the first two digits of the name of each notebook.
        scheduler: of Dask, as in `workers`.
        processes: as in `workers`.
        search: whether masks are found first; if the store holds them, notebook 01 need not be waited for either.

    Returns:
        The model names that were given to the notebooks; a path is absolute.

    Raises:
        ValueError: a value cannot be used; no notebook was executed.
        ExceptionGroup: notebooks or searches failed, and the others were executed.
    """
    corpus = located(corpus, CORPORA)
    typed = {number: model_for(number, model) for number in numbers}
    models = {number: located(name, {*EMBEDDED, *PACKAGED}) for number, name in typed.items()}
    weights = [check_values(name, corpus, device, numbers, text_column) for name in dict.fromkeys(models.values() or [MODEL])]
    given = {"corpus": corpus, "text_column": text_column, "device": device}
    executions = {number: execution(number, typed[number], models[number], given) for number in numbers}
    store = store_root()
    if Path(".store/reproduce").is_dir():
        say(f"make: masks of an earlier version: cp -Rn .store/reproduce/. {shlex.quote(str(store))} keeps them")
    with workers(scheduler, processes, device, max(weights)) as executor:
        run_all(in_parts(executions, search), executor)
    return list(dict.fromkeys(models.values()))


def draw_figures(numbers: list[str], processes: int | None = None) -> list[str]:
    """`reproduce` with the masks that come with a checkout: all figures and tables without a search.

    They are put into the store of `make notebooks`; the user's own store is neither read nor changed.

    Args:
        numbers: as in `reproduce`.
        processes: as in `reproduce`.

    Returns:
        The models that the figures are of.

    Raises:
        ValueError: the masks are missing, or a value cannot be used; no notebook was executed.
        ExceptionGroup: as in `reproduce`.
    """
    take_shipped(OWN_STORE)
    os.environ["BIGRAMLIB_STORE"] = str(OWN_STORE.absolute())
    return reproduce(None, CORPORA[0], "text", "cpu", numbers, processes=processes, search=False)


def in_parts(executions: Mapping[str, Execution], search: bool) -> dict[str, Sequence[Search | Execution]]:
    """What is done together, one part after another.

    Args:
        executions: notebooks, by number.
        search: as in `reproduce`.
    """
    order = dict.fromkeys(number for number in (*LONGEST, *executions) if number in executions)
    first = [executions[number] for number in order if number == BEGINS]
    middle = [executions[number] for number in order if number not in (BEGINS, *ENDS)]
    last = [executions[number] for number in order if number in ENDS]
    if not search:
        return {"notebooks": [*first, *middle], "last notebooks": last}
    masks = [found for number, executed in executions.items() for found in searches_of(number, executed.parameters)]
    return {"masks, first notebook": [*first, *masks], "notebooks": middle, "last notebooks": last}


def run_all(parts: Mapping[str, Sequence[Search | Execution]], executor: Executor | None) -> None:
    """Do the tasks of one part after another, those of a part side by side, whether or not others fail.

    Args:
        parts: tasks, by what they are.
        executor: where they run, as in `on_each`.

    Raises:
        ExceptionGroup: some failed, and all others have ended.
    """
    errors: list[Exception] = []
    for described, tasks in parts.items():
        try:
            on_each(methodcaller("run"), tasks, executor, described)
        except ExceptionGroup as group:
            errors += group.exceptions
    if errors:
        count = sum(len(set(tasks)) for tasks in parts.values())
        raise ExceptionGroup(f"{len(errors)} of {count} tasks failed; ask again to go on ({errors[0]})", errors)


def execution(number: str, typed: str, model: str, given: Mapping[str, str]) -> Execution:
    """How a notebook is executed: with its own parameters, those set for the model, and what is given.

    Args:
        number: of the notebook.
        typed: the model's name as it was given, by which settings are found.
        model: its name as the notebook gets it.
        given: corpus, text_column and device.
    """
    folder = Path(f"{NOTEBOOKS}/settings/{typed}")
    shared, own = read_parameters(folder / "all.yaml"), read_parameters(folder / f"{number}.yaml")
    known = defaults(numbered(number))
    own = {name: value for name, value in shared.items() if name in known} | own
    paths = {name: located(str(own[name]), {*EMBEDDED, *PACKAGED}) for name in PATHS & own.keys()}
    asked = {name: value for name, value in given.items() if name in known}
    output = Path(f"{figure_folder(model, EXECUTED)}/{number}.ipynb").absolute()
    figures = str(Path("figures").absolute())
    parameters = own | paths | asked | {"model": model, "figures": figures}
    return Execution(numbered(number).absolute(), output, store_root(), parameters)


def searches_of(number: str, given: Mapping[str, object]) -> list[Search]:
    """The searches whose masks a notebook will look for, as far as they are known before it is executed.

    Args:
        number: of the notebook.
        given: parameters in place of its own.
    """
    values = checked(defaults(numbered(number)) | dict(given))
    if not {"penalty", "penalties"} & values.keys():
        return []
    named = {name: values[name] for name in ("device", "text_column", "settings") if name in values}
    find = partial(grid, [values["model"]], [values["corpus"]], **named)
    return SEARCHES.get(number, _of_penalties)(values, find)


Values = Mapping[str, Any]
Find = Callable[..., list[Search]]
CONTROLS = ("random, trained embeddings", "random")


def _of_penalties(values: Values, find: Find) -> list[Search]:
    return find(values.get("penalties") or [values["penalty"]])


def _of_02(values: Values, find: Find) -> list[Search]:
    seeds, controls = [values["seed"]], values["control_penalties"]
    return find(values["penalties"], seeds) + (find(controls, seeds, controls=CONTROLS) if controls else [])


def _of_03(values: Values, find: Find) -> list[Search]:
    controls = values["control_penalties"]
    found = find(values["penalties"]) + find([values["headline"]], values["seeds"])
    return found + (find(controls, controls=CONTROLS[:1]) if controls else [])


def _of_05(values: Values, find: Find) -> list[Search]:
    found = find(values["penalties"]) + find([values["headline"]], values["seeds"])
    return found + find(values["pruning_penalties"], targets=["model"])


def _of_07(values: Values, find: Find) -> list[Search]:
    known = checkpoint_names(values["model"])
    chosen = [known[step] for step in searched_steps(known, values["every"])] if len(known) > 1 else []
    return find(values["penalties"], checkpoints=[name.partition("@")[2] for name in chosen])


def _of_seeds(values: Values, find: Find) -> list[Search]:
    return find(values.get("penalties") or [values["penalty"]], values["seeds"])


def _of_16(values: Values, find: Find) -> list[Search]:
    recipe = vars(paper_config(values["penalties"][0], values["sequences"]))
    fixed = {name: value for name, value in recipe.items() if name not in ("sparsity_penalty", "seed")}
    seeds = values["seeds"]
    return find(values["short_penalties"], seeds) + find(values["penalties"], seeds, settings=fixed)


SEARCHES: dict[str, Callable[[Values, Find], list[Search]]] = {
    "02": _of_02,
    "03": _of_03,
    "05": _of_05,
    "07": _of_07,
    "12": _of_seeds,
    "14": _of_seeds,
    "16": _of_16,
}
"""The searches of notebooks that look for more than one subnetwork for each sparsity penalty."""


def defaults(notebook: Path) -> dict[str, Any]:
    """A notebook's own parameters with their values."""
    import papermill  # it comes with the extra "notebooks", which nothing else here needs

    return {name: ast.literal_eval(found["default"]) for name, found in papermill.inspect_notebook(notebook).items()}


def model_for(number: str, given: str | None) -> str:
    """What a notebook is executed on: the given model, or its own one if none is given or it is about the small world alone."""
    stays = number == WORLD_ALONE and given not in WORLD_BASES
    return OWN_MODELS.get(number, MODEL) if given is None or stays else given


def check_values(model: str, corpus: str, device: str, numbers: list[str], text_column: str = "text") -> int:
    """The maskable weights of a model; raises ValueError, naming the value and what to do, if one cannot be used."""
    known = sorted(path.stem[:2] for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    for number in numbers or [""]:
        if number not in known:
            raise ValueError(f"NOTEBOOKS has {number!r}; choose from {' '.join(known)}.")
    values = {"MODEL": model, "CORPUS": corpus, "DEVICE": device, "TEXT_COLUMN": text_column}
    for name, value in values.items():
        PARAMETERS[name.lower()](name, value)
    return load_model(model).architecture.size
