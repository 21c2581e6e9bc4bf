"""What is gained by training networks side by side instead of one after the other.

    python benchmarks/stacking.py > data/results/benchmark-stacking.csv

Gradient flow of 32 networks (five hidden layers, ten inputs): the same steps from the same weights,
once as one stack and once in a loop over stacks of length one. Median of five, after a warm-up;
the two are measured in turn, so that a busy machine disturbs both alike.
"""

import csv
import itertools
import statistics
import sys
import time

import torch

from tangents import models
from tangents.flow import GradientFlow, flow
from tangents.functional import select

NETWORKS, ATTEMPTS, REPEATS = 32, 10, 5


def train(module, params, x, y, alpha):
    rule = GradientFlow(implicit=False)
    dt = torch.full_like(alpha, 1e-3)
    for _ in itertools.islice(flow(module, params, x, y, alpha, dt, rule=rule), ATTEMPTS):
        pass


def seconds(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def compare(width: int, n: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 10, generator=generator, dtype=torch.float64)
    y = torch.sign(x[:, 0])
    module = models.MLP(10, width, 5)
    params = models.initialise_stack(module, range(NETWORKS))
    alpha = torch.full((NETWORKS,), 10.0, dtype=torch.float64)

    def stacked():
        train(module, params, x, y, alpha)

    def loop():
        for i in range(NETWORKS):
            one = torch.tensor([i])
            train(module, select(params, one), x, y, alpha[one])

    pairs = [(seconds(loop), seconds(stacked)) for _ in range(REPEATS + 1)][1:]
    slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "width": width,
        "examples": n,
        "networks": NETWORKS,
        "loop_ms": round(1e3 * slow / NETWORKS / ATTEMPTS, 3),
        "stacked_ms": round(1e3 * fast / NETWORKS / ATTEMPTS, 3),
        "ratio": round(slow / fast, 2),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    rows = [compare(width, n) for n in (50, 200, 1000) for width in (16, 32, 64)]
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
