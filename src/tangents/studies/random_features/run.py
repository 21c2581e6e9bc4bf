"""Random features of the tangent kernel: Zandieh, Han and co-authors (2021).

Features whose inner products are close to the kernel of an infinitely wide network, against the
gradients of a finite one, against Fourier features of a Gaussian kernel, and against the kernel.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from sklearn.kernel_approximation import RBFSampler
from torch import Tensor

from tangents import infinite, kernels, models, probes
from tangents.data.tasks import Task, classes
from tangents.empirical import ntk
from tangents.features import Moments, NTKFeatures
from tangents.lab.study import records
from tangents.studies.random_features.config import RandomFeatures

BLOCK = 2000  # examples whose features are held at a time
VALIDATION = 0.2  # share of the training examples on which penalty and bandwidth are chosen
PENALTIES = [10.0**k for k in range(-8, 1)]  # in units of the mean squared length of a feature
BANDWIDTHS = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]  # gamma of exp(-gamma |x - x'|^2 / d)
ANOTHER = 1_000_003  # from a seed to that of another draw
REPEATS = 2  # of what is timed; the least counts

Features = Callable[[Tensor], Tensor]


@lru_cache(maxsize=2)
def task(c: RandomFeatures, device: str) -> Task:
    """Images of all classes, each of length sqrt d, with one-hot targets less their mean."""
    seed = c.seed if c.data_seed < 0 else c.data_seed
    options = dict(seed=seed, dtype=getattr(torch, c.dtype), device=device)
    data = classes(c.dataset, c.n, c.n_test, pool=c.pool, **options)
    mean = 1 / data.y.shape[1]
    return Task(data.x, data.y - mean, data.x_test, data.y_test - mean)


def limit(c: RandomFeatures, x: Tensor, other: Tensor | None = None, deeper: int = 0) -> Tensor:
    """The kernel of infinite width, or of a network deeper by so many layers."""
    return infinite.fully_connected(x, other, c.depth + deeper, "relu", False)[1]


def features(c: RandomFeatures, d: int, seed: int) -> NTKFeatures:
    sketch = "count" if c.method == "count" else "srht"
    return NTKFeatures.draw(d, c.size, c.depth, seed, sketch, leverage=c.method == "leverage")


def finite(c: RandomFeatures, d: int) -> models.MLP:
    """The widest network with at most `size` parameters, of width 1 at least."""
    if c.depth == 1:
        width = c.size / (d + 1)
    else:  # (depth - 1) h^2 + (d + 1) h = size
        square = c.depth - 1
        width = (math.sqrt((d + 1) ** 2 + 4 * square * c.size) - d - 1) / (2 * square)
    return models.MLP(d, max(1, int(width)), c.depth, activation="relu", bias=False)


def gradient_kernel(c: RandomFeatures, x: Tensor, other: Tensor | None = None) -> Tensor:
    """That of the gradients of one network of finite width."""
    module = finite(c, x.shape[1])
    params = models.initialise_stack(module, [c.seed], x.dtype, str(x.device))
    return ntk(module, params, x, other, outputs="trace")[0]


# ---- against the kernel


def kernel(configs: list[RandomFeatures], data: Task) -> Iterator[tuple[int, dict]]:
    """Distance of the Gram matrix from the kernel's, and of its regularised spectrum."""
    c, x = configs[0], data.x
    exact, deeper = limit(c, x), limit(c, x, deeper=1)
    shift = c.penalty * exact.trace()
    values, vectors = torch.linalg.eigh(exact)
    root = vectors / (values.clamp(min=0) + shift).sqrt()  # of the inverse of K + shift
    degrees = (values.clamp(min=0) / (values.clamp(min=0) + shift)).sum()
    for i, d in enumerate(configs):
        if d.method == "gradient":
            found, size = gradient_kernel(d, x), sum(p.numel() for p in finite(
                d, x.shape[1]).parameters())  # fmt: skip
        else:
            z = features(d, x.shape[1], d.seed)(x)
            found, size = z @ z.mT, d.size
        spectrum = torch.linalg.eigvalsh(root.mT @ (found - exact) @ root)
        yield i, dict(
            kernel_error=kernels.distance(found, exact),
            kernel_error_other=kernels.distance(found, deeper),
            spectral_error=spectrum.abs().max(),
            degrees=degrees,
            dimension=size,
        )


# ---- ridge regression


def blocks(z: Features, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for part, target in zip(x.split(BLOCK), y.split(BLOCK), strict=True):
        yield z(part), target


class Fit(NamedTuple):
    """The loss on a fifth of the training examples with the penalty that is best there, and what
    makes predictions on the test examples with it, from all training examples."""

    loss: float
    predict: Callable[[], Tensor]


def by_features(z: Features, data: Task, test: Features) -> Fit:
    """With never more than a block of features at a time."""
    used = round((1 - VALIDATION) * len(data.x))
    parts = slice(used), slice(used, None)
    first, rest = (Moments.of(blocks(z, data.x[part], data.y[part])) for part in parts)
    size = (first.gram.trace() / first.n).item()
    penalties = [p * size for p in PENALTIES]
    weights = first.ridge(penalties)
    left = blocks(z, data.x[used:], data.y[used:])
    losses = sum((a @ weights - y).square().sum((1, 2)) for a, y in left)

    def predict() -> Tensor:
        (w,) = (first + rest).ridge([penalties[int(losses.argmin())]])
        return torch.cat([test(x) @ w for x in data.x_test.split(BLOCK)])

    return Fit(losses.min().item(), predict)


def by_kernel(k: Tensor, k_test: Tensor, y: Tensor) -> Fit:
    """The same with a kernel."""
    used = round((1 - VALIDATION) * len(y))
    size = k.diagonal()[:used].mean()

    tried = kernels.ridge(k[:used, :used], y[:used], [p * size * used for p in PENALTIES])
    losses = (k[used:, :used] @ tried - y[used:]).square().sum((1, 2))

    def predict() -> Tensor:
        (a,) = kernels.ridge(k, y, [PENALTIES[int(losses.argmin())] * size * len(y)])
        return k_test @ a

    return Fit(losses.min().item(), predict)


def fit(c: RandomFeatures, data: Task, z: Features, test: Features) -> Fit:
    """By features, or by their kernel where there are fewer examples."""
    if len(data.x) > c.size:
        return by_features(z, data, test)
    a = z(data.x)
    return by_kernel(a @ a.mT, test(data.x_test) @ a.mT, data.y)


def fourier(c: RandomFeatures, d: int, gamma: float) -> Features:
    """Random Fourier features of exp(-gamma |x - x'|^2 / d) (Rahimi & Recht 2007)."""
    sampler = RBFSampler(gamma=gamma / d, n_components=c.size, random_state=c.seed)
    sampler.fit(np.zeros((1, d)))

    def z(x: Tensor) -> Tensor:
        return torch.from_numpy(sampler.transform(x.double().cpu().numpy())).to(x)

    return z


def ridge(configs: list[RandomFeatures], data: Task) -> Iterator[tuple[int, dict]]:
    """Test error of ridge regression; its penalty, and of Fourier features their bandwidth, are
    those that were best on a fifth of the training examples."""
    x, x_test, y = data.x, data.x_test, data.y
    for i, c in enumerate(configs):
        d = x.shape[1]
        if c.method in ("exact", "gradient"):
            kernel_of = limit if c.method == "exact" else gradient_kernel
            found = by_kernel(kernel_of(c, x), kernel_of(c, x_test, x), y)
        elif c.method == "fourier":
            maps = (fourier(c, d, gamma) for gamma in BANDWIDTHS)
            found = min((fit(c, data, z, z) for z in maps), key=lambda each: each.loss)
        else:
            z = features(c, d, c.seed)
            test = features(c, d, c.seed + ANOTHER) if c.wrong else z
            found = fit(c, data, z, test)
        yield i, dict(error=probes.misclassified(found.predict(), data.y_test))


# ---- what it costs


def cost(configs: list[RandomFeatures], data: Task) -> Iterator[tuple[int, dict]]:
    """Seconds from examples to the weights of ridge regression, the least of some."""

    def solve(c: RandomFeatures) -> Tensor:
        if c.method == "exact":
            k = limit(c, data.x)
            k.diagonal().add_(c.penalty * k.diagonal().mean() * len(k))
            return torch.cholesky_solve(data.y, torch.linalg.cholesky(k))
        z = features(c, data.x.shape[1], c.seed)
        found = Moments.of(blocks(z, data.x, data.y))
        gram, shift = found.gram, c.penalty * found.gram.trace()
        gram.diagonal().add_(shift)
        return torch.cholesky_solve(found.moment, torch.linalg.cholesky(gram))

    for i, c in enumerate(configs):
        seconds = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            solve(c)
            seconds.append(time.perf_counter() - begun)
        yield i, dict(cost=min(seconds), inputs=data.x.shape[1])


def run(configs: list[RandomFeatures], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Configs that differ in features and their number share data and kernel."""
    c = configs[0]
    data = task(c, device)
    measure = dict(kernel=kernel, ridge=ridge, cost=cost)[c.measure]
    for i, metrics in measure(configs, data):
        yield i, records(0, 0.0, "test", converged=True, **metrics), {}
