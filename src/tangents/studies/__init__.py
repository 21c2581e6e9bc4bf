"""The studies of the book, one folder each, imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

from tangents.lab.study import ConfigError, LabError, Study, unknown


def names() -> list[str]:
    """The folders here that hold a study."""
    return sorted(module.name for module in iter_modules(__path__) if module.ispkg)


def path(name: str) -> str:
    """The package of the study of that name; a dotted module path is its own. ConfigError."""
    dotted = f"{__name__}.{name}" if name in names() else name
    if not ("." in dotted and _exists(dotted)):
        raise unknown("study", name, names())
    return dotted


def find(name: str) -> Study:
    """The `STUDY` of that name, or of a dotted module path.

    Raises ConfigError for another name, LabError where the module fails.
    """
    try:
        study = getattr(import_module(path(name)), "STUDY", None)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever a module does that is not ours
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise LabError(f"study {name!r} cannot be imported: {reason}") from error
    if not isinstance(study, Study):
        raise unknown("study", name, names())
    return study


def _exists(dotted: str) -> bool:
    parts = dotted.split(".")
    try:
        named = all(part.isidentifier() for part in parts)  # `map` is a study here
        return named and find_spec(dotted) is not None
    except ModuleNotFoundError as error:
        if error.name and dotted.startswith(error.name):  # a parent package is missing
            return False
        raise
