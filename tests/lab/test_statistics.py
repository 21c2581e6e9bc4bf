"""Intervals against textbook formulas, fits against exact laws."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.interpolate import make_lsq_spline

from tangents.lab.statistics import (
    KNOTS,
    Ranking,
    between,
    crossing,
    explained,
    holm,
    jackknife,
    over_seeds,
    power,
    powers,
    ranking,
    slope,
    smooth,
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


def test_power_recovers_an_exponent():
    x = [1.0, 3.0, 10.0]
    assert power(x, [5 * v**-1.7 for v in x]) == pytest.approx(-1.7)
    with pytest.raises(ValueError, match="two different x"):
        power([2.0, 2.0], [1.0, 3.0])


def test_crossing():
    assert crossing([1, 100], [0, 2], 1.0) == pytest.approx(10.0)
    assert crossing([1, 10, 100], [2, 0, 2], 1.0) == pytest.approx(math.sqrt(10))
    assert math.isnan(crossing([1, 100], [0, 2], 3.0))


def test_powers_recover_exponents():
    a, b = np.array([1.0, 2, 4, 8]), np.array([3.0, 1, 5, 2])
    assert powers(a**-1.5 * b**0.5, a=a, b=b) == pytest.approx({"a": -1.5, "b": 0.5})


def test_holms_correction():
    want = [0.03, math.nan, 0.06, 0.06]
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx(want, nan_ok=True)


def test_what_one_value_does_not_determine_is_refused():
    with pytest.raises(ValueError, match="need several values of each"):
        powers([1.0, 2.0], a=[3.0, 3.0], b=[1.0, 2.0])
    with pytest.raises(ValueError, match="two different x"):
        slope([3.0, 3.0], [1.0, 2.0])
    assert slope([1, 2, 3], [2, 4, 6]) == pytest.approx(2)


ERRORS = np.random.default_rng(3).normal([0.0, 0.1, 0.2, 3.0], size=(30, 4))
ERRORS = pd.DataFrame(ERRORS, columns=["d", "c", "b", "a"])


def test_ranks_are_shared_by_equal_errors():
    errors = pd.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 1, 3], "c": [0.0, 3, math.nan]})
    found = ranking(errors)
    assert found.sets == 2 and found.means.to_dict() == {"b": 1.75, "c": 2.0, "a": 2.25}


def test_pairs_are_compared_by_signed_ranks_and_corrected():
    found = ranking(ERRORS)
    pairs = [*itertools.combinations(found.means.index, 2)]
    want = holm([stats.wilcoxon(ERRORS[a] - ERRORS[b]).pvalue for a, b in pairs])
    assert [found.p.loc[pair] for pair in pairs] == pytest.approx(want)
    assert found.p.equals(found.p.T) and (np.diag(found.p) == 1).all()
    assert found.means.index[-1] == "a" and (found.p["a"].drop("a") < 0.01).all()
    assert found.alike() == [(0, 2)]


def test_equal_methods_do_not_differ():
    found = ranking(pd.DataFrame({"a": [1.0, 2, 3], "b": [1.0, 2, 3]}))
    assert found.p.loc["a", "b"] == 1 and found.alike() == [(0, 1)]


def test_bars_join_only_where_no_two_differ():
    names = list("abcd")
    p = pd.DataFrame(1.0, names, names)
    p.loc["a", ["c", "d"]] = p.loc[["c", "d"], "a"] = 0.01
    assert Ranking(pd.Series(range(4), names), p, 9).alike() == [(0, 1), (1, 3)]
    assert Ranking(pd.Series(range(4), names), 0 * p, 9).alike() == []


@pytest.mark.parametrize("errors", [ERRORS[["a"]], ERRORS[:0], ERRORS * math.nan])
def test_nothing_to_rank_is_an_error(errors):
    with pytest.raises(LookupError, match="no data set on which two methods"):
        ranking(errors)


# ---- what explains what


def planted(count=60, seed=0):
    """x in three groups that share their range, and noise."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=count), np.arange(count) % 3, rng.normal(size=count)


def test_the_smooth_function_is_a_linear_spline_in_ranks():
    x, _, noise = planted()
    x = np.sort(x)
    y = np.sin(3 * x) + 0.1 * noise
    rank = (stats.rankdata(x) - 1) / (len(x) - 1)
    knots = np.r_[0, np.linspace(0, len(x) - 1, KNOTS).round() / (len(x) - 1), 1]
    assert smooth(x, y, x) == pytest.approx(make_lsq_spline(rank, y, knots, k=1)(rank))
    beyond = smooth(x, y, [-9, x.min(), x.max(), 9])
    assert beyond[0] == beyond[1] and beyond[2] == beyond[3]


def test_tied_values_fix_the_function_between_and_beyond_them():
    x, y = [0.1] * 30 + [1.0] * 20, [14.0] * 30 + [4.0] * 20
    assert smooth(x, y, [0.01, 0.1, 0.3, 1.0, 10.0]) == pytest.approx([14, 14, 8, 4, 4])  # by rank
    assert smooth([2.0] * 5, [1.0, 2, 3, 4, 5], [0.0, 2.0, 9.0]) == pytest.approx([3, 3, 3])


def test_a_function_of_x_alone_is_explained_whatever_the_group():
    x, group, noise = planted()
    found = explained(x, (stats.rankdata(x) - 1) / 59, group)
    assert found == pytest.approx((1, 0, 1), abs=0.02)
    assert explained(noise, x, group).alone < 0.3 and explained(noise, x, group).left_out < 0.1


def test_levels_of_groups_are_not_foretold_by_x():
    x, group, _ = planted(600)
    found = explained(x, [0.0, 1.0, 5.0] @ (group == np.arange(3)[:, None]), group)
    assert found.alone < 0.02 and found.alone + found.groups == pytest.approx(1)
    assert found.left_out < -0.5


def test_shares_are_those_of_least_squares():
    x, group, noise = planted()
    y = x + (group == 2) + 0.1 * noise
    rank = (stats.rankdata(x) - 1) / (len(x) - 1)
    knots = np.linspace(0, len(x) - 1, KNOTS).round() / (len(x) - 1)
    hats = [np.interp(rank, knots, hat) for hat in np.eye(KNOTS)]
    design = np.column_stack([*hats, *(group == k for k in range(3))]).astype(float)
    rest = y - design @ np.linalg.pinv(design) @ y
    found = explained(x, y, group)
    assert found.alone + found.groups == pytest.approx(1 - rest.var() / y.var())
    left = [
        y[group == k] - smooth(x[group != k], y[group != k], x[group == k]) for k in range(3)
    ]  # fmt: skip
    assert found.left_out == pytest.approx(1 - np.square(np.concatenate(left)).mean() / y.var())


def test_an_increasing_function_of_x_explains_as_much():
    x, group, noise = planted()
    y = x**2 + 0.2 * noise
    assert explained(np.exp(5 * x), y, group) == explained(x, y, group)


@pytest.mark.parametrize("y, group", [([1, 1, 1], [0, 1, 1]), ([1, 2, 3], [0, 0, 0])])
def test_nothing_to_explain_is_an_error(y, group):
    with pytest.raises(ValueError, match="a y that varies, and two groups"):
        explained([1, 2, 3], y, group)


def test_the_share_between_groups():
    y, group = np.array([1.0, 3, 5, 7]), list("aabb")
    assert between(y, group) == pytest.approx(16 / 20)
