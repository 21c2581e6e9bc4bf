"""The figures of the chapter on orthogonal weights, each a function of published rows."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tangents.lab import figures as draw
from tangents.lab.evidence import Runs, Table
from tangents.studies.orthogonal.claims import KINDS, NETS, gains, steps

DEPTH, WIDTH = "hidden layers $L$", "width $N$"
GAIN = "steps, Gaussian / orthogonal"


def three():
    """Two panels above one, so that they are legible."""
    fig, (*axes, last) = draw.panels(2, rows=2, height=3.4)
    last.remove()
    return fig, axes


def both(ax, runs: Runs, x: str, **line) -> None:
    """A band for each kind of weights."""
    for place, (kind, words) in enumerate(KINDS.items()):
        draw.band(ax, runs.where(weights=kind), x, place, words, **line)
    draw.label_widths(ax, runs[x])


def plain(ax, label: str) -> None:
    """A logarithmic y axis with plain numbers."""
    ax.set(yscale="log", ylabel=label)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")


def gain_axis(ax) -> None:
    """An axis of gains, with a line where there is none."""
    plain(ax, GAIN)
    ax.axhline(1, **draw.MARK)


def by_rate(ax, runs: Runs, x: str) -> None:
    """The gain against x, a band for each rate; without sizes at which neither kind of weights got
    there in time with any seed, where all ratios are one."""
    cells = runs.rows.groupby([x, "rate"])["value"]
    runs = Runs(runs.rows[cells.transform(lambda values: (values != 1).any())])
    gain_axis(ax)
    ax.set(xscale="log")
    draw.bands(ax, runs, x, "rate", lambda rate: rf"rate {rate:g}")
    draw.label_widths(ax, runs[x])
    ax.legend()


def headline(t: Table) -> Figure:
    """While lazy both take as many steps; deep and near linearity they do not."""
    fig, (left, right) = draw.panels(2)
    left.set(xscale="log", xlabel=WIDTH, ylabel="steps / steps of infinite width")
    run, limit = t.ends("steps", "lazy"), t.ends("steps_limit", "lazy")
    both(left, run / limit, "width")
    left.axhline(1, **draw.MARK)
    left.legend()
    right.set_xlabel(DEPTH)
    by_rate(right, gains(t, "depth", rate=(0.01, 0.03)), "depth")
    return fig


def limits(t: Table) -> Figure:
    """Distance to the closed form against the width, for each architecture."""
    fig, axes = three()
    for ax, (words, fields) in zip(axes, NETS.values(), strict=True):
        runs = t.starts("kernel_error", "limit").where(**fields)
        draw.loglog(ax, WIDTH if fields["network"] == "fc" else "channels",
                    r"$\|\Theta-\Theta_\infty\|\,/\,\|\Theta_\infty\|$")  # fmt: skip
        ax.set_title(words, fontsize=11)
        both(ax, runs, "width")
        ends, first = draw.origin(runs.where(weights="gaussian"), "width")
        draw.guide(ax, ends, np.exp(np.log(first).mean()), -0.5, "$N^{-1/2}$")
    axes[0].legend()
    return fig


def training(t: Table) -> Figure:
    """What changes in training while lazy: the kernel, and the layers."""
    fig, (left, right) = draw.panels(2)
    draw.loglog(left, WIDTH, "change of the kernel in training")
    runs = t.ends("kernel_change", "lazy")
    both(left, runs, "width")
    left.legend()
    draw.loglog(right, WIDTH, r"$\|W-W_0\|\,/\,\|W_0\|$, orthogonal")
    for place, (layer, words) in enumerate(
        dict(first="first layer", middle="middle layers", last="read-out").items()
    ):
        moved = t.ends(f"moved_{layer}", "lazy").where(weights="orthogonal")
        draw.band(right, moved, "width", place + 2, words)
    draw.label_widths(right, moved["width"])
    right.legend()
    return fig


def speed(t: Table) -> Figure:
    """Who is at the goal when, and the gain against depth, width and rate."""
    fig, axes = draw.panels(2, rows=2, height=3.4)
    survival(axes[0], t)
    deep = gains(t, "depth", depth=50)
    gain_axis(axes[1])
    axes[1].set(xscale="log", xlabel=r"learning rate $\eta$")
    draw.band(axes[1], deep, "rate", 0, "MNIST")
    draw.band(axes[1], gains(t, "cifar"), "rate", 1, "CIFAR-10")
    draw.label_ticks(axes[1], rates := sorted(deep["rate"].unique()), map("{:g}".format, rates))
    axes[1].legend()
    axes[2].set_xlabel(DEPTH)
    by_rate(axes[2], gains(t, "depth"), "depth")
    axes[3].set_xlabel(WIDTH)
    by_rate(axes[3], gains(t, "width"), "width")
    return fig


def survival(ax, t: Table) -> None:
    """Share of the trainings of each kind that are not yet at their goal, all censored at once, so
    that Kaplan and Meier's estimate is the plain share."""
    runs = steps(t, "depth").where(depth=(50, 100))
    ax.set(xscale="log", xlabel="steps of SGD", ylabel="share not yet at the goal")
    for place, (kind, words) in enumerate(KINDS.items()):
        found = t.every("steps", "depth").where(depth=(50, 100), weights=kind)["value"]
        at = np.sort(found[np.isfinite(found)])
        left = 1 - np.arange(1, len(at) + 1) / len(found)
        ends = [1, *at, runs["max_steps"].max()]
        line = dict(draw.look(place), marker="")
        ax.step(ends, [1, *left, left[-1] if len(left) else 1], where="post", label=words, **line)
    ax.set_ylim(0, 1.02)
    ax.legend()


def regime(t: Table) -> Figure:
    """The gain farther from linearity; singular values; how far the kernel is from its start."""
    fig, axes = three()
    found = {"linear": gains(t, "linear"), "1.05": gains(t, "depth", depth=50)}
    for v in sorted(t.every("steps", "regime")["variance"].unique()):
        found[f"{v:g}"] = gains(t, "regime", variance=v)
    means = [runs.where(rate=(0, 0.03)).mean(log=True) for runs in found.values()]
    gain_axis(axes[0])
    axes[0].set(xlabel=r"variance of the weights $\sigma_w^2$")
    draw.bars(axes[0], range(len(found)), means, 0, ls="")
    draw.label_ticks(axes[0], range(len(found)), found)
    largest, rms = (t.starts(f"singular_{name}", "depth") for name in ("largest", "rms"))
    axes[1].set(xscale="log", xlabel=DEPTH)
    plain(axes[1], "largest singular value / rms")
    both(axes[1], largest / rms, "depth")
    axes[1].legend()
    axes[2].set(xscale="log", xlabel=DEPTH)
    plain(axes[2], "change of the kernel at the goal")
    both(axes[2], t.ends("kernel_change", "depth"), "depth")
    return fig


def theirs(t: Table) -> Figure:
    """Steps to the goal, and the gain, at the paper's own sizes on CIFAR-10."""
    fig, (left, right) = draw.panels(2)
    rate = dict(xscale="log", xlabel=r"learning rate $\eta$")
    where = dict(depth=50, width=400)
    left.set(yscale="log", ylabel="steps to an accuracy of 25 %", **rate)
    both(left, runs := steps(t, "cifar").where(**where), "rate")
    draw.label_ticks(left, rates := sorted(runs["rate"].unique()), map("{:g}".format, rates))
    left.legend()
    gain_axis(right)
    right.set(**rate)
    draw.band(right, gains(t, "cifar", **where), "rate", 1, None)
    draw.label_ticks(right, rates, map("{:g}".format, rates))
    return fig
