"""A study without physics, for the tests of the machinery: one decaying exponential a run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from tangents.results import Claim, Experiment, Finding


@dataclass(frozen=True)
class Toy:
    width: int = 4
    scaled_alpha: float = 1.0
    seed: int = 0
    kind: str = "plain"  # "nan": diverges; "fail": raises; "short": leaves its last run out
    slow: float = 0.0  # seconds a run
    flag: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be positive, not {self.width}")


def rows(config: Toy) -> list[dict]:
    last = math.nan if config.kind == "nan" else math.exp(-config.scaled_alpha) / config.width
    found = [(0, "loss", 1.0), (1, "loss", last), (1, "converged", float(config.kind != "nan"))]
    return [
        {"step": step, "time": float(step), "split": "train", "metric": metric, "value": value}
        for step, metric, value in found
    ]


def run(configs: list[Toy], device: str):
    for index, config in enumerate(configs):
        if config.kind == "fail":
            raise RuntimeError("the toy\nwas told to fail")
        if config.kind == "short" and index == len(configs) - 1:
            return
        time.sleep(config.slow)
        yield index, rows(config), {"field": np.full((2, 2), config.seed, dtype=np.float16)}


def decays(frame, arrays) -> Finding:
    value = frame.query("metric == 'loss' and step == 1")["value"].mean()
    n_runs = frame["run_id"].nunique()
    return Finding(value, math.nan, math.inf, "supported", n_runs, accepted=(-math.inf, 0.5))


def broken(frame, arrays) -> Finding:
    raise KeyError("no such metric")


EXPERIMENT = Experiment(
    name="toy",
    version=1,
    config=Toy,
    presets={
        "smoke": [{"width": [2, 4], "seed": [0, 1]}, {"width": 4, "seed": range(3), "kind": "nan"}],
        "book": [{"width": [2, 4, 8], "seed": list(range(10)), "slow": 0.1}],
    },
    stack=("seed", "scaled_alpha"),
    run=run,
    claims=(
        Claim("toy-decays", "nobody2020", "Fig. 1", "The loss decays.", "below 1", decays),
        Claim("toy-broken", "nobody2020", "Fig. 2", "Nothing is known.", "anything", broken),
    ),
    tolerances={"*": (1e-6, 1e-9), "converged": (0.0, 0.0)},
)
