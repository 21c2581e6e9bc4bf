"""Every committed notebook: executed from top to bottom, clean, short, and readable by all.

nbval compares outputs but passes a stripped notebook silently; these guards close that gap.
"""

from pathlib import Path

import nbformat
import pytest
from notebooks import normalise

BOOK = Path(__file__).resolve().parents[1] / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
MAX_LINES = 25


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def draws(cell):
    """Whether a cell's stored output holds an image."""
    return any(mime.startswith("image/") for out in cell.outputs for mime in out.get("data", {}))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request):
    return read(request.param)


def test_the_book_has_notebooks():
    assert NOTEBOOKS


def test_valid(notebook):
    nbformat.validate(notebook)


def test_executed_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_one_parameters_cell(notebook):
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert [cell.cell_type for cell in tagged] == ["code"]


def test_parameters_are_plain_assignments(notebook):
    """Papermill finds a parameter only where it is alone on its line, its comment without a =."""
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for line in cell.source.splitlines():
        if line.strip() and not line.startswith("#"):
            assert line.count("=") == 1 and ";" not in line, line


def test_clean_metadata(notebook):
    clean = normalise(nbformat.from_dict(notebook))
    assert notebook.metadata == clean.metadata
    assert [c.metadata for c in notebook.cells] == [c.metadata for c in clean.cells]


def test_no_errors_or_warnings(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_short_cells(notebook):
    long = [c.source for c in code_cells(notebook) if len(c.source.splitlines()) > MAX_LINES]
    assert not long


def test_figures_have_name_caption_and_alt_text(notebook):
    for cell in filter(draws, code_cells(notebook)):
        myst = cell.metadata.get("mystnb", {})
        assert myst.get("figure", {}).get("name"), cell.source
        assert myst["figure"].get("caption"), cell.source
        assert myst.get("image", {}).get("alt"), cell.source


def test_pages_with_formulas_in_tables_have_one_in_their_text(notebook):
    """Sphinx loads MathJax where it sees a formula, and it does not look into HTML."""
    outputs = [o for cell in code_cells(notebook) for o in cell.outputs]
    if any(r"\(" in o.get("data", {}).get("text/html", "") for o in outputs):
        text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert text.count("$") >= 2


def test_figure_names_are_unique():
    cells = [cell for path in NOTEBOOKS for cell in code_cells(read(path)) if draws(cell)]
    names = [cell.metadata.mystnb.figure.name for cell in cells]
    assert len(names) == len(set(names))
