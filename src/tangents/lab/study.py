"""A study declared once: config, presets as grids, run function and claims.

Notebook, command line, sweep and tests all read that one declaration. Configs are frozen
dataclasses of flat literals, which command line, notebook and table columns accept alike. What a
field accepts stands in its annotation, what it means in the comment behind it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import inspect
import io
import itertools
import json
import math
import textwrap
import tokenize
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

PRESETS = ("smoke", "book", "paper")
ROW = {"step": int, "time": float, "split": str, "metric": str, "value": float}
# A table's other columns
RESERVED = {"run_id", *ROW, "commit", "device", "versions", "seconds", "claims"}


class LabError(Exception):
    """What a command that was understood could not do (one line)."""


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


# ---- what a field accepts


class Rule(NamedTuple):
    """A condition on a field's value, in words."""

    words: str
    holds: Callable[[Any], bool]


LATER = "a field that came later"  # at its default it is no part of a run's name
Count = Annotated[int, Rule("at least 1", lambda v: v >= 1)]
Whole = Annotated[int, Rule("at least 0", lambda v: v >= 0)]
Positive = Annotated[float, Rule("positive and finite", lambda v: 0 < v < math.inf)]
Bound = Annotated[float, Rule("positive, or inf", lambda v: v > 0)]


class Field(NamedTuple):
    """What a config's class says of one field."""

    kind: type  # int, float, str or bool
    accepted: tuple[Rule, ...]
    choices: tuple[str, ...]  # of a word; empty: any
    default: Any
    meaning: str  # the comment behind it
    later: bool  # see LATER


@dataclass(frozen=True)
class Config:
    """What configs derive from: each field is checked against its annotation. ValueError."""

    def __post_init__(self) -> None:
        for name, known in fields(type(self)).items():
            value = getattr(self, name)
            if known.choices and value not in known.choices:
                raise ValueError(f"{name} must be one of {', '.join(known.choices)}, got {value!r}")
            for rule in known.accepted:
                if not rule.holds(value):
                    raise ValueError(f"{name} must be {rule.words}, got {value}")


@cache
def fields(config: type) -> dict[str, Field]:
    """The fields of a config's class: int, float, str or bool, a Literal of words, or Annotated
    with a `Rule` or LATER; ConfigError for another."""
    hints = typing.get_type_hints(config, include_extras=True)
    comments = {k: v for each in reversed(config.__mro__) for k, v in _comments(each).items()}
    return {
        f.name: _field(f.name, hints[f.name], f.default, comments.get(f.name, ""))
        for f in dataclasses.fields(config)
    }


def _field(name: str, hint: Any, default: Any, meaning: str) -> Field:
    marks: tuple = ()
    while typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        marks += tuple(more)
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kind = str if choices else hint
    if kind not in _READERS:
        raise ConfigError(f"field {name!r} must be int, float, str or bool, not {hint}")
    rules = tuple(mark for mark in marks if isinstance(mark, Rule))
    return Field(kind, rules, choices, default, meaning, LATER in marks)


def _comments(config: type) -> dict[str, str]:
    """The comments behind the fields in the class's own source, as far as it is to be had."""
    try:
        source = textwrap.dedent(inspect.getsource(config))
    except (OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    named = [node for node in ast.parse(source).body[0].body if isinstance(node, ast.AnnAssign)]
    return {n.target.id: comments[n.end_lineno] for n in named if n.end_lineno in comments}


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


def coerce(config: type, values: Mapping[str, Any]) -> Any:
    """A config from a mapping, every value brought to its field's annotated type.

    Raises ConfigError for an unknown field, and for a value that its type cannot hold unchanged or
    that the config refuses.
    """
    known = {name: read(config, name, value) for name, value in values.items()}
    try:
        return config(**known)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config.__name__}: {' '.join(str(error).split())}") from None


def read(config: type, name: str, value: Any) -> Any:
    """The value as the field of that name holds it. Raises ConfigError."""
    if name not in fields(config):
        raise unknown("field", name, fields(config))
    kind = fields(config)[name].kind
    try:
        return _READERS[kind](value)
    except (ValueError, TypeError, OverflowError, KeyError):
        raise ConfigError(f"field {name!r}: cannot read {value!r} as {kind.__name__}") from None


# ---- a study


@dataclass(frozen=True)
class Imported:
    """A function "module:name", imported when it is called: a study is known without torch."""

    path: str

    def __call__(self, *arguments: Any) -> Any:
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)(*arguments)


@dataclass(frozen=True)
class Study:
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
    claims: tuple[Any, ...] = ()  # see `lab.claims`
    tolerances: dict[str, tuple[float, float]] = field(default_factory=lambda: {"*": (1e-6, 1e-9)})

    def __post_init__(self) -> None:
        names = fields(self.config)
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


def _values(entry: Any) -> list[Any]:
    many = isinstance(entry, Iterable) and not isinstance(entry, (str, bytes, Mapping))
    return list(entry) if many else [entry]


def expand(
    study: Study,
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    only: Iterable[tuple[str, Any]] = (),
) -> list:
    """The configs of a preset, duplicates removed; an override replaces its field in every grid.

    Of these, the ones whose fields have the values that `only` names, in pairs. Raises ConfigError
    for an unknown preset, field or value, and where no config has such a value.
    """
    if preset not in study.presets:
        raise unknown(f"preset of {study.name}", preset, study.presets)
    configs: dict[Any, None] = {}
    for grid in study.presets[preset]:
        axes = {name: _values(entry) for name, entry in {**grid, **(overrides or {})}.items()}
        for point in itertools.product(*axes.values()):
            configs.setdefault(coerce(study.config, dict(zip(axes, point, strict=True))))
        if empty := [name for name, values in axes.items() if not values]:
            raise ConfigError(f"field {empty[0]!r}: no value is given")
    found = list(configs)
    for name, value in only:
        wanted = read(study.config, name, value)
        present = dict.fromkeys(str(getattr(config, name)) for config in found)
        found = [config for config in found if getattr(config, name) == wanted]
        if not found:
            raise unknown(f"{name} in preset {preset}", str(value), present)
    return found


def as_values(study: Study, config: Any) -> dict[str, Any]:
    """The config's fields, coerced; also for a config that was built with other number types."""
    return dataclasses.asdict(coerce(study.config, dataclasses.asdict(config)))


def fingerprint(study: Study, config: Any) -> str:
    """The run's name: 16 hex digits of the study's name and version and the coerced config.

    A field that came later counts where it is not at its default, so that older runs keep theirs.
    """
    known, values = fields(study.config), as_values(study, config)
    named = {k: v for k, v in values.items() if not (known[k].later and v == known[k].default)}
    text = json.dumps([study.name, study.version, sorted(named.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
