"""Spectra, Hessians, the leap, the Gauss-Newton step: against dense algebra and explicit loops."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from tangents import models
from tangents.curvature import (
    compressed_hessian,
    gauss_newton,
    gauss_newton_product,
    output_hessian,
    output_hessian_norm,
    output_hessian_top,
)
from tangents.empirical import jacobian, ntk
from tangents.functional import differentiable, linearise, select, stack
from tangents.lanczos import density, eigenpairs, lanczos
from tangents.linearised import (
    descend_outputs,
    krylov_spectrum,
    leap,
    matrix,
    spectrum,
    stable_rate,
)
from tangents.losses import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, OUTPUT_LOSSES, SQUARED, newton
from tests.cases import (
    STACKS,
    Applied,
    all_close,
    close,
    dense_hessian,
    flat,
    like,
    name,
    normal,
    unflat,
)

N, C = 4, 3
NET = models.MLP(3, 12, 2, c=C, activation="tanh")
PARAMS = models.initialise(NET, 0)
STACK = stack([models.initialise(NET, seed) for seed in (0, 1)])
X = normal(N, 3, seed=2)
Y = torch.eye(C, dtype=torch.float64)[[0, 2, 1, 2]]
every_loss = pytest.mark.parametrize("loss", OUTPUT_LOSSES.values(), ids=OUTPUT_LOSSES)


def dense_jacobian(params):
    """(n c, p), output by output like the rows of `matrix`."""
    J = torch.func.jacrev(lambda p: functional_call(NET, p, (X,)))(params)
    return flat(J, 2).transpose(0, 1).flatten(0, 1)


def symmetric(*shape, seed=0):
    a = normal(*shape, shape[-1], seed=seed)
    return a + a.mT


def column(u):
    return u.mT.flatten(-2)


# ---- losses of outputs


@every_loss
def test_a_loss_knows_its_derivatives(loss):
    f, y = 2 * normal(5, C), torch.softmax(normal(5, C, seed=1), -1)
    close(loss.gradient(f, y), torch.func.grad(lambda f: loss.value(f, y).sum())(f))
    for i in range(5):
        H = hessian(lambda v, i=i: loss.value(v[None], y[i][None]).sum())(f[i])
        close(loss.root(f)[i] @ loss.root(f)[i].mT, H)
    got = (loss.root(f) @ loss.whitened(f, y).unsqueeze(-1)).squeeze(-1)
    close(got, loss.gradient(f, y))
    assert loss.curved == (loss is not SQUARED)


def test_cross_entropy_of_certain_outputs_is_finite():
    f, y = torch.tensor([[500.0, 0.0, 0.0], [0.0, 500.0, 0.0]]).double(), Y[[0, 0]]
    for each in (CROSS_ENTROPY.value(f, y), CROSS_ENTROPY.gradient(f, y), CROSS_ENTROPY.root(f)):
        assert each.isfinite().all()
    assert CROSS_ENTROPY.whitened(f, y)[0].abs().max() < 1e-50
    floor = -math.log(torch.finfo(f.dtype).tiny) / 4
    close(CROSS_ENTROPY.whitened(f, y)[1].norm().log(), torch.tensor(floor).double(), 1, 0.1)
    f[1, 1] = 300.0
    close(CROSS_ENTROPY.whitened(f, y)[1].norm().log(), torch.tensor(150.0).double(), 1, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binary_cross_entropy_is_that_of_torch_at_any_logit(dtype):
    f = torch.tensor([-1e3, -50.0, -18.0, -0.3, 0.0, 2.0, 18.0, 50.0, 1e3])
    for label in (0.0, 1.0, 0.3):
        y = torch.full_like(f, label)
        wide = f.double().requires_grad_()
        want = nn.functional.binary_cross_entropy_with_logits(wide, y.double(), reduction="none")
        (slope,) = torch.autograd.grad(want.sum(), wide)
        given = f.to(dtype), y.to(dtype)
        for shape in ((-1,), (-1, 1)):  # one logit an example
            got = [v.view(shape) for v in given]
            value = BINARY_CROSS_ENTROPY.value(*got)
            assert torch.allclose(value.double(), want.detach(), rtol=4 * torch.finfo(dtype).eps)
            gradient = BINARY_CROSS_ENTROPY.gradient(*got)
            assert gradient.shape == got[0].shape
            assert torch.allclose(gradient.flatten().double(), slope, atol=2e-7, rtol=1e-6)
            S, w = BINARY_CROSS_ENTROPY.root(got[0]), BINARY_CROSS_ENTROPY.whitened(*got)
            assert S.isfinite().all() and w.isfinite().all()
            back = (S @ w.unsqueeze(-1)).flatten().double()
            assert torch.allclose(back, slope, atol=2e-7, rtol=1e-6)
    p = torch.sigmoid(f.double()[2:7])  # where it is not below the least that counts
    H = BINARY_CROSS_ENTROPY.root(f.to(dtype)[2:7]).flatten().square().double()
    assert torch.allclose(H, p * torch.sigmoid(-f.double()[2:7]), rtol=1e-5)


@every_loss
def test_what_are_no_outputs_and_targets_of_it_is_refused(loss):
    f, y = normal(4, C), torch.softmax(normal(4, C, seed=1), -1)
    for function in (loss.value, loss.gradient, loss.whitened):
        for bad in (y[0], y[:, :1], y[:1], y.mT, y[:, 0]):
            with pytest.raises(ValueError, match=r"^y must have the shape of the outputs, \(4, 3"):
                function(f, bad)
        with pytest.raises(ValueError, match=r"^y must have the shape of the outputs, \(4,\), got"):
            function(f[:, 0], y[:, :1])
        with pytest.raises(ValueError, match="one dtype on one device, got f"):
            function(f, y.float())
        close(function(torch.stack([f, f]), y)[1], function(f, y))
    if loss is not SQUARED:
        for bad in (2 * y - 1, 1.01 * y.round(), y * torch.nan):
            with pytest.raises(ValueError, match=r"^the targets must be probabilities"):
                newton(loss, f, bad)


# ---- Lanczos


def test_lanczos_makes_the_matrix_tridiagonal():
    A = symmetric(2, 9)
    krylov = lanczos(lambda v: (A @ v[..., None])[..., 0], normal(2, 9, seed=1), 9)
    close(krylov.basis @ krylov.basis.mT, torch.eye(9).double().expand(2, 9, 9))
    close(krylov.basis @ A @ krylov.basis.mT, krylov.matrix)
    close(torch.linalg.eigvalsh(krylov.matrix), torch.linalg.eigvalsh(A))
    assert krylov.matrix.tril(-2).abs().max() == 0


@pytest.mark.parametrize("A", [symmetric(2, 9), torch.eye(9).double().expand(2, 9, 9)])
def test_lanczos_goes_on_where_it_stopped(A):
    def product(v):
        return (A @ v[..., None])[..., 0]

    start = normal(2, 9, seed=1)
    begun = lanczos(product, start, 4)
    assert (begun.basis @ begun.following[..., None]).abs().max() < 1e-13
    whole = lanczos(product, start, 9, begun)
    assert torch.equal(whole.basis[:, :4], begun.basis)
    close(whole.basis @ whole.basis.mT, torch.eye(9).double().expand(2, 9, 9))
    close(whole.basis @ A @ whole.basis.mT, whole.matrix)
    close(torch.linalg.eigvalsh(whole.matrix), torch.linalg.eigvalsh(A))


def test_lanczos_finds_multiple_eigenvalues():
    A = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0, 0.0])).double()
    values, vectors = eigenpairs(lambda v: v @ A, normal(5, seed=1), 4)
    close(values, torch.tensor([3.0, 3.0, 3.0, 1.0]).double())
    close(vectors @ A, values[:, None] * vectors)


@pytest.mark.parametrize("magnitude", [False, True])
def test_eigenpairs_are_those_of_the_matrix(magnitude):
    A = symmetric(3, 60) - 5 * torch.eye(60).double()
    values, vectors = eigenpairs(
        lambda v: (A @ v[..., None])[..., 0], normal(3, 60, seed=1), 2, magnitude
    )
    all_values = torch.linalg.eigvalsh(A)
    for got, want in zip(values, all_values, strict=True):
        key = want.abs() if magnitude else want
        close(got, want[key.argsort(descending=True)[:2]], order=0.9)
    close(vectors @ A, values[..., None] * vectors, times=10, order=0.5)
    close(vectors @ vectors.mT, torch.eye(2).double().expand(3, 2, 2))


def test_the_density_has_the_moments_of_the_spectrum():
    """With every unit vector in turn as the start the mean over starts is the trace."""
    A = symmetric(7)
    values, weights = density(lambda v: v @ A, torch.eye(7).double(), 7)
    for power in range(4):
        want = torch.linalg.eigvalsh(A).pow(power).mean()
        close((weights * values**power).sum(), want, times=1e5)


def test_lanczos_refuses():
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.5, got 6"):
        eigenpairs(lambda v: v, normal(5), 6)
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.3, got 4"):
        eigenpairs(lambda v: v, normal(5), 4, max_steps=3)
    with pytest.raises(ValueError, match="not finite"):
        eigenpairs(lambda v: v * math.nan, normal(5))
    with pytest.raises(ValueError, match="no 1 eigenpairs within 4 products"):
        eigenpairs(lambda v: v * torch.linspace(0, 1, 400).double(), normal(400), max_steps=4)


def test_the_spectrum_of_the_kernel_without_the_kernel():
    t = jacobian(NET, PARAMS, X)

    def product(v):
        return column(t.ntk_vp(v.unflatten(-1, (C, N)).mT))

    values, _ = eigenpairs(product, normal(N * C), 3)
    close(values, spectrum(t.gram()).values.flip(0)[:3])


# ---- Hessians


def test_output_hessian_is_that_of_autodiff():
    H = torch.stack([dense_hessian(NET, PARAMS, xi, 1) for xi in X])
    v = normal(N, H.shape[-1], seed=3)
    close(output_hessian(NET, PARAMS, X, 1)(v), (H @ v[..., None])[..., 0])
    want = torch.linalg.matrix_norm(H, 2)
    close(output_hessian_norm(NET, PARAMS, X, 1), want, times=1e-5, order=0)
    both = output_hessian_norm(NET, STACK, X, 1)
    close(both[0], want, times=1e-5, order=0)
    close(both[1], output_hessian_norm(NET, select(STACK, 1), X, 1), times=1e-5, order=0)


VECTORS = [case for case in STACKS if not any("onv" in word for word in case.name.split())]


@pytest.mark.parametrize("case", VECTORS, ids=name)
def test_the_compressed_hessian_is_the_hessian_where_it_is_not_zero(case):
    params, x = case.stack(0, 1), case.x(3)
    H = output_hessian(case.module, params, x)
    small = compressed_hessian(case.module, params, x)
    u, v = normal(2, 3, small.size), normal(2, 3, small.size, seed=1)
    lifted = small.lift(v)
    close((u * small.operator(v)).sum(-1), (small.lift(u) * H(lifted)).sum(-1))
    p = lifted.shape[-1]
    dense = torch.stack([H(e.expand(2, 3, p).contiguous()) for e in torch.eye(p).double()], -1)
    want = torch.linalg.matrix_norm(dense, 2)
    if want.max() == 0:  # one linear layer
        close(small.operator(v), torch.zeros_like(v) + 0, times=0)
        return
    values, vectors = output_hessian_top(case.module, params, x, tolerance=1e-6)
    close(values.abs(), want, times=1e-9, order=0)
    close(vectors.norm(dim=-1)[want > 0], torch.ones(2, 3).double()[want > 0])
    close(H(vectors), values[..., None] * vectors, times=1e-5, order=0)


def test_one_vector_on_an_axis_of_its_own_is_a_vector():
    module = Applied(
        lambda m, x: m.b(torch.tanh(m.a(x.unsqueeze(1)))).squeeze(1),
        a=nn.Linear(3, 5), b=nn.Linear(5, 1),
    ).double()  # fmt: skip
    params = {k: p.detach() for k, p in module.named_parameters()}
    assert compressed_hessian(module, params, X) is not None
    want = [torch.linalg.matrix_norm(dense_hessian(module, params, x), 2) for x in X]
    close(output_hessian_norm(module, params, X, tolerance=1e-6), torch.stack(want), 1e-4, 0)


def test_the_order_of_the_parameters_does_not_matter():
    turned = {k: STACK[k] for k in reversed(STACK)}
    close(output_hessian_norm(NET, turned, X), output_hessian_norm(NET, STACK, X), 1e-4, 0)
    with pytest.raises(ValueError, match=r"^output must lie in 0\.\.2, got 3"):
        output_hessian_norm(NET, PARAMS, X, 3)


def test_other_layers_keep_their_whole_hessian():
    case = next(case for case in STACKS if case.name == "convnet")
    params = case.stack(0)
    assert compressed_hessian(case.module, params, case.x(1)) is None
    values, vectors = output_hessian_top(case.module, params, case.x(1), tolerance=1e-5)
    H = output_hessian(case.module, params, case.x(1))
    close(H(vectors), values[..., None] * vectors, times=1e-3, order=0)


@every_loss
def test_ggn_is_the_hessian_of_the_loss_of_the_linearised_model(loss):
    t, v = jacobian(NET, PARAMS, X), like(PARAMS, 5)
    f_lin = linearise(NET, PARAMS)

    def total(w):
        return loss.value(f_lin(unflat(w, PARAMS), X), Y).sum()

    H = hessian(total)(flat(PARAMS))
    close(flat(gauss_newton_product(t, v, loss.root(t.value))), H @ flat(v))
    if not loss.curved:
        close(flat(gauss_newton_product(t, v)), H @ flat(v))


# ---- Gauss-Newton


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("damping", [0.0, 0.3])
@every_loss
def test_gauss_newton_is_the_minimum_norm_step(loss, damping, dense):
    t, J = jacobian(NET, PARAMS, X), dense_jacobian(PARAMS)
    S = torch.zeros(N * C, N * loss.root(t.value).shape[-1]).double()
    for i, root in enumerate(loss.root(t.value)):  # rows k n + i
        S[i::N, i::N] = root
    A, w = S.T @ J, column(loss.whitened(t.value, Y))
    if damping:
        want = -torch.linalg.solve(
            J.T @ S @ S.T @ J + damping * torch.eye(J.shape[1]).double(),
            J.T @ column(loss.gradient(t.value, Y)),
        )
    else:
        want = -torch.linalg.pinv(A) @ w
    got = gauss_newton(t, Y, loss, damping=damping, dense=dense, tolerance=1e-11)
    close(flat(got.params), want, order=0.7)
    assert got.residual <= 1e-11


@every_loss
def test_without_the_hessian_linearised_outputs_move_along_the_gradient(loss):
    t = jacobian(NET, PARAMS, X)
    step = gauss_newton(t, Y, loss, hessian=False, tolerance=1e-11)
    close(t.jvp(step.params), -loss.gradient(t.value, Y), order=0.7)


def test_one_squared_step_fits_the_linearised_model():
    t = jacobian(NET, PARAMS, X)
    step = gauss_newton(t, Y, SQUARED, tolerance=1e-12)
    close(t.value + t.jvp(step.params), Y, order=0.7)


@pytest.mark.parametrize("dense", [True, False])
def test_gauss_newton_of_a_stack_is_that_of_its_networks(dense):
    got = gauss_newton(jacobian(NET, STACK, X), Y.expand(2, N, C), CROSS_ENTROPY, damping=0.1,
                       dense=dense, tolerance=1e-11)  # fmt: skip
    for i in range(2):
        one = jacobian(NET, select(STACK, i), X)
        want = gauss_newton(one, Y, CROSS_ENTROPY, damping=0.1, tolerance=1e-11)
        all_close(select(got.params, i), want.params, order=0.7)


@pytest.mark.parametrize("dense", [True, False])
def test_relative_damping_is_one_of_the_mean_diagonal(dense):
    both = jacobian(NET, STACK, X)
    options = dict(dense=dense, tolerance=1e-11)
    got = gauss_newton(both, Y.expand(2, N, C), SQUARED, damping=0.1, relative=True, **options)
    for i in range(2):
        J = jacobian(NET, select(STACK, i), X)
        damping = 0.1 * matrix(J.gram()).diagonal().mean().item()
        want = gauss_newton(J, Y, SQUARED, damping=damping, **options)
        all_close(select(got.params, i), want.params, order=0.6)


@every_loss
def test_newtons_outputs_solve_each_examples_hessian(loss):
    f, y = normal(2, N, C, seed=11), Y.expand(2, N, C)
    S, g = loss.root(f), loss.gradient(f, y).unsqueeze(-1)
    close(newton(loss, f, y), (torch.linalg.pinv(S @ S.mT) @ g).squeeze(-1), order=0.8)


def test_gauss_newton_refuses():
    t = jacobian(NET, PARAMS, X[[0, 0, 1, 2]])
    with pytest.raises(ValueError, match="damping"):
        gauss_newton(t, Y, SQUARED)
    with pytest.raises(ValueError, match=r"y must have the shape of the outputs"):
        gauss_newton(t, Y[:2], SQUARED)
    with pytest.raises(ValueError, match=r"the targets must be probabilities"):
        gauss_newton(t, 2 * Y, CROSS_ENTROPY)
    with pytest.raises(ValueError, match=r"damping must be finite and at least 0, got -1"):
        gauss_newton(t, Y, SQUARED, damping=-1.0)


CURVED = {name: loss for name, loss in OUTPUT_LOSSES.items() if loss.curved}


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("gap", [18.0, 60.0, 1e3])
@pytest.mark.parametrize("sure", ["right", "wrong", "some"])
@pytest.mark.parametrize("loss", CURVED.values(), ids=CURVED)
def test_gauss_newton_of_a_sure_network_in_single_precision(loss, sure, gap, dense):
    """-J^T (H K + damping)^-1 g by dense algebra in double precision, with g = p - y from the
    probabilities of what is not right, which does not cancel."""
    t, J = jacobian(NET, PARAMS, X), dense_jacobian(PARAMS)
    where = {"right": Y, "wrong": Y.roll(1, -1), "some": Y * torch.tensor([[1.0], [0], [-1], [0]])}
    f = (normal(N, C, seed=8) + gap * where[sure]).float()
    if loss is CROSS_ENTROPY:
        p = torch.softmax(f.double(), -1)
        g = p - Y
        g = torch.where(Y == 1, -torch.where(Y == 1, 0, p).sum(-1, keepdim=True), g)
        H = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    else:
        p, rest = torch.sigmoid(f.double()), torch.sigmoid(-f.double())
        g, H = torch.where(Y == 1, -rest, p), torch.diag_embed(p * rest)
    dense_H = torch.zeros(C, N, C, N).double()
    for i in range(N):
        dense_H[:, i, :, i] = H[i]
    system = dense_H.view(N * C, N * C) @ (J @ J.T) + 0.3 * torch.eye(N * C).double()
    want = -J.T @ torch.linalg.solve(system, column(g))
    single = t.map(lambda v: v.float() if v.is_floating_point() else v)
    got = gauss_newton(replace(single, value=f), Y.float(), loss, damping=0.3, dense=dense)
    error = (flat(got.params).double() - want).norm()
    assert error <= 1e-5 * want.norm() + 1e-15  # probabilities below 1e-19 count as such


def test_without_damping_a_sure_error_is_out_of_range():
    t = jacobian(NET, PARAMS, X)
    single = t.map(lambda v: v.float() if v.is_floating_point() else v)
    for loss in CURVED.values():
        sure = replace(single, value=(200 * Y.roll(1, -1)).float())
        with pytest.raises(ValueError, match="certain of what is wrong"):
            gauss_newton(sure, Y.float(), loss)
        with pytest.raises(ValueError, match="certain of what is wrong"):
            newton(loss, sure.value, Y.float())


# ---- training the linearised model


def explicit(params0, start, rate, steps, memory, velocity, loss=SQUARED):
    """Steps on the linearised model by automatic differentiation."""
    f_lin = linearise(NET, params0)
    w = {k: v.clone() for k, v in start.items()}
    v = {k: torch.zeros_like(u) for k, u in w.items()} if velocity is None else velocity
    gradient = torch.func.grad(lambda p: loss.value(f_lin(p, X), Y).sum())
    for _ in range(steps):
        g = gradient(w)
        v = {k: memory * v[k] + g[k] for k in w}
        w = {k: w[k] - rate * v[k] for k in w}
    return w, v


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 400])
@pytest.mark.parametrize("memory, moving", [(0.0, False), (0.9, False), (0.5, True), (0.0, True)])
def test_leap_is_its_steps(steps, memory, moving):
    t = jacobian(NET, PARAMS, X)
    kernel = spectrum(t.gram())
    rate = 1.7 / kernel.values.max().item()
    start = {k: PARAMS[k] + 0.1 * v for k, v in like(PARAMS, 4).items()}
    velocity = like(PARAMS, 9) if moving else None
    residual = linearise(NET, PARAMS)(start, X) - Y
    change, speed = leap(t, kernel, residual, rate, steps, memory, velocity)
    w, v = explicit(PARAMS, start, rate, steps, memory, velocity)
    all_close({k: start[k] + change[k] for k in start}, w, 1e5)
    first = flat(t.vjp(residual))  # rounding is in units of the velocity on the way
    close(torch.cat([flat(speed), first]), torch.cat([flat(v), first]), 1e5)


def test_one_step_is_gradient_descent_on_the_network_itself():
    t = jacobian(NET, PARAMS, X)
    change, _ = leap(t, spectrum(t.gram()), t.value - Y, 0.01, 1)
    gradient = torch.func.grad(lambda p: SQUARED.value(functional_call(NET, p, (X,)), Y).sum())(
        PARAMS
    )
    all_close(change, {k: -0.01 * g for k, g in gradient.items()})


def test_infinitely_many_steps_are_the_minimum_norm_gauss_newton_step():
    t = jacobian(NET, PARAMS, X)
    kernel = spectrum(t.gram())
    rate = 1 / kernel.values.max().item()
    change, speed = leap(t, kernel, t.value - Y, rate, math.inf)
    want = gauss_newton(t, Y, SQUARED, tolerance=1e-12)
    close(flat(change), flat(want.params), order=0.7)
    assert flat(speed).abs().max() < 1e-8
    long, _ = leap(t, kernel, t.value - Y, rate, 10**12)
    close(flat(long), flat(change), order=0.7)


def test_leap_of_a_stack_is_that_of_its_networks():
    t = jacobian(NET, STACK, X)
    kernel, velocity = spectrum(t.gram()), like(STACK, 3)
    rate = 1 / kernel.values.amax(-1)
    got = leap(t, kernel, t.value - Y, rate, 50, 0.9, velocity)
    for i in range(2):
        one = jacobian(NET, select(STACK, i), X)
        alone = spectrum(one.gram())
        want = leap(one, alone, one.value - Y, rate[i].item(), 50, 0.9, select(velocity, i))
        for a, b in zip(got, want, strict=True):
            all_close(select(a, i), b, 1e5)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_krylov_space_serves_as_the_spectrum(memory):
    x = normal(60, 3, seed=5)
    t = jacobian(NET, PARAMS, x)
    residual, whole = t.value - normal(60, C, seed=6), spectrum(t.gram())
    rate = 1.5 / whole.values.max().item()
    part = krylov_spectrum(t.gram(), residual, 100)
    got, want = (leap(t, k, residual, rate, 300, memory, tolerance=1e-9) for k in (part, whole))
    for a, b in zip(got, want, strict=True):
        close(flat(a), flat(b), order=0.6)
    with pytest.raises(ValueError, match=r"the Krylov spectrum errs by .* raise its rank"):
        leap(t, krylov_spectrum(t.gram(), residual, 5), residual, rate, 300, memory)
    with pytest.raises(ValueError, match="find it from this residual"):
        leap(t, part, normal(*residual.shape, seed=9), 1e-6, 1, memory)
    with pytest.raises(ValueError, match="the residual of a network is zero"):
        krylov_spectrum(t.gram(), 0 * residual, 5)
    with pytest.raises(ValueError, match="a velocity needs the whole spectrum"):
        leap(t, part, residual, rate, 300, memory, like(PARAMS))


def test_leap_refuses():
    t = jacobian(NET, PARAMS, X)
    kernel, residual = spectrum(t.gram()), t.value - Y
    for message, arguments in {
        "below 2, got": (1e3, 5),
        "below 3.8, got": (1e3, 5, 0.9),
        "rate must be finite and above 0": (-1.0, 5),
        "steps must be an integer >= 0, or infinity, got 1.5": (1e-3, 1.5),
        "infinitely many steps": (1e-3, math.inf, 0.9),
        r"memory must lie in \[0, 1\), got 1": (1e-3, 5, 1.0),
    }.items():
        with pytest.raises(ValueError, match=message):
            leap(t, kernel, residual, *arguments)


@every_loss
def test_descent_in_output_space_is_descent_on_the_linearised_model(loss):
    t = jacobian(NET, PARAMS, X)
    for k, (coefficients, f) in enumerate(descend_outputs(t.gram(), t.value, Y, loss, 0.05)):
        if k in (0, 1, 20):
            w, _ = explicit(PARAMS, PARAMS, 0.05, k, 0.0, None, loss)
            moved = t.vjp(coefficients)
            all_close({n: PARAMS[n] - moved[n] for n in w}, w)
            close(f, linearise(NET, PARAMS)(w, X))
        if k == 20:
            break


@every_loss
def test_batches_in_output_space_are_batches_of_the_linearised_model(loss):
    def value(w, rows):
        return loss.value(linearise(NET, PARAMS)(w, X[rows]), Y[rows]).sum()

    t, w = jacobian(NET, PARAMS, X), PARAMS
    batches = [torch.tensor(rows) for rows in ([2, 0], [3, 1], [1], [0, 3, 2])]
    states = list(descend_outputs(t.gram(), t.value, Y, loss, 0.05, batches))
    assert len(states) == len(batches) + 1
    for rows, (coefficients, f) in zip(batches, states[1:], strict=True):
        g = torch.func.grad(value)(w, rows)
        w = {n: w[n] - 0.05 * g[n] for n in w}
        moved = t.vjp(coefficients)
        all_close({n: PARAMS[n] - moved[n] for n in w}, w)
        close(f, linearise(NET, PARAMS)(w, X))


@every_loss
def test_below_the_stable_rate_the_loss_never_rises(loss):
    t = jacobian(NET, PARAMS, X)
    rate = float(stable_rate(torch.linalg.eigvalsh(matrix(t.gram()))[-1], loss))

    def losses(share, steps=50):
        path = descend_outputs(t.gram(), t.value, Y, loss, share * rate)
        return [
            float(loss.value(f, Y).sum()) for _, (_, f) in zip(range(steps), path, strict=False)
        ]

    below = losses(0.99)
    assert all(after < before for before, after in itertools.pairwise(below))
    if not loss.curved:
        assert losses(1.01, 1000)[-1] > below[0]


@every_loss
def test_the_smoothness_is_the_largest_curvature_of_the_loss(loss):
    even = torch.tensor([0.0, 0.0, -60.0], dtype=torch.float64)  # two classes equally likely
    for f in (even, *3 * normal(20, C)):
        S = loss.root(f)
        top = torch.linalg.matrix_norm(S, ord=2).max().item() ** 2
        assert top <= loss.smoothness * (1 + 1e-12)
    top = torch.linalg.matrix_norm(loss.root(even[None]), ord=2).max() ** 2
    close(top, torch.tensor(loss.smoothness, dtype=top.dtype))


def test_the_matrix_of_a_kernel_is_jacobian_times_jacobian():
    J = dense_jacobian(PARAMS)
    close(matrix(ntk(NET, PARAMS, X)), J @ J.T)


@pytest.mark.parametrize("kind", ["attention", "lstm"])
def test_attention_and_recurrent_layers_have_second_derivatives(kind):
    if kind == "attention":
        layer = nn.MultiheadAttention(2, 1, batch_first=True)
        module = Applied(lambda m, x: m.a(x, x, x)[0].sum(-1)[:, :2], a=layer).double()
    else:
        layer = nn.LSTM(2, 2, batch_first=True)
        module = Applied(lambda m, x: m.a(x)[0][:, -1], a=layer).double()
    params = {k: p.detach() for k, p in module.named_parameters()}
    x, p = normal(2, 3, 2), sum(v.numel() for v in params.values())
    v, step = normal(2, p, seed=1), like(params)

    def f(w, xi):
        return functional_call(module, unflat(w, params), (xi[None],))[0]

    got = output_hessian(module, params, x, 1)(v)
    moved = linearise(module, params)({k: params[k] + step[k] for k in params}, x)
    with differentiable(module):
        for i in range(2):
            slope = torch.func.jacrev(f)(flat(params), x[i])
            close(moved[i], f(flat(params), x[i]) + slope @ flat(step))
            rows = torch.autograd.functional.hessian(lambda w, i=i: f(w, x[i])[1], flat(params))
            close(got[i], rows @ v[i])
