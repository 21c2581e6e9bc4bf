"""What Huang, Du and Xu claim, in our words, and what this book adds; each with its estimate.

Of the paper the abstract and public code and data were read: where it gives no number, the
accepted range is ours, stated before these runs were made. A ratio is one of the same seed, which
sets weights, data and batches; weights of the two kinds are drawn apart. A training that has not
reached its goal after the most steps that it is given counts with that many, and the note says so:
where it is the Gaussian one, the ratio is a lower bound.
"""

from typing import Any

import numpy as np

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, minus, ratio

PAPER, HERE = "huang2021", "this book"
KINDS = {"gaussian": "Gaussian", "orthogonal": "orthogonal"}
NETS = {
    "fc": ("fully connected", dict(network="fc")),
    "conv": ("convolutional", dict(network="conv", delta=False)),
    "delta": ("convolutional from the centre", dict(network="conv", delta=True)),
}
KEYS = ["seed", "depth", "width", "rate", "variance"]
FASTER = Accept("faster: above 1.5", 1.5, INF)

# ---- what the rows say


def steps(t: Table, part: str, **where: Any) -> Runs:
    """Steps to the goal; of a training that is not there in time those that it was given."""
    runs = t.every("steps", part).where(**where)
    return runs.map(np.minimum(runs["value"], runs["max_steps"]))


def late(t: Table, part: str, **where: Any) -> str:
    """How many trainings of each kind did not reach their goal in time, in words."""
    words = []
    for kind in t.metric("steps", part)["weights"].unique():
        runs = t.every("steps", part).where(weights=kind, **where)
        missed = int(np.isinf(runs["value"]).sum())
        words += [f"{missed} of {len(runs)} {KINDS.get(kind, kind)}"] if missed else []
    return f"not there in time: {', '.join(words)}" if words else ""


def gains(t: Table, part: str, **where: Any) -> Runs:
    """Steps with Gaussian weights over steps with orthogonal ones, by seed, rate and size."""
    gaussian, orthogonal = (steps(t, part, weights=kind, **where).rows for kind in KINDS)
    both = gaussian.merge(orthogonal[[*KEYS, "value"]], on=KEYS, suffixes=("", "_o"))
    return Runs(both.assign(value=both["value"] / both.pop("value_o")))


def best(t: Table, part: str, kind: str, **where: Any) -> Runs:
    """Steps at the rate, of those tried, at which a seed takes the fewest."""
    rows = steps(t, part, weights=kind, **where).rows
    return Runs(rows.sort_values(["seed", "value"]).drop_duplicates("seed"))


# ---- the paper's findings


@claim(
    "huang-1", PAPER, "abstract; theorem on the limit", Accept("exponent -1/2", -0.6, -0.4),
    over={
        f"huang-1-{net}-{kind}": Setting(f"{words}, {name}", dict(net=net, kind=kind))
        for net, (words, _) in NETS.items()
        for kind, name in KINDS.items()
    },
)  # fmt: skip
def same_limit(t: Table, net: str, kind: str) -> Estimate:
    """At the start the tangent kernel tends to the same limit with Gaussian and with orthogonal
    weights: its distance to the closed form falls as width^-1/2."""
    return t.starts("kernel_error", "limit").where(weights=kind, **NETS[net][1]).exponent("width")


@claim(
    "huang-2", PAPER, "abstract", Accept("it vanishes; theirs -0.9", -1.15, -0.75),
    over={f"huang-2-{kind}": Setting(name, dict(kind=kind)) for kind, name in KINDS.items()},
)  # fmt: skip
def kernel_stays(t: Table, kind: str) -> Estimate:
    """The change of the kernel in training vanishes with the width, with both kinds of weights
    (exponent in the width)."""
    return t.ends("kernel_change", "lazy").where(weights=kind).exponent("width")


@claim(
    "huang-2-layers", PAPER, "on the change of weights", Accept("exponent -1/2", -0.6, -0.4),
    kind="identity",
    over={
        f"huang-2-{layer}-{kind}": Setting(
            f"{layer}, {name}", dict(layer=layer, kind=kind),
            Accept("exponent -1", -1.1, -0.9) if layer == "middle" else None,
        )
        for layer in ("first", "middle", "last")
        for kind, name in KINDS.items()
    },
)  # fmt: skip
def layers_move(t: Table, layer: str, kind: str) -> Estimate:
    """First layer and read-out move by width^-1/2 of their size in training, those between by
    1/width."""
    return t.ends(f"moved_{layer}", "lazy").where(weights=kind).exponent("width")


@claim(
    "huang-3", PAPER, "abstract", Accept("none: 1", 0.9, 1.1),
    over={
        "huang-3-weights": Setting("Gaussian over orthogonal", dict(of="gaussian")),
        "huang-3-limit": Setting("infinite width over orthogonal", dict(of="limit")),
    },
)  # fmt: skip
def no_gain_while_lazy(t: Table, of: str) -> Estimate:
    """Orthogonal weights do not train faster while the network is lazy: ratio of the steps to the
    same loss at the same rate, at the largest width."""
    if of == "gaussian":
        return gains(t, "lazy").largest().mean(log=True)
    own, limit = (t.ends(name, "lazy").largest().where(weights="orthogonal")
                  for name in ("steps", "steps_limit"))  # fmt: skip
    return ratio(limit, own)


@claim(
    "huang-4", PAPER, "abstract", FASTER,
    over={
        "huang-4-mnist": Setting("MNIST, rate 0.03", dict(part="depth", depth=50, rate=0.03)),
        "huang-4-cifar": Setting("CIFAR-10, rate 0.1", dict(part="cifar", rate=0.1)),
        "huang-4-small": Setting("MNIST, rate 0.003", dict(part="depth", depth=50, rate=0.003)),
        "huang-4-best": Setting("MNIST, each at the best of four rates",
                                dict(part="depth", depth=50, rate=0)),
    },
)  # fmt: skip
def faster_when_deep(t: Table, part: str, rate: float, **where: Any) -> Estimate:
    """Outside of that regime, near linearity and with 50 layers, they train faster: steps with
    Gaussian over steps with orthogonal weights."""
    if rate:
        where |= dict(rate=rate)
        found = gains(t, part, **where).mean(log=True)
    else:
        found = ratio(*(best(t, part, kind, **where) for kind in KINDS))
    return found.noting(late(t, part, **where))


@claim(
    "huang-5", PAPER, "abstract: large learning rate or large depth",
    Accept("grows: above 0", 0, INF),
    over={
        "huang-5-rate": Setting("exponent in the rate, MNIST",
                                dict(part="depth", x="rate", depth=50)),
        "huang-5-rate-cifar": Setting("exponent in the rate, CIFAR-10",
                                      dict(part="cifar", x="rate")),
        "huang-5-depth": Setting("exponent in the depth",
                                 dict(part="depth", x="depth", rate=(0.01, 0.03)),
                                 Accept("grows: above 0.2", 0.2, INF)),
        "huang-5-width": Setting("exponent in the width", dict(part="width", x="width"),
                                 Accept("shrinks: below 0", -INF, 0)),
    },
)  # fmt: skip
def gain_grows(t: Table, part: str, x: str, **where: Any) -> Estimate:
    """The gain grows with the rate and with the depth, and shrinks with the width."""
    return gains(t, part, **where).exponent(x).noting(late(t, part, **where))


# ---- beyond the paper


@claim(
    "beyond-fluctuations", PAPER, HERE, Accept("smaller: below 0.9", 0, 0.9),
    over={f"beyond-fluctuations-{net}": Setting(words, dict(net=net))
          for net, (words, _) in NETS.items()},
)  # fmt: skip
def smaller_fluctuations(t: Table, net: str) -> Estimate:
    """Orthogonal weights are closer to the limit: their distance to it over that of Gaussian ones
    at the same widths."""
    runs = t.starts("kernel_error", "limit").where(**NETS[net][1])
    logs = (np.log(runs.where(weights=kind).pivot("width")).mean(axis=1) for kind in KINDS)
    gaussian, orthogonal = map(np.exp, logs)
    return runs.over(orthogonal / gaussian, log=True)


@claim("beyond-regime", PAPER, HERE, Accept("less: below 1", 0, 1.0))
def less_far_from_linearity(t: Table) -> Estimate:
    """Farther from linearity the gain is less: that at weights of variance 2, critical as well,
    over that at 1.05 (50 layers, rates 0.01 and 0.03)."""
    rates = (0.01, 0.03)
    far, near = (
        gains(t, part, depth=50, variance=variance, rate=rates)
        for part, variance in (("regime", 2.0), ("depth", 1.05))
    )
    logs = (runs.map(np.log(runs["value"])) for runs in (far, near))
    return minus(*logs).exp().noting(late(t, "regime", variance=2.0, rate=rates))


@claim("beyond-lazy", PAPER, HERE, Accept("none: 1", 0.8, 1.25))
def not_for_laziness(t: Table) -> Estimate:
    """Laziness does not decide: with ten layers there is no gain at rate 0.01, though both kernels
    change by more than a half before the goal."""
    where = dict(depth=10, rate=0.01)
    change = t.ends("kernel_change", "depth").where(**where)
    least = change.over(change.pivot("weights").min(axis=1))
    moves = Accept("change of the kernel", 0.5, INF)
    return gains(t, "depth", **where).mean(log=True).and_also(least, moves)


@claim(
    "beyond-frozen", PAPER, HERE, FASTER,
    over={
        "beyond-frozen-fast": Setting("rate 0.03", dict(rate=0.03)),
        "beyond-frozen-slow": Setting("rate 0.003", dict(rate=0.003)),
    },
)  # fmt: skip
def faster_when_frozen(t: Table, rate: float) -> Estimate:
    """Linearised at the start, with features that cannot change, networks of 50 layers gain as
    well: steps with Gaussian over steps with orthogonal weights (MNIST)."""
    return gains(t, "frozen", rate=rate).mean(log=True).noting(late(t, "frozen", rate=rate))


@claim("control-frozen", PAPER, HERE, Accept("as many: 1", 0.67, 1.5), kind="control")
def frozen_as_fast(t: Table) -> Estimate:
    """Linearised at the start, a network of 50 orthogonal layers takes as many steps as the network
    itself (ratio, rates 0.003 and 0.03): it does not need to change its features."""
    runs = [steps(t, part, weights="orthogonal", depth=50) for part in ("frozen", "depth")]
    logs = (each.map(np.log(each["value"])) for each in runs)
    frozen, own = (each.rows[each["rate"].isin((0.003, 0.03))] for each in logs)
    return minus(Runs(frozen), Runs(own)).exp()


# ---- controls


@claim("control-linear", PAPER, HERE, FASTER, kind="control")
def linear_networks_gain(t: Table) -> Estimate:
    """A linear network of 50 layers gains, as is proven of such networks."""
    return gains(t, "linear").mean(log=True).noting(late(t, "linear"))


@claim("control-draws", PAPER, HERE, Accept("none: 1", 0.5, 2.0), kind="control")
def another_draw_gains_nothing(t: Table) -> Estimate:
    """Another draw of Gaussian weights takes as many steps (50 layers, rate 0.01)."""
    where = dict(depth=50, rate=0.01)
    other = steps(t, "draws", **where)
    return ratio(steps(t, "depth", weights="gaussian", **where), other)


@claim(
    "control-limit", PAPER, HERE, Accept("none: 0", -0.1, 0.1), kind="control",
    over={f"control-limit-{net}": Setting(words, dict(net=net))
          for net, (words, _) in NETS.items()},
)  # fmt: skip
def another_limit_is_not_reached(t: Table, net: str) -> Estimate:
    """The distance to the limit of another network, twice as deep or with the other kind of
    convolutions, does not fall from the second largest width to the largest (exponent)."""
    runs = t.starts("kernel_error_other", "limit").where(weights="orthogonal", **NETS[net][1])
    *_, second, largest = sorted(runs["width"].unique())
    return runs.where(width=(second, largest)).exponent("width")


@claim(
    "control-isometry", PAPER, HERE, Accept("constant: 0", -0.1, 0.1), kind="control",
    over={
        "control-isometry-orthogonal": Setting("orthogonal", dict(kind="orthogonal")),
        "control-isometry-gaussian": Setting("Gaussian: grows", dict(kind="gaussian"),
                                             Accept("above 0.2", 0.2, INF)),
    },
)  # fmt: skip
def isometry(t: Table, kind: str) -> Estimate:
    """The largest singular value between the first and the last hidden state, over the root mean
    square of all, does not grow with depth where weights are orthogonal, and does where they are
    Gaussian (exponent)."""
    largest, rms = (
        t.starts(f"singular_{name}", "depth").where(weights=kind, rate=0.01)
        for name in ("largest", "rms")
    )
    return (largest / rms).exponent("depth")


CLAIMS = claims_in(globals())
