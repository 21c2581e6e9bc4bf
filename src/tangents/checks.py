"""What functions of tensors accept: where it is something else, one line says what, and what came.

Each raises ValueError, and TypeError for what is no tensor or no number.
"""

import math
from numbers import Real
from typing import Any

import torch
from torch import Generator, Tensor

ROWS = 1024  # of a matrix, compared with its transpose at a time
SYMMETRIC = 1e-3  # of the largest entry: what rounding in any precision stays below


def require(condition: bool, message: str) -> None:
    """ValueError with that message, unless the condition holds."""
    if not condition:
        raise ValueError(message)


def kind(name: str, value: Any, *wanted: type) -> None:
    """TypeError for what is no tensor, or of none of the types that are wanted."""
    wanted = wanted or (Tensor,)
    if not isinstance(value, wanted):
        accepted = " or ".join(each.__name__ for each in wanted)
        raise TypeError(f"{name} must be a {accepted}, got {type(value).__name__}")


def tensors(**given: Tensor) -> None:
    """Each a tensor of real floating-point numbers, none empty; all of one dtype and device."""
    alike(**given)
    for name, v in given.items():
        require(v.numel() > 0, f"{name} is empty, of shape {tuple(v.shape)}")


def reals(**given: Tensor) -> None:
    """Each a tensor of real floating-point numbers of some type, which may be empty."""
    for name, v in given.items():
        kind(name, v)
        require(v.is_floating_point(), f"{name} must hold floating-point numbers, got {v.dtype}")


def alike(**given: Tensor) -> None:
    """The same, all of one dtype and device."""
    reals(**given)
    kinds = {}
    for name, v in given.items():
        kinds.setdefault((v.dtype, v.device), name)
    if len(kinds) > 1:
        found = " and ".join(f"{name} {dtype} on {at}" for (dtype, at), name in kinds.items())
        raise ValueError(f"tensors must be of one dtype on one device, got {found}")


def shaped(name: str, value: Tensor, *shape: int) -> None:
    """Of exactly this shape."""
    require(value.shape == shape, f"{name} must have shape {shape}, got {tuple(value.shape)}")


def finite(**given: Tensor) -> None:
    """Without NaN and infinities; the entries are real numbers of any type."""
    for name, v in given.items():
        require(not v.is_complex(), f"{name} must hold real numbers, got {v.dtype}")
        require(bool(v.isfinite().all()), f"{name} holds values that are not finite")


def examples(**given: Tensor) -> None:
    """Each a tensor (n, ...) of n > 0 examples, finite."""
    for name, x in given.items():
        kind(name, x)
        require(x.dim() > 0 and x.numel() > 0, f"{name} holds no examples: {tuple(x.shape)}")
        finite(**{name: x})


def positive(endless: bool = False, **given: Tensor) -> None:
    """Each (b,), a positive number for each network; finite, or without end if accepted."""
    tensors(**given)
    for name, v in given.items():
        usable = v.dim() == 1 and bool(((v > 0) & (v.isfinite() | endless)).all())
        require(usable, f"{name} must hold a positive number for each network, got {v.tolist()}")


def symmetric(**given: Tensor) -> None:
    """Square matrices (*s, n, n) that are their transposes but for rounding, and finite."""
    for name, k in given.items():
        square = k.dim() >= 2 and k.shape[-2] == k.shape[-1]
        require(square, f"{name} must be square, got {tuple(k.shape)}")
        finite(**{name: k})
        parts = zip(k.split(ROWS, -2), k.mT.split(ROWS, -2), strict=True)
        off = max((a - b).abs().max().item() for a, b in parts)
        require(off <= SYMMETRIC * k.abs().max().item(), f"{name} must be symmetric, differs from "
                f"its transpose by {off:.2g}")  # fmt: skip


def number(name: str, value: Any, least: float = 0.0, above: bool = False) -> None:
    """A finite number, at least so large, or `above` that."""
    single = isinstance(value, Tensor) and value.dim() == 0
    if isinstance(value, bool) or not (isinstance(value, Real) or single):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    fits = math.isfinite(value) and (value > least if above else value >= least)
    word = "above" if above else "at least"
    require(bool(fits), f"{name} must be finite and {word} {least:g}, got {value}")


def whole(name: str, value: Any, least: int = 0) -> None:
    """A whole number, at least so large."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a whole number, got {type(value).__name__}")
    fits = math.isfinite(value) and value == int(value) and value >= least
    require(fits, f"{name} must be a whole number, at least {least}, got {value}")


def rates(name: str, value: Any, zero: bool = False) -> None:
    """A number, or a tensor of such: positive and finite, or zero if accepted."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        number(name, value, above=not zero)
        return
    tensors(**{name: value})
    fits = (value >= 0 if zero else value > 0) & value.isfinite()
    word = "not negative" if zero else "positive"
    require(bool(fits.all()), f"{name} must be {word} and finite, got {value.tolist()}")


def sizes(**given: Any) -> None:
    """Each a whole number, at least 1."""
    for name, value in given.items():
        whole(name, value, 1)


def seeded(seed: Any) -> Generator:
    """The generator of this seed, a whole number."""
    whole("seed", seed)
    return Generator().manual_seed(int(seed))


def rows(batch: Any, n: int) -> None:
    """Numbers of rows, of n that there are, and one at least."""
    kind("a batch", batch)
    whole = batch.dtype == torch.int64 and batch.dim() == 1 and len(batch) > 0
    require(whole, "a batch must be a vector of row numbers, and hold one at least")
    inside = bool(((batch >= 0) & (batch < n)).all())
    require(inside, f"a batch must hold rows from 0 to {n - 1}")
