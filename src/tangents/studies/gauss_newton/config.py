"""The networks, steps and sizes of the chapter on exact Gauss-Newton."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tangents.lab.study import LATER, Config, Count, Positive, Rule, Whole

Share = Annotated[float, Rule("at least 0 and finite", lambda v: 0 <= v < float("inf"))]
Method = Literal["reversible", "minimum", "random", "adam", "sgd", "momentum"]
EXACT = ("reversible", "minimum", "random")  # right inverses of the Jacobian


@dataclass(frozen=True)
class GaussNewton(Config):
    """One reversible network trained by one kind of step, or by two after one another.

    A right inverse moves the outputs by -`rate` times what the loss asks of each, the gradient of
    its own loss; rates of the other steps belong to the mean loss over examples.
    """

    part: str = "full"  # which part of the chapter the run belongs to
    dataset: Literal[
        "digits", "mnist", "fashion-mnist", "cifar-10", "wine", "breast-cancer", "diabetes"
    ] = "digits"  # images, or tables
    pool: Count = 1  # pixels of an image are averaged over squares of this side
    layout: Literal["half", "interleaved", "both"] = "half"  # which inputs each half sees
    shuffled: bool = False  # whether the training labels are permuted: a control
    n: Count = 100  # training examples
    n_test: Count = 1000  # test examples
    network: Literal["reversible", "mlp"] = "reversible"  # mlp: as many layers of that width
    width: Count = 110  # features h of half a block
    blocks: Count = 2  # of the network
    first: Literal["", "linear"] = ""  # activation of the first block, if it is another
    activation: Literal["relu", "tanh"] = "relu"  # of the fixed features
    std: Positive = 1e-3  # of the initial weights
    centred: bool = False  # whether the initial outputs are subtracted, F = alpha (f - f0)
    alpha: Positive = 1.0  # output scale of a centred network
    loss: Literal["squared", "cross-entropy"] = "squared"  # of outputs
    method: Method = "reversible"  # kind of step
    rate: Positive = 0.25  # of a step
    damping: Share = 0.0  # of a Gauss-Newton step, over the kernel's mean diagonal
    rtol: Share = 0.0  # of the reversible step: least singular value over the largest
    correction: bool = True  # of the reversible step
    shares: Literal["equal", "last"] = "equal"  # of the blocks in the reversible step
    hessian: bool = False  # whether outputs move by Newton's step on their loss
    decay: Share = 0.0  # of the weights, in a step times its rate
    noise: Share = 0.0  # length of a random direction beside the step, over the step's
    batch: Whole = 0  # examples a step; 0: all
    length: Count = 24  # of training: steps, or epochs of batches
    until: Share = 0.0  # training loss at which a full-batch training ends
    then: Literal["", "reversible", "minimum", "adam"] = ""  # kind of step after the switch
    then_rate: Positive = 1e-3  # of that
    switch: Count = 10  # epochs before it
    deep: bool = False  # whether kernels and features are measured at start and end
    dtype: Literal["float64", "float32"] = "float64"  # precision
    seed: int = 0  # of weights, fixed features and data
    weighting: Annotated[Positive, LATER] = 1.0  # g: first halves count 1 / g in the minimum norm

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "mlp" and self.method in ("reversible", "random"):
            raise ValueError("network='mlp' has no reversible step: accepted are minimum, adam, "
                             "sgd, momentum")  # fmt: skip
        if self.weighting != 1 and (self.method != "minimum" or self.network == "mlp"):
            raise ValueError("a weighting is one of method='minimum' on a reversible network")
        if self.alpha != 1 and not self.centred:
            raise ValueError("an output scale alpha needs centred=True")
        if self.then and not self.batch:
            raise ValueError("a switch is one between epochs of batches: batch is 0")
        if self.until and self.batch:
            raise ValueError("until ends a full-batch training: batch must be 0")
        if self.loss == "cross-entropy" and self.dataset == "diabetes":
            raise ValueError("diabetes has real targets: loss must be squared")
        if self.batch > self.n:
            raise ValueError(f"batch must be at most n = {self.n}, got {self.batch}")


SEEDS, FEW, MORE = range(10, 16), range(10, 13), range(10, 20)
BOTH = ["reversible", "minimum"]
LOSSES = ["squared", "cross-entropy"]
PUBLISHED = dict(method="reversible", rtol=1e-2, first="linear")
DIGITS = dict(dataset="digits", n=100, rate=0.25, length=24, seed=SEEDS)
MNIST = dict(dataset="mnist", pool=2, n=300, n_test=2000, width=1200, rate=0.25, length=20,
             seed=SEEDS)  # fmt: skip
LARGE = dict(dataset="mnist", n=1024, n_test=5000, width=4096, dtype="float32", seed=range(10, 15))
CIFAR = dict(dataset="cifar-10", pool=4, n=5120, n_test=2000, batch=64, width=256, rate=0.2,
             length=20, dtype="float32", seed=SEEDS)  # fmt: skip
SMALL = CIFAR | dict(n=2560, width=128)
LAZY = dict(dataset="mnist", n=2560, n_test=2000, batch=64, width=256, length=8, dtype="float32",
            deep=True, seed=SEEDS)  # fmt: skip
TABLES = [dict(dataset="wine", n=100, n_test=78, width=400, seed=MORE),
          dict(dataset="breast-cancer", n=300, n_test=200, width=1200, seed=MORE),
          dict(dataset="diabetes", n=300, n_test=140, width=1200, seed=MORE)]  # fmt: skip
SQUARED = dict(loss="squared", until=0.02)  # full-batch training ends there
ENTROPY = dict(loss="cross-entropy", until=0.1)

# Rates by the paper's rule, on seeds that judge nothing (parts "tuning" and "tuning-full"): in
# batches the most progress after one epoch, in full batches the largest that does not diverge.
TUNING = dict(seed=[1000, 1001])
RATES = dict(reversible=[0.05, 0.1, 0.2, 0.5, 1.0], minimum=[0.05, 0.1, 0.2, 0.5, 1.0],
             adam=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2], sgd=[3e-3, 0.01, 0.03, 0.1, 0.3, 1.0],
             momentum=[1e-3, 3e-3, 0.01, 0.03, 0.1])  # fmt: skip
FASTEST = {
    "squared": dict(reversible=0.2, minimum=0.2, adam=3e-3, sgd=0.03, momentum=0.03),
    "cross-entropy": dict(reversible=0.5, minimum=0.5, adam=3e-3, sgd=0.3, momentum=0.03),
}
LARGEST = {
    "squared": dict(adam=3e-3, sgd=0.03, momentum=0.03),
    "cross-entropy": dict(adam=3e-3, sgd=0.3, momentum=0.3),
}
ALONE = [(loss, method, rate) for loss, rates in FASTEST.items() for method, rate in rates.items()]
TINY = dict(dataset="digits", n=20, n_test=60, width=24, length=4)


def full(loss: str) -> list[dict]:
    """Full batches, each kind of step, until the training loss is small."""
    until = SQUARED if loss == "squared" else ENTROPY
    base, exact = MNIST | dict(part="full") | until, 0.25 if loss == "squared" else 4.0
    alone = [base | dict(method=m, rate=r, length=3000) for m, r in LARGEST[loss].items()]
    published = base | PUBLISHED | dict(rate=min(exact, 1.0), length=60)
    return [*alone, base | dict(method=BOTH, rate=exact), published]


# fmt: off
PRESETS = {
    "smoke": [
        dict(part="digits", method=BOTH, seed=[0, 1], deep=True) | TINY,
        dict(part="batches", method=["reversible", "adam"], batch=10, rate=0.1) | TINY,
    ],
    "book": [  # the longest runs first, so that no worker waits for another at the end
        LARGE | dict(part="large", method=BOTH, rate=0.5, length=9),
        LARGE | dict(part="large", rate=0.5, length=9) | PUBLISHED,
        LARGE | dict(part="large", method="adam", rate=3e-4, length=500) | SQUARED,
        LARGE | dict(part="large", method="minimum", rate=1.0, length=30) | ENTROPY,
        LARGE | dict(part="large", rate=1.0, length=30) | ENTROPY | PUBLISHED,
        LARGE | dict(part="large", method="adam", rate=1e-3, length=500) | ENTROPY,
        *(CIFAR | dict(part="batches", method=m, rate=r, loss=loss) for loss, m, r in ALONE),
        CIFAR | dict(part="batches", loss=LOSSES) | PUBLISHED,
        *(CIFAR | dict(part="phase", width=h, n=[k * h for k in ratios], seed=FEW)
          for h, ratios in ((512, [10, 5]), (256, [40, 20, 10, 5]), (128, [40, 20, 10, 5]))),
        *(LAZY | dict(part="lazy", method=m, rate=r, loss=loss) for loss, m, r in ALONE),
        # what diverges there at the rate tuned on CIFAR-10, at one tuned on these images
        *(LAZY | dict(part="lazy", method=m, rate=r, loss=loss) for loss, m, r in (
            ("squared", "sgd", 0.01), ("squared", "momentum", 3e-3),
            ("cross-entropy", "sgd", 0.1), ("cross-entropy", "momentum", 0.01))),
        MNIST | dict(part="ladder", method=["random", *BOTH]),
        MNIST | dict(part="ladder", method=BOTH, layout=["both", "interleaved"]),
        MNIST | dict(part="ladder", method=BOTH, centred=True, layout=["half", "both"]),
        MNIST | dict(part="ladder", method=BOTH, damping=[0.01, 0.1]),
        MNIST | dict(part="ladder", rtol=1e-2),
        MNIST | dict(part="ladder", shares="last"),
        MNIST | dict(part="metric", method="minimum", weighting=[1.0, 10.0, 100.0, 1e4]),
        MNIST | dict(part="metric"),
        MNIST | dict(part="shuffled", method=BOTH, shuffled=True),
        MNIST | dict(part="mnist", method=BOTH, width=[1200, 600, 330], deep=True),
        *full("squared"),
        *full("cross-entropy"),
        MNIST | ENTROPY | dict(part="newton", method=BOTH, hessian=True, damping=0.15, rate=1.0,
                               length=60),
        *(table | dict(part="tables", method=BOTH, length=24) for table in TABLES),
        *(table | SQUARED | dict(part="tables", method="adam", rate=3e-3, length=3000)
          for table in TABLES),
        DIGITS | dict(part="digits", method=BOTH, width=[1600, 400, 200, 110], deep=True),
        SMALL | dict(part="fixes", rate=[0.2, 0.05, 0.02]),
        SMALL | dict(part="fixes", damping=[0.01, 0.1]),
        SMALL | dict(part="fixes", rtol=1e-2),
        SMALL | dict(part="fixes", decay=0.01),
        SMALL | dict(part="fixes", noise=0.5),
        SMALL | dict(part="fixes", std=[1e-6, 0.1]),
        SMALL | dict(part="fixes", method="minimum"),
        SMALL | dict(part="fixes", method="adam", rate=3e-3),
        SMALL | dict(part="fixes", method="adam", rate=0.03, network="mlp", width=98),
        SMALL | dict(part="features", width=[512, 256]),
        SMALL | dict(part="features", method="minimum", width=[128, 64]),
        SMALL | dict(part="features", method="minimum", width=64, blocks=1),
        SMALL | dict(part="features", method="adam", rate=3e-3, width=64, blocks=1),
        SMALL | dict(part="features", centred=True, layout=["half", "both"]),
        SMALL | dict(part="switch", method="adam", rate=3e-3, then="reversible", then_rate=0.2),
        SMALL | dict(part="switch", then="adam", then_rate=3e-3),
        SMALL | dict(part="switch", then="minimum", then_rate=0.2),
        *(CIFAR | TUNING | dict(part="tuning", method=m, rate=rates, loss=LOSSES, length=1)
          for m, rates in RATES.items()),
        *(MNIST | TUNING | dict(part="tuning-full", method=m, rate=rates, loss=LOSSES, length=100)
          for m, rates in dict(adam=[1e-3, 3e-3, 1e-2], sgd=[0.03, 0.1, 0.3, 1.0],
                               momentum=[0.03, 0.1, 0.3, 1.0]).items()),
        *(DIGITS | dict(part="rate", method=BOTH, n=60, width=240, rate=r, length=round(3 / r))
          for r in (0.05, 0.1, 0.25, 0.5)),
        DIGITS | dict(part="scale", n=60, width=240, centred=True, deep=True,
                      alpha=[0.1, 0.3, 1.0, 3.0, 10.0]),
        DIGITS | dict(part="exact", width=200, std=[1e-3, 0.1, 0.5], activation=["relu", "tanh"],
                      correction=[True, False], length=1, rate=0.01, seed=FEW),
        LARGE | dict(part="cost", width=2048, length=1, seed=FEW),
    ],
    "paper": [  # the paper's sizes, for one large GPU
        LARGE | ENTROPY | dict(part="large", method=BOTH, width=8000, rate=1.0, length=100),
        *(CIFAR | dict(part="batches", pool=1, n=50_000, n_test=10_000, width=8000, blocks=6,
                       batch=1024, length=10, loss="cross-entropy", method=m, rate=r, seed=FEW)
          for m, r in (("reversible", 0.6), ("adam", 1e-4), ("minimum", 0.6))),
    ],
}
# fmt: on
