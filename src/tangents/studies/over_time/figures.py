"""The figures of the chapter on the kernel over time, each a function of published rows."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tangents.lab import figures as draw
from tangents.lab.evidence import Runs, Table
from tangents.studies.over_time.claims import (
    EARLY,
    MEASURES,
    NETS,
    PLANTED,
    changes,
    fallen,
    own_and_others,
    points,
    with_loss,
)

START = 0.05  # where the start stands on a logarithmic axis of epochs
EPOCHS = (START, 0.1, 0.4, 1.6, 6.4, 25.6)


def over_time(ax: Axes, runs: Runs, place: int, label: str | None, **line: Any) -> None:
    """A band along the epochs, the start at their left."""
    shifted = Runs(runs.rows.assign(time=runs["time"].clip(lower=START)))
    draw.band(ax, shifted, "time", place, label, **line)


def epochs(ax: Axes, label: str = "epochs") -> None:
    """A logarithmic axis of epochs, which begins with the start."""
    ax.set(xscale="log", xlabel=label)
    draw.label_ticks(ax, EPOCHS, ("0", *map("{:g}".format, EPOCHS[1:])))


def nets(ax: Axes, t: Table, metric: str, percent: bool = False) -> None:
    """A metric of both networks of the battery, those that were run."""
    for place, (net, words) in enumerate(NETS.items()):
        runs = t.every(metric, "battery").where(network=net)
        if len(runs):
            over_time(ax, points(runs) if percent else runs, place, words, ms=3.5)


def headline(t: Table) -> Figure:
    """Loss, alignment, velocity, barrier and nonlinear share on one axis of time."""
    fig, axes = draw.panels(1, rows=5, height=1.75)
    rows = {
        "loss_train": "training loss",
        "alignment": "alignment",
        "kernel_velocity": "kernel velocity\n(1 / epoch)",
        "barrier_train": "barrier (points)",
        "nonlinear": "nonlinear share",
    }
    for ax, (metric, label) in zip(axes, rows.items(), strict=True):
        log = metric in ("loss_train", "kernel_velocity", "nonlinear")
        ax.set(ylabel=label, yscale="log" if log else "linear")
        nets(ax, t, metric, percent=metric == "barrier_train")
        epochs(ax, "epochs" if ax is axes[-1] else "")
        ax.set_xlim(START * 0.85, 38)
        ax.axvline(EARLY, **draw.MARK)
    axes[0].legend()
    axes[-1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[-1].yaxis.set_major_formatter("{x:g}")
    axes[-1].yaxis.set_minor_formatter("")
    return fig


def learners(t: Table) -> Figure:
    """Test errors of the linearised network against the time at which it is linearised, beside the
    network at the same low rate, and the network on its way."""
    fig, axes = draw.panels(2)
    lines = {
        "error_linear": "linearised there",
        "error_beside": "network, same low rate",
        "error_test": "network on its way",
    }
    for ax, (net, words) in zip(axes, NETS.items(), strict=True):
        ax.set(yscale="log", ylabel="test error (%)")
        ax.set_title(words, fontsize=11)
        for place, (metric, label) in enumerate(lines.items()):
            runs = points(t.every(metric, "battery").where(network=net))
            if len(runs):
                over_time(ax, runs, place, label, **(dict(lw=1, ms=0) if place == 2 else {}))
        epochs(ax)
        low, high = ax.get_ylim()
        wide = (5, 7, 10, 15, 20, 30, 50, 80) if high > 3 * low else range(10, 100, 10)
        ticks = [v for v in wide if low < v < high]
        ax.set_yticks(ticks, map(str, ticks))
        ax.minorticks_off()
    axes[0].legend()
    return fig


def correlations(t: Table) -> Figure:
    """Rank correlations of changes, measure by measure; and what they are compared with."""
    fig, (left, right) = draw.panels(2, height=4.2)
    names = [words for words, _ in MEASURES.values()]
    tables = changes(t, MEASURES, network="conv") or changes(t, MEASURES, network="fc")
    found = np.mean([table.rank().corr() for table in tables.values()], axis=0)
    left.imshow(found, vmin=-1, vmax=1, cmap="RdBu_r")
    left.grid(visible=False)
    for i, j in np.ndindex(found.shape):
        dark = abs(found[i, j]) > 0.6
        left.text(j, i, f"{found[i, j]:.1f}".replace("-", "−"), ha="center", va="center",
                  fontsize=9, color="w" if dark else "k")  # fmt: skip
    left.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=9)
    left.set_yticks(range(len(names)), names, fontsize=9)
    right.set(ylabel="mean rank correlation", ylim=(-0.8, 1.05))
    runs, kinds = t.every("moved", "battery"), ("as they are", "their changes", "with other runs")
    cases = {words: (MEASURES, net) for net, words in NETS.items()}
    cases |= {"planted walks": (PLANTED, "fc")}
    for place, (words, (measures, net)) in enumerate(cases.items()):
        levels, moved = (changes(t, measures, kind, network=net) for kind in (True, False))
        if levels:
            own, others = own_and_others(moved)
            means = [runs.over(v) for v in (own_and_others(levels)[0], own, others)]
            at = np.arange(3) + 0.15 * (place - 1)
            draw.bars(right, at, means, place, ls="", label=words)
    right.axhline(0, **draw.MARK)
    draw.label_ticks(right, range(3), kinds)
    right.legend(loc="lower left")
    return fig


def rates(t: Table) -> Figure:
    """The MLP at three step sizes: barrier, and velocity."""
    fig, axes = draw.panels(2)
    for ax, metric, label in zip(axes, ("barrier_train", "kernel_velocity"),
                                 ("barrier (points)", "kernel velocity (1 / epoch)"),
                                 strict=True):  # fmt: skip
        parts = [t.every(metric, "battery").where(network="fc").rows, t.every(metric, "rates").rows]
        ax.set(ylabel=label, yscale="log" if metric == "kernel_velocity" else "linear")
        for place, (rate, runs) in enumerate(draw.groups(Runs(pd.concat(parts)), "rate")):
            over_time(ax, points(runs) if metric == "barrier_train" else runs, place,
                      f"rate {rate:g}", ms=3.5)  # fmt: skip
        epochs(ax)
    axes[0].set_ylim(bottom=-0.5)
    axes[0].legend()
    return fig


def in_units_of_t1(t: Table, metric: str, **where: Any) -> Runs:
    """The rows of flows with a field `u`, time over t1."""
    runs = t.every(metric, "flow").where(**where)
    t1 = runs["run_id"].map(t.ends("t1", "flow").by_run)
    rows = runs.rows.assign(u=runs["time"] / t1)
    return Runs(rows[rows["u"] > 0])


def on_grid(runs: Runs) -> Runs:
    """The runs' values at common u, between looks, as long as all of them go on."""
    grid, found = np.geomspace(0.01, 10, 49), []
    last = runs.rows.groupby("run_id")["u"].max().min()
    for _, rows in runs.rows.groupby("run_id"):
        rows = rows.sort_values("u")
        at = grid[grid <= last]
        values = np.interp(np.log(at), np.log(rows["u"]), rows["value"])
        found.append(pd.DataFrame({"u": at, "value": values, "seed": rows["seed"].iloc[0]}))
    return Runs(pd.concat(found))


def flows(t: Table) -> Figure:
    """Alignment, dotted where the loss has fallen by a tenth, and the change of the kernel, against
    t / t1."""
    fig, (left, right) = draw.panels(2, height=4.0)
    scales = sorted(t.every("kernel_change", "flow")["scaled_alpha"].unique())
    t1 = t.ends("t1", "flow").by_run
    for ax, label in ((left, "alignment"), (right, "change of the kernel")):
        ax.set(xscale="log", xlabel="$t / t_1$", ylabel=label, xlim=(0.01, 10))
        ax.axvline(1, **draw.MARK)
    for place, scale in enumerate(scales):
        name = rf"$\sqrt{{h}}\alpha = {scale:g}$"
        aligned = on_grid(in_units_of_t1(t, "alignment", scaled_alpha=scale))
        draw.band(left, aligned, "u", place, name, ms=0)
        ways = with_loss(t, "flow", scaled_alpha=scale).groupby("run_id")
        dots = [(fallen(way)[0] / t1[run], fallen(way)[1]) for run, way in ways]
        when, then = np.array(dots).T
        left.plot(np.exp(np.log(when).mean()), then.mean(), "o", color=draw.PALETTE[place], ms=8,
                  mec="k", zorder=4)  # fmt: skip
        change = in_units_of_t1(t, "kernel_change", scaled_alpha=scale)
        draw.paths(right, change, "u", place, name, lw=0.9, alpha=0.7)
    right.set(yscale="log", ylim=(1e-4, None))
    right.legend(loc="upper left")
    return fig
