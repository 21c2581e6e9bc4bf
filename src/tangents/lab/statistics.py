"""Intervals over seeds, exponents, crossings: statistics of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import stats

Interval = tuple[float, float, float]  # a value and the ends of its 95 % interval


def over_seeds(values: Iterable[float]) -> Interval:
    """Mean of independent estimates and its 95 % Student interval; nan ends for fewer than two."""
    x = np.asarray([*values], dtype=float)
    if len(x) < 2:
        return float(x.mean()) if len(x) else math.nan, math.nan, math.nan
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def jackknife(estimator: Callable[[Sequence], float], members: Iterable) -> Interval:
    """An estimate that needs all seeds at once, with its 95 % jackknife interval (Tukey 1958)."""
    members = list(members)
    whole, k = estimator(members), len(members)
    parts = [estimator(members[:i] + members[i + 1 :]) for i in range(k)]
    _, low, high = over_seeds([k * whole - (k - 1) * part for part in parts])
    return whole, low + whole - (low + high) / 2, high + whole - (low + high) / 2


def power(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of y ~ x^a: least squares of log y on log x. Raises ValueError below two x."""
    if len(set(x)) < 2:
        raise ValueError("an exponent needs at least two different x")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def powers(y: Sequence[float], **x: Sequence[float]) -> dict[str, float]:
    """The exponents of y ~ product of x_k^a_k: least squares of log y on all log x_k.

    Raises ValueError where they are not determined, as for a single value of an x.
    """
    design = np.stack([np.ones(len(y)), *(np.log(np.asarray(v, float)) for v in x.values())], 1)
    (_, *found), _, rank, _ = np.linalg.lstsq(design, np.log(np.asarray(y, float)), rcond=None)
    if rank < design.shape[1]:
        raise ValueError(f"exponents in {', '.join(x)} need several values of each")
    return dict(zip(x, map(float, found), strict=True))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least squares of y on x. Raises ValueError below two x."""
    if len(set(x)) < 2:
        raise ValueError("a slope needs at least two different x")
    return float(np.polyfit(x, y, 1)[0])


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where y first crosses `level` along increasing x, linear in log x; nan if it does not."""
    u, v = np.log(np.asarray(x, float)), np.asarray(y, float) - level
    for i in range(len(u) - 1):
        if v[i] * v[i + 1] <= 0 and v[i] != v[i + 1]:
            return float(np.exp(u[i] - v[i] * (u[i + 1] - u[i]) / (v[i + 1] - v[i])))
    return math.nan


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for being many (Holm 1979); nan stays, and does not count."""
    order = sorted((v, i) for i, v in enumerate(p) if not math.isnan(v))
    corrected, largest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - rank)))
        corrected[i] = largest
    return corrected
