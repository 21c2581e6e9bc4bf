"""Tasks made of real data sets.

`parity` is the task of Geiger et al. (arXiv:1906.08034), `pair` tells one class from another, and
`classes` all of them; `image_columns` makes series of images.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from tangents.data.series import Series
from tangents.data.sets import DATASETS, load, load_table
from tangents.data.sources import DataError


@dataclass(frozen=True, eq=False)
class Task:
    """Training examples x (n, ...) and y, test examples x_test (m, ...) and y_test.

    y is (n,) with labels -1 and +1, or (n, c), one-hot, of c classes.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Task":
        """The same task on another device, in another dtype, or both."""
        parts = self.x, self.y, self.x_test, self.y_test
        return Task(*(part.to(device=device, dtype=dtype) for part in parts))


def _balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices, shuffled within each class, one of each class in turn, while each has one left."""
    generator = torch.Generator().manual_seed(int(seed))
    classes = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    shuffled = [c[torch.randperm(len(c), generator=generator).numpy()] for c in classes]
    smallest = min(map(len, classes))
    return np.stack([c[:smallest] for c in shuffled], axis=1).ravel()


def _pixels(images: np.ndarray) -> np.ndarray:
    """uint8 (n, d), colour planes one after the other."""
    planes = images if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return planes.reshape(len(images), -1)


@functools.lru_cache(maxsize=16)
def _mean(name: str, seed: int) -> np.ndarray:
    images, labels = load(name)
    return _pixels(images)[_balanced_order(labels, seed)].mean(0, dtype=np.float64)


def _normalised(pixels: np.ndarray, mean: np.ndarray) -> np.ndarray:
    x = pixels - mean
    x *= np.sqrt(x.shape[1] / np.einsum("nd,nd->n", x, x))[:, None]
    return x


@functools.lru_cache(maxsize=16)
def _whitener(name: str, seed: int, pca: int) -> tuple[np.ndarray, np.ndarray]:
    """The centre (d,) and the map (d, pca) that sends x - centre to its whitened components."""
    images, labels = load(name)
    pixels, order = _pixels(images), _balanced_order(labels, seed)
    d = pixels.shape[1]
    total, second = np.zeros(d), np.zeros((d, d))
    for start in range(0, len(order), 8192):
        x = _normalised(pixels[order[start : start + 8192]], _mean(name, seed))
        total += x.sum(0)
        second += x.T @ x
    centre = total / len(order)
    covariance = second / len(order) - np.outer(centre, centre)
    value, vector = scipy.linalg.eigh(covariance, subset_by_index=(d - pca, d - 1))
    if value[0] <= d * np.finfo(float).eps * value[-1]:
        raise DataError(f"pca={pca}: fewer components of {name} vary, ask for less")
    value, vector = value[::-1], vector[:, ::-1]
    # An eigenvector has no sign of its own: its largest entry is made positive, on every machine.
    signs = np.sign(vector[np.abs(vector).argmax(0), np.arange(pca)])
    return centre, vector * signs / np.sqrt(value)


def _check_request(name: str, n: int, n_test: int, pca: int, flat: bool, seed: int) -> None:
    images, labels = load(name)
    available, d = len(_balanced_order(labels, seed)), images[0].size
    if n < 1 or n_test < 0:
        raise DataError(f"n={n}, n_test={n_test}: at least 1 training and 0 test examples needed")
    if n + n_test > available:
        raise DataError(f"n + n_test = {n + n_test}: {name} has {available} balanced examples")
    if not 0 <= pca <= d or int(pca) != pca:
        raise DataError(f"pca={pca}: {name} has {d} pixels, accepted are 0 (none) to {d}")
    if pca and not flat:
        raise DataError(f"pca={pca} with flat=False: principal components are no image")


def parity(
    name: str,
    n: int,
    n_test: int,
    pca: int = 0,
    flat: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Task:
    """Odd classes (y = +1) against even classes (y = -1), prepared as in the code of Geiger et al.

    Official training and test examples are merged, shuffled within each class by `seed`, and
    interleaved, one of each class in turn, until the smallest class runs out (63130 examples of
    MNIST). The per-pixel mean over ALL these examples is subtracted and each example rescaled to
    |x|^2 = d, the number of pixels. With `pca` > 0, x becomes its leading principal components,
    centred and whitened (covariance with 1/N) over ALL these examples, not rescaled again: mean and
    components see the test inputs too. The first `n` are for training, the next `n_test` for test.

    Returns a Task with x (n, d), (n, pca), or (n, channels, height, width) if not `flat`.
    Raises DataError if that many examples or components do not exist.
    Source: Geiger et al., arXiv:1906.08034, and their public code (feature_lazy, dataset.py).
    """
    _check_request(name, n, n_test, pca, flat, seed)
    images, labels = load(name)
    chosen = _balanced_order(labels, seed)[: n + n_test]
    x = _normalised(_pixels(images[chosen]), _mean(name, seed))
    if pca:
        centre, whitener = _whitener(name, seed, pca)
        x = (x - centre) @ whitener
    elif not flat:
        x = _images(x, images)
    return _split(x, 2.0 * (labels[chosen] % 2) - 1.0, n, dtype, device)


def pair(
    name: str,
    n: int,
    n_test: int = 0,
    classes: tuple[int, int] = (0, 1),
    flat: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Task:
    """Two classes, y = -1 for the first and +1 for the second, in turn, in an order set by `seed`.

    The mean over all examples of the two is subtracted and each example rescaled to |x|^2 = d, the
    number of pixels. Returns a Task like that of `parity`; raises DataError for equal or unknown
    classes, or if that many examples do not exist.
    """
    images, labels = load(name)
    known = np.unique(labels).tolist()
    if len(set(classes)) != 2 or not set(classes) <= set(known):
        raise DataError(f"classes={classes}: accepted are two different ones of {known}")
    chosen = np.concatenate([np.flatnonzero(labels == k) for k in classes])
    pixels, y = _pixels(images[chosen]), np.where(labels[chosen] == classes[0], -1.0, 1.0)
    order = _balanced_order(y, seed)
    if n < 1 or n_test < 0 or n + n_test > len(order):
        raise DataError(f"n={n}, n_test={n_test}: {name} has {len(order)} balanced examples of two")
    order = order[: n + n_test]
    x = _normalised(pixels[order], pixels.mean(0, dtype=np.float64))
    return _split(x if flat else _images(x, images), y[order], n, dtype, device)


def classes(
    name: str,
    n: int,
    n_test: int,
    pool: int = 1,
    flat: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Task:
    """All c classes with one-hot targets (n, c): official training and test examples, balanced.

    Each of the two sets is shuffled within each class by `seed` and interleaved, one of each class
    in turn; the first `n` and `n_test` are taken. A set without an official split, as "digits", is
    one set, and the test examples come after the others. Images are averaged over squares of `pool`
    by `pool` pixels; the per-pixel mean over the n training images is subtracted from all, and each
    is rescaled to |x|^2 = d, its number of pixels. Returns a Task with x (n, d), or (n, channels,
    height, width) if not `flat`. Raises DataError if that many examples do not exist, and for a
    `pool` that does not divide the images.
    """
    images, labels = load(name)
    chosen = split(name, n, n_test, seed)
    known, place = np.unique(labels, return_inverse=True)
    pixels, like = pooled(name, images[chosen], pool)
    x = _normalised(pixels, pixels[:n].mean(0))
    x = x if flat else x.reshape(len(x), *like)
    return _split(x, np.eye(len(known))[place[chosen]], n, dtype, device)


def split(name: str, n: int, n_test: int, seed: int) -> np.ndarray:
    """Indices of n training and n_test test examples of `load(name)`, drawn as `classes` says."""
    _, labels = load(name)
    split = DATASETS[name].train
    train = _balanced_order(labels[:split], seed) if split else _balanced_order(labels, seed)
    test = split + _balanced_order(labels[split:], seed) if split else train[n:]
    if n < 1 or n_test < 0 or n > len(train) or n_test > len(test):
        accepted = f"{len(train)} and {len(test)}" if split else f"{len(train)} in all"
        raise DataError(f"n={n}, n_test={n_test}: {name} has {accepted} balanced examples")
    return np.concatenate([train[:n], test[:n_test]])


def table(
    name: str,
    n: int,
    n_test: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Task:
    """One of `sets.TABLES`, shuffled by `seed`: the first `n` train, the next `n_test` test.

    Every column of x (n, d) has mean 0 and variance 1 on the training examples; y is one-hot
    (n, c), or (n, 1), standardised likewise, for a table of real targets. Raises DataError if that
    many examples do not exist.
    """
    x, labels = load_table(name)
    if n < 2 or n_test < 0 or n + n_test > len(x):
        raise DataError(f"n={n}, n_test={n_test}: {name} has {len(x)} examples, 2 at least train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(int(seed))).numpy()
    order = order[: n + n_test]
    x, labels = _standardised(x[order], n), labels[order]
    if np.issubdtype(labels.dtype, np.integer):
        return _split(x, np.eye(labels.max() + 1)[labels], n, dtype, device)
    return _split(x, _standardised(labels[:, None], n), n, dtype, device)


def image_columns(
    name: str, n: int, n_test: int, pool: int = 1, cut: bool = False, seed: int = 0
) -> Series:
    """Images of all classes as series of their columns of pixels, from the left, n for training.

    They are drawn, and averaged over squares of `pool` by `pool` pixels, as `classes` does. The
    mean square of all training pixels is 1. With `cut` empty columns at both sides are left out, so
    that lengths differ. Raises DataError as `classes` does, and for images in colour.
    """
    images, labels = load(name)
    if images.ndim > 3:
        raise DataError(f"{name} is in colour: columns are those of grey images")
    chosen = split(name, n, n_test, seed)
    pixels, (_, height, width) = pooled(name, images[chosen], pool)
    x = pixels.reshape(-1, height, width).swapaxes(1, 2) / np.sqrt(np.square(pixels[:n]).mean())
    y = np.searchsorted(np.unique(labels), labels[chosen])
    if not cut:
        return Series(x, np.full(len(x), width), y, n)
    ink = x.any(-1)
    first, last = ink.argmax(1), width - ink[:, ::-1].argmax(1)
    lengths = last - first
    place = np.minimum(first[:, None] + np.arange(width), width - 1)
    x = np.take_along_axis(x, place[..., None], 1)
    x[np.arange(width) >= lengths[:, None]] = 0
    return Series(x[:, : lengths.max()], lengths, y, n)


def _standardised(x: np.ndarray, n: int) -> np.ndarray:
    spread = x[:n].std(0)
    return (x - x[:n].mean(0)) / np.where(spread > 0, spread, 1)


def pooled(name: str, images: np.ndarray, pool: int) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Means over squares of `pool` by `pool` pixels of images of a set, (n, d), colour planes one
    after the other; and their layout. Raises DataError for a `pool` that does not divide them."""
    height, width = images.shape[1:3]
    if pool < 1 or height % pool or width % pool:
        raise DataError(f"pool={pool}: it must divide the images of {name}, {height} x {width}")
    planes = _pixels(images).reshape(len(images), -1, height // pool, pool, width // pool, pool)
    found = planes.mean((3, 5), dtype=np.float64)
    return found.reshape(len(images), -1), found.shape[1:]


def _images(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Rows of pixels as images (n, channels, height, width)."""
    return x.reshape(len(x), -1, *like.shape[1:3])


def _split(x: np.ndarray, y: np.ndarray, n: int, dtype, device) -> Task:
    """The first n examples for training, the others for test."""
    x, y = (torch.from_numpy(part).to(device=device, dtype=dtype) for part in (x, y))
    return Task(x[:n], y[:n], x[n:], y[n:])


def shuffled(task: Task, seed: int) -> Task:
    """The task with its training labels permuted, which then say nothing: for controls."""
    order = torch.randperm(len(task.y), generator=torch.Generator().manual_seed(seed))
    return replace(task, y=task.y[order.to(task.y.device)])


def xor(
    n: int,
    n_test: int,
    d: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Task:
    """y = sign(x_1 x_2) of inputs x ~ N(0, 1) in d dimensions, of which the others say nothing.

    No linear function of x has a part in y: who learns it well has to find the two that matter.
    Returns a Task with x (n, d) and y (n,); raises DataError below two dimensions.
    """
    if n < 1 or n_test < 0 or d < 2:
        raise DataError(f"n={n}, n_test={n_test}, d={d}: at least 1, 0 and 2 needed")
    generator = torch.Generator().manual_seed(int(seed))
    x = torch.randn(n + n_test, d, generator=generator, dtype=torch.float64)
    y = torch.where(x[:, 0] * x[:, 1] > 0, 1.0, -1.0)
    return _split(x.numpy(), y.double().numpy(), n, dtype, device)
