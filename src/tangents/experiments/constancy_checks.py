"""The checks behind the claims of the chapter on the constancy of the kernel, on published rows.

Bounds were set before any run of the sweep was looked at. `statistics.exponent` does most of it.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from tangents.declaration import Finding
from tangents.statistics import (
    INF,
    by_seed,
    finals,
    finding,
    lost,
    over_seeds,
    pick,
    power,
    seed_exponents,
)

LINEAR = dict(head="linear")


def ratio(metric: str, part: str, accept, **where) -> Callable[..., Finding]:
    """A metric with the tanh head over that with the linear one, at the largest width."""

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        rows = pick(finals(frame, part, metric), **where)
        rows = rows[rows["width"] == rows["width"].max()]
        table = rows.pivot_table(index="seed", columns="head", values="value").dropna()
        note = f"geometric mean, width {rows['width'].max()}"
        return finding(_geometric(table["tanh"] / table["linear"]), accept, 2 * len(table), note)

    return check


def _geometric(values: pd.Series) -> tuple[float, float, float]:
    """Geometric mean with its interval."""
    return tuple(math.exp(v) for v in over_seeds(np.log(values)))


def bottleneck_order(metric: str, part: str) -> Callable[..., Finding]:
    """Exponent of a metric in the width of the bottleneck, mean over outer widths."""

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        rows = finals(frame, part, metric)
        rows = rows[rows["bottleneck"] > 0]
        slopes = seed_exponents(rows, "bottleneck", ["width"])
        return finding(over_seeds(slopes), (-INF, 0), len(rows), lost(frame, part))

    return check


def all_converged(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Share of runs, at half the critical step and less, that reached the goal."""
    rows = frame[(frame["metric"] == "converged") & (frame["rate"] <= 0.5)]
    shares = rows.groupby("seed")["value"].mean()
    return finding(over_seeds(shares), (0.999, 1), len(rows), "share of runs that reached the goal")


def stays_positive(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Smallest eigenvalue of the kernel along training over that at the start, least over runs."""
    rows = frame[(frame["part"] == "head") & frame["metric"].isin(["eigenvalue_min"])]
    first = rows.sort_values("step").groupby("run_id")["value"].first()
    lowest = finals(frame, "head", "eigenvalue_lowest").set_index("run_id")
    share = lowest["value"] / first.reindex(lowest.index)
    return finding(over_seeds(share.groupby(lowest["seed"]).min()), (1e-9, INF), len(lowest))


def exponential(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Least of |grad L|^2 / (2 L) over the smallest eigenvalue of K / n, along every run."""
    rows = frame[frame["part"] == "head"]
    table = rows[rows["metric"].isin(["pl_ratio", "eigenvalue_min"])].pivot_table(
        index=["seed", "run_id", "step"], columns="metric", values="value"
    )
    least = (table["pl_ratio"] / table["eigenvalue_min"]).groupby("seed").min()
    return finding(over_seeds(least), (1 - 1e-6, INF), rows["run_id"].nunique())


def error_exponent(direction: str) -> Callable[..., Finding]:
    """Exponent in r of the linear model's error at distance r, linear read-out, largest width."""

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        rows = linear_errors(frame, direction, **LINEAR, depth=1)
        rows = rows[rows["width"] == rows["width"].max()]
        slopes = by_seed(rows, lambda g: power(g["r"], g["value"]))
        return finding(over_seeds(slopes), (1.8, 2.2), len(slopes), f"width {rows['width'].max()}")

    return check


def linear_errors(frame: pd.DataFrame, direction: str, **where) -> pd.DataFrame:
    """The linear model's errors along a direction, a row a run and distance, in column r."""
    name = f"linear_error_{direction}_"
    rows = pick(frame[frame["metric"].str.startswith(name) & (frame["part"] == "head")], **where)
    return rows.assign(r=rows["metric"].str.removeprefix(name).astype(float))


def identity(metric: str) -> Callable[..., Finding]:
    """The largest deviation of an identity over all runs; its interval over seeds."""

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        rows = frame[frame["metric"] == metric]
        if rows.empty:
            raise LookupError(f"no run with {metric!r}")
        worst = rows.groupby("seed")["value"].max()
        return finding(over_seeds(worst), (-INF, 1e-10), len(rows), "largest over runs, by seed")

    return check


def plane_exponent(x: str, accept, positive: bool) -> Callable[..., Finding]:
    """a or b in dK ~ 1 / (alpha^a m^b), least squares in both, where alpha is at least 4."""

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        rows = plane(frame, positive)
        slopes = by_seed(rows, lambda g: plane_fit(g)[x])
        return finding(over_seeds(slopes), accept, len(rows), lost(frame, "plane"))

    return check


def plane(frame: pd.DataFrame, positive: bool, metric: str = "kernel_largest") -> pd.DataFrame:
    """Runs of the plane of scale and width whose kernel changes little: alpha at least 4."""
    rows = finals(frame, "plane", metric)
    return rows[(rows["positive"].astype(bool) == positive) & (rows["alpha"] >= 4)]


def plane_fit(g: pd.DataFrame) -> dict[str, float]:
    """Exponents a in 1/alpha and b in 1/m of `value`."""
    design = np.stack([np.ones(len(g)), np.log(g["alpha"]), np.log(g["width"])], 1)
    _, a, b = np.linalg.lstsq(design, np.log(g["value"]), rcond=None)[0]
    return {"alpha": -a, "width": -b}


def catapult_ratio(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Change of the kernel above the critical step over that at half of it, largest width."""
    rows = finals(frame, "catapult", "kernel_largest")
    rows = rows[rows["width"] == rows["width"].max()]
    table = rows.pivot_table(index="seed", columns=rows["rate"] > 2, values="value").dropna()
    note = f"geometric mean, width {rows['width'].max()}; {lost(frame, 'catapult')}".rstrip("; ")
    return finding(_geometric(table[True] / table[False]), (5, INF), len(rows), note)


def ends_flat(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Step times largest curvature at the end, of runs that began above the critical step."""
    rows = finals(frame, "catapult", "sharpness")
    rows = rows[rows["rate"] > 2]
    worst = rows.groupby("seed")["value"].max()
    return finding(over_seeds(worst), (0, 2), len(rows), lost(frame, "catapult"))
