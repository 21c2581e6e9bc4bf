"""The networks and sizes of the chapter on lazy and feature learning."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tangents.lab.study import LATER, Bound, Config, Count, Positive, Whole


@dataclass(frozen=True)
class Lazy(Config):
    """One network: `scaled_alpha` is sqrt(width) times the output scale alpha of the paper."""

    part: str = "phase"  # which part of the chapter the run belongs to
    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "digits"] = "mnist"  # odd against even
    pca: Whole = 10  # principal components kept and whitened; 0: none
    n: Count = 1000  # training examples
    n_test: Count = 5000  # test examples
    network: Literal["fc", "conv"] = "fc"  # fully connected, or convolutional on images
    depth: Count = 5  # hidden layers
    width: Count = 64  # units a layer, or channels
    bias: bool = True  # whether layers have biases
    activation: Literal["softplus", "relu", "tanh", "erf"] = "softplus"  # of hidden units
    scaled_alpha: Positive = 1.0  # sqrt(width) times the output scale
    loss: Literal["soft_hinge", "hinge", "square"] = "soft_hinge"  # of the margin
    dynamics: Literal["gradient_flow", "momentum"] = "gradient_flow"  # momentum: the continuous one
    implicit: bool = True  # linearly implicit steps where the flow is stiff; else Euler's
    tolerance: Bound = 1e-2  # on the turn of the gradient in a step; inf: bound the output alone
    max_steps: Whole = 20_000  # attempts; 0: only what is known at initialisation
    frozen: Whole = 0  # kernels frozen along training and learnt with; from 2 on first and last too
    keep_output: bool = False  # whether outputs on test examples are kept
    dtype: Literal["float64", "float32"] = "float64"  # precision
    seed: int = 0  # of the initial weights
    data_seed: Annotated[int, LATER] = 0  # of the draw of training and test examples

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "conv" and self.dataset == "digits":
            raise ValueError("the images of digits, 8 x 8, are too small for network='conv'")


FEATURE_TO_LAZY = [10.0**e for e in (-2, -1, 0, 1, 1.5, 2, 2.5, 3, 4)]
SEEDS, FEW, MANY, FRESH = range(5), range(3), range(10), range(5, 15)
BORDER = [10.0**e for e in (1, 1.5, 2, 2.5)]
SMALL = dict(n=200, n_test=1000)
MILD = dict(part="integrator", width=32, scaled_alpha=[1.0, 1e1, 1e3], seed=FEW, **SMALL)
MILD |= dict(keep_output=True)
FEATURE = dict(scaled_alpha=1.0)  # beyond, momentum's explicit steps do not converge in minutes
ENDS = dict(scaled_alpha=[1.0, 1e3])
RELU = dict(part="relu", activation="relu", tolerance=math.inf)
CONV = dict(part="conv", network="conv", activation="relu", pca=0, tolerance=math.inf)

# The sweep of the paper, three values a decade; outputs are kept where a claim needs them.
PAPER_SCALES = [10.0 ** (k / 3) for k in range(-9, 16)]
PAPER_KEPT = [1e-2, 1.0, 1e4]
PAPER = dict(n=5000, n_test=50_000, tolerance=1e-4)

# fmt: off
PRESETS = {
    "smoke": [
        dict(part="phase", dataset="digits", n=60, n_test=200, depth=2, width=[8, 16],
             scaled_alpha=[0.1, 10.0, 1000.0], seed=range(2), keep_output=True),
        dict(part="frozen", dataset="digits", n=60, n_test=200, depth=2, width=8, scaled_alpha=0.1,
             frozen=2),
    ],
    "book": [  # the longest stacks first, so that no worker waits for another at the end
        dict(n=150, width=4, scaled_alpha=[1.0, 1e3], seed=SEEDS, **CONV),
        dict(tolerance=1e-4, implicit=False, max_steps=100_000, **MILD),
        dict(dynamics="momentum", implicit=False, max_steps=100_000, **(MILD | FEATURE)),
        dict(part="phase", width=[32, 64, 128], scaled_alpha=FEATURE_TO_LAZY, seed=SEEDS,
             keep_output=True),
        dict(part="frozen", width=64, scaled_alpha=[1e-1, 1.0, 1e2], seed=SEEDS, frozen=5),
        dict(part="fashion", dataset="fashion-mnist", pca=0, depth=3, bias=False, width=[32, 256],
             scaled_alpha=[1e-2, 1e4], seed=SEEDS),
        dict(part="border", width=[16, 32, 64, 128, 256], scaled_alpha=BORDER, seed=MANY, **SMALL),
        dict(part="velocity", width=[128, 256, 512, 1024, 2048], max_steps=0, n=200, n_test=200,
             seed=FRESH),
        dict(tolerance=[1e-2, 1e-4], **MILD),
        dict(tolerance=1e-6, max_steps=100_000, **(MILD | ENDS)),
        dict(part="depth", depth=[1, 2, 3, 4, 5], width=100, scaled_alpha=[1e-3, 1e-2, 1e-1],
             seed=SEEDS, **SMALL),
        dict(part="residual", width=[16, 32, 64, 128, 256], scaled_alpha=[1e3, 1e5], seed=MANY,
             **SMALL),
        dict(width=[64, 128], scaled_alpha=[2e2, 2e3, 2e4], seed=FRESH, **RELU, **SMALL),
    ],
    "paper": [
        dict(part="velocity", width=[2**k for k in range(7, 13)], max_steps=0, n=200, n_test=200,
             seed=MANY),
        dict(part="depth", depth=[1, 2, 3, 4, 5, 7, 9], width=400,
             scaled_alpha=[1e-3, 1e-2, 1e-1], n=1000, n_test=1000, seed=MANY),
        dict(part="border", width=[2**k for k in range(4, 11)], scaled_alpha=BORDER, n=1000,
             n_test=1000, seed=range(20)),
        dict(part="residual", width=[2**k for k in range(4, 12)], scaled_alpha=[1e3, 1e4, 1e5],
             n=1000, n_test=1000, seed=MANY),
        dict(width=[100, 200, 400, 800], scaled_alpha=[2e2, 1e3, 1e4, 1e5, 1e6], n=1000,
             n_test=1000, seed=MANY, **RELU),
        dict(part="phase", width=[100, 200, 400, 800], seed=MANY, keep_output=True,
             scaled_alpha=PAPER_KEPT, **PAPER),
        dict(part="phase", width=[100, 200, 400, 800], seed=MANY,
             scaled_alpha=[s for s in PAPER_SCALES if s not in PAPER_KEPT], **PAPER),
        dict(part="frozen", width=400, scaled_alpha=[1e-2, 1.0, 1e2], seed=SEEDS, frozen=9,
             **PAPER),
        dict(tolerance=[1e-2, 1e-4], **MILD),
        dict(tolerance=1e-6, max_steps=100_000, **MILD),
        dict(tolerance=1e-4, implicit=False, max_steps=200_000, **MILD),
        dict(dynamics="momentum", implicit=False, max_steps=200_000, **(MILD | FEATURE)),
        dict(part="fashion", dataset="fashion-mnist", pca=0, depth=3, bias=False, n=10_000,
             n_test=50_000, width=[100, 300, 1000], scaled_alpha=[1e-2, 1e4], seed=MANY),
        dict(n=5000, n_test=50_000, width=[16, 32, 64], scaled_alpha=[1e-1, 1e1, 1e3], seed=FEW,
             implicit=False, max_steps=200_000, **CONV),
    ],
}
# fmt: on
