"""What travels to a machine with a GPU and back."""

import argparse
import gzip
import tarfile

import gpu
import numpy as np
import pytest


def test_runs_are_bundled_below_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LIMIT", 5000)
    folder, out = tmp_path / "toy", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for k in range(5):
        (folder / f"{k:016x}.npz").write_bytes(bytes([k]) * 1000)
    (folder / ".tmp-1").write_bytes(b"half written")
    (out / "toy-9.tar").write_bytes(b"of an earlier time")
    gpu.bundle(folder, out, "toy")
    bundles = sorted(out.glob("*.tar"))
    assert [path.name for path in bundles] == ["toy-1.tar", "toy-2.tar", "toy-3.tar"]
    names = []
    for path in bundles:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert names == [f"toy/{k:016x}.npz" for k in range(5)]


def test_raw_data_are_unpacked_once(tmp_path):
    (tmp_path / "packed" / "mnist").mkdir(parents=True)
    file = tmp_path / "packed" / "mnist" / "images.gz"
    file.write_bytes(gzip.compress(b"raw"))
    gpu.unpack(tmp_path / "packed", tmp_path / "raw")
    assert (tmp_path / "raw" / "mnist" / "images").read_bytes() == b"raw"
    file.write_bytes(gzip.compress(b"other"))
    gpu.unpack(tmp_path / "packed", tmp_path / "raw")
    assert (tmp_path / "raw" / "mnist" / "images").read_bytes() == b"raw"


def test_a_command_says_what_became_of_it(tmp_path):
    log = tmp_path / "log"
    assert gpu.command(["-c", "print('here')"], 60, log) == "done" and log.read_text() == "here\n"
    assert gpu.command(["-c", "raise SystemExit(3)"], 60, log) == "failed (3)"
    assert gpu.command(["-c", "import time; time.sleep(60)"], 0.5, log) == "stopped at the limit"


def test_photographs_come_back_to_the_byte(tmp_path):
    content = np.random.default_rng(0).integers(256, size=200 * 3073, dtype=np.uint8).tobytes()
    for name, part in gpu.shrunk("batch.bin", content).items():
        (tmp_path / name).write_bytes(part)
    gpu.unpack(tmp_path, tmp_path / "raw")
    assert (tmp_path / "raw" / "batch.bin").read_bytes() == content


@pytest.mark.parametrize("study, fields, _", gpu.RUNS)
def test_what_is_run_is_declared(study, fields, _):
    from tangents import studies
    from tangents.lab.study import expand

    assert expand(studies.find(study), "paper", only=fields.items())


def test_rows_of_a_device_replace_its_own(tmp_path):
    there, out = tmp_path / "results", tmp_path / "out"
    there.mkdir()
    out.mkdir()
    known = there / "benchmark-recurrent.csv"
    known.write_text("device,seconds\ncard,5\nprocessor,7\n")
    (out / "recurrent.csv").write_text("device,seconds\ncard,4\n")
    gpu.merge(argparse.Namespace(out=out, results=there, store=tmp_path, preset="paper"))
    assert known.read_text() == "device,seconds\nprocessor,7\ncard,4\n"
