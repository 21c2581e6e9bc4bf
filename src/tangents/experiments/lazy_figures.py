"""The figures of the chapter on lazy and feature learning, each a function of published rows."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tangents.experiments.lazy_checks import (
    FEATURE,
    LAZY,
    curves,
    error_borders,
    frozen_table,
    kernel_borders,
    outputs,
    test_labels,
    timed,
)
from tangents.figures import (
    MARKERS,
    PALETTE,
    band,
    fitted,
    guide,
    label_widths,
    panels,
    plus_minus,
)
from tangents.statistics import finals, jackknife, over_seeds, pick, power, seed_exponents

SCALED = r"output scale $\sqrt{h}\,\alpha$"
ERROR = "test error (%)"


def by_width(ax, rows: pd.DataFrame, x: str = "scaled_alpha", scale: float = 1.0, **line) -> None:
    for place, (h, group) in enumerate(rows.groupby("width")):
        band(ax, group, x, place, f"$h={h}$", scale, **line)


def headline(frame: pd.DataFrame) -> Figure:
    """Test error and kernel change against the output scale: two regimes, one crossover."""
    fig, (left, right) = panels(2)
    left.set(xscale="log", xlabel=SCALED, ylabel=ERROR)
    by_width(left, finals(frame, "phase", "error"), scale=100)
    left.legend(title="width")
    right.set(
        xscale="log",
        yscale="log",
        xlabel=SCALED,
        ylabel=r"kernel change $\|\Delta\Theta\|/\|\Theta_0\|$",
    )
    by_width(right, finals(frame, "phase", "kernel_change"))
    right.axhline(1, color="0.4", lw=1, ls=":")
    return fig


def collapse(frame: pd.DataFrame) -> Figure:
    """The rescaled error against sqrt(h) alpha, and the border alpha* against the width."""
    fig, (left, right) = panels(2)
    rows = finals(frame, "phase", "error")
    left.set(xscale="log", xlabel=SCALED, ylabel="rescaled rise of test error")
    for place, (h, group) in enumerate(rows.groupby("width")):
        # each initialisation from its own plateau: what all scales share cancels
        feature = group[group["scaled_alpha"] <= FEATURE].groupby("seed")["value"].mean()
        rise = group["value"] - group["seed"].map(feature)
        lazy = rise[group["scaled_alpha"] >= LAZY].mean()
        band(left, group.assign(value=rise / lazy), "scaled_alpha", place, f"$h={h}$")
    left.axvspan(5, 200, color="0.5", alpha=0.12, lw=0)
    left.legend(title="width")
    stars = kernel_borders(frame)
    slopes = seed_exponents(stars, "width", ["seed"])
    right.set(xscale="log", yscale="log", xlabel="width $h$", ylabel=r"border $\alpha^*$")
    right.plot(stars["width"], stars["value"], ls="", marker=".", color=PALETTE[0], alpha=0.3)
    at, mean = band(right, stars, "width", 0, f"kernel, slope {plus_minus(over_seeds(slopes))}")
    guide(right, at, 2.5 * mean[0], -0.5, "slope $-1/2$")
    every = sorted(rows["seed"].unique())
    for h, group in rows.groupby("width"):

        def log_border(seeds, group=group, h=h):
            return math.log(error_borders(group[group["seed"].isin(seeds)])[h])

        value, low, high = np.exp(jackknife(log_border, every))
        bars = [[value - low], [high - value]]
        right.errorbar(h, value, bars, color=PALETTE[1], marker=MARKERS[1], capsize=3)
    right.plot([], [], color=PALETTE[1], marker=MARKERS[1], label="test error, half height")
    label_widths(right, at)
    right.set_ylim(bottom=0.25)
    right.legend(loc="lower left")
    return fig


def kernel_exponents(frame: pd.DataFrame) -> Figure:
    """Kernel change in the feature regime by depth, and its exponent against 2L/(L+1)."""
    fig, (left, right) = panels(2)
    rows = finals(frame, "depth", "kernel_change")
    left.set(
        xscale="log",
        yscale="log",
        xlabel=SCALED,
        ylabel=r"kernel change $\|\Delta\Theta\|/\|\Theta_0\|$",
    )
    for place, (depth, group) in enumerate(rows.groupby("depth")):
        band(left, group, "scaled_alpha", place, f"$L={depth}$")
        slopes = [-power(g["scaled_alpha"], g["value"]) for _, g in group.groupby("seed")]
        mean, low, high = over_seeds(slopes)
        right.errorbar(
            depth,
            mean,
            [[mean - low], [high - mean]],
            color=PALETTE[place],
            marker=MARKERS[place],
            capsize=3,
        )
    left.legend(title="hidden layers")
    depth = np.linspace(1, rows["depth"].max(), 50)
    right.plot(depth, 2 * depth / (depth + 1), color="0.35", ls="--", label="$2L/(L+1)$")
    right.set(xlabel="hidden layers $L$", ylabel="exponent $a$", ylim=(0.8, 2.0))
    right.legend()
    return fig


def lazy_residuals(frame: pd.DataFrame) -> Figure:
    """Kernel change deep in the lazy regime: softplus against width, ReLU against scale."""
    fig, (left, right) = panels(2)
    rows = finals(frame, "residual", "kernel_change")
    left.set(
        xscale="log",
        yscale="log",
        xlabel="width $h$",
        ylabel=r"$\alpha\,\|\Delta\Theta\|/\|\Theta_0\|$",
    )
    alpha = rows["scaled_alpha"] / np.sqrt(rows["width"])
    scaled = rows.assign(value=rows["value"] * alpha)
    for place, (s, group) in enumerate(scaled.groupby("scaled_alpha")):
        at, mean = band(
            left, group, "width", place, rf"$\sqrt{{h}}\alpha=10^{{{math.log10(s):.0f}}}$"
        )
    label_widths(left, at)
    guide(left, at, 0.6 * mean[0], -1, r"$1/h$")
    guide(left, at, 1.6 * mean[0], -0.5, r"$1/\sqrt{h}$", ls=":")
    left.legend()
    rows = finals(frame, "relu", "kernel_change")
    right.set(
        xscale="log",
        yscale="log",
        xlabel=SCALED,
        ylabel=r"kernel change $\|\Delta\Theta\|/\|\Theta_0\|$",
    )
    by_width(right, rows)
    start = rows.groupby("scaled_alpha")["value"].max()
    guide(
        right,
        start.index,
        1.4 * start.iloc[0],
        -0.5,
        f"slope $-1/2$; fit {fitted(rows, 'scaled_alpha')}",
    )
    right.legend(title="ReLU, width")
    return fig


def weights_and_speed(frame: pd.DataFrame) -> Figure:
    """Movement of the weights, and speed of the preactivations at initialisation."""
    fig, (left, right) = panels(2)
    rows = finals(frame, "phase", "weights_change")
    rows = rows.assign(value=rows["value"] * np.sqrt(rows["width"]))
    left.set(xscale="log", yscale="log", xlabel=SCALED, ylabel=r"$\sqrt{h}\,\|w-w_0\|/\|w_0\|$")
    by_width(left, rows)
    mean = rows.groupby("scaled_alpha")["value"].mean()
    feature = pick(rows, scaled_alpha=(1e-2, FEATURE))
    guide(
        left,
        [1e-2, 1],
        1.3 * mean.iloc[0],
        -0.23,
        f"paper $-0.23$; fit {fitted(feature, 'scaled_alpha')}",
    )
    guide(left, [1e2, 1e4], 1.5 * mean[100.0], -1, r"$-1$")
    left.legend(title="width")
    speed = frame[(frame["part"] == "velocity") & (frame["metric"] == "preactivation_velocity")]
    right.set(
        xscale="log",
        yscale="log",
        xlabel="width $h$",
        ylabel=r"rms $|\dot z|$ at $t=0$ (per unit time)",
    )
    at, mean = band(right, speed, "width", 0, "measured")
    label_widths(right, at)
    guide(right, at, 1.3 * mean[0], -0.5, f"$-1/2$; fit {fitted(speed, 'width', ['part'])}")
    return fig


def times(frame: pd.DataFrame) -> Figure:
    """t1 and t2 against the output scale."""
    fig, axes = panels(2)
    for ax, metric, slope in zip(axes, ("t1", "t2"), (1.0, 1.5), strict=True):
        rows = timed(frame, metric)
        ax.set(
            xscale="log",
            yscale="log",
            xlabel=SCALED,
            ylabel=f"${metric[0]}_{metric[1]}$ (units of gradient flow)",
        )
        by_width(ax, rows)
        feature = pick(rows, scaled_alpha=(1e-2, FEATURE))
        start = feature.groupby("scaled_alpha")["value"].min()
        name = "1" if slope == 1 else "3/2"
        guide(
            ax,
            [1e-2, 1],
            0.5 * start.iloc[0],
            slope,
            f"slope {name}; fit {fitted(feature, 'scaled_alpha')}",
        )
        ax.legend(title="width")
    return fig


def growth(frame: pd.DataFrame) -> Figure:
    """The output along training: linear at first, grown by sqrt(h) at t1."""
    fig, (left, right) = panels(2)
    colours = {1e-2: 0, 1.0: 1, 1e4: 2}
    for ax, metric in ((left, "output_change"), (right, "output_norm")):
        ax.set(xscale="log", yscale="log", xlabel="$t/t_1$")
        for s, place in colours.items():
            rows = curves(frame, "phase", metric, scaled_alpha=s)
            start = rows.groupby("run_id")["value"].transform("first")
            for (h, _), g in rows.assign(start=start).groupby(["width", "run_id"]):
                g = g[g["time"] > 0]
                y = (
                    g["value"] / (g["start"] * math.sqrt(h))
                    if ax is right
                    else g["value"] * g["scaled_alpha"]
                )
                ax.plot(
                    g["time"] / g["t1"],
                    y,
                    color=PALETTE[place],
                    lw=0.8,
                    alpha=0.6,
                    ls={32: ":", 64: "--"}.get(h, "-"),
                )
            ax.plot(
                [],
                [],
                color=PALETTE[place],
                label=rf"$\sqrt{{h}}\alpha = 10^{{{math.log10(s):.0f}}}$",
            )
    left.set_ylabel(r"$\sqrt{h}\alpha\,\|f_t-f_0\|$ (rms)")
    right.set_ylabel(r"$h^{-1/2}\,\|f_t\|/\|f_0\|$")
    guide(left, [1e-3, 1e-1], 3e-3, 1, r"$\propto t$")
    left.legend()
    return fig


def fluctuations(frame: pd.DataFrame, arrays: dict) -> Figure:
    """Variance over initialisations, and single networks against ensembles, by width."""
    fig, (left, right) = panels(2)
    y = test_labels(frame)
    left.set(
        xscale="log", yscale="log", xlabel="width $h$", ylabel=r"Var$[\alpha(f-f_0)]$ over seeds"
    )
    right.set(xscale="log", xlabel="width $h$", ylabel=ERROR)
    for place, s, name in ((2, 1e-2, "feature"), (0, FEATURE, "feature"), (1, LAZY, "lazy")):
        found = outputs(frame, arrays, "phase", scaled_alpha=s)
        h = np.array(list(found))
        spread = [
            jackknife(lambda m, f=f: math.log(f[m].var(0, ddof=1).mean()), range(len(f)))
            for f in found.values()
        ]
        variance, low, high = np.exp(spread).T
        left.errorbar(
            h,
            variance,
            [variance - low, high - variance],
            color=PALETTE[place],
            marker=MARKERS[place],
            capsize=3,
            label=rf"{name}, $\sqrt{{h}}\alpha={s:g}$: slope {power(h, variance):.2f}",
        )
        if s not in (FEATURE, LAZY):
            continue
        single = [over_seeds(100 * (f * y <= 0).mean(1)) for f in found.values()]
        mean, low, high = np.array(single).T
        right.plot(h, mean, color=PALETTE[place], marker=MARKERS[place], label=f"{name}, single")
        right.fill_between(h, low, high, color=PALETTE[place], alpha=0.18, lw=0)
        together = [
            jackknife(lambda m, f=f: 100 * np.mean(f[m].mean(0) * y <= 0), range(len(f)))
            for f in found.values()
        ]
        mean, low, high = np.array(together).T
        right.errorbar(
            h,
            mean,
            [mean - low, high - mean],
            color=PALETTE[place],
            ls="--",
            capsize=3,
            marker=MARKERS[place],
            mfc="none",
            label=f"{name}, ensemble",
        )
    guide(left, h, 0.7 * min(variance) * h[-1] / h[0], -1, "$1/h$")
    left.legend()
    right.legend(fontsize=8.5)
    for ax in (left, right):
        label_widths(ax, h)
    return fig


def frozen(frame: pd.DataFrame) -> Figure:
    """What the kernel of each stage of training can learn by itself."""
    fig, (left, right) = panels(2)
    table = frozen_table(frame)
    names = [("first", "first kernel"), ("last", "last kernel"), ("network", "network")]
    scales = sorted(table["scaled_alpha"].unique())
    for place, (column, label) in enumerate(names):
        found = np.array([over_seeds(table[table["scaled_alpha"] == s][column]) for s in scales]).T
        at = np.arange(len(scales)) + 0.12 * (place - 1)
        left.errorbar(
            at,
            found[0],
            [found[0] - found[1], found[2] - found[0]],
            capsize=3,
            ls="",
            color=PALETTE[place],
            marker=MARKERS[place],
            label=label,
        )
    left.set_xticks(range(len(scales)), [f"$10^{{{math.log10(s):.0f}}}$" for s in scales])
    left.set(xlabel=SCALED, ylabel=ERROR)
    left.margins(y=0.3)
    left.legend(loc="upper left")
    rows = curves(frame, "frozen", "frozen_error")
    first = rows.groupby("run_id")["value"].transform(lambda v: v.iloc[0])
    gain = 100 * (rows["value"] - first)
    rows = rows.assign(value=gain)[rows["time"] > 0]
    right.set(
        xscale="log",
        xlabel=r"time $t/t_1$ at which the kernel is frozen",
        ylabel="test error minus first kernel's (points)",
    )
    for place, s in enumerate(scales):
        g = pick(rows, scaled_alpha=s)
        lines = [(one["time"] / one["t1"], one["value"]) for _, one in g.groupby("seed")]
        for t, error in lines:
            right.plot(t, error, color=PALETTE[place], lw=0.6, alpha=0.5)
        common = np.geomspace(max(t.min() for t, _ in lines), min(t.max() for t, _ in lines), 20)
        errors = [np.interp(np.log(common), np.log(t), error) for t, error in lines]
        mean, low, high = np.array([over_seeds(column) for column in np.transpose(errors)]).T
        label = rf"$\sqrt{{h}}\alpha=10^{{{math.log10(s):.0f}}}$"
        right.plot(common, mean, color=PALETTE[place], lw=2, label=label)
        right.fill_between(common, low, high, color=PALETTE[place], alpha=0.18, lw=0)
    right.axvline(1, color="0.4", lw=1, ls=":")
    right.legend()
    return fig


def other_data(frame: pd.DataFrame) -> Figure:
    """The two regimes elsewhere: Fashion-MNIST pixels, and a convolutional network."""
    parts = [p for p in ("fashion", "conv") if (frame["part"] == p).any()]
    fig, axes = panels(len(parts))
    titles = {"fashion": "Fashion-MNIST, fully connected", "conv": "MNIST, convolutional"}
    for ax, part in zip(axes, parts, strict=True):
        ax.set(xlabel=SCALED, ylabel=ERROR, xlim=(-0.4, 1.4))
        ax.set_title(titles[part])
        rows = finals(frame, part, "error")
        for place, (h, group) in enumerate(rows.groupby("width")):
            table = 100 * group.pivot(index="seed", columns="scaled_alpha", values="value").dropna()
            mean, low, high = np.array([over_seeds(table[s]) for s in table]).T
            at, colour = np.arange(len(mean)) + 0.06 * place, PALETTE[place]
            ax.plot(at, table.to_numpy().T, color=colour, lw=0.7, alpha=0.5)
            ax.errorbar(
                at,
                mean,
                [mean - low, high - mean],
                color=colour,
                marker=MARKERS[place],
                ls="",
                capsize=3,
                label=f"$h={h}$",
            )
        scales = sorted(rows["scaled_alpha"].unique())
        ax.set_xticks(range(len(scales)), [f"$10^{{{math.log10(s):.0f}}}$" for s in scales])
        ax.legend(title="width", loc="upper left")
    return fig
