"""Random features of the tangent kernel of infinitely wide ReLU networks.

A feature map z(x) in R^m with <z(x), z(x')> close to Theta(x, x'), so that a linear model of m
features stands for a kernel machine: the cost is linear in the number of examples. Source: Han et
al. (2021), algorithm 2; Zandieh et al. (2021).
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tangents import checks, kernels
from tangents.functional import require
from tangents.models import normal

Map = Callable[[Float[Tensor, "n p"], Float[Tensor, "n q"]], Float[Tensor, "n m"]]


@dataclass(frozen=True)
class TensorSketch:
    """(n, p) and (n, q) to (n, m): <., .> is in the mean that of the outer products of rows.

    Each side is hashed to m places with signs, and the two are convolved. Source: Pham & Pagh
    (2013); `draw` takes m >= 1.
    """

    size: int
    places: tuple[Tensor, Tensor]  # of each coordinate, in 0..m-1
    signs: tuple[Tensor, Tensor]

    @classmethod
    def draw(cls, p: int, q: int, size: int, generator: Generator) -> "TensorSketch":
        checks.sizes(p=p, q=q, size=size)
        places = tuple(torch.randint(size, (k,), generator=generator) for k in (p, q))
        return cls(size, places, tuple(_signs(k, generator) for k in (p, q)))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        _require_sides(self.signs, a, b)
        spectra = []
        for x, at, signs in zip((a, b), self.places, self.signs, strict=True):
            hashed = x.new_zeros(len(x), self.size)
            hashed.index_add_(1, at.to(x.device), x * signs.to(x))
            spectra.append(torch.fft.rfft(hashed))
        return torch.fft.irfft(spectra[0] * spectra[1], n=self.size)


@dataclass(frozen=True)
class TensorSRHT:
    """The same by m / 2 products of random coordinates of the two Fourier transforms, after random
    signs: real and imaginary parts. m is even. Source: Ahle et al. (2020), definition 15."""

    size: int
    places: tuple[Tensor, Tensor]  # of each product, (m / 2,)
    signs: tuple[Tensor, Tensor]

    @classmethod
    def draw(cls, p: int, q: int, size: int, generator: Generator) -> "TensorSRHT":
        checks.sizes(p=p, q=q, size=size)
        require(size % 2 == 0, f"TensorSRHT: the dimension must be even, got {size}")
        places = tuple(torch.randint(k, (size // 2,), generator=generator) for k in (p, q))
        return cls(size, places, tuple(_signs(k, generator) for k in (p, q)))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        _require_sides(self.signs, a, b)
        left, right = (
            torch.fft.fft(x * signs.to(x))[:, at.to(x.device)]
            for x, at, signs in zip((a, b), self.places, self.signs, strict=True)
        )
        return torch.view_as_real(left * right).flatten(1) / math.sqrt(self.size / 2)


def _require_sides(signs: tuple[Tensor, Tensor], a: Tensor, b: Tensor) -> None:
    """Rows (n, p) and (n, q), n of both."""
    checks.tensors(a=a, b=b)
    n = len(a) if a.dim() else 0
    for name, x, side in zip("ab", (a, b), signs, strict=True):
        checks.shaped(name, x, n, len(side))


def _signs(size: int, generator: Generator) -> Tensor:
    return 2.0 * torch.randint(2, (size,), generator=generator) - 1


SKETCHES = {"count": TensorSketch, "srht": TensorSRHT}


@dataclass(frozen=True)
class NTKFeatures:
    """x (n, d) to features (n, m) of the tangent kernel of `infinite.fully_connected` with "relu".

    From layer to layer the states' kernel is met by random ReLU units, phi' = sqrt(2 / m1)
    max(0, phi W1), that of their slopes by random steps, a = sqrt(2 / m0) 1[phi W0 > 0], and
    Theta' = K' + Theta E[s'(u) s'(v)] by psi' = (phi', sketch of psi x a).
    """

    steps: list[tuple[Tensor, Tensor]]  # (W0, W1) of each layer
    sketches: list[Map]

    @classmethod
    def draw(
        cls,
        d: int,
        size: int,
        depth: int = 1,
        seed: int = 0,
        sketch: str = "srht",
        leverage: bool = False,
        units: int = 0,
    ) -> "NTKFeatures":
        """A map of inputs of dimension d to `size` features, of a network of `depth` hidden layers.

        `units` m1 of them, by default half, are ReLU units, the others the sketch; there are `size`
        random steps m0. With `leverage` the units' weights have the leverage scores of their
        features for their density: directions alone count (Han et al. 2021, theorem 3). `sketch`:
        one of `SKETCHES`. Raises ValueError for sizes that leave nothing to one of the two.
        """
        checks.sizes(size=size)
        units = units or size // 2
        units += (size - units) % 2
        checks.sizes(d=d, depth=depth, units=units)
        require(sketch in SKETCHES, f"sketch must be one of {', '.join(SKETCHES)}, got {sketch!r}")
        require(0 < units < size - 1, f"{size} features leave none to {units} units or the sketch")
        generator, steps, sketches = checks.seeded(seed), [], []
        for layer in range(depth):
            width = units if layer else d
            w0, w1 = (normal(torch.Size((width, k)), generator) for k in (size, units))
            if leverage:
                w1 = math.sqrt(width) * w1 / w1.norm(dim=0)
            steps.append((w0, w1))
            dims = size if layer else d, size
            sketches.append(SKETCHES[sketch].draw(*dims, size - units, generator))
        return cls(steps, sketches)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n m"]:
        d = len(self.steps[0][0])
        checks.tensors(inputs=x)
        checks.finite(inputs=x)
        require(x.dim() == 2 and x.shape[1] == d, f"inputs must be (n, {d}), got {tuple(x.shape)}")
        phi = psi = x / math.sqrt(d)
        for (w0, w1), sketch in zip(self.steps, self.sketches, strict=True):
            w0, w1 = w0.to(x), w1.to(x)
            slopes = math.sqrt(2 / w0.shape[1]) * (phi @ w0 > 0)
            phi = math.sqrt(2 / w1.shape[1]) * (phi @ w1).relu()
            psi = torch.cat([phi, sketch(psi, slopes.to(x))], 1)
        return psi


@dataclass(frozen=True)
class Moments:
    """Z^T Z and Z^T y of n rows of features Z (n, m), as ridge regression needs them."""

    gram: Float[Tensor, "m m"]
    moment: Float[Tensor, "m c"]
    n: int

    @classmethod
    def of(cls, blocks: Iterable[tuple[Tensor, Tensor]]) -> "Moments":
        """Those of all rows of blocks (z, y), in memory (m, m). Raises ValueError for no rows."""

        def part(z: Tensor, y: Tensor) -> "Moments":
            checks.tensors(z=z, y=y)
            fits = z.dim() == y.dim() == 2 and len(z) == len(y)
            got = f"{tuple(z.shape)} and {tuple(y.shape)}"
            require(fits, f"a block is features (n, m) and targets (n, c), got {got}")
            return cls(z.mT @ z, z.mT @ y, len(z))

        parts = (part(z, y) for z, y in blocks)
        found = functools.reduce(operator.add, parts, None)
        require(found is not None and found.n > 0, "there are no rows")
        return found

    def __add__(self, other: "Moments") -> "Moments":
        checks.shaped("the moments of more rows", other.moment, *self.moment.shape)
        return Moments(self.gram + other.gram, self.moment + other.moment, self.n + other.n)

    def __radd__(self, nothing: None) -> "Moments":
        return self

    def ridge(self, penalties: Sequence[float]) -> Float[Tensor, "p m c"]:
        """For each penalty the weights that minimise |Z w - y|^2 + penalty n |w|^2.

        Raises ValueError for none, or one that is not positive.
        """
        require(min(penalties, default=0) > 0, f"penalties must be positive, got {penalties}")
        require(self.n > 0, "there are no rows")
        return kernels.ridge(self.gram, self.moment, [p * self.n for p in penalties])
