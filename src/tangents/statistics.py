"""Estimates with 95 % intervals over seeds, and the verdict that an interval gives."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from tangents.declaration import Finding

INF = math.inf


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of independent estimates and its 95 % Student interval; nan ends for fewer than two."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float(x.mean()) if len(x) else math.nan, math.nan, math.nan
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def jackknife(
    estimator: Callable[[Sequence], float], members: Sequence
) -> tuple[float, float, float]:
    """An estimate that needs all seeds at once, with its 95 % jackknife interval (Tukey 1958)."""
    members, whole = list(members), estimator(members)
    k = len(members)
    parts = [estimator(members[:i] + members[i + 1 :]) for i in range(k)]
    _, low, high = over_seeds([k * whole - (k - 1) * part for part in parts])
    return whole, low + whole - (low + high) / 2, high + whole - (low + high) / 2


def power(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of y ~ x^a: least squares of log y on log x. Raises ValueError below two x."""
    if len(set(x)) < 2:
        raise ValueError("an exponent needs at least two different x")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where y first crosses `level` along increasing x, linear in log x; nan if it does not."""
    u, v = np.log(np.asarray(x, float)), np.asarray(y, float) - level
    for i in range(len(u) - 1):
        if v[i] * v[i + 1] <= 0 and v[i] != v[i + 1]:
            return float(np.exp(u[i] - v[i] * (u[i + 1] - u[i]) / (v[i + 1] - v[i])))
    return math.nan


def by_seed(frame: pd.DataFrame, estimator: Callable[[pd.DataFrame], float]) -> list[float]:
    """The estimator of each seed's rows, in order of seeds."""
    return [estimator(rows) for _, rows in frame.groupby("seed", sort=True)]


def finding(
    estimate: tuple[float, float, float], accept: tuple[float, float], n_runs: int, note: str = ""
) -> Finding:
    """Supported if the whole interval is accepted, contradicted if none of it is, else open."""
    value, low, high = estimate
    if not (low == low and high == high):
        verdict = "inconclusive"
    elif accept[0] <= low and high <= accept[1]:
        verdict = "supported"
    else:
        verdict = "contradicted" if high < accept[0] or low > accept[1] else "inconclusive"
    return Finding(value, low, high, verdict, n_runs, note)
