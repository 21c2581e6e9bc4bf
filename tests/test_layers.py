"""Imports go down only: a module may import from lower layers, and from its own only to the left.

Parsed, not executed; an import inside a function counts as well. The book shows the same table.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = "tangents"
SOURCE = Path(__file__).resolve().parents[1] / "src" / PACKAGE
LAYERS = (
    ("functional", "losses", "declaration", "statistics", "provenance", "results", "sources"),
    ("datasets", "models", "kernels", "lanczos"),
    ("jacobian", "structure", "plan", "ntk", "stream", "linearised", "curvature", "reversible"),
    ("chain", "train", "optimise", "probes"),
    ("figures", "speed", "experiments", "sweep", "ledger", "pages", "chapters", "__init__"),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, name in enumerate(name for layer in LAYERS for name in layer)}
PAGE = SOURCE.parents[1] / "book" / "built.md"
FILES = sorted(SOURCE.rglob("*.py"))


def unit(path):
    """What the table knows a file by: the module, or the sub-package that it stands in."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def target(dotted):
    """The table's name of an absolute import; None for another package."""
    head, *rest = dotted.split(".")
    if head != PACKAGE:
        return None
    return rest[0] if rest else "__init__"


def imported(path):
    """The table's names of all that a file imports from the package."""
    package = (PACKAGE, *path.relative_to(SOURCE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {target(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            whole = source == PACKAGE  # `from tangents import ntk` names modules
            names = [f"{source}.{alias.name}" for alias in node.names] if whole else [source]
            found |= {target(name) for name in names}
    return found - {None}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path):
    here = unit(path)
    assert here in RANK, f"{here} stands in no layer: add it to the table"
    for name in imported(path):
        assert name in RANK, f"{here} imports {name}, which stands in no layer"
        inside = name == here == "experiments"
        assert inside or RANK[name] < RANK[here], f"{here} must not import {name}"


def test_the_package_was_found():
    assert FILES


def test_the_book_shows_these_layers():
    rows = re.findall(r"^\| (\d) \| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {int(layer): re.findall(r"`(\w+)`", names) for layer, names in rows}
    assert shown == {
        layer: [name for name in names if name != "__init__"] for layer, names in enumerate(LAYERS)
    }
