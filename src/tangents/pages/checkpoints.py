"""How lazy a training was, from the files that it left: two checkpoints, a batch and the code."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch

from tangents.lab.study import ConfigError, LabError
from tangents.measure import Laziness, measure


def measured(network: str, before: Path, after: Path, batch: Path) -> Laziness:
    """`measure` of the module that a "FILE:FUNCTION" builds, with parameters of two state_dicts.

    `batch` holds inputs, or a dict of inputs x and labels y. Raises ConfigError where there is no
    such function, LabError where files or network cannot be used (one line).
    """
    states, given = [_loaded(path) for path in (before, after)], _loaded(batch)
    x, y = (given.get("x"), given.get("y")) if isinstance(given, dict) else (given, None)
    if x is None or not all(isinstance(state, dict) for state in states):
        raise LabError("measure: weights must be state_dicts, the batch a tensor or a dict with x")
    try:
        module = _built(network)
        module.load_state_dict(states[1])  # for its buffers
        names = [name for name, _ in module.named_parameters()]
        start, end = ({name: state[name] for name in names} for state in states)
        return measure(module.eval(), start, end, x, y)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # of a network that is not ours
        reason = " ".join(str(error).split())[:300]
        raise LabError(f"measure: {type(error).__name__}: {reason}") from error


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
    return getattr(code, name)()
