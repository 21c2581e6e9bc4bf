"""The loader of UCI tables. The real archive is never used: a small one stands in its place."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest

from tangents.__main__ import main
from tangents.data import sets, sources, uci
from tangents.data.sources import DataError
from tangents.data.uci import COLLECTIONS, TABLES, Entry, load_examples

SPLITS = ["tune_train", "tune_val"]
SPLITS += [f"cv{k}_{part}" for k in range(1, 5) for part in ("train", "test")]


def arrays(**change):
    """Of the set "small"; the splits are told apart by their first index."""
    found = {"X": np.arange(12, dtype=np.float32).reshape(6, 2) / 4,
             "y": np.array([0, 1, 0, 1, 2, 1], np.uint8)}  # fmt: skip
    found |= {name: np.array([k % 6, 5], np.uint16) for k, name in enumerate(SPLITS)}
    return {f"small/{name}": value for name, value in (found | change).items()}


def digest(found):
    """Of the bytes that numpy writes, array by array, in fixed types."""
    content = io.BytesIO()
    types = {"X": np.float32, "y": np.uint8}
    for name in ("X", "y", *SPLITS):
        np.save(content, found[f"small/{name}"].astype(types.get(name, np.uint32)))
    return hashlib.sha256(content.getvalue()).hexdigest()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A collection of one set; gives the path of its archive."""
    monkeypatch.setenv("TANGENTS_DATA", str(tmp_path / "raw"))
    sha256 = digest(arrays())
    row = replace(COLLECTIONS["uci"], files={"small.arrays": sha256})
    monkeypatch.setitem(COLLECTIONS, "uci", row)
    monkeypatch.setitem(TABLES, "small", Entry(6, 2, 3, 0, True, sha256))
    path = tmp_path / "uci_fd117.npz"
    np.savez_compressed(path, **arrays())
    load_examples.cache_clear()
    yield path
    load_examples.cache_clear()


def test_tables_come_with_their_splits(small, capsys):
    assert main(["data", "uci", "--from", str(small)]) == 0
    assert small.is_file() and sources.state(COLLECTIONS["uci"]) == "verified"
    found = load_examples("small")
    assert found.x.dtype == np.float64 and np.array_equal(found.x, arrays()["small/X"])
    assert found.y.tolist() == [0, 1, 0, 1, 2, 1]
    assert [part[0] for part in found.tuning] == [0, 1] and len(found.folds) == 4
    assert [part[0] for fold in found.folds for part in fold] == [2, 3, 4, 5, 0, 1, 2, 3]
    capsys.readouterr()
    assert main(["data"]) == 0 and "uci" in capsys.readouterr().out


def test_arrays_of_another_type_are_the_same(small):
    wide = {name: value.astype(np.int64) if value.dtype == np.uint16 else value
            for name, value in arrays().items()}  # fmt: skip
    np.savez(small, **wide)
    sets.fetch("uci", small)
    assert load_examples("small").y.tolist() == [0, 1, 0, 1, 2, 1]


@pytest.mark.parametrize("name, changed", [
    ("X", np.zeros((6, 2), np.float32)), ("cv4_test", np.array([0, 1], np.uint16)),
    ("y", np.array([None] * 6)),
])  # fmt: skip
def test_archives_that_are_none_are_refused(small, name, changed):
    np.savez(small, **arrays(**{name: changed}))
    words = "Object arrays cannot be loaded" if name == "y" else "damaged: sha256"
    with pytest.raises(DataError, match=words):
        sets.fetch("uci", small)
    assert sources.state(COLLECTIONS["uci"]) == "missing"


def test_an_archive_without_an_array_is_refused(small):
    found = arrays()
    del found["small/cv2_train"]
    np.savez(small, **found)
    with pytest.raises(DataError, match="small/cv2_train"):
        sets.fetch("uci", small)


def test_what_no_package_has_says_how_it_is_had(small):
    with pytest.raises(DataError, match="no package has it: tangents data NAME --from FILE"):
        load_examples("small")


def test_an_unknown_table():
    with pytest.raises(DataError, match="unknown table 'whine': accepted are abalone, acute-"):
        load_examples("whine")


def test_the_table_of_the_collection():
    assert len(TABLES) == 117 and sum(entry.chosen for entry in TABLES.values()) == 90
    assert all(e.chosen == (e.test == 0 and e.n <= 5000) for e in TABLES.values())
    assert all(min(e.n, e.d, e.classes) > 1 for e in TABLES.values())
    assert len({e.sha256 for e in TABLES.values()}) == 117
    assert {len(e.sha256) for e in TABLES.values()} == {64}
    assert uci.COLLECTIONS["uci"].files.keys() == {f"{name}.arrays" for name in TABLES}
