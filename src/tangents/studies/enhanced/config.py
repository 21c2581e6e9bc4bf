"""The tables and methods of the chapter on recurrent kernels beyond time series."""

from dataclasses import dataclass
from typing import Literal

from tangents.data.uci import TABLES
from tangents.lab.study import Config, Count, Whole

RECURRENT = ["rntk", "bi", "avg", "bi-avg"]
OTHERS = ["ntk", "rbf", "polynomial", "forest", "linear", "neighbours"]
Method = Literal[
    "rntk", "bi", "avg", "bi-avg", "all",
    "ntk", "rbf", "polynomial", "forest", "linear", "neighbours",
]  # fmt: skip


@dataclass(frozen=True)
class Enhanced(Config):
    """One method of classification on one table, its settings chosen in three ways.

    Recurrent kernels read an example as a series, one attribute a step: forwards (rntk), in both
    directions (bi), all their states (avg), or both (bi-avg); all: chosen among these four.
    """

    part: str = "tables"  # which part of the chapter the run belongs to
    source: Literal["uci", "sklearn"] = "uci"  # of the table, and of its splits: uci's, or drawn
    dataset: str = "wine"  # name of the table
    method: Method = "rntk"  # of classification
    n: Whole = 0  # examples that are drawn where the source is sklearn; 0: all
    trees: Count = 200  # of the forest
    shuffled: bool = False  # classes given to the wrong examples: a control
    mixed: bool = False  # columns in another order
    seed: int = 0  # of both, of the forest and of what is drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "uci" and self.dataset not in TABLES:
            raise ValueError(f"dataset must be one of the {len(TABLES)} tables of UCI, got "
                             f"{self.dataset!r}")  # fmt: skip
        if self.source == "uci" and self.n:
            raise ValueError("n must be 0 for tables of UCI, whose splits are of all examples")


KNOWN = sorted(name for name, entry in TABLES.items() if entry.chosen)
SMALL = [name for name in KNOWN if TABLES[name].n <= 1000]
FEW = [name for name in KNOWN if TABLES[name].n <= 250]
EVERY = [*RECURRENT, "all", *OTHERS]
CONTROL = dict(part="shuffled", shuffled=True, method=["rntk", "rbf"])
MIXED = dict(part="mixed", mixed=True, method="rntk")
TINY = dict(source="sklearn", dataset=["wine", "breast-cancer"], n=24, trees=5)

PRESETS = {
    "smoke": [dict(method=EVERY, **TINY), dict(TINY | CONTROL | dict(dataset="wine"))],
    "book": [
        dict(dataset=SMALL, method=EVERY),
        dict(dataset=SMALL, **MIXED),
        dict(dataset=FEW, **CONTROL),
    ],
    "paper": [
        dict(dataset=KNOWN, method=EVERY, trees=500),
        dict(dataset=KNOWN, **MIXED),
        dict(dataset=KNOWN, **CONTROL),
    ],
}
