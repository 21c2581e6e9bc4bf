"""Training of the linearised model f_lin(w) = f(w0) + J (w - w0), through its constant kernel.

Losses are sums over examples, L = sum_i l(f_i, y_i): for a mean over n, divide the rate by n.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tangents import checks
from tangents.factored import Jacobian
from tangents.functional import Params, require
from tangents.lanczos import lanczos
from tangents.losses import OutputLoss, require_targets


class Spectrum(NamedTuple):
    """Theta = Q diag(values) Q^T on vectors of m = c n outputs, output by output.

    All of it (k = m), or what a Krylov space sees of it: then Theta Q = Q diag(values) + v rest^T
    with a unit vector v orthogonal to Q.
    """

    values: Float[Tensor, "*s k"]
    vectors: Float[Tensor, "*s m k"]
    rest: Float[Tensor, "*s k"] | None = None
    outputs: int = 0  # c, if known

    def into(self, u: Float[Tensor, "*s n c"]) -> Float[Tensor, "*s k"]:
        """Q^T u."""
        checks.tensors(u=u)
        c = self.outputs or u.shape[-1]
        checks.shaped("u", u, *u.shape[:-2], self.vectors.shape[-2] // c, c)
        return (self.vectors.mT @ column(u.to(self.vectors)).unsqueeze(-1)).squeeze(-1)

    def out(self, modes: Float[Tensor, "*s k"], c: int) -> Float[Tensor, "*s n c"]:
        """Q modes."""
        return uncolumn((self.vectors @ modes.unsqueeze(-1)).squeeze(-1), c)


def spectrum(kernel: Float[Tensor, "*s n n c c"]) -> Spectrum:
    """Eigenvalues and eigenvectors of a full kernel; what rounding made negative counts as zero.

    In the kernel's precision: late training is decided by small eigenvalues, so hand in a kernel in
    double precision, whatever the network's. Raises ValueError for a kernel that is not finite.
    """
    checks.tensors(kernel=kernel)
    theta = matrix(kernel)
    checks.symmetric(**{"the kernel": theta})
    values, vectors = torch.linalg.eigh(theta)
    return Spectrum(values.clamp(min=0), vectors, outputs=kernel.shape[-1])


def krylov_spectrum(
    kernel: Float[Tensor, "*s n n c c"], residual: Float[Tensor, "*s n c"], rank: int
) -> Spectrum:
    """The part of the spectrum that matters to steps which begin at `residual`: `rank` Ritz pairs.

    Enough for K steps if `rank` is several times sqrt(K), and far cheaper than the whole: `leap`
    checks the result. ValueError where the residual is zero. Source: Saad (1992), section 2, for
    functions of a matrix times a vector.
    """
    checks.tensors(kernel=kernel, residual=residual)
    theta = matrix(kernel)
    checks.symmetric(**{"the kernel": theta})
    checks.shaped("residual", residual, *kernel.shape[:-3], kernel.shape[-1])
    checks.finite(residual=residual)
    checks.whole("rank", rank, 1)
    nonzero = bool(torch.linalg.matrix_norm(residual).all())
    require(nonzero, "the residual of a network is zero: it has nothing left to learn")
    found = lanczos(lambda v: (theta @ v.unsqueeze(-1)).squeeze(-1), column(residual), rank)
    values, vectors = torch.linalg.eigh(found.matrix)
    rest = found.rest.unsqueeze(-1) * vectors[..., -1, :]
    return Spectrum(values.clamp(min=0), found.basis.mT @ vectors, rest, kernel.shape[-1])


def matrix(kernel: Float[Tensor, "*s n m c c"]) -> Float[Tensor, "*s cn cm"]:
    """The full kernel as a matrix, output by output: row k n + i is output k of example i."""
    full = kernel.dim() >= 4 and kernel.shape[-2] == kernel.shape[-1]
    require(full, f"a full kernel is (n, m, c, c), got {tuple(kernel.shape)}")
    return kernel.movedim((-2, -1), (-4, -2)).flatten(-4, -3).flatten(-2, -1)


def column(u: Float[Tensor, "*s n c"]) -> Float[Tensor, "*s cn"]:
    """Outputs in the order of the rows of `matrix`."""
    return u.mT.flatten(-2)


def uncolumn(v: Float[Tensor, "*s cn"], c: int) -> Float[Tensor, "*s n c"]:
    """The inverse of `column`."""
    require(v.shape[-1] % c == 0, f"{v.shape[-1]} numbers are not those of {c} outputs")
    return v.unflatten(-1, (c, -1)).mT


def leap(
    J: Jacobian,
    kernel: Spectrum,
    residual: Float[Tensor, "*s n c"],
    rate: float | Float[Tensor, " b"],
    steps: int | float,
    memory: float = 0.0,
    velocity: Params | None = None,
    tolerance: float = 1e-4,
) -> tuple[Params, Params]:
    """`steps` steps of gradient descent on |f_lin - y|^2 / 2 at once: (change of w, velocity).

    `residual` is f_lin - y where the steps begin; `steps` an integer, or infinity without `memory`.
    With `memory` b, heavy ball: v' = b v + g, w' = w - rate v', from `velocity` (zero if None). The
    cost does not depend on the number of steps. Raises ValueError where the steps would diverge,
    and where a Krylov spectrum leaves an error of more than `tolerance` of the residual.

    Along an eigenvector of Theta with eigenvalue l, descent is a geometric series: the change is
    -J^T (1 - (1 - rate l)^K) / l residual. Source: Goldwaser & Ge (2023), with momentum as a
    power of the affine map of one step.
    """
    checks.tensors(residual=residual, outputs=J.value)
    checks.shaped("residual", residual, *J.value.shape)
    checks.finite(residual=residual)
    checks.rates("rate", rate)
    checks.number("tolerance", tolerance, above=True)
    rate = torch.as_tensor(rate, dtype=residual.dtype, device=residual.device)
    fits = rate.dim() == 0 or rate.shape == residual.shape[:-2]
    require(fits, f"rate must be a number, or one for each network, got {tuple(rate.shape)}")
    rate = rate.unsqueeze(-1)
    require(0 <= memory < 1, f"memory must lie in [0, 1), got {memory}")
    whole = steps == math.inf or (steps >= 0 and steps == int(steps))
    require(whole, f"steps must be an integer >= 0, or infinity, got {steps}")
    top = kernel.values.amax(-1)
    stable = bool((rate[..., 0] * top < 2 * (1 + memory)).all())
    require(stable, f"rate times the largest eigenvalue must be below {2 * (1 + memory):g}, "
             f"got {(rate[..., 0] * top).max():.3g}")  # fmt: skip
    c, modes, count = residual.shape[-1], kernel.into(residual), torch.as_tensor(float(steps))
    if not memory and velocity is None:
        series = _series(kernel.values, rate, count) * modes
        _accurate(kernel, series, residual, modes, tolerance)
        moved = kernel.out(series, c)
        left = kernel.out(_power(kernel.values, rate, (count - 1).clamp(min=0)) * modes, c)
        change = J.vjp(-moved)
        speed = J.vjp(left if steps else 0 * left)
        return change, speed
    require(steps != math.inf, "infinitely many steps are for descent without momentum")
    moving = velocity is not None
    require(not moving or kernel.rest is None, "a velocity needs the whole spectrum")
    drift = kernel.into(J.jvp(velocity)) if moving else torch.zeros_like(modes)
    force, moved = _heavy_ball(kernel.values, modes, drift, rate, int(steps), memory)
    _accurate(kernel, moved, residual, modes, tolerance)
    change, speed = (J.vjp(kernel.out(v, c)) for v in (-moved, force))
    if moving:
        kept = memory**steps
        lost = memory * (1 - kept) / (1 - memory)
        for name, v in velocity.items():
            step = rate[..., 0].view(-1, *[1] * (v.dim() - 1)) if rate.numel() > 1 else rate[..., 0]
            change[name] = change[name] - step * lost * v
            speed[name] = speed[name] + kept * v
    return change, speed


def _accurate(kernel: Spectrum, moved: Tensor, residual: Tensor, modes: Tensor, tolerance) -> None:
    """|r_K - (r - Theta c)|, c = Q moved: what r and Theta c have outside of the Krylov space.

    `modes` are Q^T r.
    """
    if kernel.rest is not None:
        inside = kernel.out(modes, residual.shape[-1])
        missed = torch.linalg.matrix_norm(residual - inside)
        error = (kernel.rest * moved).sum(-1).abs() + missed
        share = (error / torch.linalg.matrix_norm(residual)).nan_to_num(0)  # of nothing: nothing
        message = f"the Krylov spectrum errs by {share.max():.1g} of the residual: raise its rank, "
        require(bool((share <= tolerance).all()), message + "or find it from this residual")


def _power(values: Tensor, rate: Tensor, steps: Tensor) -> Tensor:
    """(1 - rate l)^K; zero for K infinite and l > 0, one for K = 0."""
    x = rate * values
    size = torch.where(x < 1, torch.log1p(-x.clamp(max=1)), (x - 1).log())
    sign = torch.where((x > 1) & (steps % 2 == 1), -1.0, 1.0).to(x)
    endless = (values <= _floor(values)).to(x)
    after = torch.where(steps.isinf(), endless, sign * (steps * size).exp())
    return torch.where(steps == 0, torch.ones_like(x), after)


def _series(values: Tensor, rate: Tensor, steps: Tensor) -> Tensor:
    """rate sum_{k < K} (1 - rate l)^k = (1 - (1 - rate l)^K) / l, without cancellation."""
    x = rate * values
    small = x < 0.5
    lost = torch.where(
        small,
        -torch.expm1(steps * torch.log1p(-torch.where(small, x, 0))),
        1 - _power(values, rate, steps),
    )
    series = torch.where(x > 0, lost / values, rate * steps)
    return torch.where(steps.isinf(), _inverse(values), series)


def _inverse(values: Tensor) -> Tensor:
    """1 / l, and zero where l is rounding."""
    return torch.where(values > _floor(values), 1 / values, 0)


def _floor(values: Tensor) -> Tensor:
    """Below it an eigenvalue is rounding."""
    unit = torch.finfo(values.dtype).eps * values.shape[-1]
    return unit * values.amax(-1, keepdim=True)


def _heavy_ball(values, modes, drift, rate, steps, memory) -> tuple[Tensor, Tensor]:
    """(u, c) of v_K = b^K v_0 + J^T u and w_K = w_0 - s_K v_0 - J^T c, in the eigenbasis.

    One step is affine in (u, c, a, s, 1), where v = a v_0 + J^T u and w = w_0 - s v_0 - J^T c:
    u' = b u + r - l c - s z, c' = c + rate u', a' = b a, s' = s + rate a'.
    """
    one, eta = torch.ones_like(values), rate.expand_as(values)
    zero, b = 0 * one, memory * one
    force = [b, -values, zero, -drift, modes]
    rows = [
        force,
        [eta * f + (one if k == 1 else zero) for k, f in enumerate(force)],
        [zero, zero, b, zero, zero],
        [zero, zero, eta * b, one, zero],
        [zero, zero, zero, zero, one],
    ]
    step = torch.stack([torch.stack(row, -1) for row in rows], -2)
    after = torch.linalg.matrix_power(step, steps)
    start = after.new_tensor([0.0, 0.0, 1.0, 0.0, 1.0])
    state = after @ start
    return state[..., 0], state[..., 1]


Gain = Callable[[Float[Tensor, "*s k"]], Float[Tensor, "*s k"]]


def descent(rate: Float[Tensor, " *s"], steps: Float[Tensor, " *s"]) -> Gain:
    """(1 - (1 - rate l)^K) / l of eigenvalues l: K steps of gradient descent, K infinite too.

    Each network of a stack may have a rate and a number of steps of its own.
    """
    _require_lengths(rate=rate, steps=steps)
    rate, steps = rate.unsqueeze(-1), steps.unsqueeze(-1)
    return lambda values: _series(values, rate, steps)


def flow(time: Float[Tensor, " *s"]) -> Gain:
    """(1 - exp(-l t)) / l: gradient flow for a time, an infinite one too."""
    _require_lengths(time=time)
    time = time.unsqueeze(-1)

    def gain(values):
        series = -torch.expm1(-time * values) / values
        series = torch.where(values > 0, series, time)
        return torch.where(time.isinf(), _inverse(values), series)

    return gain


def damped(damping: Float[Tensor, " *s"]) -> Gain:
    """1 / (l + mu): the damped Gauss-Newton step, of minimum norm where mu is zero."""
    _require_lengths(damping=damping)
    damping = damping.unsqueeze(-1)

    def gain(values):
        return torch.where(damping > 0, 1 / (values + damping), _inverse(values))

    return gain


def heavy_ball(rate: Float[Tensor, " *s"], steps: int, memory: float) -> Gain:
    """Steps of heavy ball from rest, v' = memory v + g and w' = w - rate v', see `leap`."""
    require(0 <= memory < 1, f"memory must lie in [0, 1), got {memory}")
    _require_lengths(rate=rate)
    checks.whole("steps", steps)
    rate = rate.unsqueeze(-1)

    def gain(values):
        still = torch.zeros_like(values)
        return _heavy_ball(values, torch.ones_like(values), still, rate, steps, memory)[1]

    return gain


def _require_lengths(**given: Tensor) -> None:
    checks.tensors(**given)
    for name, v in given.items():
        require(bool((v >= 0).all()), f"{name} must not be negative or NaN, got {v.tolist()}")


def respond(
    kernel: Spectrum, residual: Float[Tensor, "*s n c"], gain: Gain
) -> Float[Tensor, "*s n c"]:
    """c = Q gain(l) Q^T residual: the weights that begin with this residual f_lin - y move by
    -J^T c, and the outputs by -Theta c."""
    modes = gain(kernel.values) * kernel.into(residual)
    return kernel.out(modes, residual.shape[-1])


def stable_rate(largest: Tensor, loss: OutputLoss) -> Tensor:
    """The rate 2 / (L lambda_max) of full-batch gradient descent, for the kernel's eigenvalue.

    Below it no step makes the loss larger. For the squared loss, L = 1, descent diverges beyond;
    for the cross-entropy, L = 1/2, it can, and need not.
    """
    return 2 / (loss.smoothness * largest)


def descend_outputs(
    kernel: Float[Tensor, "*s n n c c"],
    f: Float[Tensor, "*s n c"],
    y: Float[Tensor, "*s n c"],
    loss: OutputLoss,
    rate: float | Float[Tensor, "b 1 1"],
    batches: Iterable[Tensor] | None = None,
) -> Iterator[tuple[Float[Tensor, "*s n c"], Float[Tensor, "*s n c"]]]:
    """Gradient descent on any loss of f_lin in the space of its outputs, without end.

    Yields (coefficients, outputs) after 0, 1, 2.. steps; w = w0 - J^T coefficients. Each step takes
    the next of `batches`, indices of distinct examples as `descent.epochs` gives them, until they
    end; all examples without. It costs one product with the batch's rows of the kernel, whatever
    the number of parameters is. Source: Goldwaser & Ge (2023); Lee et al. (2019), section 2.2.
    """
    checks.tensors(kernel=kernel, f=f, y=y)
    checks.finite(f=f)
    checks.symmetric(**{"the kernel": matrix(kernel)})
    checks.shaped("f", f, *kernel.shape[:-3], kernel.shape[-1])
    checks.shaped("y", y, *f.shape)
    require_targets(loss, y)
    checks.rates("rate", rate)
    c = f.shape[-1]
    theta = matrix(kernel).unflatten(-2, (c, -1))  # symmetric: rows, which lie together, as columns
    coefficients, outputs = torch.zeros_like(f), f
    yield coefficients, outputs
    for rows in repeat(slice(None)) if batches is None else batches:
        if batches is not None:
            checks.rows(rows, f.shape[-2])
            require(len(rows.unique()) == len(rows), "a batch must hold distinct examples")
        step = rate * loss.gradient(outputs[..., rows, :], y[..., rows, :])
        coefficients = coefficients.clone()
        coefficients[..., rows, :] += step
        moved = column(step).unsqueeze(-2) @ theta[..., rows, :].flatten(-3, -2)
        outputs = outputs - uncolumn(moved.squeeze(-2), c)
        yield coefficients, outputs
