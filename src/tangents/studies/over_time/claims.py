"""What Fort and co-authors claim, in our words, and what this book adds; each with its estimate.

Of the paper abstract and reviews were read: where it gives no number the accepted range is ours,
stated before these runs were made. A seed sets weights, data and batches. Errors and barriers are
in points, times in epochs or in times t1, at which the loss of a flow is half.
"""

from typing import Any

import numpy as np
import pandas as pd

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, by_seed, minus, ratio

PAPER, HERE = "fort2020", "this book"
NETS = {"fc": "MLP, MNIST", "conv": "ConvNet, CIFAR-10"}
EARLY, LATE = 3.2, 6.4  # epochs: a tenth and a fifth of training
# What is compared over time, and whether it grows or falls as the network moves away
MEASURES = {
    "kernel_turn": ("kernel", 1),
    "pattern": ("ReLU pattern", 1),
    "moved": ("weights", 1),
    "cka_last": ("last layer (1 - CKA)", -1),
    "alignment": ("alignment", 1),
    "error_test": ("test error", -1),
}
PLANTED = {f"planted_{k}": ("planted", 1) for k in range(1, 7)}


def over_nets(name: str, **accepted: Accept) -> dict[str, Setting]:
    """A claim's settings: each network of the battery, some with a range of its own."""
    return {
        f"{name}-{net}": Setting(words, dict(network=net), accepted.get(net))
        for net, words in NETS.items()
    }


# ---- what the rows say


def at(t: Table, metric: str, epoch: float, part: str = "battery", **where: Any) -> Runs:
    """The value of each run at an epoch."""
    return t.every(metric, part).where(time=epoch, **where)


def points(runs: Runs) -> Runs:
    return runs.map(100 * runs["value"])


def end(t: Table, metric: str, **where: Any) -> Runs:
    """The value of each run of the battery at its end."""
    return t.ends(metric, "battery").where(**where)


def barriers(t: Table, epoch: float, part: str = "battery", **where: Any) -> Runs:
    """In training error, of children that begin at this epoch."""
    return points(at(t, "barrier_train", epoch, part, **where))


def changes(
    t: Table, measures: dict[str, tuple[str, int]], levels: bool = False, **where: Any
) -> dict[int, pd.DataFrame]:
    """By seed: from each look to the next (or at each look), the growth of each measure."""
    found = {}
    for metric, (_, sign) in measures.items():
        runs = t.every(metric, "battery").where(**where)
        table = runs.rows.pivot_table(index="time", columns="seed", values="value")
        found[metric] = sign * (table if levels else table.diff().iloc[1:])
    seeds = next(iter(found.values())).columns
    return {s: pd.DataFrame({name: table[s] for name, table in found.items()}) for s in seeds}


def correlation(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """The mean rank correlation of different measures, one of a run and one of another."""
    ranks = [table.rank().to_numpy() for table in (a, b)]
    k = a.shape[1]
    table = np.corrcoef(*ranks, rowvar=False)[:k, k:]
    return float(np.mean([table[i, j] for i in range(k) for j in range(k) if i != j]))


def own_and_others(found: dict[int, pd.DataFrame]) -> tuple[pd.Series, pd.Series]:
    """By seed: the correlation of measures within its run, and with those of other seeds' runs."""
    own = {s: correlation(table, table) for s, table in found.items()}
    pairs = {(s, o): correlation(found[s], found[o]) for s in found for o in found if s != o}
    others = pd.Series(pairs, dtype=float)
    return pd.Series(own), others.groupby(level=0).mean() if len(others) else others


def with_loss(t: Table, part: str, **where: Any) -> pd.DataFrame:
    """The alignment and the training loss at each look, run by run."""
    aligned, loss = (
        t.every(metric, part).where(**where).rows.rename(columns={"value": metric})
        for metric in ("alignment", "loss_train")
    )
    return aligned.merge(loss[["run_id", "time", "loss_train"]], on=["run_id", "time"])


def fallen(way: pd.DataFrame) -> tuple[float, float, float]:
    """When the loss of a run has fallen by a tenth, between looks; its alignment then; and which
    share of its way to its highest value that is, nan where alignment never rises."""
    way = way.sort_values("time")
    time, alignment, loss = (way[k].to_numpy() for k in ("time", "alignment", "loss_train"))
    k, goal = int(np.argmax(loss < 0.9 * loss[0])), 0.9 * loss[0]
    part = (loss[k - 1] - goal) / (loss[k - 1] - loss[k])
    when, then = (v[k - 1] + part * (v[k] - v[k - 1]) for v in (time, alignment))
    rise = alignment.max() - alignment[0]
    return when, then, float((then - alignment[0]) / rise) if rise > 0 else np.nan


def kernel_at(t: Table, share: float, scaled_alpha: float) -> Runs:
    """The change of the kernel of a flow at a share of t1, between looks (of log against log)."""
    change = t.every("kernel_change", "flow").where(scaled_alpha=scaled_alpha)
    t1 = t.ends("t1", "flow").where(scaled_alpha=scaled_alpha)
    found = []
    for run, rows in change.rows.groupby("run_id"):
        rows = rows[rows["time"] > 0].sort_values("time")
        u, v = np.log(rows["time"]), np.log(rows["value"])
        found.append(np.exp(np.interp(np.log(share * t1.by_run[run]), u, v)))
    return Runs(change.rows.drop_duplicates("run_id").sort_values("run_id").assign(value=found))


# ---- the paper's findings


@claim(
    "fort-1", PAPER, "abstract: a chaotic transient", Accept("collapses: below 1/4", -INF, 0.25),
    over={
        "fort-1-conv": Setting(NETS["conv"], dict(part="battery", network="conv")),
        "fort-1-edge": Setting(f"{NETS['fc']}, rate 0.05", dict(part="rates", rate=0.05)),
    },
)  # fmt: skip
def basin(t: Table, part: str, **where: Any) -> Estimate:
    """Within a few epochs the basin is fixed: the barrier in training error between two children
    that begin at epoch 3.2, as a share of that between two that begin at the start, which is above
    2 points."""
    first, late = (barriers(t, epoch, part, **where) for epoch in (0.0, EARLY))
    share = late.over(by_seed(late) / by_seed(first))
    return share.and_also(first.mean(), Accept("at the start more than 2", 2, INF))


@claim(
    "fort-2", PAPER, "abstract: rapid change, then constant velocity",
    Accept("falls: below 1/2", 0, 0.5),
    over={
        **over_nets("fort-2-falls"),
        **{f"fort-2-constant-{net}": Setting(f"exponent from epoch {EARLY} on: {words}",
                                             dict(network=net, of="time"),
                                             Accept("constant: 0", -0.25, 0.25))
           for net, words in NETS.items()},
        **{f"fort-2-steady-{net}": Setting(f"exponent of the turn in the lag: {words}",
                                           dict(network=net, of="lag"),
                                           Accept("it goes on: at least 1", 0.9, INF))
           for net, words in NETS.items()},
    },
)  # fmt: skip
def velocity(t: Table, network: str, of: str = "fall") -> Estimate:
    """The tangent kernel turns fast at first, then at a constant velocity: velocity at epoch 3.2
    over that at the start; exponent of the velocity in time from then on; and whether it still goes
    on then: how the turn grows with the lag, from 0.4 to 0.8 epochs."""
    if of == "fall":
        return ratio(*(at(t, "kernel_velocity", epoch, network=network) for epoch in (EARLY, 0.0)))
    late = dict(network=network, time=(EARLY, INF))
    runs = t.every("kernel_velocity", "battery").where(**late)
    if of == "time":
        return runs.exponent("time")
    twice = t.every("kernel_velocity_twice", "battery").where(**late)
    logs = (each.rows.set_index(["seed", "time"])["value"] for each in (twice, runs))
    return runs.over((1 + np.log2(next(logs) / next(logs))).groupby("seed").mean())


@claim("fort-3", PAPER, "abstract: a factor of three", Accept("three: 2 to 4", 2, 4),
       over=over_nets("fort-3"))  # fmt: skip
def kernel_improves(t: Table, network: str) -> Estimate:
    """The kernel learnt in the first epochs is better than the initial one by a factor in test
    error: that of the network linearised at the start over that linearised at epoch 3.2."""
    return ratio(*(at(t, "error_linear", epoch, network=network) for epoch in (0.0, EARLY)))


@claim("fort-4", PAPER, "abstract: 15 to 45 per cent of training",
       Accept("as good: at most 1 point more", -INF, 1),
       over={
           **over_nets("fort-4"),
           **{f"fort-4-beside-{net}": Setting(f"than the network itself at the same rate: {words}",
                                              dict(network=net, beside=True))
              for net, words in NETS.items()},
       })  # fmt: skip
def kernel_matches(t: Table, network: str, beside: bool = False) -> Estimate:
    """The network linearised at a fifth of its training errs as little on test images as the
    network at its end; and as the network itself that goes on from there at the same low rate
    (differences in points)."""
    linear = points(at(t, "error_linear", LATE, network=network))
    if beside:
        return minus(linear, points(at(t, "error_beside", LATE, network=network)))
    return minus(linear, points(end(t, "error_test", network=network)))


@claim(
    "fort-5", PAPER, "abstract: highly correlated", Accept("high: above 0.5", 0.5, INF),
    over={
        **over_nets("fort-5-own"),
        **{f"fort-5-others-{net}": Setting(f"more than with another run's: {words}",
                                           dict(network=net, others=True),
                                           Accept("more: above 0.1", 0.1, INF))
           for net, words in NETS.items()},
    },
)  # fmt: skip
def correlated(t: Table, network: str, others: bool = False) -> Estimate:
    """The measures are highly correlated: mean rank correlation of what any two of kernel, ReLU
    pattern, weights, last layer, alignment and test error change by from look to look."""
    found = changes(t, MEASURES, network=network)
    own, other = own_and_others(found)
    runs = t.every("moved", "battery").where(network=network)
    return runs.over(own - other if others else own)


# ---- alignment, and time in units of t1


@claim(
    "beyond-alignment", PAPER, HERE, Accept("before: above 0.9", 0.9, INF),
    over={
        **{f"beyond-alignment-{alpha:g}": Setting(
               rf"flow, $\sqrt{{h}}\alpha = {alpha:g}$", dict(scaled_alpha=alpha))
           for alpha in (0.01, 0.1, 1.0)},
        **over_nets("beyond-alignment"),
    },
)  # fmt: skip
def aligns_first(t: Table, **where: Any) -> Estimate:
    """The kernel aligns with the labels before the loss falls: share of its way to its highest
    alignment that it has made when the loss has fallen by 10 %."""
    part = "flow" if "scaled_alpha" in where else "battery"
    rows = with_loss(t, part, **where)
    found = {seed: fallen(way)[-1] for seed, way in rows.groupby("seed")}
    return t.every("alignment", part).where(**where).over(found)


@claim(
    "beyond-t1", PAPER, HERE, Accept("one curve: 1", 0.67, 1.5),
    over={
        **{f"beyond-t1-{share:g}": Setting(rf"$\sqrt{{h}}\alpha = 0.01$, at {share:g} $t_1$",
                                           dict(share=share, scaled_alpha=0.01))
           for share in (0.1, 0.3, 1.0)},
        "beyond-t1-lazy": Setting(r"$\sqrt{h}\alpha = 100$, at 0.1 $t_1$",
                                  dict(share=0.1, scaled_alpha=100.0)),
    },
)  # fmt: skip
def one_curve(t: Table, share: float, scaled_alpha: float) -> Estimate:
    r"""Against $t/t_1$ the change of the kernel is one curve for all output scales: that at this
    scale over that at $\sqrt{h}\alpha = 1$, at the same share of $t_1$."""
    return ratio(kernel_at(t, share, scaled_alpha), kernel_at(t, share, 1.0))


# ---- step sizes, and what learning nonlinearly pays


@claim(
    "beyond-rates", PAPER, HERE, Accept("none: below 1", -INF, 1),
    over={
        "beyond-rates-0.005": Setting("rate 0.005", dict(part="rates", rate=0.005)),
        "beyond-rates-0.02": Setting("rate 0.02", dict(part="battery", rate=0.02)),
        "beyond-rates-0.05": Setting("rate 0.05, at the edge of stability: above 1",
                                     dict(part="rates", rate=0.05), Accept("above 1", 1, INF)),
    },
)  # fmt: skip
def barrier_by_rate(t: Table, part: str, rate: float) -> Estimate:
    """At small step sizes there is no barrier to fall, even between children that begin at the
    start (points of training error, MLP)."""
    return barriers(t, 0.0, part, rate=rate, network="fc").mean()


@claim("beyond-gain", PAPER, HERE, Accept("gone: below 1", -INF, 1), over=over_nets("beyond-gain"))
def nonlinear_gain(t: Table, network: str) -> Estimate:
    """Learning nonlinearly pays early alone, while there is a barrier: by how much less the network
    errs than its linearisation at the same low rate, at epoch 3.2; by more than 2 points at the
    start."""
    start, late = (
        minus(*(points(at(t, f"error_{name}", epoch, network=network))
                for name in ("linear", "beside")))
        for epoch in (0.0, EARLY)
    )  # fmt: skip
    return late.and_also(start, Accept("at the start more than 2", 2, INF))


# ---- controls


@claim("control-same", PAPER, HERE, Accept("none: 0", -0.01, 0.01), kind="control")
def no_barrier_on_the_same_batches(t: Table) -> Estimate:
    """Two children that see the same batches have no barrier between them (MLP, epoch 0)."""
    return barriers(t, 0.0, "same").mean()


@claim("control-shuffled", PAPER, HERE, Accept("none: 1", 0.9, 1.1), kind="control")
def shuffled_labels_teach_nothing(t: Table) -> Estimate:
    """Where training labels are shuffled the kernel learnt is no better than the initial one (ratio
    of test errors at the start and at epoch 3.2, MLP)."""
    return ratio(*(at(t, "error_linear", epoch, "shuffled") for epoch in (0.0, EARLY)))


@claim("control-planted", PAPER, HERE, Accept("none: 0", -0.25, 0.25), kind="control")
def planted_walks_are_not_correlated(t: Table) -> Estimate:
    """Six walks upwards that have nothing to do with each other are correlated as they are, and
    their changes are not (mean rank correlation)."""
    levels, found = (changes(t, PLANTED, levels, network="fc") for levels in (True, False))
    runs = t.every("planted_1", "battery").where(network="fc")
    alike = runs.over(own_and_others(levels)[0])
    return runs.over(own_and_others(found)[0]).and_also(alike, Accept("as they are", 0.9, INF))


CLAIMS = claims_in(globals())
