"""Dynamic time warping against the table of one pair, filled cell by cell."""

import numpy as np
import pytest

from tangents.studies.recurrent import dtw


def table(a, b):
    d = np.full((len(a) + 1, len(b) + 1), np.inf)
    d[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            least = min(d[i, j], d[i, j + 1], d[i + 1, j])
            d[i + 1, j + 1] = (a[i] - b[j]) ** 2 + least
    return d[-1, -1]


@pytest.mark.parametrize("t, u", [(1, 1), (1, 5), (6, 4), (4, 6), (7, 7)])
@pytest.mark.parametrize("cells", [1, 10, 2**15])
def test_all_pairs_at_once_are_the_pairs_one_by_one(t, u, cells, monkeypatch):
    monkeypatch.setattr(dtw, "CACHED", cells)
    rng = np.random.default_rng(t + 10 * u)
    x, y = rng.normal(size=(4, t)), rng.normal(size=(3, u))
    ends_x, ends_y = rng.integers(1, t + 1, 4), rng.integers(1, u + 1, 3)
    want = [[table(a[:p], b[:q]) for b, q in zip(y, ends_y, strict=True)]
            for a, p in zip(x, ends_x, strict=True)]  # fmt: skip
    assert np.allclose(dtw.distances(x, y, ends_x, ends_y), want, rtol=1e-12)


def test_a_series_that_lingers_is_at_no_distance():
    x = np.array([[0.0, 1.0, 2.0, 3.0, 0.0]])
    y = np.array([[0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0]])
    assert dtw.distances(x, y, np.array([4]), np.array([7])) == 0
