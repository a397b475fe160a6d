"""The project's files agree with each other."""

import ast
import re
import tomllib
from importlib.util import resolve_name
from pathlib import Path

import nbformat
import pytest
import yaml

from bigramlib.findings.reproduction import defaults

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHARED = {
    "__init__",
    "alt_text",
    "answers_after_tuning",
    "claims",
    "kernel",
    "notebooks",
    "parameters",
    "report",
    "reproduction",
    "study",
    "style",
}
"""The files of findings that belong to no notebook."""
SETTINGS = sorted((ROOT / "notebooks" / "settings").rglob("*.yaml"))


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def test_conda_environment_installs_this_project_with_all_extras_under_the_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    by_pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    extras = ",".join(PROJECT["optional-dependencies"])
    assert by_pip == ["--constraint constraints.txt", f"--editable .[{extras}]"]
    by_conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {re.split("[<>=]", entry)[0] for entry in by_conda} == {"python", "make", "pip"}
    python = next(entry for entry in by_conda if entry.startswith("python")).removeprefix("python=")
    assert PROJECT["requires-python"] == f">={python}"


def test_make_installs_the_same_as_the_conda_environment():
    extras = ",".join(PROJECT["optional-dependencies"])
    assert f"--constraint constraints.txt --editable '.[{extras}]'" in (ROOT / "Makefile").read_text()


def test_hooks_before_a_commit_are_the_checks_of_make_and_the_tidying_of_notebooks():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local" and {hook["language"] for hook in local["hooks"]} == {"system"}
    entries = [hook["entry"] for hook in local["hooks"]]
    assert entries == [f".venv/bin/{command}" for command in ("ruff check", "ruff format", "mypy", "python -m bigramlib tidy")]
    makefile = (ROOT / "Makefile").read_text()
    assert "BIN := .venv/bin\n" in makefile
    for command in ("ruff check .", "ruff format --check .", "mypy"):
        assert f"$(BIN)/{command}" in makefile


def test_the_workflow_runs_the_test_command_of_the_readme_on_the_oldest_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert workflow[True] == ["push", "pull_request"]  # YAML reads the key "on" as true
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert re.search("^make test ", (ROOT / "README.md").read_text(), re.MULTILINE)
    (version,) = (step["with"]["python-version"] for step in job["steps"] if "with" in step)
    assert PROJECT["requires-python"] == f">={version}"


def test_every_dependency_is_pinned():
    wanted = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.split("[<>=]", name)[0].lower().replace("_", "-") for names in wanted for name in names}
    assert names <= set(constraints())


def imported(file: Path) -> set[str]:
    """What a module of the package imports: module names, those of relative imports in full."""
    package = ".".join(file.relative_to(ROOT).with_suffix("").parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(resolve_name("." * node.level + (node.module or ""), package))
    return names


def test_no_module_of_the_package_imports_the_package_root():
    modules = sorted((ROOT / "bigramlib").rglob("*.py"))
    assert "bigramlib.version" in imported(ROOT / "bigramlib" / "__init__.py")
    assert not [file for file in modules if "bigramlib" in imported(file)]


def test_version_is_cited():
    import bigramlib

    assert f"version: {bigramlib.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_executed_without_error_and_takes_parameters(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_checked_output(path):
    cells = nbformat.read(path, as_version=4).cells
    checked = [cell for cell in cells if cell.cell_type == "code" and "NBVAL_IGNORE_OUTPUT" not in cell.source]
    assert any(cell.outputs for cell in checked)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_calls_functions_of_the_library_and_defines_none(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert not [node for source in code for node in ast.walk(ast.parse(source)) if isinstance(node, definitions)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_of_a_notebook_is_longer_than_fifteen_lines(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert max(len(source.splitlines()) for source in code) <= 15


def test_each_notebook_has_its_file_of_findings_with_its_tests():
    findings = {path.stem for path in (ROOT / "bigramlib" / "findings").glob("*.py")} - SHARED
    assert findings == {path.stem.partition("_")[2] for path in NOTEBOOKS}
    for stem in findings | SHARED - {"__init__"}:
        assert len(list((ROOT / "tests" / "findings").glob(f"test_{stem}*.py"))) == 1, f"{stem}.py has no tests of its own"


def test_a_files_name_is_unique_over_all_tests():
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_takes_what_it_measures_from_its_own_file(path):
    stem = path.stem.partition("_")[2]
    code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{name.name}" for node in imports for name in node.names}
    assert any(name.startswith(f"bigramlib.findings.{stem}") for name in names)


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_settings_of_a_model_are_parameters_of_its_notebook(path):
    """Those in all.yaml are parameters of several."""
    meant = [notebook for notebook in NOTEBOOKS if path.stem == "all" or notebook.stem.startswith(f"{path.stem}_")]
    given = [defaults(notebook) for notebook in meant]
    for name, value in yaml.safe_load(path.read_text()).items():
        replaced = [parameters[name] for parameters in given if name in parameters]
        assert len(replaced) >= (2 if path.stem == "all" else 1)
        assert all(type(value) is type(default) and value != default for default in replaced)


def test_every_figure_comes_with_its_data():
    for figure in (ROOT / "figures").rglob("*.png"):
        assert figure.with_suffix(".csv").exists(), f"{figure.name} has no csv"
        is_screenshot = figure.stem == "15_explorer"
        assert is_screenshot or figure.with_suffix(".pdf").exists(), f"{figure.name} has no pdf"


def test_assets_stay_small():
    assert sum(file.stat().st_size for file in (ROOT / "bigramlib" / "models" / "assets").rglob("*")) < 40 * 2**20
