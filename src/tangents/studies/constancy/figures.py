"""The figures of the chapter on the constancy of the kernel, each a function of published rows."""

import pandas as pd
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import INF, Runs, Table
from tangents.lab.statistics import powers
from tangents.studies.constancy import claims
from tangents.studies.constancy.claims import DEEP, LINEAR, SHALLOW, TANH, known

WIDTH, OUTER = "width $m$", "outer width $m$"
KERNEL = r"largest kernel change $\|\Delta K\|/\|K_0\|$"
HESSIAN = r"Hessian norm $\|H\|$"
RATE = r"step (units of $n/\lambda_{\max}(K_0)$)"
GREY = dict(color="0.4", ls="-.")
SMALL = dict(fontsize=8.5, title_fontsize=8.5)
COLOURS = {"linear": 0, "tanh": 1, "sigmoid": 2, "swish": 3, "softmax": 4}
LINES = {1: "-", 3: "--"}  # hidden layers


def three():
    """Three panels in two rows, so that they stay legible on a narrow page."""
    fig, axes = draw.panels(2, rows=2, height=3.3)
    axes[3].remove()
    return fig, axes[:3]


def over_width(ax, runs: Runs, ylabel: str, xlabel=WIDTH, by="head", label="{}", every=2, **line):
    """A panel of values against the width, a band for each head or value of another field."""
    draw.loglog(ax, xlabel, ylabel)
    draw.label_widths(ax, runs["width"], every)
    for place, (value, group) in enumerate(draw.groups(runs, by)):
        place = COLOURS.get(value, place)
        drawn = draw.band(ax, group, "width", place, label.format(value), **line)
    return drawn


def head_term(ax, runs: Runs) -> None:
    """What a head's own curvature adds to the Hessian."""
    label = r"the head's $|\varphi''|\,\|\nabla f\|^2$"
    draw.band(ax, runs, "width", 5, label, marker="", **GREY)


def headline(t: Table) -> Figure:
    """The same movement of the weights, and a very different change of the kernel."""
    fig, (left, right) = draw.panels(2)
    radius, kernel = (t.ends(metric, "head") for metric in ("radius", "kernel_largest"))
    moved = r"movement of the weights $\|w-w_0\|$"
    for ax, runs, ylabel in ((left, radius, moved), (right, kernel, KERNEL)):
        for depth, group in draw.groups(runs, "depth"):
            label, ls = f"{{}}, {depth} hidden", LINES.get(depth, ":")
            over_width(ax, group, ylabel, label=label, ls=ls)
        draw.label_widths(ax, runs["width"], 2)
    left.set_ylim(1, 30)
    at, start = draw.origin(kernel.where(**LINEAR, **SHALLOW), "width")
    draw.guide(right, at, 0.5 * start.mean(), -1, "$1/m$", ls=":")
    draw.guide(right, at, 0.5 * start.mean(), -0.5, r"$1/\sqrt{m}$", ls=":")
    bound = claims.allowed(t).where(**SHALLOW)
    draw.band(right, bound, "width", 5, "bound, linear, 1 hidden", **GREY)
    right.legend(fontsize=8)
    return fig


def hessians(t: Table) -> Figure:
    """The Hessian at the start, in the ball, after training; by head and depth."""
    fig, axes = draw.panels(2, rows=2, height=3.4)
    networks = [(head, depth) for head in ("linear", "tanh") for depth in LINES]
    for ax, (head, depth) in zip(axes, networks, strict=True):
        ax.set_title(f"{head} head, {depth} hidden layer{'s' * (depth > 1)}", fontsize=11)
        hessian(ax, t, head=head, depth=depth)
    axes[2].legend(fontsize=8.5, loc="lower left")
    return fig


def hessian(ax, t: Table, head: str, depth: int) -> None:
    """A panel of the Hessian of these networks, with a guide or with what the head adds."""
    places = {
        "hessian": "at the start",
        "hessian_trained": "after training",
        "hessian_random": "random point of the ball",
        "hessian_steepest": "steepest ascent in the ball",
    }
    draw.loglog(ax, WIDTH, HESSIAN)
    for place, (metric, label) in enumerate(places.items()):
        runs = known(t, metric, "head").where(head=head, depth=depth)
        draw.band(ax, runs, "width", place, label)
    runs = t.starts("hessian", "head").where(head=head, depth=depth)
    draw.label_widths(ax, runs["width"], 2)
    ax.set_ylim(0.02, 5)
    if head == "linear":
        at, start = draw.origin(runs, "width")
        draw.guide(ax, at, 0.4 * start.mean(), -0.5, "slope $-1/2$", ls=":")
        text = f"at the start: exponent {draw.plus_minus(runs.exponent('width'))}"
        ax.annotate(text, (0.97, 0.95), xycoords="axes fraction", ha="right", va="top")
    else:
        head_term(ax, t.starts("head_curvature", "head").where(head=head, depth=depth))


def mechanism(t: Table) -> Figure:
    """What each unit is worth: two-norm and largest entry of df/da_l by layer."""
    fig, (two, largest, narrow) = three()
    signal = r"\|\partial f/\partial a_l\|"
    norms = {"two": f"${signal}_2$", "inf": rf"${signal}_\infty$"}
    for ax, kind in ((two, "two"), (largest, "inf")):
        draw.loglog(ax, WIDTH, norms[kind])
        for layer in (1, 2, 3):
            runs = t.starts(f"signal_{kind}_{layer}", "head").where(**LINEAR, **DEEP)
            fit = draw.plus_minus(runs.exponent("width"))
            draw.band(ax, runs, "width", layer - 1, f"layer {layer}: {fit}")
        draw.label_widths(ax, runs["width"], 2)
        ax.legend(title="exponent of $m$", **SMALL)
    draw.guide(largest, [32, 1024], 0.16, -0.5, r"$1/\sqrt{m}$", ls=":")
    two.set_ylim(0.1, 10)
    runs = t.starts("signal_inf_2", "bottleneck")
    over_width(narrow, runs, norms["inf"] + ", with a bottleneck", OUTER, "bottleneck")
    narrow.legend(title="units in layer 2", fontsize=8.5, ncols=2)
    return fig


def linearisation(t: Table) -> Figure:
    """The linear model's error by distance, and by width."""
    fig, (left, right) = draw.panels(2)
    draw.loglog(left, r"distance $r=\|w-w_0\|$", "$|f - f_{lin}|$")
    draw.loglog(right, WIDTH, "$|f - f_{lin}|$ at distance 4")
    names = {"top": "top eigenvector", "random": "random direction"}
    for place, (direction, name) in enumerate(names.items()):
        runs = t.starts(f"linear_error_{direction}_4", "head").where(**LINEAR, **SHALLOW)
        label = f"{name}: {draw.plus_minus(runs.exponent('width'))}"
        at, mean = draw.band(right, runs, "width", place, label)
        draw.guide(right, at, 0.3 * mean[0], -0.5, "slope $-1/2$", ls=":")
        draw.label_widths(right, at, 2)
        runs = claims.linear_errors(t, direction, **LINEAR, **SHALLOW).largest()
        label = f"{name}: {draw.plus_minus(runs.exponent('r'))}"
        at, mean = draw.band(left, runs, "r", place, label)
        draw.guide(left, at, 0.3 * mean[0], 2, "slope 2", ls=":")
    draw.label_ticks(left, [0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
    left.legend(loc="upper left", title="exponent of $r$", **SMALL)
    right.legend(title="exponent of $m$", **SMALL)
    return fig


def breaking(t: Table) -> Figure:
    """Three ways to break constancy: a head, a bottleneck, large steps."""
    fig, (head, bottleneck, step) = three()
    parts = [t.ends("kernel_largest", part).where(**SHALLOW).rows for part in ("head", "heads")]
    over_width(head, Runs(pd.concat(parts)), KERNEL)
    head.set_ylim(3e-4, 20)
    head.legend(fontsize=8.5, title="head", ncols=2)
    over_width(bottleneck, t.ends("kernel_largest", "bottleneck"), KERNEL, OUTER, "bottleneck")
    none = t.ends("kernel_largest", "head").where(**LINEAR, **DEEP, width=(32, 512))
    draw.band(bottleneck, none, "width", 5, "none", color="0.4")
    bottleneck.legend(fontsize=8.5, title="bottleneck")
    step.set(yscale="log", xlabel=RATE, ylabel=KERNEL)
    draw.bands(step, t.ends("kernel_largest", "catapult"), "rate", "width", "$m={}$".format)
    step.axvline(2, **draw.MARK)
    step.legend(fontsize=8.5)
    return fig


def convergence(t: Table, width: int = 512) -> Figure:
    """Loss, smallest eigenvalue and PL ratio along training, one line a network."""
    fig, axes = three()
    names = {
        "loss": "loss",
        "eigenvalue_min": r"$\lambda_{\min}(K_t)/n$",
        "pl_ratio": r"$\|\nabla\mathcal{L}\|^2/2\mathcal{L}$",
    }
    for ax, (metric, label) in zip(axes, names.items(), strict=True):
        draw.loglog(ax, "time $t$ (steps times step size)", label)
        runs = t.every(metric, "head").where(**SHALLOW, width=width)
        for head, group in draw.groups(runs, "head"):
            draw.paths(ax, group, "time", COLOURS[head], head, lw=0.9)
    axes[0].set_xscale("linear")
    axes[0].legend(title="head")
    return fig


def plane(t: Table) -> Figure:
    """Kernel change over scale and width: random signs of the read-out, and equal ones."""
    fig, axes = draw.panels(2)
    runs = t.ends("kernel_largest", "plane")
    runs = runs.map(runs["value"] * runs["alpha"])
    for ax, positive in zip(axes, (False, True), strict=True):
        signed, label = runs.where(positive=positive), r"$\alpha={:g}$"
        ylabel = r"$\alpha\,\|\Delta K\|/\|K_0\|$"
        at, mean = over_width(ax, signed, ylabel, by="alpha", label=label)
        draw.guide(ax, at, 0.45 * mean[0], -1, "$1/m$")
        draw.guide(ax, at, 1.8 * mean[0], -0.5, r"$1/\sqrt{m}$", ls=":")
        fit = claims.plane(t, positive).by_seed(
            lambda rows: powers(rows["value"], alpha=rows["alpha"], width=rows["width"])["width"]
        )
        signs = "all positive" if positive else "both signs"
        title = f"read-out: {signs}\nexponent {draw.plus_minus(fit)}"
        ax.legend(loc="lower left", title=title, **SMALL)
    return fig


def catapult(t: Table) -> Figure:
    """Above the critical step: the loss rises first, and the end is flatter than the start."""
    fig, (left, right) = draw.panels(2)
    wide = t.every("loss", "catapult").largest()
    left.set(yscale="log", xscale="symlog", xlabel="step", ylabel="loss")
    places = {0.5: 0, 1.5: 2, 2.5: 1, 3.5: 4}
    for rate, group in draw.groups(Runs(wide.rows[wide["rate"].isin(places)]), "rate"):
        ls = "-" if rate > 2 else "--"
        draw.paths(left, group, "step", places[rate], f"{rate:g}", lw=0.9, ls=ls)
    left.legend(title="step size")
    draw.bands(right, t.ends("sharpness", "catapult"), "rate", "width", "$m={}$".format)
    right.plot([0, 3.5], [0, 3.5], color="0.5", lw=1, ls="--")
    right.axhline(2, **draw.MARK)
    right.set(xlabel=RATE, ylabel=r"at the end: step $\times\,\lambda_{\max}(K_T)/n$")
    right.legend()
    return fig


def elsewhere(t: Table) -> Figure:
    """MNIST by width and by bottleneck; other activations; residual, convolutional networks."""
    fig, axes = draw.panels(2, rows=3, height=3.3)
    mnist, deep = t.ends("kernel_largest", "mnist"), "MNIST, three hidden layers"
    conv, channels = "MNIST, convolutional", "channels"
    for ax, title, runs, ylabel, xlabel in (
        (axes[0], deep, mnist.where(bottleneck=0), KERNEL, WIDTH),
        (axes[3], conv, t.starts("hessian", "conv"), HESSIAN, channels),
        (axes[4], conv, t.ends("kernel_largest", "conv"), KERNEL, channels),
        (axes[5], deep, t.starts("hessian", "images"), HESSIAN, WIDTH),
    ):
        over_width(ax, runs, ylabel, xlabel, every=1)
        ax.set_title(title, fontsize=11)
    head_term(axes[5], t.starts("head_curvature", "images"))
    axes[5].set_ylim(0.03, 0.8)
    for ax in axes[[0, 3, 4, 5]]:
        ax.legend(title="head")
    narrow = mnist.where(bottleneck=(1, INF))
    draw.loglog(axes[1], "width of the middle layer", KERNEL)
    at, _ = draw.band(axes[1], narrow, "bottleneck", 0, "linear")
    draw.label_widths(axes[1], at)
    axes[1].set_title(f"MNIST, outer width {narrow['width'].max()}", fontsize=11)
    other_networks(axes[2], t)
    return fig


def other_networks(ax, t: Table) -> None:
    """A panel of the kernel change with other activations, and of residual networks, by head."""
    draw.loglog(ax, WIDTH, KERNEL)
    series = (
        ("relu", SHALLOW, "ReLU, 1 hidden"),
        ("softplus", DEEP, "softplus, 3"),
        ("resnet", DEEP, "residual, 3"),
    )
    for place, (part, depth, name) in enumerate(series):
        runs = t.ends("kernel_largest", part).where(**depth)
        draw.band(ax, runs.where(**LINEAR), "width", place, name)
        draw.band(ax, runs.where(**TANH), "width", place, None, ls="--")
    draw.label_widths(ax, [32, 128, 512, 2048])
    ax.set_ylim(1e-3, 5)
    title = "linear (solid), tanh (dashed)"
    ax.legend(fontsize=8, title=title, title_fontsize=8, loc="lower left")
