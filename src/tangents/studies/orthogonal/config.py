"""The networks and sizes of the chapter on orthogonal weights."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tangents.lab.study import LATER, Config, Count, Positive, Whole


@dataclass(frozen=True)
class Orthogonal(Config):
    """One network with Gaussian or orthogonal weights of equal variance.

    It is measured at the start; or trained in full batches on the squared loss of F = f - f0, in
    the NTK parametrisation; or by SGD on the cross-entropy of f, in the standard parametrisation.
    """

    part: str = "limit"  # which part of the chapter the run belongs to
    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "digits"] = "mnist"  # images
    pool: Count = 2  # sides of the squares over which pixels are averaged
    n: Count = 20  # training examples
    network: Literal["fc", "conv"] = "fc"  # fully connected, or convolutional on images
    depth: Count = 3  # hidden layers of a fully connected network
    width: Count = 128  # units a layer, or channels
    activation: Literal["erf", "relu", "tanh", "linear"] = "erf"  # of hidden units
    weights: Literal["gaussian", "orthogonal", "again"] = "gaussian"  # again: another draw
    delta: bool = False  # convolutions begin at zero but at the kernel's centre
    variance: Positive = 1.0  # of weights times fan-in; by SGD biases are such that it is critical
    train: Literal["no", "full", "sgd"] = "no"  # how
    rate: Positive = 1.0  # full: in units of n / lambda_max of infinite width; sgd: as it is
    batch: Whole = 0  # examples a step of SGD
    goal: Positive = 0.1  # full: share of the first loss; sgd: accuracy on a batch
    max_steps: Whole = 0  # after which training is given up
    dtype: Literal["float64", "float32"] = "float64"  # precision
    seed: int = 0  # of the weights
    data_seed: int = -1  # of the draw of data and batches; -1: that of the weights
    frozen: Annotated[bool, LATER] = False  # by SGD: the network linearised at the start

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "conv" and (self.train != "no" or self.dataset == "digits"):
            raise ValueError("network='conv' is measured at the start alone, on larger images")
        if self.train != "sgd" and self.activation not in ("erf", "relu"):
            raise ValueError("a limit is known for activation='erf' or 'relu', got "
                             f"{self.activation!r}: another one needs train='sgd'")  # fmt: skip
        if (self.train == "no") != (self.max_steps == 0):
            raise ValueError("max_steps must be at least 1 where a network is trained, else 0")
        if self.train == "sgd" and not 1 <= self.batch <= self.n:
            raise ValueError(f"train='sgd' needs a batch of 1 to n = {self.n}, got {self.batch}")
        if self.train != "sgd" and self.variance != 1:
            raise ValueError("variance needs train='sgd': elsewhere it is 1")
        if self.frozen and self.train != "sgd":
            raise ValueError("frozen=True needs train='sgd'")
        if self.goal >= 1:
            raise ValueError(f"goal must be below 1, got {self.goal}")


SEEDS, FEW = range(10), range(6)
BOTH = ["gaussian", "orthogonal"]
WIDTHS, CHANNELS = [2048, 1024, 512, 256, 128, 64], [128, 64, 32, 16]
CONV = dict(network="conv", pool=1, n=8, weights=BOTH, seed=SEEDS, delta=[False, True])
LAZY = dict(part="lazy", train="full", n=20, rate=0.1, goal=0.01, max_steps=5000, weights=BOTH,
            seed=SEEDS)  # fmt: skip
SGD = dict(train="sgd", n=5000, batch=250, depth=50, activation="tanh", variance=1.05, goal=0.8,
           max_steps=500, dtype="float32", weights=BOTH, seed=FEW)  # fmt: skip
RATES, SOME = [0.1, 0.03, 0.01, 0.003], [0.03, 0.01]
CIFAR = dict(part="cifar", dataset="cifar-10", goal=0.25, max_steps=1000)
THEIRS = SGD | CIFAR | dict(n=50_000, pool=1, batch=1000, rate=[0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4])
TINY = dict(dataset="digits", pool=1, seed=range(2))

# fmt: off
PRESETS = {
    "smoke": [
        dict(width=[16, 32], weights=BOTH, **TINY),
        dict(width=[8, 16], **(LAZY | TINY | dict(goal=0.5, max_steps=200))),
        dict(part="depth", **(SGD | TINY | dict(n=200, batch=50, goal=0.3, max_steps=50, width=16,
                                                depth=[2, 4], rate=SOME))),
        dict(part="frozen", rate=0.03, frozen=True,
             **(SGD | TINY | dict(n=200, batch=50, goal=0.3, max_steps=50, width=16, depth=2))),
    ],
    "book": [  # the longest runs first, so that no worker waits for another at the end
        dict(part="depth", rate=SOME, **(SGD | dict(depth=200))),
        dict(part="depth", rate=RATES, **(SGD | dict(depth=[100, 50, 20, 10]))),
        dict(part="width", width=[256, 128, 64, 32], rate=SOME, **SGD),
        dict(rate=RATES, **(SGD | CIFAR)),
        dict(part="regime", rate=RATES, **(SGD | dict(variance=[1.3, 2.0]))),
        dict(part="linear", rate=[0.01, 0.003], **(SGD | dict(activation="linear", variance=1.0))),
        dict(part="draws", rate=0.01, **(SGD | dict(weights="again"))),
        dict(part="frozen", rate=[0.03, 0.003], frozen=True, **SGD),
        dict(width=CHANNELS, activation="relu", **CONV),
        dict(width=WIDTHS, **LAZY),
        dict(width=WIDTHS, weights=BOTH, seed=SEEDS),
    ],
    "paper": [
        dict(width=[400, 200], **(THEIRS | dict(depth=[50, 100, 200]))),
        dict(width=[1024, 512, *CHANNELS], activation="relu", **CONV),
        dict(width=[8192, 4096, *WIDTHS], **LAZY),
        dict(width=[8192, 4096, *WIDTHS], weights=BOTH, seed=SEEDS),
    ],
}
# fmt: on
