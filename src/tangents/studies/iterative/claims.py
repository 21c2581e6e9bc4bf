"""What Goldwaser and Ge claim, in our words, and what this book adds; each with its estimate.

Of the paper the abstract, the introduction of its first version and public reviews were read, not
its body: where it gives no number, the accepted range is ours, stated before these runs were made.
Errors are in points, on test examples that did not stop training; a difference is one of the same
seed, which sets weights and data.
"""

from typing import Any

import numpy as np
import pandas as pd

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, by_seed, minus, ratio

PAPER, HERE = "goldwaser2023", "this book"
SETUPS = {
    "classes": "MNIST, ten classes",
    "parity": "MNIST, parity",
    "planes": "CIFAR-10, plane or car",
}
FEW = 8  # updates: the paper speaks of about ten
SMALL = Accept("none", -1, 1)

# ---- what the rows say


def ends(t: Table, part: str, metric: str = "error_linear", **where: Any) -> Runs:
    """The last value of each run; errors in points."""
    runs = t.ends(metric, part).where(**where)
    return runs.map(100 * runs["value"]) if metric.startswith("error") else runs


def uniform(t: Table, part: str, n: int, metric: str = "error_linear", **where: Any) -> Runs:
    """Of networks that were linearised n times, after equal times."""
    given = dict(train="rounds", rounds=n, schedule="uniform", damping=0.0)
    return ends(t, part, metric, **given | where)


def standard(t: Table, part: str, metric: str = "error") -> Runs:
    """Of gradient descent on the network itself, K = 1; of the convolutional one in its place that
    of 32 linearisations at times which grow geometrically."""
    if part == "planes":
        name = "error_linear" if metric == "error" else metric
        return ends(t, part, name, rounds=32, schedule="geometric")
    return ends(t, part, metric, train="steps")


def smallest(t: Table, part: str) -> str:
    """The smallest number of linearisations whose mean error is within a point of K = 1."""
    mean = by_seed(standard(t, part)).mean()
    counts = sorted(t.ends("error_linear", part).where(schedule="uniform")["rounds"].unique())
    near = [n for n in counts if by_seed(uniform(t, part, n)).mean() <= mean + 1]
    return f"smallest N within a point on average: {near[0] if near else 'none'}"


def stopped(t: Table, part: str, runs: Runs, metric: str) -> pd.Series:
    """Test error in points where the validation error was least, by seed."""
    test, valid = (
        t.every(name, part).rows.query("run_id in @ids", local_dict={"ids": set(runs["run_id"])})
        for name in (metric, f"{metric}_validation")
    )
    at = ["run_id", "time"]
    both = test.merge(valid[[*at, "value"]], on=at, suffixes=("", "_v"))
    best = both.sort_values(["value_v", "time"]).drop_duplicates("run_id")
    return 100 * best.set_index("seed")["value"]


def gap(t: Table, part: str, **where: Any) -> Runs:
    """Error after one linearisation minus that after `FEW`, a value a seed and field."""
    one, few = (uniform(t, part, n, **where).rows for n in (1, FEW))
    keys = ["seed", "n", "width", "alpha"]
    both = one.merge(few[[*keys, "value"]], on=keys, suffixes=("", "_few"))
    return Runs(both.assign(value=both["value"] - both["value_few"]))


# ---- the paper's findings


@claim(
    "goldwaser-1", PAPER, "introduction", Accept("8 to 12 updates suffice", -INF, 2),
    over={f"goldwaser-1-{part}": Setting(words, dict(part=part)) for part, words in SETUPS.items()},
)  # fmt: skip
def few_suffice(t: Table, part: str) -> Estimate:
    """After eight linearisations the test error is at most two points above that of standard
    training."""
    return minus(uniform(t, part, FEW), standard(t, part)).noting(smallest(t, part))


@claim(
    "goldwaser-2", PAPER, "abstract", Accept("disabling it hurts: 8 points on CIFAR-10", 1, INF),
    over={f"goldwaser-2-{part}": Setting(words, dict(part=part)) for part, words in SETUPS.items()},
)  # fmt: skip
def lazy_is_worse(t: Table, part: str) -> Estimate:
    """Linearised once and trained as long, a network errs more often than by standard training, by
    at least a point."""
    return minus(uniform(t, part, 1), standard(t, part))


@claim(
    "goldwaser-2-stopped", PAPER, "abstract", Accept("above 0", 0, INF),
    over={f"goldwaser-2-stopped-{part}": Setting(words, dict(part=part))
          for part, words in SETUPS.items()},
)  # fmt: skip
def lazy_is_worse_stopped(t: Table, part: str) -> Estimate:
    """And still where each of the two is stopped when it errs least on validation examples."""
    one = uniform(t, part, 1)
    metric = "error_linear" if part == "planes" else "error"
    end = stopped(t, part, standard(t, part), metric)
    return one.over(stopped(t, part, one, "error_linear") - end)


@claim(
    "goldwaser-1-other", PAPER, "introduction", Accept("8 to 12 updates suffice", -INF, 2),
    over={
        "goldwaser-1-entropy": Setting("MNIST, ten classes, cross-entropy", dict(part="entropy")),
        "goldwaser-1-batches": Setting("MNIST, parity, batches of 30", dict(part="batches")),
        "goldwaser-1-again": Setting("MNIST, ten classes, ten more seeds", dict(part="again")),
        "goldwaser-1-dense": Setting("CIFAR-10, standard: 128 rounds",
                                     dict(part="planes", standing="dense")),
    },
)  # fmt: skip
def few_suffice_elsewhere(t: Table, part: str, standing: str = "") -> Estimate:
    """Eight linearisations suffice as well by another loss, in batches, on further seeds, and
    against a closer stand-in for standard training."""
    end = ends(t, standing, "error_linear") if standing else standard(t, part)
    return minus(uniform(t, part, FEW), end)


@claim(
    "goldwaser-2-other", PAPER, "abstract", Accept("disabling it hurts", 1, INF),
    over={
        "goldwaser-2-entropy": Setting("MNIST, ten classes, cross-entropy", dict(part="entropy")),
        "goldwaser-2-batches": Setting("MNIST, parity, batches of 30", dict(part="batches")),
    },
)  # fmt: skip
def lazy_is_worse_elsewhere(t: Table, part: str) -> Estimate:
    """Linearised once a network errs more often by another loss and in batches, too, by at least a
    point."""
    return minus(uniform(t, part, 1), standard(t, part))


@claim(
    "goldwaser-3", PAPER, "abstract", Accept("below 0.9", -INF, 0.9),
    over={
        "goldwaser-3-centred": Setting("centred (CKA), parity", dict(metric="kernel_cka")),
        "goldwaser-3-classes": Setting("centred, ten classes",
                                       dict(metric="kernel_cka", part="classes")),
        "goldwaser-3-cosine": Setting("as it is, parity", dict(metric="kernel_cosine")),
    },
)  # fmt: skip
def kernel_turns(t: Table, metric: str, part: str = "parity") -> Estimate:
    """Eight updates turn the kernel: its cosine with the first one, on test inputs."""
    return uniform(t, part, FEW, metric).mean()


@claim(
    "goldwaser-5", PAPER, "abstract", SMALL,
    over={
        f"goldwaser-5-{n}": Setting(f"tangent model, N = {n}", dict(n=n, metric="error_linear"))
        for n in (4, 8, 16)
    }
    | {"goldwaser-5-net": Setting("network, N = 8", dict(n=8, metric="error"))},
)  # fmt: skip
def matched_gauss_newton(t: Table, n: int, metric: str) -> Estimate:
    r"""A long period is a Gauss-Newton step with the damping $1/(\eta K)$: the test error differs
    by less than a point (parity)."""
    damped = ends(t, "damping", metric, rounds=n, damping=-1.0)
    return minus(damped, uniform(t, "parity", n, metric))


@claim(
    "goldwaser-6", PAPER, "introduction", Accept("above 0", 0, INF),
    over={
        "goldwaser-6-kernel": Setting("CKA with the first kernel, damping 80 minus 0.08",
                                      dict(metric="kernel_cka")),
        "goldwaser-6-error": Setting("test error, likewise, at least a point",
                                     dict(metric="error"), Accept("above 0", 1, INF)),
    },
)  # fmt: skip
def damping_prevents_learning(t: Table, metric: str) -> Estimate:
    """The stronger the damping of eight Gauss-Newton steps, the less the kernel turns and the more
    the network errs."""
    strong, weak = (ends(t, "damping", metric, rounds=8, damping=mu) for mu in (80.0, 0.08))
    return minus(strong, weak)


# ---- beyond the paper


@claim("beyond-overshoot", PAPER, HERE, Accept("monotone in N: at most 0", -INF, 0))
def monotone(t: Table) -> Estimate:
    """Parity: the error falls with the number of linearisations down to that of standard training
    (standard minus the mean of 4, 8 and 16 linearisations)."""
    counts = [by_seed(uniform(t, "parity", n)) for n in (4, 8, 16)]
    end = standard(t, "parity")
    return end.over(by_seed(end) - pd.concat(counts).groupby(level=0).mean())


@claim(
    "beyond-measure", PAPER, HERE, Accept("fewer updates, less change: at most 1", -INF, 1),
    over={
        "beyond-measure-weights": Setting("distance of the weights", dict(metric="distance")),
        "beyond-measure-kernel": Setting("1 - CKA with the first one", dict(metric="kernel_cka")),
    },
)  # fmt: skip
def fewer_updates_less_change(t: Table, metric: str) -> Estimate:
    """Parity: with eight linearisations weights and kernel change less than in standard training
    (ratio)."""
    few, end = uniform(t, "parity", FEW, metric), standard(t, "parity", metric)
    if metric == "kernel_cka":
        few, end = (runs.map(1 - runs["value"]) for runs in (few, end))
    return ratio(few, end)


@claim(
    "beyond-schedule", PAPER, HERE, Accept("as in standard training", 0.8, 1.25),
    over={
        "beyond-schedule-weights": Setting("distance of the weights", dict(metric="distance")),
        "beyond-schedule-kernel": Setting("1 - CKA with the first one", dict(metric="kernel_cka")),
    },
)  # fmt: skip
def schedule_decides(t: Table, metric: str) -> Estimate:
    """Parity: eight linearisations at times that grow geometrically change weights and kernel as
    much as standard training does (ratio): the length of early rounds counts, not their number."""
    few, end = ends(t, "schedule", metric), standard(t, "parity", metric)
    if metric == "kernel_cka":
        few, end = (runs.map(1 - runs["value"]) for runs in (few, end))
    return ratio(few, end)


@claim("beyond-rate", PAPER, HERE, Accept("none", -0.5, 0.5))
def rate_alone(t: Table) -> Estimate:
    r"""Parity, eight linearisations: at a fixed length $\eta K$ of a round the rate $\eta$ does not
    matter (error at 0.4 minus that at 0.01 of the largest stable rate)."""
    fast, slow = (uniform(t, "rate", 8, rate=rate) for rate in (0.4, 0.01))
    return minus(fast, slow)


@claim(
    "beyond-once", PAPER, HERE, Accept("at least 1", 1, INF),
    over={
        "beyond-once-late": Setting("at 0.3, less error than without: by a point", dict(first=0.3)),
        "beyond-once-early": Setting("at 0.01: no gain", dict(first=0.01), SMALL),
    },
)  # fmt: skip
def one_update(t: Table, first: float) -> Estimate:
    """Parity: a single update helps if it comes after the leading modes are fitted, and not before
    (error without minus with it)."""
    return minus(uniform(t, "parity", 1), ends(t, "once", first=first))


@claim("beyond-scale", PAPER, HERE, SMALL)
def scale_removes_it(t: Table) -> Estimate:
    r"""At the output scale $\alpha = 10$ updates bring nothing (parity, error after one
    linearisation minus eight)."""
    return gap(t, "scale", alpha=10.0).mean()


@claim(
    "beyond-gap", PAPER, HERE, Accept("below 0", -INF, 0),
    over={
        "beyond-gap-size": Setting("training examples, 100 to 2000", dict(part="size", x="n")),
        "beyond-gap-width": Setting("width, 16 to 256", dict(part="width", x="width")),
    },
)  # fmt: skip
def gap_shrinks(t: Table, part: str, x: str) -> Estimate:
    """Parity: what eight updates gain shrinks as data or width grow (points per doubling)."""
    return gap(t, part).by_seed(lambda g: np.polyfit(np.log2(g[x]), g["value"], 1)[0])


@claim(
    "beyond-tangents", PAPER, HERE, Accept("below 0", -INF, -0.2),
    over={
        "beyond-tangents-scale": Setting("exponent in the output scale", dict(x="alpha")),
        "beyond-tangents-width": Setting("exponent in the width", dict(x="width")),
    },
)  # fmt: skip
def tangents_needed(t: Table, x: str) -> Estimate:
    r"""The number of tangents that a training needs, each as long as the network achieves nine
    tenths of what its tangent predicts, falls with output scale and width (parity)."""
    return ends(t, "tangents", "tangents").exponent(x)


@claim("control-tangents", PAPER, HERE, Accept("1", 1, 1.5), kind="control")
def one_tangent(t: Table) -> Estimate:
    r"""At the output scale $\alpha = 10$ a training needs one tangent."""
    return ends(t, "tangents", "tangents", alpha=10.0).mean()


@claim("control-kernel", PAPER, HERE, Accept("above 0.95", 0.95, INF), kind="control")
def kernel_stays_at_large_scale(t: Table) -> Estimate:
    r"""At $\alpha = 10$ eight linearisations leave the kernel where it is (CKA)."""
    return uniform(t, "scale", FEW, "kernel_cka", alpha=10.0).mean()


@claim("control-momentum", PAPER, HERE, SMALL, kind="control")
def momentum_changes_nothing(t: Table) -> Estimate:
    """Heavy ball in eight rounds of the same length, at rest where each begins, changes nothing
    (parity, test error with memory 0.9 minus without)."""
    return minus(ends(t, "momentum"), uniform(t, "parity", FEW))


@claim("control-stand-in", PAPER, HERE, SMALL, kind="control")
def rounds_stand_for_steps(t: Table) -> Estimate:
    """On CIFAR-10 32 geometric rounds stand for standard training as well as 128 do (test error
    with 32 minus with 128)."""
    return minus(standard(t, "planes"), ends(t, "dense"))


@claim("control-labels", PAPER, HERE, Accept("none", -1.5, 1.5), kind="control")
def shuffled_labels(t: Table) -> Estimate:
    """With shuffled training labels updates gain nothing on the test set (error after one
    linearisation minus eight)."""
    return gap(t, "shuffled").mean()


CLAIMS = claims_in(globals())
