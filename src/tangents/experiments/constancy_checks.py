"""The checks behind the claims of the chapter on the constancy of the kernel, on published rows.

`statistics.exponent` does most of it.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from tangents.declaration import Finding
from tangents.statistics import (
    INF,
    by_run,
    by_seed,
    finals,
    finding,
    initial,
    lost,
    notes,
    over_seeds,
    pick,
    power,
    seed_exponents,
)

LINEAR = dict(head="linear")
ENDING = ("kernel_largest", "radius", "hessian_trained")


def known(metric: str) -> Callable[[pd.DataFrame, str, str], pd.DataFrame]:
    """How its values are found: of converged runs at their end, of all runs at their start."""
    return finals if metric in ENDING else initial


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


def allowed(frame: pd.DataFrame) -> pd.DataFrame:
    """An estimate of how much the theorem lets the kernel of each run change, linear head: `value`.

    With q = R |H| / |grad f|, R how far the weights moved and |H| the largest norm found in the
    ball, the gradient of an output changes by at most the share q, and an entry of the kernel by
    2 q + q^2 of |grad f|^2. Here |grad f| is a mean over inputs, and |H| that of the first.
    """
    rows = pick(finals(frame, "head", "radius"), **LINEAR).set_index("run_id", drop=False)
    norm, gradient = (
        by_run(initial(frame, "head", metric)) for metric in ("hessian_steepest", "gradient")
    )
    q = rows["value"] * norm / gradient
    return rows.assign(value=2 * q + q**2)


def below_bound(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Largest ratio of the kernel's change to that estimate, linear head."""
    bound = allowed(frame)
    share = by_run(finals(frame, "head", "kernel_largest")) / bound["value"]
    worst = share.groupby(bound["seed"]).max()
    return finding(over_seeds(worst), (0, 1), len(bound), "largest over widths and depths")


def all_converged(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Share of runs, at a quarter of the critical step, that reached the goal."""
    rows = frame[(frame["metric"] == "converged") & (frame["rate"] <= 0.5)]
    return every(rows["value"] == 1, rows["seed"], "share of runs that reached the goal")


def every(holds: pd.Series, seeds: pd.Series, note: str) -> Finding:
    """Of a statement about every run: the share for which it holds; one counterexample refutes."""
    found = finding(over_seeds(holds.groupby(seeds).mean()), (1, 1), len(holds), note)
    return replace(found, verdict="supported" if holds.all() else "contradicted")


def stays_positive(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Smallest eigenvalue of the kernel along training over that at the start, least over runs."""
    lowest = frame[(frame["metric"] == "eigenvalue_lowest") & (frame["rate"] <= 0.5)]
    first = frame[(frame["metric"] == "eigenvalue_min") & (frame["step"] == 0)]
    share = by_run(lowest) / by_run(first)
    least = share.groupby(lowest.set_index("run_id")["seed"]).min()
    if (least <= 0).any():  # of these there is no geometric mean
        below = 0.0, -INF, 0.0
        return finding(below, (1e-9, INF), len(lowest), f"{(share <= 0).sum()} are not above 0")
    return finding(_geometric(least), (1e-9, INF), len(lowest), "geometric mean over seeds")


def log_linear(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Share of the variance of log L that a line in time explains, below a tenth of the first L."""
    done = frame[(frame["metric"] == "converged") & (frame["value"] == 1)]["run_id"]
    rows = frame[frame["part"].isin(("head", "heads")) & (frame["metric"] == "loss")]
    rows = rows[rows["run_id"].isin(done)].sort_values("time")
    late = rows[rows["value"] < 0.1 * rows.groupby("run_id")["value"].transform("first")]
    late = late[late.groupby("run_id")["value"].transform("size") > 2]

    def one(seed_rows):
        lines = [g for _, g in seed_rows.groupby("run_id")]
        return np.mean([np.corrcoef(g["time"], np.log(g["value"]))[0, 1] ** 2 for g in lines])

    note = notes(lost(frame, "head"), lost(frame, "heads"))
    return finding(over_seeds(by_seed(late, one)), (0.95, INF), late["run_id"].nunique(), note)


def pl_known(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Least |grad L|^2 / (2 L) on the way over the smallest eigenvalue of K_0 / n, widest runs."""
    rows = pick(frame[frame["part"] == "head"], **LINEAR, depth=1)
    rows = rows[rows["width"] == rows["width"].max()]
    first = rows[(rows["metric"] == "eigenvalue_min") & (rows["step"] == 0)].set_index("seed")
    least = rows[rows["metric"] == "pl_ratio"].groupby("seed")["value"].min() / first["value"]
    note = f"width {rows['width'].max()}"
    return finding(over_seeds(least), (0.9, INF), rows["run_id"].nunique(), note)


def error_exponent(
    direction: str, accept, r: tuple[float, float], part: str = "head", depth: int = 1
) -> Callable[..., Finding]:
    """Exponent in r of the linear model's error at distance r, linear read-out, largest width."""

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        rows = linear_errors(frame, direction, part, **LINEAR, depth=depth, r=r)
        rows = rows[rows["width"] == rows["width"].max()]
        slopes = by_seed(rows, lambda g: power(g["r"], g["value"]))
        return finding(over_seeds(slopes), accept, len(slopes), f"width {rows['width'].max()}")

    return check


def linear_errors(frame: pd.DataFrame, direction: str, part: str = "head", **where):
    """The linear model's errors along a direction, a row a run and distance, in column r."""
    name = f"linear_error_{direction}_"
    rows = frame[frame["metric"].str.startswith(name) & (frame["part"] == part)]
    return pick(rows.assign(r=rows["metric"].str.removeprefix(name).astype(float)), **where)


def signal(kind: str, accept) -> Callable[..., Finding]:
    """Exponent in the width of a norm of df/da_l, mean over the layers of the deep network."""

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        layers = [initial(frame, "head", f"signal_{kind}_{layer}") for layer in (1, 2, 3)]
        rows = pick(pd.concat(layers), **LINEAR, depth=3)
        return finding(
            over_seeds(seed_exponents(rows, "width", ["metric"])), accept, len(rows) // 3
        )

    return check


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
    """Mean change of the kernel above the critical step over that below, largest width."""
    rows = finals(frame, "catapult", "kernel_largest")
    rows = rows[rows["width"] == rows["width"].max()]
    table = rows.pivot_table(index="seed", columns=rows["rate"] > 2, values="value").dropna()
    note = notes(f"geometric mean, width {rows['width'].max()}", lost(frame, "catapult"))
    return finding(_geometric(table[True] / table[False]), (5, INF), len(rows), note)


def ends_flat(frame: pd.DataFrame, arrays: dict) -> Finding:
    """Share of the runs begun above the critical step that end below the stability bound."""
    rows = finals(frame, "catapult", "sharpness")
    rows = rows[rows["rate"] > 2]
    return every(rows["value"] < 2, rows["seed"], "share of runs for which this holds")
