"""How fast empirical tangent kernels are: this package and its peers, the same weights and inputs.

    pip install -r benchmarks/requirements.txt
    python benchmarks/kernels.py > data/results/benchmark-kernels.csv

Each case of each peer runs in a process of its own, float32, on the threads of the machine. Answers
are compared before times; a time is the median of five calls after a warm-up, stopped at LIMIT
seconds a process. Memory is what the process held at its peak beyond what it held before the calls.
`flops` counts the products of the least work known: signals' and inputs' Gram matrices of each
linear layer, rows of each convolution, one triangle of the symmetric result.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LIMIT, REPEATS = 300, 5
SIZES = {  # widths of the layers of a fully connected network
    "mlp": (784, 512, 512, 512, 10),
    "mlp, one output": (784, 512, 512, 512, 1),
    "wide mlp, one output": (784, 4096, 4096, 1),
}
CHANNELS = (1, 32, 64, 64)  # of the three convolutions, 3x3, the last two with stride 2
CASES = [
    ("mlp", 256, "full"), ("mlp", 1024, "full"), ("mlp", 1024, "trace"),
    ("mlp, one output", 2048, "full"), ("wide mlp, one output", 512, "full"),
    ("cnn", 64, "full"), ("cnn", 256, "trace"), ("cnn", 256, "full"),
]  # fmt: skip
PEERS = ("tangents", "neural-tangents 3", "neural-tangents 1", "nngeometry", "asdl", "torch.func")
TRACE_ONLY = ("asdl",)


def weights(model: str) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    if model in SIZES:
        s = SIZES[model]
        shapes = [(o, i) for i, o in itertools.pairwise(s)]
    else:
        shapes = [(o, i, 3, 3) for i, o in itertools.pairwise(CHANNELS)] + [(10, 64 * 49)]
    return [
        ((rng.normal(size=s) / np.sqrt(np.prod(s[1:]))).astype("f4"),
         rng.normal(size=s[0]).astype("f4"))
        for s in shapes
    ]  # fmt: skip


def inputs(model: str, n: int) -> np.ndarray:
    shape = (n, 784) if model in SIZES else (n, 1, 28, 28)
    return np.random.default_rng(1).normal(size=shape).astype("f4")


def flops(model: str, n: int, outputs: str) -> float:
    pairs, total = n * (n + 1), 0.0  # two operations for each pair of one triangle
    for w, _ in weights(model):
        o, i = w.shape[0], int(np.prod(w.shape[1:]))
        c = 1 if "one" in model else 10
        rows = c * c if outputs == "full" else c
        total += pairs * (rows * o * i if w.ndim == 4 else rows * o + i)
    return total


def torch_model(model: str):
    import torch
    from torch import nn

    if model in SIZES:
        s = SIZES[model]
        layers = [m for i, o in itertools.pairwise(s) for m in (nn.Linear(i, o), nn.ReLU())][:-1]
    else:
        layers = [
            m
            for k, (i, o) in enumerate(itertools.pairwise(CHANNELS))
            for m in (nn.Conv2d(i, o, 3, stride=2 if k else 1, padding=1), nn.ReLU())
        ]
        layers += [nn.Flatten(), nn.Linear(64 * 49, 10)]
    module = nn.Sequential(*layers)
    for p, value in zip(
        module.parameters(), [v for pair in weights(model) for v in pair], strict=False
    ):
        p.data = torch.from_numpy(value)
    return module


def tangents(model, n, outputs):
    import torch

    from tangents.ntk import ntk

    module, x = torch_model(model), torch.from_numpy(inputs(model, n))
    params = {k: p.detach() for k, p in module.named_parameters()}
    return lambda: ntk(module, params, x, outputs=outputs).numpy()


def neural_tangents(model, n, outputs, implementation):
    import jax
    import jax.numpy as jnp
    import neural_tangents as nt
    from jax._src import source_info_util
    from jax.interpreters import ad

    ad.source_info_util, ad.config = source_info_util, jax.config  # where its release looks

    params, x = weights(model), jnp.asarray(inputs(model, n))

    def f(params, x):
        for k, (w, b) in enumerate(params):
            if w.ndim == 4:
                stride = (2, 2) if k else (1, 1)
                x = jax.lax.conv_general_dilated(x, w, stride, ((1, 1), (1, 1)))
                x = x + b[:, None, None]
            else:
                x = x.reshape(len(x), -1) @ w.T + b
            x = jax.nn.relu(x) if k + 1 < len(params) else x
        return x

    axes = () if outputs == "full" else (-1,)
    kernel = nt.empirical_ntk_fn(f, trace_axes=axes, vmap_axes=0, implementation=implementation)
    jitted = jax.jit(lambda x, params: kernel(x, None, params))
    scale = 10 if outputs == "trace" else 1  # there the trace is a mean over outputs
    return lambda: np.asarray(jitted(x, params).block_until_ready()) * scale


def nngeometry(model, n, outputs):
    import torch
    from nngeometry.generator import Jacobian
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object import PMatDense  # noqa: F401  (the package's own import order)
    from nngeometry.object.fspace import FMatDense

    module, x = torch_model(model), torch.from_numpy(inputs(model, n))
    data = torch.utils.data.TensorDataset(x, torch.zeros(n, dtype=torch.long))
    loader = torch.utils.data.DataLoader(data, batch_size=min(n, 256))
    c = 1 if "one" in model else 10
    generator = Jacobian(
        LayerCollection.from_model(module), module, function=lambda *d: module(d[0]), n_output=c
    )

    def kernel():
        full = FMatDense(generator=generator, examples=loader).get_dense_tensor()
        full = full.movedim(0, 2).detach()  # (c, n, c, n) to (n, c, ...)
        return full.reshape(n, -1) if False else full.numpy()

    return kernel


def asdl(model, n, outputs):
    import torch
    from asdl import empirical_ntk  # the trace over classes

    module, x = torch_model(model), torch.from_numpy(inputs(model, n))
    return lambda: empirical_ntk(module, x).detach().numpy()


def torch_func(model, n, outputs):
    import torch
    from torch.func import functional_call, jacrev, vmap

    module, x = torch_model(model), torch.from_numpy(inputs(model, n))
    params = {k: p.detach() for k, p in module.named_parameters()}
    shape = "Nap,Mbp->NMab" if outputs == "full" else "Nap,Map->NM"

    def one(params, xi):
        return functional_call(module, params, (xi.unsqueeze(0),)).squeeze(0)

    def kernel():
        rows = vmap(jacrev(one), (None, 0))(params, x)
        flat = [v.flatten(2) for v in rows.values()]
        return sum(torch.einsum(shape, v, v) for v in flat).numpy()

    return kernel


BUILD = {
    "tangents": tangents, "torch.func": torch_func, "nngeometry": nngeometry, "asdl": asdl,
    "neural-tangents 1": lambda *a: neural_tangents(*a, 1),
    "neural-tangents 3": lambda *a: neural_tangents(*a, 3),
}  # fmt: skip


def child(peer: str, model: str, n: int, outputs: str, answer: str) -> None:
    """Measures one peer on one case; prints a line of JSON."""
    kernel = BUILD[peer](model, n, outputs)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value = kernel()
    np.save(answer, value.reshape(-1)[:: max(1, value.size // 100_000)])
    del value
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        kernel()
        times.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": statistics.median(times), "mb": (peak - before) / 1024}))


def measure(peer: str, case: tuple, folder: str) -> dict:
    answer = Path(folder) / f"{peer}.npy"
    command = [sys.executable, __file__, "--child", peer, json.dumps([*case, str(answer)])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"note": f"more than {LIMIT} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"]
        return {"note": lines[-1][:120]}
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"answer": np.load(answer)}


def peak() -> float:
    """Operations a second of a large matrix product in single precision."""
    import torch

    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 4096**3 / statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=2, metavar=("PEER", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], *json.loads(args.child[1]))
    writer = None
    for model, n, outputs in CASES:
        top, truth = peak(), None
        with tempfile.TemporaryDirectory() as folder:
            for peer in args.peers:
                if peer in TRACE_ONLY and outputs == "full" and "one" not in model:
                    continue
                found = measure(peer, (model, n, outputs), folder)
                answer = found.pop("answer", None)
                truth = answer if truth is None else truth
                off = "" if answer is None else float(
                    np.abs(answer - truth).max() / np.abs(truth).max()
                )  # fmt: skip
                work = flops(model, n, outputs)
                seconds = found.get("seconds")
                row = {
                    "model": model, "n": n, "outputs": outputs, "peer": peer,
                    "seconds": seconds and round(seconds, 4), "mb": round(found.get("mb", 0)),
                    "deviation": off and f"{off:.1g}", "gflop": round(work / 1e9, 2),
                    "share of peak": seconds and round(work / seconds / top, 3),
                    "threads": os.cpu_count(), "note": found.get("note", ""),
                }  # fmt: skip
                if writer is None:
                    writer = csv.DictWriter(sys.stdout, row, lineterminator="\n")
                    writer.writeheader()
                writer.writerow(row)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
