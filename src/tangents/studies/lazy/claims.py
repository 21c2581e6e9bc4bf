"""What Geiger et al. claim, in our words, and what this book adds; each with its estimate.

The first version (2019) and the journal version (2020) differ in data, depth and loss.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table
from tangents.lab.statistics import crossing, jackknife, over_seeds, power, powers, slope

V1, V2, HERE = "geiger2019", "geiger2020", "this book"
NARROW = 100  # units up to which the journal version sees no reversal
WIDE = 1000  # units at which the order of the regimes on Fashion-MNIST may be judged
BORDER = 0.3  # relative change of the kernel at the border between the regimes
FEATURE, LAZY = 1.0, 1e4  # the values of sqrt(h) alpha that stand for the two regimes
FITTED = (1e-2, FEATURE)  # those in which the feature regime's exponents are fitted

MINUS_HALF = Accept("exponent $-1/2$", -0.6, -0.4)
MINUS_ONE = Accept("exponent $-1$", -1.1, -0.9)
FLAT = Accept("exponent 0", -0.1, 0.1)
SAME = Accept("ratio 1", 0.8, 1.25)

WIDTHS = dict(width=(100, 800))  # of the first version's fully connected networks

# ---- what the rows say


def kernel_borders(t: Table, level: float = BORDER) -> Runs:
    """alpha* of each network, where its kernel has changed by the level: one for width and seed."""
    runs = t.ends("kernel_change", "border")
    rows = runs.rows.sort_values("scaled_alpha")
    stars = [
        (h, seed, crossing(g["scaled_alpha"], np.log(g["value"] / level), 0.0) / math.sqrt(h))
        for (h, seed), g in rows.groupby(["width", "seed"])
    ]
    return Runs(pd.DataFrame(stars, columns=["width", "seed", "value"]), runs.states)


def error_borders(rows: pd.DataFrame) -> dict[int, float]:
    """alpha* for each width: the mean test error is half way from FEATURE to the largest scale."""
    stars, mean = {}, rows.groupby(["width", "scaled_alpha"])["value"].mean()
    for h in mean.index.unique("width"):
        error = mean[h][FEATURE:]
        half = (error.iloc[0] + error.iloc[-1]) / 2
        stars[h] = crossing(error.index, error.to_numpy(), half) / math.sqrt(h)
    return stars


def gaps(t: Table, part: str = "phase", feature: float = FEATURE) -> pd.DataFrame:
    """Lazy minus feature test error in points, a column a width, a row a seed."""
    table = t.ends("error", part).rows.pivot_table(
        index="seed", columns=["scaled_alpha", "width"], values="value"
    )
    return 100 * (table[LAZY] - table[feature]).dropna()


def gap(t: Table, place: str, part: str = "phase", feature: float = FEATURE) -> Estimate:
    """That gap at the "max" of the widths, or at the "min" of those up to `NARROW`."""
    table = gaps(t, part, feature)
    h = getattr(table.columns, place)()
    if place == "min" and h > NARROW:
        raise LookupError(f"no network of at most {NARROW} units in part {part!r}")
    runs = t.ends("error", part).where(width=h)
    found = runs.estimate(over_seeds(table[h]), len(table), 2 * len(table))
    return found.noting(f"lazy minus feature in points, width {h}")


def outputs(t: Table, scaled: float) -> dict[int, np.ndarray]:
    """Outputs F on test examples of the converged runs: by width, seeds x examples."""
    rows = t.ends("converged", "phase").where(scaled_alpha=scaled).rows
    rows = rows.sort_values(["width", "seed"])
    if rows.empty:
        raise LookupError(f"no converged run at sqrt(h) alpha = {scaled:g} in part 'phase'")
    if "data_seed" in rows and rows["data_seed"].nunique() > 1:
        raise LookupError("outputs on the test examples of several draws cannot be compared")
    return {
        h: np.stack([t.array(r, "test_output") for r in g["run_id"]])
        for h, g in rows.groupby("width")
    }


def labels(t: Table) -> np.ndarray:
    """Labels of the test examples whose outputs are kept."""
    kept = t.ends("converged", "phase").where(keep_output=True)
    return t.array(kept["run_id"].iloc[0], "test_label")


def share_left(worse: np.ndarray, better: np.ndarray, y: np.ndarray) -> Callable[..., float]:
    """Of some members: the share of the two kinds' difference in error left to their averages."""

    def error(f):
        return np.mean(f * y <= 0)

    def one(members):
        single = error(worse[members]) - error(better[members])
        return (error(worse[members].mean(0)) - error(better[members].mean(0))) / single

    return one


def among(members: int, estimator: Callable[..., float], runs: int) -> Estimate:
    """What an estimator says of networks that differ in their seed alone."""
    return Estimate(*jackknife(estimator, range(members)), members, runs)


def times(t: Table, metric: str) -> Runs:
    """t1 of each converged run, or t2, the time at which it converged."""
    if metric == "t1":
        return t.ends("t1", "phase")
    runs = t.ends("converged", "phase")
    return runs.map(runs["time"])


def curves(t: Table, part: str, metric: str, **where) -> pd.DataFrame:
    """A metric along the training of the converged runs, with each run's t1 beside it."""
    t1 = t.ends("t1", part).by_run.rename("t1")
    rows = t.every(metric, part).where(**where).rows
    if not rows["run_id"].isin(t1.index).any():
        raise LookupError(f"no converged run with {metric!r} among those asked for in {part!r}")
    return rows.join(t1, on="run_id", how="inner").sort_values(["run_id", "time"])


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


# ---- the claims: two regimes and one crossover


@claim("geiger-1a", V1, "abstract, section 3", MINUS_HALF, range=WIDTHS)
def border_by_kernel(t: Table) -> Estimate:
    r"""The output scale $\alpha^*$ that separates lazy from feature learning, read off the change
    of the kernel, falls as $h^{-1/2}$."""
    stars = kernel_borders(t)
    low, high = (kernel_borders(t, level).exponent("width").value for level in (0.1, 1.0))
    missed = int(stars["value"].isna().sum())
    found = replace(stars.exponent("width"), runs=len(t.ends("kernel_change", "border")))
    return found.noting(
        f"threshold {BORDER}; {low:.2f} with 0.1, {high:.2f} with 1",
        f"{missed} networks never cross" if missed else "",
    )


@claim("geiger-1b", V1, "section 3", MINUS_HALF, range=WIDTHS)
def border_by_error(t: Table) -> Estimate:
    r"""The same scale, read off the test error at half height, falls as $h^{-1/2}$."""

    def slope(rows):
        stars = error_borders(rows)
        return power(list(stars), list(stars.values()))

    return t.ends("error", "phase").jackknife(slope)


@claim("geiger-1c", V1, "section 3", Accept("30 to 50", 20, 80), range=WIDTHS)
def half_height(t: Table) -> Estimate:
    r"""The test error has risen half way where $\sqrt{h}\alpha$ is 30 to 50 (accepted within a
    factor of about 1.6)."""

    def place(rows):
        return np.mean([math.log(star * math.sqrt(h)) for h, star in error_borders(rows).items()])

    return t.ends("error", "phase").jackknife(place).exp()


@claim("geiger-2a", V1, "set-up A", Accept("0.65 points at $h=800$", 0, INF))
def gap_at_largest(t: Table) -> Estimate:
    """Fully connected, ten principal components: feature learning errs less than lazy learning at
    the largest width."""
    return gap(t, "max")


@claim(
    "geiger-2b", V1, "set-up A", Accept("1.15 to 0.65 points, $h$ from 100 to 800", -INF, 0),
    range=WIDTHS,
)  # fmt: skip
def gap_shrinks(t: Table) -> Estimate:
    """That gap shrinks as the network widens."""
    table = gaps(t)
    slopes = [slope(np.log2(table.columns), row) for row in table.to_numpy()]
    found = t.ends("error", "phase").estimate(over_seeds(slopes), len(table), 2 * table.size)
    return found.noting("points per doubling of the width")


@claim(
    "geiger-3", V1, "set-up B", Accept("3.7 % against 1.7 % at $h=159$", 1.5, 3),
    range=dict(width=(10, 159)),
)  # fmt: skip
def conv_ratio(t: Table) -> Estimate:
    """Convolutional network: lazy learning errs about twice as often as feature learning."""
    runs = t.ends("error", "conv").largest()
    table = runs.pivot("scaled_alpha")
    ratios = table[table.columns.max()] / table[table.columns.min()]
    found = runs.estimate(over_seeds(ratios), len(table), 2 * len(table))
    return found.noting(f"width {runs['width'].max()}")


@claim(
    "geiger-4a", V2, "abstract", Accept("2.65 % against 2.88 % at $h=1390$", -INF, 0),
    range=dict(width=(WIDE, INF)),
)  # fmt: skip
def lazy_wins_wide(t: Table) -> Estimate:
    """Fully connected on Fashion-MNIST pixels, wide: lazy learning errs less than feature
    learning."""
    return gap(t, "max", "fashion", 1e-2)


@claim("geiger-4b", V2, "section 3", Accept("order reversed", 0, INF))
def feature_wins_narrow(t: Table) -> Estimate:
    r"""The same, narrow ($h \leq 100$): feature learning errs less."""
    return gap(t, "min", "fashion", 1e-2)


# ---- fluctuations


@claim(
    "geiger-5", V1, "section 4", Accept("exponent $-1$", -1.25, -0.75),
    over={
        "geiger-5a": Setting(r"feature regime, $\sqrt{h}\alpha = 0.01$", dict(scaled=1e-2)),
        "geiger-5b": Setting(r"lazy regime, $\sqrt{h}\alpha = 10^4$", dict(scaled=LAZY)),
    },
)  # fmt: skip
def variance(t: Table, scaled: float) -> Estimate:
    r"""The variance of $\alpha(f-f_0)$ over initialisations falls as $1/h$."""
    found = outputs(t, scaled)
    k = min(map(len, found.values()))

    def slope(members):
        return power(list(found), [f[members].var(0, ddof=1).mean() for f in found.values()])

    return among(k, slope, k * len(found))


@claim(
    "geiger-6", V1, "section 4", Accept("0", -0.4, 0.4),
    over={
        "geiger-6a": Setting("feature regime", dict(scaled=FEATURE)),
        "geiger-6b": Setting("lazy regime", dict(scaled=LAZY)),
    },
)  # fmt: skip
def ensemble_flat(t: Table, scaled: float) -> Estimate:
    """An ensemble's error does not depend on the width (share of the single network's gain from
    width that is left)."""
    found = outputs(t, scaled)
    k = min(map(len, found.values()))
    small, large = found[min(found)], found[max(found)]
    return among(k, share_left(small, large, labels(t)), 2 * k).noting(f"ensembles of {k}")


@claim("geiger-6c", V1, "section 4", Accept("0.2 of 0.65 points", -0.5, 0.5))
def ensemble_gap(t: Table) -> Estimate:
    """Ensembles of either regime err almost alike (share left of the gap between single networks,
    largest width)."""
    both = [outputs(t, scaled) for scaled in (FEATURE, LAZY)]
    h = max(both[0])
    feature, lazy = (found[h] for found in both)
    k = min(len(feature), len(lazy))
    found = among(k, share_left(lazy, feature, labels(t)), 2 * k)
    return found.noting(f"width {h}, ensembles of {k}")


# ---- how long it takes


@claim("geiger-7a", V1, "section 5", Accept("exponent 1", 0.9, 1.1))
def fitting_time(t: Table) -> Estimate:
    r"""Feature regime: the time $t_1$ to halve the loss grows as $\sqrt{h}\alpha$, at a fixed
    width."""
    return times(t, "t1").where(scaled_alpha=FITTED).exponent("scaled_alpha", "width")


@claim("geiger-8a", V1, "section 5", Accept("exponent 3/2", 1.25, 1.75))
def ending_time(t: Table) -> Estimate:
    r"""Feature regime: the time $t_2$ to the end of training grows as $(\sqrt{h}\alpha)^{3/2}$, at
    a fixed width."""
    return times(t, "t2").where(scaled_alpha=FITTED).exponent("scaled_alpha", "width")


@claim(
    "geiger-7-8c", V1, "section 5", FLAT,
    range=WIDTHS,
    over={
        "geiger-7c": Setting("$t_1$", dict(metric="t1")),
        "geiger-8c": Setting("$t_2$", dict(metric="t2")),
    },
)  # fmt: skip
def times_collapse(t: Table, metric: str) -> Estimate:
    r"""Feature regime: at a fixed $\sqrt{h}\alpha$ the two times do not depend on the width."""
    return times(t, metric).where(scaled_alpha=FITTED).exponent("width", "scaled_alpha")


@claim(
    "geiger-7-8b", V1, "section 5", SAME,
    kind="identity",
    over={
        "geiger-7b": Setting("$t_1$", dict(metric="t1")),
        "geiger-8b": Setting("$t_2$", dict(metric="t2")),
    },
)  # fmt: skip
def plateau(t: Table, metric: str) -> Estimate:
    r"""Lazy regime: the two times do not depend on $\alpha$."""
    runs = times(t, metric).where(scaled_alpha=(1e3, 1e4))
    rows = runs.rows.pivot_table(index="seed", columns=["scaled_alpha", "width"], values="value")
    return runs.over((rows[1e4] / rows[1e3]).mean(axis=1)).noting("ratio of $10^4$ to $10^3$")


@claim("geiger-9a", V1, "section 5", Accept("exponent 1", 0.95, 1.05))
def early_linear(t: Table) -> Estimate:
    r"""$|f_t - f_0|$ grows linearly in time while $t \ll t_1$."""
    rows = curves(t, "phase", "output_change", scaled_alpha=FITTED)
    rows = rows[(rows["time"] > 0) & (rows["time"] < 0.1 * rows["t1"])]

    def one(seed_rows):
        groups = [g for _, g in seed_rows.groupby("run_id") if len(g) > 2]
        return float(np.mean([power(g["time"], g["value"]) for g in groups]))

    return Runs(rows).by_seed(one)


@claim("geiger-9b", V1, "section 5", Accept("exponent 1/2", 0.35, 0.65), range=WIDTHS)
def growth(t: Table) -> Estimate:
    r"""Feature regime, at a fixed $\sqrt{h}\alpha$: the factor by which the output has grown at
    $t_1$ goes as $\sqrt{h}$."""
    grown = t.ends("output_t1", "phase").where(scaled_alpha=1e-2)
    return (grown / t.starts("output_norm", "phase")).exponent("width")


# ---- how far kernel and weights move


@claim("geiger-10a", V1, "kernel figure", Accept("1.7 (homogeneity: 5/3)", 1.5, 1.9))
def kernel_in_scale(t: Table) -> Estimate:
    r"""Feature regime, five hidden layers: the kernel changes as $(\sqrt{h}\alpha)^{-a}$,
    $a = 1.7$, at a fixed width."""
    runs = t.ends("kernel_change", "phase").where(scaled_alpha=FITTED)
    return -runs.exponent("scaled_alpha", "width")


@claim("geiger-10c", V1, "kernel figure", FLAT, range=WIDTHS)
def kernel_collapse(t: Table) -> Estimate:
    r"""Feature regime: at a fixed $\sqrt{h}\alpha$ the kernel changes alike at every width."""
    runs = t.ends("kernel_change", "phase").where(scaled_alpha=FITTED)
    return runs.exponent("width", "scaled_alpha")


@claim("geiger-11a", V1, "weights figure", Accept("$-0.23$ (asymptote $-1/6$)", -0.33, -0.13))
def weights_in_scale(t: Table) -> Estimate:
    r"""Feature regime, five hidden layers: $|dw|/|w_0|$ goes as $(\sqrt{h}\alpha)^{-0.23}$, at a
    fixed width."""
    runs = t.ends("weights_change", "phase").where(scaled_alpha=FITTED)
    return runs.exponent("scaled_alpha", "width")


@claim("geiger-11c", V1, "weights figure", MINUS_HALF, range=WIDTHS)
def weights_in_width(t: Table) -> Estimate:
    r"""Feature regime: at a fixed $\sqrt{h}\alpha$ the weights move as $|dw|/|w_0| \propto
    h^{-1/2}$."""
    runs = t.ends("weights_change", "phase").where(scaled_alpha=FITTED)
    return runs.exponent("width", "scaled_alpha")


@claim(
    "geiger-10-11b", V1, "kernel and weights figures", MINUS_ONE,
    kind="identity",
    over={
        "geiger-10b": Setting("kernel", dict(metric="kernel_change")),
        "geiger-11b": Setting("weights", dict(metric="weights_change")),
    },
)  # fmt: skip
def lazy_in_scale(t: Table, metric: str) -> Estimate:
    r"""Lazy regime, softplus: kernel and weights change as $\alpha^{-1}$ at a fixed width."""
    return t.ends(metric, "residual").exponent("scaled_alpha", "width")


@claim("geiger-12", V1, "appendix on ReLU", MINUS_HALF)
def relu_in_scale(t: Table) -> Estimate:
    r"""ReLU, lazy: the kernel changes as $\alpha^{-1/2}$ at a fixed width."""
    return t.ends("kernel_change", "relu").exponent("scaled_alpha", "width")


@claim("geiger-14", V1, "section 4", MINUS_HALF)
def velocity(t: Table) -> Estimate:
    """At initialisation the preactivations move at a speed that falls as $h^{-1/2}$."""
    return t.starts("preactivation_velocity", "velocity").exponent("width")


@claim("beyond-depth", V1, HERE, Accept("0 (homogeneity)", -INF, 0.15))
def depth_law(t: Table) -> Estimate:
    """The feature-regime exponent of the kernel is $2L/(L+1)$ for every depth $L$ from 1 to 5
    (largest distance over depths)."""
    runs = t.ends("kernel_change", "depth").where(depth=(1, 5))
    slopes = {L: runs.where(depth=L).slopes("scaled_alpha") for L in sorted(runs["depth"].unique())}

    def largest(seeds):
        return max(abs(s.reindex(seeds).mean() + 2 * L / (L + 1)) for L, s in slopes.items())

    return runs.estimate(jackknife(largest, runs.seeds))


@claim("beyond-residual", V1, HERE, Accept("1 against 1/2", 0.85, 1.15))
def lazy_residual(t: Table) -> Estimate:
    r"""Deep in the lazy regime, widths of 16 to 256: the kernel changes as $1/(\alpha h)$, not as
    $1/(\alpha\sqrt{h})$ (exponent of $h$ at fixed $\alpha$)."""

    def one(g):
        return -powers(g["value"], alpha=g["scaled_alpha"] / np.sqrt(g["width"]), h=g["width"])["h"]

    return t.ends("kernel_change", "residual").by_seed(one)


@claim("beyond-residual-distance", V1, HERE, MINUS_HALF)
def residual_by_distance(t: Table) -> Estimate:
    r"""Per distance that the weights move it changes as $h^{-1/2}$: half of the faster law is that
    wider networks move less."""
    return (t.ends("kernel_change", "residual") / t.ends("distance", "residual")).exponent("width")


# ---- what the learned kernel knows


@claim("geiger-13a", V1, "section 6", Accept("1", 0.7, 1.3))
def last_kernel(t: Table) -> Estimate:
    r"""Fully connected, $\sqrt{h}\alpha = 0.1$ and 1: learning with the network's last kernel errs
    as often as the network (share of the network's gain over its first kernel that the last one
    has)."""

    def share(rows):
        mean = rows.mean(numeric_only=True)
        return (mean["first"] - mean["last"]) / (mean["first"] - mean["network"])

    return Runs(frozen_table(t)).where(scaled_alpha=FITTED).jackknife(share)


@claim(
    "geiger-13b", V1, "section 6", Accept("CNN: 14 to 3.7 % (first), 4.2 to 2.8 % (last)", 0, INF)
)  # fmt: skip
def first_kernel(t: Table) -> Estimate:
    """The same: learning with the first kernel errs more often than with the last."""
    runs = Runs(frozen_table(t)).where(scaled_alpha=FITTED)
    found = runs.map(runs["first"] - runs["last"]).mean()
    return found.noting("points, first kernel minus last")


# ---- can the numbers be trusted?

TIGHT = dict(dynamics="gradient_flow", implicit=True)


@claim("geiger-15", V2, "appendix", Accept(r"$\leq$ 2.5e-3", -INF, 2.5e-3))
def tolerances(t: Table) -> Estimate:
    r"""The trained output is robust to the integrator: tolerances $10^{-4}$ and $10^{-6}$ (of
    implicit steps; width 32, 200 images, $\sqrt{h}\alpha$ 1 and 1000) differ by at most 2.5e-3."""
    return integrators(t, dict(tolerance=1e-4, **TIGHT), dict(tolerance=1e-6, **TIGHT))


@claim("beyond-steps", V1, HERE, Accept(r"$\leq$ 0.01", -INF, 1e-2))
def implicit_steps(t: Table) -> Estimate:
    r"""Width 32, 200 images, $\sqrt{h}\alpha$ from 1 to 1000: the linearly implicit steps used here
    agree with explicit Euler steps at the paper's tolerance within 1 %."""
    explicit = dict(tolerance=1e-4, dynamics="gradient_flow", implicit=False)
    return integrators(t, dict(tolerance=1e-4, **TIGHT), explicit)


@claim("beyond-tolerance", V1, HERE, Accept(r"$\leq$ 0.05", -INF, 5e-2))
def sweep_tolerance(t: Table) -> Estimate:
    r"""The same: the tolerance $10^{-2}$ of this chapter's sweep agrees with $10^{-6}$ within
    5 %."""
    return integrators(t, dict(tolerance=1e-2, **TIGHT), dict(tolerance=1e-6, **TIGHT))


@claim("beyond-momentum", V1, HERE, Accept(r"$\leq$ 0.05", -INF, 5e-2))
def momentum(t: Table) -> Estimate:
    r"""The same, $\sqrt{h}\alpha = 1$: the continuous momentum of the first version leads to the
    same output as gradient flow within 5 %."""
    return integrators(t, dict(dynamics="momentum"), dict(tolerance=1e-6, **TIGHT))


CLAIMS = claims_in(globals())
