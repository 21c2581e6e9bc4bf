"""The figures of the chapter on the constancy of the kernel, each a function of published rows."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Runs, Table
from tangents.studies.constancy import predictions
from tangents.studies.constancy.claims import (
    IMAGES,
    LINEAR,
    MNIST,
    ONE,
    SHALLOW,
    THREE,
    known,
)

WIDTH, OUTER = "width $m$", "width $m$ of the other layers"
KERNEL = r"$\max_t \|K_t - K_0\| / \|K_0\|$"
RATE = r"step (units of $n/\lambda_{\max}(K_0)$)"
COLOURS = {"linear": 0, "tanh": 1, "sigmoid": 2, "softmax": 4}
PREDICTED = dict(color="0.15", marker="", ls=":", lw=1.6)
ACROSS = 3.75  # inches
SIZE = dict(fontsize=9.5, title_fontsize=9.5)


def column(rows: int, height: float = 2.8):
    """Panels one below the other, as wide as a phone shows them."""
    fig, axes = draw.panels(1, rows=rows)
    fig.set_size_inches(ACROSS, height * rows)
    return fig, axes


def over_width(ax, runs: Runs, ylabel: str, xlabel=WIDTH, by="head", label="{}", **line) -> None:
    """A panel of values against the width, a band for each value of a field."""
    draw.loglog(ax, xlabel, ylabel)
    for place, (value, group) in enumerate(draw.groups(runs, by)):
        place = COLOURS.get(value, place)
        draw.band(ax, group, "width", place, label and label.format(value), **line)
    draw.label_widths(ax, runs["width"], 2)


def plain(ax, *ticks: float) -> None:
    """These ticks alone on the y axis, as plain numbers."""
    ax.set_yticks(ticks, map("{:g}".format, ticks))
    ax.tick_params(axis="y", which="minor", labelleft=False)


def predicted(ax, law, runs: Runs, label: str) -> None:
    """A law without parameter, at the widths of these runs."""
    at = np.unique(runs["width"])
    ax.plot(at, [law(int(m)) for m in at], label=label, zorder=5, **PREDICTED)


def headline(t: Table) -> Figure:
    """The same movement of the weights, and a very different change of the kernel."""
    fig, (moved, kernel) = column(2)
    names = {"radius": r"$\|w - w_0\|$", "kernel_largest": KERNEL}
    for ax, (metric, label) in zip((moved, kernel), names.items(), strict=True):
        over_width(ax, known(t, metric, **THREE), label, label=None, ls="--")
        over_width(ax, known(t, metric, **ONE), label, label="{} head")
    moved.set_ylim(1, 30)
    plain(moved, 1, 3, 10, 30)
    at, start = draw.origin(known(t, "kernel_largest", **ONE, **LINEAR), "width")
    draw.guide(kernel, at, 0.4 * start.mean(), -1, "$1/m$", ls=":")
    kernel.legend(**SIZE)
    return fig


def hessians(t: Table) -> Figure:
    """The Hessian by head, and what a unit is worth, beside what independent draws say."""
    fig, axes = column(3)
    for ax, part, depth in ((axes[0], ONE, "one hidden layer"), (axes[1], THREE, "three")):
        over_width(ax, known(t, "hessian", **part), r"$\|H\|$, " + depth, label="{} head")
        added = known(t, "head_curvature", **part, head="tanh")
        draw.band(ax, added, "width", 5, r"$|\varphi''| \|\nabla f\|^2$", color="0.5", marker="")
        ax.set_ylim(0.025, 1)
        plain(ax, 0.05, 0.1, 0.2, 0.5, 1)
    runs = known(t, "hessian", **ONE, **LINEAR)
    predicted(axes[0], predictions.hessian_norm, runs, "predicted")
    axes[0].legend(loc="lower left", **SIZE)
    draw.loglog(axes[2], WIDTH, r"largest entry of $\partial f/\partial a_2$ / norm")
    for place, (when, label) in enumerate({"": "start", "_trained": "trained"}.items()):
        largest, two = (known(t, f"signal_{kind}_2{when}", **THREE, **LINEAR)
                        for kind in ("inf", "two"))  # fmt: skip
        draw.band(axes[2], largest / two, "width", 3 * place, label)
    predicted(axes[2], predictions.largest_share, largest, "predicted")
    draw.label_widths(axes[2], largest["width"])
    plain(axes[2], 0.1, 0.2, 0.4)
    axes[2].legend(**SIZE)
    return fig


def matrices(t: Table) -> Figure:
    """Kernels before and after training by head, and after it without the head's slopes."""
    fig, axes = draw.panels(2, rows=2)
    fig.set_size_inches(ACROSS, 4.2)
    for head, (before, after) in zip(("linear", "tanh"), (axes[:2], axes[2:]), strict=True):
        run = known(t, "kernel_largest", **ONE, head=head).largest()["run_id"].iloc[0]
        k0, k = (t.array(run, name) for name in ("kernel0", "kernel"))
        top = max(abs(k0).max(), abs(k).max())
        cosine = (k0 * k).sum() / np.sqrt((k0**2).sum() * (k**2).sum())
        for ax, kernel, when in ((before, k0, "before"), (after, k, "after")):
            ax.imshow(kernel, cmap="RdBu_r", vmin=-top, vmax=top)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.set_title("", loc="left")
            ax.set_title(f"{head}, {when}", fontsize=9.5)
        after.set_xlabel(f"cosine {cosine:.2f}, norm × {np.sqrt((k**2).sum() / (k0**2).sum()):.2f}",
                         fontsize=9.5)  # fmt: skip
    return fig


def breaking(t: Table) -> Figure:
    """Three ways to break constancy: a head, a bottleneck, large steps."""
    fig, (head, bottleneck, step) = column(3)
    parts = [t.ends("kernel_largest", part).where(**SHALLOW).rows for part in ("head", "heads")]
    over_width(head, Runs(pd.concat(parts)), KERNEL)
    head.set_ylim(4e-4, 3)
    head.legend(title="head", ncols=2, loc="lower left", **SIZE)
    over_width(bottleneck, t.ends("kernel_largest", "bottleneck"), KERNEL, OUTER, "bottleneck")
    none = known(t, "kernel_largest", **THREE, **LINEAR)
    draw.band(bottleneck, none, "width", 5, "none", color="0.4")
    draw.label_widths(bottleneck, [64, 512, 4096])
    bottleneck.set_ylim(0.006, 12)
    bottleneck.legend(title="units of the narrow layer", ncols=3, loc="lower right", **SIZE)
    runs = t.ends("kernel_largest", "catapult")
    step.set(yscale="log", xlabel=RATE, ylabel=KERNEL)
    draw.bands(step, runs.where(width=128), "rate", "width", "$m={}$".format)
    draw.band(step, runs.largest(), "rate", 2, f"$m={runs['width'].max()}$")
    step.axvline(2, **draw.MARK)
    step.legend(**SIZE)
    return fig


def undone(t: Table) -> Figure:
    """The tanh head's kernel, the same with the head undone, and that of a linear head."""
    fig, (ax,) = column(1, 3.2)
    draw.loglog(ax, WIDTH, KERNEL)
    tanh = dict(**ONE, head="tanh")
    draw.band(ax, known(t, "kernel_largest", **tanh), "width", 1, "tanh head")
    draw.band(ax, known(t, "inside_largest", **tanh), "width", 1, "tanh, undone", ls="--", mfc="w")
    draw.band(ax, runs := known(t, "kernel_largest", **ONE, **LINEAR), "width", 0, "linear head")
    draw.label_widths(ax, runs["width"], 2)
    ax.legend(**SIZE)
    return fig


def linearisation(t: Table) -> Figure:
    """The linear model's error at distance 4, by direction, beside what independent draws say."""
    fig, (ax,) = column(1, 3.2)
    draw.loglog(ax, WIDTH, r"$|f - f_{lin}|$ at distance 4")
    for place, (name, label) in enumerate(
        {"top": "top eigenvector", "random": "random direction"}.items()
    ):
        runs = known(t, f"linear_error_{name}_4", **ONE, **LINEAR)
        draw.band(ax, runs, "width", place, label)
    predicted(ax, lambda m: predictions.random_error(m, 4.0), runs, "predicted (mean)")
    draw.label_widths(ax, runs["width"], 2)
    ax.legend(**SIZE)
    return fig


def catapult(t: Table) -> Figure:
    """Above the critical step: the loss rises first, and wide networks go farther."""
    fig, (loss, radius) = column(2)
    wide = t.every("loss", "catapult").largest()
    loss.set(yscale="log", xscale="symlog", xlabel="step of training", ylabel="loss")
    places = {0.5: 0, 1.5: 2, 2.5: 1, 3.5: 4}
    for rate, group in draw.groups(Runs(wide.rows[wide["rate"].isin(places)]), "rate"):
        ls = "-" if rate > 2 else "--"
        draw.paths(loss, group, "step", places[rate], f"{rate:g}", lw=0.9, ls=ls)
    loss.legend(title="step size", **SIZE)
    runs = t.ends("radius", "catapult")
    runs = Runs(runs.rows[runs["rate"].isin(places)])
    over_width(radius, runs, r"$\|w - w_0\|$", by="rate", label="{:g}")
    scale = runs.largest().where(rate=3.5)["value"].mean() * predictions.hessian_norm(
        int(runs["width"].max())
    )
    predicted(radius, lambda m: 1.25 * scale / predictions.hessian_norm(m), runs, r"$1/\|H\|$")
    radius.set_ylim(5, 300)
    plain(radius, 5, 10, 30, 100)
    radius.legend(ncols=2, loc="upper left", **SIZE)
    return fig


def plane(t: Table) -> Figure:
    """Kernel change over scale and width: random signs of the read-out, and equal ones."""
    fig, axes = column(2)
    runs = t.ends("kernel_largest", "plane")
    runs = runs.map(runs["value"] * runs["alpha"])
    for ax, positive, law in ((axes[0], False, -1), (axes[1], True, -0.5)):
        signed = runs.where(positive=positive)
        words = "one sign" if positive else "both signs"
        over_width(ax, signed, r"$\alpha \times$ change of $K$, " + words, by="alpha", label="{:g}")
        at, start = draw.origin(signed.where(alpha=4), "width")
        draw.guide(ax, at, 0.4 * start.mean(), law, "$1/m$" if law == -1 else r"$1/\sqrt{m}$")
    plain(axes[1], 0.03, 0.1, 0.3)
    axes[0].legend(title=r"scale $\alpha$", ncols=2, **SIZE)
    return fig


def elsewhere(t: Table) -> Figure:
    """MNIST, by head; other networks with a linear head."""
    fig, (mnist, other) = column(2)
    over_width(mnist, known(t, "kernel_largest", **MNIST), KERNEL, label="{} head")
    over = known(t, "hessian", **IMAGES)
    over_width(mnist, over, r"change of $K$, and $\|H\|$", label=None, ls="--", mfc="w")
    draw.label_widths(mnist, [32, 64, 128, 256, 512])
    mnist.set_ylim(0.02, 1.2)
    plain(mnist, 0.03, 0.1, 0.3, 1)
    mnist.legend(loc="lower left", **SIZE)
    draw.loglog(other, "width, or channels", KERNEL)
    series = {"relu": "ReLU", "resnet": "residual", "conv": "convolutional"}
    for place, (part, name) in enumerate(series.items()):
        draw.band(other, t.ends("kernel_largest", part), "width", place + 2, name)
    draw.label_widths(other, [4, 16, 64, 256, 1024])
    other.legend(**SIZE)
    return fig
