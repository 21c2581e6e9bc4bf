"""Networks of m units at the start, as theory says without a free parameter: Monte Carlo.

With Gaussian weights all inputs of length sqrt(d) are alike, and the units of a hidden layer are m
independent draws. Seeds are none of the study's; errors are below 1 %.
"""

import math
from functools import cache

import numpy as np

DIMENSION = 5  # of the inputs, with |x|^2 = 5
SAMPLES = 2_000_000  # normal numbers for each of the quantities drawn


def _draws(m: int, quantities: int) -> np.ndarray:
    """Normal numbers (quantities, draws, m)."""
    count = min(20_000, max(200, SAMPLES // m))
    return np.random.default_rng([2020, m]).standard_normal((quantities, count, m))


@cache
def largest_weight(m: int) -> float:
    """E max_i |v_i| / sqrt(m): m^{-1/2}, times the logarithm that the largest of m brings in."""
    (v,) = _draws(m, 1)
    return float(np.abs(v).max(1).mean() / math.sqrt(m))


@cache
def largest_share(m: int) -> float:
    """E max_i |v_i| / |v|, of a vector whose entries are alike."""
    (v,) = _draws(m, 1)
    return float((np.abs(v).max(1) / np.linalg.norm(v, axis=1)).mean())


@cache
def hessian_norm(m: int) -> float:
    """E |H| of f = v tanh(W x / sqrt(d)) / sqrt(m): the largest of m draws.

    H has a block for each unit, and acts in it on the weight along x and on v_i alone:
    [[v_i s'', s'], [s', 0]] / sqrt(m), s = tanh at the preactivation, which is N(0, 1).
    """
    a, b = _units(m)
    return float((np.abs(a) / 2 + np.hypot(a / 2, b)).max(1).mean() / math.sqrt(m))


@cache
def random_error(m: int, r: float) -> float:
    """E |r^2 u^T H u / 2| of that network, u a random unit vector of its (d + 1) m weights."""
    a, b = _units(m)
    rng = np.random.default_rng([2021, m])
    along, out = rng.standard_normal((2, *a.shape))
    others = rng.chisquare((DIMENSION - 1) * m, len(a))
    length = (along**2 + out**2).sum(1) + others
    bend = (a * along**2 + 2 * b * along * out).sum(1) / length / math.sqrt(m)
    return float(r**2 / 2 * np.abs(bend).mean())


def _units(m: int) -> tuple[np.ndarray, np.ndarray]:
    """v s'' and s' of each unit, (draws, m)."""
    v, z = _draws(m, 2)
    s = np.tanh(z)
    slope = 1 - s * s
    return -2 * v * s * slope, slope
