"""What the two papers on random features claim, in our words, and what this book adds.

Zandieh, Han and co-authors: abstracts, public code and its data were read; where they give no
number the accepted range is ours, stated before these runs were made. A seed draws features and
data. Test errors are in points; sizes m are numbers of features.
"""

from typing import Any

import numpy as np

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, minus

PAPER, HERE = "zandieh2021", "this book"
MINUS_HALF = Accept("exponent -1/2", -0.6, -0.4)
DATA = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar-10": "CIFAR-10"}
LARGE = 4096  # features that are compared with the kernel


def at_start(t: Table, metric: str, part: str, **where: Any) -> Runs:
    return t.starts(metric, part).where(**where)


def errors(t: Table, method: str, part: str = "ridge", **where: Any) -> Runs:
    """Test errors in points."""
    runs = at_start(t, "error", part, method=method, wrong=False, **where)
    return runs.map(100 * runs["value"])


def log_mean(runs: Runs) -> Any:
    """The mean logarithm over sizes, by seed."""
    return np.log(runs.pivot("size")).mean(axis=1)


# ---- the papers' findings


@claim(
    "zandieh-1", PAPER, "theorem on the features", MINUS_HALF,
    over={
        "zandieh-1-1": Setting("one hidden layer", dict(method="srht", depth=1)),
        "zandieh-1-3": Setting("three", dict(method="srht", depth=3)),
        "zandieh-1-count": Setting("one, by TensorSketch", dict(method="count", depth=1)),
    },
)  # fmt: skip
def error_falls(t: Table, method: str, depth: int) -> Estimate:
    """The features' kernel tends to the exact one as m^-1/2 (Frobenius distance, exponent in m)."""
    return at_start(t, "kernel_error", "kernel", method=method, depth=depth).exponent("size")


@claim(
    "zandieh-2", PAPER, "abstract: a much smaller dimension", Accept("far below: 1/2", 0, 0.5),
    over={f"zandieh-2-{depth}": Setting(f"{words} hidden layer{'s' * (depth > 1)}",
                                        dict(depth=depth))
          for depth, words in ((1, "one"), (3, "three"))},
)  # fmt: skip
def below_gradients(t: Table, depth: int) -> Estimate:
    """With as many features they are far closer to the kernel than the gradients of a finite
    network (ratio of the distances, 1024 features and more)."""
    where = dict(depth=depth, size=(1024, 10**9))
    sketched, gradient = (
        at_start(t, "kernel_error", "kernel", method=method, **where)
        for method in ("srht", "gradient")
    )
    return sketched.over(np.exp(log_mean(sketched) - log_mean(gradient)), log=True)


@claim(
    "zandieh-3", PAPER, "theorem: spectral approximation", Accept("falls: below -0.4", -INF, -0.4),
    over={
        "zandieh-3-rate": Setting("exponent in m", dict(size=0)),
        "zandieh-3-size": Setting("its size at m = 8192: below 1/2", dict(size=8192),
                                  Accept("below 1/2", 0, 0.5)),
    },
)  # fmt: skip
def spectrum(t: Table, size: int) -> Estimate:
    """The regularised spectrum is approximated: the largest |u^T (K' - K) u| over u with
    u^T (K + s) u = 1, s a thousandth of the trace of K (one hidden layer)."""
    runs = at_start(t, "spectral_error", "kernel", method="srht", depth=1)
    return runs.where(size=size).mean(log=True) if size else runs.exponent("size")


@claim(
    "zandieh-4", PAPER, "abstract", Accept("as good: within a point", -1, 1),
    over={f"zandieh-4-{name}": Setting(words, dict(dataset=name)) for name, words in DATA.items()},
)  # fmt: skip
def as_good_as_the_kernel(t: Table, dataset: str) -> Estimate:
    """Ridge regression on 4096 features errs as often on test images as with the exact kernel (2000
    training images, features minus kernel)."""
    own = errors(t, "srht", dataset=dataset, size=LARGE)
    return minus(own, errors(t, "exact", dataset=dataset))


@claim(
    "zandieh-5", PAPER, "abstract", Accept("linear: 1", 0.8, 1.2),
    over={
        "zandieh-5-n": Setting("features, in examples", dict(method="srht", x="n")),
        "zandieh-5-d": Setting("features, in pixels: at most 1", dict(method="srht", x="inputs"),
                               Accept("at most linear", -INF, 1.2)),
        "zandieh-5-exact": Setting("the kernel, in examples: at least 2",
                                   dict(method="exact", x="n"),
                                   Accept("at least quadratic", 1.8, INF)),
    },
)  # fmt: skip
def cost_is_linear(t: Table, method: str, x: str) -> Estimate:
    """Seconds from images to weights grow linearly with examples and inputs; with the exact kernel
    at least quadratically (exponent; 2048 features)."""
    part = "pixels" if x == "inputs" else "cost"
    runs = at_start(t, "cost", part, method=method)
    if x == "inputs":
        pixels = at_start(t, "inputs", part, method=method).by_run
        runs = Runs(runs.rows.assign(inputs=runs["run_id"].map(pixels)).drop(columns=["pool"]))
    return runs.exponent(x)


@claim(
    "zandieh-6", PAPER, "abstract: leverage scores", Accept("it helps: below 0.9", 0, 0.9),
    over={
        f"zandieh-6-{name}": Setting(words, dict(metric=f"{name}_error"))
        for name, words in (("kernel", "distance"), ("spectral", "regularised spectrum"))
    },
)  # fmt: skip
def leverage(t: Table, metric: str) -> Estimate:
    """Directions drawn by their leverage scores come closer to the kernel than Gaussian ones (ratio
    of the errors, one hidden layer)."""
    drawn, plain = (
        at_start(t, metric, "kernel", method=method, depth=1) for method in ("leverage", "srht")
    )
    return drawn.over(np.exp(log_mean(drawn) - log_mean(plain)), log=True)


# ---- beyond the papers


@claim(
    "beyond-fourier", PAPER, HERE, Accept("better: above 0", 0, INF),
    over={
        f"beyond-fourier-{name}-{size}": Setting(f"{words}, m = {size}",
                                                 dict(dataset=name, size=size))
        for name, words in DATA.items()
        for size in (512, LARGE)
    },
)  # fmt: skip
def against_fourier(t: Table, dataset: str, size: int) -> Estimate:
    """They classify better than as many random Fourier features of a Gaussian kernel whose
    bandwidth is chosen on validation images (error of the latter minus theirs)."""
    where = dict(dataset=dataset, size=size)
    return minus(errors(t, "fourier", **where), errors(t, "srht", **where))


@claim("beyond-large", PAPER, HERE, Accept("better: above 0", 0, INF))
def what_linear_cost_buys(t: Table) -> Estimate:
    """With 4096 features and 54000 images of MNIST ridge regression errs less often than with
    the exact kernel of 5000 of them (kernel minus features)."""
    return minus(errors(t, "exact", "large"), errors(t, "srht", "large"))


# ---- controls


@claim("control-draw", PAPER, HERE, Accept("at chance: 90", 80, 100), kind="control")
def another_draw_predicts_nothing(t: Table) -> Estimate:
    """Features of another draw for the test images predict nothing (test error)."""
    runs = at_start(t, "error", "wrong", wrong=True)
    return runs.map(100 * runs["value"]).mean()


@claim("control-kernel", PAPER, HERE, Accept("none: 0", -0.1, 0.1), kind="control")
def another_kernel_is_not_approached(t: Table) -> Estimate:
    """The distance to the kernel of a network one layer deeper does not fall, from 4096 to 8192
    features (exponent)."""
    runs = at_start(t, "kernel_error_other", "kernel", method="srht", depth=1)
    return runs.where(size=(4096, 8192)).exponent("size")


@claim("control-gradients", PAPER, HERE, MINUS_HALF, kind="control")
def gradients_converge_too(t: Table) -> Estimate:
    """The gradients of a finite network tend to the same kernel at the same rate, in the number of
    parameters (exponent, one hidden layer)."""
    where = dict(method="gradient", depth=1, size=(1024, 10**9))
    return at_start(t, "kernel_error", "kernel", **where).exponent("size")


CLAIMS = claims_in(globals())
