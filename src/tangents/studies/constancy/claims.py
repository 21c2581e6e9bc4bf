"""What Liu, Zhu and Belkin claim, in our words, and what this book adds; each with its estimate.

The theorems are bounds up to logarithms: what they bound may fall faster, not more slowly. Where a
statement says "as", it is the rate itself that is tested, with room for the logarithms: `FALLS`.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table
from tangents.lab.statistics import powers

PAPER, HERE = "liu2020", "this book"
FALLS = Accept("exponent $-1/2$, up to logarithms", -0.6, -0.3)
VANISHES = Accept(r"exponent $\leq -1/2$", -INF, -0.5)
STAYS = Accept("exponent 0", -0.15, INF)  # does not become small; more than that is not claimed
LARGE = Accept("times that of a linear head without bottleneck, largest width", 2, INF)
FLAT = Accept("exponent 0", -0.1, 0.1)
ONE, MANY = Accept("O(1)", 0.67, 1.5), Accept(r"$\gg 1$", 10, INF)
ENDING = ("kernel_largest", "radius", "hessian_trained")
LINEAR, TANH = dict(head="linear"), dict(head="tanh")
SHALLOW, DEEP = dict(depth=1), dict(depth=3)
IMAGES, MNIST = "MNIST, three hidden layers", dict(part="mnist", bottleneck=0)
ONE_LAYER, THREE_LAYERS = "one hidden layer", "three hidden layers"

# ---- what the rows say


def known(t: Table, metric: str, part: str) -> Runs:
    """Values as they are found: of converged runs at their end, of all runs at their start."""
    return (t.ends if metric in ENDING else t.starts)(metric, part)


def beside(t: Table, metric: str, part: str, other: dict[str, Any], **where: Any) -> Estimate:
    """A metric at the largest width over that of other runs of this width, matched by seed: how
    large it is where theory says that it does not vanish, and theirs does."""
    runs = known(t, metric, part).where(**where).largest()
    m = runs["width"].max()
    fields = {name: value for name, value in other.items() if name != "part"}
    others = known(t, metric, other["part"]).where(**fields | {"width": m})
    return runs.over(seed_means(runs) / seed_means(others), log=True)


def seed_means(runs: Runs) -> pd.Series:
    """Geometric means by seed."""
    return np.exp(np.log(runs["value"]).groupby(runs["seed"]).mean())


def in_width(t: Table, metric: str, part: str = "head", **where: Any) -> Estimate:
    """The exponent of a metric in the width, over all else."""
    return known(t, metric, part).where(**where).exponent("width")


def heads(t: Table, metric: str, part: str, **where: Any) -> Estimate:
    """A metric with the tanh head over that with the linear one, at the largest width."""
    runs = t.ends(metric, part).where(**where).largest()
    table = runs.pivot("head")
    found = replace(runs.over(table["tanh"] / table["linear"], log=True), runs=2 * len(table))
    return found.noting(f"geometric mean, width {runs['width'].max()}")


def allowed(t: Table) -> Runs:
    """An estimate of how much the theorem lets the kernel of each run change, linear head.

    With q = R |H| / |grad f|, R how far the weights moved and |H| the largest norm found in the
    ball, the gradient of an output changes by at most the share q, and an entry of the kernel by
    2 q + q^2 of |grad f|^2. Here |grad f| is a mean over inputs, and |H| that of the first.
    """
    norm, gradient = (t.starts(name, "head") for name in ("hessian_steepest", "gradient"))
    radius = t.ends("radius", "head").where(**LINEAR)
    q = (radius * norm / gradient)["value"]
    return radius.map(2 * q + q**2)


def linear_errors(t: Table, direction: str, part: str = "head", **where: Any) -> Runs:
    """The linear model's errors along a direction, one for run and distance, in column r."""
    name = f"linear_error_{direction}_"
    metrics = [m for m in t.frame["metric"].unique() if m.startswith(name)]
    rows = pd.concat([t.every(metric, part).rows for metric in metrics or [name]])
    rows = rows.assign(r=rows["metric"].str.removeprefix(name).astype(float))
    return Runs(rows).where(**where)


def in_distance(t: Table, direction: str, **where: Any) -> Estimate:
    """The exponent of that error in the distance, at the largest width."""
    runs = linear_errors(t, direction, **LINEAR, r=(0.25, 8), **where).largest()
    return replace(runs.exponent("r"), runs=runs.runs).noting(f"width {runs['width'].max()}")


def every(runs: Runs, holds: pd.Series, note: str) -> Estimate:
    """Of a statement about every run: the share for which it holds; one counterexample refutes."""
    if not len(runs):
        raise LookupError("no run that the statement is about")
    found = runs.map(holds.astype(float)).mean()
    return replace(found.noting(note), holds=bool(holds.all()))


def plane(t: Table, positive: bool) -> Runs:
    """Runs of the plane of scale and width whose kernel changes little: alpha at least 4."""
    return t.ends("kernel_largest", "plane").where(positive=positive, alpha=(4, INF))


# ---- the Hessian, and what each unit is worth


@claim(
    "liu-1", PAPER, "linear output layer; appendix, other architectures", FALLS,
    over={
        "liu-1a": Setting(ONE_LAYER, dict(part="head", **SHALLOW)),
        "liu-1b": Setting(THREE_LAYERS, dict(part="head", **DEEP)),
        "liu-1d": Setting(IMAGES, dict(part="images")),
        "liu-11b": Setting("convolutional, MNIST (in the number of channels)", dict(part="conv")),
    },
)  # fmt: skip
def hessian_falls(t: Table, **where: Any) -> Estimate:
    """Linear head: the norm of the output's Hessian falls as $m^{-1/2}$."""
    return in_width(t, "hessian", **LINEAR, **where)


@claim(
    "liu-10", PAPER, "linear output layer", FALLS,
    over={
        f"liu-10{end}": Setting(f"{place}, {what}", dict(metric=metric, **where))
        for end, place, metric, what, where in (
            ("a", "random point", "hessian_random", ONE_LAYER, dict(part="head", **SHALLOW)),
            ("b", "random point", "hessian_random", THREE_LAYERS, dict(part="head", **DEEP)),
            ("c", "steepest ascent", "hessian_steepest", ONE_LAYER, dict(part="head", **SHALLOW)),
            ("d", "steepest ascent", "hessian_steepest", THREE_LAYERS, dict(part="head", **DEEP)),
            ("e", "random point", "hessian_random", IMAGES, dict(part="images")),
            ("f", "steepest ascent", "hessian_steepest", IMAGES, dict(part="images")),
        )
    },
)  # fmt: skip
def hessian_falls_in_the_ball(t: Table, metric: str, **where: Any) -> Estimate:
    """Linear head: elsewhere in a ball about the start, at a random point of its surface and where
    ten steps of steepest ascent lead, the norm of the Hessian falls as $m^{-1/2}$ too."""
    return in_width(t, metric, **LINEAR, **where)


@claim(
    "liu-1-2", PAPER, "linear output layer", FALLS,
    over={
        "liu-1c": Setting("largest entry falls as $m^{-1/2}$", dict(kind="inf")),
        "liu-2b": Setting("2-norm does not depend on the width", dict(kind="two"), FLAT),
    },
)  # fmt: skip
def unit_gradients(t: Table, kind: str) -> Estimate:
    r"""Three hidden layers, linear head: of $\partial f/\partial a_l$, what each unit is worth, the
    largest entry falls while the 2-norm stays (mean over the layers)."""
    layers = [t.starts(f"signal_{kind}_{k}", "head").where(**LINEAR, **DEEP) for k in (1, 2, 3)]
    together = Runs(pd.concat([layer.rows for layer in layers]))
    return replace(together.exponent("width", "metric"), runs=len(layers[0]))


@claim(
    "liu-2", PAPER, "linear output layer", FLAT,
    over={
        "liu-2a": Setting("inputs on the sphere", dict(part="head")),
        "liu-2c": Setting(IMAGES, dict(part="images")),
    },
)  # fmt: skip
def gradient_stays(t: Table, part: str) -> Estimate:
    """Linear head: the norm of the output's gradient does not depend on the width."""
    return in_width(t, "gradient", part, **LINEAR)


# ---- the kernel with a linear head


@claim(
    "liu-3", PAPER, "numerical section; appendix, other architectures", VANISHES,
    over={
        "liu-3a": Setting(ONE_LAYER, dict(part="head", **SHALLOW)),
        "liu-3b": Setting(THREE_LAYERS, dict(part="head", **DEEP)),
        "liu-3c": Setting(
            "ReLU, one hidden layer (falls at all)", dict(part="relu", **SHALLOW),
            Accept("exponent below 0", -INF, -0.3),
        ),
        "liu-3e": Setting(IMAGES, MNIST),
        "liu-11a": Setting("residual network", dict(part="resnet")),
        "liu-11c": Setting("convolutional, MNIST", dict(part="conv")),
    },
)  # fmt: skip
def kernel_vanishes(t: Table, **where: Any) -> Estimate:
    """Linear head: the largest change of the kernel in training vanishes with width, at least as
    fast as the bound $m^{-1/2}$."""
    return in_width(t, "kernel_largest", **LINEAR, **where)


@claim("liu-3d", PAPER, "Hessian and kernel", Accept(r"$\leq 1$", 0, 1), kind="identity")
def below_the_bound(t: Table) -> Estimate:
    r"""Linear head: the change of the kernel stays below an estimate of its bound, $2q + q^2$,
    $q = R \max\|H\| / \|\nabla f\|$, the maximum that found in the ball (largest share of it)."""
    share = t.ends("kernel_largest", "head").where(**LINEAR) / allowed(t)
    return share.by_seed(lambda rows: rows["value"].max()).noting("largest over widths and depths")


# ---- what breaks constancy: a head, a bottleneck


@claim(
    "liu-4-hessian", PAPER, "non-linear output", STAYS,
    over={
        "liu-4a": Setting(ONE_LAYER, dict(part="head", **TANH, **SHALLOW)),
        "liu-4b": Setting(THREE_LAYERS, dict(part="head", **TANH, **DEEP)),
        "liu-4i": Setting(IMAGES, dict(part="images", **TANH)),
    },
)  # fmt: skip
def hessian_stays(t: Table, **where: Any) -> Estimate:
    """Tanh head: the Hessian does not become small with width."""
    size = beside(t, "hessian", other={**where, **LINEAR}, **where)
    return in_width(t, "hessian", **where).and_also(size, LARGE)


@claim(
    "liu-4-kernel", PAPER, "numerical section; non-linear output", STAYS,
    over={
        "liu-4c": Setting("tanh head, one hidden layer", dict(part="head", **TANH, **SHALLOW)),
        "liu-4d": Setting("tanh head, three hidden layers", dict(part="head", **TANH, **DEEP)),
        "liu-4e": Setting("tanh head, ReLU, one hidden layer",
                          dict(part="relu", **TANH, **SHALLOW)),
        "liu-4f": Setting("sigmoid head, one hidden layer",
                          dict(part="heads", head="sigmoid", **SHALLOW)),
        "liu-4g": Setting("softmax head, one hidden layer",
                          dict(part="heads", head="softmax", **SHALLOW)),
        "liu-4h": Setting("swish head, one hidden layer",
                          dict(part="heads", head="swish", **SHALLOW)),
        "liu-4j": Setting(f"tanh head, {IMAGES}", dict(part="mnist", **TANH)),
    },
)  # fmt: skip
def kernel_stays(t: Table, **where: Any) -> Estimate:
    """Non-linear head: the change of the kernel does not vanish with width."""
    part = "head" if where["part"] == "heads" else where["part"]
    other = {**where, "part": part, **LINEAR, "bottleneck": 0}
    size = beside(t, "kernel_largest", other=other, **where)
    return in_width(t, "kernel_largest", **where).and_also(size, LARGE)


@claim(
    "liu-5", PAPER, "bottleneck", STAYS,
    over={
        "liu-5a": Setting("Hessian", dict(metric="hessian", part="bottleneck")),
        "liu-5b": Setting("change of the kernel", dict(metric="kernel_largest", part="bottleneck")),
        "liu-5e": Setting("Hessian, MNIST", dict(metric="hessian", part="bottleneck-images")),
    },
)  # fmt: skip
def bottleneck_stays(t: Table, metric: str, part: str) -> Estimate:
    """With a bottleneck neither the Hessian nor the change of the kernel becomes small as the other
    layers widen."""
    other = dict(part=part.replace("bottleneck-", "").replace("bottleneck", "head"))
    size = beside(t, metric, part, other=other | LINEAR | DEEP)
    return in_width(t, metric, part).and_also(size, LARGE)


@claim(
    "liu-5-order", PAPER, "bottleneck, numerical section", Accept("below 0", -INF, 0),
    over={
        "liu-5c": Setting("inputs on the sphere", dict(part="bottleneck")),
        "liu-5d": Setting("MNIST, zeros against ones, 128 images", dict(part="mnist")),
    },
)  # fmt: skip
def bottleneck_order(t: Table, part: str) -> Estimate:
    """The wider the bottleneck, the middle one of three hidden layers, the less the kernel changes
    (exponent in its width)."""
    runs = t.ends("kernel_largest", part).where(bottleneck=(1, INF))
    return runs.exponent("bottleneck", "width")


# ---- the weights move all the same


@claim(
    "liu-6", PAPER, "remark on laziness", FLAT,
    over={
        "liu-6a": Setting("inputs on the sphere", dict(part="head")),
        "liu-6d": Setting(IMAGES, MNIST),
    },
)  # fmt: skip
def weights_move(t: Table, **where: Any) -> Estimate:
    """The weights move equally far at every width."""
    return in_width(t, "radius", **where)


@claim(
    "liu-6-heads", PAPER, "remark on laziness", ONE,
    over={
        "liu-6b": Setting("weights, one hidden layer: about as far",
                          dict(metric="radius", part="head", **SHALLOW)),
        "liu-6c": Setting("kernel, one hidden layer: many times more",
                          dict(metric="kernel_largest", part="head", **SHALLOW), MANY),
        "liu-6e": Setting(f"weights, {IMAGES}: about as far", dict(metric="radius", **MNIST)),
    },
)  # fmt: skip
def heads_differ(t: Table, metric: str, part: str, **where: Any) -> Estimate:
    """With a tanh head the weights move about as far as without, and on that path the kernel
    changes many times more (ratio)."""
    return heads(t, metric, part, **where)


# ---- optimisation


@claim("liu-7a", PAPER, "optimisation", Accept("every run", 1, 1))
def all_converged(t: Table) -> Estimate:
    """Gradient descent reaches the minimum whether the kernel is constant or not."""
    runs = t.every("converged").where(rate=(0, 0.5))
    return every(runs, runs["value"] == 1, "share of runs that reached the goal")


@claim("liu-7b", PAPER, "optimisation", Accept("above 0", 1e-9, INF), kind="identity")
def stays_positive(t: Table) -> Estimate:
    """The smallest eigenvalue of the kernel stays positive (least share left of its first value,
    converged runs of every kind)."""
    share = t.every("eigenvalue_lowest").where(rate=(0, 0.5)) / t.starts("eigenvalue_min")
    least = share.rows.groupby("seed")["value"].min()
    if (least <= 0).any():  # of these there is no geometric mean
        below = share.estimate((0.0, -INF, 0.0))
        return below.noting(f"{(share['value'] <= 0).sum()} are not above 0")
    return share.over(least, log=True).noting("geometric mean over seeds")


@claim("liu-7c", PAPER, "optimisation", Accept(r"$\geq 1$", 0.9, INF))
def pl_known(t: Table) -> Estimate:
    r"""Wide network, linear head: $|\nabla \mathcal{L}|^2 / 2\mathcal{L}$ never falls below the
    smallest eigenvalue of $K_0 / n$, known before training (least ratio, to a tenth); nor does its
    least value exceed the largest one."""
    ratios = t.every("pl_ratio", "head").where(**LINEAR, **SHALLOW).largest()
    least, most = (
        (ratios / t.starts(f"eigenvalue_{end}", "head")).by_seed(lambda rows: rows["value"].min())
        for end in ("min", "max")
    )
    between = Accept("of the largest eigenvalue", 0, 1)
    return least.noting(f"width {ratios['width'].max()}").and_also(most, between)


@claim("liu-7d", PAPER, "optimisation", Accept("1", 0.95, INF))
def log_linear(t: Table) -> Estimate:
    """Heads of every kind, converged runs: below a tenth of its first value the logarithm of the
    loss falls linearly in time (share of its variance that a line explains)."""
    parts = [t.ends("converged", part) for part in ("head", "heads") if len(t.metric("loss", part))]
    done = pd.concat([part.rows["run_id"] for part in parts])
    rows = pd.concat([t.metric("loss", part) for part in ("head", "heads")])
    rows = rows[rows["run_id"].isin(done)].sort_values("time", kind="stable")
    late = rows[rows["value"] < 0.1 * rows.groupby("run_id")["value"].transform("first")]
    late = late[late.groupby("run_id")["value"].transform("size") > 2]

    def one(seed_rows):
        lines = [g for _, g in seed_rows.groupby("run_id")]
        return np.mean([np.corrcoef(g["time"], np.log(g["value"]))[0, 1] ** 2 for g in lines])

    return Runs(late, pd.concat([part.states for part in parts])).by_seed(one)


# ---- transition to linearity


@claim(
    "liu-8-distance", PAPER, "transition to linearity", Accept(r"exponent $\leq 2$", -INF, 2.2),
    over={
        "liu-8a": Setting(ONE_LAYER, dict(part="head", **SHALLOW)),
        "liu-8e": Setting(IMAGES, dict(part="images", **DEEP)),
    },
)  # fmt: skip
def error_in_distance(t: Table, **where: Any) -> Estimate:
    """Linear head: the error of the linear model along the top eigenvector grows no faster than the
    square of the distance, $r$ from 1/4 to 8."""
    return in_distance(t, "top", **where)


@claim(
    "liu-8-taylor", PAPER, "transition to linearity", Accept("exponent 2", 1.8, 2.2),
    over={
        "liu-8b": Setting(ONE_LAYER, dict(part="head", **SHALLOW)),
        "liu-8f": Setting(IMAGES, dict(part="images", **DEEP)),
    },
    kind="identity",
)  # fmt: skip
def error_of_second_order(t: Table, **where: Any) -> Estimate:
    """Linear head: along a random direction it grows as the square, as Taylor's theorem has it."""
    return in_distance(t, "random", **where)


@claim(
    "liu-8-width", PAPER, "transition to linearity", FALLS,
    over={
        "liu-8c": Setting("top eigenvector, $r=4$, one hidden layer",
                          dict(metric="linear_error_top_4", part="head", **SHALLOW)),
        "liu-8d": Setting("random direction, $r=4$, one hidden layer",
                          dict(metric="linear_error_random_4", part="head", **SHALLOW), VANISHES),
        "liu-8g": Setting(f"top eigenvector, $r=4$, {IMAGES}",
                          dict(metric="linear_error_top_4", part="images")),
        "liu-8h": Setting(f"random direction, $r=4$, {IMAGES}",
                          dict(metric="linear_error_random_4", part="images"), VANISHES),
        "liu-8i": Setting(f"top eigenvector, $r=1/4$, {IMAGES}",
                          dict(metric="linear_error_top_0.25", part="images")),
    },
)  # fmt: skip
def error_in_width(t: Table, metric: str, **where: Any) -> Estimate:
    """Linear head: at a fixed distance $r$ the error of the linear model falls as $m^{-1/2}$ along
    the top eigenvector, and at least as fast along a random direction."""
    return in_width(t, metric, **LINEAR, **where)


@claim(
    "liu-9", PAPER, "non-linear output", Accept("0", -INF, 1e-10), kind="identity",
    over={
        "liu-9a": Setting(r"$H_{\varphi(f)} = \varphi' H_f + \varphi'' \nabla f \nabla f^\top$, on "
                          "a random vector, first input", dict(metric="hessian_identity")),
        "liu-9b": Setting(r"$K_{\varphi(f)}(x, z) = \varphi'(f(x)) \varphi'(f(z)) K_f(x, z)$",
                          dict(metric="kernel_identity")),
    },
)  # fmt: skip
def chain_rule(t: Table, metric: str) -> Estimate:
    """The chain rule for a head (relative deviation at the start)."""
    found = t.every(metric).by_seed(lambda rows: rows["value"].max())
    return found.noting("largest over runs, by seed")


# ---- beyond the paper


@claim(
    "beyond-plane", PAPER, HERE, Accept("1", 0.85, 1.15),
    over={
        "beyond-plane-scale": Setting("$a = 1$", dict(x="alpha", positive=False)),
        "beyond-plane-width": Setting(
            "$b = 1$, not the bound's $1/2$", dict(x="width", positive=False),
            Accept("1 against 1/2", 0.85, 1.15)),
        "beyond-plane-sign": Setting(
            "$b = 1/2$ where all read-out weights have one sign, so that no two units cancel",
            dict(x="width", positive=True), Accept("1/2", 0.4, 0.6)),
    },
)  # fmt: skip
def plane_exponents(t: Table, x: str, positive: bool) -> Estimate:
    r"""One hidden layer, softplus, scales $\alpha$ from 4 on: over scale and width the change of
    the kernel goes as $1/(\alpha^a m^b)$."""
    runs = plane(t, positive)
    return runs.by_seed(lambda g: -powers(g["value"], alpha=g["alpha"], width=g["width"])[x])


@claim("beyond-catapult", PAPER, HERE, Accept(r"$\gg 1$", 5, INF))
def catapult(t: Table) -> Estimate:
    r"""Above the critical step $2n/\lambda_{\max}(K_0)$ the kernel of a wide network changes many
    times more than below it (ratio)."""
    runs = t.ends("kernel_largest", "catapult").largest()
    table = runs.rows.pivot_table(index="seed", columns=runs["rate"] > 2, values="value").dropna()
    found = runs.over(table[True] / table[False], log=True)
    return found.noting(f"geometric mean, width {runs['width'].max()}")


@claim("beyond-catapult-width", PAPER, HERE, Accept("exponent 0", -0.15, 0.15))
def catapult_in_width(t: Table) -> Estimate:
    """Above it, at steps of 2.5 to 3.5, the kernel changes by as much at every width."""
    return in_width(t, "kernel_largest", "catapult", rate=(2.5, 3.5))


@claim("beyond-catapult-end", PAPER, HERE, Accept("every run", 1, 1))
def ends_flat(t: Table) -> Estimate:
    r"""Such a run ends where step times $\lambda_{\max}(K_T)/n$ is below 2."""
    runs = t.ends("sharpness", "catapult").where(rate=(2.01, INF))
    return every(runs, runs["value"] < 2, "share of runs for which this holds")


CLAIMS = claims_in(globals())
