"""Losses of one example: of the margin for two classes, and of a vector of outputs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Loss(NamedTuple):
    """A loss of the margin u = y F, elementwise: its value and two derivatives."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]


def soft_hinge(beta: float = 20.0) -> Loss:
    """log(1 + exp(beta (1 - u))) / beta (Geiger et al. 2020, section 2.2)."""

    def curvature(u):
        s = torch.sigmoid(beta * (1 - u))
        return beta * s * (1 - s)

    return Loss(
        lambda u: F.softplus(beta * (1 - u), threshold=50.0) / beta,
        lambda u: -torch.sigmoid(beta * (1 - u)),
        curvature,
    )


LOSSES = {
    "soft_hinge": soft_hinge(),
    "hinge": Loss(lambda u: F.relu(1 - u), lambda u: -(u < 1).to(u.dtype), torch.zeros_like),
    "square": Loss(lambda u: (1 - u).square() / 2, lambda u: u - 1, torch.ones_like),
}


class OutputLoss(NamedTuple):
    """A loss l(f, y) of outputs f and targets y, both (*s, n, c), and its Hessian H = S S^T in f.

    S has full column rank r, and `whitened` is the vector w with S w = gradient. The targets of the
    cross-entropy are probabilities: each >= 0, with sum 1 over the outputs.
    """

    value: Callable[[Tensor, Tensor], Float[Tensor, "*s n"]]
    gradient: Callable[[Tensor, Tensor], Float[Tensor, "*s n c"]]
    root: Callable[[Tensor], Float[Tensor, "*s n c r"]]  # S, from f
    whitened: Callable[[Tensor, Tensor], Float[Tensor, "*s n r"]]
    curved: bool  # whether H depends on f; else it is the identity
    smoothness: float  # the largest eigenvalue that H has at any f


def _complement(s: Tensor) -> Tensor:
    """Orthonormal columns (*s, c, c - 1) orthogonal to unit vectors with a first entry >= 0."""
    v = s.clone()
    v[..., 0] += 1  # Householder's reflection that takes s to minus the first axis
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    return (eye - v.unsqueeze(-1) * (v / v[..., :1]).unsqueeze(-2))[..., 1:]


def _softmax_root(f: Tensor) -> Tensor:
    """diag(p) - p p^T = D (1 - s s^T) D, s = sqrt p, D = diag s: S = D Q with Q orthogonal to s."""
    s = torch.softmax(f, -1).sqrt()
    return s.unsqueeze(-1) * _complement(s)


def _softmax_whitened(f: Tensor, y: Tensor) -> Tensor:
    """Q^T (s - y / s) = -Q^T (y / s), like 1 / sqrt(p) where the right class is unlikely."""
    half = torch.log_softmax(f, -1) / 2
    ratio = torch.where(y == 0, 0, y * (-half).exp())
    return -(_complement(half.exp()).mT @ ratio.unsqueeze(-1)).squeeze(-1)


SQUARED = OutputLoss(
    lambda f, y: (f - y).square().sum(-1) / 2,
    lambda f, y: f - y,
    lambda f: torch.eye(f.shape[-1], dtype=f.dtype, device=f.device).expand(*f.shape, -1),
    lambda f, y: f - y,
    curved=False,
    smoothness=1.0,
)
CROSS_ENTROPY = OutputLoss(
    lambda f, y: -(y * torch.log_softmax(f, -1)).sum(-1),
    lambda f, y: torch.softmax(f, -1) - y,
    _softmax_root,
    _softmax_whitened,
    curved=True,
    smoothness=0.5,
)
OUTPUT_LOSSES = {"squared": SQUARED, "cross-entropy": CROSS_ENTROPY}


def newton(loss: OutputLoss, f: Float[Tensor, "*s n c"], y: Tensor) -> Float[Tensor, "*s n c"]:
    """H^+ g, what a Newton step on each example's loss takes away from its outputs.

    Without bound where the right class of the cross-entropy is unlikely.
    """
    root, whitened = loss.root(f), loss.whitened(f, y).unsqueeze(-1)
    return (root @ torch.linalg.solve(root.mT @ root, whitened)).squeeze(-1)
