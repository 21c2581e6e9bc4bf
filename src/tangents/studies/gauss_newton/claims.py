"""What Buffelli et al. claim, in our words, and what this book adds; each with its estimate.

The paper shows curves and no numbers: where it gives none, the accepted range is ours, stated
before these runs were made. Errors are in points of test examples; a difference or ratio is one of
the same seed, which sets weights, fixed features and data. *Reversible* is the right inverse of the
paper, *as published* the one of its public code (singular values below a hundredth of the largest
left out, a linear first block), *minimum norm* the Gauss-Newton step that optimisation means.
"""

import math
from typing import Any

import numpy as np

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, minus, ratio

PAPER, HERE = "buffelli2024", "this book"
SQUARED, ENTROPY = dict(loss="squared"), dict(loss="cross-entropy")
REVERSIBLE = dict(method="reversible", rtol=0.0, first="")
PUBLISHED = dict(method="reversible", rtol=1e-2, first="linear")
MINIMUM, ADAM = dict(method="minimum"), dict(method="adam")
LADDER = dict(layout="half", centred=False, damping=0.0, rtol=0.0, shares="equal")
PLAIN = dict(damping=0.0, decay=0.0, noise=0.0, std=1e-3, rate=0.2, network="reversible")
END = 20  # epochs of a training in batches

# ---- what the rows say


def ends(t: Table, part: str, metric: str, **where: Any) -> Runs:
    """The last value of each run; errors in points."""
    runs = t.ends(metric, part).where(**where)
    return runs.map(100 * runs["value"]) if metric.startswith("error") else runs


def at_epoch(t: Table, part: str, metric: str, epoch: int, **where: Any) -> Runs:
    """The value after so many epochs, of runs that did not diverge."""
    whole = t.ends(metric, part).where(**where)
    rows = t.every(metric, part).where(time=(epoch, epoch), **where).rows
    return Runs(rows[rows["run_id"].isin(whole["run_id"])], whole.states)


def growth(t: Table, part: str, start: int, **where: Any) -> Estimate:
    """The training loss at the end over that after `start` epochs."""
    return ratio(ends(t, part, "loss", **where), at_epoch(t, part, "loss", start, **where))


def ladder(t: Table, metric: str = "error", **where: Any) -> Runs:
    return ends(t, "ladder", metric, **LADDER | where)


# ---- the paper's findings


@claim(
    "buffelli-poor", PAPER, "section 5", Accept("clearly above Adam's: by 2 points", 2, INF),
    over={
        f"buffelli-poor-{name}-{loss}{place}": Setting(
            f"{words}, {loss}, {n} images", dict(part=part, step=step, loss=loss))
        for part, place, n in (("full", "", 300), ("large", "-large", 1024))
        for loss in ("squared", "cross-entropy")
        for name, words, step in (("reversible", "reversible", REVERSIBLE),
                                  ("published", "as published", PUBLISHED),
                                  ("minimum", "minimum norm", MINIMUM))
        if (part, name, loss) != ("large", "reversible", "cross-entropy")
    },
)  # fmt: skip
def poor(t: Table, part: str, step: dict, loss: str) -> Estimate:
    """Trained to a small loss on the full batch, exact Gauss-Newton errs more often on test images
    than Adam (MNIST, h/n = 4)."""
    adam = ends(t, part, "error", loss=loss, **ADAM)
    return minus(ends(t, part, "error", loss=loss, **step), adam)


@claim(
    "buffelli-4", PAPER, "section 5", Accept("fastest: at most half of Adam's steps", 0, 0.5),
    over={
        "buffelli-4-squared": Setting("steps to a loss of 0.02, squared", dict(loss="squared")),
        "buffelli-4-entropy": Setting("to 0.1, cross-entropy", dict(loss="cross-entropy")),
        "buffelli-4-published": Setting("to 0.1, cross-entropy, as published",
                                        dict(loss="cross-entropy", step=PUBLISHED)),
        "buffelli-4-cost": Setting("seconds of a step over a gradient's; n = 1024, h = 2048",
                                   dict(loss=""), Accept("comparable: at most 2", 0, 2)),
    },
)  # fmt: skip
def fastest(t: Table, loss: str, step: dict = REVERSIBLE) -> Estimate:
    """On the full batch the reversible step needs far fewer steps to a small loss than tuned Adam
    (ratio), and a step costs about as much as a gradient (MNIST)."""
    if not loss:
        return t.starts("cost", "cost").mean(log=True)
    steps = ends(t, "full", "updates", loss=loss, **step)
    return ratio(steps, ends(t, "full", "updates", loss=loss, **ADAM))


@claim(
    "buffelli-5", PAPER, "section 5", Accept("saturates: at least 0.95", 0.95, INF),
    over={
        f"buffelli-5-{name}-{loss}": Setting(f"{words}, {loss}", dict(step=step, loss=loss))
        for loss in ("squared", "cross-entropy")
        for name, words, step in (("reversible", "reversible", REVERSIBLE),
                                  ("published", "as published", PUBLISHED))
    } | {
        f"buffelli-5-adam-{loss}": Setting(f"Adam, {loss}", dict(step=ADAM, loss=loss),
                                           Accept("goes on: at most 0.9", 0, 0.9))
        for loss in ("squared", "cross-entropy")
    },
)  # fmt: skip
def saturates(t: Table, step: dict, loss: str) -> Estimate:
    """In batches the training loss of the reversible step stops to fall, Adam's goes on falling
    (loss after 20 epochs over that after 10; CIFAR-10, N/h = 20, h/n = 4)."""
    return growth(t, "batches", END // 2, loss=loss, **step)


@claim(
    "buffelli-6", PAPER, "section 5", Accept("far larger: at least 3 times", 3, INF),
    over={
        f"buffelli-6-{loss}-{epoch}": Setting(f"{loss}, epoch {epoch}",
                                              dict(loss=loss, epoch=epoch))
        for loss in ("squared", "cross-entropy") for epoch in (2, END)
    },
)  # fmt: skip
def drop(t: Table, loss: str, epoch: int) -> Estimate:
    """A reversible step lowers the loss of its own batch far more than Adam's, and still does where
    training has saturated (ratio)."""
    arms = (at_epoch(t, "batches", "change_own", epoch, loss=loss, **step)
            for step in (REVERSIBLE, ADAM))  # fmt: skip
    return ratio(*(arm.map(-arm["value"]) for arm in arms))


@claim(
    "buffelli-7", PAPER, "section 5", Accept("lazy: above 0.95", 0.95, INF),
    over={
        f"buffelli-7-{name}-{loss}": Setting(f"{words}, {loss}", dict(step=step, loss=loss), accept)
        for loss in ("squared", "cross-entropy")
        for name, words, step, accept in (
            ("reversible", "reversible", REVERSIBLE, None),
            ("sgd", "SGD", dict(method="sgd"), None),
            ("adam", "Adam", ADAM, Accept("not lazy: below 0.95", -INF, 0.95)))
    },
)  # fmt: skip
def lazy(t: Table, step: dict, loss: str) -> Estimate:
    """Gauss-Newton and SGD are lazy and Adam is not: cosine of the last tangent kernel with the
    first (MNIST, 8 epochs)."""
    return ends(t, "lazy", "kernel_cosine", loss=loss, **step).mean()


@claim(
    "buffelli-8", PAPER, "section 5", Accept("below 0", -INF, 0),
    over={
        "buffelli-8-blocks": Setting("Adam's last block minus its first", dict(first=ADAM, k=1)),
        "buffelli-8-methods": Setting("Adam's last block minus the reversible step's",
                                      dict(first=REVERSIBLE, k=2)),
    },
)  # fmt: skip
def representations(t: Table, first: dict, k: int) -> Estimate:
    """Adam changes what the blocks represent, later ones most, and Gauss-Newton does not (CKA with
    the start, cross-entropy)."""
    last = ends(t, "lazy", "cka_2", **ENTROPY, **ADAM)
    return minus(last, ends(t, "lazy", f"cka_{k}", **ENTROPY, **first))


@claim(
    "buffelli-11", PAPER, "section 5", Accept("worse: at least 1.1", 1.1, INF),
    over={
        "buffelli-11-to": Setting("Adam, then reversible", dict(method="adam", then="reversible")),
        "buffelli-11-from": Setting(
            "reversible, then Adam", dict(method="reversible", then="adam"),
            Accept("recovers: at most 0.75", 0, 0.75)),
        "buffelli-11-minimum": Setting(
            "reversible, then minimum norm", dict(method="reversible", then="minimum"),
            Accept("recovers: at most 0.75", 0, 0.75)),
    },
)  # fmt: skip
def switched(t: Table, method: str, then: str) -> Estimate:
    """A switch from Adam to the reversible step halfway worsens the training loss, the other way
    round it recovers (loss at the end over that at the switch; CIFAR-10, N/h = 20, h/n = 2)."""
    return growth(t, "switch", END // 2, method=method, then=then)


FIXES = {
    "rate": ("a tenth of the rate", dict(rate=0.02)),
    "damping": ("damping, 0.1", dict(damping=0.1)),
    "truncation": ("truncation, 0.01", dict(rtol=1e-2)),
    "decay": ("decay of the weights", dict(decay=0.01)),
    "noise": ("noise", dict(noise=0.5)),
    "small": (r"initial weights of $10^{-6}$", dict(std=1e-6)),
    "large": ("initial weights of 0.1", dict(std=0.1)),
}


@claim(
    "buffelli-12", PAPER, "appendix", Accept("still above Adam's: above 1", 1, INF),
    over={f"buffelli-12-{name}": Setting(words, dict(fix=fix))
          for name, (words, fix) in FIXES.items()},
)  # fmt: skip
def fixed(t: Table, fix: dict) -> Estimate:
    """No simple remedy brings the reversible step's training loss in batches down to Adam's (ratio
    after 20 epochs)."""
    given = REVERSIBLE | PLAIN | fix
    adam = ends(t, "fixes", "loss", network="reversible", **ADAM)
    return ratio(ends(t, "fixes", "loss", **given), adam)


# ---- beyond the paper


@claim(
    "beyond-minimum", PAPER, HERE, Accept("at least 10 points", 10, INF),
    over={
        "beyond-minimum-digits": Setting("digits, h/n = 4",
                                         dict(part="digits", width=400)),
        "beyond-minimum-mnist": Setting("MNIST, 300 images, h/n = 4",
                                        dict(part="mnist", width=1200)),
        "beyond-minimum-large": Setting("MNIST, 1024 images, h/n = 4",
                                        dict(part="large", loss="squared", rtol=0.0)),
        "beyond-minimum-entropy": Setting("MNIST, 300 images, cross-entropy: above 0",
                                          dict(part="full", loss="cross-entropy", rtol=0.0),
                                          Accept("above 0", 0, INF)),
        "beyond-minimum-wine": Setting("wine", dict(part="tables", dataset="wine")),
        "beyond-minimum-breast": Setting("breast cancer: above 0",
                                         dict(part="tables", dataset="breast-cancer"),
                                         Accept("above 0", 0, INF)),
    },
)  # fmt: skip
def minimum_is_better(t: Table, part: str, **where: Any) -> Estimate:
    """At the same training curve the step of minimum norm errs less often on test examples than the
    reversible one (difference in points)."""
    arms = (ends(t, part, "error", method=method, **where) for method in ("reversible", "minimum"))
    return minus(*arms)


@claim(
    "beyond-causes", PAPER, HERE, Accept("at most 5 points", -5, 5),
    over={
        "beyond-causes-centred": Setting("initial outputs subtracted", dict(centred=True)),
        "beyond-causes-both": Setting("the whole image in both halves", dict(layout="both")),
        "beyond-causes-damped": Setting("1 % damping", dict(damping=0.01)),
        "beyond-causes-order": Setting("pixels interleaved", dict(layout="interleaved")),
        "beyond-causes-random": Setting("a right inverse as long, drawn at random: 2 points",
                                        dict(method="random"), Accept("at most 2 points", -2, 2)),
    },
)  # fmt: skip
def causes(t: Table, method: str = "reversible", **where: Any) -> Estimate:
    """What closes the gap between the reversible and the minimum-norm step; its length is no cause
    (MNIST, squared loss, test error minus that of minimum norm, under the same remedy)."""
    return minus(ladder(t, method=method, **where), ladder(t, method="minimum", **where))


@claim(
    "beyond-theory", PAPER, HERE, Accept("within 5 points", -5, 5),
    over={f"beyond-theory-{method}": Setting(words, dict(method=method)) for method, words in
          (("reversible", "reversible"), ("minimum", "minimum norm"))},
)  # fmt: skip
def theory(t: Table, method: str) -> Estimate:
    """The linearised network at the start predicts the test error without training: trained minus
    predicted (MNIST, h/n = 4)."""
    end = ends(t, "mnist", "error", method=method, width=1200)
    start = t.starts("error_theory", "mnist").where(method=method, width=1200)
    return minus(end, start.map(100 * start["value"]))


@claim(
    "beyond-batches", PAPER, HERE, Accept("below 1", 0, 1),
    over={
        f"beyond-batches-{name}-{loss}": Setting(f"{words}, {loss}", dict(loss=loss, over=over),
                                                 accept)
        for loss in ("squared", "cross-entropy")
        for name, words, over, accept in (
            ("falls", "loss after 20 epochs over 10", "", Accept("at most 0.9", 0, 0.9)),
            ("adam", "loss over Adam's", "loss", None),
            ("drop", "drop on its own batch over the reversible step's", "change_own",
             Accept("equal: 0.9 to 1.1", 0.9, 1.1)))
    },
)  # fmt: skip
def minimum_goes_on(t: Table, loss: str, over: str) -> Estimate:
    """In batches the step of minimum norm does not saturate and ends below Adam, at the same drop
    of its own batch's loss as the reversible step: the drop does not explain saturation."""
    if not over:
        return growth(t, "batches", END // 2, loss=loss, **MINIMUM)
    other = ADAM if over == "loss" else REVERSIBLE
    arms = (at_epoch(t, "batches", over, END, loss=loss, **step) for step in (MINIMUM, other))
    return ratio(*(arm.map(arm["value"].abs()) for arm in arms))


@claim(
    "beyond-lazy", PAPER, HERE, Accept("lazier: below 1", 0, 1),
    over={
        "beyond-lazy-digits": Setting("digits, h/n = 4", dict(part="digits", width=400)),
        "beyond-lazy-mnist": Setting("MNIST, h/n = 4", dict(part="mnist", width=1200)),
    },
)  # fmt: skip
def laziness_explains_nothing(t: Table, part: str, width: int) -> Estimate:
    """Laziness does not explain poor generalisation: the step of minimum norm, which generalises
    better, is the lazier one (ratio of the kernels' change, 1 - cosine with the first)."""
    arms = (ends(t, part, "kernel_change", method=method, width=width)
            for method in ("minimum", "reversible"))  # fmt: skip
    return ratio(*arms)


@claim(
    "beyond-features", PAPER, HERE, Accept("alike: 0.8 to 1.25", 0.8, 1.25),
    over={
        "beyond-features-258": Setting("258 features", dict(reversible=256, minimum=64)),
        "beyond-features-514": Setting("514 features", dict(reversible=512, minimum=128)),
        "beyond-features-few": Setting(
            "minimum norm with 130 features: its own loss after 20 epochs over 10",
            dict(reversible=0, minimum=64), Accept("saturates: at least 0.95", 0.95, INF)),
        "beyond-features-many": Setting(
            "reversible with 514 features, likewise",
            dict(reversible=512, minimum=0), Accept("goes on: at most 0.9", 0, 0.9)),
    },
)  # fmt: skip
def features_decide(t: Table, reversible: int, minimum: int) -> Estimate:
    """Which step saturates in batches is a matter of how many features its regression has, h + 1
    for the reversible and 2 L (h + 1) for minimum norm: with equally many they end at the same loss
    (ratio, reversible over minimum norm; CIFAR-10, 2560 images)."""
    if not reversible:
        return growth(t, "features", END // 2, width=minimum, blocks=1, **MINIMUM)
    given = dict(width=reversible, centred=False, **REVERSIBLE)
    if not minimum:
        return growth(t, "features", END // 2, **given)
    least = ends(t, "features", "loss", width=minimum, blocks=2, **MINIMUM)
    return ratio(ends(t, "features", "loss", **given), least)


@claim(
    "beyond-remedies", PAPER, HERE, Accept("still saturates: at least 0.95", 0.95, INF),
    over={
        "beyond-remedies-centred": Setting("initial outputs subtracted", dict(layout="half")),
        "beyond-remedies-both": Setting("and the whole image in both halves", dict(layout="both")),
    },
)  # fmt: skip
def causes_of_another_kind(t: Table, layout: str) -> Estimate:
    """What closes the gap on the test set does not end saturation in batches (loss of the
    reversible step after 20 epochs over 10, h/n = 2)."""
    given = dict(width=128, centred=True, layout=layout, **REVERSIBLE)
    return growth(t, "features", END // 2, **given)


@claim(
    "beyond-metric", PAPER, HERE, Accept("at least 5 points worse", 5, INF),
    over={f"beyond-metric-{g:g}": Setting(f"g = {g:g}", dict(g=g)) for g in (10.0, 100.0, 1e4)},
)  # fmt: skip
def metric_matters(t: Table, g: float) -> Estimate:
    """Minimum norm is one metric: where changes of the first halves' weights count 1/g, the step of
    minimum norm errs more often (MNIST, difference to g = 1)."""
    arms = (ends(t, "metric", "error", weighting=v, **MINIMUM) for v in (g, 1.0))
    return minus(*arms)


# ---- identities and controls


@claim("exact", PAPER, "theorem 4.2", Accept("0", 0, 1e-10), kind="identity")
def exact(t: Table) -> Estimate:
    r"""The reversible step is a right inverse: $|J\,dw + \epsilon| / |\epsilon|$, the largest of
    ReLU and tanh, initial weights of 0.001 to 0.5."""
    runs = t.starts("residual", "exact").where(correction=True)
    return runs.by_seed(lambda rows: rows["value"].max())


@claim("curve", PAPER, "theorem 4.3", Accept("0", 0, 0.02), kind="identity",
       over={"curve": Setting("gap at a rate of 0.05", dict(rates=(0.05, 0.05))),
             "curve-order": Setting("exponent of the gap in the rate", dict(rates=(0.05, 0.25)),
                                    Accept("1", 0.8, 1.8))})  # fmt: skip
def same_curve(t: Table, rates: tuple[float, float]) -> Estimate:
    """Any right inverse gives the same training loss, up to the order of the rate: largest relative
    gap between the curves of the reversible and the minimum-norm step (digits)."""
    both = t.every("loss", "rate").rows.pivot_table(
        index=["seed", "rate", "time"], columns="method", values="value"
    )
    gap = (both["reversible"] - both["minimum"]).abs() / both["minimum"].groupby(
        ["seed", "rate"]
    ).transform("first")
    most = gap.groupby(["seed", "rate"]).max().rename("value").reset_index()
    some = most[most["rate"].between(*rates)]
    if rates[0] == rates[1]:
        return Runs(some).mean()
    return Runs(some).by_seed(lambda g: np.polyfit(np.log(g["rate"]), np.log(g["value"]), 1)[0])


@claim("control-correction", PAPER, "appendix", Accept("no right inverse: above 0.01", 0.01, INF),
       kind="control")  # fmt: skip
def uncorrected(t: Table) -> Estimate:
    """Without its correction term the reversible step is no right inverse (ReLU, initial weights of
    0.1)."""
    where = dict(correction=False, std=0.1, activation="relu")
    return t.starts("residual", "exact").where(**where).mean()


@claim("control-labels", PAPER, HERE, Accept("none", -3, 3), kind="control")
def shuffled_labels(t: Table) -> Estimate:
    """With shuffled training labels no right inverse predicts better than another (MNIST,
    reversible minus minimum norm)."""
    arms = (ends(t, "shuffled", "error", method=method) for method in ("reversible", "minimum"))
    return minus(*arms)


@claim("control-tuned", PAPER, HERE, Accept("the best of its grid", 0, 0), kind="control",
       over={f"control-tuned-{loss}": Setting(f"{loss}", dict(loss=loss))
             for loss in ("squared", "cross-entropy")})  # fmt: skip
def tuned(t: Table, loss: str) -> Estimate:
    """The rates of all arms are those of the paper's rule, on seeds that judge nothing: the most
    progress after one epoch (arms whose rate is another)."""
    tried = t.every("loss", "tuning").where(loss=loss, time=(1, 1)).rows
    mean = tried.groupby(["method", "rate"])["value"].mean()
    mean = mean[tried.groupby(["method", "rate"])["seed"].nunique() == tried["seed"].nunique()]
    used = t.ends("loss", "batches").where(loss=loss, rtol=0.0).rows.groupby("method")["rate"]
    wrong = [m for m, rate in used.first().items() if mean[m].idxmin() != rate]
    count = float(len(wrong))
    return Estimate(count, math.nan, math.nan, tried["seed"].nunique(), len(tried),
                    ", ".join(wrong), holds=not wrong)  # fmt: skip


CLAIMS = claims_in(globals())
