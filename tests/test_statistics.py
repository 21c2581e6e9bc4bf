"""Intervals against textbook formulas, fits against exact laws, verdicts at their borders."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tangents.statistics import (
    INF,
    by_seed,
    crossing,
    finding,
    jackknife,
    over_seeds,
    power,
    seed_exponents,
)


def test_interval_over_seeds_is_students():
    x = np.random.default_rng(0).normal(size=6)
    low, high = stats.t.interval(0.95, 5, loc=x.mean(), scale=stats.sem(x))
    assert over_seeds(x) == pytest.approx((x.mean(), low, high))


def test_one_seed_has_no_interval():
    value, low, high = over_seeds([2.0])
    assert value == 2.0 and math.isnan(low) and math.isnan(high)


def test_jackknife_of_a_mean_is_its_student_interval():
    x = np.random.default_rng(1).normal(size=7)
    assert jackknife(np.mean, x) == pytest.approx(over_seeds(x))


def test_jackknife_covers_a_variance():
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        _, low, high = jackknife(lambda m: np.var(m, ddof=1), draw.normal(size=20))
        hits += low < 1.0 < high
    assert 0.8 < hits / 200 < 0.99  # known to be a little short of 95 % for variances


def test_exponents_of_seeds_that_have_one():
    rows = pd.DataFrame({"seed": [0, 0, 1, 2, 2], "width": [2, 4, 2, 2, 4], "kind": "a"})
    rows["value"] = rows["width"].astype(float) ** -2
    assert seed_exponents(rows, "width", ["kind"]) == pytest.approx([-2, -2])


def test_power_recovers_an_exponent():
    x = [1.0, 3.0, 10.0]
    assert power(x, [5 * v**-1.7 for v in x]) == pytest.approx(-1.7)
    with pytest.raises(ValueError, match="two different x"):
        power([2.0, 2.0], [1.0, 3.0])


def test_crossing():
    assert crossing([1, 100], [0, 2], 1.0) == pytest.approx(10.0)
    assert crossing([1, 10, 100], [2, 0, 2], 1.0) == pytest.approx(math.sqrt(10))
    assert math.isnan(crossing([1, 100], [0, 2], 3.0))


def test_by_seed_sees_each_seed_once():
    frame = pd.DataFrame({"seed": [1, 0, 1], "value": [2.0, 5.0, 4.0]})
    assert by_seed(frame, lambda rows: rows["value"].mean()) == [5.0, 3.0]


@pytest.mark.parametrize(
    "estimate, verdict",
    [
        ((-0.5, -0.55, -0.45), "supported"),
        ((-0.5, -0.7, -0.3), "inconclusive"),
        ((-0.2, -0.25, -0.15), "contradicted"),
        ((-0.5, math.nan, math.nan), "inconclusive"),
    ],
)
def test_verdicts(estimate, verdict):
    assert finding(estimate, (-0.6, -0.4), 3).verdict == verdict


def test_a_half_open_claim():
    assert finding((1.0, 0.1, 2.0), (0, INF), 3).verdict == "supported"
