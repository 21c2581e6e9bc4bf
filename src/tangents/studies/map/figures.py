"""The figures of the map, each a function of published rows; panels below one another, as phones
need them."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tangents.lab import figures as draw
from tangents.lab.evidence import Estimate, Runs, Table
from tangents.lab.statistics import smooth
from tangents.studies.map.claims import (
    BEST,
    EDGE,
    MEASURES,
    OF_A_CELL,
    TASKS,
    off,
    plane,
    share,
    stable,
)

GAIN = "gain over the frozen kernel (points)"
UP = "gain (points)"
KNOBS = {
    "alpha": "output scale", "width": "width", "depth": "depth", "init": "initialisation",
    "activation": "activation", "rounds": "linearisations", "damping": "Gauss–Newton",
    "adam": "Adam", "momentum": "momentum", "descent": "step size",
}  # fmt: skip
COLOURS = {name: to_hex(colour) for name, colour in zip(KNOBS, draw.PALETTE, strict=True)}
WRONG = {0.0: "true labels", 0.2: "a fifth wrong", 0.5: "labels say nothing"}
MOVED = "nonlinear share $R$"
# Which of these networks stand for a paper: its knob, at the output scale it works with.
PAPERS = {
    "Geiger et al.: output scale": dict(part="alpha"),
    "Liu et al.: width": dict(part="width", alpha=1.0),
    "Goldwaser & Ge: linearisations": dict(part="rounds", alpha=1.0),
    "Buffelli et al.: Gauss–Newton": dict(part="damping", alpha=1.0),
    "Fort et al.: descent, momentum": dict(part=("descent", "momentum"), alpha=1.0),
    "Huang et al.: orthogonal weights": dict(part="init", draw="orthogonal", alpha=1.0),
}


SHORT = [r"$R$", r"$1-\cos$", r"$1-$CKA", "change of kernel", "way of weights", "hidden layers",
         "alignment", r"$\alpha$ itself", "last kernel"]  # fmt: skip


def column(rows: int, height: float) -> tuple[Figure, Sequence]:
    """Panels below one another, as wide as a phone."""
    fig, axes = draw.panels(1, rows=rows, height=height)
    fig.set_figwidth(3.75)
    return fig, axes


def cells(runs: Runs) -> pd.DataFrame:
    """Means over seeds of networks that differ in nothing else."""
    keys = ["dataset", "flipped", *OF_A_CELL]
    words = ("dataset", "network", "activation", "draw", "train")  # published as categories
    measured = ["value", "error", "error_linear", "error_final", "edge", *MEASURES]
    told = {name: runs[name].astype(str) for name in words} | {k: runs[k] for k in measured}
    rows = pd.DataFrame(runs.rows).assign(**told)
    groups = rows.groupby(keys)
    return groups[measured].mean().assign(seeds=groups["seed"].nunique()).reset_index()


def scattered(ax, table: pd.DataFrame, measure: str) -> None:
    """A mark for each cell, by knob."""
    for place, (part, words) in enumerate(KNOBS.items()):
        mine = table[table["part"] == part]
        ax.plot(mine[measure], mine["value"], ls="", label=words, ms=6, mec="0.2", mew=0.4,
                color=COLOURS[part], marker=draw.MARKERS[place % len(draw.MARKERS)])  # fmt: skip


def present(t: Table, *names: str) -> list[str]:
    """Those of the tasks that were run. Raises LookupError for none."""
    found = [name for name in names if name in set(t.metric("converged")["dataset"])]
    if not found:
        raise LookupError(f"no run on {', '.join(names)}")
    return found


def _root(x: np.ndarray) -> np.ndarray:
    """A scale on which small movements are seen."""
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.square(x)


def headline(t: Table) -> Figure:
    """The gain of all knobs against one measure, on two tasks."""
    names = present(t, "mnist", "xor")
    fig, axes = column(len(names), height=4.2)
    for ax, name in zip(axes, names, strict=True):
        runs, measure = stable(t, name), BEST[name]
        scattered(ax, cells(runs), measure)
        at = np.sort(runs[measure])
        ax.plot(at, smooth(runs[measure], runs["value"], at), color="0.2", lw=1.5)
        ax.axhline(0, **draw.MARK)
        ax.set(xlabel=MEASURES[measure], ylabel=UP)
        ax.set_xscale("function", functions=(_root, _square))
        ax.set_xlim(0, 1.05 * at[-1])
        ax.set_xticks([v for v in (0, 0.02, 0.1, 0.2, 0.4, 0.6) if v < at[-1]])
        ax.set_title(TASKS[name], fontsize=11)
    knobs(fig, axes[0])
    return fig


def knobs(fig: Figure, ax) -> None:
    """The legend of all marks, above the panels."""
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8,
               handletextpad=0.1, columnspacing=0.8)  # fmt: skip


def measures(t: Table) -> Figure:
    """What each measure foretells of a knob that it was not fitted to."""
    names, shown = present(t, "mnist", "xor", "cifar-10"), [*MEASURES, "log_alpha", "final"]
    fig, (ax,) = column(1, height=4.6)
    for place, name in enumerate(names):
        runs = stable(t, name)
        gain = 100 * (runs["error_linear"] - runs["error_final"])
        runs = Runs(runs.rows.assign(final=gain), runs.states)
        found = [runs.jackknife(lambda rows, m=m: share(rows, m)) for m in shown]
        value = np.array([[e.value, e.low, e.high] for e in found]).T
        at = np.arange(len(shown)) + 0.22 * (place - (len(names) - 1) / 2)
        ax.errorbar(value[0], at, xerr=[value[0] - value[1], value[2] - value[0]], ls="", capsize=2,
                    label=TASKS[name], **draw.look(place))  # fmt: skip
    ax.set_yticks(range(len(shown)), SHORT)
    ax.axvline(0, **draw.MARK)
    ax.set(
        xlim=(-0.55, 1.02), ylim=(len(shown) - 0.5, -0.5), xlabel="foretold of other knobs, $R^2$"
    )
    fig.legend(loc="outside upper center", ncols=2, fontsize=8.5, columnspacing=0.8)
    return fig


def above(runs: Runs, measure: str, part: str) -> Estimate:
    return runs.jackknife(lambda rows: off(rows, measure, part))


def offenders(t: Table) -> Figure:
    """How far above the curve of the others each knob gains."""
    names = present(t, "mnist", "xor")
    fig, axes = column(len(names), height=3.4)
    for ax, name in zip(axes, names, strict=True):
        runs = stable(t, name)
        parts = [part for part in KNOBS if part in set(runs["part"])]
        for y, part in enumerate(parts):
            e = above(runs, BEST[name], part)
            ax.errorbar(e.value, y, xerr=[[e.value - e.low], [e.high - e.value]], fmt="o",
                        capsize=3, color=COLOURS[part])  # fmt: skip
        ax.set_yticks(range(len(parts)), [KNOBS[part] for part in parts])
        ax.axvline(0, **draw.MARK)
        ax.set(ylim=(len(parts) - 0.5, -0.5), xlabel="gain above the curve (points)")
        ax.set_title(TASKS[name], fontsize=11)
    return fig


def labels(t: Table) -> Figure:
    """The gain along the output scale for labels of three kinds, against R; and against the share
    of wrong labels, at two training losses."""
    names = present(t, "mnist", "xor")
    fig, axes = column(len(names) + 1, height=3.5)
    for ax, name in zip(axes, names, strict=False):
        for place, (flipped, words) in enumerate(WRONG.items()):
            runs = plane(t, name, flipped, part="alpha")
            each = [runs.where(alpha=a) for a in sorted(runs["alpha"].unique())]
            at = [r["nonlinear"].mean() for r in each]
            draw.bars(ax, at, [r.mean() for r in each], place, label=words, ls="-", lw=0.8)
        ax.axhline(0, **draw.MARK)
        ax.set(xlabel=MOVED, ylabel=UP)
        ax.set_title(TASKS[name], fontsize=11)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3,
               fontsize=8, columnspacing=0.8)  # fmt: skip
    noise(axes[-1], t)
    return fig


def noise(ax, t: Table) -> None:
    """Against the share of labels that are wrong: networks that moved, to two losses."""
    settings = {(0.03, 0.03): "far from lazy", (0.03, 0.005): "the same, to a sixth of the loss",
                (1.0, 0.005): r"$\alpha=1$, to a sixth of the loss"}  # fmt: skip
    for place, ((alpha, target), words) in enumerate(settings.items()):
        runs = plane(t, "mnist", (0.0, 0.4), train="flow", alpha=alpha, target=target)
        runs = Runs(runs.rows[runs["part"].isin(["alpha", "noise"])])
        shares = sorted(runs["flipped"].unique())
        means = [runs.where(flipped=share).mean() for share in shares]
        draw.bars(ax, np.add(shares, 0.004 * place), means, place + 3, label=words, ls="-", lw=0.8)
    ax.axhline(0, **draw.MARK)
    ax.set(xlabel="share of wrong labels", ylabel=UP)
    ax.set_title("MNIST parity", fontsize=11)
    ax.legend(fontsize=8.5)


def final(t: Table) -> Figure:
    """The gain of the network against that of the machine of its last kernel."""
    names = present(t, "mnist", "xor")
    fig, axes = column(len(names), height=3.8)
    for ax, name in zip(axes, names, strict=True):
        table = cells(stable(t, name))
        table = table.assign(machine=100 * (table["error_linear"] - table["error_final"]))
        scattered(ax, table, "machine")
        wrong = cells(plane(t, name, 0.2, part="alpha"))
        machine = 100 * (wrong["error_linear"] - wrong["error_final"])
        ax.plot(machine, wrong["value"], "x", color="0.3", label="a fifth of labels wrong")
        ends = [min(0, table["machine"].min()), table["machine"].max()]
        ax.plot(ends, ends, **draw.MARK)
        ax.set(xlabel="gain of the last kernel (points)", ylabel=UP)
        ax.set_title(TASKS[name], fontsize=11)
    knobs(fig, axes[0])
    return fig


def of_paper(table: pd.DataFrame, **fields) -> pd.Series:
    """Which of the cells stand for a paper."""
    chosen = pd.Series(True, table.index)
    for name, value in fields.items():
        chosen &= table[name].isin(value if isinstance(value, tuple) else [value])
    return chosen


def papers(t: Table) -> Figure:
    """Which part of the plane the knob of each paper reaches, on two tasks."""
    names = present(t, "mnist", "xor")
    fig, axes = column(len(names), height=3.0)
    for ax, name in zip(axes, names, strict=True):
        table = cells(plane(t, name))
        for y, (place, fields) in enumerate(enumerate(PAPERS.values())):
            mine = table[of_paper(table, **fields)]
            if mine.empty:
                continue
            ax.plot([mine["nonlinear"].min(), mine["nonlinear"].max()], [y, y], lw=7, alpha=0.35,
                    color=draw.PALETTE[place], solid_capstyle="butt")  # fmt: skip
            ax.plot(mine["nonlinear"], [y] * len(mine), "|", color=draw.PALETTE[place], ms=11)
        ax.set_yticks(range(len(PAPERS)), [words.split(":")[0] for words in PAPERS], fontsize=9)
        ax.set(xlim=(0, 1), ylim=(len(PAPERS) - 0.5, -0.5), xlabel=MOVED)
        ax.set_title(TASKS[name], fontsize=11)
    return fig


# ---- the map to explore

AXES = [("nonlinear share R", False), ("turn of the kernel, 1 − cos", True),
        ("turn of the centred kernel, 1 − CKA", True), ("relative change of the kernel", True),
        ("distance of the weights over their norm", True),
        ("turn of the hidden layers, 1 − CKA", True)]  # fmt: skip


def spots(t: Table) -> Iterator[dict]:
    """What `pages.plane` shows: a point a cell, with its settings and how to run it again."""
    names = t.metric("converged")["dataset"].astype(str).unique()
    for name in sorted(names, key=lambda name: [*TASKS, name].index(name)):
        for flipped, words in WRONG.items():
            try:
                table = cells(plane(t, name, flipped))
            except LookupError:
                continue
            table = table[table["part"].isin([*KNOBS])]
            marks = {k: of_paper(table, **fields) for k, fields in PAPERS.items()}
            for place, cell in table.iterrows():
                yield dict(
                    panel=f"{TASKS.get(name, name)}, {words}", group=KNOBS[cell["part"]],
                    x=[cell[k] for k in [*MEASURES][: len(AXES)]], y=cell["value"],
                    text=_told(cell), command=_command(cell),
                    marks=[k for k, chosen in marks.items() if chosen[place] and not flipped],
                )  # fmt: skip


def _told(cell: pd.Series) -> str:
    extra = {
        "width": f"width {cell['width']}", "depth": f"{cell['depth']} layers",
        "init": "orthogonal weights" if cell["draw"] == "orthogonal"
        else f"weights times {cell['scale']:g}",
        "activation": cell["activation"], "rounds": f"N = {cell['rounds']}",
        "damping": f"Gauss–Newton, damping {cell['damping']:g}",
        "adam": f"Adam at {cell['rate']:g}",
        "momentum": f"momentum, {cell['rate']:g} of the edge at the start",
        "descent": f"descent, {cell['rate']:g} of the edge at the start",
    }.get(cell["part"], "gradient flow")  # fmt: skip
    beyond = f", {cell['edge']:.1f} of the edge on the way" if cell["edge"] > EDGE else ""
    errors = ", ".join(
        f"{words} {100 * cell[name]:.1f}"
        for name, words in (("error", "network"), ("error_linear", "first kernel"),
                            ("error_final", "last kernel"))
    )  # fmt: skip
    return f"α = {cell['alpha']:g}, {extra}{beyond} (errors in %: {errors}; {cell['seeds']} seeds)"


def _command(cell: pd.Series) -> str:
    fields = ["dataset", "flipped", "part", "alpha"]
    fields += {"init": ["draw", "scale"], "rounds": ["rounds"], "damping": ["damping"],
               "adam": ["rate"], "momentum": ["rate"], "descent": ["rate"]}.get(
        cell["part"], [cell["part"]] * (cell["part"] != "alpha"))  # fmt: skip
    return "python -m tangents run map --preset book" + "".join(
        f" --only {k} {_plain(cell[k])}" for k in fields
    )


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
