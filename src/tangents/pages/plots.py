"""A study's figures as files, from published rows or from runs of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from matplotlib.figure import Figure

from tangents import studies
from tangents.lab.evidence import Table
from tangents.lab.figures import forest
from tangents.lab.ledger import judged
from tangents.lab.study import ConfigError, LabError, Study, unknown

FORMATS = ("png", "svg", "pdf")


def names(study: Study) -> list[str]:
    """The figures of a study: functions of its table alone, and "forest", that of all findings."""
    return [*_drawn(study), "forest"]


def _drawn(study: Study) -> dict[str, Callable[[Table], Figure]]:
    module = import_module(f"{studies.path(study.name)}.figures")
    own = (f for f in vars(module).values() if getattr(f, "__module__", "") == module.__name__)
    return {f.__name__: f for f in own if inspect.isfunction(f) and _is_figure(f)}


def _is_figure(function: Callable) -> bool:
    given = inspect.signature(function)
    needed = [p for p in given.parameters.values() if p.default is p.empty]
    return given.return_annotation in (Figure, "Figure") and len(needed) == 1


def draw(study: Study, name: str, table: Table) -> Figure:
    """The figure of that name. Raises ConfigError for another, LabError where the rows lack it."""
    if name not in names(study):
        raise unknown(f"figure of {study.name}", name, names(study))
    try:
        if name == "forest":
            return forest([e for e in judged(study, table) if e["kind"] == "finding"])
        return _drawn(study)[name](table)
    except (LookupError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LabError(f"figure {name!r}: these runs lack what it shows ({reason})") from error


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure on white ground, in the format that the file's name ends with."""
    check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, facecolor="white")
    return path


def check(path: Path) -> None:
    """ConfigError for a file in no format that figures have."""
    if path.suffix[1:].lower() not in FORMATS:
        raise ConfigError(f"plot: the file must end with .{', .'.join(FORMATS)}, not {path.name}")
