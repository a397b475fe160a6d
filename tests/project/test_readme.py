"""What the README and its neighbours say of the project is true of its files."""

import csv
import re
from pathlib import Path

import pytest

from bigramlib.findings.summary import ALL_CLAIMS

ROOT = Path(__file__).parents[2]
NAMES = ("README.md", "CONTRIBUTING.md", "figures/README.md", "benchmarks/README.md")
PAGES = {name: (ROOT / name).read_text() for name in NAMES}
MAP = PAGES["README.md"].split("## Map")[1].split("```")[1]


MODELS = ("mini", "world-a0")
"""Those on which notebooks are executed where no model is given."""


def recorded(model: str = "mini") -> list[list[str]]:
    with (ROOT / "figures" / model / "claims.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_every_claim_stands_beside_the_figures_as_measured_with_the_paper_that_it_belongs_to():
    rows = {row[0]: row for model in MODELS for row in recorded(model)}
    assert set(rows) == {claim.text for claim in ALL_CLAIMS.values()}
    for claim in ALL_CLAIMS.values():
        text, paper, ours, holds = rows[claim.text]
        assert f"| {text} | {claim.source} | {paper} | {ours} | {holds} |" in PAGES["figures/README.md"]


def test_the_summary_shows_some_of_the_claims_as_measured_and_counts_all():
    rows = re.findall(r"^\| .* \| (.*) \| (.*) \| \[\d\d\]\(notebooks/.*\) \|$", PAGES["README.md"], re.MULTILINE)
    measured = [row for model in MODELS for row in recorded(model)]
    assert len(rows) == 8 and set(rows) <= {(row[1], row[2]) for row in measured}
    holds = [row[3] for row in measured]
    counts = [holds.count(kind) for kind in ("yes", "no", "not testable")]
    assert f"{counts[0]} of the {len(holds)} claims" in PAGES["README.md"]
    assert f"{counts[1]} do not, {counts[2]} cannot be tested" in PAGES["README.md"]


def test_the_map_names_every_file_of_the_package_and_no_other():
    named = sorted(re.findall(r"\b\w+\.py\b", MAP))
    files = [path.name for path in (ROOT / "bigramlib").rglob("*.py") if path.name != "__init__.py"]
    assert named == sorted(files)


def test_the_readme_links_to_every_notebook():
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"](notebooks/{notebook.name})" in PAGES["README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]) if "://" not in link]
    assert links or page == "CONTRIBUTING.md"
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link
