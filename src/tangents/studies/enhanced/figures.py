"""The figures of the chapter on recurrent kernels on tables, each a function of published rows."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Table
from tangents.studies.enhanced.claims import by_table, errors, gain, knowing

WORDS = {
    "all": "recurrent, all variants",
    "rntk": "recurrent",
    "bi": "both directions",
    "avg": "all states",
    "bi-avg": "both directions, all states",
    "ntk": "fully connected",
    "rbf": "Gaussian",
    "polynomial": "polynomial",
    "forest": "random forest",
    "neighbours": "neighbours",
    "linear": "linear",
}
HOW = {"published": "chosen as published", "nested": "chosen without test examples"}
RANKED = [name for name in WORDS if name not in ("bi", "avg", "bi-avg")]


def methods(ax: Axes, names: list[str]) -> None:
    """Rows with the methods' names, the first on top."""
    ax.set_yticks(range(len(names)), [WORDS[name] for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)


def rows(ax: Axes, estimates: list, place: int, label: str) -> None:
    """Estimates with their intervals, one below the other."""
    at = np.arange(len(estimates)) + (place - 0.5) * 0.24
    value, low, high = np.array([(e.value, e.low, e.high) for e in estimates]).T
    ends = np.clip([value - low, high - value], 0, None)
    ax.errorbar(value, at, xerr=ends, ls="", capsize=3, label=label, **draw.look(place))


def below(fig: Figure, ax: Axes) -> None:
    """The legend of an axis under all."""
    found = ax.get_legend_handles_labels()
    fig.legend(*found, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)


def headline(t: Table) -> Figure:
    """By how much each method errs less than the Gaussian kernel, and mean ranks."""
    fig, (left, right) = draw.panels(2, height=4.2)
    names = [name for name in WORDS if name != "rbf"]
    for place, (how, words) in enumerate(HOW.items()):
        rows(left, [gain(t, name, "rbf", how) for name in names], place, words)
    left.axvline(0, **draw.MARK)
    left.set_xlabel("points fewer errors than the Gaussian kernel")
    methods(left, names)
    below(fig, left)
    draw.critical_differences(right, by_table(t, RANKED, "nested"), WORDS.get)
    return fig


def ranks(t: Table) -> Figure:
    """Mean ranks of all methods, settings chosen in both ways."""
    fig, axes = draw.panels(2, height=4.2)
    for ax, (how, words) in zip(axes, HOW.items(), strict=True):
        draw.critical_differences(ax, by_table(t, list(WORDS), how), WORDS.get)
        ax.set_xlabel(f"{ax.get_xlabel()},\n{words}")
    return fig


def pairs(t: Table) -> Figure:
    """Errors table by table, of all recurrent variants against two others."""
    fig, axes = draw.panels(2, height=4.0)
    for ax, other in zip(axes, ("ntk", "rbf"), strict=True):
        found = by_table(t, ["all", other], "nested").dropna()
        ax.plot(found[other], found["all"], "o", color=draw.PALETTE[0], alpha=0.7, ms=4)
        ends = [0, found.to_numpy().max()]
        ax.plot(ends, ends, **draw.MARK)
        ax.set(xlabel=f"error, {WORDS[other]} (%)", ylabel=f"error, {WORDS['all']} (%)")
        ax.set_aspect("equal")
    return fig


def selection(t: Table) -> Figure:
    """What it brings to have seen the test examples when settings are chosen."""
    fig, (ax,) = draw.panels(1, height=5.0)
    fig.set_figwidth(6.6)
    ways = dict(seen="on as many", published="as published", folds="on the test parts alone")
    for place, (how, words) in enumerate(ways.items()):
        rows(ax, [knowing(t, name, how).mean() for name in WORDS], place, words)
    ax.axvline(0, **draw.MARK)
    ax.set_xlabel("points fewer errors than by a choice without test examples")
    methods(ax, list(WORDS))
    below(fig, ax)
    return fig


def chosen(t: Table) -> Figure:
    """Which recurrent settings are chosen, and by how much choice pays with few examples."""
    fig, (left, right) = draw.panels(2)
    shares = {}
    for name, value, words in (("frozen", 0, "all weights\ntrained"), ("layers", 2, "two\nlayers"),
                               ("su", 0.5, "$\\sigma_u = 0.5$"),
                               ("sb", 0.1, "$\\sigma_b = 0.1$")):  # fmt: skip
        found = t.ends(f"chosen_{name}", "tables").where(method="all")
        shares[words] = 100 * np.isclose(found["value"], value).mean()
    left.bar(range(len(shares)), shares.values(), color=draw.PALETTE[0], alpha=0.8)
    left.axhline(50, **draw.MARK)
    left.set_ylabel("share of tables (%)")
    left.set_xticks(range(len(shares)), shares)
    most = t.ends("examples", "tables").where(method="all").rows.set_index("dataset")["value"]
    found = knowing(t, "all", "published").rows.set_index("dataset")["value"]
    right.plot(most.reindex(found.index), found, "o", color=draw.PALETTE[1], alpha=0.7, ms=4)
    right.axhline(0, **draw.MARK)
    right.set(xscale="log", xlabel="examples", ylabel="points gained by knowing")
    draw.label_ticks(right, [30, 100, 300, 1000], ["30", "100", "300", "1000"])
    return fig


def spread(t: Table) -> dict[str, float]:
    """Mean error of each method over the tables, in points, as published."""
    return {name: float(errors(t, name)["value"].mean()) for name in WORDS}
