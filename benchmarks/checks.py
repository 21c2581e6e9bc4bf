"""What the comparison of each batch costs: kernels with it and without, in turns.

`python benchmarks/checks.py` writes data/results/benchmark-checks.csv: the best of
several turns, in seconds of one thread.
"""

import argparse
import time
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from tangents import models
from tangents.empirical import jacobian, ntk
from tangents.lab.store import seal

OUT = Path(__file__).resolve().parents[1] / "data" / "results" / "benchmark-checks.csv"


class Trusting:
    """Stands for `Batch` and compares nothing."""

    def __init__(self, *given):
        pass

    def compare(self, k, factors):
        pass

    def others(self):
        return []


def cases():
    """Name, module, inputs, what is computed."""
    mlp, conv = models.MLP(784, 512, 3, c=10), models.ConvNet(1, 16, c=10)
    small = models.MLP(784, 64, 2, c=1)
    other = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 10))
    for n in (32, 256):
        x = torch.randn(n, 784)
        yield "MLP 512 x 3, 10 outputs", mlp, x, "full"
        yield "MLP 512 x 3, 10 outputs", mlp, x, "trace"
        yield "MLP 512 x 3, 10 outputs", mlp, x, "jacobian"
        if n == 256:
            yield "MLP 512 x 3, 10 outputs", mlp, torch.randn(2 * n, 784), "full"
        yield "MLP 64 x 2, 1 output", small, x, "full"
        yield "MLP 64 x 2, 1 output", small, x, "jacobian"
        yield "linear, layer norm, linear", other, torch.randn(n, 64), "full"
    yield "ConvNet 16, 10 outputs", conv, torch.randn(64, 1, 28, 28), "trace"


def seconds(compute) -> float:
    start = time.process_time()
    compute()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=7)
    turns, rows = parser.parse_args().turns, []
    for name, module, x, what in tqdm([*cases()], disable=None):
        params = {k: 0.05 * torch.randn(p.shape) for k, p in module.named_parameters()}

        def compute(module=module, params=params, x=x, what=what):
            if what == "jacobian":
                return jacobian(module, params, x)
            return ntk(module, params, x, outputs=what)

        compute()
        best = {"with": float("inf"), "without": float("inf")}
        for _ in range(turns):
            best["with"] = min(best["with"], seconds(compute))
            with mock.patch("tangents._ntk.route.Batch", Trusting):
                best["without"] = min(best["without"], seconds(compute))
        rows.append({"network": name, "examples": len(x), "computed": what,
                     "seconds": best["with"], "seconds_unchecked": best["without"],
                     "share": best["with"] / best["without"] - 1})  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(OUT, index=False, float_format="%.4g")
    seal(OUT)
    print(table.to_string(index=False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
