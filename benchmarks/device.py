"""This package's kernels and steps on one device, as shares of its own matrix-product peak.

    PYTHONPATH=src python benchmarks/device.py table.csv --device cuda --minutes 3

The problems are those of the other benchmarks, and trace kernels of up to 60,000 images. Single
precision, TF32 off. Each row is written when it is measured; what stands in the table is not
measured again, and none is begun after so many minutes. Memory is the allocator's peak on CUDA.
"""

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from peers import torch_problem
from problems import CASES, Case, operations

from tangents.curvature import gauss_newton
from tangents.empirical import jacobian, ntk
from tangents.lab.provenance import commit, device_name
from tangents.lab.store import seal
from tangents.losses import SQUARED

REPEATS, ENOUGH = 5, 8.0  # calls at most, seconds after which none follows
SIDE = {"cpu": 4096}  # of the matrices whose product is the peak; elsewhere 16384
LARGE = (*(Case("kernel", "mlp", n, "trace") for n in (10_000, 20_000, 60_000)),
         *(Case("kernel", "cnn 28", n, "trace") for n in (10_000, 60_000)))  # fmt: skip


def timed(call, device: torch.device, large: bool = False) -> list[float]:
    """Seconds of calls after one for warm-up, each until the device is done; of a large problem
    that of one call."""

    def once() -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    if large:
        return [once()]
    once()
    times = [once()]
    while len(times) < REPEATS and sum(times) < ENOUGH:
        times.append(once())
    return times


def peak(device: torch.device) -> float:
    """Operations a second of a large matrix product in single precision."""
    side = SIDE.get(device.type, 16384)
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    return 2 * side**3 / statistics.median(timed(lambda: a @ b, device))


def problem(case: Case, device: torch.device):
    """What is called for this case."""
    module, params, x, y = torch_problem(case)
    params, x, y = {k: v.to(device) for k, v in params.items()}, x.to(device), y.to(device)
    module = module.to(device)
    if case.task == "kernel":
        return lambda: ntk(module, params, x, outputs=case.outputs)
    return lambda: gauss_newton(jacobian(module, params, x), y, SQUARED, damping=1e-3, dense=False)


def measure(case: Case, device: torch.device, rate: float) -> dict:
    row = case.fields | {"device": device_name(str(device)), "torch": torch.__version__,
                         "commit": commit(), "peak tflop/s": rate / 1e12}  # fmt: skip
    try:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        times = timed(problem(case, device), device, case in LARGE)
    except RuntimeError as error:  # out of memory, for one
        return row | {"note": str(error).splitlines()[0][:120]}
    row |= {"seconds": statistics.median(times), "calls": len(times),
            "share of peak": operations(case) / statistics.median(times) / rate}  # fmt: skip
    if device.type == "cuda":
        row["memory gb"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="the CSV file to write or complete")
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--minutes", default=3.0, type=float, help="after which none is begun")
    parser.add_argument("--largest", default=60_000, type=int, help="images at most")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    end, rows = time.monotonic() + 60 * args.minutes, []
    if args.table.exists():
        rows = pd.read_csv(args.table).fillna({"outputs": ""}).to_dict("records")
    known = {tuple(row[k] for k in ("task", "model", "n", "outputs", "device")) for row in rows}
    rate, name = peak(args.device), device_name(str(args.device))
    print(f"{name}: {rate / 1e12:.3g} TFLOP/s", flush=True)
    for case in (*(c for c in CASES if c.task in ("kernel", "step")), *LARGE):
        if case.n > args.largest or (*case.fields.values(), name) in known:
            continue
        if time.monotonic() > end:
            break
        rows.append(measure(case, args.device, rate))
        print({k: rows[-1].get(k) for k in ("model", "n", "outputs", "seconds", "share of peak",
                                            "memory gb", "note")}, flush=True)  # fmt: skip
        pd.DataFrame(rows).to_csv(args.table, index=False, float_format="%.4g")
        seal(args.table)


if __name__ == "__main__":
    main()
