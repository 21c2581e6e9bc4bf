"""What Liu, Zhu and Belkin claim, in our words, and what this book adds; each with its estimate.

The theorems are bounds up to logarithms, for widths without end: what they bound may fall faster,
not more slowly. A seed sets the weights and the draw of the inputs. Of what "does not vanish" a
size is asked as well, in itself and beside a network for which it does.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, ratio
from tangents.lab.statistics import powers
from tangents.studies.constancy import predictions

PAPER, HERE = "liu2020", "this book"
RANGE = {"width": (32, INF)}  # of statements about wide networks
NO_SLOWER = Accept("falls no more slowly: at most 0", -INF, 0.05)
VANISHES = Accept(r"exponent $\leq -1/2$", -INF, -0.5)
STAYS = Accept("exponent 0", -0.15, INF)  # does not become small; more than that is not claimed
FLAT = Accept("exponent 0", -0.1, 0.1)
SEEN = Accept("size at the largest width", 0.1, INF)
TURNED = Accept("size at the largest width", 0.005, INF)
TWICE = Accept("times that of a linear head without bottleneck", 2, INF)
MORE = Accept("times that of a linear head", 1.25, INF)
HALF = Accept("at least half of it", 0.5, INF)
MANY = Accept("times as much as below it", 3, INF)
ALIKE = Accept("as many draws say: 1", 0.9, 1.1)
ENDING = ("largest", "radius", "trained")
LINEAR, TANH = dict(head="linear"), dict(head="tanh")
SHALLOW, DEEP = dict(depth=1), dict(depth=3)
ONE, THREE = dict(part="head", **SHALLOW), dict(part="head", **DEEP)
MNIST, IMAGES = dict(part="mnist", bottleneck=0), dict(part="images")
ONE_LAYER, THREE_LAYERS = "one hidden layer", "three hidden layers"
ON_MNIST = f"MNIST, {THREE_LAYERS}"

# ---- what the rows say


def known(t: Table, metric: str, part: str, **where: Any) -> Runs:
    """Values as they are found: of converged runs at their end, of all runs at their start."""
    ending = any(word in metric for word in ENDING)
    return (t.ends if ending else t.starts)(metric, part).where(**where)


def in_width(t: Table, metric: str, part: str, **where: Any) -> Estimate:
    """The exponent of a metric in the width, over all else."""
    return known(t, metric, part, **where).exponent("width")


def over_law(runs: Runs, law: Callable[[int], float]) -> Runs:
    """Values over what a law says of their width."""
    return runs.map(runs["value"] / runs["width"].map(lambda m: law(int(m))))


def as_predicted(runs: Runs, law: Callable[[int], float]) -> Estimate:
    """Values over those of a law: the mean over widths, which has to be as large at each."""
    share = over_law(runs, law)
    return share.mean().and_also(share.exponent("width"), FLAT)


def at_largest(runs: Runs, others: Runs) -> tuple[Runs, Runs]:
    """Both at the largest width that they have in common."""
    m = max({*runs["width"]} & {*others["width"]}, default=np.nan)
    return runs.where(width=m), others.where(width=m)


def stays(runs: Runs, others: Runs, size: Accept) -> Estimate:
    """The exponent in the width of what does not vanish, with its size, in itself and beside others
    that do."""
    found = runs.exponent("width").and_also(runs.largest().mean(log=True), size)
    return found.and_also(ratio(*at_largest(runs, others)), TWICE)


# ---- the Hessian, and what each unit is worth


@claim(
    "liu-1", PAPER, "linear output layer; appendix, other architectures", NO_SLOWER, range=RANGE,
    over={
        f"liu-1{end}": Setting(words, dict(metric=metric, **where))
        for end, words, metric, where in (
            ("a", f"at the start, {ONE_LAYER}", "hessian", ONE),
            ("b", f"at the start, {THREE_LAYERS}", "hessian", THREE),
            ("c", f"after training, {THREE_LAYERS}", "hessian_trained", THREE),
            ("d", f"random point of the ball, {THREE_LAYERS}", "hessian_random", THREE),
            ("e", f"steepest ascent in the ball, {ONE_LAYER}", "hessian_steepest", ONE),
            ("f", f"steepest ascent in the ball, {THREE_LAYERS}", "hessian_steepest", THREE),
            ("g", f"at the start, {ON_MNIST}", "hessian", IMAGES),
            ("h", "at the start, convolutional, MNIST (in channels)", "hessian", dict(part="conv")),
        )
    },
)  # fmt: skip
def hessian_falls(t: Table, metric: str, part: str, **where: Any) -> Estimate:
    r"""Linear head: the norm of the output's Hessian falls with the width as
    $\sqrt{\log m / m}$, as does the largest of $m$ normal weights over $\sqrt m$ (exponent of the
    one over the other)."""
    runs = known(t, metric, part, **LINEAR, **where)
    found = over_law(runs, predictions.largest_weight).exponent("width")
    return found.noting(f"the norm's own exponent is {runs.exponent('width').value:.2f}")


@claim(
    "beyond-draws", PAPER, HERE, ALIKE,
    over={
        "beyond-draws-hessian": Setting(
            f"Hessian, {ONE_LAYER}: the largest of $m$ blocks", dict(of="hessian")),
        "beyond-draws-unit": Setting(
            r"largest entry of $\partial f / \partial a_2$ over its norm, three hidden layers",
            dict(of="start")),
        "beyond-draws-trained": Setting("the same after training", dict(of="trained")),
        "beyond-draws-error": Setting(
            f"error of the linear model at distance 4 in a random direction, {ONE_LAYER}",
            dict(of="error"), Accept("as many draws say: 1", 0.67, 1.5)),
    },
)  # fmt: skip
def as_of_independent_draws(t: Table, of: str) -> Estimate:
    """Linear head: units are as unequal as independent draws, without a free parameter (measured
    over predicted, all widths)."""
    if of == "hessian":
        return as_predicted(known(t, "hessian", **ONE, **LINEAR), predictions.hessian_norm)
    if of == "error":
        runs = known(t, "linear_error_random_4", **ONE, **LINEAR)
        return over_law(runs, lambda m: predictions.random_error(m, 4.0)).mean()
    when = "_trained" if of == "trained" else ""
    largest, two = (known(t, f"signal_{kind}_2{when}", **THREE, **LINEAR)
                    for kind in ("inf", "two"))  # fmt: skip
    return as_predicted(largest / two, predictions.largest_share)


@claim(
    "liu-2", PAPER, "linear output layer; remark on laziness", FLAT, range=RANGE,
    over={
        "liu-2a": Setting("norm of the output's gradient, linear head",
                          dict(metric="gradient", part="head", **LINEAR)),
        "liu-2b": Setting(f"the same, {ON_MNIST}",
                          dict(metric="gradient", **IMAGES, **LINEAR)),
        "liu-2c": Setting(r"2-norm of $\partial f/\partial a_2$, linear head",
                          dict(metric="signal_two_2", **THREE, **LINEAR)),
        "liu-2d": Setting("distance from the start, both heads",
                          dict(metric="radius", part="head")),
        "liu-2e": Setting(f"the same, {ON_MNIST}", dict(metric="radius", **MNIST)),
    },
)  # fmt: skip
def does_not_depend_on_width(t: Table, metric: str, part: str, **where: Any) -> Estimate:
    """Neither gradients nor the distance that the weights move depend on the width."""
    return in_width(t, metric, part, **where)


# ---- the kernel with a linear head


@claim(
    "liu-3", PAPER, "numerical section; appendix, other architectures", VANISHES, range=RANGE,
    over={
        "liu-3a": Setting(ONE_LAYER, ONE),
        "liu-3b": Setting(THREE_LAYERS, THREE),
        "liu-3c": Setting("ReLU, one hidden layer (falls at all)", dict(part="relu"),
                          Accept("exponent below 0", -INF, -0.3)),
        "liu-3d": Setting(ON_MNIST, MNIST),
        "liu-3e": Setting("residual network", dict(part="resnet")),
        "liu-3f": Setting("convolutional, MNIST (in channels)", dict(part="conv")),
        "liu-3g": Setting("its shape (1 - cosine), three hidden layers",
                          dict(metric="turn_largest", **THREE)),
    },
)  # fmt: skip
def kernel_vanishes(t: Table, part: str, metric: str = "kernel_largest", **where: Any) -> Estimate:
    """Linear head: the largest change of the kernel in training vanishes with width, at least as
    fast as the bound $m^{-1/2}$."""
    return in_width(t, metric, part, **LINEAR, **where)


# ---- what breaks constancy: a head, a bottleneck


@claim(
    "liu-4-hessian", PAPER, "non-linear output", HALF, range=RANGE,
    over={
        "liu-4a": Setting(ONE_LAYER, ONE),
        "liu-4b": Setting(THREE_LAYERS, THREE),
        "liu-4c": Setting(ON_MNIST, IMAGES),
    },
)  # fmt: skip
def hessian_stays(t: Table, part: str, **where: Any) -> Estimate:
    r"""Tanh head: the Hessian does not vanish. At the largest width it is not below half of what
    the head adds, $|\varphi''| \|\nabla f\|^2$, and that is not small."""
    own, added = (known(t, name, part, **TANH, **where) for name in ("hessian", "head_curvature"))
    linear = known(t, "hessian", part, **LINEAR, **where)
    found = ratio(*at_largest(own, added)).and_also(added.largest().mean(log=True), SEEN)
    return found.and_also(ratio(*at_largest(own, linear)), MORE)


@claim(
    "liu-4-kernel", PAPER, "numerical section; non-linear output", STAYS, range=RANGE,
    over={
        "liu-4d": Setting(f"tanh, {ONE_LAYER}", dict(**ONE, **TANH)),
        "liu-4e": Setting(f"tanh, {THREE_LAYERS}", dict(**THREE, **TANH)),
        "liu-4f": Setting(f"tanh, {ON_MNIST}", dict(**MNIST, **TANH)),
        "liu-4g": Setting(f"sigmoid, {ONE_LAYER}", dict(part="heads", head="sigmoid", **SHALLOW)),
        "liu-4h": Setting(f"softmax, {ONE_LAYER}", dict(part="heads", head="softmax", **SHALLOW)),
        "liu-4i": Setting(f"its shape (1 - cosine), tanh, {ONE_LAYER}",
                          dict(metric="turn_largest", **ONE, **TANH)),
    },
)  # fmt: skip
def kernel_stays(
    t: Table, part: str, head: str, metric: str = "kernel_largest", **where: Any
) -> Estimate:
    """Non-linear head: the change of the kernel does not vanish with width."""
    linear = known(t, metric, part.removesuffix("s"), **LINEAR, **where)
    size = TURNED if metric == "turn_largest" else SEEN
    return stays(known(t, metric, part, head=head, **where), linear, size)


@claim(
    "liu-5", PAPER, "bottleneck; numerical section", STAYS, range=RANGE,
    over={
        "liu-5a": Setting("Hessian, in the width of the other layers", dict(metric="hessian")),
        "liu-5b": Setting("change of the kernel, in the same", dict(metric="kernel_largest")),
        "liu-5c": Setting("change of the kernel, in the width of the bottleneck: falls",
                          dict(part="bottleneck"), Accept("exponent below 0", -INF, 0)),
        "liu-5d": Setting("the same, MNIST", dict(part="mnist"),
                          Accept("exponent below 0", -INF, 0)),
    },
)  # fmt: skip
def bottleneck_stays(t: Table, metric: str = "", part: str = "bottleneck") -> Estimate:
    """With a bottleneck of 1, 3 or 10 units in three hidden layers neither the Hessian nor the
    change of the kernel vanishes as the others widen; from 3 to 30 units the latter falls."""
    if not metric:
        runs = known(t, "kernel_largest", part, bottleneck=(3, 30))
        return runs.exponent("bottleneck", "width")
    narrow = known(t, metric, part, bottleneck=(1, 10))
    return stays(narrow, known(t, metric, **THREE, **LINEAR), SEEN)


# ---- the weights move all the same; optimisation


@claim(
    "liu-6", PAPER, "remark on laziness", Accept("about as far: 1", 0.67, 1.5), range=RANGE,
    over={
        "liu-6a": Setting(ONE_LAYER, ONE),
        "liu-6b": Setting(THREE_LAYERS, THREE),
        "liu-6c": Setting(ON_MNIST, MNIST),
    },
)  # fmt: skip
def moves_as_far(t: Table, part: str, **where: Any) -> Estimate:
    """The weights move about as far with a tanh head, with which the kernel changes, as with a
    linear one, with which it does not (ratio, largest width)."""
    return ratio(*(known(t, "radius", part, **head, **where).largest() for head in (TANH, LINEAR)))


@claim(
    "liu-7", PAPER, "optimisation", Accept("every run", 1, 1),
    over={
        "liu-7a": Setting("fully connected and residual networks", dict(conv=False)),
        "liu-7b": Setting("convolutional networks", dict(conv=True)),
    },
)  # fmt: skip
def all_converge(t: Table, conv: bool) -> Estimate:
    r"""Gradient descent reaches the minimum whether the kernel is constant or not: every run at a
    step of $0.5\, n / \lambda_{\max}(K_0)$, whatever the bottleneck, or the head but for swish."""
    runs = t.every("converged").where(rate=(0, 0.5))
    runs = Runs(runs.rows[(runs["part"] != "swish") & ((runs["network"] == "conv") == conv)])
    if not len(runs):
        raise LookupError("no run that the statement is about")
    found = runs.mean().noting("share of runs that reached the goal")
    return replace(found, holds=bool((runs["value"] == 1).all()))


@claim(
    "liu-8", PAPER, "transition to linearity", Accept("vanishes: exponent below 0", -INF, 0),
    range=RANGE,
    over={
        "liu-8a": Setting(ONE_LAYER, ONE),
        "liu-8b": Setting(THREE_LAYERS, THREE),
        "liu-8c": Setting(ON_MNIST, IMAGES),
    },
)  # fmt: skip
def linear_model_holds(t: Table, part: str, **where: Any) -> Estimate:
    """Linear head: at distance 4 along the Hessian's top eigenvector the error of the linear model
    vanishes with the width (the theorem bounds it by the Hessian: no rate is claimed)."""
    return in_width(t, "linear_error_top_4", part, **LINEAR, **where)


# ---- beyond the paper


@claim(
    "beyond-plane", PAPER, HERE, Accept("1", 0.85, 1.15),
    over={
        "beyond-plane-scale": Setting("$a = 1$", dict(x="alpha", positive=False)),
        "beyond-plane-width": Setting("$b = 1$, not the bound's $1/2$",
                                      dict(x="width", positive=False)),
        "beyond-plane-sign": Setting(
            "$b = 1/2$ where all read-out weights have one sign, so that no two units cancel",
            dict(x="width", positive=True), Accept("1/2", 0.4, 0.6)),
    },
)  # fmt: skip
def plane_exponents(t: Table, x: str, positive: bool) -> Estimate:
    r"""One hidden layer, softplus, scales $\alpha$ from 4 on: over scale and width the change of
    the kernel goes as $1/(\alpha^a m^b)$."""
    runs = t.ends("kernel_largest", "plane").where(positive=positive, alpha=(4, INF))
    return runs.by_seed(lambda g: -powers(g["value"], alpha=g["alpha"], width=g["width"])[x])


@claim(
    "beyond-catapult", PAPER, HERE, Accept("exponent 0", -0.15, 0.15),
    over={
        "beyond-catapult-kernel": Setting("change of the kernel: as large at every width",
                                          dict(metric="kernel_largest")),
        "beyond-catapult-radius": Setting(
            r"distance from the start, times the predicted $\|H\|$: it grows as $1/\|H\|$",
            dict(metric="radius")),
    },
)  # fmt: skip
def catapult(t: Table, metric: str) -> Estimate:
    r"""At steps of 2.5 to 3.5 $n/\lambda_{\max}(K_0)$, above the critical 2, wide networks leave
    every ball of fixed radius, and their kernels change at every width (exponent in the width, and
    how many times as much as below 2)."""
    above, below = (known(t, metric, "catapult", rate=ends) for ends in ((2.5, 3.5), (0, 1.5)))
    times = ratio(above.largest(), below.largest())
    if metric == "radius":
        above = over_law(above, lambda m: 1 / predictions.hessian_norm(m))
    return above.exponent("width").and_also(times, MANY)


# ---- controls


@claim(
    "control-undone", PAPER, HERE, VANISHES, kind="control",
    over={
        "control-undone-one": Setting(ONE_LAYER, ONE),
        "control-undone-three": Setting(THREE_LAYERS, THREE),
        "control-undone-mnist": Setting(ON_MNIST, MNIST),
    },
)  # fmt: skip
def undone(t: Table, part: str, **where: Any) -> Estimate:
    r"""Tanh head, undone: the kernel of $f$ under the head, $K_{ij} / \varphi'_i \varphi'_j$ on the
    same path, is as constant as with a linear head (exponent of its largest change)."""
    return in_width(t, "inside_largest", part, **TANH, **where)


@claim("control-labels", PAPER, HERE, Accept("no difference: 0", -0.2, 0.2), kind="control")
def whatever_the_labels(t: Table) -> Estimate:
    """Labels that can be learnt, the side of a plane on which an input lies, in place of labels
    that tell nothing: the kernel's exponent in the width is the same (difference)."""
    own = known(t, "kernel_largest", "labels", **LINEAR)
    given = known(t, "kernel_largest", **ONE, **LINEAR)
    given = Runs(given.rows[given["width"].isin(own["width"].unique())])
    return own.over(own.slopes("width") - given.slopes("width"))


@claim("control-swish", PAPER, HERE, Accept("some do not: below 1", 0, 0.99), kind="control")
def swish_fails(t: Table) -> Estimate:
    """With a swish head, whose slope vanishes within reach, the assumption of the theorem on
    optimisation does not hold, and some runs do not reach their goal (share that does)."""
    return t.every("converged", "swish").mean()


CLAIMS = claims_in(globals())
