"""The networks and sizes of the chapter on the constancy of the kernel."""

from dataclasses import dataclass
from typing import Literal

from tangents.lab.study import Config, Count, Positive, Whole


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
    # of each input: in turn (of images: those of their classes), or on which side of a plane
    labels: Literal["turn", "halves"] = "turn"  # turn: independent of where on the sphere it lies
    seed: int = 0  # of the weights
    data_seed: int = -1  # of the draw of the inputs; -1: that of the weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "conv" and self.dataset == "sphere":
            raise ValueError("network 'conv' takes images, which dataset 'sphere' has not")
        if self.network == "conv" and self.dataset == "digits":
            raise ValueError("the images of digits, 8 x 8, are too small for network='conv'")
        if self.bottleneck and self.network != "mlp":
            raise ValueError(f"a bottleneck needs network 'mlp', got {self.network!r}")
        if self.labels == "halves" and self.dataset != "sphere":
            raise ValueError("labels='halves' needs dataset 'sphere': images have their own")
        if self.alpha != 1 and not self.centred:
            raise ValueError("alpha needs centred=True: without, the targets are those of the head")
        if self.n < self.probes:
            raise ValueError(f"probes must be at most n={self.n}, got {self.probes}")


SEEDS = range(200, 208)
SHALLOW = [2**k for k in range(11, 4, -1)]
DEEP = [2**k for k in range(9, 4, -1)]
WIDE = [2**k for k in range(14, 4, -1)]
WIDE_DEEP = [2**k for k in range(13, 4, -1)]
HEADS = ["linear", "tanh"]
PLANE = dict(part="plane", activation="softplus", centred=True, probes=0, seed=SEEDS,
             positive=[False, True])  # fmt: skip
CATAPULT = dict(part="catapult", rate=[0.5, 1.0, 1.5, 2.5, 3.0, 3.5], probes=0, seed=SEEDS)
MNIST = dict(part="mnist", dataset="mnist", depth=3, probes=0, seed=SEEDS)
IMAGES = dict(part="images", dataset="mnist", depth=3, max_steps=0, probes=2, seed=SEEDS)
NARROW = dict(part="bottleneck", depth=3, probes=2, seed=SEEDS)
SWISH = dict(part="swish", head="swish", width=128, max_steps=5000, probes=0, seed=SEEDS)
HALVES = dict(part="labels", labels="halves", probes=0, seed=SEEDS)
OTHERS = [  # but for their widths
    dict(part="relu", activation="relu", probes=0, seed=SEEDS),
    dict(part="heads", head=["sigmoid", "softmax"], probes=0, seed=SEEDS),
    dict(part="resnet", network="resnet", depth=3, probes=0, seed=SEEDS),
    dict(part="conv", network="conv", dataset="mnist", n=16, probes=1, seed=SEEDS),
]

# fmt: off
PRESETS = {
    "smoke": [
        dict(part="head", depth=[1, 3], width=[8, 16], head=HEADS, seed=range(2), probes=2),
        dict(part="bottleneck", depth=3, bottleneck=2, width=[8, 16], seed=range(2), probes=1),
        dict(part="catapult", rate=2.5, width=16, probes=0),
    ],
    "book": [  # what decides most comes first
        dict(part="head", depth=1, width=SHALLOW, head=HEADS, seed=SEEDS),
        dict(part="head", depth=3, width=DEEP, head=HEADS, probes=2, seed=SEEDS),
        dict(width=SHALLOW, alpha=[1.0, 4.0, 16.0, 64.0], **PLANE),
        dict(width=[2048, 1024, 512, 256, 128], **CATAPULT),
        dict(width=[4096, 512, 64], bottleneck=[1, 3, 10], **NARROW),
        dict(width=[4096, 512], bottleneck=30, **NARROW),
        dict(width=[256, 128, 64, 32], head=HEADS, n=32, **MNIST),
        dict(width=DEEP[::2], head=HEADS, n=32, **IMAGES),
        dict(width=128, bottleneck=[1, 3, 10, 30], n=32, **MNIST),
        *(dict(width=widths, **other) for widths, other in zip(
            (SHALLOW[::2], SHALLOW[::2], DEEP[1:], [16, 8, 4]), OTHERS, strict=True)),
        dict(width=SHALLOW[::2], **HALVES),
        SWISH,
    ],
    "paper": [
        dict(part="head", depth=1, width=WIDE, head=HEADS, seed=SEEDS),
        dict(part="head", depth=3, width=WIDE_DEEP, head=HEADS, probes=1, seed=SEEDS),
        dict(width=WIDE, alpha=[1.0, 4.0, 16.0, 64.0, 256.0], **PLANE),
        dict(width=WIDE[::2], **CATAPULT),
        dict(width=[16384, 4096, 1024, 256], bottleneck=[1, 3, 10, 30], **NARROW),
        dict(width=WIDE_DEEP[3:], head=HEADS, n=128, **MNIST),
        dict(width=WIDE_DEEP, head=HEADS, n=128, **IMAGES),
        dict(width=8192, bottleneck=[1, 3, 10, 30, 100, 300, 1000], n=128, **MNIST),
        *(dict(width=widths, **other) for widths, other in zip(
            (WIDE, WIDE[::2], WIDE_DEEP[3:], [128, 64, 32, 16, 8, 4]), OTHERS, strict=True)),
        dict(width=WIDE[::2], **HALVES),
        SWISH,
    ],
}
# fmt: on
