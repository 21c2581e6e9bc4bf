"""Dynamic time warping, the yardstick of series (Sakoe & Chiba 1978)."""

import numpy as np
from jaxtyping import Float, Int

CACHED = 2**15  # cells of what a pass over pairs works on


def distances(
    x1: Float[np.ndarray, "n t"],
    x2: Float[np.ndarray, "m u"],
    lengths1: Int[np.ndarray, " n"],
    lengths2: Int[np.ndarray, " m"],
) -> Float[np.ndarray, "n m"]:
    """The least sum of squared differences along a path that joins first steps and last steps and
    goes on by a step of one series, or of both; of each series the first `lengths` steps count.

    All pairs at once, from one diagonal i + j = s of their tables to the next.
    """
    n, m, t = len(x1), len(x2), x1.shape[1]
    found = np.empty(n * m)
    rows = max(1, CACHED // t)
    for start in range(0, n * m, rows):
        pairs = np.arange(start, min(start + rows, n * m))
        i, j = np.divmod(pairs, m)
        found[pairs] = _pairs(x1[i], x2[j], lengths1[i], lengths2[j])
    return found.reshape(n, m)


def _pairs(a: np.ndarray, b: np.ndarray, ends_a: np.ndarray, ends_b: np.ndarray) -> np.ndarray:
    # Columns are steps of a, the first stands for none; steps after the ends are never passed
    (p, t), u = a.shape, b.shape[1]
    back, before, now = (np.full((t + 1, p), np.inf) for _ in range(3))
    before[0] = 0.0  # the start of all paths, a diagonal before the first
    a, b, found = np.ascontiguousarray(a.T), np.ascontiguousarray(b[:, ::-1].T), np.empty(p)
    last = ends_a + ends_b - 2
    for s in range(t + u - 1):
        low, high = max(0, s - u + 1), min(t, s + 1)
        gap = a[low:high] - b[u - 1 - s + low : u - 1 - s + high]
        least = np.minimum(before[low + 1 : high + 1], before[low:high])
        if s:
            np.minimum(least, back[low:high], out=least)
        gap *= gap
        gap += least
        now[low + 1 : high + 1] = gap
        now[low] = now[high + 1 :] = np.inf
        before[0] = np.inf
        ended = np.flatnonzero(last == s)
        found[ended] = now[ends_a[ended], ended]
        back, before, now = before, now, back
    return found
