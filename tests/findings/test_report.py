"""The report shows every claim with its numbers and each executed notebook, and needs nothing but its own files."""

import base64
import io
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from bigramlib.findings.claims import COLUMNS
from bigramlib.findings.report import executed_notebooks, write_report
from bigramlib.findings.summary import ALL_CLAIMS

CLAIM = ALL_CLAIMS["exists"]


def picture():
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def write_notebook(path, words):
    outputs = [
        new_output("stream", name="stderr", text="100% of it"),
        new_output("stream", name="stdout", text=words),
        new_output("display_data", {"image/png": picture()}, metadata={"image/png": {"alt": "r rises to <1>"}}),
    ]
    cells = [new_markdown_cell("# 01 · A finding\n\nof *words*"), new_code_cell("x = 1 < 2", outputs=outputs)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a notebook and the claims of two models; the pages about modules are left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pdoc.pdoc", lambda name, output_directory: (output_directory / f"{name}.html").mkdir(parents=True))
    write_notebook(Path("notebooks/01_finding.ipynb"), "committed")
    for model, ours in (("alpha", "r < 0.9"), ("mini", "r 0.955")):
        folder = Path("figures") / model
        folder.mkdir(parents=True)
        pd.DataFrame([(CLAIM.text, CLAIM.paper, ours, "yes")], columns=COLUMNS).to_csv(folder / "claims.csv", index=False)
    return tmp_path


def test_the_first_page_has_the_claims_of_every_model_with_their_numbers_and_links_to_the_notebooks(checkout):
    page = write_report().read_text()
    assert page.index("mini: 1 of 1 claims hold") < page.index("alpha: 1 of 1 claims hold")
    assert "<td>r 0.955</td>" in page and "<td>r &lt; 0.9</td>" in page and "not measured" not in page
    (link,) = re.findall(r'href="([^"]*01.html)"', page)
    assert (checkout / "report" / link).exists() and (checkout / "report" / "api" / "bigramlib.html").exists()


def test_a_notebook_is_a_page_with_folded_code_and_described_pictures_and_without_progress(checkout):
    write_report()
    page = (checkout / "report/mini/01.html").read_text()
    assert "<title>01 · A finding (mini)</title>" in page and "<em>words</em>" in page and "committed" in page
    code = re.search(r'<details class="code">(.*?)</details>', page, re.DOTALL).group(1)
    assert "&lt;" in code and "committed" not in code
    assert 'alt="r rises to &lt;1&gt;"' in page and "100% of it" not in page


def test_pages_are_read_on_a_phone_and_without_a_network(checkout):
    write_report()
    for path in (checkout / "report").rglob("*.html"):
        if path.is_file():
            page = path.read_text()
            assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
            assert not re.search(r"<script|<link|@import|url\(|src=\"(?!data:)", page)


def test_what_was_executed_on_a_model_stands_beside_or_for_the_committed_notebook(checkout):
    write_notebook(Path("notebooks/10_models.ipynb"), "all")
    write_notebook(Path(".executed/alpha/01.ipynb"), "anew")
    write_notebook(Path(".executed/mini/10.ipynb"), "all anew")
    write_notebook(Path(".executed/notebooks/01_finding.ipynb"), "a copy")
    assert executed_notebooks() == {
        ("01", "alpha"): Path(".executed/alpha/01.ipynb"),
        ("01", "mini"): Path("notebooks/01_finding.ipynb"),
        ("10", "models"): Path(".executed/mini/10.ipynb"),
    }
    write_report()
    assert "anew" in (checkout / "report/alpha/01.html").read_text()


def test_an_earlier_report_is_replaced(checkout):
    (checkout / "report/beta").mkdir(parents=True)
    write_report()
    assert not (checkout / "report/beta").exists()
