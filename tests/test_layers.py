"""Who may import whom: four rules, and no circle. Parsed, not executed; an import inside a function
counts as well.

1. The engine, which is every module at the top and `_ntk`, imports engine alone; its private part
   is known to `empirical`, to `measure` and to itself.
2. `data` imports data alone, and `lab` lab alone: it knows neither engine nor studies.
3. A study imports engine, data and lab, and no other study.
4. `pages` and the command line stand on top.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "tangents"
SOURCE = Path(__file__).resolve().parents[1] / "src" / PACKAGE
DOORS = f"{PACKAGE}.empirical", f"{PACKAGE}.measure"
FOLDERS = ("_ntk", "data", "lab", "studies", "pages")


def dotted(path):
    parts = PACKAGE, *path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sorted(SOURCE.rglob("*.py"))}


def group(module):
    """engine, _ntk, data, lab, studies.<name>, pages, or top."""
    _, *parts = module.split(".")
    if parts[:1] == ["studies"]:
        return ".".join(parts[:2])
    if parts and parts[0] in FOLDERS:
        return parts[0]
    return "top" if parts == ["__main__"] else "engine"


def allowed(importer):
    """The groups that a group may import from; None: all."""
    if importer.startswith("studies"):
        return {importer, "engine", "data", "lab"}
    rules = {"engine": {"engine"}, "_ntk": {"engine", "_ntk"}, "data": {"data"}, "lab": {"lab"}}
    return rules.get(importer)


def known(dotted):
    """The module that a dotted name stands for, or lies in."""
    while dotted and dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
    return dotted


def imported(module):
    """The package's modules that one imports."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {known(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative path"
            found |= {known(f"{node.module}.{alias.name}") for alias in node.names}
    return found - {"", PACKAGE, module}


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_to_the_rules(module):
    importer = group(module)
    rule = allowed(importer)
    for name in imported(module):
        if group(name) == "_ntk" and importer != "_ntk":
            assert module in DOORS, f"{module} must not import {name}"
        elif importer == "studies":  # the finder of studies
            assert group(name) == "lab", f"{module} must not import {name}"
        elif rule is not None:
            assert group(name) in rule, f"{module} must not import {name}"


def test_there_is_no_circle():
    graph = {module: imported(module) for module in MODULES}
    assert len([*TopologicalSorter(graph).static_order()]) == len(MODULES)


def test_the_groups_are_found():
    groups = {group(module) for module in MODULES}
    assert groups >= {"engine", "_ntk", "data", "lab", "studies.lazy", "pages", "top"}
