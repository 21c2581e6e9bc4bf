"""From published rows to estimates with 95 % intervals over seeds: what a claim is made of.

A `Table` gives `Runs`, one value a run, which carry how many others were lost and why. These give
an `Estimate`: an exponent, a difference or a share, found once for each seed, with Student's
interval over seeds, or the jackknife's where it needs all seeds at once. An `Accept` joins the
paper's value in words to the range that has to hold the interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from tangents.lab.statistics import Interval, jackknife, over_seeds
from tangents.lab.study import RESERVED

INF = math.inf
BENT = 0.01  # p-value below which a line is none,
STRAIGHT = 0.02  # unless its local slopes differ by less than that


def words(*parts: str) -> str:
    """One note of those that are not empty."""
    return "; ".join(filter(None, parts))


class Line(NamedTuple):
    """How straight a power law is: the exponent from each x to the next, mean over seeds, and the
    p-value of a line, by Student's test that the quadratic term of log y in log x is zero."""

    slopes: tuple[float, ...]
    p: float

    @property
    def bent(self) -> bool:
        return self.p < BENT and max(self.slopes) - min(self.slopes) > STRAIGHT

    def __str__(self) -> str:
        return f"no straight line: from {self.slopes[0]:.2f} to {self.slopes[-1]:.2f}"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over `seeds` independent seeds, from `runs` trained networks.

    `holds` decides a statement about every run, whatever the interval; `also` are further
    conditions, that have to hold besides.
    """

    value: float
    low: float
    high: float
    seeds: int = 0
    runs: int = 0
    note: str = ""
    holds: bool | None = None
    span: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of the runs' fields
    line: Line | None = None
    also: tuple[tuple[Estimate, Accept], ...] = ()
    log: bool = False  # whether the interval is one of the logarithm

    def noting(self, *parts: str) -> Estimate:
        """With these words before its note."""
        return replace(self, note=words(*parts, self.note))

    def and_also(self, other: Estimate, accept: Accept) -> Estimate:
        """With a further condition, which has to hold besides."""
        note = f"{accept.words}: {other.value:.3g} [{other.low:.3g}, {other.high:.3g}]"
        return replace(self, also=(*self.also, (other, accept)), note=words(self.note, note))

    def __neg__(self) -> Estimate:
        """The estimate of an exponent with the other sign."""
        line = self.line and Line(tuple(-slope for slope in self.line.slopes), self.line.p)
        note = self.note.replace(str(self.line), str(line)) if line else self.note
        ends = dict(value=-self.value, low=-self.high, high=-self.low)
        return replace(self, **ends, line=line, note=note)

    def exp(self) -> Estimate:
        """The estimate of a quantity from that of its logarithm."""
        ends = {name: math.exp(getattr(self, name)) for name in ("value", "low", "high")}
        return replace(self, **ends, log=True)


class Accept(NamedTuple):
    """The paper's value in words, and the range in which the whole interval has to lie."""

    words: str
    low: float
    high: float

    def verdict(self, found: Estimate) -> str:
        """Supported if the whole interval is accepted, contradicted if none of it is, else open.

        Where a power law is bent, each local exponent has to lie on the same side as the interval;
        of further conditions none may be open or fail.
        """
        verdicts = [self._alone(found), *(accept.verdict(other) for other, accept in found.also)]
        if math.isnan(found.value):
            return "inconclusive"
        if "contradicted" in verdicts:
            return "contradicted"
        return "supported" if set(verdicts) == {"supported"} else "inconclusive"

    def _alone(self, found: Estimate) -> str:
        if found.holds is not None:
            return "supported" if found.holds else "contradicted"
        if math.isnan(found.low) or math.isnan(found.high):
            return "inconclusive"
        slopes = found.line.slopes if found.line and found.line.bent else ()
        if self.low <= found.low and found.high <= self.high:
            alike = all(self.low <= slope <= self.high for slope in slopes)
            return "supported" if alike else "inconclusive"
        below, above = found.high < self.low, found.low > self.high
        alike = all(slope < self.low if below else slope > self.high for slope in slopes)
        return "contradicted" if (below or above) and alike else "inconclusive"

    def p_value(self, found: Estimate) -> float:
        """Two-sided p of the verdict: that the true value lies not on its side of the range's ends.

        The largest of all conditions where they are supported, the least of those that contradict;
        1 for an open verdict, nan for a statement about every run and without an interval.
        """
        verdict = self.verdict(found)
        if found.holds is not None:
            return math.nan
        if verdict == "inconclusive":
            return 1.0
        alone = replace(found, also=())
        conditions = [(self, alone), *((accept, other) for other, accept in found.also)]
        p = [a._p_alone(e) for a, e in conditions if a.verdict(e) == verdict]
        return max(p) if verdict == "supported" else min(p)

    def _p_alone(self, found: Estimate) -> float:
        def scale(v: float) -> float:
            return (math.log(v) if v > 0 else -INF) if found.log else v

        low, high, value = map(scale, (self.low, self.high, found.value))
        half = stats.t.ppf(0.975, found.seeds - 1)
        spread = max(scale(found.high) - scale(found.low), 1e-300) / (2 * half)
        distance = min(value - low, high - value)  # below zero outside
        return float(min(1.0, 2 * stats.t.sf(abs(distance) / spread, found.seeds - 1)))


# ---- tables and runs


class Table:
    """A study's rows, one a measurement, and its arrays by "<run_id>/<name>"."""

    def __init__(self, frame: pd.DataFrame, arrays: dict[str, np.ndarray] | None = None) -> None:
        self.frame, self.arrays = _by_unit(frame), arrays or {}
        self.parts: set[str] = set()  # of the study, that were asked for

    def afresh(self) -> Table:
        """The same table, of which no part was asked for yet."""
        _ = self._places, self._origins  # found once for all views
        view = copy(self)
        view.parts = set()
        return view

    @cached_property
    def _places(self) -> dict[tuple[str, str], np.ndarray]:
        return self.frame.groupby(["part", "metric"], observed=True).indices

    @cached_property
    def _origins(self) -> pd.DataFrame:
        told = [name for name in ("part", "commit", "claims") if name in self.frame]
        return self.frame[told].drop_duplicates()

    @property
    def origins(self) -> set[tuple[str, str]]:
        """The commits that made the runs of the parts asked for, or all runs where none was; each
        with what the study claimed then."""
        made = self._origins
        made = made[made["part"].isin(self.parts or made["part"])]
        return {*map(tuple, made[["commit", "claims"]].to_numpy())}

    def metric(self, metric: str, part: str | None = None) -> pd.DataFrame:
        """All rows of a metric, of one part or of all."""
        parts = self.frame["part"].unique() if part is None else [part]
        self.parts.update(parts)
        found = [self._places.get((each, metric), np.empty(0, int)) for each in parts]
        return self.frame.iloc[np.sort(np.concatenate(found))] if found else self.frame.iloc[:0]

    def ends(self, metric: str, part: str | None = None) -> Runs:
        """The last value of each converged run. Raises LookupError where there is none."""
        done = self.metric("converged", part)
        rows = self.metric(metric, part)
        rows = rows[rows["run_id"].isin(done.loc[done["value"] == 1, "run_id"])]
        _some(rows, f"no converged run with {metric!r}", part)
        rows = rows.sort_values("time", kind="stable").drop_duplicates("run_id", keep="last")
        return Runs(rows.sort_values("run_id"), done)

    def starts(self, metric: str, part: str | None = None) -> Runs:
        """The value at the start of each run, whatever became of it. Raises LookupError."""
        rows = self.metric(metric, part)
        rows = rows[rows["step"] == 0].drop_duplicates("run_id")
        _some(rows, f"no run with {metric!r} at its start", part)
        return Runs(rows.sort_values("run_id"))

    def every(self, metric: str, part: str | None = None) -> Runs:
        """All values of a metric, several a run where it was measured along training."""
        rows = self.metric(metric, part)
        _some(rows, f"no run with {metric!r}", part)
        return Runs(rows)

    def array(self, run_id: str, name: str) -> np.ndarray:
        """An array of a run, in double precision. Raises LookupError where it has none."""
        if (key := f"{run_id}/{name}") not in self.arrays:
            raise LookupError(f"run {run_id} has no array {name!r}")
        return self.arrays[key].astype(float)


def _by_unit(frame: pd.DataFrame) -> pd.DataFrame:
    """With a number of its own for each pair of seed and draw of the data, in column `seed`, where
    a seed comes with several draws: these are units, and no repetitions."""
    if "data_seed" not in frame:
        return frame
    pairs = frame[["seed", "data_seed"]].drop_duplicates()
    if not pairs["seed"].duplicated().any():
        return frame
    return frame.assign(seed=frame.groupby(["seed", "data_seed"]).ngroup())


def _some(rows: pd.DataFrame, message: str, part: str | None) -> None:
    if rows.empty:
        raise LookupError(message + (f" in part {part!r}" if part else ""))


@dataclass(frozen=True)
class Runs:
    """Values of runs: rows with the run's fields and a column `value`.

    `states` are the rows that tell of each run that was tried whether it converged.
    """

    rows: pd.DataFrame
    states: pd.DataFrame | None = field(default=None, repr=False)

    def __getitem__(self, column: str) -> pd.Series:
        return self.rows[column]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lost(self) -> str:
        """How many of the runs did not converge, in words; empty if all did."""
        if self.states is None:
            return ""
        count, tried = int((self.states["value"] != 1).sum()), len(self.states)
        return f"{count} of {tried} runs did not converge and are left out" if count else ""

    @property
    def runs(self) -> int:
        return self.rows["run_id"].nunique() if "run_id" in self.rows else len(self.rows)

    @property
    def seeds(self) -> list[int]:
        return sorted(self.rows["seed"].unique())

    def where(self, **fields: Any) -> Runs:
        """Those whose fields lie within the closed ranges given, or equal the values given."""
        states = None if self.states is None else pick(self.states, **fields)
        return Runs(pick(self.rows, **fields), states)

    def largest(self, column: str = "width") -> Runs:
        """Those with the largest value of a field."""
        return self.where(**{column: self.rows[column].max()})

    def map(self, values: pd.Series | np.ndarray) -> Runs:
        """The same runs with other values."""
        return replace(self, rows=self.rows.assign(value=values))

    def __truediv__(self, other: Runs) -> Runs:
        """Run by run."""
        return self.map(self.rows["value"] / self.rows["run_id"].map(other.by_run))

    def __mul__(self, other: Runs) -> Runs:
        """Run by run."""
        return self.map(self.rows["value"] * self.rows["run_id"].map(other.by_run))

    @property
    def by_run(self) -> pd.Series:
        return self.rows.set_index("run_id")["value"]

    def pivot(self, *columns: str) -> pd.DataFrame:
        """A row a seed, a column for each combination of fields; seeds that lack one are out."""
        table = self.rows.pivot_table(index="seed", columns=[*columns], values="value")
        return table.dropna()

    def estimate(self, interval: Interval, seeds: int | None = None, runs=None) -> Estimate:
        """An estimate that these runs gave."""
        seeds = len(self.seeds) if seeds is None else seeds
        runs = self.runs if runs is None else runs
        numbers = self.rows.drop(columns=RESERVED, errors="ignore").select_dtypes("number")
        span = dict(zip(numbers, zip(numbers.min(), numbers.max(), strict=True), strict=True))
        return Estimate(*interval, seeds, runs, self.lost, span=span)

    def mean(self, log: bool = False) -> Estimate:
        """Mean over seeds of a seed's mean; geometric if `log`."""
        return self.by_seed(lambda rows: rows["value"].mean(), log)

    def by_seed(self, estimator: Callable[[pd.DataFrame], float], log: bool = False) -> Estimate:
        """The mean of what the estimator says of each seed's rows; geometric if `log`."""
        return self.over(
            {seed: estimator(rows) for seed, rows in self.rows.groupby("seed", sort=True)}, log
        )

    def over(self, values: Any, log: bool = False) -> Estimate:
        """The mean over seeds of values by seed; geometric if `log`."""
        values = pd.Series(values, dtype=float).dropna()
        found = self.estimate(over_seeds(np.log(values) if log else values), len(values))
        return found.exp() if log else found

    def jackknife(self, estimator: Callable[[pd.DataFrame], float]) -> Estimate:
        """What the estimator says of the rows of all seeds, with its jackknife interval."""

        def one(seeds):
            return estimator(self.rows[self.rows["seed"].isin(seeds)])

        return self.estimate(jackknife(one, self.seeds))

    def exponent(self, x: str, *fixed: str) -> Estimate:
        """The exponent a of value ~ x^a, over all else, or over the `fixed` fields alone, fixed.

        With the line that it is the slope of, where there are three values of x or more.
        """
        found, line = self.over(self.slopes(x, *fixed)), self._line(x, *fixed)
        lost = int((~_usable(self.rows["value"].dropna())).sum())
        return replace(found, line=line).noting(
            str(line) if line and line.bent else "",
            f"{lost} values that are not positive and finite are left out" if lost else "",
        )

    def _line(self, x: str, *fixed: str) -> Line | None:
        """Local slopes, from each x to the next of all, and the quadratic term of each seed, fitted
        with an intercept for each group: a group may lack some x."""
        rows, others = self._fitted(x, *fixed)
        u, v = np.log(rows[x].to_numpy(float)), np.log(rows["value"].to_numpy(float))
        grid = np.unique(u)
        if len(grid) < 3:
            return None
        table = pd.DataFrame({"u": u, "v": v, "w": u * u}).assign(seed=rows["seed"].to_numpy())
        group = rows[["seed", *others]].groupby(["seed", *others], dropna=False).ngroup()
        table = table.assign(group=group.to_numpy()).sort_values(["group", "u"])
        step = table.groupby("group")[["u", "v"]].diff().assign(seed=table["seed"])
        step["place"] = np.searchsorted(grid, table["u"])
        apart = np.append(np.nan, np.diff(grid))[step["place"]]
        step = step[np.isclose(step["u"], apart)]  # of neighbours alone
        local = (step["v"] / step["u"]).groupby([step["place"], step["seed"]]).mean()
        powers = table[["u", "w", "v"]]
        centred = (powers - powers.groupby(table["group"]).transform("mean")).to_numpy()
        seeds = table["seed"].to_numpy()
        each = (_bend(centred[seeds == seed]) for seed in np.unique(seeds))
        bends = [bend for bend in each if bend is not None]
        varied = len(bends) > 1 and np.ptp(bends) > 0
        p = float(stats.ttest_1samp(bends, 0).pvalue) if varied else 1.0
        return Line(tuple(map(float, local.groupby("place").mean())), p)

    def _fitted(self, x: str, *fixed: str) -> tuple[pd.DataFrame, list[str]]:
        """The rows that have a value, and which other fields vary among them."""
        rows = self.rows[_usable(self.rows["value"])]
        others = fixed or [c for c in rows.columns if c not in RESERVED | {"seed", x}]
        return rows, [c for c in others if rows[c].nunique(dropna=False) > 1]

    def slopes(self, x: str, *fixed: str) -> pd.Series:
        """That exponent for each seed: the mean over groups with two values of x or more."""
        rows, others = self._fitted(x, *fixed)
        keys = rows[["seed", *others]]
        u, v = np.log(rows[x].to_numpy(float)), np.log(rows["value"].to_numpy(float))
        group = keys.groupby([*keys], sort=False, observed=True, dropna=False).ngroup().to_numpy()
        count = np.bincount(group)

        def centred(w):
            return w - (np.bincount(group, w) / count)[group]

        u, v = centred(u), centred(v)
        spread = np.bincount(group, u * u)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.where(spread > 1e-12, np.bincount(group, u * v) / spread, np.nan)
        first = keys["seed"].to_numpy()[np.unique(group, return_index=True)[1]]
        return pd.Series(slope).groupby(first).mean().dropna()


def by_seed(runs: Runs) -> pd.Series:
    """The mean value of each seed's runs."""
    return runs.rows.groupby("seed")["value"].mean()


def minus(a: Runs, b: Runs) -> Estimate:
    """The difference, seed by seed."""
    return a.over(by_seed(a) - by_seed(b))


def ratio(a: Runs, b: Runs) -> Estimate:
    """The geometric mean of the ratio, seed by seed."""
    return a.over(by_seed(a) / by_seed(b), log=True)


def _usable(values: pd.Series) -> pd.Series:
    """Those that have a logarithm."""
    return values.between(0, INF, inclusive="neither")


def _bend(centred: np.ndarray) -> float | None:
    """The quadratic term of v in u, least squares, from columns u, u^2 and v without their means in
    each group."""
    found, _, rank, _ = np.linalg.lstsq(centred[:, :2], centred[:, 2], rcond=None)
    return float(found[1]) if rank == 2 else None


def pick(rows: pd.DataFrame, **fields: Any) -> pd.DataFrame:
    """Rows whose columns lie within the closed ranges given, or equal the values given."""
    for column, value in fields.items():
        low, high = value if isinstance(value, tuple) else (value, value)
        if isinstance(low, (str, bool)):
            rows = rows[rows[column] == low]
        else:
            rows = rows[rows[column].between(low - 1e-9 * abs(low), high + 1e-9 * abs(high))]
    return rows
