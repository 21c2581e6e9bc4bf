"""Declarations, fingerprints, the store of runs, and published tables."""

import dataclasses
import errno
import itertools
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tangents.lab import provenance as origin_of
from tangents.lab.provenance import PROVENANCE, provenance
from tangents.lab.store import (
    ResultsError,
    Store,
    measurements,
    publish,
    published,
    results_root,
    runs_root,
    seal,
)
from tangents.lab.study import ROW, Config, Study, coerce, expand, fields, fingerprint
from tests.toy import STUDY, Toy, rows

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Toy(width=8, seed=3)
LONE = dataclasses.replace(STUDY, presets={"smoke": [{"width": 8, "seed": 3}]})


def put(store, config=CONFIG, arrays=None, study=STUDY):
    arrays = {"field": np.full((2, 2), config.seed, np.float16)} if arrays is None else arrays
    return store.put(study, config, rows(config), arrays, provenance(config, "cpu", 1.5))


@dataclasses.dataclass(frozen=True)
class Older(Config):
    """The toy before it had parts."""

    width: int = 4
    scaled_alpha: float = 1.0
    seed: int = 0
    kind: str = "plain"
    slow: float = 0.0
    flag: bool = False


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# ---- the store


def test_a_run_comes_back_as_it_went_in(tmp_path):
    store, config = Store(tmp_path), Toy(kind="nan", scaled_alpha=np.inf, seed=np.int64(7))
    assert not store.has(STUDY, config)
    stored = put(store, config, {"a": np.eye(2, dtype=np.float16), "b": np.array([np.nan])})
    run = store.get(STUDY, Toy(kind="nan", scaled_alpha=np.inf, seed=7))
    assert run.run_id == stored.run_id == fingerprint(STUDY, config)
    assert store.list(STUDY) == [run.run_id]
    assert run.config == dataclasses.asdict(Toy(kind="nan", scaled_alpha=np.inf, seed=7))
    assert run.rows.keys() == ROW.keys()
    np.testing.assert_array_equal(run.rows["value"], [1.0, np.nan, 0.0])
    assert run.arrays["a"].dtype == np.float16
    np.testing.assert_array_equal(run.arrays["b"], [np.nan])
    assert run.provenance.keys() == set(PROVENANCE)
    assert run.provenance["seconds"] == 1.5
    with zipfile.ZipFile(next(tmp_path.rglob("*.npz"))) as archive:
        assert archive.namelist() == ["a.npy", "b.npy", "run.json"]


def test_rows_of_other_shape_are_refused(tmp_path):
    for bad in ([], [{"step": 1}], [{**rows(CONFIG)[0], "more": 1}]):
        with pytest.raises(ResultsError, match="step, time, split, metric, value"):
            Store(tmp_path).put(STUDY, CONFIG, bad, {}, {})
    assert not leftovers(tmp_path)


def test_a_damaged_file_is_reported_once_and_taken_as_missing(tmp_path, caplog):
    store = Store(tmp_path)
    put(store)
    path = next(tmp_path.rglob("*.npz"))
    whole = path.read_bytes()
    damages = [b"", whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)]
    for number in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[number] ^= 0xFF
        damages.append(bytes(flipped))
    undamaged = store.get(STUDY, CONFIG)
    for damage in damages:
        path.write_bytes(damage)
        caplog.clear()
        fresh = Store(tmp_path)
        run, again = fresh.get(STUDY, CONFIG), fresh.get(STUDY, CONFIG)
        if run is None:
            assert again is None
            (record,) = caplog.records
            assert str(path) in record.message and "\n" not in record.message
        else:  # some bytes of an archive (dates, attributes) carry nothing of the run
            assert run.rows == undamaged.rows and run.config == undamaged.config
            assert run.arrays.keys() == undamaged.arrays.keys()
    put(store)
    assert path.read_bytes() == whole


def test_a_file_under_another_runs_name_is_damaged(tmp_path, caplog):
    store = Store(tmp_path)
    put(store)
    os.rename(next(tmp_path.rglob("*.npz")), store.path(STUDY, Toy(seed=99)))
    assert not store.has(STUDY, Toy(seed=99))
    assert "holds run" in caplog.text


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    put(store)
    before = leftovers(tmp_path)

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match=r"cannot write .*: No space left on device") as caught:
        put(store, Toy(seed=4))
    assert "\n" not in str(caught.value)
    with pytest.raises(ResultsError, match="No space left"):
        publish(LONE, "smoke", store, tmp_path)
    assert leftovers(tmp_path) == before
    monkeypatch.undo()
    assert store.has(STUDY, CONFIG) and not store.has(STUDY, Toy(seed=4))


def test_a_write_that_the_system_cuts_off_leaves_nothing(tmp_path):
    """A real short write: the process may write no file beyond 200 bytes."""
    code = (
        "import resource, sys\n"
        "from tangents.lab.store import Store\n"
        "from tangents.lab.sweep import run_stack\n"
        "from tests.toy import STUDY, Toy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "list(run_stack(STUDY, [Toy()], Store(sys.argv[1])))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ResultsError: cannot write" in found.stderr.splitlines()[-1]
    assert not leftovers(tmp_path)


def test_only_temporary_files_of_the_dead_are_removed(tmp_path):
    store = Store(tmp_path)
    put(store)
    folder = tmp_path / STUDY.name
    old, new = folder / ".tmp-1-old", folder / ".tmp-2-new"
    for path in (old, new):
        path.write_bytes(b"half a run")
    os.utime(old, (time.time() - 7200,) * 2)
    store.clean(STUDY)
    assert not old.exists() and new.exists()
    assert len(store.list(STUDY)) == 1


def test_unreadable_stores_are_no_damage(tmp_path):
    (tmp_path / STUDY.name).write_text("a file where a folder should be")
    with pytest.raises(ResultsError, match="cannot read"):
        Store(tmp_path).get(STUDY, CONFIG)
    with pytest.raises(ResultsError, match="cannot write"):
        put(Store(tmp_path))


# ---- provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one commit, taken for the package's own."""
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-C", str(tmp_path)]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a = 1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    monkeypatch.setattr(origin_of, "REPOSITORY", tmp_path)
    origin_of.commit.cache_clear()
    yield tmp_path
    origin_of.commit.cache_clear()


def test_the_commit_is_marked_where_the_source_differs(repository):
    clean = origin_of.commit()
    assert len(clean) == 40
    (repository / "notes.txt").write_text("no source")
    origin_of.commit.cache_clear()
    assert origin_of.commit() == clean
    (repository / "src" / "b.py").write_text("b = 2\n")
    assert origin_of.commit() == clean  # remembered: what runs is what was loaded
    origin_of.commit.cache_clear()
    assert origin_of.commit() == clean + "-dirty"


def test_the_repository_is_never_locked(repository, monkeypatch):
    """A process killed while it asks git must not leave the index locked."""
    asked, plain = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda c, **k: asked.append(c) or plain(c, **k))
    origin_of.commit()
    assert asked and all("--no-optional-locks" in command for command in asked)


def test_without_a_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(origin_of, "REPOSITORY", tmp_path)
    assert origin_of.commit.__wrapped__() == "unknown"


def test_provenance_names_machine_and_versions():
    found = provenance(CONFIG, "cpu", 2)
    assert found["device"] and found["dtype"] == "unstated" and found["seconds"] == 2.0
    for name in ("python", "torch", "numpy", "tangents"):
        assert name in found["versions"]


# ---- published tables


@pytest.fixture
def full_store(tmp_path):
    store = Store(tmp_path / "runs")
    for config in expand(STUDY, "smoke"):
        put(store, config)
    return store


def test_a_published_table_is_tidy_and_complete(full_store, tmp_path, monkeypatch):
    path = publish(STUDY, "smoke", full_store, tmp_path / "out")
    frame, arrays = published("toy", "smoke", tmp_path / "out")
    assert path == tmp_path / "out" / "toy-smoke.parquet"
    assert list(frame) == ["run_id", *fields(Toy), *ROW, *PROVENANCE]
    assert len(frame) == 3 * 7 and frame["run_id"].nunique() == 7
    assert frame["width"].dtype == np.int64 and frame["flag"].dtype == bool
    assert frame["value"].isna().sum() == 3  # diverged runs are rows too
    diverged = frame[frame["kind"] == "nan"]
    assert (diverged.query("metric == 'converged'")["value"] == 0).all()
    for run_id, group in frame.groupby("run_id"):
        config = coerce(Toy, group[list(fields(Toy))].iloc[0].to_dict())
        assert fingerprint(STUDY, config) == run_id
        assert arrays[f"{run_id}/field"].dtype == np.float16
        assert (arrays[f"{run_id}/field"] == config.seed).all()
    monkeypatch.setenv("TANGENTS_RESULTS", str(tmp_path / "out"))
    pd.testing.assert_frame_equal(published("toy", "smoke")[0], frame)


def test_the_same_runs_give_the_same_bytes(full_store, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    publish(STUDY, "smoke", full_store, one)
    shuffled = Store(tmp_path / "again")
    for config in reversed(expand(STUDY, "smoke")):
        run = full_store.get(STUDY, config)
        columns = zip(*run.rows.values(), strict=True)
        backwards = [dict(zip(run.rows, row, strict=True)) for row in columns]
        shuffled.put(STUDY, config, backwards[::-1], run.arrays, run.provenance)
    publish(STUDY, "smoke", shuffled, other)
    for name in ("toy-smoke.parquet", "toy-smoke.npz"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_full_disk_leaves_the_former_table(full_store, tmp_path, monkeypatch):
    path = publish(STUDY, "smoke", full_store, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    for config in expand(STUDY, "smoke"):
        put(full_store, config, arrays={"field": np.ones(1)})
    calls, sync = itertools.count(), os.fsync

    def full(number):
        if next(calls):  # of the second file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left"):
        publish(STUDY, "smoke", full_store, path.parent)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_missing_runs_are_counted_and_refused(full_store, tmp_path):
    for path in sorted((full_store.root / "toy").glob("*.npz"))[:2]:
        path.unlink()
    with pytest.raises(ResultsError, match="2 of 7 runs are missing"):
        publish(STUDY, "smoke", full_store, tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
    publish(STUDY, "smoke", full_store, tmp_path, partial=True)
    assert published("toy", "smoke", tmp_path)[0]["run_id"].nunique() == 5
    with pytest.raises(ResultsError, match="7 of 7"):
        publish(STUDY, "smoke", Store(tmp_path / "empty"), tmp_path, partial=True)


def test_arrays_that_are_gone_are_not_left_published(full_store, tmp_path):
    publish(STUDY, "smoke", full_store, tmp_path)
    for config in expand(STUDY, "smoke"):
        put(full_store, config, arrays={})
    publish(STUDY, "smoke", full_store, tmp_path)
    assert published("toy", "smoke", tmp_path)[1] == {}
    assert not (tmp_path / "toy-smoke.npz").exists()


def test_a_table_that_is_not_there_or_damaged_is_one_line(full_store, tmp_path):
    with pytest.raises(ResultsError, match="toy, preset smoke, is not published"):
        published("toy", "smoke", tmp_path)
    path = publish(STUDY, "smoke", full_store, tmp_path)
    arrays = path.with_suffix(".npz")
    whole = arrays.read_bytes()
    flipped = bytearray(whole)
    flipped[100] ^= 0xFF
    for damage in (b"", whole[:-20], bytes(flipped)):
        arrays.write_bytes(damage)
        with pytest.raises(ResultsError, match="cannot read"):
            published("toy", "smoke", tmp_path)
    arrays.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResultsError, match="cannot read"):
        published("toy", "smoke", tmp_path)


def test_a_published_run_costs_few_bytes(tmp_path):
    """Long tables repeat their config: the columns of a run must cost next to nothing."""
    presets = {"book": [{"seed": range(20), "width": [2, 4]}]}
    study = Study("toy", 1, Toy, presets, ("seed",), STUDY.run)
    store = Store(tmp_path)
    many = [{**row, "step": step} for step in range(100) for row in rows(CONFIG)]
    for config in expand(study, "book"):
        store.put(study, config, many, {}, provenance(config, "cpu", 1.0))
    path = publish(study, "book", store, tmp_path)
    assert path.stat().st_size < 2 * 40 * 300


def test_files_that_do_not_belong_together_are_noticed(full_store, tmp_path):
    path = publish(STUDY, "smoke", full_store, tmp_path)
    table, sums = path.read_bytes(), path.with_suffix(".sha256").read_bytes()
    for config in expand(STUDY, "smoke"):
        put(full_store, config, arrays={"field": np.ones(1)})
    publish(STUDY, "smoke", full_store, tmp_path)
    published("toy", "smoke", tmp_path)
    path.with_suffix(".sha256").write_bytes(sums)  # as if the publication had stopped before it
    with pytest.raises(ResultsError, match="not what its checksums say: publish again"):
        published("toy", "smoke", tmp_path)
    path.write_bytes(table)
    with pytest.raises(ResultsError, match="publish again"):
        published("toy", "smoke", tmp_path)
    path.with_suffix(".sha256").unlink()
    with pytest.raises(ResultsError, match=r"cannot read .*toy-smoke\.parquet"):
        published("toy", "smoke", tmp_path)


def test_a_flipped_bit_is_no_other_number(full_store, tmp_path):
    path = publish(STUDY, "smoke", full_store, tmp_path)
    for file in (path, path.with_suffix(".npz"), path.with_suffix(".sha256")):
        whole = file.read_bytes()
        for number in range(0, len(whole), 37):
            flipped = bytearray(whole)
            flipped[number] ^= 0x10
            file.write_bytes(bytes(flipped))
            with pytest.raises(ResultsError):
                published("toy", "smoke", tmp_path)
        file.write_bytes(whole)
    published("toy", "smoke", tmp_path)


def test_a_table_of_measurements_is_what_its_checksum_says(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("device,seconds\ncard,5\n")
    with pytest.raises(ResultsError, match=r"table\.sha256"):
        measurements("table.csv", tmp_path)
    seal(path)
    assert measurements("table.csv", tmp_path).to_numpy().tolist() == [["card", 5]]
    path.write_text("device,seconds\ncard,4\n")
    with pytest.raises(ResultsError, match="not what its checksum says"):
        measurements("table.csv", tmp_path)
    with pytest.raises(ResultsError, match=r"cannot read .*none\.csv"):
        measurements("none.csv", tmp_path)


MEASURED = sorted(path.name for path in (ROOT / "data" / "results").glob("b*.csv"))


@pytest.mark.parametrize("name", MEASURED)
def test_committed_measurements_are_what_their_checksums_say(name):
    assert len(measurements(name, ROOT / "data" / "results"))


def test_an_installed_package_writes_to_the_users_cache(tmp_path, monkeypatch):
    for name in ("TANGENTS_RUNS", "TANGENTS_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    assert runs_root() == ROOT / "data" / "runs"
    monkeypatch.setattr(origin_of, "REPOSITORY", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert runs_root().name == "runs" and not runs_root().is_relative_to(ROOT)
    assert results_root().parent == runs_root().parent


def test_a_run_from_before_a_field_came_has_it_at_its_default(tmp_path, caplog):
    store, older = Store(tmp_path), dataclasses.replace(STUDY, config=Older)
    put(store, Older(width=8, seed=3), study=older)
    put(store, Toy(width=8, seed=4))
    run = store.get(STUDY, CONFIG)
    assert run.config == dataclasses.asdict(CONFIG) and "part" in run.config
    both = dataclasses.replace(STUDY, presets={"smoke": [{"width": 8, "seed": [3, 4]}]})
    publish(both, "smoke", store, tmp_path)
    assert (published("toy", "smoke", tmp_path)[0]["part"] == "all").all() and not caplog.text


def width(record):
    record["config"]["width"] = 9


def narrow(record):
    del record["config"]["width"]


def short(record):
    record["rows"] = {name: column[1:] for name, column in record["rows"].items()}


def ragged(record):
    record["rows"]["value"].pop()


def bare(record):
    record["rows"] = {name: [] for name in record["rows"]}


def lacking(record):
    del record["rows"]["time"]


def better(record):
    record["rows"]["value"][0] = 0.5


def repacked(path, change, lost=(), sealed=True):
    """The run's file with another record, or without some members; all its checks made anew."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name not in lost}
    record = json.loads(members["run.json"])
    change(record)
    if not sealed:
        del record["sha256"]
    members["run.json"] = json.dumps(record).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("change", [width, narrow, short, ragged, bare, lacking, better])
def test_a_run_that_was_altered_is_damaged(tmp_path, caplog, change):
    store = Store(tmp_path)
    put(store)
    repacked(store.path(STUDY, CONFIG), change)
    assert not store.has(STUDY, CONFIG) and "damaged run file" in caplog.text


def test_a_run_without_its_arrays_is_damaged(tmp_path):
    store = Store(tmp_path)
    put(store)
    repacked(store.path(STUDY, CONFIG), lambda record: None)
    assert store.has(STUDY, CONFIG)
    repacked(store.path(STUDY, CONFIG), lambda record: None, lost=["field.npy"])
    assert not store.has(STUDY, CONFIG)


def test_a_run_from_before_the_checksum_is_held_to_its_config(tmp_path, caplog):
    store = Store(tmp_path)
    put(store)
    repacked(store.path(STUDY, CONFIG), lambda record: None, sealed=False)
    assert store.has(STUDY, CONFIG)
    reasons = {width: "another config: width=9", narrow: "lacks the field 'width'"}
    for change, reason in {**reasons, ragged: "not whole", bare: "not whole"}.items():
        put(store)
        repacked(store.path(STUDY, CONFIG), change, sealed=False)
        caplog.clear()
        assert not Store(tmp_path).has(STUDY, CONFIG) and reason in caplog.text
