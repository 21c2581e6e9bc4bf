"""Losses of one example: of the margin for two classes, and of a vector of outputs."""

import math
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from tangents import checks
from tangents.functional import require


class Loss(NamedTuple):
    """A loss of the margin u = y F, elementwise: its value and two derivatives."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]


def soft_hinge(beta: float = 20.0) -> Loss:
    """log(1 + exp(beta (1 - u))) / beta (Geiger et al. 2020, section 2.2)."""
    checks.number("beta", beta, above=True)

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

    S has full column rank r, and `whitened` is the vector w with S w = gradient. The leading axes
    of y may be absent; all else that does not fit raises ValueError. Which targets make sense says
    `targets`; they are checked where training begins, not at every call. Probabilities count as no
    smaller than the square root of the smallest number in S and w, whose entries stay finite.
    """

    value: Callable[[Tensor, Tensor], Float[Tensor, "*s n"]]
    gradient: Callable[[Tensor, Tensor], Float[Tensor, "*s n c"]]
    root: Callable[[Tensor], Float[Tensor, "*s n c r"]]  # S, from f
    whitened: Callable[[Tensor, Tensor], Float[Tensor, "*s n r"]]
    curved: bool  # whether H depends on f; else it is the identity
    smoothness: float  # the largest eigenvalue that H has at any f
    targets: str = "finite"  # what they must be, one of `TARGETS`


ROUNDED = torch.finfo(torch.float32).eps ** 0.5  # of targets that were in single precision once

TARGETS = {
    "finite": lambda y: y.isfinite(),
    "probabilities: in the range 0..1, with sum 1": lambda y: (
        (y >= 0) & ((y.sum(-1, keepdim=True) - 1).abs() <= ROUNDED)
    ),
    "probabilities, 0 or 1 or between": lambda y: (y >= 0) & (y <= 1),
}


def fitting(f: Tensor, y: Tensor) -> None:
    """ValueError unless y has the shape of the outputs f, or of those of one of their stack."""
    checks.tensors(f=f, y=y)
    least = min(2, f.dim())
    fits = least <= y.dim() <= f.dim() and f.shape[f.dim() - y.dim() :] == y.shape
    require(fits, f"y must have the shape of the outputs, {tuple(f.shape)}, got {tuple(y.shape)}")


def require_targets(loss: OutputLoss, y: Tensor) -> None:
    """ValueError where y are no targets of this loss."""
    checks.tensors(y=y)
    fits = bool(TARGETS[loss.targets](y).all())
    require(fits, f"the targets must be {loss.targets}, got {y.min():.3g} to {y.max():.3g}")


def _paired(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of outputs and targets, of such as fit."""

    @wraps(function)
    def of(f: Tensor, y: Tensor) -> Tensor:
        fitting(f, y)
        return function(f, y)

    return of


def _least(f: Tensor) -> float:
    """The logarithm of the smallest probability in S and w: the root of the smallest number."""
    return math.log(torch.finfo(f.dtype).tiny) / 2


def _complement(s: Tensor) -> Tensor:
    """Orthonormal columns (*s, c, c - 1) orthogonal to unit vectors with entries >= 0.

    Householder's reflection takes s to minus the axis of its largest entry: every entry then comes
    without cancellation, and column j is as small as s_j.
    """
    c, top = s.shape[-1], s.argmax(-1, keepdim=True)
    v = s.scatter_add(-1, top, torch.ones_like(s))
    eye = torch.eye(c, dtype=s.dtype, device=s.device)
    reflection = eye - v.unsqueeze(-1) * (v / v.gather(-1, top)).unsqueeze(-2)
    others = torch.arange(1, c, device=s.device)
    others = torch.where(others == top, 0, others)  # all but the largest
    return reflection.gather(-1, others.unsqueeze(-2).expand(*s.shape, -1))


def _half_log_softmax(f: Tensor) -> Tensor:
    return torch.log_softmax(f, -1).clamp(min=_least(f)) / 2


def _softmax_root(f: Tensor) -> Tensor:
    """diag(p) - p p^T = D (1 - s s^T) D, s = sqrt p, D = diag s: S = D Q with Q orthogonal to s."""
    s = _half_log_softmax(f).exp()
    return s.unsqueeze(-1) * _complement(s)


def _softmax_whitened(f: Tensor, y: Tensor) -> Tensor:
    """Q^T (s - y / s) = -Q^T (y / s), like 1 / sqrt(p) where the right class is unlikely."""
    half = _half_log_softmax(f)
    ratio = torch.where(y == 0, 0, y * (-half).exp())
    return -(_complement(half.exp()).mT @ ratio.unsqueeze(-1)).squeeze(-1)


SQUARED = OutputLoss(
    _paired(lambda f, y: (f - y).square().sum(-1) / 2),
    _paired(lambda f, y: f - y),
    lambda f: torch.eye(f.shape[-1], dtype=f.dtype, device=f.device).expand(*f.shape, -1),
    _paired(lambda f, y: f - y),
    curved=False,
    smoothness=1.0,
)
CROSS_ENTROPY = OutputLoss(
    _paired(lambda f, y: -(y * torch.log_softmax(f, -1)).sum(-1)),
    _paired(lambda f, y: torch.softmax(f, -1) - y),
    _softmax_root,
    _paired(_softmax_whitened),
    curved=True,
    smoothness=0.5,
    targets="probabilities: in the range 0..1, with sum 1",
)


def _binary_value(f: Tensor, y: Tensor) -> Tensor:
    each = -(y * F.logsigmoid(f) + (1 - y) * F.logsigmoid(-f))
    return each if f.dim() == 1 else each.sum(-1)


def _binary_root(f: Tensor) -> Tensor:
    """sqrt(p (1 - p)) on the diagonal."""
    f = f.unsqueeze(-1) if f.dim() == 1 else f
    f = f.clamp(_least(f), -_least(f))
    return torch.diag_embed(((F.logsigmoid(f) + F.logsigmoid(-f)) / 2).exp())


def _binary_whitened(f: Tensor, y: Tensor) -> Tensor:
    """(p - y) / sqrt(p (1 - p)) = (1 - y) e^(f / 2) - y e^(-f / 2)."""
    half = f.clamp(_least(f), -_least(f)) / 2
    w = (1 - y) * half.exp() - y * (-half).exp()
    return w.unsqueeze(-1) if f.dim() == 1 else w


BINARY_CROSS_ENTROPY = OutputLoss(  # of logits, one or several, (n,) as if (n, 1)
    _paired(_binary_value),
    _paired(lambda f, y: (1 - y) * torch.sigmoid(f) - y * torch.sigmoid(-f)),
    _binary_root,
    _paired(_binary_whitened),
    curved=True,
    smoothness=0.25,
    targets="probabilities, 0 or 1 or between",
)
OUTPUT_LOSSES = {
    "squared": SQUARED,
    "cross-entropy": CROSS_ENTROPY,
    "binary cross-entropy": BINARY_CROSS_ENTROPY,
}


def newton(loss: OutputLoss, f: Float[Tensor, "*s n c"], y: Tensor) -> Float[Tensor, "*s n c"]:
    """H^+ g, what a Newton step on each example's loss takes away from its outputs.

    Without bound where the right class of the cross-entropy is unlikely; ValueError where it is out
    of range, and for what are no targets.
    """
    fitting(f, y)
    require_targets(loss, y)
    root, w = loss.root(f), loss.whitened(f, y)
    require(not beyond(root, w).any(), BEYOND)
    return (root @ torch.linalg.solve(root.mT @ root, w.unsqueeze(-1))).squeeze(-1)


BEYOND = "the outputs are certain of what is wrong: the undamped step is out of range"


def beyond(root: Float[Tensor, "*s n c r"], w: Float[Tensor, "*s n r"]) -> Bool[Tensor, "*s n"]:
    """Where a probability that asks for a change is too small for S and w."""
    smallest = 2 * math.exp(_least(root) / 2)
    return ((torch.linalg.vector_norm(root, dim=-2) < smallest) & (w.abs() > 1)).any(-1)
