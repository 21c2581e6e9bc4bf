"""The recurrent kernel: pairs times steps a second, beside what bounds it and a loop over pairs.

    PYTHONPATH=src python benchmarks/recurrent.py data/results/benchmark-recurrent.csv

2000 series of 100 steps. The bound is one arc cosine (or arcsine), one square root and four
multiplications with additions of numbers that stay in the cache. The loop is one pair after
another, in plain numbers. Rows of other devices in the table are kept.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import pandas as pd
import torch

from tangents.functional import tile_rows
from tangents.lab.provenance import commit, device_name
from tangents.lab.store import seal
from tangents.recurrent import TILE, Recurrent

N, STEPS = 2000, 100


def seconds(call, device: torch.device, calls: int = 3) -> float:
    """The median of some calls, after one for warm-up."""
    times: list[float] = []
    for _ in range(calls + 1):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def bound(net: Recurrent, like: torch.Tensor) -> float:
    """Numbers a second of the elementwise work that a step of a pair cannot do without."""
    side = tile_rows(like, TILE)
    x, y = (like.new_empty(side, side).uniform_(-0.9, 0.9) for _ in range(2))
    arc = torch.acos if net.activation == "relu" else torch.asin

    def pass_() -> None:
        angle = arc(x)
        root = torch.addcmul(y, x, x, value=-0.01).abs_().sqrt_()
        for _ in range(3):
            root.addcmul_(angle, y)

    repeats = 20
    return repeats * side**2 / seconds(lambda: [pass_() for _ in range(repeats)], like.device)


def pair(net: Recurrent, x: list[float], y: list[float]) -> float:
    """The kernel of two series of one number a step, of one layer of ReLU units, in plain
    numbers."""
    q = r = k = theta = mean = slope = 0.0
    for step, (a, b) in enumerate(zip(x, y, strict=True)):
        if step:
            mean, slope = means(q, r, k)
        k, before = net.sw**2 * mean + net.su**2 * a * b + net.sb**2, theta
        q = net.sw**2 * q / 2 + net.su**2 * a * a + net.sb**2
        r = net.sw**2 * r / 2 + net.su**2 * b * b + net.sb**2
        theta = k + net.sw**2 * slope * before
    mean, slope = means(q, r, k)
    return net.sv**2 * (mean + slope * theta)


def means(q: float, r: float, k: float) -> tuple[float, float]:
    scale = math.sqrt(q * r)
    cosine = max(-1.0, min(1.0, k / scale))
    angle = math.pi - math.acos(cosine)
    mean = scale * (math.sqrt(1 - cosine**2) + cosine * angle)
    return mean / (2 * math.pi), angle / (2 * math.pi)


def measure(net: Recurrent, dtype: torch.dtype, device: torch.device) -> dict:
    x = torch.randn(N, STEPS, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here, entries = x.to(device, dtype), N * (N + 1) / 2
    net.kernels(here[:300])
    begun = time.perf_counter()
    net.kernels(here)[1].sum().item()  # which waits for the device
    taken = time.perf_counter() - begun
    row = {"activation": net.activation, "layers": net.layers, "dtype": str(dtype)[6:], "n": N,
           "steps": STEPS, "seconds": taken, "pair-steps/s": entries * STEPS / taken,
           "bound": bound(net, here), "device": device_name(str(device)),
           "torch": torch.__version__, "commit": commit()}  # fmt: skip
    row["share of bound"] = row["pair-steps/s"] * net.layers / row["bound"]
    if net.activation == "relu" and net.layers == 1:
        one, other = x[0, :, 0].tolist(), x[1, :, 0].tolist()
        row["loop, pair-steps/s"] = STEPS / seconds(lambda: pair(net, one, other), x.device)
        found = net.kernels(x[:2])[1][0, 1].item()
        assert math.isclose(pair(net, one, other), found, rel_tol=1e-9)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="the CSV file to write or complete")
    parser.add_argument("--device", default="cpu", type=torch.device)
    args = parser.parse_args()
    nets = [Recurrent(layers, activation, sb=0.1) for layers in (1, 2)
            for activation in ("relu", "erf") if (layers, activation) != (2, "erf")]  # fmt: skip
    rows = [measure(net, dtype, args.device) for net in nets
            for dtype in (torch.float64, torch.float32)]  # fmt: skip
    frame = pd.DataFrame(rows)
    if args.table.exists():
        old = pd.read_csv(args.table)
        frame = pd.concat([old[old["device"] != frame["device"].iloc[0]], frame])
    frame.to_csv(args.table, index=False, float_format="%.4g")
    seal(args.table)
    print(frame.drop(columns=["torch", "commit"]).to_string(index=False))


if __name__ == "__main__":
    main()
