"""Eigenvalues of symmetric operators that are known by their products alone.

An operator takes vectors (*s, n) to (*s, n); leading axes are independent problems of one size,
as the networks of a stack are.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tangents import checks
from tangents.checks import require
from tangents.inputs import taken

Operator = Callable[[Float[Tensor, "*s n"]], Float[Tensor, "*s n"]]


class Krylov(NamedTuple):
    """Orthonormal rows V, and T = V A V^T, tridiagonal; `rest` is the norm of A v_k - V^T T e_k."""

    basis: Float[Tensor, "*s k n"]  # rows v_1 .. v_k
    matrix: Float[Tensor, "*s k k"]
    rest: Float[Tensor, " *s"]
    following: Float[Tensor, "*s n"]  # v_{k+1}, from which the recurrence can go on


def lanczos(
    operator: Operator, start: Float[Tensor, "*s n"], steps: int, begun: Krylov | None = None
) -> Krylov:
    """`steps` steps of the Lanczos recurrence (at most n), orthogonalised twice against all before.

    Where the space closes early it goes on from a random vector outside it. It continues what was
    `begun` with fewer steps. ValueError for a start of zeros, and an operator that is not finite,
    or shows that it is not symmetric. Source: Golub & Van Loan (2013), section 10.1 and 10.3.
    """
    checks.tensors(start=start)
    require(start.dim() > 0, "start must be a vector, or several in its leading axes")
    checks.sizes(steps=steps)
    *s, n = start.shape
    count = start.numel() // n  # problems on one axis: with more, products would copy the basis
    steps, first = min(steps, n), 0 if begun is None else begun.basis.shape[-2]
    generator = Generator(start.device).manual_seed(first)
    basis, matrix = start.new_zeros(count, steps, n), start.new_zeros(count, steps, steps)
    scale, rest = start.new_zeros(count), start.new_zeros(count)
    length = torch.linalg.vector_norm(start, dim=-1, keepdim=True)
    usable = bool(((length > 0) & length.isfinite()).all())
    require(usable, "start must be finite, and no vector of zeros")
    v = start / length
    if begun is not None:
        checks.kind("begun", begun, Krylov)
        fits = first <= steps and begun.basis.shape == (*s, first, n)
        require(fits, f"begun must have at most {steps} steps of vectors like the start's, "
                f"{tuple(start.shape)}, got {tuple(begun.basis.shape)}")  # fmt: skip
        basis[:, :first] = begun.basis.reshape(count, first, n)
        matrix[:, :first, :first] = begun.matrix.reshape(count, first, first)
        scale, v = torch.linalg.matrix_norm(matrix, 2), begun.following
        rest = begun.rest.reshape(count)
    v = v.reshape(count, n)
    for k in range(first, steps):
        if k:
            matrix[:, k - 1, k] = matrix[:, k, k - 1] = rest
        basis[:, k] = v
        with taken(v, "the operator"):
            w = operator(v.view(*s, n))
        checks.shaped("what the operator gives", w, *s, n)
        w = w.reshape(count, n)
        require(bool(w.isfinite().all()), "the operator gave values that are not finite")
        scale = torch.maximum(scale, torch.linalg.vector_norm(w, dim=-1))
        if k:
            off = (torch.linalg.vecdot(basis[:, k - 1], w) - rest).abs()
            require(bool((off <= checks.SYMMETRIC * scale).all()), "the operator is not symmetric")
        known = basis[:, : k + 1]
        matrix[:, k, k] = torch.linalg.vecdot(v, w)
        w = _outside(_outside(w, known), known)
        rest = torch.linalg.vector_norm(w, dim=-1)
        closed = rest <= 10 * n**0.5 * torch.finfo(w.dtype).eps * scale
        rest = torch.where(closed, 0, rest)
        if closed.any() and k + 1 < n:
            noise = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)
            w = torch.where(closed[:, None], _outside(_outside(noise, known), known), w)
        v = w / torch.linalg.vector_norm(w, dim=-1, keepdim=True)
    return Krylov(
        basis.view(*s, steps, n), matrix.view(*s, steps, steps), rest.view(s), v.view(*s, n)
    )


def eigenpairs(
    operator: Operator,
    start: Float[Tensor, "*s n"],
    count: int = 1,
    magnitude: bool = False,
    tolerance: float | None = None,
    max_steps: int = 300,
) -> tuple[Float[Tensor, "*s count"], Float[Tensor, "*s count n"]]:
    """The `count` largest eigenvalues, in order, and their eigenvectors as rows.

    The largest in magnitude, if asked. `start` is any vector that is not orthogonal to them; the
    residual |A v - lambda v| is at most `tolerance` |lambda_1| (by default the square root of the
    precision), else ValueError after `max_steps` products. One start has one direction for each
    eigenvalue: of a multiple one, copies are found only where the recurrence closes early.
    """
    checks.tensors(start=start)
    checks.sizes(count=count, max_steps=max_steps)
    if tolerance is not None:
        checks.number("tolerance", tolerance, above=True)
    *_, n = start.shape
    most = min(n, max_steps)
    require(0 < count <= most, f"count must lie in 1..{most}, got {count}")
    tolerance = torch.finfo(start.dtype).eps ** 0.5 if tolerance is None else tolerance
    steps, krylov = min(most, 2 * count + 10), None
    while True:
        krylov = lanczos(operator, start, steps, krylov)
        values, vectors = torch.linalg.eigh(krylov.matrix)
        order = (values.abs() if magnitude else values).argsort(descending=True)[..., :count]
        values = values.gather(-1, order)
        vectors = vectors.gather(-1, order.unsqueeze(-2).expand(*vectors.shape[:-1], -1))
        residual = krylov.rest.unsqueeze(-1) * vectors[..., -1, :].abs()
        if bool((residual <= tolerance * values.abs().amax(-1, keepdim=True)).all()):
            return values, vectors.mT @ krylov.basis
        require(steps < most, f"no {count} eigenpairs within {max_steps} products")
        steps = min(most, steps + max(4, steps // 4))


def density(
    operator: Operator, starts: Float[Tensor, "q *s n"], steps: int
) -> tuple[Float[Tensor, "*s m"], Float[Tensor, "*s m"]]:
    """The spectral density by stochastic Lanczos quadrature: m = q steps values and their weights.

    sum_i w_i g(lambda_i) estimates the mean of g over the eigenvalues, from q random vectors with
    independent entries of mean zero and one variance. Source: Ghorbani et al. (2019), section 2.
    """
    checks.tensors(starts=starts)
    require(starts.dim() > 1, f"starts must be (q, *s, n), got {tuple(starts.shape)}")
    found = []
    for start in starts:
        values, vectors = torch.linalg.eigh(lanczos(operator, start, steps).matrix)
        found.append((values, vectors[..., 0, :].square() / len(starts)))
    values, weights = (torch.cat(each, -1) for each in zip(*found, strict=True))
    return values, weights


def _outside(w: Tensor, basis: Tensor) -> Tensor:
    """The part of w (q, n) orthogonal to the rows of the basis (q, k, n)."""
    inside = basis @ w.unsqueeze(-1)
    return torch.baddbmm(w.unsqueeze(-1), basis.mT, inside, alpha=-1).squeeze(-1)
