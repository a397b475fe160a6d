"""Parameters of notebooks are taken as they are meant, or refused in one sentence before any work."""

import nbformat
import numpy as np
import pytest
import torch
import yaml
from papermill import inspect_notebook
from test_project import NOTEBOOKS, SETTINGS

from bigramlib.findings.parameters import PARAMETERS, checked
from bigramlib.findings.reproduction import ENDS, OWN_MODELS


def defaults(path) -> dict:
    """What the parameters cell of a notebook sets."""
    cells = nbformat.read(path, as_version=4).cells
    values: dict = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), {}, values)
    return values


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_checks_all_its_parameters_before_any_work(path):
    values = defaults(path)
    assert set(values) <= set(PARAMETERS) and checked(values) == values
    assert "figures" in values and values["figures"] is None
    assert "device" in values or path.stem[:2] in ENDS  # nothing is measured there
    assert "text_column" in values or path.stem[:2] in (*OWN_MODELS, *ENDS)
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    before_work = ("import ", "from ", "    ", ")", "use_house_style()")
    first = next(line for line in code[1].splitlines() if line and not line.startswith(before_work))
    assert first == "globals().update(checked(globals()))"
    reading = ("claims_table", "read_tables", "surveyed")
    assert not any(
        "../figures" in line for source in code[1:] for line in source.splitlines() if not any(map(line.count, reading))
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_explains_every_parameter_of_a_notebook(path):
    explained = {parameter["name"]: parameter["help"] for parameter in inspect_notebook(path).values()}
    assert set(explained) == set(defaults(path))
    assert min(len(words.split()) for words in explained.values()) >= 2


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_settings_of_every_model_pass(path):
    notebooks = [notebook for notebook in NOTEBOOKS if path.stem == "all" or notebook.stem.startswith(f"{path.stem}_")]
    settings = yaml.safe_load(path.read_text())
    known = [defaults(notebook) for notebook in notebooks if settings.keys() <= defaults(notebook).keys()]
    assert known and (path.stem == "all" or len(notebooks) == 1)
    for values in known:
        assert checked(values | settings) == values | settings


def test_settings_of_searches_are_fields_of_a_config_given_by_name():
    assert checked({"settings": "{steps: 3}"}) == checked({"settings": {"steps": 3}}) == {"settings": {"steps": 3}}
    assert checked({"settings": None}) == checked({"settings": {}}) == {"settings": {}}
    for wrong, told in (("[3]", "give fields of SparsifyConfig"), ({"step": 3}, "has 'step'"), ({"steps": 0}, "steps is 0")):
        with pytest.raises(ValueError, match=told):
            checked({"settings": wrong})


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("penalties", 10, [10]),
        ("penalties", "10", [10]),
        ("penalties", "[3, 10]", [3, 10]),
        ("penalties", "3,10", [3, 10]),
        ("penalties", ["1e1", 3], [10.0, 3]),
        ("penalties", (3, 10), [3, 10]),
        ("penalties", np.array([3, 10]), [3, 10]),
        ("penalties", torch.tensor([3.0, 10.0]), [3.0, 10.0]),
        ("penalties", np.float32(0.5), [0.5]),
        ("penalties", np.array(3), [3]),
        ("control_penalties", "[]", []),
        ("models", "[mini, 'stories15m']", ["mini", "stories15m"]),
        ("models", "mini", ["mini"]),
        ("penalty", "1e1", 10.0),
        ("max_tokens", np.int64(64), 64),
        ("max_tokens", 64.0, 64),
        ("max_tokens", "1e3", 1000),
        ("seed", 0, 0),
        ("draws", "2", 2),
        ("model", 2020, "2020"),
        ("figures", None, None),
    ],
)
def test_a_value_is_taken_as_it_is_meant(name, value, meant):
    found = checked({name: value, "no parameter": object()})
    assert found == {name: meant}
    assert type(found[name]) is type(meant)
    if isinstance(meant, list):
        assert [type(one) for one in found[name]] == [type(one) for one in meant]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"penalties": "many"}, r"penalties is 'many'; it must be a number, at least 0\."),
        ({"penalties": [3, "many"]}, r"one of penalties is 'many'; it must be a number"),
        ({"penalties": []}, r"penalties is empty; give at least one"),
        ({"penalties": "[]"}, r"penalties is empty"),
        ({"penalties": {"a": 1}}, r"penalties is \{'a': 1\}; it must be a number"),
        ({"penalties": [3, 10, 3.0]}, r"a value comes twice"),
        ({"penalties": [float("nan")]}, r"penalties is nan; it must be a number"),
        ({"penalties": [-1]}, r"penalties is -1"),
        ({"penalties": True}, r"penalties is True"),
        ({"penalties": None}, r"penalties is None"),
        ({"penalty": float("inf")}, r"penalty is inf"),
        ({"penalty": "nan"}, r"penalty is 'nan'"),
        ({"max_tokens": "many"}, r"max_tokens is 'many'; it must be a whole number, at least 1\."),
        ({"max_tokens": 0}, r"max_tokens is 0"),
        ({"tokens": -5}, r"tokens is -5"),
        ({"tokens": np.int64(-5)}, r"tokens is -5; it must be at least 1"),
        ({"seed": 1.5}, r"seed is 1.5; it must be a whole number, at least 0"),
        ({"seed": "1.5"}, r"seed is '1.5'"),
        ({"seeds": [0, -1]}, r"one of seeds is -1"),
        ({"seeds": [0], "pruning_penalties": [3]}, r"seeds is \[0\]; give two"),
        ({"penalties": [3, 10], "short_penalties": [4]}, r"penalties is \[3, 10\] and short_penalties is \[4\]; give as many"),
        ({"draws": -1}, r"draws is -1; it must be at least 1"),
        ({"fixed_density": 2}, r"fixed_density is 2; it must be at least 1e-06 and at most 1"),
        ({"headline": 7, "penalties": [3, 10]}, r"headline is 7, which penalties lacks; choose one of 3, 10"),
        ({"ablated": 7, "penalties": [3, 10]}, r"ablated is 7, which penalties lacks"),
        ({"headline": 3, "penalties": [3], "control_penalties": [10]}, r"headline is 3, which control_penalties lacks"),
        ({"device": "abacus"}, r"device 'abacus' is not available here; use device=cpu"),
        ({"device": "meta"}, r"device 'meta' is not available"),
        ({"corpus": "nowhere"}, r"There is no corpus 'nowhere'"),
        ({"corpus": ""}, r"corpus is ''; give a name or a text"),
        ({"model": " "}, r"model is ' '; give a name"),
        ({"model": None}, r"model is None; give a name"),
        ({"text_column": ["text"]}, r"text_column is \['text'\]"),
        ({"figures": ""}, r"figures is ''"),
        ({"setting": "huge"}, r"setting is 'huge'; choose one of mini, tiny"),
    ],
)
def test_a_value_of_no_use_is_refused_in_one_sentence(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        checked(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["file", "file/deeper", "locked/deeper"])
def test_a_place_where_no_figure_can_be_written_is_refused_and_nothing_is_made(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda where, mode: where.name != "locked")
    with pytest.raises(ValueError, match=r"figures is .*, where nothing can be written; give another folder"):
        checked({"figures": str(tmp_path / place)})
    wanted = str(tmp_path / "some" / "where")
    assert checked({"figures": wanted}) == {"figures": wanted} and not (tmp_path / "some").exists()
