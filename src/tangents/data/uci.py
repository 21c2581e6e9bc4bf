"""Tables of the UCI collection, with the splits of Fernández-Delgado et al. (2014).

117 of its 121 sets are known, with their checksums, in `uci.csv`; they come from a file that a user
has. Attributes are numbers, standardised by the authors over all examples.
"""

import csv
import functools
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tangents.data import sources
from tangents.data.sources import DataError, Dataset

# An array of the archive is named SET/ARRAY; a raw file holds those of a set in this order.
_SPLITS = [f"{of}_{part}" for of, part in [("tune", "train"), ("tune", "val")]] + [
    f"cv{k}_{part}" for k in range(1, 5) for part in ("train", "test")
]
_DTYPES = {"X": "<f4", "y": "<u1"} | dict.fromkeys(_SPLITS, "<u4")


@dataclass(frozen=True)
class Entry:
    """What the table says of a set: how large it is, and whether Arora et al. (2020) used it."""

    n: int  # examples
    d: int  # attributes
    classes: int
    test: int  # examples of a separate test file, the last ones, of which no split knows
    chosen: bool  # one of their 90, which have no test file and at most 5000 examples
    sha256: str


def _entry(row: dict[str, str]) -> Entry:
    sizes = (int(row[name]) for name in ("n", "d", "classes", "test"))
    return Entry(*sizes, row["chosen"] == "1", row["sha256"])


def _table() -> dict[str, Entry]:
    with open(Path(__file__).with_name("uci.csv"), newline="") as file:
        return {row["name"]: _entry(row) for row in csv.DictReader(file)}


def unpack(folder: Path) -> dict[str, bytes]:
    """The raw files in the one archive in `folder`: arrays as numpy writes them, one by one."""
    (path,) = folder.glob("*.npz")
    raw = {}
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > sources.LARGEST_SET:
            raise DataError(f"{path.name} has more than {sources.LARGEST_SET} bytes")
    with np.load(path, allow_pickle=False) as archive:
        for name in sorted({key.partition("/")[0] for key in archive.files}):
            content = io.BytesIO()
            for key, dtype in _DTYPES.items():
                np.save(content, archive[f"{name}/{key}"].astype(dtype), allow_pickle=False)
            raw[f"{name}.arrays"] = content.getvalue()
    return raw


TABLES = _table()
COLLECTIONS = {
    "uci": Dataset(
        "uci", None, "each set's own: cite UCI and Fernández-Delgado et al. (2014)",
        files={f"{name}.arrays": entry.sha256 for name, entry in TABLES.items()},
        sources=(sources.by_hand("uci_fd117.npz", unpack),),
    )
}  # fmt: skip


class Split(NamedTuple):
    """Which examples are for training, and which for testing."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Attributes x (n, d) and classes y (n,) from 0, with the published splits.

    The four `folds` are random draws of a quarter for testing, which overlap; `tuning` halves all
    examples, those of the folds' test parts among them.
    """

    x: np.ndarray
    y: np.ndarray
    tuning: Split
    folds: tuple[Split, ...]


@functools.lru_cache(maxsize=4)
def load_examples(name: str) -> Examples:
    """One of `TABLES`. Raises DataError for another name, and where the collection is not here."""
    if name not in TABLES:
        raise DataError(f"unknown table {name!r}: accepted are {sources.listed(TABLES)}")
    folder = sources.obtain(COLLECTIONS["uci"])
    with open(folder / f"{name}.arrays", "rb") as file:
        x, y, *splits = (np.load(file, allow_pickle=False) for _ in _DTYPES)
    tuning, *folds = (
        Split(*(part.astype(np.int64) for part in pair))
        for pair in zip(splits[::2], splits[1::2], strict=True)
    )
    return Examples(x.astype(np.float64), y.astype(np.int64), tuning, tuple(folds))
