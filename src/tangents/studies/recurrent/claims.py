"""What the paper on the recurrent tangent kernel claims, in our words, and what this book adds.

Alemohammad and co-authors: the abstract was read; where it gives no number the accepted range is
ours, stated before these runs were made. A seed draws weights and data. Where sets of the archive
are compared the independent unit is a set, and its number stands in place of a seed's. Errors are
in points.
"""

from typing import Any

from tangents.data.series import SERIES
from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, minus

PAPER, HERE = "alemohammad2021", "this book"
MINUS_HALF = Accept("exponent -1/2", -0.6, -0.4)
UNITS = {"relu": "ReLU", "erf": "erf"}
OTHERS = {
    "connected": "the fully connected tangent kernel",
    "gaussian": "a Gaussian kernel",
    "polynomial": "polynomials",
    "dtw": "time warping",
}
NUMBER = {name: place for place, name in enumerate(SERIES)}


def at_start(t: Table, metric: str, part: str, **where: Any) -> Runs:
    return t.starts(metric, part).where(**where)


def errors(t: Table, method: str, part: str, **where: Any) -> Runs:
    """Test errors in points; those of the archive by set."""
    runs = at_start(t, "error", part, method=method, **where)
    runs = runs.map(100 * runs["value"])
    numbers = runs["series"].map(NUMBER)
    return Runs(runs.rows.assign(seed=numbers)) if numbers.notna().all() else runs


def centres(t: Table, of: str, **where: Any) -> Runs:
    return t.ends("centre", "moments").where(of=of, **where)


# ---- the paper's findings


@claim(
    "rntk-1", PAPER, "abstract: the kernel of infinite width", MINUS_HALF,
    over={
        f"rntk-1-{name}-{'unequal' if cut else 'equal'}": Setting(
            f"{words}, {'unequal' if cut else 'equal'} lengths", dict(activation=name, cut=cut))
        for name, words in UNITS.items()
        for cut in (False, True)
    },
)  # fmt: skip
def limit(t: Table, activation: str, cut: bool) -> Estimate:
    """The tangent kernel of a recurrent network tends to the closed form as width^-1/2 (Frobenius
    distance, exponent)."""
    return at_start(t, "kernel_error", "limit", activation=activation, cut=cut).exponent("width")


@claim(
    "rntk-2", PAPER, "abstract: training", Accept("falls: below -0.4", -INF, -0.4),
    over={
        f"rntk-2-{name}-{kind}": Setting(f"{words}, {told}", dict(activation=name, kind=kind),
                                         *also)
        for name, words in UNITS.items()
        for kind, told, also in (
            ("rate", "exponent", ()),
            ("size", "at width 1024: below 0.1", (Accept("below 0.1", 0, 0.1),)))
    },
)  # fmt: skip
def constant(t: Table, activation: str, kind: str) -> Estimate:
    """In training the kernel changes the less the wider the network is (relative change)."""
    runs = t.ends("kernel_change", "train").where(activation=activation)
    return runs.exponent("width") if kind == "rate" else runs.where(width=1024).mean(log=True)


@claim(
    "rntk-3", PAPER, "abstract: training", Accept("exponent -1/2", -0.7, -0.3),
    over={f"rntk-3-{name}": Setting(words, dict(activation=name)) for name, words in UNITS.items()},
)  # fmt: skip
def trained(t: Table, activation: str) -> Estimate:
    """What a network learns tends to what the kernel predicts (distance on test series, exponent in
    width)."""
    return t.ends("output_error", "train").where(activation=activation).exponent("width")


@claim(
    "rntk-4", PAPER, "section on sensitivity", Accept("late: above 2/3", 2 / 3, 1),
    over={
        "rntk-4-small": Setting("ReLU, sw = 1.2", dict(activation="relu", sw=1.2)),
        "rntk-4-large": Setting("ReLU, sw = 1.6: early, below 1/3", dict(activation="relu", sw=1.6),
                                Accept("early: below 1/3", 0, 1 / 3)),
        "rntk-4-erf": Setting("erf, sw = 1.6: late", dict(activation="erf", sw=1.6)),
    },
)  # fmt: skip
def flip(t: Table, activation: str, sw: float) -> Estimate:
    """The scale of recurrent weights sets which steps the kernel weighs: with ReLU the last at
    small scales and the first at large ones, with erf always the last (mean place, 0 to 1)."""
    return centres(t, "kernel", activation=activation, sw=sw).mean()


@claim(
    "rntk-5", PAPER, "section on lengths", Accept("better: above 0", 0, INF),
    over={
        "rntk-5-archive": Setting("UCR sets", dict(part="archive")),
        "rntk-5-columns": Setting("MNIST by columns", dict(part="columns")),
    },
)  # fmt: skip
def lengths(t: Table, part: str) -> Estimate:
    """Series of unequal length are classified better as they are than with zeros at their ends that
    make them equally long (error of the latter minus the former)."""
    padded = errors(t, "padded", "padded" if part == "archive" else part)
    return minus(padded, errors(t, "recurrent", part))


@claim(
    "rntk-6", PAPER, "abstract: gains", Accept("better: above 0", 0, INF),
    over={f"rntk-6-{name}": Setting(f"against {words}", dict(other=name))
          for name, words in OTHERS.items()},
)  # fmt: skip
def gains(t: Table, other: str) -> Estimate:
    """On the sets of the UCR archive the recurrent kernel errs less often on average (error of the
    other minus its own)."""
    return minus(errors(t, other, "archive"), errors(t, "recurrent", "archive"))


@claim(
    "rntk-7", PAPER, "abstract: gains", Accept("better: above 0", 0, INF),
    over={
        **{f"rntk-7-{name}": Setting(f"against {words}", dict(method="wide", other=name))
           for name, words in OTHERS.items()},
        "rntk-7-averaged": Setting("read at all steps, against the fully connected tangent kernel",
                                   dict(method="averaged", other="connected")),
        "rntk-7-averaged-dtw": Setting("read at all steps, against time warping",
                                       dict(method="averaged", other="dtw")),
    },
)  # fmt: skip
def gains_of_more_settings(t: Table, method: str, other: str) -> Estimate:
    """With thirty settings of a wider range to choose from, where the others have eighteen, the
    recurrent kernel errs less often on average on sets of the archive (error of the other minus its
    own)."""
    return minus(errors(t, other, "archive"), errors(t, method, "wide"))


# ---- beyond the paper


@claim(
    "beyond-network", PAPER, HERE, Accept("the same: within 0.1", -0.1, 0.1),
    over={
        f"beyond-network-{name}-{told}": Setting(f"{words}, sw = {sw}",
                                                 dict(activation=name, sw=sw))
        for name, words in UNITS.items()
        for told, sw in (("small", 1.2), ("large", 1.6))
    },
)  # fmt: skip
def looks_alike(t: Table, activation: str, sw: float) -> Estimate:
    """A trained network of 512 units looks at the same steps as the kernel (mean place, network
    minus kernel)."""
    where = dict(activation=activation, sw=sw)
    return minus(centres(t, "network", **where), centres(t, "kernel", **where))


@claim(
    "beyond-sines", PAPER, HERE, Accept("better: above 0", 0, INF),
    over={f"beyond-sines-{steps}": Setting(f"{steps} steps", dict(steps=steps))
          for steps in (25, 100)},
)  # fmt: skip
def synthetic(t: Table, steps: int) -> Estimate:
    """It tells two frequencies in noise, at any phase, better than the fully connected kernel
    (error of the latter minus its own)."""
    own, other = (errors(t, m, "sines", steps=steps) for m in ("recurrent", "connected"))
    return minus(other, own)


# ---- controls


@claim("control-order", PAPER, HERE, Accept("worse: above 0", 0, INF), kind="control")
def order_counts(t: Table) -> Estimate:
    """With the steps of all series in another order, the same for all, the recurrent kernel loses
    (error in the other order minus error; others would not notice)."""
    other = errors(t, "recurrent", "scrambled")
    sets = set(other.seeds)
    own = errors(t, "recurrent", "archive")
    return minus(other, Runs(own.rows[own["seed"].isin(sets)]))


@claim("control-labels", PAPER, HERE, Accept("none: within 5", -5, 5), kind="control")
def nothing_in_shuffled_labels(t: Table) -> Estimate:
    """Trained on shuffled labels it is no better than always the most common class (error of that
    minus error)."""
    runs = errors(t, "recurrent", "shuffled")
    common = at_start(t, "error_common", "shuffled").by_run
    return runs.over(100 * runs["run_id"].map(common).set_axis(runs["seed"]) - by_set(runs))


def by_set(runs: Runs) -> Any:
    return runs.rows.set_index("seed")["value"]


@claim(
    "control-kernel", PAPER, HERE, Accept("none: above -0.1", -0.1, INF), kind="control",
    over={
        "control-kernel-deeper": Setting("of a layer more", dict(metric="deeper", cut=False)),
        "control-kernel-padded": Setting("of padded series", dict(metric="padded", cut=True)),
    },
)  # fmt: skip
def another_kernel_is_not_approached(t: Table, metric: str, cut: bool) -> Estimate:
    """The distance to another kernel does not fall, from width 1024 to 2048 (erf, exponent)."""
    runs = at_start(t, f"kernel_error_{metric}", "limit", activation="erf", cut=cut)
    return runs.where(width=(1024, 2048)).exponent("width")


CLAIMS = claims_in(globals())
