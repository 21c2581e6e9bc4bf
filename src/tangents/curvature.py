"""Second order: Hessians of the output and of the loss, and the Gauss-Newton step.

Losses are sums over examples, L = sum_i l(f_i, y_i): for a mean over n, multiply the damping by n.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from tangents.functional import Params
from tangents.jacobian import Tangent
from tangents.lanczos import Operator, eigenpairs
from tangents.linearised import column, matrix, uncolumn
from tangents.losses import OutputLoss


def output_hessian(module: nn.Module, params: Params, x: Tensor, output: int = 0) -> Operator:
    """Products with the Hessians of one output, d^2 f_k(x_i) / dw^2: vectors (n, p) to (n, p).

    For a stack of b networks (b, n, p). Parameters in the order of `params`, each flattened.
    """
    stacked = next(iter(params.values())).dim() > next(module.parameters()).dim()
    shapes = [v.shape[stacked:] for v in params.values()]

    def unflatten(v: Tensor) -> Params:
        parts = v.split([shape.numel() for shape in shapes])
        return {k: u.view(s) for k, u, s in zip(params, parts, shapes, strict=True)}

    def value(w: Params, xi: Tensor) -> Tensor:
        return functional_call(module, w, (xi.unsqueeze(0),))[0, output]

    def one(w: Params, xi: Tensor, v: Tensor) -> Tensor:
        found = jvp(lambda p: grad(value)(p, xi), (w,), (unflatten(v),))[1]
        return torch.cat([u.flatten() for u in found.values()])

    each = vmap(one, (None, 0, 0))
    each = vmap(each, (0, None, 0)) if stacked else each
    return lambda v: each(params, x, v)


def output_hessian_norm(
    module: nn.Module,
    params: Params,
    x: Tensor,
    output: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 200,
) -> Float[Tensor, "*s n"]:
    """Spectral norm of the Hessian of one output at each input x (n, ...), by Lanczos.

    `tolerance` is the residual of the eigenpair over the eigenvalue; the error of the norm itself
    is of its square. Source: Liu, Zhu & Belkin (2020), section 3.
    """
    p = sum(v.numel() for v in module.parameters())
    first = next(iter(params.values()))
    lead = first.shape[: first.dim() - next(module.parameters()).dim()]
    generator = Generator(x.device).manual_seed(0)
    start = torch.randn(p, generator=generator, dtype=first.dtype, device=x.device)
    operator = output_hessian(module, params, x, output)
    start = start.expand(*lead, len(x), p)
    values, _ = eigenpairs(operator, start, 1, True, tolerance, max_steps)
    return values[..., 0].abs()


def gauss_newton_product(
    tangent: Tangent, v: Params, root: Float[Tensor, "*s n c r"] | None = None
) -> Params:
    """J^T H J v, the Gauss-Newton matrix (GGN) of a loss with H = S S^T, `root` its factor S.

    Without it H = 1, as for the squared loss. Source: Schraudolph (2002), section 3.
    """
    A = tangent if root is None else tangent.mixed(root)
    return A.backward(A.forward(v))


class Step(NamedTuple):
    """A change of the parameters, how well it solves its equation, and the products that took."""

    params: Params
    residual: Float[Tensor, " *s"]  # of the system it solves, relative to the right-hand side
    products: int


def gauss_newton(
    tangent: Tangent,
    y: Float[Tensor, "*s n c"],
    loss: OutputLoss,
    hessian: bool = True,
    damping: float = 0.0,
    dense: bool = True,
    tolerance: float = 1e-6,
    max_products: int = 500,
) -> Step:
    """The Gauss-Newton step -(J^T H J + damping)^-1 J^T g, of minimum norm without damping.

    With p parameters and n c < p it equals -A^T (A A^T + damping)^-1 w, A = S^T J and S w = g, a
    system of the size of the kernel: J itself is never formed. `hessian=False` takes H = 1, the
    step that moves the linearised outputs along -g. `dense` forms A A^T and factors it (Cholesky),
    and refines the solution; else conjugate gradients on products, preconditioned by the mean
    kernel over outputs, to `tolerance`. Raises ValueError where A A^T + damping is singular or the
    tolerance is out of reach. Source: Buffelli et al. (2024), section 3; Cai et al. (2019).
    """
    _require(damping >= 0, f"damping must be >= 0, got {damping}")
    _require(y.shape == tangent.value.shape, f"y must have the shape of the outputs, "
             f"{tuple(tangent.value.shape)}, got {tuple(y.shape)}")  # fmt: skip
    f = tangent.value
    A = tangent.mixed(loss.root(f)) if hessian and loss.curved else tangent
    w = loss.whitened(f, y) if hessian else loss.gradient(f, y)

    def product(u: Tensor) -> Tensor:
        return A.product(u) + damping * u

    solve = _cholesky(A, damping) if dense else _mean_kernel(A, damping)
    size = torch.linalg.matrix_norm(w).clamp(min=torch.finfo(w.dtype).tiny)
    u, rest, products = torch.zeros_like(w), w, 0
    while True:  # the residual that the recurrence carries drifts: begin anew from the true one
        goal = tolerance * size
        more, count = _conjugate_gradients(product, rest, solve, goal, max_products - products)
        u, products = u + more, products + count + 1
        rest, before = w - product(u), rest
        residual = torch.linalg.matrix_norm(rest) / size
        if bool((residual <= tolerance).all()):
            return Step(A.backward(-u), residual, products)
        slow = torch.linalg.matrix_norm(rest) > 0.5 * torch.linalg.matrix_norm(before)
        _require(
            products < max_products and not bool((slow & (residual > tolerance)).any()),
            f"residual {residual.max():.2g} after {products} products, {tolerance:g} was asked for:"
            " the kernel is close to singular, more damping or precision is needed",
        )


def _cholesky(A: Tangent, damping: float):
    """Solves with the Cholesky factor of A A^T + damping."""
    c = A.value.shape[-1]
    kernel = matrix(A.gram())
    kernel.diagonal(dim1=-2, dim2=-1).add_(damping)
    root = _factor(kernel)

    def solve(u: Tensor) -> Tensor:
        return uncolumn(torch.cholesky_solve(column(u).unsqueeze(-1), root).squeeze(-1), c)

    return solve


def _mean_kernel(A: Tangent, damping: float):
    """Solves with the mean of the kernel over outputs, which is the kernel of a wide network."""
    mean = A.gram(outputs="trace") / A.value.shape[-1]
    shift = 1e-6 * mean.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None]
    mean.diagonal(dim1=-2, dim2=-1).add_(damping + shift)
    root = _factor(mean)
    return lambda u: torch.cholesky_solve(u, root)


def _factor(kernel: Tensor) -> Tensor:
    root, info = torch.linalg.cholesky_ex(kernel)
    _require(not info.any(), "the kernel is singular to rounding, damping is needed")
    return root


def _conjugate_gradients(product: Operator, w: Tensor, solve: Operator, goal, max_products):
    """u with |A u - w| <= goal, preconditioned by `solve`, for each network; and the products."""

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((-2, -1), keepdim=True)

    tiny = torch.finfo(w.dtype).tiny
    u, r, z = torch.zeros_like(w), w, solve(w)
    p, rz = z, inner(r, z)
    for products in range(max_products):
        if bool((torch.linalg.matrix_norm(r) <= goal).all()):
            return u, products
        Ap = product(p)
        step = rz / inner(p, Ap).clamp(min=tiny)
        u, r = u + step * p, r - step * Ap
        z = solve(r)
        rz, before = inner(r, z), rz
        p = z + (rz / before.clamp(min=tiny)) * p
    return u, max_products


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"gauss_newton: {message}")
