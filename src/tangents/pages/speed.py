"""Figures and tables of the chapter on speed, from the rows that benchmarks/engine.py writes."""

import math
from html import escape

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tangents.lab.figures import MARKERS, PALETTE, panels
from tangents.lab.store import measurements

OURS = "tangents"
PHASE = 1000  # steps that are leapt at once
LEAN = rf"{OURS}, (\d+) MB"  # within a budget
COLOURS = [*PALETTE[:8], *PALETTE[9:]]  # but for yellow, which is hard to see on white
TASKS = {
    "kernel": "kernel",
    "step": "Gauss–Newton step",
    "linearised": "step of the linearised model",
    "phase": f"{PHASE} steps of the linearised model",
    "stack": "64 networks, 200 steps",
    "closed": "kernel of infinite width",
}
# What this package aims at: times the fastest peer, as stated before the measurements.
AIMS = {
    ("kernel", "full"): 4.0,
    ("kernel", "trace"): 2.0,
    ("kernel", "one output"): 1.3,
    ("kernel", "cnn"): 2.5,
    ("step", ""): 2.0,
    ("phase", ""): 100.0,
    ("stack", ""): 1.5,
    ("closed", ""): 4.0,
}
TRADED = [
    "mlp, all outputs, n = 256",
    "mlp, all outputs, n = 1024",
    "mlp, one output, n = 2048",
    "mlp, trace, n = 256",
    "mlp, trace, n = 1024",
    "cnn 28, all outputs, n = 64",
]


def load(table: str) -> pd.DataFrame:
    """Rows of a measurement, with the problem in words and the budget in MB, if there was one."""
    frame = measurements(table)
    frame["outputs"] = frame["outputs"].fillna("")
    frame["budget"] = frame["peer"].str.extract(LEAN, expand=False).astype(float)
    frame["problem"] = [_words(row) for row in frame.itertuples()]
    return frame


def _words(row) -> str:
    outputs = {"full": "all outputs", "trace": "trace"}.get(row.outputs, "")
    outputs = "" if "one output" in row.model else outputs
    parts = [TASKS[row.task], row.model, outputs, f"n = {row.n}"]
    return ", ".join(part for part in parts if part)


def _aim(row) -> float:
    kind = row["outputs"] if row["task"] == "kernel" else ""
    kind = "one output" if "one output" in row["model"] else kind
    kind = "cnn" if row["model"].startswith("cnn") else kind
    return AIMS.get((row["task"], kind), np.nan)


def packages(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with a time of all packages as they come, without a budget."""
    some = frame["budget"].isna() & (frame["peer"] != "one step of the network")
    return frame[some].dropna(subset=["seconds"])


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a problem: our time and memory, the fastest peer's, and how many times faster.

    And the quickest run within a budget that took less memory than any peer, if there is one.
    """
    limited, rows = frame[frame["budget"].notna()].dropna(subset=["seconds"]), []
    for name, group in packages(frame).groupby("problem", sort=False):
        ours, others = group[group["peer"] == OURS], group[group["peer"] != OURS]
        if len(ours) and len(others):
            mine, best = ours.iloc[0], others.loc[others["seconds"].idxmin()]
            leanest = others.loc[others["mb"].idxmin()]
            lean = limited[(limited["problem"] == name) & (limited["mb"] < leanest["mb"])]
            lean = {"mb": np.nan} if lean.empty else lean.loc[lean["seconds"].idxmin()]
            rows.append({
                "problem": name, "task": mine["task"], "seconds": mine["seconds"],
                "peer": best["peer"], "peer seconds": best["seconds"],
                "ratio": best["seconds"] / mine["seconds"], "aim": _aim(mine), "mb": mine["mb"],
                "leanest": leanest["peer"], "least mb": leanest["mb"],
                "leanest seconds": leanest["seconds"],
                "lean mb": lean["mb"], "lean seconds": lean.get("seconds", np.nan),
                "share of peak": mine["share of peak"], "deviation": others["deviation"].max(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _styles(frame: pd.DataFrame) -> dict[str, dict]:
    """How each peer is drawn, in all figures alike."""
    names = dict.fromkeys(frame.loc[frame["budget"].isna(), "peer"])
    return {
        peer: dict(color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)])
        for place, peer in enumerate(names)
    }


def against_size(frame: pd.DataFrame) -> Figure:
    """Time and memory of the kernel of a fully connected network against the number of inputs."""
    fig, axes = panels(2, rows=2)
    styles = _styles(frame)
    kernels = packages(frame)
    kernels = kernels[(kernels["task"] == "kernel") & (kernels["model"] == "mlp")]
    shown = {}
    for column, (outputs, title) in enumerate({"full": "all outputs", "trace": "trace"}.items()):
        some = kernels[kernels["outputs"] == outputs]
        for row, (name, label) in enumerate((("seconds", "time (s)"), ("mb", "memory (MB)"))):
            ax = axes[2 * row + column]
            ax.set(xscale="log", yscale="log", xlabel="inputs $n$", ylabel=f"{title}: {label}")
            sizes = sorted(some["n"].unique())
            ax.set_xticks(sizes, [str(n) for n in sizes])
            ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
            for peer, group in some.groupby("peer", sort=False):
                width = 2.2 if peer == OURS else 1.3
                (line,) = ax.plot(
                    group["n"], group[name].clip(lower=1e-3), lw=width, **styles[peer]
                )
                shown.setdefault(peer, line)
    fig.legend(shown.values(), shown, loc="outside upper center", ncols=3)
    return fig


def advantage(frame: pd.DataFrame) -> Figure:
    """How many times longer each peer takes, problem by problem, and what was aimed at."""
    styles, table = _styles(frame), ratios(frame)
    fig, (ax,) = panels(1, height=0.36 * len(table) + 1.2)
    fig.set_figwidth(8.0)
    ax.set(xscale="log", xlabel="time of a peer / time of tangents")
    shown = set()
    for y, name in enumerate(table["problem"]):
        group = packages(frame[frame["problem"] == name])
        mine = group.loc[group["peer"] == OURS, "seconds"].iloc[0]
        for row in group[group["peer"] != OURS].itertuples():
            label = None if row.peer in shown else row.peer
            shown.add(row.peer)
            ax.plot(row.seconds / mine, y, ls="", label=label, **styles[row.peer])
    aims = table.reset_index()
    ax.plot(aims["aim"], aims.index, "|", color="0.2", ms=13, mew=2, label="aim")
    ax.axvline(1, color="0.4", lw=1, ls=":")
    ax.set_yticks(range(len(table)), table["problem"], fontsize=9)
    ax.invert_yaxis()
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def trade_off(frame: pd.DataFrame) -> Figure:
    """Memory against time, of the peers and of this package within budgets."""
    fig, axes = panels(2, rows=3)
    styles, shown = _styles(frame), {}
    timed = frame.dropna(subset=["seconds"])
    for ax, name in zip(axes, TRADED, strict=True):
        ax.set(xscale="log", yscale="log", xlabel="time (s)", ylabel="memory (MB)")
        some = timed[timed["problem"] == f"kernel, {name}"]
        ax.set_title(name, fontsize=9.5)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 3)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        mine = some[some["peer"].str.startswith(OURS)].sort_values("mb")
        ax.plot(mine["seconds"], mine["mb"], lw=2.2, **styles[OURS])
        for row in some[~some.index.isin(mine.index)].itertuples():
            shown[row.peer] = ax.plot(row.seconds, row.mb, ls="", ms=7, **styles[row.peer])[0]
    lines = {OURS: axes[0].lines[0], **shown}
    fig.legend(lines.values(), lines, loc="outside upper center", ncols=3)
    return fig


def peak_share(frame: pd.DataFrame) -> Figure:
    """Operations a second over those of a large matrix product, against the operations."""
    fig, (ax,) = panels(1, height=4.2)
    fig.set_figwidth(7.0)
    ax.set(xscale="log", yscale="log", xlabel="operations needed (GFLOP)",
           ylabel="share of the matrix-product peak")  # fmt: skip
    kernels = packages(frame[frame["task"] == "kernel"])
    styles = _styles(frame)
    for peer, group in kernels.groupby("peer", sort=False):
        size = 8 if peer == OURS else 5
        style = dict(ls="", ms=size, label=peer, **styles[peer])
        ax.plot(group["gflop"], group["share of peak"], **style)
    ax.axhline(1, color="0.4", lw=1, ls=":")
    ax.axhline(0.65, color="0.4", lw=1, ls="--")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def large(frame: pd.DataFrame) -> pd.DataFrame:
    """The shares of the peak of this package's large kernels, without and with the passes."""
    mine = (frame["peer"] == OURS) & (frame["task"] == "kernel") & (frame["n"] >= 1024)
    some = frame[mine]
    whole = some["share of peak"] * (1 + some["passes gflop"] / some["gflop"])
    bound = some["gflop"] / (some["gflop"] + some["passes gflop"])
    columns = {"kernel alone": some["share of peak"], "at most": bound, "with the passes": whole}
    shown = pd.DataFrame(columns).map("{:.0%}".format)
    return shown.set_axis(some["problem"].str.removeprefix("kernel, "))


def break_even(frame: pd.DataFrame) -> int:
    """How many explicit steps of the linearised model the fastest peer makes while all of the phase
    are leapt at once."""
    phase = frame[frame["task"] == "phase"].set_index("peer")["seconds"]
    return math.ceil(PHASE * phase[OURS] / phase.drop(OURS).min())


def behind(frame: pd.DataFrame) -> str:
    """Where another package is faster, in a sentence."""
    slower = ratios(frame).query("ratio < 1")
    each = [f"{row.problem} ({row.peer}, {row.ratio:.2f} times as long here)"
            for row in slower.assign(ratio=1 / slower["ratio"]).itertuples()]  # fmt: skip
    return f"In all but: {'; '.join(each)}." if each else "In every one."


def device_table(table: str = "benchmark-device.csv", least: int = 1024) -> str:
    """What benchmarks/device.py measured of large problems, as an HTML table."""
    frame = measurements(table).fillna({"outputs": ""})
    frame = frame[(frame["task"] == "kernel") & (frame["n"] >= least)]
    shown = pd.DataFrame({
        "Problem": [_words(row).removeprefix("kernel, ") for row in frame.itertuples()],
        "Time": frame["seconds"].map("{:.3g} s".format),
        "Share of the peak": frame["share of peak"].map("{:.0%}".format),
        "Memory": frame["memory gb"].map("{:.2g} GB".format),
    })  # fmt: skip
    return shown.to_html(index=False, classes="ledger")


def recurrent_table(table: str = "benchmark-recurrent.csv") -> str:
    """What benchmarks/recurrent.py measured, as an HTML table."""
    frame = measurements(table)
    words = [f"{r.activation}, {r.layers} layer{'s' * (r.layers > 1)}, {r.dtype}"
             for r in frame.itertuples()]  # fmt: skip
    loop = (frame["pair-steps/s"] / frame["loop, pair-steps/s"]).map("{:.0f} ×".format)
    shown = pd.DataFrame({
        "Kernel": words, "Device": frame["device"], "Time": frame["seconds"].map("{:.3g} s".format),
        "Pairs × steps a second": frame["pair-steps/s"].map("{:.2g}".format),
        "Share of the bound": frame["share of bound"].map("{:.0%}".format),
        "Over a loop": loop.where(frame["loop, pair-steps/s"].notna(), "–"),
    })  # fmt: skip
    return shown.to_html(index=False, classes="ledger")


def _megabytes(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def table(frame: pd.DataFrame) -> str:
    """`ratios` as an HTML table; an aim that was missed is marked."""
    names = (
        "Problem",
        "Here",
        "Fastest peer",
        "Faster",
        "Aim",
        "Memory",
        "Leanest peer",
        "In a budget",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    body = []
    for row in ratios(frame).to_dict("records"):
        met = np.isnan(row["aim"]) or row["ratio"] >= row["aim"]
        aim = "" if np.isnan(row["aim"]) else f"{row['aim']:g}"
        verdict = aim and f'{aim} <span class="verdict {"supported" if met else "contradicted"}">'
        verdict = verdict and f"{verdict}{'met' if met else 'missed'}</span>"
        lean = f"{_megabytes(row['lean mb'])} MB<small>in {row['lean seconds']:.3g} s</small>"
        lean = "–" if np.isnan(row["lean mb"]) or row["mb"] < row["least mb"] else lean
        cells = (
            escape(row["problem"]), f"{row['seconds']:.3g} s",
            f"{row['peer seconds']:.3g} s<small>{escape(row['peer'])}</small>",
            f"{row['ratio']:.3g} ×", verdict, f"{_megabytes(row['mb'])} MB",
            f"{_megabytes(row['least mb'])} MB<small>{escape(row['leanest'])}, "
            f"{row['leanest seconds']:.3g} s</small>", lean,
        )  # fmt: skip
        labelled = zip(names, cells, strict=True)
        body.append(
            "<tr>" + "".join(f'<td data-label="{n}">{c}</td>' for n, c in labelled) + "</tr>"
        )
    return (
        f'<table class="dataframe ledger"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )
