"""What it costs to ask how lazy a training was: in milliseconds, and in steps of SGD on the batch.

`python benchmarks/laziness.py` writes data/results/benchmark-laziness.csv: the best of several
turns, of one thread. `--large P` instead measures a network of about P parameters once, and tells
how much memory that took.
"""

import argparse
import resource
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from tangents.functional import call, linearise
from tangents.lab.store import seal
from tangents.measure import measure

OUT = Path(__file__).resolve().parents[1] / "data" / "results" / "benchmark-laziness.csv"


class Tokens(nn.Module):
    """Two blocks of causal attention that give (n, T, V)."""

    def __init__(self, words: int = 256, length: int = 16, width: int = 64):
        super().__init__()
        self.words, self.place = nn.Embedding(words, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, words)
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self.head(self.blocks(self.words(x) + self.place.weight, mask=self.mask))


def mlp(width: int, depth: int = 2, c: int = 10) -> nn.Module:
    layers = [nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, c))


def convnet() -> nn.Module:
    layers = [nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 2),
              nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 128, 3, 2), nn.ReLU()]  # fmt: skip
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def cases():
    """Name, network, inputs, sums of outputs."""
    yield "MLP 256 x 2", mlp(256), torch.randn(100, 64), None
    yield "MLP 1000 x 2", mlp(1000), torch.randn(100, 64), None
    yield "ConvNet, batch norm", convnet(), torch.randn(100, 1, 28, 28), None
    yield "GPT-like, 4096 outputs", Tokens(), torch.randint(256, (100, 16)), 16


def moved(module: nn.Module) -> tuple[dict, dict]:
    before = {k: v.detach() for k, v in module.named_parameters()}
    return before, {k: v + 0.1 * v.std() * torch.randn_like(v) for k, v in before.items()}


def step(module: nn.Module, x: torch.Tensor) -> None:
    """One of SGD, at a rate that moves nothing."""
    optimiser = torch.optim.SGD(module.parameters(), 1e-12)
    f = module(x).flatten(0, -2)
    F.cross_entropy(f, f.argmax(-1)).backward()
    optimiser.step()


def change(module: nn.Module, before: dict, after: dict, x: torch.Tensor) -> float:
    """R alone."""
    with torch.no_grad():
        f0, f1 = (call(module, p, x) for p in (before, after))
        return ((f1 - linearise(module, before)(after, x)).norm() / (f1 - f0).norm()).item()


def seconds(compute) -> float:
    start = time.process_time()
    compute()
    return time.process_time() - start


def row(name: str, module: nn.Module, x: torch.Tensor, sums: int | None, turns: int) -> dict:
    module.eval()
    before, after = moved(module)
    y = torch.arange(len(x)) % 10
    timed = {
        "step_ms": lambda: step(module, x),
        "R_ms": lambda: change(module, before, after, x),
        "measure_ms": lambda: measure(module, before, after, x, y, sums=sums),
    }
    best = {k: 1e3 * min(seconds(body) for _ in range(turns)) for k, body in timed.items()}
    size = sum(p.numel() for p in module.parameters())
    return dict(network=name, parameters=size, examples=len(x), sums=sums, **best,
                R_steps=best["R_ms"] / best["step_ms"],
                measure_steps=best["measure_ms"] / best["step_ms"])  # fmt: skip


def large(parameters: int) -> str:
    module = mlp(int((parameters / 2) ** 0.5), 3).eval()
    before, after = moved(module)
    size = sum(p.numel() for p in module.parameters())
    start = time.process_time()
    found = measure(module, before, after, torch.randn(40, 64), budget=2**28)
    took = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    share = found["nonlinear"]
    return (f"{size / 1e6:.0f} million parameters, 40 examples: R = {share}; {took:.0f} s; the "
            f"process took {peak / 1e9:.2f} GB at most, the weights before and after "
            f"{8 * size / 1e9:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--large", type=float, metavar="P")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.large:
        print(large(int(args.large)))
        return
    rows = [row(*case, args.turns) for case in tqdm(cases(), disable=None)]
    table = pd.DataFrame(rows).round(2)
    table.to_csv(OUT, index=False)
    seal(OUT)
    print(table.to_string())


if __name__ == "__main__":
    main()
