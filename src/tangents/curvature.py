"""Second order: Hessians of the output and of the loss, and the Gauss-Newton step.

Losses are sums over examples, L = sum_i l(f_i, y_i): for a mean over n, multiply the damping by n.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import grad, jvp, vmap

from tangents import checks
from tangents.empirical import jacobian
from tangents.factored import Jacobian
from tangents.functional import (
    Params,
    call,
    differentiable,
    hooked,
    require,
    select,
    stacked,
)
from tangents.inputs import taken
from tangents.lanczos import Operator, eigenpairs
from tangents.linearised import column, matrix, uncolumn
from tangents.losses import BEYOND, OutputLoss, beyond, require_targets


def output_hessian(module: nn.Module, params: Params, x: Tensor, output: int = 0) -> Operator:
    """Products with the Hessians of one output, d^2 f_k(x_i) / dw^2: vectors (n, p) to (n, p).

    For a stack of b networks (b, n, p). Parameters in the order of `params`, each flattened.
    """
    b = stacked(module, params)
    checks.examples(x=x)
    shapes = [v.shape[bool(b) :] for v in params.values()]
    size = (*([b] if b else []), len(x), sum(shape.numel() for shape in shapes))
    with torch.no_grad(), taken(x):
        c = call(module, select(params, 0) if b else params, x[:1])[0].numel()
    _require_output(output, c)

    def unflatten(v: Tensor) -> Params:
        parts = v.split([shape.numel() for shape in shapes])
        return {k: u.view(s) for k, u, s in zip(params, parts, shapes, strict=True)}

    def value(w: Params, xi: Tensor) -> Tensor:
        return call(module, w, xi.unsqueeze(0)).flatten()[output]

    def one(w: Params, xi: Tensor, v: Tensor) -> Tensor:
        found = jvp(lambda p: grad(value)(p, xi), (w,), (unflatten(v),))[1]
        return torch.cat([u.flatten() for u in found.values()])

    each = vmap(one, (None, 0, 0))
    each = vmap(each, (0, None, 0)) if b else each

    def apart(w: Params, v: Tensor) -> Tensor:
        return torch.stack([one(w, xi, vi) for xi, vi in zip(x, v, strict=True)])

    def product(v: Tensor) -> Tensor:
        checks.tensors(vectors=v, params=next(iter(params.values())))
        checks.shaped("vectors", v, *size)
        with differentiable(module):
            try:
                return each(params, x, v)
            except RuntimeError:  # of recurrent layers, which vmap does not take
                if not b:
                    return apart(params, v)
                return torch.stack([apart(select(params, i), v[i]) for i in range(b)])

    return product


def _require_output(output: int, c: int) -> None:
    checks.whole("output", output)
    require(output < c, f"output must lie in 0..{c - 1}, got {output}")


class Compressed(NamedTuple):
    """The Hessians of one output on the few directions that matter: see `compressed_hessian`."""

    operator: Operator  # (*s, n, q) to (*s, n, q)
    size: int  # q
    lift: Callable[[Tensor], Tensor]  # (*s, n, q) to the vectors (*s, n, p) they stand for


def compressed_hessian(
    module: nn.Module, params: Params, x: Tensor, output: int = 0
) -> Compressed | None:
    """The Hessians d^2 f_k(x_i) / dw^2, restricted to a small space that holds their ranges.

    A linear layer that acts on one vector a gives its weight the gradient d a^T, d = df/dz. Along
    any direction that changes by d' a^T + d a'^T: the Hessian's range lies among the matrices
    u a^T + d w^T, of out + in numbers instead of out times in. `lift` is an isometry up to its
    kernel, so the eigenvalues are those of the Hessian, and zeros. None where a parameter belongs
    to no such layer.
    """
    layers = dict(module.named_modules())
    J = jacobian(module, params, x)
    found = J.factors
    _require_output(output, J.value.shape[-1])
    vectors = (f.a is not None and f.a.is_floating_point() and f.b.shape[-2] == 1 for f in found)
    if not all(vectors) or {n for f in found for n in (f.weight, f.bias) if n} != set(params):
        return None
    owned = [layers[f.weight.rpartition(".")[0]] for f in found]
    linear = all(isinstance(layer, nn.Linear) for layer in owned)
    whole = J.value.dim() == 2 or all(hasattr(layer, "scale") for layer in owned)
    if not (linear and whole):  # other layers, and such as take no stack by themselves
        return None
    sides, sizes = [], []
    for f in found:
        a, d = f.a[..., 0, :], f.b[..., output, :, 0, :]
        sides.append(tuple(v / _length(v) for v in (a, d)))
        sizes += [d.shape[-1], a.shape[-1], d.shape[-1] if f.bias else 0]

    def pieces(v: Tensor) -> Iterator[tuple]:
        """Each factor's place, its a and d, and of v the u, the w orthogonal to a, and the bias."""
        parts = iter(v.split(sizes, -1))
        for i, (a, d) in enumerate(sides):
            u, w, bias = next(parts), next(parts), next(parts)
            yield i, a, d, u, w - a * _dot(a, w), bias

    def value(v: Tensor) -> Tensor:
        def add(i, a, d, u, w, bias):
            def hook(layer, inputs, z):
                x = inputs[0].expand(*z.shape[:-1], -1).reshape(a.shape)
                more = found[i].scale * (u * _dot(a, x) + d * _dot(w, x))
                return z + (more + bias if found[i].bias else more).view_as(z)

            return owned[i].register_forward_hook(hook)

        with hooked([add(*piece) for piece in pieces(v)]):
            return call(module, params, x).reshape(J.value.shape)[..., output].sum()

    def lift(v: Tensor) -> Tensor:
        whole = {}
        for i, a, d, u, w, bias in pieces(v):
            rank_two = u.unsqueeze(-1) * a.unsqueeze(-2) + d.unsqueeze(-1) * w.unsqueeze(-2)
            whole |= {found[i].weight: rank_two, found[i].bias: bias.unsqueeze(-1)}
        return torch.cat([whole[name].flatten(-2) for name in params], -1)

    with torch.enable_grad():  # the graph of the gradient serves for every product
        zero = J.value.new_zeros(*J.value.shape[:-1], sum(sizes), requires_grad=True)
        (slope,) = torch.autograd.grad(value(zero), zero, create_graph=True)
    constant = not slope.requires_grad  # of a model that is affine in its parameters

    def operator(v: Tensor) -> Tensor:
        if constant:
            return torch.zeros_like(v)
        return torch.autograd.grad(slope, zero, v, retain_graph=True)[0]

    return Compressed(operator, sum(sizes), lift)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _length(v: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return length.clamp(min=torch.finfo(v.dtype).tiny)


def output_hessian_top(
    module: nn.Module,
    params: Params,
    x: Tensor,
    output: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 200,
) -> tuple[Float[Tensor, "*s n"], Float[Tensor, "*s n p"]]:
    """The eigenvalue of largest magnitude of the Hessian of one output at each input x (n, ...).

    And its unit eigenvector, by Lanczos: `tolerance` is the residual of the eigenpair over the
    eigenvalue, and the error of the eigenvalue is of its square. ValueError after `max_steps`
    products, and for an output that does not exist. Parameters in the order of `params`, each
    flattened.
    """
    values, vectors, lift = _top(module, params, x, output, tolerance, max_steps)
    return values, lift(vectors)


def output_hessian_norm(
    module: nn.Module,
    params: Params,
    x: Tensor,
    output: int = 0,
    tolerance: float = 1e-3,
    max_steps: int = 200,
) -> Float[Tensor, "*s n"]:
    """Spectral norm of the Hessian of one output at each input x (n, ...).

    Arguments and errors as for `output_hessian_top`. Source: Liu, Zhu & Belkin (2020), section 3.
    """
    return _top(module, params, x, output, tolerance, max_steps)[0].abs()


def _top(module, params: Params, x: Tensor, output: int, tolerance: float, max_steps: int):
    """The top eigenvalues, their eigenvectors in the space searched, and the lift out of it."""
    checks.number("tolerance", tolerance, above=True)
    checks.whole("max_steps", max_steps, 1)
    b, first = stacked(module, params), next(iter(params.values()))
    lead = (b,) if b else ()
    small = compressed_hessian(module, params, x, output)
    size = small.size if small else sum(v.numel() for v in params.values()) // max(b, 1)
    operator = small.operator if small else output_hessian(module, params, x, output)
    generator = Generator(x.device).manual_seed(0)
    start = torch.randn(size, generator=generator, dtype=first.dtype, device=x.device)
    ends = start.expand(*lead, len(x), size)
    values, vectors = eigenpairs(operator, ends, 1, True, tolerance, max_steps)
    return values[..., 0], vectors[..., 0, :], small.lift if small else lambda v: v


def gauss_newton_product(
    J: Jacobian, v: Params, root: Float[Tensor, "*s n c r"] | None = None
) -> Params:
    """J^T H J v, the Gauss-Newton matrix (GGN) of a loss with H = S S^T, `root` its factor S.

    Without it H = 1, as for the squared loss. Source: Schraudolph (2002), section 3.
    """
    A = J if root is None else J.left_multiply(root)
    return A.vjp(A.jvp(v))


class Step(NamedTuple):
    """A change of the parameters, how well it solves its equation, and the products that took."""

    params: Params
    residual: Float[Tensor, " *s"]  # of the system it solves, relative to the right-hand side
    products: int


def gauss_newton(
    J: Jacobian,
    y: Float[Tensor, "*s n c"],
    loss: OutputLoss,
    hessian: bool = True,
    damping: float = 0.0,
    dense: bool = True,
    tolerance: float = 1e-6,
    max_products: int = 500,
    relative: bool = False,
) -> Step:
    """The Gauss-Newton step -(J^T H J + damping)^-1 J^T g, of minimum norm without damping.

    With p parameters and n c < p it equals -A^T (A A^T + damping)^-1 w, A = S^T J and S w = g, a
    system of the size of the kernel: J itself is never formed. `hessian=False` takes H = 1, the
    step that moves the linearised outputs along -g. `dense` forms A A^T and factors it (Cholesky),
    and refines the solution; else conjugate gradients on products, preconditioned by the mean
    kernel over outputs, to `tolerance`. `relative`: the damping is one of the mean diagonal of
    A A^T. Raises ValueError where A A^T + damping is singular, the tolerance is out of reach, an
    undamped step out of range, or `y` is no target of this loss. Source: Buffelli et al. (2024),
    section 3; Cai et al. (2019).
    """
    checks.number("damping", damping)
    checks.number("tolerance", tolerance, above=True)
    checks.whole("max_products", max_products, 1)
    checks.tensors(y=y, outputs=J.value)
    require(y.shape == J.value.shape, f"y must have the shape of the outputs, "
             f"{tuple(J.value.shape)}, got {tuple(y.shape)}")  # fmt: skip
    require_targets(loss, y)
    f = J.value
    require(f.dtype.itemsize >= 4, f"outputs must be in single precision at least, got {f.dtype}")
    checks.finite(outputs=f)
    A, S, w = J, None, loss.gradient(f, y)
    if hessian and loss.curved:
        S, w = loss.root(f), loss.whitened(f, y)
        A = J.left_multiply(S)

    ridge = w.new_full(w.shape[:-2], damping)
    if relative:
        ridge = ridge * A.diagonal().mean((-2, -1))
    if S is not None and bool((lost := beyond(S, w)).any()):
        scale = J.diagonal().amax((-2, -1))
        require(bool((ridge >= torch.finfo(w.dtype).eps * scale)[lost.any(-1)].all()), BEYOND)

    u, residual, products = _solved(A, S, w, ridge, dense, tolerance, max_products)
    return Step(A.vjp(-u), residual, products)


def _solved(A: Jacobian, S: Tensor | None, w, ridge, dense: bool, tolerance: float, most: int):
    """u with (A A^T + ridge) u = w, the residual relative to w, and the products that took.

    w is large where an output is surely wrong, and all others must come right beside it: what the
    ridge alone gives there is taken first, in double precision, and the rest is solved for.
    """

    def product(u: Tensor) -> Tensor:
        return A.ntk_vp(u.to(w)).to(u) + ridge[..., None, None] * u

    tiny = torch.finfo(w.dtype).tiny

    def length(v: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(v).clamp(min=tiny)

    def outputs(v: Tensor) -> Tensor:
        return v if S is None else (S.to(v) @ v.unsqueeze(-1)).squeeze(-1)

    solve = _cholesky(A, ridge) if dense else _mean_kernel(A, ridge)
    whole, products = w.double(), 0
    large = whole.abs() > torch.finfo(w.dtype).eps ** -0.5
    u = torch.where(large, whole / (A.diagonal() + ridge[..., None, None]), 0)
    rest = first = whole - product(u) if bool(large.any()) else whole
    while True:  # the residual that the recurrence carries drifts: begin anew from the true one
        goal = torch.minimum(tolerance * length(first), length(rest) / 2).clamp(min=tiny)
        more, count = _conjugate_gradients(product, rest.to(w), solve, goal, most - products)
        u, products = u + more, products + count + 1
        rest, before = whole - product(u), rest
        left, off = length(rest) / length(whole), length(outputs(rest)) / length(outputs(whole))
        residual = torch.minimum(length(rest) / length(first), torch.maximum(left, off))
        if bool((residual <= tolerance).all()):
            return u.to(w), residual.to(w), products
        slow = length(rest) > 0.5 * length(before)
        require(
            products < most and not bool((slow & (residual > tolerance)).any()),
            f"residual {residual.max():.2g} after {products} products, {tolerance:g} was asked for:"
            " the kernel is close to singular, more damping or precision is needed",
        )


def _cholesky(A: Jacobian, ridge: Tensor):
    """Solves with the Cholesky factor of A A^T + ridge."""
    c = A.value.shape[-1]
    kernel = matrix(A.gram())
    kernel.diagonal(dim1=-2, dim2=-1).add_(ridge[..., None])
    root = _factor(kernel)

    def solve(u: Tensor) -> Tensor:
        return uncolumn(torch.cholesky_solve(column(u).unsqueeze(-1), root).squeeze(-1), c)

    return solve


def _mean_kernel(A: Jacobian, ridge: Tensor):
    """Solves with the mean of the kernel over outputs, which is the kernel of a wide network."""
    mean = A.gram(outputs="trace") / A.value.shape[-1]
    shift = 1e-6 * mean.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None]
    mean.diagonal(dim1=-2, dim2=-1).add_(ridge[..., None] + shift)
    root = _factor(mean)
    return lambda u: torch.cholesky_solve(u, root)


def _factor(kernel: Tensor) -> Tensor:
    root, info = torch.linalg.cholesky_ex(kernel)
    require(not info.any(), "the kernel is singular to rounding, damping is needed")
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
