"""The figures of the chapter on lazy and feature learning, each a function of published rows."""

import math

import numpy as np
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Estimate, Runs, Table
from tangents.lab.statistics import over_seeds, power
from tangents.studies.lazy import claims
from tangents.studies.lazy.claims import FEATURE, FITTED, LAZY, among

SCALED = r"output scale $\sqrt{h}\,\alpha$"
WIDTH = "width $h$"
ERROR = "test error (%)"
KERNEL = r"kernel change $\|\Delta\Theta\|/\|\Theta_0\|$"


def over_scale(ax, runs: Runs, ylabel: str, yscale="log", by="width", symbol="h") -> draw.Drawn:
    """A panel of values against the output scale, a band for each width or depth."""
    ax.set(xscale="log", yscale=yscale, xlabel=SCALED, ylabel=ylabel)
    return draw.bands(ax, runs, "scaled_alpha", by, lambda value: f"${symbol}={value}$")


def at_scale(scale: float) -> str:
    return rf"$\sqrt{{h}}\alpha={draw.decade(scale)}$"


def label_scales(ax, scales) -> None:
    """Scales as the ticks at 0, 1, 2, ..."""
    draw.label_ticks(ax, range(len(scales)), (f"${draw.decade(scale)}$" for scale in scales))


def fit_in_scale(runs: Runs) -> str:
    return f"fit {draw.plus_minus(runs.exponent('scaled_alpha', 'width'))}"


def percent(errors: Runs) -> Runs:
    return errors.map(100 * errors["value"])


def headline(t: Table) -> Figure:
    """Test error and kernel change against the output scale: two regimes, one crossover."""
    fig, (left, right) = draw.panels(2)
    over_scale(left, percent(t.ends("error", "phase")), ERROR, "linear")
    left.legend(title="width")
    over_scale(right, t.ends("kernel_change", "phase"), KERNEL)
    right.axhline(1, **draw.MARK)
    return fig


def collapse(t: Table) -> Figure:
    """The rescaled error against sqrt(h) alpha, and the border alpha* against the width."""
    fig, (left, right) = draw.panels(2)
    errors, stars = t.ends("error", "phase"), claims.kernel_borders(t)
    over_scale(left, rise(errors), "rescaled rise of test error", "linear")
    left.axvspan(5, 200, color="0.5", alpha=0.12, lw=0)
    left.legend(title="width")
    draw.loglog(right, WIDTH, r"border $\alpha^*$")
    right.plot(stars["width"], stars["value"], ".", color=draw.PALETTE[0], alpha=0.3)
    slope = draw.plus_minus(stars.exponent("width"))
    at, mean = draw.band(right, stars, "width", 0, f"kernel, slope {slope}")
    draw.guide(right, at, 2.5 * mean[0], -0.5, "slope $-1/2$")
    for h, group in draw.groups(errors, "width"):

        def log_border(rows, h=h):
            return math.log(claims.error_borders(rows).get(h, math.nan))

        draw.bars(right, [h], [group.jackknife(log_border).exp()], 1)
    right.plot([], [], label="test error, half height", **draw.look(1))
    draw.label_widths(right, at)
    right.set_ylim(bottom=0.25)
    right.legend(loc="lower left")
    return fig


def rise(errors: Runs) -> Runs:
    """How far each error is above the feature regime's, over the mean rise in the lazy regime."""
    rows, network = errors.rows, ["width", "seed"]
    # each initialisation from its own plateau: what all scales share cancels
    plateau = rows[rows["scaled_alpha"] <= FEATURE].groupby(network)["value"].mean()
    risen = rows["value"] - rows.join(plateau.rename("plateau"), on=network)["plateau"]
    lazy = risen[rows["scaled_alpha"] >= LAZY].groupby(rows["width"]).mean()
    return errors.map(risen / rows["width"].map(lazy))


def kernel_exponents(t: Table) -> Figure:
    """Kernel change in the feature regime by depth, and its exponent against 2L/(L+1)."""
    fig, (left, right) = draw.panels(2)
    runs = t.ends("kernel_change", "depth")
    over_scale(left, runs, KERNEL, by="depth", symbol="L")
    left.legend(title="hidden layers")
    for place, (depth, group) in enumerate(draw.groups(runs, "depth")):
        exponent = group.by_seed(lambda rows: -power(rows["scaled_alpha"], rows["value"]))
        draw.bars(right, [depth], [exponent], place)
    depth = np.linspace(1, runs["depth"].max(), 50)
    right.plot(depth, 2 * depth / (depth + 1), color="0.35", ls="--", label="$2L/(L+1)$")
    right.set(xlabel="hidden layers $L$", ylabel="exponent $a$", ylim=(0.8, 2.0))
    right.legend()
    return fig


def lazy_residuals(t: Table) -> Figure:
    """Kernel change deep in the lazy regime: softplus against width, ReLU against scale."""
    fig, (left, right) = draw.panels(2)
    runs = t.ends("kernel_change", "residual")
    runs = runs.map(runs["value"] * runs["scaled_alpha"] / np.sqrt(runs["width"]))
    draw.loglog(left, WIDTH, r"$\alpha\,\|\Delta\Theta\|/\|\Theta_0\|$")
    at, mean = draw.bands(left, runs, "width", "scaled_alpha", at_scale)
    draw.label_widths(left, at)
    draw.guide(left, at, 0.6 * mean[0], -1, r"$1/h$")
    draw.guide(left, at, 1.6 * mean[0], -0.5, r"$1/\sqrt{h}$", ls=":")
    left.legend()
    runs = t.ends("kernel_change", "relu")
    at, _ = over_scale(right, runs, KERNEL)
    _, start = draw.origin(runs, "scaled_alpha")
    draw.guide(right, at, 1.4 * start.max(), -0.5, f"slope $-1/2$; {fit_in_scale(runs)}")
    right.legend(title="ReLU, width")
    return fig


def weights_and_speed(t: Table) -> Figure:
    """Movement of the weights, and speed of the preactivations at initialisation."""
    fig, (left, right) = draw.panels(2)
    runs = t.ends("weights_change", "phase")
    runs = runs.map(runs["value"] * np.sqrt(runs["width"]))
    over_scale(left, runs, r"$\sqrt{h}\,\|w-w_0\|/\|w_0\|$")
    feature, lazy = (runs.where(scaled_alpha=scales) for scales in (FITTED, (1e2, LAZY)))
    at, start = draw.origin(feature, "scaled_alpha")
    draw.guide(left, at, 1.3 * start.mean(), -0.23, f"paper $-0.23$; {fit_in_scale(feature)}")
    at, start = draw.origin(lazy, "scaled_alpha")
    draw.guide(left, at, 1.5 * start.mean(), -1, "$-1$")
    left.legend(title="width")
    speed = t.starts("preactivation_velocity", "velocity")
    draw.loglog(right, WIDTH, r"rms $|\dot z|$ at $t=0$ (per unit time)")
    at, mean = draw.band(right, speed, "width", 0, "measured")
    draw.label_widths(right, at)
    fit = draw.plus_minus(speed.exponent("width"))
    draw.guide(right, at, 1.3 * mean[0], -0.5, f"$-1/2$; fit {fit}")
    return fig


def times(t: Table) -> Figure:
    """t1 and t2 against the output scale."""
    fig, axes = draw.panels(2)
    laws = (("t1", "$t_1$", 1, "1"), ("t2", "$t_2$", 3 / 2, "3/2"))
    for ax, (metric, symbol, exponent, name) in zip(axes, laws, strict=True):
        runs = claims.times(t, metric)
        over_scale(ax, runs, f"{symbol} (units of gradient flow)")
        feature = runs.where(scaled_alpha=FITTED)
        at, start = draw.origin(feature, "scaled_alpha")
        text = f"slope {name}; {fit_in_scale(feature)}"
        draw.guide(ax, at, 0.5 * start.min(), exponent, text)
        ax.legend(title="width")
    return fig


def along(t: Table, part: str, metric: str) -> Runs:
    """A metric along the training of converged runs: time in units of t1, and the first value."""
    rows = claims.curves(t, part, metric)
    first = rows.groupby("run_id")["value"].transform("first")
    rows = rows.assign(first=first, progress=rows["time"] / rows["t1"])
    return Runs(rows[rows["time"] > 0])


def growth(t: Table) -> Figure:
    """The output along training: linear at first, grown by sqrt(h) at t1."""
    fig, (left, right) = draw.panels(2)
    draw.loglog(left, "$t/t_1$", r"$\sqrt{h}\alpha\,\|f_t-f_0\|$ (rms)")
    draw.loglog(right, "$t/t_1$", r"$h^{-1/2}\,\|f_t\|/\|f_0\|$")
    change, norm = (along(t, "phase", metric) for metric in ("output_change", "output_norm"))
    change = change.map(change["value"] * change["scaled_alpha"])
    norm = norm.map(norm["value"] / (norm["first"] * np.sqrt(norm["width"])))
    for ax, runs in ((left, change), (right, norm)):
        for place, s in enumerate((1e-2, 1.0, 1e4)):
            for h, group in draw.groups(runs.where(scaled_alpha=s), "width"):
                ls = {32: ":", 64: "--"}.get(h, "-")
                draw.paths(ax, group, "progress", place, lw=0.8, alpha=0.6, ls=ls)
            ax.plot([], [], color=draw.PALETTE[place], label=at_scale(s))
    draw.guide(left, [1e-3, 1e-1], 3e-3, 1, r"$\propto t$")
    left.legend()
    return fig


def fluctuations(t: Table) -> Figure:
    """Variance over initialisations, and single networks against ensembles, by width."""
    fig, (left, right) = draw.panels(2)
    y = claims.labels(t)
    draw.loglog(left, WIDTH, r"Var$[\alpha(f-f_0)]$ over seeds")
    right.set(xscale="log", xlabel=WIDTH, ylabel=ERROR)
    for place, s, name in ((2, 1e-2, "feature"), (0, FEATURE, "feature"), (1, LAZY, "lazy")):
        found = claims.outputs(t, s)
        if not found:
            raise LookupError(f"no converged run at an output scale of {s:g}")
        h, spread = [*found], [variance(f) for f in found.values()]
        slope = power(h, [each.value for each in spread])
        label = rf"{name}, $\sqrt{{h}}\alpha={s:g}$: slope {slope:.2f}"
        draw.bars(left, h, spread, place, label=label)
        if s in (FEATURE, LAZY):
            single, ensemble = zip(*(errors(f, y) for f in found.values()), strict=True)
            draw.curve(right, h, single, place, label=f"{name}, single")
            look = dict(label=f"{name}, ensemble", ls="--", mfc="none")
            draw.bars(right, h, ensemble, place, **look)
    least = min(each.value for each in spread)
    draw.guide(left, h, 0.7 * least * h[-1] / h[0], -1, "$1/h$")
    left.legend()
    right.legend(fontsize=8.5)
    for ax in (left, right):
        draw.label_widths(ax, h)
    return fig


def variance(f: np.ndarray) -> Estimate:
    """Variance over networks of their outputs, networks x examples; the mean over examples."""
    return among(len(f), lambda m: math.log(f[m].var(0, ddof=1).mean()), len(f)).exp()


def errors(f: np.ndarray, y: np.ndarray) -> tuple[Estimate, Estimate]:
    """Test error in percent of the networks with these outputs, and of their ensemble."""
    single = Estimate(*over_seeds(100 * (f * y <= 0).mean(1)))
    return single, among(len(f), lambda m: 100 * np.mean(f[m].mean(0) * y <= 0), len(f))


def frozen(t: Table) -> Figure:
    """What the kernel of each stage of training can learn by itself."""
    fig, (left, right) = draw.panels(2)
    table = claims.frozen_table(t)
    scales = np.unique(table["scaled_alpha"])
    left.set(xlabel=SCALED, ylabel=ERROR)
    for place, name in enumerate(("first", "last", "network")):
        runs = Runs(table.assign(value=table[name]))
        found = [group.mean() for _, group in draw.groups(runs, "scaled_alpha")]
        at = np.arange(len(scales)) + 0.12 * (place - 1)
        label = name if name == "network" else f"{name} kernel"
        draw.bars(left, at, found, place, label=label, ls="")
    label_scales(left, scales)
    left.margins(y=0.3)
    left.legend(loc="upper left")
    xlabel = r"time $t/t_1$ at which the kernel is frozen"
    right.set(xscale="log", xlabel=xlabel, ylabel="test error minus first kernel's (points)")
    runs = along(t, "frozen", "frozen_error")
    gain = runs.map(100 * (runs["value"] - runs["first"]))
    for place, s in enumerate(scales):
        group = gain.where(scaled_alpha=s)
        draw.paths(right, group, "progress", place, by="seed", lw=0.6, alpha=0.5)
        draw.curve(right, *mean_path(group), place, marker="", lw=2, label=at_scale(s))
    right.axvline(1, **draw.MARK)
    right.legend()
    return fig


def mean_path(runs: Runs) -> tuple[np.ndarray, list[Estimate]]:
    """Mean over runs at 20 times that all of them reach, linear in log t between their own."""
    lines = [(run["progress"], run["value"]) for _, run in draw.groups(runs, "run_id")]
    common = np.geomspace(max(t.min() for t, _ in lines), min(t.max() for t, _ in lines), 20)
    values = [np.interp(np.log(common), np.log(t), value) for t, value in lines]
    return common, [Estimate(*over_seeds(each)) for each in np.transpose(values)]


def other_data(t: Table) -> Figure:
    """The two regimes elsewhere: Fashion-MNIST pixels, and a convolutional network."""
    titles = {"fashion": "Fashion-MNIST, fully connected", "conv": "MNIST, convolutional"}
    parts = [part for part in titles if len(t.metric("error", part))]
    if not parts:
        raise LookupError(f"no run with 'error' in parts {', '.join(titles)}")
    fig, axes = draw.panels(len(parts))
    for ax, part in zip(axes, parts, strict=True):
        runs = percent(t.ends("error", part))
        ax.set(xlabel=SCALED, ylabel=ERROR, xlim=(-0.4, 1.4))
        ax.set_title(titles[part])
        for place, (h, group) in enumerate(draw.groups(runs, "width")):
            table = group.pivot("scaled_alpha")
            at = np.arange(len(table.columns)) + 0.06 * place
            ax.plot(at, table.T, color=draw.PALETTE[place], lw=0.7, alpha=0.5)
            found = [Estimate(*over_seeds(table[s])) for s in table]
            draw.bars(ax, at, found, place, label=f"$h={h}$", ls="")
        label_scales(ax, np.unique(runs["scaled_alpha"]))
        ax.legend(title="width", loc="upper left")
    return fig
