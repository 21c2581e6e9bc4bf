"""The tangent kernel of infinitely wide recurrent networks (Alemohammad et al. 2021).

Time runs within tiles of pairs of sequences, so that memory is that of the result, and a step of
all pairs is elementwise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tangents import checks
from tangents.functional import require, tile_rows
from tangents.infinite import MEANS, in_tiles

TILE = 256  # sequences a side of what one pass works on
READOUTS = {"last": 0.0, "steps": 0.5, "mean": 1.0}  # the power of 1 / T in an output


@dataclass(frozen=True)
class Recurrent:
    """An infinitely wide recurrent network, one output, entries N(0, 1), h = s(g) and

    g^{l,t} = sw / sqrt(width) W h^{l,t-1} + su / sqrt(fan-in) U h^{l-1,t} + sb b, with h^{0,t} the
    inputs x_t (m,), h^{l,0} ~ N(0, sh^2) drawn for each sequence, f = sv / sqrt(width) V h^{L,T}.
    `activation` is "relu", plainly max(0, .), or "erf". The output may also be read at all steps:
    as f = sv / sqrt(T width) sum_t V^t h^{L,t} with `readout` "steps", weights of their own for
    each step (counted from the end), or as f = sv / (T sqrt(width)) sum_t V h^{L,t} with "mean",
    which takes T times as long. The weights of the first `frozen` layers are not trained. Raises
    ValueError for another activation or read-out, less than one layer, more frozen ones than there
    are, and for scales that are negative or not finite. Source: section 2; for read-outs and frozen
    layers Alemohammad et al. (2020), whose averaged kernel is "steps".
    """

    layers: int = 1
    activation: str = "relu"
    sw: float = math.sqrt(2)  # of recurrent weights
    su: float = 1.0  # of input weights
    sb: float = 0.0  # of biases
    sh: float = 0.0  # of initial states
    sv: float = 1.0  # of the read-out
    readout: str = "last"
    frozen: int = 0

    def __post_init__(self) -> None:
        for name, accepted in (("activation", MEANS), ("readout", READOUTS)):
            value = getattr(self, name)
            require(value in accepted, f"{name} must be one of {', '.join(accepted)}, got "
                    f"{value!r}")  # fmt: skip
        checks.sizes(layers=self.layers)
        checks.whole("frozen", self.frozen)
        require(self.frozen <= self.layers,
                f"frozen must be from 0 to {self.layers}, got {self.frozen}")  # fmt: skip
        for name in ("sw", "su", "sb", "sh", "sv"):
            checks.number(name, getattr(self, name))

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
        require(not same or lengths2 is None, "lengths2 are of x2, which is not given")
        checks.tensors(x1=x1, x2=other)
        require(x1.dim() == other.dim() == 3 and x1.shape[2] == other.shape[2],
                f"sequences must be (n, t, m) of one m, got {tuple(x1.shape)} and "
                f"{tuple(other.shape)}")  # fmt: skip
        steps = max(x1.shape[1], other.shape[1])
        left = _Side.of(self, x1, lengths1, steps)
        right = left if same else _Side.of(self, other, ends, steps)

        def tile(i: slice, j: slice, diagonal: bool) -> list[Tensor]:
            return _tile(self, left.rows(i), right.rows(j), diagonal)

        return in_tiles(x1, x2, tile_rows(x1, TILE), tile)

    def bidirectional(
        self,
        x1: Float[Tensor, "n t m"],
        x2: Float[Tensor, "k u _"] | None = None,
        lengths1: Int[Tensor, " _"] | None = None,
        lengths2: Int[Tensor, " _"] | None = None,
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
        """`kernels` of the sum of two such networks, one of which reads the sequences `backwards`.

        Source: Alemohammad et al. (2020), section 3.
        """
        turned = backwards(x1, lengths1), None if x2 is None else backwards(x2, lengths2)
        both = (self.kernels(*x, lengths1, lengths2) for x in ((x1, x2), turned))
        nngp, ntk = (sum(parts) for parts in zip(*both, strict=True))
        return nngp, ntk

    @property
    def means(self) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """E[s(u) s(v)] and E[s'(u) s'(v)] from covariance and variances, over `gain`."""
        return MEANS[self.activation]

    @property
    def gain(self) -> float:
        """The models' ReLU has the factor sqrt 2 that is none here."""
        return 0.5 if self.activation == "relu" else 1.0

    def square(self, q: Tensor) -> Tensor:
        """E[s(u)^2] over `gain` from variances, with a derivative everywhere."""
        return q if self.activation == "relu" else self.means(q, q, q)[0]


class _Side(NamedTuple):
    """Sequences / sqrt m aligned at their ends, which steps are there, and variances S(x, x)."""

    x: Float[Tensor, "n t m"]
    there: Tensor  # (n, t), whether a step is one of the sequence
    variances: Float[Tensor, "t l n"]

    @classmethod
    def of(cls, net: Recurrent, x: Tensor, lengths: Tensor | None, steps: int) -> "_Side":
        n, t, m = x.shape
        require(bool(x.isfinite().all()), "sequences must be finite, padding too")
        if lengths is not None:
            _require_lengths(x, lengths)
        given = torch.full((n,), t) if lengths is None else lengths.cpu()
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
                    before = torch.where(there[:, k - 1], net.gain * net.square(q), net.sh**2)
                else:
                    before = torch.full_like(entered, net.sh**2)
                q = (net.sw**2 * before + entered + net.sb**2) * there[:, k]
                now.append(q)
                entered = net.su**2 * net.gain * net.square(q)
            variances.append(now)
        return cls(x, there, torch.stack([torch.stack(now) for now in variances]))

    def rows(self, i: slice) -> "_Side":
        return _Side(self.x[i], self.there[i], self.variances[..., i])

    def steps(self, t: slice) -> "_Side":
        return _Side(self.x[:, t], self.there[:, t], self.variances[t])


def _tile(net: Recurrent, left: _Side, right: _Side, diagonal: bool) -> list[Tensor]:
    """The kernels of some pairs; `diagonal`, where both sides are the same."""
    if net.readout == "mean":  # pairs of steps t and t + d: the one sequence starts d steps late
        steps = left.x.shape[1]
        late = [slice(max(d, 0), steps + min(d, 0)) for d in range(1 - steps, steps)]
        sums = 0.0, 0.0
        for i, j in zip(late, late[::-1], strict=True):
            part = _along(net, left.steps(i), right.steps(j), diagonal and i == j)
            sums = [total + more for total, more in zip(sums, part, strict=True)]
    else:
        sums = _along(net, left, right, diagonal)
    shares = [side.there.sum(1).to(side.x) ** -READOUTS[net.readout] for side in (left, right)]
    return [net.gain * net.sv**2 * torch.outer(*shares) * total for total in sums]


def _along(net: Recurrent, left: _Side, right: _Side, diagonal: bool) -> tuple[Tensor, Tensor]:
    """The sums of both kernels over the steps that are read, for sv^2 gain = 1."""
    again, enter = (net.gain * scale**2 for scale in (net.sw, net.su))
    # lists, not one tensor that is written into: derivatives pass back through them
    mean, turned = ([left.x.new_zeros(len(left.x), len(right.x))] * net.layers for _ in range(2))
    padded = not (left.there.all() and right.there.all())
    last, sums = left.x.shape[1] - 1, (0.0, 0.0)
    for step in range(last + 1):
        here = left.there[:, step]
        entered = net.su**2 * left.x[:, step] @ right.x[:, step].mT + net.sb**2
        tangent = 0.0  # of what enters
        for layer in range(net.layers):
            k = again * mean[layer] + entered
            if diagonal:
                begins = here & ~left.there[:, step - 1] if step else here
                k.diagonal().add_((net.sw * net.sh) ** 2 * begins)
            theta = k + again * turned[layer] + tangent if layer >= net.frozen else 0 * k
            if padded:
                both = here[:, None] & right.there[:, step]
                k, theta = k * both, theta * both
            q, r = left.variances[step, layer], right.variances[step, layer]
            mean[layer], slope = net.means(k, q[:, None], r)
            if diagonal:  # exactly: the slope of the mean is steep there
                mean[layer].diagonal().copy_(net.square(q))
            turned[layer] = slope * theta
            if layer + 1 < net.layers:
                entered = (enter * mean[layer]).add_(net.sb**2)
                tangent = enter * turned[layer]
        if net.readout != "last" or step == last:
            sums = sums[0] + mean[-1], sums[1] + mean[-1] + turned[-1]
    return sums


def _require_lengths(x: Tensor, lengths: Tensor) -> None:
    n, t = x.shape[:2]
    checks.kind("lengths", lengths)
    fits = lengths.dtype in (torch.int32, torch.int64) and lengths.shape == (n,)
    fits = fits and bool(((lengths >= 1) & (lengths <= t)).all())
    require(fits, f"lengths must hold a number from 1 to {t} for each of {n} sequences")


def backwards(
    x: Float[Tensor, "n t m"], lengths: Int[Tensor, " n"] | None = None
) -> Float[Tensor, "n t m"]:
    """Each sequence from its end to its start, the padding behind it left where it is."""
    checks.kind("x", x)
    require(x.dim() == 3, f"sequences must be (n, t, m), got {tuple(x.shape)}")
    if lengths is None:
        return x.flip(1)
    _require_lengths(x, lengths)
    place, last = torch.arange(x.shape[1], device=x.device), lengths[:, None].to(x.device) - 1
    at = torch.where(place <= last, last - place, place)
    return x.gather(1, at.unsqueeze(-1).expand_as(x))
