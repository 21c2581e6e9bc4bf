"""The sequences, kernels and networks of the chapter on recurrent networks."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tangents.data.series import SERIES, Entry
from tangents.lab.study import Config, Count, Positive, Rule, Whole

SQRT2 = math.sqrt(2)
IMAGES = ("mnist", "fashion-mnist", "digits")  # as series of their columns
NotNegative = Annotated[float, Rule("at least 0 and finite", lambda v: 0 <= v < math.inf)]


@dataclass(frozen=True)
class Sequences(Config):
    """One recurrent network, of finite width or infinite, or one machine with a kernel on series.

    Of the kernel the distance to finite networks, or what it weighs, or its test error.
    """

    part: str = "limit"  # which part of the chapter the run belongs to
    measure: Literal["limit", "train", "moments", "classify"] = "limit"  # what is measured
    series: str = "mnist"  # images as series of columns, sines, or a set of the UCR archive
    pool: Count = 2  # sides of the squares over which pixels are averaged
    cut: bool = False  # whether empty columns of images are left out, so that lengths differ
    steps: Count = 50  # of a sine
    noise: NotNegative = 1.0  # of a sine, standard deviation
    scrambled: bool = False  # whether the steps of all series are in another order: a control
    shuffled: bool = False  # whether the training labels are permuted: a control
    n: Whole = 12  # training series; of a set of the archive: 0, as it is
    n_test: Whole = 0  # test series, likewise
    # padded: the recurrent kernel of series made equally long by zeros; wide: with more settings to
    # choose from; averaged: read at all steps, likewise; dtw: the nearest neighbour
    method: Literal[
        "recurrent", "padded", "wide", "averaged", "connected", "gaussian", "polynomial", "dtw"
    ] = "recurrent"  # kernel, or network
    width: Count = 128  # units a layer of a finite network
    layers: Count = 1  # of the network
    activation: Literal["relu", "erf"] = "relu"  # of its units
    sw: Positive = SQRT2  # scale of recurrent weights; of machines found by cross-validation
    sb: NotNegative = 0.0  # scale of biases, likewise
    # kernel: of its values; prediction: of what is learnt with it; network: of one of finite width
    of: Literal["kernel", "prediction", "network"] = "kernel"  # what moments are those of
    goal: Positive = 0.01  # loss at which training ends, over the first
    max_steps: Whole = 0  # of training
    dtype: Literal["float64", "float32"] = "float64"  # precision
    seed: int = 0  # of weights, and of folds
    data_seed: int = -1  # of the draw of the data; -1: that of the weights

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*IMAGES, "sines", *SERIES)
        if self.series not in known:
            raise ValueError(f"unknown series {self.series!r}: accepted are {', '.join(known)}")
        if self.series in SERIES:
            if self.n or self.n_test or self.measure != "classify":
                raise ValueError(f"{self.series} is classified as it is: n and n_test must be 0")
        elif self.n < 2 or (self.n_test < 1 and self.measure != "limit"):
            raise ValueError("at least 2 training series are needed, and a test series where "
                             "measure is not 'limit'")  # fmt: skip
        if self.measure != "classify" and self.method != "recurrent":
            raise ValueError("methods are compared by measure='classify'")
        if (self.max_steps > 0) != (self.measure == "train" or self.of != "kernel"):
            raise ValueError("max_steps must be at least 1 where a network is trained, else 0")


def within(entry: Entry) -> bool:
    """Whether a set of the archive fits a laptop: pairs of training series times steps, and pairs
    with test series."""
    pairs, test = entry.train**2 / 2, entry.train * entry.test
    return pairs * entry.length <= 5e7 and test * entry.length <= 1.5e8


def work(name: str) -> int:
    """Pairs of training series, both ways, times steps."""
    return SERIES[name].train ** 2 * SERIES[name].length


ARCHIVE = sorted((n for n, entry in SERIES.items() if within(entry)), key=work, reverse=True)
LARGER = sorted(set(SERIES) - set(ARCHIVE), key=work)
SHORT = [name for name in ARCHIVE if work(name) <= 2e6]
MIDDLE = [name for name in ARCHIVE if work(name) <= 2e7]
KINDS = "AllGesture", "Gesture", "Pickup", "Shake"  # of series of unequal length
UNEQUAL = [name for name in ARCHIVE if name.startswith(KINDS)]
METHODS = ["recurrent", "connected", "gaussian", "polynomial", "dtw"]
SEEDS, FEW = range(10), range(6)
CLASSIFY = dict(measure="classify", n=0)
LIMIT = dict(n=12, sb=0.1, activation=["relu", "erf"], cut=[False, True])
TRAIN = dict(part="train", measure="train", n=16, n_test=50, sb=0.1, max_steps=3000,
             activation=["relu", "erf"])  # fmt: skip
MOMENTS = dict(part="moments", measure="moments", series="sines", steps=30, n=8, n_test=8, sb=0.1,
               activation=["relu", "erf"])  # fmt: skip
LEARNT = dict(of=["network", "prediction"], width=512, goal=0.1, max_steps=1000)
SCALES = [1.0 + k / 20 for k in range(17)]
SINES = dict(part="sines", measure="classify", series="sines", n=100, n_test=400)
COLUMNS = dict(part="columns", measure="classify", cut=True, n=200, n_test=1000)
TINY = dict(series="digits", pool=1)

# fmt: off
PRESETS = {
    "smoke": [
        dict(width=[16, 32], seed=range(2), **(LIMIT | TINY | dict(n=6))),
        dict(width=[16, 32], seed=range(2), **(TRAIN | TINY | dict(n=6, n_test=6, goal=0.2))),
        dict(sw=[1.2, 1.6], seed=range(2), **(MOMENTS | dict(steps=6))),
        dict(method=["recurrent", "gaussian"], seed=range(2),
             **(SINES | dict(steps=6, n=12, n_test=12))),
        dict(method=["recurrent", "padded"], **(COLUMNS | TINY | dict(n=30, n_test=30))),
    ],
    "book": [  # the longest runs first, so that no worker waits for another at the end
        dict(part="archive", series=ARCHIVE, method=METHODS, **CLASSIFY),
        dict(part="wide", series=MIDDLE, method=["wide", "averaged"], **CLASSIFY),
        dict(part="padded", series=UNEQUAL, method="padded", **CLASSIFY),
        dict(part="scrambled", series=SHORT, scrambled=True, **CLASSIFY),
        dict(part="shuffled", series=SHORT, shuffled=True, **CLASSIFY),
        dict(steps=[100, 50, 25], method=METHODS, seed=FEW, **SINES),
        dict(method=["recurrent", "padded"], seed=FEW, **COLUMNS),
        dict(width=[1024, 512, 256, 128, 64], seed=FEW, **TRAIN),
        dict(width=[2048, 1024, 512, 256, 128], seed=SEEDS, **LIMIT),
        dict(sw=[1.2, 1.3, 1.4, 1.5, 1.6], seed=FEW, **(MOMENTS | LEARNT)),
        dict(sw=SCALES, seed=FEW, **MOMENTS),
    ],
    "paper": [
        dict(part="archive", series=LARGER, method=METHODS, **CLASSIFY),
        dict(width=[8192, 4096, 2048, 1024, 512, 256, 128], seed=SEEDS, **LIMIT),
        dict(width=[8192, 4096, 2048, 1024, 512, 256, 128, 64], seed=SEEDS, **TRAIN),
    ],
}
# fmt: on
