"""Kernel matrices: how far apart two are, and what a fixed one learns."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Float[Tensor, "*#b n m"]  # one, or a stack


def distance(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """|K - K0|_F / |K0|_F, the relative change of a kernel (Geiger et al. 2020, eq. 9)."""
    return torch.linalg.matrix_norm(k - k0) / torch.linalg.matrix_norm(k0)


def cosine(k: Kernel, k0: Kernel) -> Float[Tensor, "*b"]:
    """<K, K0>_F / (|K|_F |K0|_F), one for kernels that differ by a factor."""
    inner = (k * k0).sum((-2, -1))
    return inner / (torch.linalg.matrix_norm(k) * torch.linalg.matrix_norm(k0))


def velocity(k: Kernel, k0: Kernel, time: float) -> Float[Tensor, "*b"]:
    """(1 - cosine) / time: how fast a kernel turns that was K0 a `time` before, whatever its size.

    Both as matrices, of all outputs (`linearised.matrix`). Source: Fort et al. (2020), kernel
    distance and velocity.
    """
    return (1 - cosine(k, k0)) / time


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


def ridge(
    k: Float[Tensor, "n n"], y: Float[Tensor, "n c"], shifts: Sequence[float | Tensor]
) -> Float[Tensor, "s n c"]:
    """The solutions a of (K + s) a = y for several shifts s > 0, by one decomposition.

    Of a Gram matrix of features, Z^T Z, with Z^T y they are the weights of ridge regression.
    Eigenvalues of K below zero count as zero.
    """
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
    Raises ValueError if K is not positive definite all the same.
    """
    mean = k.diagonal(dim1=-2, dim2=-1).mean(-1)
    root = _cholesky(k, jitter * mean)
    return root, torch.linalg.solve_triangular(root, k_test_train.mT, upper=False).mT


def _cholesky(k: Tensor, ridge: float | Tensor) -> Tensor:
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    shift = torch.as_tensor(ridge, dtype=k.dtype, device=k.device)
    root, info = torch.linalg.cholesky_ex(k + shift[..., None, None] * eye)
    if info.any():
        raise ValueError("the kernel matrix is not positive definite; a larger ridge is needed")
    return root


def _centre(k: Tensor) -> Tensor:
    return k - k.mean(-1, keepdim=True) - k.mean(-2, keepdim=True) + k.mean((-2, -1), keepdim=True)
