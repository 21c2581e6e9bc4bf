"""The figures of the chapter on recurrent networks, each a function of published rows."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Table
from tangents.lab.statistics import over_seeds
from tangents.studies.recurrent.claims import UNITS, at_start, centres, errors

WIDTH = "width"
SCALE = r"scale of recurrent weights $\sigma_w$"
NAMES = {
    "recurrent": "recurrent", "connected": "fully connected", "gaussian": "Gaussian",
    "polynomial": "polynomial", "dtw": "time warping",
}  # fmt: skip
MORE = {"wide": "recurrent, 30 settings", "averaged": "read at all steps, 30"}


def headline(t: Table) -> Figure:
    """Where a kernel and a trained network look, against the scale of recurrent weights; and errors
    on the archive."""
    fig, (left, right) = draw.panels(2)
    left.set(xlabel=SCALE, ylabel="mean place (0 first step, 1 last)", ylim=(0, 1))
    for place, (name, words) in enumerate(UNITS.items()):
        draw.band(left, centres(t, "kernel", activation=name), "sw", place, f"kernel, {words}",
                  marker="")  # fmt: skip
        found = centres(t, "network", activation=name)
        at = sorted(found["sw"].unique())
        means = [found.where(sw=sw).mean() for sw in at]
        draw.bars(left, at, means, place, ls="", label=f"network, {words}")
    left.legend(fontsize=8.5)
    table = archive_errors(t)
    right.plot(table["connected"], table["recurrent"], "o", color=draw.PALETTE[0], alpha=0.6, ms=4)
    most = table[["connected", "recurrent"]].max().max()
    right.plot([0, most], [0, most], **draw.MARK)
    right.set(xlabel="error, fully connected kernel (%)", ylabel="error, recurrent kernel (%)")
    return fig


def archive_errors(t: Table, names: Iterable[str] = NAMES) -> pd.DataFrame:
    """Test errors in points, a row a set, a column a method."""
    parts = {name: "wide" if name in MORE else "archive" for name in names}
    found = {name: errors(t, name, part).rows.set_index("series")["value"]
             for name, part in parts.items()}  # fmt: skip
    return pd.DataFrame(found)


def moments(t: Table, sw: float, activation: str = "relu") -> Figure:
    """Which steps the kernel weighs at one scale, and a trained network."""
    fig, (ax,) = draw.panels(1, height=3.0)
    shown = t.every("share", "moments").where(sw=sw, activation=activation)
    for place, (of, words) in enumerate(dict(kernel="kernel", network="trained network").items()):
        runs = shown.where(of=of)
        if len(runs):
            draw.band(ax, runs, "step", place, words, marker="")
    ax.set(xlabel="step of the series", ylabel="share of the sensitivity", ylim=(0, 0.25),
           title=rf"{UNITS[activation]}, $\sigma_w$ = {sw:.2f}")  # fmt: skip
    ax.legend(loc="upper center")
    return fig


def scales(t: Table) -> list[float]:
    """Those at which moments of the kernel are known."""
    return sorted(centres(t, "kernel")["sw"].unique())


def widths(t: Table) -> Figure:
    """The distance of kernels to the closed form, what training changes, and what is learnt."""
    fig, axes = draw.panels(3)
    draw.loglog(axes[0], WIDTH, r"$\|\Theta-\Theta_\infty\|\,/\,\|\Theta_\infty\|$")
    kinds = [(name, cut) for name in UNITS for cut in (False, True)]
    for place, (name, cut) in enumerate(kinds):
        runs = at_start(t, "kernel_error", "limit", activation=name, cut=cut)
        words = f"{UNITS[name]}, {'unequal' if cut else 'equal'} lengths"
        draw.band(axes[0], runs, "width", place, words)
    draw.label_widths(axes[0], runs["width"])
    for ax, metric, label in (
        (axes[1], "kernel_change", "change of the kernel in training"),
        (axes[2], "output_error", "distance to what the kernel predicts"),
    ):
        draw.loglog(ax, WIDTH, label)
        for place, (name, words) in enumerate(UNITS.items()):
            runs = t.ends(metric, "train").where(activation=name)
            draw.band(ax, runs, "width", place, words)
        draw.label_widths(ax, runs["width"])
    for ax, exponent in zip(axes, (-0.5, -1.0, -0.5), strict=False):
        low, high = ax.get_xlim()
        x = [1.1 * low, 0.9 * high]
        draw.guide(ax, x, 1.15 * ax.get_ylim()[1], exponent, f"$N^{{{exponent:g}}}$")
        ax.legend(fontsize=8.5)
    return fig


def archive(t: Table) -> Figure:
    """Mean ranks on the archive, and each method's errors against the fully connected kernel's."""
    names = NAMES | MORE
    fig, (left, right) = draw.panels(2, height=4.0)
    table = archive_errors(t, names)
    draw.critical_differences(left, table, names.get)
    others = [name for name in names if name != "connected"]
    for y, name in enumerate(others):
        gap = (table[name] - table["connected"]).dropna()
        value, low, high = over_seeds(gap)
        right.plot([low, high], [y, y], color=draw.PALETTE[0], lw=1.8)
        right.plot(value, y, "o", color=draw.PALETTE[0])
    right.axvline(0, **draw.MARK)
    right.set_yticks(range(len(others)), [f"{names[name]} ({table[name].count()})"
                                          for name in others])  # fmt: skip
    right.set(xlabel="error minus fully connected (points)",
              ylim=(len(others) - 0.5, -0.5))  # fmt: skip
    return fig


def lengths(t: Table) -> Figure:
    """Errors with series as they are, and padded; and on sines against the number of steps."""
    fig, (left, right) = draw.panels(2)
    sets = errors(t, "padded", "padded").rows.set_index("series")["value"]
    own = errors(t, "recurrent", "archive").rows.set_index("series")["value"]
    pairs = pd.DataFrame({"padded": sets, "own": own}).dropna().sort_values("own")
    left.hlines(range(len(pairs)), pairs["own"], pairs["padded"], color="0.6", lw=1)
    for place, (name, words) in enumerate(dict(own="as they are", padded="padded").items()):
        look = draw.look(place)
        left.plot(pairs[name], range(len(pairs)), ls="", label=words, **look)
    left.set_yticks(range(len(pairs)), pairs.index, fontsize=9)
    left.set(xlabel="test error (%)")
    left.legend()
    right.set(xlabel="steps of a sine", ylabel="test error (%)", ylim=(0, 75))
    for place, (name, words) in enumerate(NAMES.items()):
        draw.band(right, errors(t, name, "sines"), "steps", place, words)
    right.legend(fontsize=8.5, loc="upper right")
    return fig
