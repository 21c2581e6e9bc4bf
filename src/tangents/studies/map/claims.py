"""What the map is asked, in claims that were stated before the runs that judge them.

Half of them come from a pilot on other seeds, with its ranges. *Gain* is the test error of the flow
on the first kernel, which is frozen, minus that of the network, at the same training loss: points.
"""

from functools import cache
from typing import ClassVar

import numpy as np
import pandas as pd

from tangents.lab.claims import Setting, claim, claims_in
from tangents.lab.evidence import INF, Accept, Estimate, Runs, Table, minus
from tangents.lab.statistics import between, explained, slope, smooth

HERE, OURS = "this book", "a pilot on other seeds"
MEASURES = {
    "nonlinear": "nonlinear share $R$",
    "turn": r"turn of the kernel, $1-\cos$",
    "turn_centred": "turn of the centred kernel, $1-$CKA",
    "kernel_change": "relative change of the kernel",
    "share": r"$\|w-w_0\|/\|w_0\|$",
    "turn_hidden": "turn of the hidden layers, $1-$CKA",
    "learnt": "alignment with the labels, gained",
}
TASKS = {
    "mnist": "MNIST parity", "xor": "XOR", "fashion-mnist": "Fashion-MNIST parity",
    "cifar-10": "CIFAR-10, plane or car",
}  # fmt: skip
OTHERS = ["error", "error_linear", "error_final", "error_tangent", "edge", "rise", "growth", "loss",
          "alignment", "alignment_start", "alignment_train", "alignment_train_start", "turn_last",
          *(name for name in MEASURES if name != "learnt")]  # fmt: skip
OF_A_CELL = ["part", "network", "depth", "width", "activation", "draw", "scale", "alpha", "train",
             "rate", "rounds", "damping"]  # fmt: skip
BEST = {"mnist": "turn_centred", "xor": "turn", "cifar-10": "turn_centred"}  # measure, by the pilot
SAME = ["alpha", "rounds", "damping", "adam", "momentum", "descent"]  # knobs that leave the network
EDGE = 1.0  # steps of this share of the edge of stability, on the way, are stable

# ---- what the rows say


class Networks(pd.DataFrame):
    """Rows of runs that take up another of their metrics as a column when it is asked for."""

    _metadata: ClassVar = ["found"]  # handed on to every selection

    @property
    def _constructor(self):
        return Networks

    def __getitem__(self, key):
        if isinstance(key, str) and key not in self.columns and key in (*OTHERS, "learnt"):
            if key == "learnt":
                return self["alignment"] - self["alignment_start"]
            return self["run_id"].astype(str).map(self.found(key)).rename(key)
        return super().__getitem__(key)


def plane(t: Table, dataset: str, flipped: float | tuple = 0.0, **where) -> Runs:
    """Networks of a task that were trained to the common loss; the value is the gain, the measures
    are columns."""
    where = dict(network="fc", target=0.03) | where
    runs = t.ends("error").where(dataset=dataset, flipped=flipped, **where)
    if not len(runs):
        raise LookupError(f"no run on {dataset} with {flipped} of the labels wrong")
    rows = Networks(runs.rows)
    rows.found = cache(lambda name: t.ends(name).by_run)
    rows = rows.assign(
        error=rows["value"],
        value=100 * (rows["error_linear"] - rows["value"]),
        log_alpha=np.log(rows["alpha"]),
        part=rows["part"].astype(str),
    )
    return Runs(rows, runs.states)


def stable(t: Table, dataset: str) -> Runs:
    """Those with true labels whose steps were below the edge of stability."""
    runs, measure = plane(t, dataset), BEST[dataset]
    rows = runs.rows[runs["edge"] <= EDGE]
    return Runs(rows.assign(**{measure: rows[measure]}), runs.states)  # to be grouped, too


def share(rows: pd.DataFrame, measure: str, part: str = "left_out") -> float:
    """What `explained` says of the gain, by a measure, knob by knob."""
    return getattr(explained(rows[measure], rows["value"], rows["part"]), part)


def seeds_leave(runs: Runs) -> str:
    """The most that anything but the seed can explain."""
    cells = runs.rows[OF_A_CELL].astype(str).agg(" ".join, axis=1)
    return f"all settings together explain {between(runs['value'], cells):.2f}"


def off(rows: pd.DataFrame, measure: str, part: str) -> float:
    """The mean gain of a knob above the function of the measure that is fitted to the others."""
    mine = rows["part"] == part
    if not mine.any() or mine.all():
        raise LookupError(f"no run of part {part!r}, or of no other")
    known = rows[~mine]
    return float(
        (rows["value"] - smooth(known[measure], known["value"], rows[measure]))[mine].mean()
    )


# ---- one coordinate?


@claim(
    "map-collapse", HERE, OURS, Accept("0.65 to 0.85", 0.65, 0.85),
    over={
        "map-collapse-xor": Setting("XOR, turn of the kernel", dict(dataset="xor")),
        "map-collapse-mnist": Setting("MNIST, turn of the centred kernel", dict(dataset="mnist"),
                                      Accept("0.5 to 0.7", 0.5, 0.7)),
        "map-collapse-cifar-10": Setting("CIFAR-10, turn of the centred kernel; not in the pilot",
                                         dict(dataset="cifar-10"), Accept("above 0.3", 0.3, 1)),
        "map-collapse-xor-same": Setting("XOR, one network, turn of the kernel; not in the pilot",
                                         dict(dataset="xor", same=True)),
        "map-collapse-mnist-same": Setting("MNIST, one network, distance of the weights; likewise",
                                           dict(dataset="mnist", measure="share", same=True)),
    },
)  # fmt: skip
def one_coordinate(t: Table, dataset: str, measure: str = "", same: bool = False) -> Estimate:
    """A smooth function of one measure, fitted to all other knobs, foretells the gain of a knob
    that it was not fitted to (share of the variance); and the knob's name adds little. *One
    network*: the knobs that leave architecture and weights at the start as they are."""
    runs, measure = stable(t, dataset), measure or BEST[dataset]
    if same:
        runs = Runs(runs.rows[runs["part"].isin(SAME)], runs.states)
    adds = runs.jackknife(lambda rows: share(rows, measure, "groups"))
    found = runs.jackknife(lambda rows: share(rows, measure)).noting(seeds_leave(runs))
    return found.and_also(adds, Accept("the knob's name adds", -INF, 0.06))


@claim(
    "map-alpha", HERE, OURS, Accept("at most 0.4", -INF, 0.4),
    over={f"map-alpha-{name}": Setting(TASKS[name], dict(dataset=name))
          for name in ("xor", "mnist")},
)  # fmt: skip
def output_scale_alone(t: Table, dataset: str) -> Estimate:
    r"""The output scale $\alpha$ alone does not foretell it."""
    return stable(t, dataset).jackknife(lambda rows: share(rows, "log_alpha"))


@claim(
    "map-measure", HERE, OURS, Accept("above 0", 0, INF),
    over={
        "map-measure-mnist": Setting("MNIST: more", dict(dataset="mnist")),
        "map-measure-xor": Setting("XOR: less", dict(dataset="xor"), Accept("below 0", -INF, 0)),
    },
)  # fmt: skip
def no_common_measure(t: Table, dataset: str) -> Estimate:
    """No one measure of movement is the best on both tasks: what the centred turn foretells minus
    what the plain turn does."""
    return stable(t, dataset).jackknife(
        lambda rows: share(rows, "turn_centred") - share(rows, "turn")
    )


@claim(
    "map-offender", HERE, OURS, Accept("0.3 or more", 0.3, INF),
    over={
        "map-offender-newton-mnist": Setting("Gauss-Newton, MNIST",
                                             dict(part="damping", dataset="mnist")),
        "map-offender-newton-xor": Setting("Gauss-Newton, XOR: less",
                                           dict(part="damping", dataset="xor"),
                                           Accept("-0.5 or less", -INF, -0.5)),
        "map-offender-activation": Setting("smooth activations, MNIST: less",
                                           dict(part="activation", dataset="mnist"),
                                           Accept("-1 to -3", -3, -0.5)),
        "map-offender-adam-mnist": Setting("Adam, MNIST", dict(part="adam", dataset="mnist")),
        "map-offender-adam-xor": Setting("Adam, XOR: less", dict(part="adam", dataset="xor"),
                                         Accept("-0.5 or less", -INF, -0.5)),
    },
)  # fmt: skip
def some_knobs_leave_the_curve(t: Table, part: str, dataset: str) -> Estimate:
    """At equal movement Gauss-Newton and Adam gain otherwise than all other knobs do, more on MNIST
    and less on XOR, and smooth activations less (points above the function of the turn that is
    fitted to the others)."""
    return stable(t, dataset).jackknife(lambda rows: off(rows, BEST[dataset], part))


@claim(
    "map-edge", HERE, OURS, Accept("2 or more", 2, INF),
    over={
        "map-edge-xor": Setting("XOR", dict(dataset="xor")),
        "map-edge-mnist": Setting("MNIST: none", dict(dataset="mnist"), Accept("none", -INF, 0.5)),
    },
)  # fmt: skip
def beyond_the_edge(t: Table, dataset: str) -> Estimate:
    r"""Steps beyond the edge of stability gain more than small ones where features are what a task
    is made of ($\alpha = 0.1$, gain at half of the edge of the start minus at a twentieth)."""
    runs = plane(t, dataset, part="descent", alpha=0.1)
    return minus(runs.where(rate=0.5), runs.where(rate=0.05))


# ---- labels


def moved(t: Table, dataset: str, flipped: float | tuple) -> Runs:
    """Networks of the knob alpha that left their tangent: R in 0.8 to 1."""
    runs = plane(t, dataset, flipped, part="alpha")
    return Runs(runs.rows[runs["nonlinear"].between(0.8, 1.0)], runs.states)


@claim(
    "map-labels", HERE, OURS, Accept("2.7", 2, 3.5),
    over={
        "map-labels-mnist": Setting("MNIST, true", dict(dataset="mnist")),
        "map-labels-mnist-flipped": Setting("MNIST, a fifth wrong",
                                            dict(dataset="mnist", flipped=0.2),
                                            Accept("-1.1", -1.8, -0.4)),
        "map-labels-xor": Setting("XOR, true", dict(dataset="xor"), Accept("13.8", 10, 18)),
        "map-labels-xor-flipped": Setting("XOR, a fifth wrong", dict(dataset="xor", flipped=0.2),
                                          Accept("3.5", 1, 6)),
        "map-labels-fashion": Setting("Fashion-MNIST, true; not in the pilot",
                                      dict(dataset="fashion-mnist"), Accept("above 0", 0, INF)),
    },
)  # fmt: skip
def labels_set_the_sign(t: Table, dataset: str, flipped: float = 0.0) -> Estimate:
    """Movement is what a gain can be made of, the labels decide which: the gain of networks that
    left their tangent, $R$ in 0.8 to 1."""
    return moved(t, dataset, flipped).mean()


@claim("map-baseline", HERE, HERE, Accept("about 1", 0.6, 1.1))
def gains_what_the_first_kernel_lacks(t: Table) -> Estimate:
    r"""Where the kernel moves, networks of other architecture or start gain what their first kernel
    lacks: the slope of the gain in the error of the first kernel (MNIST, $\alpha = 0.1$, width,
    depth, activation and weights at the start)."""
    runs = plane(t, "mnist", alpha=0.1)
    runs = Runs(runs.rows[runs["part"].isin(["width", "depth", "init", "activation"])], runs.states)
    return runs.by_seed(lambda rows: slope(100 * rows["error_linear"], rows["value"]))


@claim(
    "map-optimum", HERE, OURS, Accept("at most 0.5", -INF, 0.5),
    over={
        "map-optimum-mnist": Setting("MNIST, true labels", dict(dataset="mnist")),
        "map-optimum-xor": Setting("XOR, true labels", dict(dataset="xor")),
        "map-optimum-flipped": Setting("MNIST, a fifth wrong: there is one",
                                       dict(dataset="mnist", flipped=0.2),
                                       Accept("0.5 or more", 0.5, INF)),
    },
)  # fmt: skip
def optimum_short_of_features(t: Table, dataset: str, flipped: float = 0.0) -> Estimate:
    r"""With true labels nothing is gained by stopping short of full feature learning; with wrong
    ones something is (gain at the best of $\alpha = 0.03$ to 100, on average, minus at 0.01)."""

    def short(rows: pd.DataFrame) -> float:
        means = rows.groupby("alpha")["value"].mean()
        return means.iloc[1:].max() - means.iloc[0]

    return plane(t, dataset, flipped, part="alpha").jackknife(short)


@claim(
    "map-pooled", HERE, OURS, Accept("at most 0.1", -INF, 0.1),
    over={
        "map-pooled-movement": Setting("$R$", dict(measure="nonlinear")),
        "map-pooled-alignment": Setting("alignment gained: more", dict(measure="learnt"),
                                        Accept("0.6", 0.4, 1)),
    },
)  # fmt: skip
def pooled(t: Table, measure: str) -> Estimate:
    """With true, flipped and meaningless labels pooled, movement says little about the gain, the
    alignment with the labels of the test more (MNIST, share of the variance)."""
    runs = plane(t, "mnist", (0.0, 0.5), part="alpha")

    def alone(rows: pd.DataFrame) -> float:
        return explained(rows[measure], rows["value"], rows["flipped"]).alone

    return runs.jackknife(alone)


@claim(
    "map-final", HERE, OURS, Accept("0.54", -INF, 0.7),
    over={
        "map-final-mnist": Setting("MNIST", dict(dataset="mnist")),
        "map-final-xor": Setting("XOR", dict(dataset="xor"), Accept("1.3", -INF, 1.6)),
        "map-final-adam": Setting("MNIST, without Adam", dict(dataset="mnist", without="adam")),
        "map-final-flipped": Setting("MNIST, a fifth wrong: it is not",
                                     dict(dataset="mnist", flipped=0.2), Accept("1", 0.7, INF)),
    },
)  # fmt: skip
def final_kernel_machine(
    t: Table, dataset: str, flipped: float = 0.0, without: str = ""
) -> Estimate:
    """The network is its final kernel machine: root mean square of what the flow on the last kernel
    errs more than the network (points)."""
    runs = plane(t, dataset, flipped)
    rows = runs.rows[(runs["edge"] <= EDGE) & (runs["part"] != without)]
    apart = Runs(rows, runs.states).map(100 * (rows["error_final"] - rows["error"]))
    bias = apart.mean()
    found = apart.jackknife(lambda rows: float(np.sqrt(np.square(rows["value"]).mean())))
    return found.noting(f"mean {bias.value:.2f} [{bias.low:.2f}, {bias.high:.2f}]")


# ---- what must fail


@claim(
    "control-labels", HERE, OURS, Accept("none", -1, 1), kind="control",
    over={f"control-labels-{name}": Setting(TASKS[name], dict(dataset=name))
          for name in ("mnist", "xor")},
)  # fmt: skip
def meaningless_labels(t: Table, dataset: str) -> Estimate:
    """Where labels say nothing, half of each class wrong, networks that left their tangent gain
    nothing."""
    return moved(t, dataset, 0.5).mean()


@claim(
    "control-lazy", HERE, HERE, Accept("none", -0.5, 0.5), kind="control",
    over={f"control-lazy-{name}": Setting(words, dict(dataset=name))
          for name, words in TASKS.items()},
)  # fmt: skip
def lazy_gains_nothing(t: Table, dataset: str) -> Estimate:
    r"""At $\alpha = 100$ the network is its first kernel's machine: it gains nothing."""
    return plane(t, dataset, part="alpha", alpha=100.0).mean()


@claim(
    "control-permuted", HERE, HERE, Accept("at most 0.05", -INF, 0.05), kind="control",
    over={f"control-permuted-{name}": Setting(TASKS[name], dict(dataset=name))
          for name in ("mnist", "xor")},
)  # fmt: skip
def permuted_measure(t: Table, dataset: str) -> Estimate:
    """The measure dealt out anew among the networks of a seed foretells nothing."""
    runs, rng = stable(t, dataset), np.random.default_rng(0)
    dealt = runs.rows.groupby("seed")[BEST[dataset]].transform(rng.permutation)
    found = Runs(runs.rows.assign(dealt=dealt), runs.states)
    return found.jackknife(lambda rows: share(rows, "dealt"))


@claim(
    "control-planted", HERE, HERE, Accept("at most 0.2", -INF, 0.2), kind="control",
    over={f"control-planted-{name}": Setting(TASKS[name], dict(dataset=name))
          for name in ("mnist", "xor")},
)  # fmt: skip
def planted_sign(t: Table, dataset: str) -> Estimate:
    """With the gain of every other knob turned round, the measure foretells nothing."""
    runs = stable(t, dataset)
    place = runs["part"].map({name: k for k, name in enumerate(sorted(runs["part"].unique()))})
    turned = runs.map(runs["value"] * (1 - 2 * (place % 2)))
    return turned.jackknife(lambda rows: share(rows, BEST[dataset]))


CLAIMS = claims_in(globals())
