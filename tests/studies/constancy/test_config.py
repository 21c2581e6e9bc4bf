"""What the chapter says of sizes is what the config declares."""

import json
from pathlib import Path

from tangents.lab.study import expand
from tangents.studies.constancy import STUDY
from tangents.studies.constancy.config import SEEDS

ROOT = Path(__file__).resolve().parents[3]
CELLS = json.loads((ROOT / "book" / "constancy.ipynb").read_text())["cells"]
CAPTIONS = [cell["metadata"]["mystnb"]["figure"]["caption"] for cell in CELLS
            if "mystnb" in cell["metadata"]]  # fmt: skip
TEXT = " ".join("".join(cell["source"]) for cell in CELLS)
WORDS = {1: "one", 6: "six", 8: "eight", 10: "ten", 12: "twelve"}


def ends(part: str, field: str, **where) -> str:
    """The least and the largest value of a field in a part of the book's runs, in words."""
    runs = [c for c in expand(STUDY, "book") if c.part == part]
    values = {getattr(c, field) for c in runs if all(getattr(c, k) == v for k, v in where.items())}
    return f"{min(values)} to {max(values)}"


def test_seeds_and_sizes_are_those_of_the_config():
    told = [caption for caption in CAPTIONS if " seeds" in caption]
    assert len(told) > 5 and all(
        f"{WORDS[len(SEEDS)]} seeds" in caption or "over seeds" in caption for caption in told
    )
    assert f"seeds, {SEEDS[0]} to {SEEDS[-1]}, were run" in TEXT
    for words in (
        f"one hidden layer of {ends('head', 'width', depth=1)} units",
        f"or three of {ends('head', 'width', depth=3)};",
        f"the middle one of {ends('bottleneck', 'bottleneck')} units, "
        f"the others of {ends('bottleneck', 'width')}",
        f"three hidden layers of {ends('mnist', 'width', bottleneck=0)} units",
        f"convolutional networks of {ends('conv', 'width')} channels",
    ):
        assert words in TEXT + " ".join(CAPTIONS), words
