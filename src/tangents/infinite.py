"""Kernels of infinitely wide networks, in closed form."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tangents import checks
from tangents.factored import blocks
from tangents.functional import require, tile_rows

TILE = 256  # what one pass works on stays in the cache


def fully_connected(
    x1: Float[Tensor, "n d"],
    x2: Float[Tensor, "m _"] | None = None,
    depth: int = 3,
    activation: str = "relu",
    bias: bool = True,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """(NNGP, NTK) of `models.MLP` with `depth` hidden layers of infinite width, one output.

    K = x x'^T / d and Theta = K + b at the first layer; then K' = E[s(u) s(v)] and
    Theta' = K' + b + Theta E[s'(u) s'(v)] over u, v ~ N(0, K). Biases are zero at the start, as
    `models.initialise` has them, so that b = 1 stands in Theta only (b = 0 without biases).
    `activation` is "relu" (with the factor sqrt 2 of the models) or "erf". Raises ValueError for
    another one, a depth below 1, unequal dimensions, integers, and for "relu" an input of zeros.
    Source: Jacot et al. (2018), theorem 1; Cho & Saul (2009), section 2; Williams (1997), section
    3.
    """
    require(activation in _DUALS, f"activation must be one of {', '.join(_DUALS)}: {activation!r}")
    checks.whole("depth", depth, 1)
    _require_inputs(2, x1, x2)
    same = x2 is None
    sides = [_Side.of(x, depth, activation) for x in ([x1] if same else [x1, x2])]

    def tile(i: slice, j: slice, diagonal: bool) -> tuple[Tensor, Tensor]:
        return _DUALS[activation](sides[0].rows(i), sides[-1].rows(j), bias, diagonal)

    return in_tiles(x1, x2, tile_rows(x1, TILE), tile)


def in_tiles(
    x1: Tensor, x2: Tensor | None, rows: int, tile: Callable[[slice, slice, bool], Sequence[Tensor]]
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """(NNGP, NTK) from those of so many rows and columns, `tile(i, j, diagonal)`: without `x2` of
    one triangle, which is mirrored, and `diagonal` says that both sides are the same."""
    other = x1 if x2 is None else x2
    found = tuple(x1.new_empty(len(x1), len(other)) for _ in range(2))
    for i, j in itertools.product(blocks(len(x1), rows), blocks(len(other), rows)):
        if x2 is None and j.start > i.start:
            continue
        for whole, part in zip(found, tile(i, j, x2 is None and i == j), strict=True):
            whole[i, j] = part
            if x2 is None and i != j:
                whole[j, i] = part.mT
    return found


def convolutional(
    x1: Float[Tensor, "n c h w"],
    x2: Float[Tensor, "m _ h w"] | None = None,
    activation: str = "relu",
    bias: bool = True,
    delta: bool = False,
    strides: tuple[int, ...] = (2, 1, 2, 1),
    kernel: int = 5,
    padding: int = 1,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """(NNGP, NTK) of `models.ConvNet` with infinitely many channels, one output.

    K(p, q) and Theta(p, q) are between places p and q of the two images. From layer to layer K' is
    E[s(u) s(v)] and Theta' = E[s(u) s(v)] + Theta E[s'(u) s'(v)], + b, each the mean over the
    kernel's k x k shifts of both places, zero where one lies outside; in the end the mean over all
    places. With `delta` the weights are zero at the start but at the kernel's centre, as
    `models.delta` has them: what passes through them is that of the centre alone, the
    gradient by them still of all shifts. In memory (n, m, p, p) with p places after the first
    layer. Raises ValueError as `fully_connected` does. Source: Arora et al. (2019), section 4;
    Xiao et al. (2018), section 2.
    """
    require(activation in MEANS, f"activation must be one of {', '.join(MEANS)}: {activation!r}")
    other = x1 if x2 is None else x2
    _require_inputs(4, x1, x2)
    for name, value, least in (("kernel", kernel, 1), ("padding", padding, 0)):
        checks.whole(name, value, least)
    require(kernel % 2 == 1 or not delta, f"a kernel of side {kernel} has no centre")
    means, both = MEANS[activation], (x1, other)

    def shifts(centre: bool) -> list[tuple[int, int]]:
        alone, each = [(kernel // 2, kernel // 2)], itertools.product(range(kernel), repeat=2)
        return alone if centre else list(each)

    def shifted(k: Tensor, images: int, stride: int, centre: bool) -> Tensor:
        """Mean over shifts of the places of one or two images, the last axes (h, w) of each."""
        k = functional.pad(k, [padding] * (4 * images))
        h, w = (side - kernel + 1 for side in k.shape[-2:])
        parts = [
            k[..., *(slice(i, i + h, stride), slice(j, j + w, stride)) * images]
            for i, j in shifts(centre)
        ]
        return sum(parts) / len(parts)

    def first(centre: bool) -> Tensor:
        """<u, v> / size of the first layer's patches u and v, at all pairs of places."""
        chosen = [i * kernel + j for i, j in shifts(centre)]
        patches = [functional.unfold(x, kernel, 1, padding, strides[0]) for x in both]
        left, right = (u.unflatten(1, (-1, kernel**2))[:, :, chosen].flatten(1, 2) for u in patches)
        return torch.einsum("nfp,mfq->nmpq", left, right) / left.shape[1]

    def variances(x: Tensor) -> Tensor:
        return shifted(x.square().mean(1), 1, strides[0], delta)

    q, r = (variances(x) for x in both)
    sides = q.shape[1:]
    k, theta = (first(v).unflatten(3, sides).unflatten(2, sides) for v in (delta, False))
    theta = theta + bias
    for stride in strides[1:]:
        k, slope = means(k, q[:, None, :, :, None, None], r[:, None, None])
        theta = shifted(k, 2, stride, False) + shifted(theta * slope, 2, stride, delta) + bias
        k = shifted(k, 2, stride, delta)
        q, r = (shifted(means(v, v, v)[0], 1, stride, delta) for v in (q, r))
    k, slope = means(k, q[:, None, :, :, None, None], r[:, None, None])
    return k.mean((2, 3, 4, 5)), (k + theta * slope).mean((2, 3, 4, 5)) + bias


def _require_inputs(axes: int, x1: Tensor, x2: Tensor | None) -> None:
    given = {"x1": x1} if x2 is None else {"x1": x1, "x2": x2}
    checks.tensors(**given)
    checks.finite(**given)
    for name, x in given.items():
        require(x.dim() == axes, f"{name} must have {axes} axes, got {tuple(x.shape)}")
        require(x.shape[1:] == x1.shape[1:], "x1 and x2 differ in dimension")


class _Side(NamedTuple):
    """Inputs / sqrt d (n, d), for "relu" of unit length; variances K(x, x) (n,) at each layer."""

    x: Tensor
    variances: list[Tensor]

    @classmethod
    def of(cls, x: Tensor, depth: int, activation: str) -> "_Side":
        x = x / math.sqrt(x.shape[1])
        found = [torch.linalg.vecdot(x, x)]
        while len(found) < depth:
            q = found[-1]
            found.append(q if activation == "relu" else _arcsine(q, q, q)[0])
        if activation == "relu":
            apart = bool((found[0] > 0).all())
            require(apart, "an input of zeros lies at the kink of relu, which has no kernel there")
            x.div_(found[0].sqrt()[:, None])  # ours: the quotient above
        return cls(x, found)

    def rows(self, i: slice) -> "_Side":
        return _Side(self.x[i], [q[i] for q in self.variances])


def _relu(left: _Side, right: _Side, bias: bool, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Arc-cosine kernels of order one and zero, twice: the gain is sqrt 2, and keeps the variances.

    So the cosine alone changes from layer to layer. With m = -cosine and angle s = arccos m,
    m' = (s m - sqrt(1 - m^2)) / pi and t' = s t / pi + m' for t = -Theta / scale.
    """
    m = (left.x @ right.x.mT).neg_()
    scale = -torch.outer(left.variances[0].sqrt(), right.variances[0].sqrt())
    shift = 1 / scale if bias else 0
    t, one = m + shift, m.new_ones(())
    for _ in left.variances:
        m.clamp_(-1, 1)
        if diagonal:
            m.fill_diagonal_(-1)  # exactly: arccos is steep there
        s = torch.acos(m)
        sine = torch.addcmul(one, m, m, value=-1).sqrt_()
        m = sine.addcmul_(s, m, value=-1).mul_(-1 / math.pi)
        t = torch.addcmul(m, s, t, value=1 / math.pi)
        if bias:
            t += shift
    return m.mul_(scale), t.mul_(scale)


def _erf(left: _Side, right: _Side, bias: bool, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Arcsine kernel and its derivative."""
    k = left.x @ right.x.mT
    theta = k + bias
    for q, r in zip(left.variances, right.variances, strict=True):
        if diagonal:
            k.diagonal().copy_(q)  # exactly: arcsin is steep there
        k, slope = _arcsine(k, q[:, None], r)
        theta.mul_(slope).add_(k)
        if bias:
            theta += 1
    return k, theta


def _arcsine(k: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """E[erf(u) erf(v)] and E[erf'(u) erf'(v)] for covariance k, variances q and r."""
    q, r, c = 1 + 2 * q, 1 + 2 * r, (math.pi / 4) ** 2
    mean = torch.asin(k * (2 * q.rsqrt()) * r.rsqrt()).mul_(2 / math.pi)
    return mean, torch.addcmul(c * q * r, k, k, value=-4 * c).rsqrt_()


def _arccosine(k: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """E[s(u) s(v)] and E[s'(u) s'(v)] of s = sqrt 2 max(0, .)."""
    scale = q.sqrt() * r.sqrt()
    cosine = (k / scale.clamp(min=torch.finfo(k.dtype).tiny)).clamp_(-1, 1)
    angle = 1 - torch.acos(cosine) / math.pi
    sine = (1 - cosine.square()).sqrt()
    return scale * torch.addcmul(cosine * angle, sine, sine.new_tensor(1 / math.pi)), angle


_DUALS = {"relu": _relu, "erf": _erf}
MEANS = {"relu": _arccosine, "erf": _arcsine}
