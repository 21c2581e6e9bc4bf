"""The networks, knobs and sizes of the map."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tangents.lab.study import Config, Count, Positive, Rule

Share = Annotated[float, Rule("0 to 0.5", lambda v: 0 <= v <= 0.5)]


@dataclass(frozen=True)
class Map(Config):
    """One network trained on F = alpha (f - f0) until its loss, half the mean squared residual, is
    `target`; `part` names the knob that is turned."""

    part: str = "alpha"  # which knob the run turns
    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "digits", "xor"] = "mnist"  # or the task
    flipped: Share = (
        0.0  # share of each class whose training labels are wrong; 0.5: they say nothing
    )
    n: Count = 300  # training examples
    n_test: Count = 20_000  # test examples
    network: Literal["fc", "conv"] = "fc"  # fully connected, or convolutional on images
    depth: Count = 3  # hidden layers of a fully connected network
    width: Count = 64  # units a layer, or channels
    activation: Literal["softplus", "relu", "tanh", "erf"] = "relu"  # of hidden units
    draw: Literal["normal", "orthogonal"] = "normal"  # of the initial weights
    scale: Positive = 1.0  # of the initial weights
    alpha: Positive = 1.0  # output scale
    train: Literal["flow", "descent", "momentum", "adam", "rounds", "gauss_newton"] = "flow"  # how
    rate: Positive = 0.1  # of a step: descent, momentum: over the edge of stability at the start
    rounds: Count = 1  # linearisations N, at least
    damping: float = 0.0  # of Gauss-Newton, over the mean diagonal of the kernel at the start
    target: Positive = 0.03  # the loss at which training ends
    max_steps: Count = 10_000  # at which it is given up
    dtype: Literal["float64", "float32"] = "float32"  # precision of the network
    seed: int = 0  # of the initial weights and of the draw of the data

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "conv" and self.dataset in ("digits", "xor"):
            raise ValueError(f"network='conv' needs larger images than {self.dataset} has")
        if not 0 <= self.damping < math.inf:
            raise ValueError(f"damping must be at least 0 and finite, got {self.damping}")
        if self.target >= 0.5:
            raise ValueError(f"target must be below 0.5, the loss at the start, got {self.target}")


SEEDS = range(100, 106)
ALPHAS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0]
TWO = [0.1, 1.0]  # with which the other knobs are crossed
MOVES = [  # the other knobs, each over its range
    dict(part="rounds", train="rounds", rounds=[1, 2, 4, 8, 32], alpha=TWO),
    dict(part="damping", train="gauss_newton", rate=0.25, damping=[1e-3, 0.1, 1.0], alpha=TWO),
    dict(part="adam", train="adam", rate=[1e-3, 3e-3, 1e-2], alpha=TWO),
    dict(part="momentum", train="momentum", rate=[0.05, 0.2], alpha=TWO),
    dict(part="descent", train="descent", rate=[0.05, 0.1, 0.2, 0.5], alpha=0.1),
    dict(part="descent", train="descent", rate=[0.5, 0.9, 1.2], alpha=1.0),
    dict(part="init", scale=[0.5, 0.7, 1.4], alpha=TWO),
    dict(part="init", draw="orthogonal", alpha=TWO),
    dict(part="activation", activation=["softplus", "tanh"], alpha=TWO),
    dict(part="depth", depth=[1, 2, 5], alpha=TWO),
    dict(part="width", width=[16, 32, 128], alpha=TWO),
]
SOME = [  # a few of them, on other data
    dict(part="rounds", train="rounds", rounds=[1, 4], alpha=TWO),
    dict(part="damping", train="gauss_newton", rate=0.25, damping=0.1, alpha=TWO),
    dict(part="adam", train="adam", rate=3e-3, alpha=TWO),
    dict(part="momentum", train="momentum", rate=0.2, alpha=TWO),
    dict(part="init", scale=0.5, alpha=TWO),
    dict(part="width", width=128, alpha=TWO),
]
TINY = dict(dataset="xor", n=40, n_test=100, width=8, depth=1)


def on(data: list[str], grids: list[dict], **more) -> list[dict]:
    """The grids on these data sets."""
    return [dict(dataset=name, seed=SEEDS, max_steps=3000) | grid | more
            for name in data for grid in grids]  # fmt: skip


KNOB = [dict(part="alpha", alpha=ALPHAS)]
NOISE = [  # more wrong labels, and longer training
    dict(part="noise", alpha=[0.03, 100.0], flipped=[0.1, 0.3, 0.4]),
    dict(part="noise", alpha=[0.03, 1.0], flipped=[0.0, 0.2, 0.4], target=0.005),
]
BOTH = ["mnist", "xor"]

PRESETS = {
    "smoke": [
        dict(part="alpha", alpha=[0.1, 10.0], seed=[0, 1], **TINY),
        dict(part="rounds", train="rounds", rounds=4, alpha=0.1, seed=[0, 1], **TINY),
    ],
    "book": [
        *on(BOTH, KNOB + MOVES),
        *on(BOTH, KNOB, flipped=0.2),
        *on(BOTH, [dict(part="alpha", alpha=[0.01, 0.03, 0.1, 1.0, 10.0])], flipped=0.5),
        *on(["mnist"], NOISE),
        *on(["fashion-mnist"], KNOB),
        *on(["cifar-10"], KNOB + SOME, n_test=10_000),
        *on(["cifar-10"], [dict(part="alpha", alpha=[0.1, 1.0, 10.0])], n_test=5000,
            network="conv", width=16),
    ],
}  # fmt: skip
