"""The figures of the chapter on lazy and feature learning, each a function of published rows.

Panels stand below each other, so that they can be read on a phone; what was run is told below them,
from the rows' own fields.
"""

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Estimate, Runs, Table
from tangents.lab.statistics import over_seeds
from tangents.studies.lazy import claims
from tangents.studies.lazy.claims import FAR, FEATURE, INFINITE

SCALED = r"output scale $\sqrt{h}\,\alpha$"
WIDTH = "width $h$"
ERROR = "test error (%)"
KERNEL = r"kernel change $\|\Delta\Theta\|/\|\Theta_0\|$"
NARROW = 3.7  # inches: on a phone no figure scrolls, and letters are some 11 pixels high
DATA = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "digits": "digits"}


def setting(t: Table, part: str) -> str:
    """What a part's runs were, in a line, from their own fields."""
    rows = t.metric("converged", part).drop_duplicates("run_id")
    if rows.empty:
        raise LookupError(f"no run in part {part!r}")

    def values(name: str) -> str:
        return ", ".join(f"{v:g}" for v in sorted(rows[name].unique()))

    first = rows.iloc[0]
    inputs = f"{first['pca']} components" if first["pca"] else "pixels"
    kind = f"L = {values('depth')}, " if first["network"] == "fc" else "ConvNet, "
    seeds = rows[["seed", "data_seed"]].drop_duplicates()
    count = seeds["data_seed"].nunique() if (seeds["data_seed"] >= 0).all() else len(seeds)
    activation = "ReLU" if first["activation"] == "relu" else first["activation"]
    return (f"{DATA.get(first['dataset'], first['dataset'])}, {inputs}, n = {values('n')}, {kind}"
            f"h = {values('width')}, {activation}, {count} draws")  # fmt: skip


def panels(t: Table, parts: str, rows: int, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Panels below each other, and below them the settings of these parts of the study."""
    fig, axes = draw.panels(1, height, rows)
    fig.set_figwidth(NARROW)
    said = "\n".join(f"{part}: {setting(t, part)}" for part in parts.split())
    lines = [textwrap.fill(line, 47, subsequent_indent="   ") for line in said.splitlines()]
    fig.supxlabel("\n".join(lines), fontsize=9.5, x=0.02, ha="left", color="0.3")
    fig.set_figheight(fig.get_figheight() + 0.17 * sum(1 + line.count("\n") for line in lines))
    return fig, list(axes)


def scales(ax: Axes, at=(1e-2, 1, 1e2, FAR), lazy: str = r"$\infty$") -> None:
    """A logarithmic axis of output scales, at whose right end the infinite one stands."""
    ax.set(xscale="log", xlabel=SCALED)
    names = [lazy if v == FAR else f"${draw.decade(v)}$" for v in at]
    draw.label_ticks(ax, at, names)


def clipped(runs: Runs) -> Runs:
    return Runs(runs.rows.assign(scaled_alpha=runs["scaled_alpha"].clip(upper=FAR)))


def percent(errors: Runs) -> Runs:
    return errors.map(100 * errors["value"])


def headline(t: Table) -> Figure:
    """Test error and kernel change against the output scale: two regimes, one crossover."""
    fig, (top, bottom) = panels(t, "phase feature border", 2)
    top.set(ylabel=ERROR)
    scales(top)
    runs = clipped(percent(t.ends("error", "phase")))
    draw.bands(top, runs, "scaled_alpha", "width", "h = {}".format)
    top.legend()
    bottom.set(yscale="log", ylabel=KERNEL, xlim=top.get_xlim())
    scales(bottom)
    draw.bands(bottom, everywhere(t, "kernel_change"), "scaled_alpha", "width", "h = {}".format)
    bottom.axhline(claims.LEVEL, **draw.MARK)
    bottom.legend()
    return fig


def everywhere(t: Table, metric: str) -> Runs:
    """Runs of 200 images at all scales: parts feature and border together."""
    return Runs(pd.concat([t.ends(metric, part).rows for part in ("feature", "border")]))


def border(t: Table) -> Figure:
    """The border alpha* against the width."""
    fig, (ax,) = panels(t, "border", 1, 3.2)
    stars = claims.kernel_borders(t)
    draw.loglog(ax, WIDTH, r"border $\alpha^*$")
    ax.plot(stars["width"], stars["value"], ".", color=draw.PALETTE[0], alpha=0.35)
    at, mean = draw.band(ax, stars, "width", 0, f"slope {draw.plus_minus(stars.exponent('width'))}")
    draw.guide(ax, at, 1.25 * mean[0], -0.5, "slope $-1/2$")
    draw.label_widths(ax, at)
    ax.legend(loc="lower left")
    return fig


def gaps(t: Table) -> Figure:
    """Lazy minus feature test error, by width: both set-ups, and Fashion-MNIST."""
    fig, axes = panels(t, "phase fashion conv", 3, 2.2)
    for ax, part, title in zip(axes, ("phase", "fashion", "conv"),
                               ("MNIST components", "Fashion-MNIST pixels", "MNIST, ConvNet"),
                               strict=True):  # fmt: skip
        runs = percent(t.ends("error", part))
        small = runs["scaled_alpha"].min()
        ends = runs.where(scaled_alpha=(0, small)), runs.where(scaled_alpha=(999, math.inf))
        for place, (each, name) in enumerate(zip(ends, ("feature", "lazy"), strict=True)):
            draw.band(ax, each, "width", place, name)
        ax.set(xscale="log", ylabel=ERROR, xlabel=WIDTH if part == "conv" else "")
        ax.set_title(title)
        draw.label_widths(ax, runs["width"])
    axes[0].legend()
    return fig


def at_t1(t: Table) -> Figure:
    """Two times against the output scale; the kernel along training, in units of t1."""
    fig, (top, bottom) = panels(t, "feature", 2)
    for place, (metric, symbol, law, name) in enumerate(
        (("t1", "$t_1$", 1, "1"), ("t2", "$t_2$", 1.5, "3/2"))
    ):
        runs = claims.times(t, metric).where(width=100)
        fit = draw.plus_minus(runs.exponent("scaled_alpha"))
        top.set_yscale("log")
        at, mean = draw.band(top, runs, "scaled_alpha", place, f"{symbol}: slope {fit}")
        draw.guide(top, at, 0.45 * mean[0], law, name)
    scales(top, (1e-2, 1e-1, 1))
    top.set(ylabel="time of the flow")
    top.legend()
    rows = t.every("kernel_change", "feature").rows
    t1 = t.ends("t1", "feature").by_run
    rows = rows[(rows["time"] > 0) & rows["run_id"].isin(t1.index)]
    runs = Runs(rows.assign(progress=rows["time"] / rows["run_id"].map(t1)))
    draw.loglog(bottom, "$t/t_1$", KERNEL)
    shown = [(s, 100) for s in (0.01, 0.1, 1.0)] + [(1.0, 400)]
    for place, (scale, h) in enumerate(shown):
        group = runs.where(scaled_alpha=scale, width=h)
        label = rf"$\sqrt{{h}}\alpha = {scale:g}$, $h = {h}$"
        if len(group):
            draw.paths(bottom, group, "progress", place, label, lw=0.8, alpha=0.7)
    bottom.axvline(1, **draw.MARK)
    bottom.set_xlim(left=2e-3)
    bottom.legend(loc="upper left", fontsize=9)
    return fig


def kernel_exponents(t: Table) -> Figure:
    """Kernel change in the feature regime by depth, and its exponent against 2L/(L+1)."""
    fig, (top, bottom) = panels(t, "depth feature relu", 2)
    top.set(yscale="log", ylabel=KERNEL)
    scales(top, (1e-2, 1e-1, 1))
    runs = [t.ends("kernel_change", "depth")]
    runs += [t.ends("kernel_change", "feature").where(width=100)]
    runs = Runs(pd.concat([each.rows for each in runs]))
    bottom.set(xlabel="hidden layers $L$", ylabel="exponent $a$", ylim=(0.8, 2.05))
    for place, (depth, group) in enumerate(draw.groups(runs, "depth")):
        draw.band(top, group, "scaled_alpha", place, f"L = {depth}")
        draw.bars(bottom, [depth], [-group.exponent("scaled_alpha")], place)
    relu = t.ends("kernel_change", "relu")
    draw.band(top, relu, "scaled_alpha", 5, "L = 5, ReLU", ls="--")
    draw.bars(bottom, [5.15], [-relu.exponent("scaled_alpha")], 5)
    depth = np.linspace(1, 5.5, 50)
    bottom.plot(depth, 2 * depth / (depth + 1), color="0.35", ls="--", label="$2L/(L+1)$")
    top.legend()
    bottom.legend()
    return fig


def lazy(t: Table) -> Figure:
    """Kernel change deep in the lazy regime: softplus against width, ReLU against scale."""
    fig, (top, bottom) = panels(t, "lazy crossed", 2)
    draw.loglog(top, WIDTH, r"$\alpha\,\|\Delta\Theta\|/\|\Theta_0\|$")
    runs = t.ends("alpha_change", "lazy")
    slope = draw.plus_minus(runs.exponent("width"))
    at, mean = draw.band(top, runs, "width", 0, f"softplus, slope {slope}")
    draw.label_widths(top, at)
    draw.guide(top, at, 0.6 * mean[0], -1, r"$1/h$")
    draw.guide(top, at, 1.6 * mean[0], -0.5, r"$1/\sqrt{h}$", ls=":")
    top.legend(loc="lower left")
    bottom.set(yscale="log", ylabel=KERNEL)
    scales(bottom, (1e3, FAR), f"${draw.decade(FAR)}$")
    rows = [t.ends(f"change_{s}", "crossed").rows.assign(scaled_alpha=s)
            for s in (300, 1000, 3000, 10_000)]  # fmt: skip
    runs = Runs(pd.concat(rows))
    at, mean = draw.bands(bottom, runs, "scaled_alpha", "width", "ReLU, h = {}".format)
    draw.guide(bottom, [at[0], at[-1]], 1.7 * mean[0], -0.5, "slope $-1/2$")
    bottom.legend(loc="lower left", fontsize=9)
    return fig


def fluctuations(t: Table) -> Figure:
    """Variance over initialisations, and single networks against ensembles, by width."""
    fig, (top, bottom) = panels(t, "members", 2)
    draw.loglog(top, WIDTH, r"Var$[\alpha(f-f_0)]$")
    bottom.set(xscale="log", xlabel=WIDTH, ylabel=ERROR)
    regimes = ((FEATURE, r"feature, $\sqrt{h}\alpha=1$"), (INFINITE, r"lazy, $\alpha=\infty$"))
    for place, (scale, name) in enumerate(regimes):
        found, y = claims.members(t, scaled_alpha=scale)
        h = [*found]
        spread = [logarithmic([f.var(0, ddof=1).mean() for f in draws]) for draws in found.values()]
        draw.curve(top, h, spread, place, label=name)
        pairs = [claims.errors(draws, y) for draws in found.values()]
        single, ensemble = ([Estimate(*over_seeds(v)) for v in each]
                            for each in zip(*pairs, strict=True))  # fmt: skip
        draw.curve(bottom, h, single, place, label=f"{name.split(',')[0]}, single")
        size = len(found[h[0]][0])
        look = dict(ls="--", mfc="none", label=f"{name.split(',')[0]}, mean of {size}")
        draw.bars(bottom, h, ensemble, place, **look)
    draw.guide(top, h, 0.6 * spread[0].value, -1, "$1/h$")
    for ax in (top, bottom):
        draw.label_widths(ax, h)
        ax.legend(fontsize=9)
    return fig


def logarithmic(values: list[float]) -> Estimate:
    return Estimate(*over_seeds(np.log(values))).exp()


def frozen(t: Table) -> Figure:
    """What the kernel of each stage of training can learn by itself."""
    fig, (top, bottom) = panels(t, "frozen", 2)
    table = claims.frozen_table(t)
    shown = np.unique(table["scaled_alpha"])
    top.set(ylabel=ERROR, xlabel=SCALED)
    for place, name in enumerate(("first", "last", "network")):
        runs = Runs(table.assign(value=table[name]))
        found = [group.mean() for _, group in draw.groups(runs, "scaled_alpha")]
        label = name if name == "network" else f"{name} kernel"
        draw.bars(top, np.arange(len(shown)) + 0.1 * (place - 1), found, place, label=label, ls="")
    draw.label_ticks(top, range(len(shown)), (f"{scale:g}" for scale in shown))
    top.margins(x=0.3)
    top.legend()
    t1 = t.ends("t1", "frozen").by_run
    rows = t.every("frozen_error", "frozen").rows.sort_values("time")
    rows = rows[rows["run_id"].isin(t1.index)]
    first = rows.groupby("run_id")["value"].transform("first")
    runs = Runs(rows.assign(value=100 * (rows["value"] - first),
                            progress=rows["time"] / rows["run_id"].map(t1)))  # fmt: skip
    runs = Runs(runs.rows[runs["progress"] > 0])
    bottom.set(xscale="log", xlabel="frozen at $t/t_1$", ylabel="minus first kernel's (points)")
    for place, (scale, group) in enumerate(draw.groups(runs, "scaled_alpha")):
        draw.paths(bottom, group, "progress", place, rf"$\sqrt{{h}}\alpha = {scale:g}$", marker="o",
                   ms=3, lw=0.8, alpha=0.8)  # fmt: skip
    bottom.axvline(1, **draw.MARK)
    bottom.legend()
    return fig


def shape(t: Table) -> Figure:
    """One network's centred kernel before and after training: the matrix, images by digit, odd ones
    first; and the images along its two leading eigenfunctions."""
    with draw.matplotlib.rc_context(draw.STYLE):
        fig = Figure(figsize=(NARROW, 4.4), layout="constrained")
        axes = fig.subplots(2, 2)
    run = t.ends("converged", "frozen").where(scaled_alpha=FEATURE).rows.iloc[0]
    y = t.array(run["run_id"], "test_label")
    for column, name in enumerate(("first", "last")):
        k = t.array(run["run_id"], f"kernel_{name}")
        k = k - k.mean(0) - k.mean(1)[:, None] + k.mean()
        digit = (run["n"] + np.arange(len(k))) % 10  # tasks interleave the classes
        order = np.lexsort((digit, -y[: len(k)]))
        matrix, points = axes[:, column]
        limit = np.quantile(np.abs(k), 0.98)
        matrix.imshow(k[np.ix_(order, order)], cmap="RdBu_r", vmin=-limit, vmax=limit)
        matrix.set(xticks=[], yticks=[], title=f"{name} kernel")
        matrix.grid(visible=False)
        values, vectors = np.linalg.eigh(k)
        for sign, place, label in ((1, 0, "odd"), (-1, 1, "even")):
            chosen = y[: len(k)] == sign
            points.plot(*vectors[chosen][:, [-1, -2]].T, draw.MARKERS[place], ms=3.5, alpha=0.7,
                        color=draw.PALETTE[place], label=label)  # fmt: skip
        share = values[-2:].sum() / values.sum()
        points.set(xticks=[], yticks=[], xlabel=f"{share:.0%} of the trace")
    axes[1, 0].legend(fontsize=9)
    axes[1, 0].set_ylabel("eigenfunction 2 over 1")
    axes[0, 0].set_ylabel("even digits | odd digits")
    return fig


def norm_and_shape(t: Table) -> Figure:
    """Change of the kernel's norm, and the cosine to the start; with shuffled labels besides."""
    fig, (top, bottom) = panels(t, "feature border shuffled", 2)
    measures = {"kernel_change": KERNEL, "kernel_cosine": r"cosine of $\Theta$ and $\Theta_0$"}
    for ax, (metric, label) in zip((top, bottom), measures.items(), strict=True):
        ax.set(ylabel=label, yscale="log" if ax is top else "linear")
        scales(ax, (1e-2, 1e-1, 1, 10, 100))
        runs = everywhere(t, metric).where(width=100)
        draw.band(ax, runs, "scaled_alpha", 0, "true labels")
        noise = t.ends(metric, "shuffled")
        draw.band(ax, noise, "scaled_alpha", 3, "shuffled labels", ls="", ms=8)
    top.legend()
    return fig
