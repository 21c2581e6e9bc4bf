"""From rows to runs to estimates, and verdicts at their borders."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, pick
from tangents.lab.statistics import over_seeds, power


def test_exponents_of_seeds_that_have_one():
    rows = pd.DataFrame({"seed": [0, 0, 1, 2, 2], "width": [2, 4, 2, 2, 4], "kind": "a"})
    rows["value"] = rows["width"].astype(float) ** -2
    assert Runs(rows).slopes("width").to_dict() == pytest.approx({0: -2, 2: -2})


def test_by_seed_sees_each_seed_once():
    frame = pd.DataFrame({"seed": [1, 0, 1], "value": [2.0, 5.0, 4.0]})
    found = Runs(frame).by_seed(lambda rows: rows["value"].mean())
    assert found.value == 4.0 and found.seeds == 2


def runs(**columns):
    frame = pd.DataFrame(columns)
    return frame.assign(run_id=[f"r{i}" for i in frame.index], part="p", step=1, time=1.0)


def test_slopes_are_least_squares_within_groups_of_all_that_varies():
    draw = np.random.default_rng(3)
    frame = pd.DataFrame([(s, w, k) for s in range(3) for w in (2, 4, 8) for k in "ab"],
                         columns=["seed", "width", "kind"])  # fmt: skip
    frame["value"] = np.exp(draw.normal(size=len(frame))) * frame["width"] ** 1.5
    want = {
        seed: np.mean([power(g["width"], g["value"]) for _, g in rows.groupby("kind")])
        for seed, rows in frame.groupby("seed")
    }
    assert Runs(frame).slopes("width").to_dict() == pytest.approx(want)
    found = Runs(frame).exponent("width")
    assert (found.value, found.low, found.high) == pytest.approx(over_seeds(want.values()))


def test_runs_that_did_not_converge_are_left_out_and_counted():
    rows = runs(seed=[0, 1, 2], width=[4, 4, 8], value=[1.0, 2.0, 3.0], metric="loss")
    states = rows.assign(metric="converged", value=[1.0, 0.0, 1.0])
    found = Table(pd.concat([rows, states], ignore_index=True)).ends("loss", "p")
    assert found["value"].tolist() == [1.0, 3.0]
    assert found.lost == "1 of 3 runs did not converge and are left out"
    assert found.where(width=8).lost == "" and found.mean().note == found.lost


def test_the_last_value_counts_and_the_first():
    rows = runs(seed=[0, 0], value=[5.0, 7.0], metric="loss").assign(
        run_id="r", step=[0, 3], time=[0.0, 9.0]
    )
    done = rows.tail(1).assign(metric="converged", value=1.0)
    table = Table(pd.concat([rows, done], ignore_index=True))
    assert table.ends("loss", "p")["value"].tolist() == [7.0]
    assert table.starts("loss", "p")["value"].tolist() == [5.0]
    assert len(table.every("loss", "p")) == 2


def test_runs_that_are_not_there_are_named():
    table = Table(runs(seed=[0], value=[1.0], metric="loss"))
    with pytest.raises(LookupError, match="no converged run with 'loss' in part 'p'"):
        table.ends("loss", "p")
    with pytest.raises(LookupError, match="no run with 'error' in part 'q'"):
        table.every("error", "q")
    with pytest.raises(LookupError, match="run r0 has no array 'output'"):
        table.array("r0", "output")


def test_quotients_and_products_go_run_by_run():
    rows = runs(seed=[0, 1], value=[6.0, 8.0], metric="a")
    other = Runs(rows.iloc[::-1].assign(value=[4.0, 3.0]))
    assert (Runs(rows) / other)["value"].tolist() == [2.0, 2.0]
    assert (Runs(rows) * other)["value"].tolist() == [18.0, 32.0]


def test_an_estimate_knows_the_span_of_its_runs():
    found = Runs(runs(seed=[0, 1], width=[4, 16], value=[1.0, 2.0], metric="a")).mean()
    assert found.span["width"] == (4, 16) and "value" not in found.span and found.runs == 2


def test_a_geometric_mean_has_a_geometric_interval():
    rows = runs(seed=[0, 1, 2], value=[1.0, 10.0, 100.0], metric="a")
    found, (_, low, high) = Runs(rows).mean(log=True), over_seeds(np.log([1, 10, 100]))
    assert (found.value, found.low, found.high) == pytest.approx((10, np.exp(low), np.exp(high)))


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
    assert Accept("", -0.6, -0.4).verdict(Estimate(*estimate)) == verdict


def test_a_half_open_claim():
    assert Accept("", 0, INF).verdict(Estimate(1.0, 0.1, 2.0)) == "supported"


def test_a_statement_about_every_run_is_decided_by_one():
    every = Accept("", 1, 1)
    assert every.verdict(Estimate(0.99, 0.97, 1.0, holds=False)) == "contradicted"
    assert every.verdict(Estimate(1.0, math.nan, math.nan, holds=True)) == "supported"


def test_a_value_that_is_not_there_costs_its_group_a_point_and_no_more():
    frame = runs(seed=[0] * 3 + [1] * 3, width=[2, 4, 8] * 2, value=[np.nan, 16, 64, 4, 16, 64],
                 metric="a")  # fmt: skip
    assert Runs(frame).slopes("width").to_dict() == pytest.approx({0: 2, 1: 2})


# ---- rules of verdicts


def law(y, seeds=4, widths=(2, 4, 8, 16)):
    draw = np.random.default_rng(5)
    rows = [(s, w, y(w) * math.exp(draw.normal(0, 3e-3))) for s in range(seeds) for w in widths]
    return Runs(pd.DataFrame(rows, columns=["seed", "width", "value"]))


def test_a_straight_line_has_equal_local_slopes():
    line = law(lambda w: w**-0.5).exponent("width").line
    assert line.slopes == pytest.approx([-0.5] * 3, abs=0.02) and not line.bent


def test_a_bent_power_law_is_none():
    """Its mean exponent, -1/2, is accepted; those from width to width run from 0 to -1."""
    found = law(lambda w: math.exp(-0.5 * math.log(w / 2) ** 2 / math.log(8))).exponent("width")
    assert found.value == pytest.approx(-0.5, abs=0.02) and found.line.bent
    assert found.line.slopes == pytest.approx([-1 / 6, -0.5, -5 / 6], abs=0.02)
    assert found.note.startswith("no straight line: from -0.1")
    assert Accept("", -0.6, -0.4).verdict(found) == "inconclusive"
    assert Accept("", -1, 0).verdict(found) == "supported"
    assert Accept("", 0, 1).verdict(found) == "contradicted"
    assert Accept("", -0.3, 1).verdict(found) == "inconclusive"
    turned = -found
    assert turned.line.slopes == pytest.approx([1 / 6, 0.5, 5 / 6], abs=0.02)
    assert turned.note == found.note.replace("-", "") and turned.low == -found.high


def test_two_widths_have_no_line():
    assert law(lambda w: 1 / w, widths=(2, 4)).exponent("width").line is None


def test_a_further_condition_has_to_hold_besides():
    accept, one = Accept("", 0, 1), Estimate(0.5, 0.4, 0.6)
    for value, verdict in ((3, "supported"), (1, "contradicted"), (2, "inconclusive")):
        found = one.and_also(Estimate(value, value - 0.5, value + 0.5), Accept("large", 2, INF))
        assert accept.verdict(found) == verdict and f"large: {value} [" in found.note


def test_p_values_are_those_of_students_test_at_the_nearer_end():
    x = np.random.default_rng(4).normal(0.3, 0.2, size=8)
    found = Estimate(*over_seeds(x), seeds=8)
    want = stats.ttest_1samp(x, 0).pvalue
    assert Accept("", 0, INF).p_value(found) == pytest.approx(want)
    assert Accept("", -INF, 0).p_value(found) == pytest.approx(want)
    assert Accept("", 0, 5).p_value(found) == pytest.approx(want)
    logged = Estimate(*over_seeds(x), seeds=8).exp()
    assert Accept("", 1, INF).p_value(logged) == pytest.approx(want)
    assert math.isnan(Accept("", 1, 1).p_value(Estimate(1, 1, 1, 8, holds=True)))


@pytest.mark.parametrize("value", [-1.0, 0.0, 2.5])
def test_fields_are_picked_by_their_value_whatever_its_sign(value):
    frame = pd.DataFrame({"damping": [-1.0, 0.0, 2.5], "value": 1.0})
    assert pick(frame, damping=value)["damping"].tolist() == [value]
    assert len(pick(frame, damping=(-2, 1))) == 2 and len(pick(frame, damping=(-INF, INF))) == 3


def test_a_straight_line_stays_one_where_cells_are_missing():
    """Groups of other level that lack the widest, or one width in the middle."""
    draw, bent = np.random.default_rng(6), 0
    for _ in range(40):
        rows = [
            (s, w, kind, level * w**-0.5 * math.exp(draw.normal(0, 0.05)))
            for s in range(6)
            for kind, level in (("a", 1), ("b", 30))
            for w in (2, 4, 8, 16, 32, 64)
            if not (kind == "b" and w > 16) and not (s == 2 and w == 8)
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["seed", "width", "kind", "value"])
        line = Runs(frame).exponent("width").line
        assert line.slopes == pytest.approx([-0.5] * 5, abs=0.25)
        bent += line.bent
    assert bent <= 3


def test_a_bend_is_seen_although_each_seed_lost_a_run():
    frame = law(lambda w: math.exp(-0.5 * math.log(w / 2) ** 2 / math.log(8)), seeds=5).rows
    lost = [(s, w) for s, w in zip(range(5), (2, 4, 8, 16, 2), strict=True)]
    kept = [pair not in lost for pair in zip(frame["seed"], frame["width"], strict=True)]
    assert Runs(frame[kept]).exponent("width").line.bent


def test_draws_of_the_data_are_units_of_their_own():
    rows = runs(seed=[0, 0, 1, 1], value=[1.0, 2.0, 3.0, 4.0], metric="x").assign(
        data_seed=[0, 1, 0, 1]
    )
    found = Table(rows).every("x").mean()
    assert found.seeds == 4 and found.value == 2.5
    tied = rows.assign(data_seed=rows["seed"])
    assert Table(tied).every("x").mean().seeds == 2


def test_values_that_are_not_positive_are_said_to_be_left_out():
    frame = pd.DataFrame({"seed": [0] * 3 + [1] * 3, "width": [2, 4, 8] * 2,
                          "value": [0.0, 4, 8, 2, 4, INF]})  # fmt: skip
    found = Runs(frame).exponent("width")
    assert found.value == pytest.approx(1) and "2 values that are not positive" in found.note


def test_an_estimate_that_is_not_there_contradicts_nothing():
    nothing = Estimate(math.nan, math.nan, math.nan)
    small = Estimate(0.1, 0.05, 0.15, 5)
    assert Accept("", 0, 1).verdict(nothing.and_also(small, Accept("", 1, 2))) == "inconclusive"


def test_the_p_value_is_that_of_the_verdict():
    main, also = Estimate(0.5, 0.4, 0.6, 5), Estimate(3.0, 2.2, 3.8, 5)
    accept, large = Accept("", 0, 1), Accept("", 2, INF)
    both = accept.p_value(main.and_also(also, large))
    assert both == max(accept.p_value(main), large.p_value(also))
    against = accept.p_value(main.and_also(Estimate(1.0, 0.6, 1.4, 5), large))
    assert against == large.p_value(Estimate(1.0, 0.6, 1.4, 5))
    assert Accept("", 0, 0.5).p_value(main) == 1
