"""The benchmark's problems, as plain arrays: the same weights and inputs for everybody."""

from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

MLPS = {  # widths of the layers
    "mlp": (784, 512, 512, 512, 10),
    "mlp, one output": (784, 512, 512, 512, 1),
    "wide mlp, one output": (784, 4096, 4096, 1),
    "small mlp": (10, 64, 64, 1),
}
CNNS = {  # channels of three convolutions 3 x 3, the last two with stride 2, and image size
    "cnn 28": ((1, 32, 64, 64), 28),
    "cnn 32": ((3, 32, 64, 64), 32),
}
STACK, STEPS, RATE = 64, 200, 1e-3  # networks side by side, their steps, their step size
PHASE, PHASE_RATE = 1000, 5e-6  # steps of the linearised model at once; half of what is stable


@dataclass(frozen=True)
class Case:
    task: str  # kernel, step, linearised, phase, stack or closed
    model: str
    n: int
    outputs: str = ""

    @property
    def fields(self) -> dict:
        return asdict(self)

    @property
    def c(self) -> int:
        return MLPS[self.model][-1] if self.model in MLPS else 10


CASES = (
    *(Case("kernel", "mlp", n, "full") for n in (64, 256, 1024)),
    *(Case("kernel", "mlp", n, "trace") for n in (256, 1024, 2048)),
    *(Case("kernel", "mlp, one output", n, "full") for n in (256, 2048)),
    Case("kernel", "wide mlp, one output", 512, "full"),
    *(Case("kernel", m, n, "full") for m in CNNS for n in (64, 256)),
    Case("kernel", "cnn 28", 256, "trace"),
    Case("step", "mlp", 512),
    Case("linearised", "mlp", 128),
    Case("phase", "mlp", 128),
    Case("stack", "small mlp", 500),
    *(Case("closed", f"depth {depth}", 2000) for depth in (3, 5)),
)


def budgets(case: Case) -> tuple[int, ...]:
    """MB beside the kernel that it is also computed in."""
    if case.model in CNNS:
        return case.n // 2, case.n, 2 * case.n
    least = {64: 2, 256: 4}.get(case.n, 8)
    return least, 2 * least, 4 * least


BUDGETS = {mb for case in CASES if case.task == "kernel" for mb in budgets(case)}


def weights(model: str, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of each layer, as torch holds them: (out, in) and (out, in, 3, 3)."""
    rng = np.random.default_rng(seed)
    if model in MLPS:
        shapes = [(o, i) for i, o in pairwise(MLPS[model])]
    else:
        channels, size = CNNS[model]
        shapes = [(o, i, 3, 3) for i, o in pairwise(channels)]
        shapes.append((10, channels[-1] * (size // 4) ** 2))
    gain = np.sqrt(2)
    return [
        (
            (gain * rng.normal(size=s) / np.sqrt(np.prod(s[1:]))).astype("f4"),
            (0.1 * rng.normal(size=s[0])).astype("f4"),
        )
        for s in shapes
    ]


def inputs(case: Case) -> np.ndarray:
    if case.task == "closed":
        shape = (case.n, 784)
    elif case.model in MLPS:
        shape = (case.n, MLPS[case.model][0])
    else:
        channels, size = CNNS[case.model]
        shape = (case.n, channels[0], size, size)
    return np.random.default_rng(1).normal(size=shape).astype("f4")


def targets(case: Case) -> np.ndarray:
    """One class in c for each example; for one output a sign."""
    rng = np.random.default_rng(2)
    if case.c == 1:
        return rng.choice([-1.0, 1.0], size=(case.n, 1)).astype("f4")
    return np.eye(case.c, dtype="f4")[rng.integers(case.c, size=case.n)]


def operations(case: Case) -> float:
    """Multiplications and additions of the least work that we know of, for kernels.

    For a linear layer the Gram matrices of signals and inputs, for a convolution that of its rows;
    of the symmetric result one triangle; without the passes through the network and the rows.
    """
    if case.task != "kernel":
        return float("nan")
    full, total = case.outputs == "full" and case.c > 1, 0.0
    for w, _ in weights(case.model):
        o, i = w.shape[0], int(np.prod(w.shape[1:]))
        rows = case.c**2 if full else case.c
        total += case.n * (case.n + 1) * (rows * o * i if w.ndim == 4 else rows * o + i)
    return total


def passes(case: Case) -> float:
    """Those of one pass forward and, for each output, one back to all layers but the first."""
    if case.task != "kernel":
        return float("nan")
    each = []
    for k, (w, _) in enumerate(weights(case.model)):
        positions = (CNNS[case.model][1] // 2**k) ** 2 if w.ndim == 4 else 1
        each.append(2.0 * w.size * positions)
    return case.n * (sum(each) + case.c * sum(each[1:]))
