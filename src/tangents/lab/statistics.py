"""Intervals over seeds, exponents, crossings, ranks, what explains what: statistics of plain
numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
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


KNOTS = 6  # of a smooth function, from the least to the largest x


class Explained(NamedTuple):
    """Shares of the variance of a y that `explained` gives."""

    alone: float  # by a smooth function of x
    groups: float  # what levels of the groups' own add to that
    left_out: float  # 1 - squared error / variance, each group foretold from all others


def explained(x: Sequence[float], y: Sequence[float], group: Sequence) -> Explained:
    """Is y a function of x alone, whichever group the pair is of?

    The function is piecewise linear in the rank of x, with `KNOTS` knots, by least squares: any
    increasing function of x in its place gives the same. Outside the x that it was fitted to it is
    constant, and `left_out` is below zero where it is worse than the mean. Raises ValueError where
    y does not vary, and below two groups.
    """
    x, y, group = np.asarray(x, float), np.asarray(y, float), np.asarray(group)
    names, total = np.unique(group), float(np.square(y - y.mean()).sum())
    if not total > 0 or len(names) < 2:
        raise ValueError("what explains y needs a y that varies, and two groups")

    def left(design: np.ndarray, others: np.ndarray | None = None) -> float:
        rows = slice(None) if others is None else others
        fitted = np.linalg.lstsq(design[rows], y[rows], rcond=None)[0]
        rest = np.square(y - design @ fitted)
        return float(rest.sum() if others is None else rest[~others].sum())

    hats, levels = _hats(x, x), (group[:, None] == names).astype(float)
    alone, both = left(hats), left(np.hstack([hats, levels]))
    apart = sum(left(_hats(x, x[group != name]), group != name) for name in names)
    return Explained(1 - alone / total, (alone - both) / total, 1 - apart / total)


def _hats(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Hat functions (n, knots) of the rank that x has among those fitted; they sum to one. Each
    knot is the rank of one fitted, at equal distances; where many are tied, these are fewer."""
    known = np.sort(fitted)
    places = np.linspace(0, len(known) - 1, KNOTS).round().astype(int)
    knots, u = np.unique(_ranks(known, known)[places]), _ranks(x, known)
    return np.stack([np.interp(u, knots, hat) for hat in np.eye(len(knots))], 1)


def _ranks(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where x stand among those known, which are sorted: from 0 to 1, ties in their middle."""
    below, upto = np.searchsorted(known, x, "left"), np.searchsorted(known, x, "right")
    return (below + upto - 1) / 2 / max(len(known) - 1, 1)


def smooth(x: Sequence[float], y: Sequence[float], at: Sequence[float]) -> np.ndarray:
    """The function of `explained`, fitted to x and y, at other places."""
    x = np.asarray(x, float)
    fitted = np.linalg.lstsq(_hats(x, x), np.asarray(y, float), rcond=None)[0]
    return _hats(np.asarray(at, float), x) @ fitted


def between(y: Sequence[float], group: Sequence) -> float:
    """The share of the variance of y that lies between groups, of their means."""
    y = pd.Series(np.asarray(y, float))
    means = y.groupby(np.asarray(group)).transform("mean")
    return float(means.var(ddof=0) / y.var(ddof=0))


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for being many (Holm 1979); nan stays, and does not count."""
    order = sorted((v, i) for i, v in enumerate(p) if not math.isnan(v))
    corrected, largest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - rank)))
        corrected[i] = largest
    return corrected


class Ranking(NamedTuple):
    """Mean ranks of methods over `sets` data sets, the best first, and a p-value for each pair."""

    means: pd.Series
    p: pd.DataFrame  # method x method, in that order
    sets: int

    def alike(self, level: float = 0.05) -> list[tuple[int, int]]:
        """First and last place of the longest stretches of methods of which no two differ."""
        apart, found = (self.p < level).to_numpy(), []
        for first in range(len(apart)):
            last = first
            while last + 1 < len(apart) and not apart[first : last + 2, first : last + 2].any():
                last += 1
            if last > max([first, *(end for _, end in found)]):
                found.append((first, last))
        return found


def ranking(errors: pd.DataFrame) -> Ranking:
    """Of errors, a row a data set, a column a method; sets that a method lacks are left out.

    Equal errors share their ranks. The p-values are Wilcoxon's signed-rank test on the sets, ranks
    of zero differences split evenly, Holm's correction over all pairs. Raises LookupError where no
    set, or a single method, is left. Source: Demšar (2006), section 3; Benavoli et al. (2016).
    """
    errors = errors.dropna()
    if errors.empty or errors.shape[1] < 2:
        raise LookupError("no data set on which two methods can be compared")
    means = errors.rank(axis=1).mean().sort_values(kind="stable")
    pairs = [*itertools.combinations(means.index, 2)]
    tests = [stats.wilcoxon(errors[a], errors[b], zero_method="zsplit") for a, b in pairs]
    p = pd.DataFrame(1.0, means.index, means.index)
    for (a, b), value in zip(pairs, holm([t.pvalue for t in tests]), strict=True):
        p.loc[a, b] = p.loc[b, a] = value
    return Ranking(means, p, len(errors))
