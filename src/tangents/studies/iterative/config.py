"""The networks and sizes of the chapter on iterative linearisation."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tangents.lab.study import LATER, Config, Count, Positive, Rule, Whole

Memory = Annotated[float, Rule("at least 0 and below 1", lambda v: 0 <= v < 1)]


@dataclass(frozen=True)
class Iterative(Config):
    """One network trained on F = alpha (f - f0) for a time, re-linearised `rounds` times.

    Time is that of dF/dt = -Theta l'(F, y), the flow of the loss, summed over examples and divided
    by alpha^2.
    """

    part: str = "curve"  # which part of the chapter the run belongs to
    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "digits"] = "mnist"  # images
    target: Literal["parity", "classes", "pair"] = "parity"  # odd or even, all, the first two
    shuffled: bool = False  # whether the training labels are permuted: a control
    n: Count = 300  # training examples
    n_test: Count = 5000  # test examples
    network: Literal["fc", "conv"] = "fc"  # fully connected, or convolutional on images
    depth: Count = 3  # hidden layers of a fully connected network
    width: Count = 64  # units a layer, or channels
    activation: Literal["softplus", "relu", "tanh", "erf"] = "relu"  # of hidden units
    alpha: Positive = 0.3  # output scale
    duration: Positive = 10.0  # of training, in time of the flow
    train: Literal["rounds", "steps", "tangents"] = "rounds"  # steps: explicit, K = 1
    rounds: Count = 8  # linearisations N
    schedule: Literal["uniform", "geometric", "once"] = "uniform"  # once: anew at `first` alone
    first: Positive = 0.01  # length of the first round, where not uniform
    rate: Positive = 0.05  # longest step, in units of 2 / lambda_max at the start
    damping: float = 0.0  # of damped Gauss-Newton rounds, mu; 0: gradient descent; -1: 1 / length
    dtype: Literal["float64", "float32"] = "float64"  # precision of the network
    seed: int = 0  # of the initial weights
    data_seed: int = -1  # of the draw of the data; -1: that of the weights
    loss: Annotated[Literal["squared", "cross-entropy"], LATER] = "squared"  # of outputs
    batch: Annotated[Whole, LATER] = 0  # examples a step; 0: all
    memory: Annotated[Memory, LATER] = 0.0  # of heavy ball, at rest where a round begins

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "conv" and self.dataset == "digits":
            raise ValueError("the images of digits, 8 x 8, are too small for network='conv'")
        if self.damping < 0 and self.damping != -1:
            raise ValueError(f"damping must be at least 0, or -1, got {self.damping}")
        if not math.isfinite(self.damping):
            raise ValueError(f"damping must be finite, got {self.damping}")
        if self.batch and self.n % self.batch:
            raise ValueError(f"batch must divide n = {self.n}, got {self.batch}")
        if self.loss == "cross-entropy" and self.target != "classes":
            raise ValueError("loss='cross-entropy' needs target='classes'")
        special = [self.loss != "squared" or self.batch > 0, self.damping != 0, self.memory > 0]
        if sum(special) > 1 or (any(special) and self.train == "tangents"):
            raise ValueError("another loss or batches, damping, and memory each stand alone, and "
                             "train='tangents' without them")  # fmt: skip
        if self.train == "steps" and any(special[1:]):
            raise ValueError("train='steps' knows neither damping nor memory")


SEEDS, FEW = range(10, 20), range(10, 16)
FRESH = range(20, 30)
COUNTS = [1, 2, 4, 8, 16, 32]
PARITY = dict(target="parity", n=300, alpha=0.3, duration=10.0)
CLASSES = dict(target="classes", n=100, alpha=0.1, duration=10.0)
ENTROPY = dict(target="classes", n=100, alpha=1.0, duration=30.0, loss="cross-entropy", rate=0.2)
PLANES = dict(dataset="cifar-10", target="pair", network="conv", width=16, n=500, n_test=3000,
              alpha=1.0, duration=100.0)  # fmt: skip
LARGE = dict(dataset="cifar-10", target="classes", network="conv", width=64, n_test=10_000,
             alpha=1.0, duration=100.0, dtype="float32", seed=FEW)  # fmt: skip

TINY = dict(dataset="digits", n=40, n_test=100, width=8, depth=1, duration=0.1)

# fmt: off
PRESETS = {
    "smoke": [
        dict(part="parity", rounds=[1, 4], seed=[0, 1], **TINY),
        dict(part="parity", train="steps", seed=[0, 1], **TINY),
        dict(part="tangents", train="tangents", **TINY),
    ],
    "book": [  # the longest runs first, so that no worker waits for another at the end
        dict(part="dense", rounds=128, schedule="geometric", seed=FEW, **PLANES),
        dict(part="parity", train="steps", rate=0.2, seed=SEEDS, **PARITY),
        dict(part="classes", train="steps", seed=FEW, **CLASSES),
        dict(part="planes", rounds=32, schedule="geometric", seed=FEW, **PLANES),
        dict(part="planes", rounds=COUNTS[::-1], seed=FEW, **PLANES),
        dict(part="size", rounds=[8, 1], seed=FEW, **(PARITY | dict(n=[2000, 1000, 300, 100]))),
        dict(part="classes", rounds=COUNTS[::-1], seed=FEW, **CLASSES),
        dict(part="tangents", train="tangents", width=[256, 64], seed=FEW,
             **(PARITY | dict(alpha=[0.1, 0.3, 1.0, 3.0, 10.0]))),
        dict(part="parity", rounds=[100, *COUNTS[::-1]], seed=SEEDS, **PARITY),
        dict(part="parity", rounds=100, schedule="geometric", seed=SEEDS, **PARITY),
        dict(part="scale", rounds=[16, 8, 4, 2, 1], seed=FEW,
             **(PARITY | dict(alpha=[0.1, 1.0, 3.0, 10.0]))),
        dict(part="width", rounds=[8, 1], width=[256, 64, 16], seed=FEW, **PARITY),
        dict(part="damping", rounds=8, damping=[8e-4, 0.08, 0.8, 8.0, 80.0, 800.0], seed=SEEDS,
             **PARITY),
        dict(part="damping", rounds=[4, 8, 16], damping=-1.0, seed=SEEDS, **PARITY),
        dict(part="once", rounds=2, schedule="once", first=[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 9.0],
             seed=SEEDS, **PARITY),
        dict(part="entropy", train="steps", seed=FRESH, **ENTROPY),
        dict(part="entropy", rounds=[8, 1], seed=FRESH, **ENTROPY),
        dict(part="batches", train="steps", batch=30, rate=0.2, seed=FRESH, **PARITY),
        dict(part="batches", rounds=[8, 1], batch=30, rate=0.2, seed=FRESH, **PARITY),
        dict(part="again", train="steps", rate=0.2, seed=FRESH, **CLASSES),
        dict(part="again", rounds=8, seed=FRESH, **CLASSES),
        dict(part="momentum", rounds=8, memory=0.9, seed=SEEDS, **PARITY),
        dict(part="schedule", rounds=8, schedule="geometric", seed=SEEDS, **PARITY),
        dict(part="rate", rounds=8, rate=[0.01, 0.05, 0.2, 0.4], seed=FEW, **PARITY),
        dict(part="shuffled", rounds=[1, 8], shuffled=True, seed=SEEDS, **PARITY),
    ],
    "paper": [
        dict(part="cifar", rounds=[1, 2, 4, 8, 12, 32], n=[1000, 2000], **LARGE),
    ],
}
# fmt: on
