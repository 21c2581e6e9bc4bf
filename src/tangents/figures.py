"""One look for all figures: transparent, colour-blind safe, legible at phone width."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tangents.statistics import over_seeds, seed_exponents

PALETTE = sns.color_palette("colorblind")
MARKERS = "osD^vP*X"
STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
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


def band(ax: Axes, rows: pd.DataFrame, x: str, place: int, label: str, scale: float = 1.0, **line):
    """Mean over seeds of `value` against the column `x`, with its 95 % interval as a band.

    On a logarithmic y axis mean and interval are those of the logarithm (a geometric mean).
    """
    log = ax.get_yscale() == "log"
    points = []
    for at, group in rows.groupby(x):
        values = scale * group["value"].to_numpy(float)
        estimate = np.array(over_seeds(np.log(values) if log else values))
        points.append((at, *(np.exp(estimate) if log else estimate)))
    at, mean, low, high = np.array(points).T
    colour = PALETTE[place % len(PALETTE)]
    style = dict(color=colour, marker=MARKERS[place % len(MARKERS)], label=label) | line
    ax.plot(at, mean, **style)
    ax.fill_between(at, low, high, color=style["color"], alpha=0.18, lw=0)
    return at, mean


def guide(ax: Axes, x: Sequence[float], y0: float, exponent: float, text: str, **line) -> None:
    """A power law through (x[0], y0), labelled at its middle."""
    x = np.asarray(x, float)
    y = y0 * (x / x[0]) ** exponent
    ax.plot(x, y, **(dict(color="0.35", ls="--", lw=1.2) | line))
    middle = np.sqrt(x[0] * x[-1]), np.sqrt(y[0] * y[-1])
    below = dict(xytext=(8, -12), va="top") if exponent > 0 else dict(xytext=(6, 4), va="bottom")
    ax.annotate(text, middle, textcoords="offset points", color="0.25", fontsize=9.5, **below)


def label_widths(ax, widths) -> None:
    """Ticks at the widths themselves, instead of at powers of ten."""
    ax.set_xticks(widths, [f"{h:.0f}" for h in widths])
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def fitted(rows: pd.DataFrame, x: str, groups=("width",)) -> str:
    """The exponent of `value` in x, per seed over groups, as text with its 95 % half-interval."""
    return plus_minus(over_seeds(seed_exponents(rows, x, list(groups))))


def plus_minus(estimate: tuple[float, float, float]) -> str:
    """An estimate with the half of its interval, as text."""
    mean, low, high = estimate
    return f"{mean:.2f} ± {(high - low) / 2:.2f}".replace("-", "−")
