"""One look for all figures: dark on white, colour-blind safe, legible at phone width.

A figure draws `Runs` of a study's table, or estimates, with their intervals over seeds. Where there
are none the functions here raise LookupError, so that none is drawn empty.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tangents.lab.evidence import Estimate, Runs
from tangents.lab.statistics import Ranking, over_seeds, ranking

Drawn = tuple[np.ndarray, np.ndarray]  # the places of a curve, and its values
PALETTE = sns.color_palette("colorblind")
MARKERS = "osD^vP*X"
MARK = dict(color="0.4", lw=1, ls=":")  # a line at a value that matters
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 11,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.markersize": 5,
    "figure.dpi": 110,
}


def panels(columns: int, height: float = 3.6, rows: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """A row of panels lettered (a), (b), ... in the project's style."""
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(4.4 * columns, height * rows), layout="constrained")
        grid = fig.subplots(rows, columns, squeeze=False)
    axes = grid.ravel()
    if len(axes) > 1:
        for letter, ax in zip("abcdefgh", axes, strict=False):
            ax.set_title(f"({letter})", loc="left", fontweight="bold")
    return fig, axes


def loglog(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Both axes logarithmic, with these labels."""
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)


def label_ticks(ax: Axes, at: Sequence[float], labels: Iterable[str]) -> None:
    """Ticks of the x axis at these values alone."""
    ax.set_xticks(at, [*labels])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def label_widths(ax: Axes, widths: Iterable[float], every: int = 1) -> None:
    """Ticks at every so many of the widths, the largest among them, not at powers of ten."""
    at = np.unique(widths)[::-every][::-1]
    label_ticks(ax, at, (f"{width:.0f}" for width in at))


def groups(runs: Runs, by: str) -> list[tuple[Any, Runs]]:
    """The runs at each value of a field, in its order; those whose own value is nan are out."""
    rows = runs.rows.dropna(subset="value")
    if rows.empty:
        raise LookupError(f"no runs to draw by {by!r}")
    return [(value, Runs(group)) for value, group in rows.groupby(by)]


def band(ax: Axes, runs: Runs, x: str, place: int, label: str | None, **line: Any) -> Drawn:
    """Mean over seeds against the field `x`, with its 95 % interval as a band.

    On a logarithmic y axis mean and interval are those of the logarithm (a geometric mean).
    """
    log = ax.get_yscale() == "log"
    values = {at: group["value"] for at, group in groups(runs, x)}
    means = [Estimate(*over_seeds(np.log(v) if log else v)) for v in values.values()]
    means = [each.exp() for each in means] if log else means
    return curve(ax, [*values], means, place, label=label, **line)


def bands(ax: Axes, runs: Runs, x: str, by: str, label: Callable = str, **line: Any) -> Drawn:
    """A band for each value of the field `by`; returns the last of them."""
    for place, (value, group) in enumerate(groups(runs, by)):
        drawn = band(ax, group, x, place, label(value), **line)
    return drawn


def curve(ax: Axes, at: Sequence, means: Iterable[Estimate], place: int, **line: Any) -> Drawn:
    """Estimates joined by a line, with their intervals as a band around it."""
    value, low, high = _intervals(means)
    line = look(place) | line
    ax.plot(at, value, **line)
    ax.fill_between(at, low, high, color=line["color"], alpha=0.18, lw=0)
    return np.asarray(at), value


def bars(ax: Axes, at: Sequence, means: Iterable[Estimate], place: int, **line: Any) -> None:
    """Estimates as points, with their intervals as error bars."""
    value, low, high = _intervals(means)
    ax.errorbar(at, value, [value - low, high - value], capsize=3, **(look(place) | line))


def _intervals(means: Iterable[Estimate]) -> np.ndarray:
    found = [(each.value, each.low, each.high) for each in means]
    if not found:
        raise LookupError("no estimates to draw")
    return np.array(found).T


def paths(ax: Axes, runs: Runs, x: str, place: int, label="", by="run_id", **line: Any) -> None:
    """Values of each run along `x`, a line a run; the first one bears the label."""
    for count, (_, run) in enumerate(groups(runs, by)):
        rows = run.rows.sort_values(x, kind="stable")
        line["label"] = None if count else label
        ax.plot(rows[x], rows["value"], color=PALETTE[place], **line)


def look(place: int) -> dict[str, Any]:
    """Colour and marker of the series at a place among others."""
    return dict(color=PALETTE[place % len(PALETTE)], marker=MARKERS[place % len(MARKERS)])


def guide(ax: Axes, x: Sequence[float], y0: float, exponent: float, text: str, **line) -> None:
    """A power law through (x[0], y0), labelled at its middle."""
    x = np.asarray(x, float)
    y = y0 * (x / x[0]) ** exponent
    ax.plot(x, y, **(dict(color="0.35", ls="--", lw=1.2) | line))
    middle = np.sqrt(x[0] * x[-1]), np.sqrt(y[0] * y[-1])
    below = dict(xytext=(8, -12), va="top") if exponent > 0 else dict(xytext=(6, 4), va="bottom")
    ax.annotate(text, middle, textcoords="offset points", color="0.25", fontsize=9.5, **below)


def origin(runs: Runs, x: str) -> tuple[list[float], np.ndarray]:
    """Where a guide can start: the ends of a field's range, and the values at the lower one."""
    (low, first), *_ = groups(runs, x)
    return [low, runs[x].max()], first["value"].to_numpy()


def decade(value: float) -> str:
    """The power of ten next to a value, as mathematical text."""
    return f"10^{{{math.log10(value):.0f}}}"


def plus_minus(found: Estimate) -> str:
    """An estimate with the half of its interval, as text."""
    return f"{found.value:.2f} ± {(found.high - found.low) / 2:.2f}".replace("-", "−")


def forest(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Estimates with their intervals, a row a verdict of `ledger`, each on a scale of its own.

    Shaded is the accepted range: between -1 and 1 where it has two ends, right of 0 where it has
    one, in units of the distance to it or of the interval, whichever is longer.
    """
    rows = [e for e in entries if math.isfinite(e["low"]) and math.isfinite(e["high"])]
    if not rows:
        raise LookupError("no estimate with an interval")
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(8.0, 0.34 * len(rows) + 1.0), layout="constrained")
        ax = fig.subplots()
    for y, entry in enumerate(rows):
        to, (low, high) = _scaled(entry)
        ax.plot([max(low, -2.4), min(high, 2.4)], [y, y], color=PALETTE[2], alpha=0.22, lw=11,
                solid_capstyle="butt")  # fmt: skip
        value, *ends = np.clip([to(entry[name]) for name in ("estimate", "low", "high")], -2.4, 2.4)
        ends.sort()
        colour = VERDICT_COLOURS[entry["verdict"]]
        ax.plot(ends, [y, y], color=colour, lw=1.8)
        ax.plot(value, y, "o", color=colour, ms=5)
        number = f"{entry['estimate']:.3g} [{entry['low']:.3g}, {entry['high']:.3g}]"
        ax.annotate(number.replace("-", "−"), (2.55, y), va="center", fontsize=8.5)
    ax.set_yticks(range(len(rows)), [entry["id"] for entry in rows], fontsize=9)
    ax.set(xlim=(-2.5, 4.4), ylim=(len(rows) - 0.4, -0.6), xticks=[])
    ax.grid(visible=False)
    return fig


VERDICT_COLOURS = {
    "supported": PALETTE[2], "contradicted": PALETTE[3], "inconclusive": "0.45",
    "outside": PALETTE[0],
}  # fmt: skip


def _scaled(entry: Mapping[str, Any]) -> tuple[Callable[[float], float], tuple[float, float]]:
    """What takes a row's values to its scale, and the accepted range there."""
    low, high = entry["accepted"]
    if math.isfinite(low) and math.isfinite(high):
        middle, half = (low + high) / 2, max((high - low) / 2, 1e-300)
        return lambda v: (v - middle) / half, (-1.0, 1.0)
    end, sign = (low, 1.0) if math.isfinite(low) else (high, -1.0)
    unit = max(abs(entry["estimate"] - end), entry["high"] - entry["low"], 1e-300)
    return lambda v: sign * (v - end) / unit, (0.0, math.inf)


def critical_differences(ax: Axes, errors: pd.DataFrame, label: Callable = str) -> Ranking:
    """Mean ranks of methods (columns) over data sets (rows), the best on top; bars join methods of
    which no two differ by `ranking`, which is returned."""
    found = ranking(errors)
    places = range(len(found.means))
    ax.plot(found.means, places, "o", color=PALETTE[0], ms=6)
    step = 0.05 * max(np.ptp(found.means), 0.1)
    for k, (first, last) in enumerate(found.alike()):
        x = found.means.iloc[-1] + (k + 2) * step
        ax.plot([x, x], [first - 0.25, last + 0.25], color="0.35", lw=4, solid_capstyle="butt")
    ax.set_yticks(places, [label(name) for name in found.means.index])
    ax.set(xlabel=f"mean rank over {found.sets} data sets", ylim=(len(places) - 0.5, -0.5))
    return found
