"""The figures of the chapter on the constancy of the kernel, each a function of published rows."""

import pandas as pd
from matplotlib.figure import Figure

from tangents.experiments.constancy_checks import allowed, known, linear_errors, plane_fit
from tangents.figures import PALETTE, band, fitted, guide, label_widths, panels, plus_minus
from tangents.statistics import finals, initial, over_seeds, pick

WIDTH = "width $m$"
KERNEL = r"largest kernel change $\|\Delta K\|/\|K_0\|$"
HESSIAN = r"Hessian norm $\|H\|$"
HEAD_TERM = r"the head's $|\varphi''|\,\|\nabla f\|^2$"
GREY = dict(color="0.4", ls="-.", marker="")
COLOURS = {"linear": 0, "tanh": 1, "sigmoid": 2, "swish": 3, "softmax": 4}
LINES = {1: "-", 3: "--"}  # hidden layers


def axes_over_width(ax, ylabel: str, xlabel: str = WIDTH) -> None:
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)


def widths(ax, rows: pd.DataFrame, every: int = 2) -> None:
    """Ticks at every so many of the widths measured, the largest among them."""
    label_widths(ax, sorted(rows["width"].unique())[::-1][::every][::-1])


def three():
    """Three panels in two rows, so that they stay legible on a narrow page."""
    fig, axes = panels(2, rows=2, height=3.3)
    axes[3].remove()
    return fig, axes[:3]


def by_head(ax, rows: pd.DataFrame, label: str = "{head}", **line) -> None:
    for head, group in rows.groupby("head"):
        band(ax, group, "width", COLOURS[head], label.format(head=head), **line)


def headline(frame: pd.DataFrame) -> Figure:
    """The same movement of the weights, and a very different change of the kernel."""
    fig, (left, right) = panels(2)
    axes_over_width(left, r"movement of the weights $\|w-w_0\|$")
    axes_over_width(right, KERNEL)
    for depth, style in LINES.items():
        for ax, metric in ((left, "radius"), (right, "kernel_largest")):
            rows = pick(finals(frame, "head", metric), depth=depth)
            by_head(ax, rows, f"{{head}}, {depth} hidden", ls=style)
            widths(ax, finals(frame, "head", metric))
    left.set_ylim(1, 30)
    start = pick(finals(frame, "head", "kernel_largest"), depth=1, head="linear")
    at = sorted(start["width"].unique())
    first = start[start["width"] == at[0]]["value"].mean()
    guide(right, [at[0], at[-1]], 0.5 * first, -1, "$1/m$", ls=":")
    guide(right, [at[0], at[-1]], 0.5 * first, -0.5, r"$1/\sqrt{m}$", ls=":")
    bound = pick(allowed(frame), depth=1)
    band(right, bound, "width", 5, "bound, linear, 1 hidden", color="0.4", ls="-.")
    right.legend(fontsize=8)
    return fig


def hessians(frame: pd.DataFrame) -> Figure:
    """The Hessian at the start, in the ball, after training; by head and depth."""
    fig, axes = panels(2, rows=2, height=3.4)
    places = {
        "hessian": "at the start",
        "hessian_trained": "after training",
        "hessian_random": "random point of the ball",
        "hessian_steepest": "steepest ascent in the ball",
    }
    for k, (head, depth) in enumerate((h, d) for h in ("linear", "tanh") for d in LINES):
        ax, where = axes[k], dict(depth=depth, head=head)
        axes_over_width(ax, HESSIAN)
        ax.set_title(f"{head} head, {depth} hidden layer{'s' * (depth > 1)}", fontsize=11)
        for place, (metric, label) in enumerate(places.items()):
            band(ax, pick(known(metric)(frame, "head", metric), **where), "width", place, label)
        rows = pick(initial(frame, "head", "hessian"), **where)
        widths(ax, rows)
        ax.set_ylim(0.02, 5)
        if head == "linear":
            start = rows.groupby("width")["value"].mean()
            ends = [start.index[0], start.index[-1]]
            guide(ax, ends, 0.4 * start.iloc[0], -0.5, "slope $-1/2$", ls=":")
            text = f"at the start: exponent {fitted(rows, 'width', ('depth',))}"
            ax.annotate(text, (0.97, 0.95), xycoords="axes fraction", ha="right", va="top")
        else:
            added = pick(initial(frame, "head", "head_curvature"), **where)
            band(ax, added, "width", 5, HEAD_TERM, **GREY)
    axes[2].legend(fontsize=8.5, loc="lower left")
    return fig


def mechanism(frame: pd.DataFrame) -> Figure:
    """What each unit is worth: two-norm and largest entry of df/da_l by layer."""
    fig, axes = three()
    names = {k: rf"$\|\partial f/\partial a_l\|_{v}$" for k, v in (("two", 2), ("inf", r"\infty"))}
    for ax, (kind, label) in zip(axes[:2], names.items(), strict=True):
        axes_over_width(ax, label)
        for layer in (1, 2, 3):
            rows = initial(frame, "head", f"signal_{kind}_{layer}")
            rows = pick(rows, depth=3, head="linear")
            fit = fitted(rows, "width", ("depth",))
            band(ax, rows, "width", layer - 1, f"layer {layer}: {fit}")
        widths(ax, rows)
        ax.legend(title="exponent of $m$", fontsize=8.5, title_fontsize=8.5)
    guide(axes[1], [32, 1024], 0.16, -0.5, r"$1/\sqrt{m}$", ls=":")
    axes[0].set_ylim(0.1, 10)
    narrow = axes[2]
    axes_over_width(narrow, names["inf"] + ", with a bottleneck", "outer width $m$")
    rows = initial(frame, "bottleneck", "signal_inf_2")
    for place, (b, group) in enumerate(rows.groupby("bottleneck")):
        band(narrow, group, "width", place, f"{b}")
    widths(narrow, group)
    narrow.legend(title="units in layer 2", fontsize=8.5, ncols=2)
    return fig


def linearisation(frame: pd.DataFrame) -> Figure:
    """The linear model's error by distance, and by width."""
    fig, (left, right) = panels(2)
    error = "$|f - f_{lin}|$"
    left.set(xscale="log", yscale="log", xlabel=r"distance $r=\|w-w_0\|$", ylabel=error)
    axes_over_width(right, error + " at distance 4")
    for place, (direction, label) in enumerate(
        (("top", "top eigenvector"), ("random", "random direction"))
    ):
        rows = linear_errors(frame, direction, head="linear", depth=1)
        wide = rows[rows["width"] == rows["width"].max()]
        fit = fitted(wide, "r", ("depth",))
        at, mean = band(left, wide, "r", place, f"{label}: {fit}")
        guide(left, at, 0.3 * mean[0], 2, "slope 2", ls=":")
        rows = rows[rows["r"] == 4]
        fit = fitted(rows, "width", ("depth",))
        at, mean = band(right, rows, "width", place, f"{label}: {fit}")
        guide(right, at, 0.3 * mean[0], -0.5, "slope $-1/2$", ls=":")
    widths(right, rows)
    left.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
    left.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    left.legend(loc="upper left", title="exponent of $r$", fontsize=8.5, title_fontsize=8.5)
    right.legend(title="exponent of $m$", fontsize=8.5, title_fontsize=8.5)
    return fig


def breaking(frame: pd.DataFrame) -> Figure:
    """Three ways to break constancy: a head, a bottleneck, large steps."""
    fig, axes = three()
    heads = [pick(finals(frame, part, "kernel_largest"), depth=1) for part in ("head", "heads")]
    heads = pd.concat(heads)
    axes_over_width(axes[0], KERNEL)
    by_head(axes[0], heads)
    widths(axes[0], heads)
    axes[0].set_ylim(3e-4, 20)
    axes[0].legend(fontsize=8.5, title="head", ncols=2)
    rows = finals(frame, "bottleneck", "kernel_largest")
    axes_over_width(axes[1], KERNEL, "outer width $m$")
    for place, (b, group) in enumerate(rows.groupby("bottleneck")):
        band(axes[1], group, "width", place, f"{b}")
    none = pick(finals(frame, "head", "kernel_largest"), depth=3, head="linear", width=(32, 512))
    band(axes[1], none, "width", 5, "none", color="0.4")
    widths(axes[1], rows)
    axes[1].legend(fontsize=8.5, title="bottleneck")
    rows = finals(frame, "catapult", "kernel_largest")
    axes[2].set(yscale="log", xlabel=r"step (units of $n/\lambda_{\max}(K_0)$)", ylabel=KERNEL)
    for place, (m, group) in enumerate(rows.groupby("width")):
        band(axes[2], group, "rate", place, f"$m={m}$")
    axes[2].axvline(2, color="0.4", lw=1, ls=":")
    axes[2].legend(fontsize=8.5)
    return fig


def convergence(frame: pd.DataFrame, width: int = 512) -> Figure:
    """Loss, smallest eigenvalue and PL ratio along training, one line a network."""
    fig, axes = three()
    names = {
        "loss": "loss",
        "eigenvalue_min": r"$\lambda_{\min}(K_t)/n$",
        "pl_ratio": r"$\|\nabla\mathcal{L}\|^2/2\mathcal{L}$",
    }
    rows = pick(frame[frame["part"] == "head"], depth=1, width=width)
    for ax, (metric, label) in zip(axes, names.items(), strict=True):
        xscale = "linear" if metric == "loss" else "log"
        ax.set(yscale="log", xscale=xscale, xlabel="time $t$ (steps times step size)", ylabel=label)
        for head, group in rows[rows["metric"] == metric].groupby("head"):
            for k, (_, g) in enumerate(group.groupby("run_id")):
                g = g.sort_values("time")
                name = head if k == 0 else None
                ax.plot(g["time"], g["value"], color=PALETTE[COLOURS[head]], lw=0.9, label=name)
    axes[0].legend(title="head")
    return fig


def plane(frame: pd.DataFrame) -> Figure:
    """Kernel change over scale and width: random signs of the read-out, and equal ones."""
    fig, axes = panels(2)
    everything = finals(frame, "plane", "kernel_largest")
    for ax, positive in zip(axes, (False, True), strict=True):
        rows = everything[everything["positive"].astype(bool) == positive]
        axes_over_width(ax, r"$\alpha\,\|\Delta K\|/\|K_0\|$")
        for place, (alpha, group) in enumerate(rows.groupby("alpha")):
            scaled = group.assign(value=group["value"] * alpha)
            at, mean = band(ax, scaled, "width", place, rf"$\alpha={alpha:g}$")
        fits = [-plane_fit(g[g["alpha"] >= 4])["width"] for _, g in rows.groupby("seed")]
        guide(ax, at, 0.45 * mean[0], -1, "$1/m$")
        guide(ax, at, 1.8 * mean[0], -0.5, r"$1/\sqrt{m}$", ls=":")
        signs = "all positive" if positive else "both signs"
        title = f"read-out: {signs}\nexponent {plus_minus(over_seeds(fits))}"
        ax.legend(loc="lower left", fontsize=8.5, title=title, title_fontsize=8.5)
        widths(ax, rows)
    return fig


def catapult(frame: pd.DataFrame) -> Figure:
    """Above the critical step: the loss rises first, and the end is flatter than the start."""
    fig, (left, right) = panels(2)
    rows = frame[frame["part"] == "catapult"]
    wide = rows[(rows["width"] == rows["width"].max()) & (rows["metric"] == "loss")]
    left.set(yscale="log", xscale="symlog", xlabel="step", ylabel="loss")
    for place, rate in zip((0, 2, 1, 4), (0.5, 1.5, 2.5, 3.5), strict=True):
        for k, (_, g) in enumerate(pick(wide, rate=rate).groupby("run_id")):
            g = g.sort_values("step")
            look = dict(label=f"{rate:g}" if k == 0 else None, ls="-" if rate > 2 else "--")
            left.plot(g["step"], g["value"], color=PALETTE[place], lw=0.9, **look)
    left.legend(title="step size")
    ends = finals(frame, "catapult", "sharpness")
    for place, (m, group) in enumerate(ends.groupby("width")):
        band(right, group, "rate", place, f"$m={m}$")
    right.plot([0, 3.5], [0, 3.5], color="0.5", lw=1, ls="--")
    right.axhline(2, color="0.4", lw=1, ls=":")
    right.set(
        xlabel=r"step (units of $n/\lambda_{\max}(K_0)$)",
        ylabel=r"at the end: step $\times\,\lambda_{\max}(K_T)/n$",
    )
    right.legend()
    return fig


def elsewhere(frame: pd.DataFrame) -> Figure:
    """MNIST by width and by bottleneck; other activations; residual, convolutional networks."""
    fig, axes = panels(2, rows=3, height=3.3)
    mnist = finals(frame, "mnist", "kernel_largest")
    axes_over_width(axes[0], KERNEL)
    by_head(axes[0], mnist[mnist["bottleneck"] == 0])
    widths(axes[0], mnist[mnist["bottleneck"] == 0], 1)
    axes[0].set_title("MNIST, three hidden layers", fontsize=11)
    axes[0].legend(title="head")
    narrow = mnist[mnist["bottleneck"] > 0]
    axes_over_width(axes[1], KERNEL, "width of the middle layer")
    at, _ = band(axes[1], narrow, "bottleneck", 0, "linear")
    label_widths(axes[1], at)
    outer = narrow["width"].max()
    axes[1].set_title(f"MNIST, outer width {outer}", fontsize=11)
    axes_over_width(axes[2], KERNEL)
    series = (
        ("relu", 1, "ReLU, 1 hidden"),
        ("softplus", 3, "softplus, 3"),
        ("resnet", 3, "residual, 3"),
    )
    for place, (part, depth, name) in enumerate(series):
        for head, style in (("linear", "-"), ("tanh", "--")):
            rows = pick(finals(frame, part, "kernel_largest"), head=head, depth=depth)
            band(axes[2], rows, "width", place, name if style == "-" else None, ls=style)
    label_widths(axes[2], [32, 128, 512, 2048])
    axes[2].set_ylim(1e-3, 5)
    axes[2].legend(
        fontsize=8, title="linear (solid), tanh (dashed)", title_fontsize=8, loc="lower left"
    )
    for ax, metric, label in (
        (axes[3], "hessian", HESSIAN),
        (axes[4], "kernel_largest", KERNEL),
    ):
        axes_over_width(ax, label, "channels")
        by_head(ax, known(metric)(frame, "conv", metric))
        label_widths(ax, sorted(frame[frame["part"] == "conv"]["width"].unique()))
        ax.set_title("MNIST, convolutional", fontsize=11)
        ax.legend(title="head")
    axes_over_width(axes[5], HESSIAN)
    rows = initial(frame, "images", "hessian")
    by_head(axes[5], rows)
    band(axes[5], initial(frame, "images", "head_curvature"), "width", 5, HEAD_TERM, **GREY)
    widths(axes[5], rows, 1)
    axes[5].set_title("MNIST, three hidden layers", fontsize=11)
    axes[5].set_ylim(0.03, 0.8)
    axes[5].legend(title="head")
    return fig
