"""An experiment declared once: config, presets as grids, run function and claims.

Notebook, command line, sweep and tests all read that one declaration. Configs are frozen
dataclasses of flat literals, which command line, notebook and table columns accept alike.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

if typing.TYPE_CHECKING:
    import pandas as pd

PRESETS = ("smoke", "book", "paper")
VERDICTS = ("supported", "contradicted", "inconclusive")
ROW = {"step": int, "time": float, "split": str, "metric": str, "value": float}
RESERVED = {"run_id", *ROW, "commit", "device", "versions", "seconds"}  # a table's other columns


class ConfigError(ValueError):
    """A study, preset, field or value that does not exist or cannot be read (one line)."""


def unknown(kind: str, name: str, accepted: Iterable[str]) -> ConfigError:
    """The error for a name that is not among `accepted`, with the nearest one suggested."""
    accepted = list(accepted)
    near = difflib.get_close_matches(str(name), accepted, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(accepted) or "none"
    return ConfigError(f"unknown {kind} {name!r}: accepted are {known}{hint}")


def records(step: int, time: float, split: str, **metrics: Any) -> list[dict[str, Any]]:
    """Rows of a run's table, one for each metric, whose value is anything that `float` takes."""
    return [
        {"step": step, "time": time, "split": split, "metric": name, "value": float(value)}
        for name, value in metrics.items()
    ]


def accept(field: str, value: str, known: Iterable[str]) -> None:
    """ValueError, for a config's own check, where a word is not among the known ones."""
    if value not in known:
        raise ValueError(f"{field} must be one of {', '.join(known)}, got {value!r}")


@dataclass(frozen=True)
class Finding:
    """What a claim's check found: an estimate with its 95 % interval over `n_runs` runs.

    `accepted` is the range in which the interval has to lie for the claim to be supported.
    """

    estimate: float
    low: float
    high: float
    verdict: str
    n_runs: int
    note: str = ""
    accepted: tuple[float, float] = (math.nan, math.nan)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise unknown("verdict", self.verdict, VERDICTS)


@dataclass(frozen=True)
class Claim:
    """A paper's statement, its source and value, and the check of published rows that judges it."""

    id: str
    paper: str
    source: str
    statement: str
    expected: str
    check: Callable[[pd.DataFrame, dict[str, np.ndarray]], Finding]


@dataclass(frozen=True)
class Experiment:
    """A study declared once: config type, presets (grids over its fields), run, claims.

    `run(configs, device)` computes configs that differ only in the fields `stack`, and yields
    (index into configs, rows, arrays) as each is finished; a row has the keys of `ROW`.
    `tolerances` maps a metric, or "*" for any other, to the (rtol, atol) of a recomputation.
    Raises ConfigError for a declaration that contradicts itself.
    """

    name: str
    version: int
    config: type
    presets: dict[str, list[dict[str, Any]]]
    stack: tuple[str, ...]
    run: Callable[..., Iterator[tuple[int, list[dict], dict[str, np.ndarray]]]]
    claims: tuple[Claim, ...] = ()
    tolerances: dict[str, tuple[float, float]] = field(default_factory=lambda: {"*": (1e-6, 1e-9)})

    def __post_init__(self) -> None:
        names = field_types(self.config)
        for taken in sorted(RESERVED & set(names)):
            raise ConfigError(f"{self.name}: a config field may not be called {taken!r}")
        for name in self.stack:
            if name not in names:
                raise unknown(f"stack field of {self.name}", name, names)
        for preset in self.presets:
            if preset not in PRESETS:
                raise unknown(f"preset of {self.name}", preset, PRESETS)
        if "*" not in self.tolerances:
            raise ConfigError(f"{self.name}: tolerances need a default under '*'")


@cache
def field_types(config_type: type) -> dict[str, type]:
    """Fields of a config dataclass and their types: int, float, str or bool, else ConfigError."""
    hints = typing.get_type_hints(config_type)
    types = {f.name: hints[f.name] for f in dataclasses.fields(config_type)}
    for name, kind in types.items():
        if kind not in _READERS:
            raise ConfigError(f"field {name!r} must be int, float, str or bool, not {kind}")
    return types


def _integer(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = int(value)  # exact, where a float would round
        except ValueError:
            value = float(value)  # "1e3"
    if isinstance(value, (bool, np.bool_)) or value != (whole := int(value)):
        raise ValueError
    if not -(2**63) <= whole < 2**63:  # the width of a table's column
        raise OverflowError
    return whole


def _number(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or math.isnan(number := float(value)):
        raise ValueError  # nan is never equal to itself: such a run would never be found again
    return number + 0.0  # -0.0 becomes 0.0: equal values share one fingerprint


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _truth(value: Any) -> bool:
    words = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return words[str(value).lower()]


_READERS = {int: _integer, float: _number, str: _text, bool: _truth}


def coerce(config_type: type, values: Mapping[str, Any]) -> Any:
    """A config from a mapping, every value brought to its field's annotated type.

    Raises ConfigError for an unknown field, and for a value that its type cannot hold unchanged.
    """
    types = field_types(config_type)
    known = {name: _read(types, name, value) for name, value in values.items()}
    try:
        return config_type(**known)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config_type.__name__}: {' '.join(str(error).split())}") from None


def _read(types: Mapping[str, type], name: str, value: Any) -> Any:
    if name not in types:
        raise unknown("field", name, types)
    try:
        return _READERS[types[name]](value)
    except (ValueError, TypeError, OverflowError, KeyError):
        kind = types[name].__name__
        raise ConfigError(f"field {name!r}: cannot read {value!r} as {kind}") from None


def _values(entry: Any) -> list[Any]:
    many = isinstance(entry, Iterable) and not isinstance(entry, (str, bytes, Mapping))
    return list(entry) if many else [entry]


def expand(
    experiment: Experiment,
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    only: Iterable[tuple[str, Any]] = (),
) -> list:
    """The configs of a preset, duplicates removed; an override replaces its field in every grid.

    Of these, the ones whose fields have the values that `only` names, in pairs. Raises ConfigError
    for an unknown preset, field or value, and where no config has such a value.
    """
    if preset not in experiment.presets:
        raise unknown(f"preset of {experiment.name}", preset, experiment.presets)
    configs: dict[Any, None] = {}
    for grid in experiment.presets[preset]:
        axes = {name: _values(entry) for name, entry in {**grid, **(overrides or {})}.items()}
        for point in itertools.product(*axes.values()):
            configs.setdefault(coerce(experiment.config, dict(zip(axes, point, strict=True))))
    found = list(configs)
    for name, value in only:
        wanted = _read(field_types(experiment.config), name, value)
        present = dict.fromkeys(str(getattr(config, name)) for config in found)
        found = [config for config in found if getattr(config, name) == wanted]
        if not found:
            raise unknown(f"{name} in preset {preset}", str(value), present)
    return found


def as_values(experiment: Experiment, config: Any) -> dict[str, Any]:
    """The config's fields, coerced; also for a config that was built with other number types."""
    return dataclasses.asdict(coerce(experiment.config, dataclasses.asdict(config)))


def fingerprint(experiment: Experiment, config: Any) -> str:
    """The run's name: 16 hex digits of the experiment's name and version and the coerced config."""
    fields = sorted(as_values(experiment, config).items())
    text = json.dumps([experiment.name, experiment.version, fields])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
