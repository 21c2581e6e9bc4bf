"""Support vector machines on precomputed kernels, their settings chosen by cross-validation.

A kernel is divided by its mean diagonal, so that one grid of costs serves all of them.
"""

import warnings
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from tangents import checks
from tangents.functional import require

COSTS = tuple(10.0**k for k in range(-2, 5))
STEPS = 100_000  # of the solver, at most


class Choice(NamedTuple):
    """The kernel and the cost with the least error of cross-validation, the first of equals."""

    key: Hashable
    cost: float
    error: float


def fit(k: Float[np.ndarray, "n n"], y: Int[np.ndarray, " n"], cost: float) -> SVC:
    """The machine on a kernel as it is, the errors of all classes weighed alike."""
    machine = SVC(C=cost, kernel="precomputed", max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at large costs it may end early
        return machine.fit(k, y)


def classify(
    k: Float[np.ndarray, "n _"],
    y: Int[np.ndarray, " _"],
    k_test: Float[np.ndarray, "m _"],
    cost: float,
) -> Int[np.ndarray, " m"]:
    """Classes of test examples by the machine fitted to training kernel and classes.

    Raises ValueError for a kernel that is not finite, has a mean diagonal that is not positive, or
    another shape."""
    _require_classes(y)
    checks.number("cost", cost, above=True)
    scale = _scale(k, y)
    checks.kind("a test kernel", k_test, np.ndarray)
    require(k_test.ndim == 2, f"a test kernel is (m, {len(y)}), got {k_test.shape}")
    require(k_test.shape[1:] == y.shape, f"a test kernel is (m, {len(y)}), got {k_test.shape}")
    require(bool(np.isfinite(k_test).all()), "a test kernel must be finite")
    return fit(k / scale, y, cost).predict(k_test / scale)


def folds(y: Int[np.ndarray, " n"], most: int = 5, seed: int = 0) -> list[tuple]:
    """(training, validation) indices of stratified folds, as many as `most` or as the largest class
    has members; none where no class has two."""
    _require_classes(y)
    checks.whole("most", most, 1)
    count = min(most, int(np.unique(y, return_counts=True)[1].max()))
    if count < 2:
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        parts = StratifiedKFold(count, shuffle=True, random_state=seed).split(y, y)
        return [part for part in parts if len(np.unique(y[part[0]])) > 1]


def choose(
    kernels: Iterable[tuple[Hashable, Float[np.ndarray, "n n"]]],
    y: Int[np.ndarray, " n"],
    costs: Sequence[float] = COSTS,
    parts: Sequence[tuple] | None = None,
) -> Choice:
    """The best of kernels and costs by cross-validation on `parts`, by default `folds(y)`.

    A kernel that is not finite is out. Without folds the first kernel and the middle cost are
    chosen, and the error is nan. Raises ValueError where no kernel is left.
    """
    _require_classes(y)
    require(len(costs) > 0, "there are no costs")
    for cost in costs:
        checks.number("a cost", cost, above=True)
    parts, best = folds(y) if parts is None else parts, None
    for key, k in kernels:
        if not np.isfinite(k).all():
            continue
        k = k / _scale(k, y)
        if not parts:
            return Choice(key, costs[len(costs) // 2], np.nan)
        for cost in costs:
            wrong = [
                (fit(k[np.ix_(a, a)], y[a], cost).predict(k[np.ix_(b, a)]) != y[b]).mean()
                for a, b in parts
            ]
            if best is None or np.mean(wrong) < best.error:
                best = Choice(key, cost, float(np.mean(wrong)))
    require(best is not None, "no kernel is finite")
    return best


def _require_classes(y: np.ndarray) -> None:
    fits = isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "iub" and len(y) > 0
    got = f"{getattr(y, 'dtype', type(y).__name__)} of shape {np.shape(y)}"
    require(fits, f"classes must be a vector of whole numbers, got {got}")


def _scale(k: np.ndarray, y: np.ndarray) -> float:
    checks.kind("a kernel", k, np.ndarray)
    require(k.shape == (len(y), len(y)), f"a kernel is ({len(y)}, {len(y)}), got {k.shape}")
    require(bool(np.isfinite(k).all()), "a kernel must be finite")
    off = float(np.abs(k - k.T).max())
    fits = off <= checks.SYMMETRIC * float(np.abs(k).max())
    require(fits, f"a kernel must be symmetric, differs from its transpose by {off:.2g}")
    scale = float(k.diagonal().mean())
    require(scale > 0, f"the mean of a kernel's diagonal must be positive, got {scale}")
    return scale
