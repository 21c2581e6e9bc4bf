"""Inputs of a network: a tensor (n, ...), or a dict, tuple or list of inputs with n in common."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tangents.checks import require

Inputs = Tensor | dict | tuple | list


def each(x: Inputs, function: Callable[[Tensor], Any]) -> Any:
    """`function` of each tensor, in a structure like that of the inputs."""
    if isinstance(x, dict):
        return {k: each(v, function) for k, v in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)([each(v, function) for v in x])
    return function(x)


def _leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, dict):
        x = [*x.values()]
    if isinstance(x, (tuple, list)):
        for v in x:
            yield from _leaves(v)
    else:
        yield x


def tensors(x: Inputs) -> list[Tensor]:
    """The tensors of the inputs, in order. ValueError for anything else among them."""
    found = list(_leaves(x))
    kinds = {type(v).__name__ for v in found if not isinstance(v, Tensor)}
    require(not kinds, "inputs must be a tensor (n, ...), or a dict, tuple or list of such, got "
            + ", ".join(sorted(kinds)))  # fmt: skip
    return found


def count(x: Inputs) -> int:
    """The number of examples n. ValueError for none, and where the tensors do not have n alike."""
    sizes = {len(v) if v.dim() else 0 for v in tensors(x)}
    require(len(sizes) <= 1, f"inputs must have examples on a common first axis, got {sizes}")
    require(bool(sizes) and 0 not in sizes, "there are no inputs")
    return sizes.pop()


def some(x: Inputs, i: Any) -> Inputs:
    """The examples i."""
    return each(x, lambda v: v[i])


def joined(parts: list[Inputs]) -> Inputs:
    """Examples of several inputs after one another."""
    flat = zip(*map(tensors, parts), strict=True)
    each_joined = iter([torch.cat(v) for v in flat])
    return each(parts[0], lambda _: next(each_joined))


def kind(x: Inputs) -> Any:
    """What inputs of one kind have in common: structure, shapes of an example, types."""
    if isinstance(x, dict):
        return tuple((k, kind(v)) for k, v in x.items())
    if isinstance(x, (tuple, list)):
        return (type(x), *map(kind, x))
    return tuple(x.shape[1:]), x.dtype


@contextmanager
def taken(x: Inputs, by: str = "the module") -> Iterator[None]:
    """What a module says of inputs that it cannot take, as a ValueError."""
    try:
        yield
    except (RuntimeError, LookupError, AttributeError, TypeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        reason = str(error).partition("\n")[0]
        if not isinstance(error, RuntimeError):
            reason = f"{type(error).__name__}: {reason}"
        shown = (f"{tuple(v.shape)} of {v.dtype}" if isinstance(v, Tensor) else type(v).__name__
                 for v in _leaves(x))  # fmt: skip
        got = " and ".join(shown) or "without a tensor"
        raise ValueError(f"{by} does not take inputs {got}: {reason}") from error
