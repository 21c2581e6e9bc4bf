"""The features and sizes of the chapter on random features."""

from dataclasses import dataclass
from typing import Literal

from tangents.lab.study import Config, Count, Positive, Whole

SKETCHED = ("srht", "count", "leverage")


@dataclass(frozen=True)
class RandomFeatures(Config):
    """One feature map of the tangent kernel of a ReLU network, or the kernel itself, on images.

    It is compared with the kernel, used for ridge regression on all classes, or timed.
    """

    part: str = "kernel"  # which part of the chapter the run belongs to
    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "digits"] = "mnist"  # images
    pool: Count = 2  # sides of the squares over which pixels are averaged
    n: Count = 1000  # training examples
    n_test: Whole = 0  # test examples
    depth: Count = 1  # hidden layers of the network
    # gradient: of a network's parameters; fourier: of a Gaussian kernel; exact: the kernel itself
    method: Literal["srht", "count", "leverage", "gradient", "fourier", "exact"] = "srht"  # map
    size: Count = 1024  # features m; of gradients: parameters, nearly; exact: of no meaning
    measure: Literal["kernel", "ridge", "cost"] = "kernel"  # what is measured
    penalty: Positive = 1e-4  # of the regularised spectrum, in units of the kernel's trace
    wrong: bool = False  # ridge on the features of another draw for the test examples: a control
    dtype: Literal["float64", "float32"] = "float64"  # precision
    seed: int = 0  # of the features
    data_seed: int = -1  # of the draw of the data; -1: that of the features

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure == "kernel" and self.method in ("exact", "fourier"):
            raise ValueError(f"measure='kernel' needs features of the kernel, not {self.method!r}")
        if self.measure == "ridge" and not (self.n_test and self.n >= 5):
            raise ValueError("measure='ridge' needs n >= 5 and test examples")
        if self.wrong and (self.method not in SKETCHED or self.measure != "ridge"):
            raise ValueError("wrong=True needs measure='ridge' and sketched features")
        if self.measure == "cost" and self.method not in (*SKETCHED, "exact"):
            raise ValueError(f"measure='cost' is of sketches or the kernel, not {self.method!r}")
        if self.method in SKETCHED and (self.size < 8 or self.size % 4):
            raise ValueError(f"size must be a multiple of 4, at least 8, got {self.size}")


SEEDS, FEW = range(6), range(5)
SIZES = [8192, 4096, 2048, 1024, 512, 256]
IMAGES = ["mnist", "fashion-mnist", "cifar-10"]
MAPS = ["srht", "leverage", "gradient"]
KERNEL = dict(measure="kernel", penalty=1e-3, seed=SEEDS)
RIDGE = dict(part="ridge", measure="ridge", n=2000, n_test=2000, dataset=IMAGES, seed=FEW)
LARGE = dict(part="large", measure="ridge", pool=1, n_test=8000, size=4096,
             seed=range(4))  # fmt: skip
COST = dict(part="cost", measure="cost", pool=1, size=2048, seed=range(3))
TINY = dict(dataset="digits", pool=1, n=60, size=[64, 128], seed=range(2))

# fmt: off
PRESETS = {
    "smoke": [
        dict(method=[*MAPS, "count"], depth=[1, 3], **(KERNEL | TINY)),
        dict(method=["srht", "fourier", "gradient", "exact"], **(RIDGE | TINY | dict(n_test=60))),
    ],
    "book": [  # the longest runs first, so that no worker waits for another at the end
        dict(method="srht", n=54_000, **LARGE),
        dict(method="exact", n=5000, **LARGE),
        dict(method=["fourier", "srht", "gradient"], size=[4096, 1024, 512], **RIDGE),
        dict(method="exact", **RIDGE),
        dict(method=MAPS, size=SIZES, depth=[3, 1], **KERNEL),
        dict(method="count", size=SIZES, **KERNEL),
        dict(part="wrong", method="srht", size=2048, wrong=True, **(
            dict(measure="ridge", n=2000, n_test=2000, seed=FEW))),
        dict(method="exact", n=[8000, 4000, 2000, 1000], **COST),
        dict(method="srht", n=[32_000, 16_000, 8000, 4000], **COST),
        dict(method="srht", n=8000, **(COST | dict(part="pixels", pool=[1, 2, 4]))),
    ],
    "paper": [
        dict(method=["srht", "fourier"], n=54_000, **(LARGE | dict(size=[16_384, 8192]))),
        dict(method="exact", n=20_000, **LARGE),
    ],
}
# fmt: on
