"""The loader of series. The real archives are never used: a small one stands in their place."""

import hashlib
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from tangents.__main__ import main
from tangents.data import series, sets, sources
from tangents.data.series import COLLECTIONS, SERIES, Entry, load_series
from tangents.data.sources import DataError

TRAIN = "2\t0.5\t1.5\tNaN\n-1\t1.0\tNaN\t3.0\n"
TEST = "-1\t7.0\t8.0\t9.0\n"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A collection of one set, which comes by hand; gives the path of its archive."""
    monkeypatch.setenv("TANGENTS_DATA", str(tmp_path / "raw"))
    raw = {"Small_TRAIN.tsv": TRAIN, "Small_TEST.tsv": TEST}
    files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in raw.items()}
    way = sources.by_hand("small*.zip", sources.unzip)
    row = replace(COLLECTIONS["ucr-g-z"], files=files, sources=(way,))
    monkeypatch.setitem(COLLECTIONS, "ucr-g-z", row)
    monkeypatch.setitem(SERIES, "Small", Entry("ucr-g-z", 2, 1, 3, 2, files))
    path = tmp_path / "small-1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in raw.items():
            archive.writestr(f"folder/{name}", text)
            archive.writestr(f"other/folder/{name}", text + text)
    load_series.cache_clear()
    yield path
    load_series.cache_clear()


def test_padding_and_gaps(small):
    sets.fetch("ucr-g-z", small)
    found = load_series("Small")
    assert found.x.tolist() == [[0.5, 1.5, 0], [1, 2, 3], [7, 8, 9]]
    assert found.lengths.tolist() == [2, 3, 3] and found.train == 2
    assert found.y.tolist() == [1, 0, 0]


def test_an_archive_is_taken_from_where_it_is(small, capsys):
    assert main(["data", "ucr-g-z", "--from", str(small)]) == 0
    assert small.is_file() and sources.state(COLLECTIONS["ucr-g-z"]) == "verified"
    names = {p.name for p in sources.folder_of(COLLECTIONS["ucr-g-z"]).iterdir()}
    assert names == {"Small_TRAIN.tsv", "Small_TEST.tsv"}
    capsys.readouterr()
    assert main(["data"]) == 0 and "ucr-g-z" in capsys.readouterr().out


def test_what_no_package_has_says_how_it_is_had(small):
    with pytest.raises(DataError, match="no package has it: tangents data NAME --from FILE"):
        load_series("Small")


def test_archives_that_are_none_are_refused(small, tmp_path):
    other, damaged, missing = (tmp_path / n for n in ("other.zip", "small-2.zip", "small-3.zip"))
    other.write_bytes(b"")
    damaged.write_bytes(b"no zip")
    for path, message in ((other, "no archive of ucr-g-z: accepted are small"),
                          (damaged, "not a zip file"), (missing, "no such file")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            sets.fetch("ucr-g-z", path)
    with zipfile.ZipFile(damaged, "w") as archive:
        archive.writestr("Small_TRAIN.tsv", TRAIN)
        archive.writestr("Small_TEST.tsv", TEST + TEST)
    with pytest.raises(DataError, match=r"Small_TEST\.tsv damaged: sha256"):
        sets.fetch("ucr-g-z", damaged)
    assert sources.state(COLLECTIONS["ucr-g-z"]) == "missing"


def test_from_is_of_one_data_set(small, capsys):
    assert main(["data", "--from", str(small)]) == 2
    assert main(["data", "mnist", "digits", "--from", str(small)]) == 2
    assert "--from needs the one data set" in capsys.readouterr().err


def test_an_unknown_series():
    with pytest.raises(DataError, match="unknown series 'GunPiont': accepted are ACSF1, Adiac"):
        load_series("GunPiont")


def test_the_table_of_the_archive():
    assert len(SERIES) == 107 and {e.collection for e in SERIES.values()} == COLLECTIONS.keys()
    assert all(min(e.train, e.test, e.length, e.classes) > 1 for e in SERIES.values())
    sums = [s for e in SERIES.values() for s in e.sha256.values()]
    assert all(len(s) == 64 for s in sums) and len(sums) == 214


def test_a_gap_at_the_start_has_the_first_value():
    x, lengths = series._filled(np.array([[np.nan, 2.0, np.nan, 4.0, np.nan]]))
    assert x.tolist() == [[2, 2, 3, 4, 0]] and lengths.tolist() == [4]
