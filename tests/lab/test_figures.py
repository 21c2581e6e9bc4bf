"""What figures draw of runs: means with their intervals, lines, guides, and never nothing."""

import math

import numpy as np
import pandas as pd
import pytest

from tangents.lab import figures
from tangents.lab.evidence import Estimate, Runs

RUNS = [(w, seed, f"{w}-{seed}", w ** (1 + seed)) for w in (4, 1, 2) for seed in (0, 1)]
RUNS = Runs(
    pd.DataFrame(RUNS, columns=["width", "seed", "run_id", "value"]).astype({"value": float})
)
NONE = RUNS.where(width=3)


@pytest.fixture
def ax():
    return figures.panels(1)[1][0]


@pytest.mark.parametrize("scale, power", [("linear", None), ("log", 1.5)])
def test_a_band_is_the_mean_over_seeds_geometric_on_a_logarithmic_axis(ax, scale, power):
    ax.set_yscale(scale)
    at, mean = figures.band(ax, RUNS, "width", 0, "all")
    assert [*at] == [1, 2, 4]
    assert mean == pytest.approx(at**power if power else (at + at**2) / 2)


def test_bands_of_a_field_bear_its_values(ax):
    at, mean = figures.bands(ax, RUNS, "width", "seed", "seed {}".format)
    assert ax.get_legend_handles_labels()[1] == ["seed 0", "seed 1"]
    assert mean == pytest.approx(at**2.0)  # of the last


def test_a_run_without_a_value_is_left_out():
    lost = RUNS.map(RUNS["value"].where(RUNS["width"] < 4))
    assert [width for width, _ in figures.groups(lost, "width")] == [1, 2]


@pytest.mark.parametrize(
    "draw",
    [lambda ax: figures.band(ax, NONE, "width", 0, ""),
     lambda ax: figures.bands(ax, NONE, "width", "seed"),
     lambda ax: figures.paths(ax, NONE, "width", 0),
     lambda ax: figures.origin(NONE, "width"),
     lambda ax: figures.curve(ax, [], [], 0),
     lambda ax: figures.bars(ax, [], [], 0)],
)  # fmt: skip
def test_nothing_to_draw_is_an_error(ax, draw):
    with pytest.raises(LookupError, match=r"^no (runs|estimates) to draw"):
        draw(ax)


def test_bars_reach_to_the_ends_of_the_interval(ax):
    figures.bars(ax, [1, 2], [Estimate(3, 2, 5), Estimate(4, 4, 7)], 0)
    (segments,) = (lines.get_segments() for lines in ax.collections)
    assert np.array(segments)[:, :, 1].tolist() == [[2, 5], [4, 7]]


def test_one_path_a_run_and_one_label(ax):
    figures.paths(ax, RUNS, "width", 0, "all", by="seed")
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2, 4]] * 2
    assert ax.get_legend_handles_labels()[1] == ["all"]


def test_a_guide_is_a_power_law_from_its_origin(ax):
    x, y = figures.origin(RUNS, "width")
    assert x == [1, 4] and [*y] == [1, 1]
    figures.guide(ax, x, 3 * y.min(), -0.5, "slope")
    assert ax.lines[0].get_ydata() == pytest.approx([3, 1.5])


def test_the_largest_width_is_labelled(ax):
    figures.loglog(ax, "width", "")
    figures.label_widths(ax, RUNS["width"], 2)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "4"]
    figures.label_widths(ax, [8, 16, 32, 64], 3)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["8", "64"]


def test_numbers_as_text():
    assert figures.decade(0.01) == "10^{-2}" and figures.decade(1e4) == "10^{4}"
    assert figures.plus_minus(Estimate(-0.5, -0.6, -0.38)) == "−0.50 ± 0.11"
    assert figures.plus_minus(Estimate(1, math.nan, math.nan)) == "1.00 ± nan"


def verdict(**change):
    base = dict(id="a", estimate=1.0, low=0.5, high=1.5, accepted=(0.0, 2.0), verdict="supported")
    return base | change


def test_a_forest_shows_each_interval_against_its_accepted_range():
    rows = [
        verdict(),
        verdict(id="b", accepted=(-math.inf, 0.0), verdict="contradicted"),
        verdict(id="c", accepted=(0.0, math.inf)),
        verdict(id="d", low=math.nan),
    ]
    (ax,) = figures.forest(rows).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    intervals = [line.get_xdata() for line in ax.lines[1::3]]
    assert intervals[0] == pytest.approx([-0.5, 0.5])  # half of the accepted range about its middle
    assert max(intervals[1]) < 0 < min(intervals[2])  # right of zero is accepted
    with pytest.raises(LookupError, match="no estimate with an interval"):
        figures.forest([verdict(high=math.nan)])


def test_ranks_and_the_bars_between_those_that_do_not_differ(ax):
    draw = np.random.default_rng(0)
    errors = pd.DataFrame(draw.normal([5, 0, 0], size=(20, 3)), columns=["worst", "a", "b"])
    found = figures.critical_differences(ax, errors, str.upper)
    points, bar = ax.lines
    assert points.get_xdata() == pytest.approx(found.means)
    assert [text.get_text() for text in ax.get_yticklabels()][-1] == "WORST"
    assert bar.get_ydata() == pytest.approx([-0.25, 1.25])
    assert bar.get_xdata().min() > points.get_xdata().max()
    assert ax.get_xlabel() == "mean rank over 20 data sets" and ax.get_ylim() == (2.5, -0.5)
