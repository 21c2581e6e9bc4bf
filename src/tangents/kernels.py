"""Kernel matrices: how far apart two are, and what a fixed one learns.

Real and floating-point, of one dtype. What is measured of a kernel that is not finite is NaN, what
would be learnt of it is refused. Each function raises ValueError for shapes that do not fit.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tangents import checks
from tangents.functional import require
from tangents.linearised import column, flow, matrix, uncolumn

Kernel = Float[Tensor, "*#b n m"]  # one, or a stack


def distance(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """|K - K0|_F / |K0|_F, the relative change of a kernel (Geiger et al. 2020, eq. 9)."""
    k, k0 = _pair(k, k0)
    return torch.linalg.matrix_norm(k - k0) / torch.linalg.matrix_norm(k0)


def cosine(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """<K, K0>_F / (|K|_F |K0|_F), one for kernels that differ by a factor."""
    k, k0 = _pair(k, k0)
    inner = (k * k0).sum((-2, -1))
    return inner / (torch.linalg.matrix_norm(k) * torch.linalg.matrix_norm(k0))


def velocity(k: Kernel, k0: Kernel, time: float) -> Float[Tensor, "*b"]:
    """(1 - cosine) / time: how fast a kernel turns that was K0 a `time` before, whatever its size.

    Both as matrices, of all outputs (`linearised.matrix`). Source: Fort et al. (2020), kernel
    distance and velocity.
    """
    checks.number("time", time, above=True)
    return (1 - cosine(k, k0)) / time


def alignment(k: Float[Tensor, "*b n n"], y: Float[Tensor, " n"]) -> Float[Tensor, "*b"]:
    """y^T K y / (|K|_F |y|^2), kernel-target alignment (Cristianini et al. 2001)."""
    checks.tensors(k=k, y=y)
    n = _side("k", k)
    checks.shaped("y", y, n)
    k, y = _whole(k), _whole(y)
    return (k @ y) @ y / (torch.linalg.matrix_norm(k) * (y @ y))


def centred_alignment(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """Cosine of the doubly centred kernels: CKA (Cortes et al. 2012; Kornblith et al. 2019)."""
    k, k0 = _pair(k, k0)
    return cosine(_centre(k), _centre(k0))


def regression(
    k: Float[Tensor, "*b n n c c"] | Float[Tensor, "*b n n"],
    k_test_train: Float[Tensor, "*b m n c c"] | Float[Tensor, "*b m n"],
    y: Float[Tensor, " n"] | Float[Tensor, "n c"],
    ridge: float | Tensor = 0.0,
) -> Tensor:
    """Predictions of kernel regression, K_test,train (K + ridge)^-1 y: (m,), for y (n, c) (m, c).

    One kernel for all outputs, (n, n) and (m, n), or the full kernels of c outputs, (n, n, c, c)
    and (m, n, c, c). A stack of b kernels has a leading axis, as then the predictions. Raises
    ValueError if K + ridge is not positive definite, not symmetric or not finite, and for a ridge
    below zero.
    """
    _solvable(k=k, k_test_train=k_test_train, y=y)
    full, two = k.dim() > 3, y.dim() == 2
    require(two or (y.dim() == 1 and not full), f"y must be (n, c){'' if full else ' or (n,)'} for "
            f"a kernel {tuple(k.shape)}, got {tuple(y.shape)}")  # fmt: skip
    n, c = len(y), y.shape[-1]
    ends = (c, c) if full else ()
    lead = k.shape[: k.dim() - 2 - len(ends)]
    require(len(lead) < 2, f"a kernel has 2 axes, 4 for all outputs, and may have one more for a "
            f"stack, got {tuple(k.shape)}")  # fmt: skip
    m = k_test_train.shape[len(lead) : len(lead) + 1]
    checks.shaped("k", k, *lead, n, n, *ends)
    checks.shaped("k_test_train", k_test_train, *lead, *m, n, *ends)
    checks.number("ridge", ridge)
    checks.finite(k_test_train=k_test_train, y=y)
    if full:
        a = torch.cholesky_solve(column(y).unsqueeze(-1), _cholesky(matrix(k), ridge))
        return uncolumn((matrix(k_test_train) @ a).squeeze(-1), c)
    f = k_test_train @ torch.cholesky_solve(y.reshape(n, -1), _cholesky(k, ridge))
    return f if two else f[..., 0]


class Ensemble(NamedTuple):
    """The Gaussian process that is the outputs of trained networks: see `ensemble`."""

    mean: Float[Tensor, "m c"]
    covariance: Float[Tensor, "m m"]  # of each output; the outputs are independent


def ensemble(
    ntk: Float[Tensor, "n n"],
    ntk_test_train: Float[Tensor, "m n"],
    nngp: Float[Tensor, "n n"],
    nngp_test_train: Float[Tensor, "m n"],
    nngp_test: Float[Tensor, "m m"],
    y: Float[Tensor, "n c"],
    time: float = math.inf,
) -> Ensemble:
    """Mean and covariance at test inputs of linearised networks after gradient flow from random
    weights: f_t = f_0 - A (f_0(train) - y) with A = Theta_test,train (1 - exp(-Theta t)) Theta^-1,
    where f_0 has covariance K (the NNGP). The mean is A y, the covariance
    K_test - A K_train,test - K_test,train A^T + A K A^T.

    Time is that of |f - y|^2 / 2, summed over examples; an infinite one fits what Theta can fit,
    where its eigenvalues are not rounding. Raises ValueError for
    kernels that are not symmetric or not finite. Source: Lee et al. (2019), eqs. 14-16.
    """
    given = dict(ntk=ntk, ntk_test_train=ntk_test_train, nngp=nngp, nngp_test_train=nngp_test_train,
                 nngp_test=nngp_test, y=y)  # fmt: skip
    _solvable(**given)
    require(y.dim() == 2, f"y must be (n, c), got {tuple(y.shape)}")
    n, m = len(y), len(nngp_test)
    for name, shape in (("ntk", (n, n)), ("ntk_test_train", (m, n)), ("nngp", (n, n)),
                        ("nngp_test_train", (m, n)), ("nngp_test", (m, m))):  # fmt: skip
        checks.shaped(name, given[name], *shape)
        (checks.finite if "train" in name else checks.symmetric)(**{name: given[name]})
    checks.finite(y=y)
    if time != math.inf:
        checks.number("time", time)
    values, vectors = torch.linalg.eigh(ntk)
    gain = flow(values.new_tensor(time))(values.clamp(min=0))
    A = (ntk_test_train @ vectors * gain) @ vectors.mT
    crossed = A @ nngp_test_train.mT
    return Ensemble(A @ y, nngp_test - crossed - crossed.mT + A @ nngp @ A.mT)


def ridge(
    k: Float[Tensor, "n n"], y: Float[Tensor, "n c"], shifts: Sequence[float | Tensor]
) -> Float[Tensor, "s n c"]:
    """The solutions a of (K + s) a = y for several shifts s > 0, by one decomposition.

    Of a Gram matrix of features, Z^T Z, with Z^T y they are the weights of ridge regression.
    Eigenvalues of K below zero count as zero. Raises ValueError for a K that is not symmetric or
    not finite, and for a shift that is not positive.
    """
    _solvable(k=k, y=y)
    require(y.dim() == 2, f"y must be (n, c), got {tuple(y.shape)}")
    checks.shaped("k", k, len(y), len(y))
    checks.symmetric(k=k)
    checks.finite(y=y)
    require(len(shifts) > 0, "there are no shifts")
    for shift in shifts:
        checks.number("a shift", shift, above=True)
    values, vectors = torch.linalg.eigh(k)
    projected = vectors.mT @ y
    shifted = values.clamp(min=0)[:, None]
    return torch.stack([vectors @ (projected / (shifted + s)) for s in shifts])


def features(
    k: Float[Tensor, "*b n n"], k_test_train: Float[Tensor, "*b m n"], jitter: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Explicit features (n, n) and (m, n) whose Gram matrices are K and K_test,train.

    The Cholesky factor R of K and K_test,train R^-T; `jitter` times the mean diagonal is added to
    K first. A linear model of these features under gradient flow is the frozen-kernel machine.
    Raises ValueError if K is not positive definite all the same, not symmetric or not finite.
    """
    _solvable(k=k, k_test_train=k_test_train)
    n, lead = _side("k", k), k.shape[:-2]
    m = k_test_train.shape[len(lead) : len(lead) + 1]
    checks.shaped("k_test_train", k_test_train, *lead, *m, n)
    checks.finite(k_test_train=k_test_train)
    checks.number("jitter", jitter)
    mean = k.diagonal(dim1=-2, dim2=-1).mean(-1)
    root = _cholesky(k, jitter * mean)
    return root, torch.linalg.solve_triangular(root, k_test_train.mT, upper=False).mT


def _pair(k: Tensor, k0: Tensor) -> tuple[Tensor, Tensor]:
    """Two kernels that can be compared entry by entry."""
    checks.tensors(k=k, k0=k0)
    fits = min(k.dim(), k0.dim()) >= 2 and k.shape[-2:] == k0.shape[-2:]
    require(fits, f"kernels must be (n, m) both, got {tuple(k.shape)} and {tuple(k0.shape)}")
    lead = k.shape[:-2], k0.shape[:-2]
    stacks = lead[0] == lead[1] or not all(lead)
    require(stacks, f"stacks must be of one length, got {tuple(k.shape)} and {tuple(k0.shape)}")
    return _whole(k), _whole(k0)


def _solvable(**given: Tensor) -> None:
    checks.tensors(**given)
    name, v = next(iter(given.items()))
    require(v.dtype.itemsize >= 4, f"{name} must be in single precision at least, got {v.dtype}")


def _side(name: str, k: Tensor) -> int:
    square = k.dim() >= 2 and k.shape[-2] == k.shape[-1]
    require(square, f"{name} must be square, got {tuple(k.shape)}")
    return k.shape[-1]


def _whole(v: Tensor) -> Tensor:
    """In single precision at least: sums of squares leave the range of the half ones."""
    return v.float() if v.dtype.itemsize < 4 else v


def _cholesky(k: Tensor, ridge: float | Tensor) -> Tensor:
    checks.symmetric(k=k)
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    shift = torch.as_tensor(ridge, dtype=k.dtype, device=k.device)
    root, info = torch.linalg.cholesky_ex(k + shift[..., None, None] * eye)
    if info.any():
        raise ValueError("the kernel matrix is not positive definite; a larger ridge is needed")
    return root


def _centre(k: Tensor) -> Tensor:
    return k - k.mean(-1, keepdim=True) - k.mean(-2, keepdim=True) + k.mean((-2, -1), keepdim=True)
