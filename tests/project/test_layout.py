"""The house rules that make files easy to read: short files and functions, nothing private from elsewhere, mirrored tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "bigramlib").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 300, 50


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_file_and_its_functions_can_be_read_in_one_sitting(path):
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=relative)
def test_nothing_private_is_imported_or_replaced_from_another_file(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bigramlib"):
            assert not [name.name for name in node.names if is_private(name.name)]
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
            place = ".".join(ast.unparse(argument).strip("'") for argument in node.args[:2])
            assert not is_private(place.split(".")[-1]) or "FileLock" in place, place  # filelock's own


def test_rooms_of_the_tests_are_those_of_the_package():
    rooms = {path.parent.name for path in MODULES} - {"bigramlib"}
    mirrored = {path.parent.name for path in TESTS if path.name.startswith("test_")} - {"tests"}
    assert mirrored == rooms | {"project"}
    names = [path.name for path in TESTS]
    assert len(names) == len(set(names))


def test_a_room_has_a_docstring_and_no_code_of_its_own():
    for path in MODULES:
        if path.name == "__init__.py" and path.parent.name != "bigramlib":
            (only,) = ast.parse(path.read_text()).body
            assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant)
