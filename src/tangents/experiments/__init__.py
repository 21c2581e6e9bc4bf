"""The studies by name: modules that declare an `EXPERIMENT`, imported only when asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from tangents.results import Experiment, unknown

STUDIES = {
    "lazy": "tangents.experiments.lazy",
    "constancy": "tangents.experiments.constancy",
}


def study(name: str) -> Experiment:
    """The experiment of that name, or of a dotted module path. Raises ConfigError for another."""
    if name not in STUDIES and not ("." in name and _exists(name)):
        raise unknown("study", name, STUDIES)
    module = import_module(STUDIES.get(name, name))
    if not isinstance(getattr(module, "EXPERIMENT", None), Experiment):
        raise unknown("study", name, STUDIES)
    return module.EXPERIMENT


def _exists(path: str) -> bool:
    try:
        return all(map(str.isidentifier, path.split("."))) and find_spec(path) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
