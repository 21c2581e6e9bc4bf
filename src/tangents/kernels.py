"""Kernel matrices: how far apart two are, what a fixed one learns, and infinite width."""

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Float[Tensor, "*#b n m"]  # one, or a stack
TILE = 256  # of a kernel in closed form: what one pass works on stays in the cache


def distance(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """|K - K0|_F / |K0|_F, the relative change of a kernel (Geiger et al. 2020, eq. 9)."""
    return torch.linalg.matrix_norm(k - k0) / torch.linalg.matrix_norm(k0)


def cosine(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """<K, K0>_F / (|K|_F |K0|_F), one for kernels that differ by a factor."""
    inner = (k * k0).sum((-2, -1))
    return inner / (torch.linalg.matrix_norm(k) * torch.linalg.matrix_norm(k0))


def alignment(k: Kernel, y: Float[Tensor, " n"]) -> Float[Tensor, "*b"]:
    """y^T K y / (|K|_F |y|^2), kernel-target alignment (Cristianini et al. 2001)."""
    return (k @ y) @ y / (torch.linalg.matrix_norm(k) * (y @ y))


def centred_alignment(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """Cosine of the doubly centred kernels: CKA (Cortes et al. 2012; Kornblith et al. 2019)."""
    return cosine(_centre(k), _centre(k0))


def regression(
    k: Float[Tensor, "*b n n"],
    k_test_train: Float[Tensor, "*b m n"],
    y: Float[Tensor, " n"],
    ridge: float = 0.0,
) -> Float[Tensor, "*b m"]:
    """Predictions (m,) of kernel regression: K_test,train (K + ridge)^-1 y.

    K is (n, n), K_test,train (m, n). Raises ValueError if K + ridge is not positive definite.
    """
    return (k_test_train @ torch.cholesky_solve(y[:, None], _cholesky(k, ridge)))[..., 0]


def features(
    k: Float[Tensor, "*b n n"], k_test_train: Float[Tensor, "*b m n"], jitter: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Explicit features (n, n) and (m, n) whose Gram matrices are K and K_test,train.

    The Cholesky factor R of K and K_test,train R^-T; `jitter` times the mean diagonal is added to
    K first. A linear model of these features under gradient flow is the frozen-kernel machine.
    Raises ValueError if K is not positive definite all the same.
    """
    mean = k.diagonal(dim1=-2, dim2=-1).mean(-1)
    root = _cholesky(k, jitter * mean)
    return root, torch.linalg.solve_triangular(root, k_test_train.mT, upper=False).mT


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
    another one, a depth below 1, unequal dimensions, and for "relu" an input of zeros. Source:
    Jacot et al. (2018), theorem 1; Cho & Saul (2009), section 2; Williams (1997), section 3.
    """
    _require(activation in _DUALS, f"activation must be one of {', '.join(_DUALS)}: {activation!r}")
    _require(depth >= 1, f"depth must be at least 1, got {depth}")
    _require(x2 is None or x1.shape[1:] == x2.shape[1:], "x1 and x2 differ in dimension")
    same = x2 is None
    sides = [_Side.of(x, depth, activation) for x in ([x1] if same else [x1, x2])]
    nngp = x1.new_empty(len(x1), len(sides[-1].x))
    ntk = torch.empty_like(nngp)
    starts = [range(0, len(side.x), TILE) for side in (sides[0], sides[-1])]
    for i, j in itertools.product(*starts):
        if same and j > i:
            continue
        i, j = slice(i, i + TILE), slice(j, j + TILE)
        tiles = _DUALS[activation](sides[0].rows(i), sides[-1].rows(j), bias, same and i == j)
        for whole, tile in zip((nngp, ntk), tiles, strict=True):
            whole[i, j] = tile
            if same and i != j:
                whole[j, i] = tile.mT
    return nngp, ntk


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
            _require(apart, "an input of zeros lies at the kink of relu, which has no kernel there")
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
    square = (1 + 2 * q) * (1 + 2 * r)
    mean = torch.asin(2 * k / square.sqrt()).mul_(2 / math.pi)
    return mean, (square - 4 * k * k).rsqrt_().mul_(4 / math.pi)


_DUALS = {"relu": _relu, "erf": _erf}


def _cholesky(k: Tensor, ridge: float | Tensor) -> Tensor:
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    shift = torch.as_tensor(ridge, dtype=k.dtype, device=k.device)
    root, info = torch.linalg.cholesky_ex(k + shift[..., None, None] * eye)
    if info.any():
        raise ValueError("the kernel matrix is not positive definite; a larger ridge is needed")
    return root


def _centre(k: Tensor) -> Tensor:
    return k - k.mean(-1, keepdim=True) - k.mean(-2, keepdim=True) + k.mean((-2, -1), keepdim=True)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
