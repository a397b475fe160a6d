"""Notebooks are executed with the values given, checked before any work; what fails or is interrupted is said in a sentence."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
import yaml
from conftest import build

from bigramlib.__main__ import DEFAULTS, main
from bigramlib.disk import located
from bigramlib.findings.notebooks import HEADLESS, WIDGET, copy_with_figures, kept, tidy
from bigramlib.findings.reproduction import check_values
from bigramlib.instruction.tasks import Task
from bigramlib.instruction.tuning import TuneConfig, instruction_tune
from bigramlib.store import store_root

ROOT = Path(__file__).parents[2]
KERNEL = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
KNOWN = ("mini", "sotu", "self")


def write_notebook(path, *sources, parameters="figures = None"):
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell("# Title"), tagged, *map(nbformat.v4.new_code_cell, sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working directory with notebooks; the environment and signals are as before when the test ends."""
    root = tmp_path / "a check out"
    for folder in ("notebooks/settings", "tests"):
        (root / folder).mkdir(parents=True)
    for name in ("00_c", "01_a", "02_b"):
        asks = 'corpus = "sotu"\ntext_column = "text"\ndevice = "cpu"\nfigures = None'
        write_notebook(root / f"notebooks/{name}.ipynb", "1 + 1", parameters=asks)
    monkeypatch.chdir(root)
    for name in HEADLESS:
        monkeypatch.setenv(name, "1")
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PROCESSES", "1")
    monkeypatch.setattr("bigramlib.findings.report.write_report", lambda: "report/index.html")
    handler = signal.getsignal(signal.SIGTERM)
    yield root
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def executed(checkout, monkeypatch):
    """The notebooks that papermill is asked to execute, by number: what it is given, and in which environment."""
    calls = {}

    def record(notebook, output, parameters, **options):
        calls[notebook.name[:2]] = {"output": output, **parameters, **options, "environment": dict(os.environ)}

    monkeypatch.setattr(papermill, "execute_notebook", record)
    return calls


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bigramlib", *arguments])
    main()


@pytest.mark.parametrize("scheme", ["", "hf:"])
@pytest.mark.parametrize(
    "name",
    ["texts", "./texts", "texts/a.txt", "a space/b.txt", "it's", 'a"quote', "a$(b", "a`id`", "文章", "a#b", "a: of mine"],
)  # fmt: skip
def test_what_lies_in_the_working_directory_is_found_from_the_notebooks(checkout, name, scheme):
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).touch()
    found = located(scheme + name, KNOWN)
    path = Path(found.removeprefix(scheme))
    assert found.startswith(scheme) and path.is_absolute() and path.samefile(checkout / name)


@pytest.mark.parametrize(
    "value",
    ["alice/base", "alice/base@step3", "gpt2", "hf:allenai/c4:en:train", "", "a" * 5000, "mini", "mini@step256", "self"],
)  # fmt: skip
def test_a_name_of_nothing_here_and_a_known_name_stay_as_they_are(checkout, value):
    for name in ("mini", "mini@step256", "sotu", "self"):
        (checkout / name).mkdir()
    assert located(value, KNOWN) == value


@pytest.mark.parametrize("value", ["hf:data", "hf:data:en", "hf:data:en:train"])
def test_a_local_dataset_is_named_by_where_it_lies(checkout, value):
    (checkout / "data").mkdir()
    assert located(value, KNOWN) == value.replace("data", f"{checkout}/data", 1)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my data").mkdir()
    assert located("~/my texts", KNOWN) == f"{tmp_path}/my texts"
    assert located("hf:~/my data:en", KNOWN) == f"hf:{tmp_path}/my data:en"


def test_a_folder_called_like_a_known_model_or_corpus_is_not_taken_for_it(executed, checkout, monkeypatch):
    for name in ("mini", "sotu"):
        (checkout / name).mkdir()
    run(monkeypatch, "reproduce", "--notebooks=01")
    assert (executed["01"]["model"], executed["01"]["corpus"]) == ("mini", "sotu")


def test_values_reach_every_notebook_from_options_or_the_environment(executed, checkout, monkeypatch, capfd):
    (checkout / "my text.txt").write_text("text")
    monkeypatch.setenv("TEXT_COLUMN", 'the "text" of $it')
    run(monkeypatch, "reproduce", "--corpus=my text.txt", "--notebooks=02 01")
    assert list(executed) == ["01", "02"]  # the first figure comes first
    for given in executed.values():
        assert given["model"] == "mini" and given["corpus"] == f"{checkout}/my text.txt"
        assert given["text_column"] == 'the "text" of $it' and given["device"] == "cpu"
        assert given["figures"] == f"{checkout}/figures" and given["cwd"] == checkout / "notebooks"
    assert executed["01"]["output"] == checkout / ".executed/mini/01.ipynb"
    lines = capfd.readouterr().out.splitlines()
    assert lines == [
        "== notebook 01 on mini",
        "== notebook 02 on mini",
        "Claims checked on mini (0 of 0 hold):",
        "The report: report/index.html",
    ]


def test_without_a_model_each_notebook_has_its_own_and_13_stays_with_the_small_world(executed, checkout, monkeypatch, capfd):
    for name in ("11_c", "13_d"):
        write_notebook(checkout / f"notebooks/{name}.ipynb", "1 + 1")
    run(monkeypatch, "reproduce", "--notebooks=01 11 13")
    assert [executed[number]["model"] for number in ("01", "11", "13")] == ["mini", "world-a0", "world-a0"]
    assert "corpus" in executed["01"] and "corpus" not in executed["11"]  # which does not ask for it
    assert "Claims checked on world-a0" in capfd.readouterr().out
    run(monkeypatch, "reproduce", "--notebooks=11 13", "--model=mini")
    assert [executed[number]["model"] for number in ("11", "13")] == ["mini", "world-a0"]
    run(monkeypatch, "reproduce", "--notebooks=13", "--model=world-b1")
    assert executed["13"]["model"] == "world-b1"


def test_paths_in_settings_start_from_the_root(executed, checkout, monkeypatch):
    (checkout / "notebooks/settings/mini").mkdir()
    (checkout / "notebooks/settings/mini/01.yaml").write_text(
        yaml.safe_dump({"tasks": "my tasks", "partner": "mini", "items": 5})
    )
    (checkout / "my tasks").mkdir()
    run(monkeypatch, "reproduce", "--notebooks=01")
    given = executed["01"]
    assert (given["tasks"], given["partner"], given["items"]) == (f"{checkout}/my tasks", "mini", 5)


def test_settings_of_a_model_take_the_place_of_defaults_but_not_of_what_was_given(executed, checkout, monkeypatch):
    (checkout / "notebooks/settings/mini").mkdir()
    (checkout / "notebooks/settings/mini/02.yaml").write_text(yaml.safe_dump({"draws": 2, "device": "cuda"}))
    run(monkeypatch, "reproduce", "--notebooks=01 02")
    assert "draws" not in executed["01"]
    assert executed["02"]["draws"] == 2 and executed["02"]["device"] == "cpu"


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_a_settings_file_with_nothing_in_it_changes_nothing(executed, checkout, monkeypatch, text):
    (checkout / "notebooks/settings/mini").mkdir()
    (checkout / "notebooks/settings/mini/01.yaml").write_text(text)
    run(monkeypatch, "reproduce", "--notebooks=01")
    assert executed["01"]["model"] == "mini"


@pytest.mark.parametrize("text", ["a: [1", "- 1", "penalties"])
def test_a_settings_file_that_is_none_is_refused_before_any_notebook(executed, checkout, monkeypatch, text):
    (checkout / "notebooks/settings/mini").mkdir()
    (checkout / "notebooks/settings/mini/02.yaml").write_text(text)
    with pytest.raises(SystemExit, match=r"make: 'notebooks/settings/mini/02.yaml' .*; write one `name: value` a line\.$"):
        run(monkeypatch, "reproduce", "--notebooks=01 02")
    assert not executed


@pytest.mark.parametrize("error", [FloatingPointError, MemoryError])
def test_weights_that_are_no_numbers_and_too_little_memory_end_in_a_sentence(checkout, monkeypatch, error):
    def fail(*_):
        raise error("It is said.")

    monkeypatch.setattr("bigramlib.findings.reproduction.load_model", fail)
    with pytest.raises(SystemExit, match=r"make: It is said\."):
        run(monkeypatch, "reproduce", "--notebooks=01")


def test_an_interrupted_pretraining_says_that_mini_is_incomplete(checkout, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bigramlib.__main__.pretrain", interrupt)
    with pytest.raises(SystemExit, match="make: interrupted; mini is incomplete: run it again, or get back"):
        run(monkeypatch, "pretrain")


@pytest.mark.parametrize("named", [None, "", "my store", "/a b/c"])
def test_reproduce_uses_the_users_store_and_says_where_masks_of_before_are(executed, checkout, monkeypatch, named, capfd):
    (checkout / ".store/reproduce").mkdir(parents=True)
    monkeypatch.delenv("BIGRAMLIB_STORE") if named is None else monkeypatch.setenv("BIGRAMLIB_STORE", named)
    expected = str(checkout / named if named else store_root())
    run(monkeypatch, "reproduce", "--notebooks=01")
    environment = executed["01"]["environment"]
    assert environment["BIGRAMLIB_STORE"] == expected and environment.items() >= HEADLESS.items()
    assert "make: masks of an earlier version: cp -Rn .store/reproduce/. " in capfd.readouterr().out


def test_mini_and_committed_notebooks_are_made_in_a_store_apart(executed, checkout, monkeypatch):
    monkeypatch.setenv("BIGRAMLIB_STORE", str(checkout / "mine"))
    run(monkeypatch, "pretrain")
    assert executed["00"]["setting"] == "mini" and executed["00"]["figures"] == f"{checkout}/figures"
    assert executed["00"]["environment"]["BIGRAMLIB_STORE"] == f"{checkout}/.executed/store"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--model=mistyped", "There is no model 'mistyped'"),
        ("--corpus=mistyped", "There is no corpus 'mistyped'"),
        ("--notebooks=01 77", "NOTEBOOKS has '77'; choose from 00 01 02"),
        ("--device=abacus", "DEVICE 'abacus' is not available here"),
        ("--text-column=", "TEXT_COLUMN is ''; give a name"),
    ],
)
def test_a_refused_value_executes_nothing_and_leaves_nothing(executed, checkout, monkeypatch, option, sentence):
    before = sorted(checkout.rglob("*"))
    with pytest.raises(SystemExit, match=f"^make: {sentence}"):
        run(monkeypatch, "reproduce", "--notebooks=01", option)
    assert not executed and sorted(checkout.rglob("*")) == before


def test_a_failing_notebook_is_named_with_its_error_and_the_others_are_executed(checkout, monkeypatch, capfd):
    write_notebook(checkout / "notebooks/01_a.ipynb", "raise ValueError('There is no tea.')")
    failed = r"notebook 01_a.ipynb failed \(ValueError: There is no tea.\); see .*/.executed/mini/01.ipynb\)\.$"
    with pytest.raises(SystemExit, match=r"^make: 1 of 2 tasks failed; ask again to go on(.|\n)*" + failed):
        run(monkeypatch, "reproduce", "--notebooks=01 02")
    outputs = [
        cell.outputs for cell in nbformat.read(".executed/mini/01.ipynb", as_version=4).cells if cell.cell_type == "code"
    ]
    assert outputs[-1][0].evalue == "There is no tea."
    assert "Claims" not in capfd.readouterr().out and Path(".executed/mini/02.ipynb").exists()


@pytest.mark.parametrize(("sent", "processes"), [(signal.SIGINT, "1"), (signal.SIGTERM, "1"), (signal.SIGTERM, "2")])
def test_an_interrupted_run_ends_its_kernel_and_says_so(checkout, sent, processes):
    write_notebook(
        checkout / "notebooks/01_a.ipynb", "import os, time\nprint('kernel', os.getpid(), flush=True)\ntime.sleep(100)"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "bigramlib", "reproduce", "--notebooks=01"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PROCESSES": processes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # shells have their background jobs ignore it
    )
    kernel = next(int(line.split()[2]) for line in process.stdout if line.startswith("[01] kernel "))
    process.send_signal(sent)
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "make: interrupted; what was trained so far is in the store." in output.splitlines()
    wait_for(lambda: not psutil.pid_exists(kernel))  # it looks each second whether its parent is there


def wait_for(come: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not come():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_committed_notebooks_get_new_outputs_and_nothing_else(checkout, monkeypatch):
    source = "import sys\nfrom pathlib import Path\nprint('50 %', file=sys.stderr)\nprint(figures)\nPath(figures).mkdir()"
    masks = (
        "import os\nfor folder in ('subnetworks', 'locks'):\n    os.makedirs(f\"{os.environ['BIGRAMLIB_STORE']}/{folder}\")\n"
    )
    for path in Path("notebooks").glob("0*.ipynb"):
        path.unlink()
    write_notebook(Path("notebooks/01_a.ipynb"), source, masks)
    before = nbformat.read("notebooks/01_a.ipynb", as_version=4)
    run(monkeypatch, "notebooks")
    after = nbformat.read("notebooks/01_a.ipynb", as_version=4)
    code = [cell for cell in after.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert [[dict(output) for output in cell.outputs] for cell in code] == [
        [], [{"output_type": "stream", "name": "stdout", "text": "../figures\n"}], [],
    ]  # fmt: skip
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    assert after == before and (checkout / "figures").is_dir()
    assert zipfile.ZipFile("tests/subnetworks.zip").namelist() == ["subnetworks/"]


def test_masks_that_are_kept_are_used_by_committed_notebooks(executed, checkout, monkeypatch):
    with zipfile.ZipFile("tests/subnetworks.zip", "w") as archive:
        archive.writestr("subnetworks/a", "mask")
    run(monkeypatch, "notebooks")
    assert list(executed) == ["00", "01", "02"] and Path(".executed/store/subnetworks/a").read_text() == "mask"
    assert zipfile.ZipFile("tests/subnetworks.zip").read("subnetworks/a") == b"mask"


def test_of_tuned_models_only_adapters_are_kept(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("BIGRAMLIB_STORE", str(tmp_path))
    (tmp_path / "subnetworks").mkdir()
    task = Task("cat", "rule", "letters", ("Say it.",), tuple((letter, "cat") for letter in "abcdefghijklmnopqrstuvwxyz"))
    for config in (TuneConfig(steps=1, warmup_steps=0, batch_size=1, rank=rank) for rank in (None, 2)):
        instruction_tune(build("gpt_neox", tokenizer), [task], config)
    (adapter,) = (file for file in (tmp_path / "tuned").iterdir() if b"lora_A" in file.read_bytes())
    assert len(list((tmp_path / "tuned").iterdir())) == 2
    assert kept(tmp_path) == [tmp_path / "subnetworks", adapter]


def test_a_copy_differs_in_where_its_figures_go_only(checkout):
    write_notebook(Path("a.ipynb"), "figures = None", parameters="a = 1\nfigures = None  # why\nb = 2")
    copy_with_figures(Path("a.ipynb"), Path("copies/a.ipynb"), "../it's")
    before, copy = (nbformat.read(path, as_version=4).cells for path in ("a.ipynb", "copies/a.ipynb"))
    assert copy[1].source == 'a = 1\nfigures = "../it\'s"  # why\nb = 2'
    assert copy[2:] == before[2:] and copy[0] == before[0]
    write_notebook(Path("b.ipynb"), parameters="other = None")
    with pytest.raises(ValueError, match=r"b\.ipynb needs one cell tagged 'parameters' with a line `figures = None`"):
        copy_with_figures(Path("b.ipynb"), Path("copies/b.ipynb"), "..")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("nothing/here", "sotu", "cpu", ["01"]), "There is no model 'nothing/here'"),
        (("mini", "nowhere", "cpu", ["01"]), "There is no corpus 'nowhere'"),
        (("mini", "sotu", "abacus", ["01"]), "DEVICE 'abacus' is not available here; use DEVICE=cpu"),
        (("mini", "sotu", "cpu", ["77"]), "NOTEBOOKS has '77'; choose from 00 01 02"),
        (("mini", "sotu", "cpu", []), "NOTEBOOKS has ''; choose from 00 01 02"),
        (("", "sotu", "cpu", ["01"]), "MODEL is ''; give a name"),
        (("mini", "", "cpu", ["01"]), "CORPUS is ''; give a name"),
        (("mini", "sotu", "", ["01"]), "DEVICE is ''; give a name"),
        (("mini", "sotu", "cpu", ["01"], ""), "TEXT_COLUMN is ''; give a name"),
    ],
)
def test_unknown_values_for_make_get_one_sentence(values, message):
    with pytest.raises(ValueError, match=message):
        check_values(*values)


def test_good_values_for_make_pass():
    check_values("mini", "sotu", "cpu", ["01", "02"])


def test_tidied_notebooks_keep_results_and_lose_times_and_progress(tmp_path):
    cell = nbformat.v4.new_code_cell("1", execution_count=2, metadata={"papermill": {"duration": 3}, "execution": {}})
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="50%"),
        nbformat.v4.new_output("stream", name="stdout", text="yes"),
        nbformat.v4.new_output("execute_result", data={"text/html": "1", WIDGET: {"model_id": "2"}}, execution_count=2),
    ]
    path = tmp_path / "a.ipynb"
    injected = nbformat.v4.new_code_cell("figures = 'here'", execution_count=1, metadata={"tags": ["injected-parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[injected, cell], metadata={"papermill": {}}), path)
    tidy(path)
    tidied = nbformat.read(path, as_version=4)
    assert tidied.metadata == {}
    assert [(kept.source, kept.id, kept.metadata) for kept in tidied.cells] == [("1", cell.id, {})]
    assert [output.get("text", output.get("data")) for output in tidied.cells[0].outputs] == ["yes", {"text/html": "1"}]
    assert tidied.cells[0].execution_count == tidied.cells[0].outputs[1].execution_count == 1


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_tidy(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    tidy(copy)
    assert copy.read_bytes() == path.read_bytes()
