"""How fast kernels of recurrent networks are computed: pair by pair, or for all pairs at once.

    python benchmarks/recurrent.py [DEVICE] > data/results/benchmark-recurrent.csv

The same recursion (ReLU, one layer) in plain Python for one pair after the other, for whole Gram
matrices step by step, and in cache-sized tiles as `tangents.recurrent` has it. Nanoseconds for each
entry and step, the median of three, after a check that all three agree; measured in turn.
"""

import csv
import math
import statistics
import sys
import time

import torch

from tangents.recurrent import Recurrent

NET = Recurrent(1, "relu", su=0.5, sb=0.1)
PAIRS, REPEATS = 2000, 3  # pairs that are computed one by one


def own(x: list[float]) -> list[float]:
    """Variances of a network's states along one series."""
    found, q = [], 0.0
    for value in x:
        q = NET.sw**2 * q / 2 + (NET.su * value) ** 2 + NET.sb**2
        found.append(q)
    return found


def pair(x: list[float], y: list[float]) -> float:
    mean = turned = 0.0
    for a, b, q, r in zip(x, y, own(x), own(y), strict=True):
        k = NET.sw**2 * mean + NET.su**2 * a * b + NET.sb**2
        theta = k + NET.sw**2 * turned
        scale = math.sqrt(q * r)
        cosine = max(-1.0, min(1.0, k / scale))
        angle = math.pi - math.acos(cosine)
        mean = scale * (math.sqrt(1 - cosine * cosine) + cosine * angle) / (2 * math.pi)
        turned = theta * angle / (2 * math.pi)
    return mean + turned


def whole(x: torch.Tensor) -> torch.Tensor:
    mean = turned = x.new_zeros(len(x), len(x))
    for step in x.T:
        k = NET.sw**2 * mean + NET.su**2 * torch.outer(step, step) + NET.sb**2
        theta = k + NET.sw**2 * turned
        q = k.diagonal()
        scale = torch.outer(q, q).sqrt()
        cosine = (k / scale).clamp(-1, 1)
        angle = math.pi - torch.acos(cosine)
        mean = scale * ((1 - cosine**2).sqrt() + cosine * angle) / (2 * math.pi)
        turned = theta * angle / (2 * math.pi)
    return mean + turned


def seconds(function, device: str) -> float:
    started = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(n: int, steps: int, device: str) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, steps, generator=generator, dtype=torch.float64).to(device)
    series = x.tolist()
    pairs = [(i, i * 7 % n) for i in range(min(n, PAIRS))]
    ways = {
        "pair by pair": lambda: [pair(series[i], series[j]) for i, j in pairs],
        "whole matrix": lambda: whole(x),
        "tiles": lambda: NET.kernels(x.unsqueeze(-1))[1],
    }
    some, gram, tiles = (way() for way in ways.values())
    i, j = map(list, zip(*pairs, strict=True))
    for found in (gram, tiles):
        want = torch.tensor(some, dtype=torch.float64)
        # on the diagonal the slope of the angle is steep
        torch.testing.assert_close(found[i, j].cpu(), want, rtol=1e-5, atol=0)
    entries = {"pair by pair": 2 * len(pairs), "whole matrix": n * n, "tiles": n * n}
    times = [{name: seconds(way, device) for name, way in ways.items()} for _ in range(REPEATS)]
    cost = {
        name: 1e9 * statistics.median(t[name] for t in times) / entries[name] / steps
        for name in ways
    }
    return [
        {"way": name, "n": n, "steps": steps, "device": "cpu" if name == "pair by pair" else device,
         "ns": round(value, 3), "ratio": round(cost["pair by pair"] / value, 1),
         "threads": torch.get_num_threads()}
        for name, value in cost.items()
    ]  # fmt: skip


if __name__ == "__main__":
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    rows = [row for n in (256, 1024, 2048) for row in compare(n, 50, device)]
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
