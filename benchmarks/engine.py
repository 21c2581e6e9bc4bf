"""How fast tangent kernels, linearised training and Gauss-Newton steps are, here and elsewhere.

    python -m venv peers && peers/bin/pip install -r benchmarks/requirements.txt
    python -m venv jax && jax/bin/pip install -r benchmarks/requirements-jax.txt
    PYTHONPATH=src peers/bin/python benchmarks/engine.py --jax jax/bin/python TABLE.csv

Each peer solves each problem in a process of its own, in single precision, on THREADS threads, with
the same weights and inputs. Answers are compared before times. A time is the median of five calls
after one for warm-up, of more where they took less than a second and of fewer where they took more
than eight. Conjugate gradients stop at one tolerance. JAX is a current one in an environment of its
own, but for neural-tangents, which needs an old one. Memory is what the process holds at its peak
during the first call beyond what it held before, when it had solved the same problem for two inputs
and given back what it had freed, so that neither imports nor kept memory count. Packages run as
they come; `tangents` with freed memory kept, as its command line does. Problems that the file holds
already are not measured again, unless by a second round, `--again`, whose row is kept where it is
the quicker.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from peers import BUILD, measured
from problems import CASES, Case, operations, passes

from tangents.lab.store import seal

THREADS = int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count()))
LIMIT = 45.0  # seconds a process, building and comparing included
REPEATS, ENOUGH = 5, 8.0  # calls; fewer where they have taken so many seconds
BRIEF = 1.0  # seconds that are filled with further calls, where five take less
PYTHONS: dict[str, str] = {}  # interpreters of peers that have an environment of their own
KEPT = 200_000  # entries of an answer that are compared


def memory(kind: str) -> int:
    """Bytes of this process: VmHWM, its peak since `forget_peak`; RssAnon, what no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(kind)).split()[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def settle() -> None:
    """The threads of both frameworks; and where neural-tangents looks for two modules of JAX."""
    try:
        import torch

        torch.set_num_threads(THREADS)
    except ImportError:
        pass
    try:
        import jax
        from jax._src import source_info_util
        from jax.interpreters import ad

        ad.source_info_util, ad.config = source_info_util, jax.config
    except ImportError:
        pass


def child(peer: str, case: Case, answer: str) -> None:
    """Measures one peer on one problem; prints a line of JSON."""
    settle()
    if peer.startswith("tangents"):
        from tangents.lab.memory import keep_freed_memory

        keep_freed_memory()
    BUILD[case.task][peer](replace(case, n=2))()  # modules that are imported, pools of threads
    call = BUILD[case.task][peer](case)
    ctypes.CDLL(None).malloc_trim(0)
    before = psutil.Process().memory_info().rss
    forget_peak()
    value = np.asarray(call())
    peak = memory("VmHWM") - before
    np.save(answer, value.reshape(-1)[:: max(1, value.size // KEPT)])
    if case.task == "step":
        np.save(answer.replace(".npy", "-whole.npy"), value)
    del value
    times = []
    while (len(times) < REPEATS and sum(times) < ENOUGH) or sum(times) < BRIEF:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    found = {"seconds": statistics.median(times), "slowest": max(times), "calls": len(times)}
    print(json.dumps(found | {"mb": peak / 2**20}))


def residual(case: Case, step: np.ndarray) -> float:
    """|f + J d - y| / |f - y| of a Gauss-Newton step d, in double precision."""
    import torch
    from peers import torch_problem
    from torch.func import functional_call, jvp

    module, params, x, y = torch_problem(case)
    module, params = module.double(), {k: v.double() for k, v in params.items()}
    d = torch.from_numpy(step).double().split([v.numel() for v in params.values()])
    d = {k: v.view_as(params[k]) for k, v in zip(params, d, strict=True)}
    f, moved = jvp(lambda p: functional_call(module, p, (x.double(),)), (params,), (d,))
    return ((f + moved - y).norm() / (f - y).norm()).item()


def measure(peer: str, case: Case, folder: str) -> dict:
    answer = str(Path(folder) / f"{peer}.npy")
    python = PYTHONS.get(peer, sys.executable)
    command = [python, __file__, "--child", peer, json.dumps(case.fields), answer]
    threads = {k: str(THREADS) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT, env=os.environ | threads
        )
    except subprocess.TimeoutExpired:
        return {"note": f"more than {LIMIT:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"]
        return {"note": "out of memory" if done.returncode == -9 else lines[-1][:120]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if case.task == "step":
        whole = Path(answer.replace(".npy", "-whole.npy"))
        found["residual"] = residual(case, np.load(whole))
    return found | {"answer": np.load(answer)}


def matrix_product_peak() -> float:
    """Operations a second of a large matrix product in single precision, on as many threads."""
    import torch

    torch.set_num_threads(THREADS)
    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 4096**3 / statistics.median(times[1:])


def hopeless(case: Case, peer: str, table: pd.DataFrame) -> str:
    """Where a smaller problem of this kind was too much for the peer, what it says."""
    if not len(table):
        return ""
    same = table["peer"].eq(peer) & table["seconds"].isna() & table["n"].lt(case.n)
    for name in ("task", "model", "outputs"):
        same &= table[name].eq(getattr(case, name))
    return f"not tried: failed at n = {table.loc[same, 'n'].iloc[0]}" if same.any() else ""


def compare(case: Case, peers: list[str], table: pd.DataFrame) -> list[dict]:
    """One row a peer; deviations are from the first that answers, in units of its largest entry."""
    peak, truth, rows = matrix_product_peak(), None, []
    with tempfile.TemporaryDirectory() as folder:
        for peer in peers:
            if not measured(case, peer):
                continue
            note = hopeless(case, peer, table)
            found = {"note": note} if note else measure(peer, case, folder)
            answer = found.pop("answer", None)
            comparable = peer != "one step of the network" and answer is not None
            truth = answer if truth is None and comparable else truth
            if comparable:
                found["deviation"] = float(np.abs(answer - truth).max() / np.abs(truth).max())
            if "seconds" in found:
                found["share of peak"] = operations(case) / found["seconds"] / peak
            rows.append(case.fields | {"peer": peer, "threads": THREADS} | found)
            rows[-1] |= {
                "gflop": operations(case) / 1e9,
                "peak gflop/s": peak / 1e9,
                "passes gflop": passes(case) / 1e9,
            }
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def again(case: Case, table: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Measures once more what has a time, and keeps the quicker: other work only slows."""
    rows = rows[rows["seconds"].notna()]
    new = pd.DataFrame(compare(case, list(rows["peer"]), table), rows.index)
    quicker = new.index[new["seconds"] < rows["seconds"]] if "seconds" in new else []
    table.loc[quicker, new.columns] = new.loc[quicker]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--tasks", nargs="+", choices=BUILD, default=list(BUILD))
    parser.add_argument("--again", action="store_true", help="measure once more, keep the quicker")
    parser.add_argument("--jax", default=sys.executable, help="the Python that holds a current JAX")
    parser.add_argument("table", nargs="?", type=Path, help="the CSV file to write or complete")
    args = parser.parse_args()
    if args.child:
        peer, case, answer = args.child
        return child(peer, Case(**json.loads(case)), answer)
    PYTHONS["jax"] = args.jax
    if args.table is None:
        parser.error("the table is missing: the CSV file to write or complete")
    if args.again and not args.table.exists():
        parser.error(f"{args.table} does not exist: nothing was measured that could be once more")
    table = pd.DataFrame()
    if args.table.exists():
        table = pd.read_csv(args.table).fillna({"outputs": ""})
    for case in (case for case in CASES if case.task in args.tasks):
        fields = case.fields
        rows = (
            table[table[list(fields)].eq(list(fields.values())).all(axis=1)] if len(table) else []
        )
        if len(rows) and args.again:
            again(case, table, rows)
        elif not len(rows) and not args.again:
            rows = compare(case, list(BUILD[case.task]), table)
            table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        table.to_csv(args.table, index=False, float_format="%.4g")
        seal(args.table)


if __name__ == "__main__":
    main()
