"""A kernel that does not fit the memory allowed: the trace kernel of 20,000 images, on disk.

    PYTHONPATH=src python benchmarks/large.py data/results/benchmark-large.csv

The network is that of the other benchmarks, 784-512-512-512-10 in single precision. Memory is the
anonymous memory of the process (RssAnon) at its peak beyond what it held before, sampled every
0.1 s: pages of the file are not counted, since the system may drop them at any time.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
import torch
from engine import THREADS, matrix_product_peak, memory
from peers import torch_problem
from problems import Case, operations

from tangents._ntk.disk import ntk_on_disk
from tangents.empirical import ntk
from tangents.lab.store import seal

BUDGET = 2e9  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="the CSV file to write")
    parser.add_argument("--n", type=int, default=20_000, help="images (default 20000)")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    case = Case("kernel", "mlp", args.n, "trace")
    module, params, x, _ = torch_problem(case)
    before, seen, done = memory("RssAnon"), [], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.append(memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = Path(folder) / "theta.npy"
        kernel = ntk_on_disk(path, module, params, x, outputs="trace", budget=BUDGET)
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
        some = torch.randperm(args.n, generator=torch.Generator().manual_seed(0))[:300]
        exact = {name: p.double() for name, p in params.items()}
        want = ntk(module.double(), exact, x[some].double(), outputs="trace")
        got = torch.tensor(kernel[some.numpy()][:, some.numpy()])
    row = {
        **case.fields,
        "threads": THREADS,
        "seconds": seconds,
        "result gb": args.n**2 * 4 / 1e9,
        "memory beside it gb": (max(seen) - before) / 1e9,
        "share of peak": operations(case) / seconds / matrix_product_peak(),
        "deviation": ((got - want).abs().max() / want.abs().max()).item(),
    }
    pd.DataFrame([row]).to_csv(args.table, index=False, float_format="%.3g")
    seal(args.table)
    print(row)


if __name__ == "__main__":
    main()
