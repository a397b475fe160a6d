"""A report to read and to share: every claim with its numbers, the executed notebooks with their code folded, and the API."""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path

from bigramlib.disk import written_whole
from bigramlib.findings.claims import recorded
from bigramlib.findings.notebooks import EXECUTED, NOTEBOOKS
from bigramlib.findings.reproduction import MODEL, OWN_MODELS
from bigramlib.findings.summary import claims_table

REPORT = Path("report")
FIGURES = Path("figures")
ASSETS = Path(__file__).parent / "assets"
FOLDED = "folded.html.j2"
SURVEY = "10"
"""The notebook about all models that have figures."""
MEASURED = ("yes", "no", "not testable")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_report(folder: Path = REPORT) -> Path:
    """Write the report, in the root of a source checkout. It needs nothing from the network to be read.

    It has the claims of all models in figures/, the notebooks that were executed on models, the committed ones where none was,
    and a page for each module.

    Args:
        folder: where it is written; what was there is replaced.

    Returns:
        The path of its first page.
    """
    import pdoc  # it comes with the extra "notebooks", which nothing else here needs

    shutil.rmtree(folder, ignore_errors=True)
    links: dict[str, list[str]] = {}
    for (number, model), notebook in executed_notebooks().items():
        page = folder / model / f"{number}.html"
        title = _write_notebook(notebook, page, model)
        links.setdefault(title, []).append(f'<a href="{escape(str(page.relative_to(folder)))}">{escape(model)}</a>')
    items = [f"<li>{escape(title)}: {', '.join(pages)}</li>" for title, pages in links.items()]
    body = ["<h1>What was found</h1>", '<nav><a href="#notebooks">notebooks</a> · <a href="api/index.html">API</a></nav>']
    body += [_claims(model) for model in measured_models()]
    body += ['<h2 id="notebooks">Notebooks</h2>', "<ul>", *items, "</ul>"]
    _write_page(folder / "index.html", "bigramlib: what was found", "\n".join(body))
    pdoc.render.configure(docformat="google", template_directory=ASSETS / "pdoc")
    pdoc.pdoc("bigramlib", output_directory=folder / "api")
    return folder / "index.html"


def executed_notebooks() -> dict[tuple[str, str], Path]:
    """The notebooks by number and model: those executed on a model, else the committed ones, in the order of their numbers.

    The one about all models counts as about "models", whatever model it was executed on.
    """
    models = OWN_MODELS | {SURVEY: "models"}
    committed = {path.name[:2]: path for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")}
    found = {(number, models.get(number, MODEL)): path for number, path in committed.items()}
    for path in EXECUTED.glob("*/[0-9][0-9].ipynb"):
        if path.stem in committed:
            found[path.stem, "models" if path.stem == SURVEY else path.parent.name] = path
    return dict(sorted(found.items()))


def measured_models() -> list[str]:
    """The names of the folders of figures that have claims, those of the committed notebooks first."""
    own = [MODEL, *OWN_MODELS.values()]
    names = [folder.name for folder in FIGURES.glob("*") if recorded(folder)]
    return sorted(names, key=lambda name: (own.index(name) if name in own else len(own), name))


def _claims(model: str) -> str:
    table = claims_table(FIGURES / model)
    table = table[table.holds.isin(MEASURED)]
    rows = [
        f"<tr><td>{escape(row.claim)}</td><td>{escape(f'{row.source}: {row.paper}')}</td><td>{escape(row.ours)}</td>"
        f'<td class="{row.holds.split()[0]}">{row.holds}</td></tr>'
        for row in table.itertuples()
    ]
    head = "<tr><th>claim</th><th>paper</th><th>ours</th><th>holds</th></tr>"
    title = f"<h2>{escape(model)}: {(table.holds == 'yes').sum()} of {len(table)} claims hold</h2>"
    return f'{title}\n<div class="scroll"><table class="claims">{head}\n{"".join(rows)}</table></div>'


def _write_notebook(notebook: Path, page: Path, model: str) -> str:
    """Write a notebook as a page with its code folded; returns its title."""
    import nbformat  # it comes with the extra "notebooks", as nbconvert does
    from jinja2 import DictLoader
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    template = {FOLDED: (ASSETS / FOLDED).read_text()}
    exporter = HTMLExporter(template_name="basic", template_file=FOLDED, extra_loaders=[DictLoader(template)])
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    title = next(line for cell in content.cells for line in cell.source.splitlines() if line.startswith("# ")).lstrip("# ")
    body = f'<nav><a href="../index.html">all claims</a> · on {escape(model)}</nav>\n{exporter.from_notebook_node(content)[0]}'
    _write_page(page, f"{title} ({model})", body)
    return title


def _write_page(path: Path, title: str, body: str) -> None:
    from pygments.formatters import HtmlFormatter  # it comes with nbconvert

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    style = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{(ASSETS / 'report.css').read_text()}"
    with written_whole(path) as temporary:
        temporary.write_text(PAGE.format(title=escape(title), style=style, body=body), encoding="utf-8")
