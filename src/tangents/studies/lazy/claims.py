"""What Geiger et al. claim, in our words, and what this book adds; each with its estimate.

The first version (2019) and the journal version (2020) differ in data, depth and loss. A seed sets
weights and data, so that intervals are over both; where networks of one draw of the data are
compared (part "members") the draws are the independent units.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, ratio
from tangents.lab.statistics import crossing, jackknife, over_seeds, power, slope

V1, V2, HERE = "geiger2019", "geiger2020", "this book"
LEVEL = 0.3  # relative change of the kernel at the border between the regimes
FEATURE = 1.0  # the value of sqrt(h) alpha that stands for the feature regime
FITTED = (1e-2, FEATURE)  # those in which the feature regime's exponents are fitted
INFINITE = (1e300, INF)  # the lazy regime at its end
FAR = 1e4  # where that end stands on an axis of scales

MINUS_HALF = Accept("exponent $-1/2$", -0.6, -0.4)
MINUS_ONE = Accept("exponent $-1$", -1.15, -0.85)
FLAT = Accept("exponent 0", -0.1, 0.1)
WIDTHS = dict(width=(100, 800))  # of the first version's fully connected networks

# ---- what the rows say


def border(scales: Sequence[float], change: Sequence[float], level: float) -> float:
    """Where a change falls below the level as the scale grows; nan where it does not, or rises."""
    log = np.log(np.asarray(change, float) / level)
    falls = len(log) > 1 and log[0] > 0 > log[-1]
    return crossing(scales, log, 0.0) if falls else math.nan


def kernel_borders(t: Table, level: float = LEVEL, invert: bool = False) -> Runs:
    """alpha* of each network, where its kernel has changed by the level: one for width and seed."""
    runs = t.ends("kernel_change", "border")
    rows = runs.rows.sort_values("scaled_alpha")
    rows = rows.assign(value=level**2 / rows["value"]) if invert else rows
    stars = [
        (h, seed, border(g["scaled_alpha"], g["value"], level) / math.sqrt(h))
        for (h, seed), g in rows.groupby(["width", "seed"])
    ]
    return Runs(pd.DataFrame(stars, columns=["width", "seed", "value"]), runs.states)


def half_height(rows: pd.DataFrame) -> float:
    """The scale at which the mean test error has risen half way from FEATURE to the lazy end."""
    mean = rows.groupby(rows["scaled_alpha"].clip(upper=FAR))["value"].mean()[FEATURE:]
    error = mean.to_numpy()
    half = (error[0] + error[-1]) / 2
    return crossing(mean.index, error, half) if error[0] < error[-1] else math.nan


def gaps(t: Table, part: str) -> pd.DataFrame:
    """Lazy minus feature test error in points, a column a width, a row a seed."""
    runs = t.ends("error", part)
    lazy = runs.where(scaled_alpha=INFINITE)
    feature = runs.where(scaled_alpha=(0, FEATURE))
    tables = (100 * each.rows.pivot_table(index="seed", columns="width", values="value")
              for each in (lazy, feature))  # fmt: skip
    return (next(tables) - next(tables)).dropna(axis=1, how="all").dropna()


def members(t: Table, **where: Any) -> tuple[dict[int, list[np.ndarray]], list[np.ndarray]]:
    """Outputs F at test examples: by width, a list over draws of the data of arrays members x
    examples; draws and numbers of members that all widths have. And each draw's labels."""
    rows = t.ends("converged", "members").where(**where).rows
    tables = rows.groupby(["data_seed", "width"])["run_id"].apply(list).unstack().dropna()
    if tables.empty:
        raise LookupError("no draw of part 'members' with converged runs of all widths")
    least = min(len(runs) for column in tables for runs in tables[column])
    found = {
        h: [np.stack([t.array(r, "test_output") for r in runs[:least]]) for runs in tables[h]]
        for h in tables
    }
    return found, [t.array(runs[0], "test_label") for runs in tables[min(found)]]


def errors(outputs: list[np.ndarray], y: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Test errors in points of single networks, and of the mean of all members; each by draw."""
    pairs = [*zip(outputs, y, strict=True)]
    single = [100 * np.mean(f * labels <= 0) for f, labels in pairs]
    return np.array(single), np.array([100 * np.mean(f.mean(0) * labels <= 0)
                                       for f, labels in pairs])  # fmt: skip


def over_draws(estimator, draws: int, runs: int) -> Estimate:
    """What an estimator says of a list of draws, with its jackknife interval over them."""
    return Estimate(*jackknife(lambda i: estimator([*i]), range(draws)), draws, runs)


def kernel_at(t: Table, share: float, **where: Any) -> Runs:
    """The change of the kernel of each run at a share of t1, between looks, of log against log."""
    change = t.every("kernel_change", "feature").where(**where)
    t1 = t.ends("t1", "feature").where(**where).by_run
    rows = change.rows[change["run_id"].isin(t1.index) & (change["time"] > 0)]
    last = rows.drop_duplicates("run_id").sort_values("run_id")
    ways = {run: way.sort_values("time") for run, way in rows.groupby("run_id")}
    found = [
        math.exp(np.interp(math.log(share * t1[run]), np.log(ways[run]["time"]),
                           np.log(ways[run]["value"])))
        for run in last["run_id"]
    ]  # fmt: skip
    return Runs(last.assign(value=found))


def early(rows: pd.DataFrame) -> float:
    """The exponent of a value in time, mean over runs of which three looks or more are there."""
    ways = [way for _, way in rows.groupby("run_id") if len(way) > 2]
    return float(np.mean([power(way["time"], way["value"]) for way in ways]))


def times(t: Table, metric: str) -> Runs:
    """t1 of each converged run, or t2, the time at which it converged."""
    runs = t.ends("t1" if metric == "t1" else "converged", "feature")
    return runs if metric == "t1" else runs.map(runs["time"])


def frozen_table(t: Table) -> pd.DataFrame:
    """Errors in points, a row a run: of the network, and of its first and its last kernel.

    Runs in which one of the three did not fit the training set are left out.
    """
    both = [t.every(name, "frozen").rows for name in ("frozen_error", "frozen_converged")]
    machines = pd.concat(both).pivot_table(
        index=["run_id", "time"], columns="metric", values="value"
    )
    fitted = machines["frozen_error"].where(machines["frozen_converged"] == 1)
    first, last = (fitted.groupby("run_id").agg(lambda v, at=at: v.iloc[at]) for at in (0, -1))
    network = t.ends("error", "frozen").rows.set_index("run_id")
    table = (
        network[["scaled_alpha", "seed"]]
        .assign(network=100 * network["value"], first=100 * first, last=100 * last)
        .dropna()
    )
    if table.empty:
        raise LookupError("no run of part 'frozen' whose network and frozen kernels converged")
    return table.sort_values(["scaled_alpha", "seed"])


def integrators(t: Table, a: dict, b: dict) -> Estimate:
    """Largest over alpha of |F_a - F_b| / |F_b| on the test set, mean over seeds.

    Outputs are kept in half precision, which by itself makes a difference of about 3e-4.
    """
    runs = t.ends("converged", "integrator")

    def named(settings):
        rows = runs.where(**settings).rows.set_index(["scaled_alpha", "seed"])["run_id"]
        return {k: t.array(r, "test_output") for k, r in rows.items()}

    one, other = named(a), named(b)
    both = sorted(set(one) & set(other))
    if not both:
        raise LookupError("no converged pair of runs to compare")
    gap = {k: np.linalg.norm(one[k] - other[k]) / np.linalg.norm(other[k]) for k in both}
    worst = pd.Series(gap).groupby(level=1).max()
    return runs.estimate(over_seeds(worst), len(worst), 2 * len(gap))


# ---- two regimes and one crossover


@claim(
    "geiger-1", V1, "abstract, section 3", MINUS_HALF, range=WIDTHS,
    over={
        "geiger-1a": Setting("read off the change of the kernel", dict(of="kernel")),
        "geiger-1c": Setting(r"read off the test error at half height, $h = 64$: the value of "
                             r"$\sqrt{h}\alpha$", dict(of="error"), Accept("30 to 50", 20, 80)),
    },
)  # fmt: skip
def two_regimes(t: Table, of: str) -> Estimate:
    r"""The output scale $\alpha^*$ that separates lazy from feature learning falls as
    $h^{-1/2}$."""
    if of == "error":
        runs = t.ends("error", "phase").where(width=64)
        return runs.jackknife(lambda rows: math.log(half_height(rows))).exp()
    stars = kernel_borders(t)
    low, high = (kernel_borders(t, level).exponent("width").value for level in (0.2, 0.5))
    missed = int(stars["value"].isna().sum())
    found = replace(stars.exponent("width"), runs=len(t.ends("kernel_change", "border")))
    span = t.ends("kernel_change", "border")["width"]
    return replace(found, span=dict(width=(span.min(), span.max()))).noting(
        f"threshold {LEVEL}; {low:.2f} with 0.2, {high:.2f} with 0.5",
        f"{missed} networks do not cross" if missed else "",
    )


@claim(
    "geiger-2", V1, "abstract, set-up A; journal version, abstract", Accept("gap above 0", 0, INF),
    over={
        "geiger-2a": Setting("MNIST, widest network (paper: 0.65 points at $h=800$)",
                             dict(part="phase", at="widest")),
        "geiger-2b": Setting("MNIST, points per doubling of the width", dict(part="phase"),
                             Accept("shrinks: below 0", -INF, 0)),
        "geiger-2c": Setting("MNIST, widest network: hardly detectable",
                             dict(part="phase", at="widest"), Accept("below 0.65", -INF, 0.65)),
        "geiger-4b": Setting("Fashion-MNIST pixels, narrow", dict(part="fashion", at="narrowest")),
        "geiger-4a": Setting("Fashion-MNIST pixels, points per doubling of the width: towards the "
                             "reversal that the journal version finds", dict(part="fashion"),
                             Accept("below 0", -INF, 0)),
    },
    range=dict(n=(5000, INF), width=(100, INF)),
)  # fmt: skip
def gap(t: Table, part: str, at: str = "") -> Estimate:
    """Fully connected networks: feature learning errs less than lazy learning (test error of the
    first kernel's machine minus that of the network, in points), and the less so the wider."""
    table, runs = gaps(t, part), t.ends("error", part)
    if at:
        h = table.columns.max() if at == "widest" else table.columns.min()
        found = runs.where(width=h).estimate(over_seeds(table[h]), len(table), 2 * len(table))
        return found.noting(f"width {h}")
    slopes = [slope(np.log2(table.columns), row) for row in table.to_numpy()]
    return runs.estimate(over_seeds(slopes), len(table), 2 * table.size)


@claim(
    "geiger-3", V1, "abstract, set-up B", Accept("3.7 % against 1.7 % at $h=159$", 1.5, 3),
    over={
        "geiger-3a": Setting("widest", dict(place=-1)),
        "geiger-3b": Setting("narrowest", dict(place=0)),
    },
    range=dict(width=(10, 159)),
)  # fmt: skip
def conv_ratio(t: Table, place: int) -> Estimate:
    """Convolutional network, mini-batches and momentum: lazy learning errs about twice as often as
    feature learning (ratio)."""
    runs = t.ends("error", "conv")
    h = sorted(runs["width"].unique())[place]
    table = runs.where(width=h).pivot("scaled_alpha")
    found = runs.where(width=h).over(table[table.columns.max()] / table[table.columns.min()], True)
    return found.noting(f"width {h}")


# ---- fluctuations


@claim(
    "geiger-5", V1, "abstract, section 4", Accept("exponent $-1$", -1.25, -0.75),
    over={
        "geiger-5a": Setting(r"feature regime, $\sqrt{h}\alpha = 1$", dict(scaled=FEATURE)),
        "geiger-5b": Setting(r"lazy regime, $\alpha = \infty$", dict(scaled=INFINITE)),
    },
)  # fmt: skip
def variance(t: Table, scaled: Any) -> Estimate:
    r"""The variance of $\alpha(f-f_0)$ over initialisations falls as $1/h$."""
    found, _ = members(t, scaled_alpha=scaled)
    spread = {h: [f.var(0, ddof=1).mean() for f in draws] for h, draws in found.items()}
    draws, size = len(spread[min(spread)]), len(found[min(found)][0])

    def exponent(draws):
        return power(list(spread), [np.mean([v[i] for i in draws]) for v in spread.values()])

    estimate = over_draws(exponent, draws, draws * size * len(spread))
    return estimate.noting(f"{draws} draws of the data, {size} networks each")


@claim(
    "geiger-width", V1, "abstract", Accept("falls: below 0", -INF, 0),
    over={
        "geiger-width-feature": Setting(r"feature regime, $\sqrt{h}\alpha = 1$",
                                        dict(scaled=FEATURE)),
        "geiger-width-lazy": Setting(r"lazy regime, $\alpha = \infty$", dict(scaled=INFINITE)),
    },
)  # fmt: skip
def wider_is_better(t: Table, scaled: Any) -> Estimate:
    """Performance grows with the width (points of test error per doubling)."""
    runs = t.ends("error", "phase").where(scaled_alpha=scaled)
    return runs.by_seed(lambda rows: slope(np.log2(rows["width"]), 100 * rows["value"]))


@claim(
    "geiger-6", V1, "abstract, section 4", Accept("0", -0.4, 0.4),
    over={
        "geiger-6a": Setting("feature regime: share left of what a single network gains by width",
                             dict(scaled=FEATURE)),
        "geiger-6b": Setting("lazy regime: the same", dict(scaled=INFINITE)),
        "geiger-6d": Setting("feature regime: narrowest ensemble minus widest single network, in "
                             "points", dict(scaled=FEATURE, instead=True),
                             Accept("not above 0", -INF, 0)),
        "geiger-6e": Setting("lazy regime: the same", dict(scaled=INFINITE, instead=True),
                             Accept("not above 0", -INF, 0)),
    },
)  # fmt: skip
def ensembles(t: Table, scaled: Any, instead: bool = False) -> Estimate:
    """What width gains may be had by averaging networks instead: ensembles of any width err
    alike."""
    found, y = members(t, scaled_alpha=scaled)
    narrow, wide = (errors(found[h], y) for h in (min(found), max(found)))

    def share(draws):
        if instead:
            return np.mean(narrow[1][draws]) - np.mean(wide[0][draws])
        single, ensemble = (np.mean(narrow[k][draws]) - np.mean(wide[k][draws]) for k in (0, 1))
        return ensemble / single

    size = len(found[min(found)][0])
    estimate = over_draws(share, len(y), 2 * size * len(y))
    return estimate.noting(f"widths {min(found)} and {max(found)}, {size} members")


# ---- how long it takes, and what happens meanwhile


@claim(
    "geiger-7", V1, "abstract, section 5", Accept("exponent 1", 0.9, 1.1),
    over={
        "geiger-7a": Setting(r"$t_1$, to halve the loss, against $\sqrt{h}\alpha$",
                             dict(metric="t1", x="scaled_alpha", width=100)),
        "geiger-7c": Setting(r"$t_1$ against the width at $\sqrt{h}\alpha = 1$",
                             dict(metric="t1", x="width", scaled_alpha=FEATURE), FLAT),
        "geiger-8a": Setting(r"$t_2$, to fit all, against $\sqrt{h}\alpha$",
                             dict(metric="t2", x="scaled_alpha", width=100),
                             Accept("exponent 3/2", 1.25, 1.75)),
        "geiger-8c": Setting(r"$t_2$ against the width at $\sqrt{h}\alpha = 1$",
                             dict(metric="t2", x="width", scaled_alpha=FEATURE), FLAT),
    },
    range=WIDTHS,
)  # fmt: skip
def training_times(t: Table, metric: str, x: str, **where: Any) -> Estimate:
    r"""Feature regime: training takes a time $t_1 \sim \sqrt{h}\alpha$, and $t_2 \sim
    (\sqrt{h}\alpha)^{3/2}$ to the end, whatever the width."""
    return times(t, metric).where(**where).exponent(x)


@claim(
    "geiger-t1", V1, "abstract, section 5", Accept("below 0.3", -INF, LEVEL),
    over={
        "geiger-9a": Setting("exponent of the output's change in time, up to $t_1/10$",
                             dict(of="output"), Accept("linear: 1", 0.95, 1.05)),
        "geiger-t1-before": Setting("change of the kernel at $t_1/10$", dict(share=0.1)),
        "geiger-t1-at": Setting("change of the kernel at $t_1$", dict(share=1.0),
                                Accept("above 1", 1, INF)),
        "geiger-t1-scale": Setting(r"at $0.3\,t_1$, exponent in $\sqrt{h}\alpha$",
                                   dict(share=0.3, x="scaled_alpha"),
                                   Accept("one curve: 0", -0.1, 0.1)),
        "geiger-t1-width": Setting(r"at $0.3\,t_1$, exponent in the width at $\sqrt{h}\alpha = 1$",
                                   dict(share=0.3, x="width"),
                                   Accept("one curve: 0", -0.25, 0.25)),
    },
    range=WIDTHS,
)  # fmt: skip
def at_t1(t: Table, share: float = 0.0, x: str = "", of: str = "kernel") -> Estimate:
    r"""Feature regime, $\sqrt{h}\alpha$ from 0.01 to 1: the dynamics is linear for $t \ll t_1$, and
    at $t_1$ the change of the kernel becomes significant, on one curve against $t/t_1$."""
    if of == "output":
        t1 = t.ends("t1", "feature").by_run
        rows = t.every("output_change", "feature").rows
        rows = rows[(rows["time"] > 0) & (rows["time"] < 0.1 * rows["run_id"].map(t1))]
        return Runs(rows).by_seed(early)
    where = dict(scaled_alpha=FEATURE) if x == "width" else dict(width=100)
    runs = kernel_at(t, share, **where)
    return runs.exponent(x) if x else runs.mean(log=True)


@claim("geiger-9b", V1, "abstract, section 5", Accept("exponent 1/2", 0.4, 0.6), kind="identity")
def growth(t: Table) -> Estimate:
    r"""At a fixed $\sqrt{h}\alpha$ the output has grown by a factor $\sqrt{h}$ at $t_1$: it has to
    reach about $1/(2\alpha)$ there, and starts at one size on average."""
    return t.ends("output_t1", "feature").where(scaled_alpha=FEATURE).exponent("width")


# ---- how far kernel and weights move


def _depth(depth: int) -> Setting:
    law = 2 * depth / (depth + 1)
    words = f"homogeneity: {law:.2f}"
    return Setting(f"softplus, {depth} hidden layers", dict(part="depth", depth=depth),
                   Accept(words, law - 0.1, law + 0.1))  # fmt: skip


@claim(
    "geiger-10", V1, "abstract, kernel figure", Accept("1.7", 1.6, 1.8),
    over={
        "geiger-10a": Setting("softplus, 5 hidden layers", dict(part="feature", depth=5)),
        "geiger-10r": Setting("ReLU, 5 hidden layers: below 2", dict(part="relu", depth=5),
                              Accept("below 2, above 1.4", 1.4, 2)),
        **{f"beyond-depth-{depth}": _depth(depth) for depth in (1, 2, 3)},
        "geiger-10c": Setting(r"softplus, at $\sqrt{h}\alpha = 1$: exponent in the width",
                              dict(part="feature", x="width"), FLAT),
    },
    range=WIDTHS,
)  # fmt: skip
def kernel_change(t: Table, part: str, depth: int = 5, x: str = "scaled_alpha") -> Estimate:
    r"""Feature regime: the kernel changes as $(\sqrt{h}\alpha)^{-a}$ for ReLU and softplus, with
    $a < 2$ that tends to 2 with depth, and alike at all widths."""
    runs = t.ends("kernel_change", part).where(scaled_alpha=FITTED, depth=depth)
    if x == "width":
        return runs.where(scaled_alpha=FEATURE).exponent("width")
    return -runs.where(width=100).exponent("scaled_alpha")


@claim(
    "geiger-11", V1, "weights figure", Accept("$-0.23$", -0.33, -0.13),
    over={
        "geiger-11a": Setting(r"exponent in $\sqrt{h}\alpha$", dict(x="scaled_alpha")),
        "geiger-11c": Setting(r"exponent in the width at $\sqrt{h}\alpha = 1$", dict(x="width"),
                              MINUS_HALF),
        "beyond-homogeneity": Setting(
            "if all layers grew alike the kernel would go as the $2L$-th power of the weights: "
            "its exponent minus $2L$ times theirs", dict(x="both"), Accept("0", -0.1, 0.1)),
    },
    range=WIDTHS,
)  # fmt: skip
def weights_change(t: Table, x: str) -> Estimate:
    r"""Feature regime, five hidden layers: how far the weights move, $|dw|/|w_0|$."""
    weights = t.ends("weights_change", "feature")
    if x == "width":
        return weights.where(scaled_alpha=FEATURE).exponent("width")
    weights = weights.where(width=100)
    if x == "scaled_alpha":
        return weights.exponent(x)
    kernel = t.ends("kernel_change", "feature").where(width=100).slopes("scaled_alpha")
    return weights.over(-kernel + 10 * weights.slopes("scaled_alpha"))


@claim(
    "geiger-12", V1, "appendix on ReLU", MINUS_HALF,
    over={
        "geiger-12": Setting(r"ReLU, exponent in $\alpha$, $\sqrt{h}\alpha$ from 300 to $10^4$",
                             dict(of="relu")),
        "beyond-residual": Setting(r"softplus, exponent in the width at fixed $\alpha$, 64 to "
                                   r"1024: not $-1/2$, as a bound allows",
                                   dict(of="alpha_change"), MINUS_ONE),
        "beyond-residual-distance": Setting("the same per distance that the weights move",
                                            dict(of="distance")),
    },
)  # fmt: skip
def lazy_kernel(t: Table, of: str) -> Estimate:
    r"""Deep in the lazy regime the kernel still changes: for ReLU, with its kinks, as
    $\alpha^{-1/2}$ at a fixed width; for softplus as $1/\alpha$ times a power of the width."""
    if of == "relu":
        scales = (300, 1000, 3000, 10_000)
        runs = [t.ends(f"change_{s}", "crossed") for s in scales]
        rows = [each.rows.assign(scaled_alpha=s) for s, each in zip(scales, runs, strict=True)]
        return Runs(pd.concat(rows), runs[0].states).exponent("scaled_alpha", "width")
    runs = t.ends("alpha_change", "lazy")
    if of == "distance":
        runs = runs / t.ends("alpha_distance", "lazy")
    return runs.exponent("width")


@claim("geiger-14", V1, "section 4", MINUS_HALF, kind="identity")
def velocity(t: Table) -> Estimate:
    """At initialisation the preactivations move at a speed that falls as $h^{-1/2}$."""
    return t.starts("preactivation_velocity", "lazy").exponent("width")


# ---- what the learned kernel knows


@claim(
    "geiger-13", V1, "section 6", Accept("CNN: 14 to 3.7 % (first), 4.2 to 2.8 % (last)", 0, INF),
    over={
        "geiger-13a": Setting("share of the network's gain over its first kernel that its last one "
                              "has", dict(of="share"), Accept("1", 0.7, 1.3)),
        "geiger-13b": Setting("error of the first kernel minus that of the last, in points",
                              dict(of="difference")),
    },
)  # fmt: skip
def frozen_kernels(t: Table, of: str) -> Estimate:
    r"""Fully connected, $\sqrt{h}\alpha = 0.1$ and 1: a machine with the network's last kernel errs
    as often as the network, and one with its first kernel more often."""
    runs = Runs(frozen_table(t)).where(scaled_alpha=FITTED)
    if of == "difference":
        return runs.map(runs["first"] - runs["last"]).mean()

    def share(rows):
        mean = rows.mean(numeric_only=True)
        return (mean["first"] - mean["last"]) / (mean["first"] - mean["network"])

    return runs.jackknife(share)


# ---- what must fail, or show nothing


@claim(
    "control-shuffled", V1, HERE, Accept("more: above 1", 1, INF), kind="control",
    over={
        "control-shuffled-kernel": Setting("change of the kernel over that with true labels",
                                           dict(metric="kernel_change")),
        "control-shuffled-error": Setting("test error in per cent", dict(metric="error"),
                                          Accept("chance: 50", 47, 53)),
    },
)  # fmt: skip
def shuffled_labels(t: Table, metric: str) -> Estimate:
    r"""With shuffled labels the kernel moves more, and nothing is learnt: its norm does not measure
    what is ($\sqrt{h}\alpha = 1$, width 100)."""
    noise = t.ends(metric, "shuffled")
    if metric == "error":
        return noise.map(100 * noise["value"]).mean()
    return ratio(noise, t.ends(metric, "feature").where(scaled_alpha=FEATURE, width=100))


@claim("control-inverted", V1, HERE, Accept("none: 0", 0, 0), kind="control")
def planted_wrong_sign(t: Table) -> Estimate:
    r"""Where $1/\|\Delta\Theta\|$ is planted in place of $\|\Delta\Theta\|$ no network has a
    border (share of those that have one as they are)."""
    stars, planted = kernel_borders(t), kernel_borders(t, invert=True)
    found = planted["value"].notna().sum() / stars["value"].notna().sum()
    runs = t.ends("kernel_change", "border")
    estimate = runs.estimate((float(found), math.nan, math.nan))
    return replace(estimate, holds=bool(found == 0))


TIGHT = dict(dynamics="gradient_flow", implicit=True)
CLOSE = Accept(r"$\leq$ 0.05", -INF, 5e-2)


@claim(
    "control-integrator", V2, "appendix, and this book", CLOSE, kind="control",
    over={
        "geiger-15": Setting("tolerances $10^{-4}$ and $10^{-6}$ of implicit steps",
                             dict(a=dict(tolerance=1e-4, **TIGHT), b=dict(tolerance=1e-6, **TIGHT)),
                             Accept(r"$\leq$ 2.5e-3", -INF, 2.5e-3)),
        "beyond-steps": Setting("implicit steps and Euler's at the paper's tolerance",
                                dict(a=dict(tolerance=1e-4, **TIGHT),
                                     b=dict(tolerance=1e-4, dynamics="gradient_flow",
                                            implicit=False)),
                                Accept(r"$\leq$ 0.01", -INF, 1e-2)),
        "beyond-tolerance": Setting("tolerance $10^{-2}$, of this chapter, and $10^{-6}$",
                                    dict(a=dict(tolerance=1e-2, **TIGHT),
                                         b=dict(tolerance=1e-6, **TIGHT))),
        "beyond-momentum": Setting("the first version's continuous momentum and gradient flow",
                                   dict(a=dict(dynamics="momentum"),
                                        b=dict(tolerance=1e-6, **TIGHT))),
    },
)  # fmt: skip
def same_output(t: Table, a: dict, b: dict) -> Estimate:
    r"""The trained output does not depend on the integrator: relative difference of outputs at test
    images ($h = 32$, 50 images, $\sqrt{h}\alpha = 1$)."""
    return integrators(t, a, b)


CLAIMS = claims_in(globals())
