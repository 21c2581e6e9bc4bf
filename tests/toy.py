"""A study without physics, for the tests of the machinery: one decaying exponential a run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from tangents.lab.claims import claim, claims_in
from tangents.lab.evidence import Accept, Estimate, Table
from tangents.lab.study import LATER, Config, Count, Study


@dataclass(frozen=True)
class Toy(Config):
    width: Count = 4  # units, of which there are none
    scaled_alpha: float = 1.0
    seed: int = 0
    kind: str = "plain"  # "nan": diverges; "fail": raises; "short": leaves its last run out
    slow: float = 0.0  # seconds a run
    flag: bool = False
    part: Annotated[str, LATER] = "all"


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


@claim("toy-decays", "nobody2020", "Fig. 1", Accept("below 1", -math.inf, 0.5))
def decays(t: Table) -> Estimate:
    """The loss decays."""
    runs = t.every("loss")
    late = runs.rows[runs["step"] == 1]["value"].mean()
    return Estimate(late, -math.inf, late, 2, runs.runs)


@claim("toy-broken", "nobody2020", "Fig. 2", Accept("anything", -math.inf, math.inf))
def broken(t: Table) -> Estimate:
    """Nothing is known."""
    raise KeyError("no such metric")


STUDY = Study(
    name="toy",
    version=1,
    config=Toy,
    presets={
        "smoke": [{"width": [2, 4], "seed": [0, 1]}, {"width": 4, "seed": range(3), "kind": "nan"}],
        "book": [{"width": [2, 4, 8], "seed": list(range(10))}],
    },
    stack=("seed", "scaled_alpha"),
    run=run,
    claims=claims_in(globals()),
    tolerances={"*": (1e-6, 1e-9), "converged": (0.0, 0.0)},
)
