"""How lazy a training was, from the files that it left: two checkpoints, a batch and the code."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch

from tangents.lab.study import ConfigError, LabError
from tangents.laziness import Laziness
from tangents.measure import measure


def measured(
    network: str,
    before: Path,
    after: Path,
    batch: Path,
    params: Sequence[str] = (),
    sums: int | None = None,
    budget: float | None = None,
) -> Laziness:
    """`measure` of the module that a "FILE:FUNCTION" builds, with parameters of two state_dicts.

    `batch` holds inputs, or a dict of inputs x and maybe labels y. Buffers are those after. With
    patterns of `params` the state_dicts may hold these alone, as adapters' do; the others are as
    the module was built. Raises ConfigError where there is no such function, LabError where files
    or network cannot be used (one line).
    """
    states, given = [_loaded(path) for path in (before, after)], _loaded(batch)
    x, y = (
        (given["x"], given.get("y")) if isinstance(given, dict) and "x" in given else (given, None)
    )
    if not all(isinstance(state, dict) for state in states):
        raise LabError("measure: the weights must be state_dicts")
    try:
        module = _built(network)
        for path, state in zip((before, after), states, strict=True):
            _fill(module, state, path, bool(params))
        return measure(module.eval(), *states, x, y, budget, params, sums)
    except (ConfigError, LabError):
        raise
    except (Exception, SystemExit) as error:  # of a network that is not ours
        reason = " ".join(str(error).split())[:300]
        raise LabError(f"measure: {type(error).__name__}: {reason}") from error


def _fill(module: torch.nn.Module, state: dict, path: Path, partial: bool) -> None:
    """Buffers, and parameters that are not measured: what the state has of them."""
    lacking, strange = module.load_state_dict(state, strict=False)
    if strange:
        known = ", ".join([*module.state_dict()][:3])
        raise LabError(
            f"measure: {path} holds {strange[0]!r}: the network's names are {known}, ..."
        )
    if lacking and not partial:
        raise LabError(f"measure: {path} lacks {lacking[0]!r}: --params PATTERN takes some alone")


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many types
        raise LabError(f"measure: {path} holds no plain tensors saved by torch.save") from error


def _built(words: str) -> torch.nn.Module:
    """What a function of a Python file builds."""
    file, _, name = words.rpartition(":")
    if not (file and name and Path(file).is_file()):
        raise ConfigError(f"measure: expected FILE:FUNCTION of a Python file, got {words!r}")
    spec = spec_from_file_location("measured", file)
    code = module_from_spec(spec)
    spec.loader.exec_module(code)
    found = getattr(code, name)()
    if not isinstance(found, torch.nn.Module):
        raise LabError(f"measure: {words} gives a {type(found).__name__}, and no network")
    return found
