"""From published rows to estimates with 95 % intervals over seeds, and to their verdicts.

An exponent or a difference is estimated once for each seed; the interval is Student's over seeds,
or the jackknife's where the estimate needs all seeds at once. A run that has not converged is left
out and counted.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from tangents.declaration import RESERVED, Finding

INF = math.inf


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of independent estimates and its 95 % Student interval; nan ends for fewer than two."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float(x.mean()) if len(x) else math.nan, math.nan, math.nan
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def jackknife(
    estimator: Callable[[Sequence], float], members: Sequence
) -> tuple[float, float, float]:
    """An estimate that needs all seeds at once, with its 95 % jackknife interval (Tukey 1958)."""
    members, whole = list(members), estimator(members)
    k = len(members)
    parts = [estimator(members[:i] + members[i + 1 :]) for i in range(k)]
    _, low, high = over_seeds([k * whole - (k - 1) * part for part in parts])
    return whole, low + whole - (low + high) / 2, high + whole - (low + high) / 2


def power(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of y ~ x^a: least squares of log y on log x. Raises ValueError below two x."""
    if len(set(x)) < 2:
        raise ValueError("an exponent needs at least two different x")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where y first crosses `level` along increasing x, linear in log x; nan if it does not."""
    u, v = np.log(np.asarray(x, float)), np.asarray(y, float) - level
    for i in range(len(u) - 1):
        if v[i] * v[i + 1] <= 0 and v[i] != v[i + 1]:
            return float(np.exp(u[i] - v[i] * (u[i + 1] - u[i]) / (v[i + 1] - v[i])))
    return math.nan


def by_seed(frame: pd.DataFrame, estimator: Callable[[pd.DataFrame], float]) -> list[float]:
    """The estimator of each seed's rows, in order of seeds."""
    return [estimator(rows) for _, rows in frame.groupby("seed", sort=True)]


def finding(
    estimate: tuple[float, float, float], accept: tuple[float, float], n_runs: int, note: str = ""
) -> Finding:
    """Supported if the whole interval is accepted, contradicted if none of it is, else open."""
    value, low, high = estimate
    if not (low == low and high == high):
        verdict = "inconclusive"
    elif accept[0] <= low and high <= accept[1]:
        verdict = "supported"
    else:
        verdict = "contradicted" if high < accept[0] or low > accept[1] else "inconclusive"
    return Finding(value, low, high, verdict, n_runs, note, accept)


def finals(frame: pd.DataFrame, part: str, metric: str) -> pd.DataFrame:
    """The last value of a metric of each converged run of a part: a row a run, column `value`."""
    rows = frame[frame["part"] == part]
    done = rows[(rows["metric"] == "converged") & (rows["value"] == 1)]["run_id"]
    rows = rows[(rows["metric"] == metric) & rows["run_id"].isin(done)]
    if rows.empty:
        raise LookupError(f"no converged run with {metric!r} in part {part!r}")
    return rows.sort_values("time").groupby("run_id", sort=True).tail(1).sort_values("run_id")


def initial(frame: pd.DataFrame, part: str, metric: str) -> pd.DataFrame:
    """The value of a metric at the start of each run of a part, whatever became of the run."""
    rows = frame[(frame["part"] == part) & (frame["metric"] == metric) & (frame["step"] == 0)]
    if rows.empty:
        raise LookupError(f"no run with {metric!r} at its start in part {part!r}")
    return rows.drop_duplicates("run_id").sort_values("run_id")


def by_run(rows: pd.DataFrame) -> pd.Series:
    """The `value` of each run: two of these divide run by run."""
    return rows.set_index("run_id")["value"]


def notes(*parts: str) -> str:
    """One note of those that are not empty."""
    return "; ".join(filter(None, parts))


def lost(frame: pd.DataFrame, part: str, **where) -> str:
    """How many runs of a part, as far as picked, did not converge, in words; empty if all did."""
    rows = pick(frame[(frame["part"] == part) & (frame["metric"] == "converged")], **where)
    count = int((rows["value"] != 1).sum())
    return f"{count} of {len(rows)} runs did not converge and are left out" if count else ""


def seed_exponents(rows: pd.DataFrame, x: str, groups: list[str]) -> list[float]:
    """The exponent of `value` in column x for each seed, mean over groups of two rows or more.

    A seed without such a group is left out.
    """

    def one(seed_rows):
        fits = [power(g[x], g["value"]) for _, g in seed_rows.groupby(groups) if len(g) > 1]
        return float(np.mean(fits)) if fits else math.nan

    return [slope for slope in by_seed(rows, one) if not math.isnan(slope)]


def exponent(
    metric: str, part: str, x: str, accept, sign=1.0, when=finals, **where
) -> Callable[..., Finding]:
    """A claim's check that metric ~ x^(sign a), a accepted, fitted for each seed over all else.

    Of the values that `when` takes from the table: `finals` or `initial`.
    """

    def check(frame: pd.DataFrame, arrays: dict) -> Finding:
        rows = pick(when(frame, part, metric), **where)
        others = [c for c in rows.columns if c not in RESERVED | {"seed", x}]
        slopes = [sign * slope for slope in seed_exponents(rows, x, others)]
        note = lost(frame, part, **where) if when is finals else ""
        return finding(over_seeds(slopes), accept, len(rows), note)

    return check


def pick(rows: pd.DataFrame, **where) -> pd.DataFrame:
    """Rows whose columns lie within the closed ranges given, or equal the values given."""
    for column, value in where.items():
        low, high = value if isinstance(value, tuple) else (value, value)
        if isinstance(low, str):
            rows = rows[rows[column] == low]
        else:
            rows = rows[rows[column].between(low * (1 - 1e-9), high * (1 + 1e-9))]
    return rows
