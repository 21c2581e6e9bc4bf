"""What may be done to the arguments of a call that is right, so that it must be refused."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tangents import models


class Call(NamedTuple):
    """A call that is right, and what may be done to it: pairs of an argument and a kind."""

    name: str
    function: Callable[..., Any]
    given: dict[str, Any]
    fine: frozenset[tuple[str, str]] = frozenset()


def call(name: str, function: Callable[..., Any], fine: str = "", **given: Any) -> Call:
    """`fine` in words: "k nan, y row"."""
    words = (tuple(each.split(" ", 1)) for each in fine.split(", ") if each)
    return Call(name, function, given, frozenset(words))


def spoiled(value: Any) -> Iterator[tuple[str, Any]]:
    """What may come by mistake in the place of an argument."""
    if isinstance(value, nn.Module):
        yield "none", None
        yield "function", value.forward
        yield "wide", models.MLP(3, 5, 2, c=3)
        yield "plain", nn.Sequential(nn.Linear(2, 3, dtype=torch.float64))
    elif isinstance(value, dict):
        name, first = next(iter(value.items()))
        yield "missing", {k: v for k, v in value.items() if k != name}
        yield "strange", {**value, "none of these": first}
        yield "transposed", {**value, name: first.mT}
        yield "row", {**value, name: first[:1]}
        yield "lists", {**value, name: first.tolist()}
        yield "single", {**value, name: first.float()}
        yield "none", {}
        yield "values", [*value.values()]
        yield "first", {k: v[0] for k, v in value.items()}
        yield "no networks", {k: v[:0] for k, v in value.items()}
    elif isinstance(value, Tensor):
        real = value.is_floating_point()
        yield "list", value.tolist()
        yield "array", value.numpy()
        yield ("integers", value.long()) if real else ("reals", value.double())
        yield "complex", value.to(torch.complex128)
        if real:
            yield "single", value.float()
            yield "nan", torch.full_like(value, math.nan)
            yield "inf", torch.full_like(value, math.inf)
        if bool((value > 0).all()):
            yield "negative", -value
            yield "zero", 0 * value
        yield "empty", value[:0]
        yield "number", value.flatten()[0]
        yield "row", value[:1]
        yield "longer", torch.cat([value, value])
        yield "column", value.unsqueeze(-1)
        yield "axes", value[None, None, None]
        if value.dim() > 1 and value.shape[-1] != value.shape[-2]:
            yield "transposed", value.mT
        if value.dim() > 1 and value.shape[-1] == value.shape[-2] > 1:
            yield "oblong", value[..., :-1]
            yield "oblique", value + 10 * value.triu(1) + value.abs().max() * torch.ones(
                value.shape, dtype=value.dtype).triu(1)  # fmt: skip
    elif isinstance(value, np.ndarray):
        yield "list", value.tolist()
        yield "empty", value[:0]
        yield "row", value[:1]
        yield "column", value[..., None]
        if value.dtype.kind == "f":
            yield "nan", np.full_like(value, math.nan)
            if value.shape[0] == value.shape[1]:
                yield "oblique", value + value.max() * np.triu(np.ones_like(value), 1)
    elif isinstance(value, (int, float)):
        yield "word", "abc"
        yield "nan", math.nan
        yield "negative", -1 if isinstance(value, int) else -1.0
        yield "inf", math.inf
        yield "none", None
        if isinstance(value, int):
            yield "fraction", 2.5


def exhausted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of what gives an iterator: its first values."""

    def of(**given: Any) -> Any:
        states = iter(function(**given))
        return [next(states) for _ in range(2)]

    return of
