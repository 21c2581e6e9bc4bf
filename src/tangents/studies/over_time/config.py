"""The networks and sizes of the chapter on the kernel over time."""

from dataclasses import dataclass
from typing import Literal

from tangents.lab.study import Config, Count, Positive, Whole

LEARNT = (0.0, 0.4, 1.6, 3.2, 6.4, 12.8)  # epochs at which the network is linearised; and the end


@dataclass(frozen=True)
class OverTime(Config):
    """One network, measured while it trains.

    By SGD with momentum at a constant rate, on the cross-entropy of f, in the standard
    parametrisation; or by gradient flow on the soft hinge of alpha (f - f0), odd against even
    classes, in the NTK parametrisation, as in the chapter on lazy and feature learning.
    """

    part: str = "battery"  # which part of the chapter the run belongs to
    train: Literal["sgd", "flow"] = "sgd"  # how
    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "digits"] = "mnist"  # images
    pool: Count = 2  # sides of the squares over which pixels are averaged; flow: 1
    pca: Whole = 0  # flow: principal components kept and whitened; 0: none
    n: Count = 4000  # training examples
    n_test: Count = 2000  # test examples
    network: Literal["fc", "conv"] = "fc"  # fully connected, or convolutional on images
    depth: Count = 2  # hidden layers of a fully connected network
    width: Count = 64  # units a layer, or channels
    activation: Literal["relu", "softplus"] = "relu"  # of hidden units
    rate: Positive = 0.1  # of SGD
    batch: Whole = 50  # examples a step of SGD
    epochs: Count = 20  # of SGD, for the network and for each of its children
    children: bool = True  # whether pairs of children are trained from points of the way
    same: bool = False  # whether both of a pair see the same batches: a control
    learn: Whole = 0  # epochs in which the linearised network learns; 0: it does not
    learn_rate: Positive = 1e-3  # of that, and of the network that learns beside it
    shuffled: bool = False  # whether training labels are shuffled: a control
    scaled_alpha: Positive = 1.0  # flow: sqrt(width) times the output scale
    max_steps: Whole = 0  # flow: attempts
    dtype: Literal["float64", "float32"] = "float32"  # precision of training
    seed: int = 0  # of the weights
    data_seed: int = -1  # of the draw of data and batches; -1: that of the weights

    def __post_init__(self) -> None:
        super().__post_init__()
        flow = self.train == "flow"
        if flow and (self.network == "conv" or self.pool > 1 or self.learn or self.shuffled):
            raise ValueError("train='flow' is of a fully connected network, with pool=1, learn=0 "
                             "and shuffled=False")  # fmt: skip
        if flow != (self.max_steps > 0):
            raise ValueError("max_steps must be at least 1 for train='flow', else 0")
        if not flow and self.pca:
            raise ValueError("pca needs train='flow'")
        if not flow and not 1 <= self.batch <= self.n:
            raise ValueError(f"train='sgd' needs a batch of 1 to n = {self.n}, got {self.batch}")
        if not flow and self.epochs <= LEARNT[-1]:
            raise ValueError(f"epochs must be above {LEARNT[-1]}, the last look but the end, got "
                             f"{self.epochs}")  # fmt: skip
        if self.same and not self.children:
            raise ValueError("same=True needs children=True")


SEEDS, FEW = range(8), range(5)
MLP = dict(rate=0.02, n=3000, epochs=32, seed=SEEDS)
LEARN = dict(learn=8, learn_rate=3e-3)
CONV = dict(network="conv", dataset="cifar-10", width=32, rate=0.03, n=4000, n_test=1000,
            epochs=32, seed=FEW)  # fmt: skip
FLOW = dict(part="flow", train="flow", pool=1, pca=10, n=200, n_test=100, depth=5, width=64,
            activation="softplus", dtype="float64", max_steps=20_000, seed=SEEDS)  # fmt: skip
SCALES = [0.01, 0.1, 1.0, 10.0, 100.0]
TINY = dict(dataset="digits", pool=1, n=200, n_test=300, width=16, epochs=13, seed=range(2))

# fmt: off
PRESETS = {
    "smoke": [
        dict(**(MLP | TINY), learn=1),
        dict(scaled_alpha=[0.01, 0.1, 1.0, 100.0], **(FLOW | dict(
            dataset="digits", pca=5, n=20, width=8, depth=2, seed=range(2)))),
    ],
    "book": [  # the longest runs first, so that no worker waits for another at the end
        dict(**CONV, **LEARN),
        dict(**MLP, **LEARN),
        dict(part="rates", **(MLP | dict(rate=[0.005, 0.05]))),
        dict(part="shuffled", shuffled=True, children=False, **MLP, **LEARN),
        dict(part="same", same=True, **MLP),
        dict(scaled_alpha=SCALES, **FLOW),
    ],
    "paper": [  # a wider ConvNet on all of CIFAR-10, for 200 epochs, in place of ResNet-20
        dict(**(CONV | dict(width=256, pool=1, n=50_000, n_test=10_000, batch=128, epochs=200)),
             learn=50, learn_rate=1e-3),
        dict(scaled_alpha=SCALES, **(FLOW | dict(n=5000, width=400))),
    ],
}
# fmt: on
