"""The networks and sizes of the chapter on the constancy of the kernel."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tangents.lab.study import LATER, Config, Count, Positive, Whole


@dataclass(frozen=True)
class Constancy(Config):
    """One network phi(f), trained by gradient descent until mean (F - y)^2 / 2 < `goal`.

    F = (phi(f) - centre) / size with y = -+1, so that phi(f) learns the targets centre -+ size;
    `centred`, it is F = alpha (f - f0) instead, as in the chapter on the output scale.
    """

    part: str = "head"  # which part of the chapter the run belongs to
    # n points with |x|^2 = d = 5, or the first two classes of images
    dataset: Literal["sphere", "mnist", "fashion-mnist", "cifar-10", "digits"] = "sphere"  # inputs
    n: Count = 10  # inputs
    network: Literal["mlp", "resnet", "conv"] = "mlp"  # conv: on images
    depth: Count = 1  # hidden layers
    width: Count = 128  # units a layer, or channels
    bottleneck: Whole = 0  # width of the middle hidden layer; 0: that of the others
    activation: Literal["softplus", "relu", "tanh", "erf"] = "tanh"  # of hidden units
    head: Literal["linear", "tanh", "sigmoid", "swish", "softmax"] = "linear"  # phi
    positive: bool = False  # read-out weights |v|, v normal: no two units cancel each other
    centred: bool = False  # F = alpha (f - f0)
    alpha: Positive = 1.0  # output scale, where centred
    rate: Positive = 0.5  # in units of n / lambda_max(K0); gradient descent is stable below 2
    goal: Positive = 2e-4  # loss at which training ends
    max_steps: Whole = 20_000  # 0: only what is known at the start
    radius: Positive = 10.0  # of the ball about w0 in which the Hessian is measured
    probes: Whole = 3  # first inputs, at which the Hessian is measured; 0: it is not
    dtype: Literal["float64", "float32"] = "float64"  # precision
    seed: int = 0  # of the weights
    data_seed: Annotated[int, LATER] = 0  # of the draw of the inputs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "conv" and self.dataset == "sphere":
            raise ValueError("network 'conv' takes images, which dataset 'sphere' has not")
        if self.network == "conv" and self.dataset == "digits":
            raise ValueError("the images of digits, 8 x 8, are too small for network='conv'")
        if self.bottleneck and self.network != "mlp":
            raise ValueError(f"a bottleneck needs network 'mlp', got {self.network!r}")
        if self.alpha != 1 and not self.centred:
            raise ValueError("alpha needs centred=True: without, the targets are those of the head")
        if self.n < self.probes:
            raise ValueError(f"probes must be at most n={self.n}, got {self.probes}")


SEEDS = range(10)
SHALLOW = [2**k for k in range(5, 12)]
DEEP = [2**k for k in range(5, 11)]
WIDE = [2**k for k in range(5, 15)]
WIDE_DEEP = [2**k for k in range(5, 14)]
HEADS, OTHER = ["linear", "tanh"], ["sigmoid", "swish", "softmax"]
RATES = [0.5, 1.0, 1.5, 2.5, 3.0, 3.5]
PLANE = dict(part="plane", activation="softplus", centred=True, probes=0)
CATAPULT = dict(part="catapult", rate=RATES, probes=0)
DIGITS = dict(part="mnist", dataset="mnist", n=128, depth=3, probes=0)
IMAGES = dict(dataset="mnist", n=128, depth=3, max_steps=0, probes=2, seed=SEEDS)
CONV = dict(part="conv", network="conv", dataset="mnist", n=16, probes=1)

# fmt: off
PRESETS = {
    "smoke": [
        dict(part="head", depth=[1, 3], width=[8, 16], head=HEADS, seed=range(2), probes=2),
        dict(part="bottleneck", depth=3, bottleneck=2, width=[8, 16], seed=range(2), probes=1),
        dict(part="catapult", rate=2.5, width=16, probes=0),
    ],
    "book": [  # the longest stacks first, so that no worker waits for another at the end
        dict(part="head", depth=3, width=DEEP[::-1], head=HEADS, seed=SEEDS, probes=2),
        dict(width=[32, 16, 8, 4], head=HEADS, seed=SEEDS, **CONV),
        dict(part="resnet", network="resnet", depth=3, width=[512, 256, 128, 64, 32], head=HEADS,
             seed=SEEDS, probes=1),
        dict(part="images", width=[512, 256, 128, 64, 32], head=HEADS, **IMAGES),
        dict(part="bottleneck-images", bottleneck=[1, 3, 10], width=[256, 128, 64, 32], **IMAGES),
        dict(bottleneck=[1, 3, 10, 30], width=128, seed=SEEDS, **DIGITS),
        dict(width=[128, 64, 32], head=HEADS, seed=SEEDS, **DIGITS),
        dict(part="bottleneck", depth=3, bottleneck=[1, 3, 10, 30], width=[512, 256, 128, 64, 32],
             seed=SEEDS, probes=2),
        dict(part="head", depth=1, width=SHALLOW[::-1], head=HEADS, seed=SEEDS),
        dict(part="heads", depth=1, width=[2048, 512, 128, 32], head=OTHER, seed=SEEDS),
        dict(part="softplus", activation="softplus", depth=[3, 1], width=[512, 128, 32],
             head=HEADS, seed=SEEDS, probes=1),
        dict(part="relu", activation="relu", depth=[3, 1], width=[512, 128, 32], head=HEADS,
             seed=SEEDS, probes=0),
        dict(part="relu", activation="relu", depth=1, width=[2048, 1024, 256, 64], head=HEADS,
             seed=SEEDS, probes=0),
        dict(width=SHALLOW[::-1], alpha=[1.0, 4.0, 16.0, 64.0], positive=[False, True],
             seed=SEEDS, **PLANE),
        dict(width=[2048, 512, 128], seed=SEEDS, **CATAPULT),
    ],
    "paper": [
        dict(part="head", depth=3, width=WIDE_DEEP[::-1], head=HEADS, seed=SEEDS, probes=1),
        dict(width=[128, 64, 32, 16, 8, 4], head=HEADS, seed=SEEDS, **CONV),
        dict(part="resnet", network="resnet", depth=3, width=DEEP[::-1], head=HEADS, seed=SEEDS,
             probes=1),
        dict(part="images", width=WIDE_DEEP[::-1], head=HEADS, **IMAGES),
        dict(part="bottleneck-images", bottleneck=[1, 3, 10, 30], width=DEEP[::-1], **IMAGES),
        dict(bottleneck=[1, 3, 10, 30, 100, 300, 1000], width=8192, seed=SEEDS, **DIGITS),
        dict(width=DEEP[::-1], head=HEADS, seed=SEEDS, **DIGITS),
        dict(part="bottleneck", depth=3, bottleneck=[1, 3, 10, 30], width=DEEP[::-1], seed=SEEDS,
             probes=2),
        dict(part="head", depth=1, width=WIDE[::-1], head=HEADS, seed=SEEDS),
        dict(part="heads", depth=1, width=WIDE[::-2], head=OTHER, seed=SEEDS),
        dict(part="softplus", activation="softplus", depth=[3, 1], width=DEEP[::-1], head=HEADS,
             seed=SEEDS, probes=1),
        dict(part="relu", activation="relu", depth=3, width=DEEP[::-1], head=HEADS, seed=SEEDS,
             probes=0),
        dict(part="relu", activation="relu", depth=1, width=WIDE[::-1], head=HEADS, seed=SEEDS,
             probes=0),
        dict(width=WIDE[::-1], alpha=[1.0, 4.0, 16.0, 64.0, 256.0], positive=[False, True],
             seed=SEEDS, **PLANE),
        dict(width=WIDE[2::2], seed=SEEDS, **CATAPULT),
    ],
}
# fmt: on
