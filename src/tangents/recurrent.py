"""The tangent kernel of infinitely wide recurrent networks (Alemohammad et al. 2021).

Time runs within tiles of pairs of sequences, so that memory is that of the result, and a step of
all pairs is elementwise.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tangents.functional import require, tile_rows
from tangents.infinite import MEANS

TILE = 256  # sequences a side of what one pass works on


@dataclass(frozen=True)
class Recurrent:
    """An infinitely wide recurrent network, one output, entries N(0, 1), h = s(g) and

    g^{l,t} = sw / sqrt(width) W h^{l,t-1} + su / sqrt(fan-in) U h^{l-1,t} + sb b, with h^{0,t} the
    inputs x_t (m,), h^{l,0} ~ N(0, sh^2) drawn for each sequence, f = sv / sqrt(width) V h^{L,T}.
    `activation` is "relu", plainly max(0, .), or "erf". Raises ValueError for another one, for less
    than one layer, and for scales that are negative or not finite. Source: section 2.
    """

    layers: int = 1
    activation: str = "relu"
    sw: float = math.sqrt(2)  # of recurrent weights
    su: float = 1.0  # of input weights
    sb: float = 0.0  # of biases
    sh: float = 0.0  # of initial states
    sv: float = 1.0  # of the read-out

    def __post_init__(self) -> None:
        require(self.activation in MEANS, f"activation must be one of {', '.join(MEANS)}, got "
                f"{self.activation!r}")  # fmt: skip
        require(self.layers >= 1, f"layers must be at least 1, got {self.layers}")
        scales = {k: getattr(self, k) for k in ("sw", "su", "sb", "sh", "sv")}
        bad = [f"{k}={v}" for k, v in scales.items() if not 0 <= v < math.inf]
        require(not bad, f"scales must be at least 0 and finite, got {', '.join(bad)}")

    def kernels(
        self,
        x1: Float[Tensor, "n t m"],
        x2: Float[Tensor, "k u _"] | None = None,
        lengths1: Int[Tensor, " _"] | None = None,
        lengths2: Int[Tensor, " _"] | None = None,
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
        """(NNGP, NTK) between sequences, without `x2` between those of x1.

        Of a sequence of length s the first s steps count, the rest is padding; all steps without
        lengths. Sequences are compared from their ends. Raises ValueError for lengths out of range
        and for sequences of other dimensions, or that are not finite. Source: section 2.2, for
        unequal lengths appendix.
        """
        same = x2 is None
        other, ends = (x1, lengths1) if same else (x2, lengths2)
        require(x1.dim() == other.dim() == 3 and x1.shape[2] == other.shape[2],
                f"sequences must be (n, t, m) of one m, got {tuple(x1.shape)} and "
                f"{tuple(other.shape)}")  # fmt: skip
        steps = max(x1.shape[1], other.shape[1])
        left = _Side.of(self, x1, lengths1, steps)
        right = left if same else _Side.of(self, other, ends, steps)
        nngp, ntk = (x1.new_empty(len(x1), len(other)) for _ in range(2))
        rows = tile_rows(x1, TILE)
        parts = [[slice(k, k + rows) for k in range(0, len(x), rows)] for x in (x1, other)]
        for i, j in itertools.product(*parts):
            if same and j.start > i.start:
                continue
            tiles = _tile(self, left.rows(i), right.rows(j), same and i == j)
            for whole, tile in zip((nngp, ntk), tiles, strict=True):
                whole[i, j] = tile
                if same and i != j:
                    whole[j, i] = tile.mT
        return nngp, ntk

    @property
    def means(self) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """E[s(u) s(v)] and E[s'(u) s'(v)] from covariance and variances."""
        twice = MEANS[self.activation]
        if self.activation == "erf":
            return twice
        return lambda k, q, r: tuple(v / 2 for v in twice(k, q, r))  # there with the gain sqrt 2

    def square(self, q: Tensor) -> Tensor:
        """E[s(u)^2] from variances, with a derivative everywhere."""
        return q / 2 if self.activation == "relu" else self.means(q, q, q)[0]


class _Side(NamedTuple):
    """Sequences / sqrt m aligned at their ends, which steps are there, and variances S(x, x)."""

    x: Float[Tensor, "n t m"]
    there: Tensor  # (n, t), whether a step is one of the sequence
    variances: Float[Tensor, "t l n"]

    @classmethod
    def of(cls, net: Recurrent, x: Tensor, lengths: Tensor | None, steps: int) -> "_Side":
        n, t, m = x.shape
        require(bool(x.isfinite().all()), "sequences must be finite, padding too")
        given = torch.full((n,), t) if lengths is None else lengths.cpu()
        fits = given.shape == (n,) and bool(((given >= 1) & (given <= t)).all())
        require(fits, f"lengths must hold a number from 1 to {t} for each of {n} sequences")
        place = torch.arange(steps) - (steps - given[:, None])  # of a step in its own sequence
        there = (place >= 0).to(x.device)
        at = place.clamp(min=0).to(x.device)
        x = x.gather(1, at.unsqueeze(-1).expand(-1, -1, m)) / math.sqrt(m)
        x = x * there.unsqueeze(-1)
        variances: list[list[Tensor]] = []
        for k in range(steps):
            entered, now = net.su**2 * x[:, k].square().sum(-1), []
            for layer in range(net.layers):
                if k:
                    q = variances[-1][layer]
                    before = torch.where(there[:, k - 1], net.square(q), net.sh**2)
                else:
                    before = torch.full_like(entered, net.sh**2)
                q = (net.sw**2 * before + entered + net.sb**2) * there[:, k]
                now.append(q)
                entered = net.su**2 * net.square(q)
            variances.append(now)
        return cls(x, there, torch.stack([torch.stack(now) for now in variances]))

    def rows(self, i: slice) -> "_Side":
        return _Side(self.x[i], self.there[i], self.variances[..., i])


def _tile(net: Recurrent, left: _Side, right: _Side, diagonal: bool) -> tuple[Tensor, Tensor]:
    """The kernels of some pairs, over time; `diagonal`, where both sides are the same."""
    shape = len(left.x), len(right.x)
    # lists, not one tensor that is written into: derivatives pass back through them
    k, theta = ([left.x.new_zeros(shape)] * net.layers for _ in range(2))
    both = left.x.new_zeros(shape, dtype=torch.bool)

    def passed(layer: int, step: int) -> tuple[Tensor, Tensor]:
        q, r = left.variances[step, layer][:, None], right.variances[step, layer]
        mean, slope = net.means(k[layer], q, r)
        if diagonal:  # exactly: the slope of the mean is steep there
            own = left.variances[step, layer]
            mean.diagonal().copy_(net.square(own))
        return mean, slope

    for step in range(left.x.shape[1]):
        before, both = both, left.there[:, step, None] & right.there[:, step]
        entered = net.su**2 * (left.x[:, step] @ right.x[:, step].mT)
        tangent = 0.0  # of what enters
        for layer in range(net.layers):
            mean, slope = passed(layer, step - 1) if step else (k[layer], theta[layer])
            mean, turned = mean * before, slope * theta[layer] * before
            if diagonal:
                begins = both.diagonal() & ~before.diagonal()
                mean.diagonal().add_(net.sh**2 * begins)
            k[layer] = (net.sw**2 * mean + entered + net.sb**2) * both
            theta[layer] = (k[layer] + net.sw**2 * turned + tangent) * both
            mean, slope = passed(layer, step)
            entered, tangent = net.su**2 * mean, net.su**2 * slope * theta[layer]
    return net.sv**2 * mean, net.sv**2 * (mean + slope * theta[-1])
