"""Rounds against explicit steps, gradient descent, the minimum-norm step and an exact flow."""

import math

import pytest
import torch
from torch.func import functional_call, grad, jacrev

from tangents import models
from tangents.curvature import gauss_newton
from tangents.descent import descend, gradient_descent
from tangents.empirical import jacobian
from tangents.functional import linearise, select
from tangents.linearised import (
    damped,
    descent,
    flow,
    heavy_ball,
    leap,
    matrix,
    respond,
    spectrum,
)
from tangents.losses import CROSS_ENTROPY, SQUARED
from tangents.relinearised import predictor, relinearise, slopes
from tests.cases import all_close, close, flat, normal

N, D, C = 5, 3, 2
NET = models.MLP(D, 6, 2, c=C, activation="tanh")
X, X_TEST = normal(N, D, seed=2), normal(7, D, seed=3)
Y = normal(N, C, seed=4)


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


ALPHA = row(0.5, 3.0)
PARAMS = models.initialise_stack(NET, [0, 1])
RATE = row(0.01, 0.03)


def explicit(anchor, params0, i, rate, steps, dtype=torch.float64):
    """The weights of network i after steps of gradient descent on its tangent model."""
    one, zero, alpha = select(anchor, i), select(params0, i), ALPHA[i]
    f_lin = linearise(NET, one)
    f0, w = functional_call(NET, zero, (X,)), dict(one)
    rows = jacrev(lambda p: functional_call(NET, p, (X,)))(one)
    for _ in range(steps):
        residual = (alpha * (f_lin(w, X) - f0) - Y) / alpha
        w = {k: w[k] - rate * torch.tensordot(residual, rows[k], 2) for k in w}
    return w


@pytest.mark.parametrize("steps", [(1, 7), (300, 2)])
def test_a_round_is_its_explicit_steps(steps):
    """Each network with its own number of steps, from an anchor that is not the start."""
    first = next(relinearise(NET, PARAMS, X, Y, ALPHA, [row(0.1, 0.2)], RATE))
    duration = RATE * row(*steps)
    rounds = relinearise(NET, PARAMS, X, Y, ALPHA, [row(0.1, 0.2), duration], RATE, margin=1.0)
    *_, second = rounds
    assert second.steps.tolist() == list(steps) and second.start.tolist() == [0.1, 0.2]
    for i in range(2):
        want = explicit(first.params, PARAMS, i, RATE[i], steps[i])
        all_close(select(second.params, i), want, times=1e6)


def test_rounds_of_one_step_are_gradient_descent():
    rule = gradient_descent(RATE * N)  # its loss is a mean over examples
    *_, want = descend(NET, PARAMS, X, Y, ALPHA, SQUARED, rule, steps=20)
    *_, found = relinearise(NET, PARAMS, X, Y, ALPHA, [RATE] * 20, RATE, margin=1.0)
    all_close(found.params, want.params, times=1e5)


def probabilities(n, c):
    return normal(n, c, seed=5).softmax(-1)


@pytest.mark.parametrize("loss", [SQUARED, CROSS_ENTROPY])
@pytest.mark.parametrize("size", [0, 2])
def test_rounds_without_a_closed_form_are_their_explicit_steps(loss, size):
    """Twelve steps in two rounds, on the weights of the tangent model by automatic derivatives."""
    x, y, rate, steps = X[:4], probabilities(4, C), 0.02, 6
    batches = [torch.tensor(rows) for rows in ([0, 3], [2, 1], [1, 3])] * 4 if size else None
    given = [row(steps * rate, steps * rate)] * 2, row(rate, rate), 1.0
    *_, found = relinearise(NET, PARAMS, x, y, ALPHA, *given, loss=loss,
                            batches=iter(batches) if size else None)  # fmt: skip
    for i in range(2):
        anchor, alpha, coming = select(PARAMS, i), ALPHA[i], iter(batches or [slice(None)] * 12)
        f0 = functional_call(NET, anchor, (x,))
        for _ in range(2):
            f_lin, w = linearise(NET, anchor), dict(anchor)
            for _ in range(steps):
                rows = next(coming)

                def total(w, rows=rows, f_lin=f_lin, f0=f0, alpha=alpha):
                    F = alpha * (f_lin(w, x) - f0)
                    return loss.value(F[rows], y[rows]).sum() / alpha**2

                slope = grad(total)(w)
                step = rate * (2 if size else 1)
                w = {k: w[k] - step * slope[k] for k in w}
            anchor = w
        all_close(select(found.params, i), anchor, times=1e5)


def test_rounds_of_one_step_are_gradient_descent_on_the_cross_entropy():
    y, rule = probabilities(N, C), gradient_descent(RATE * N)
    *_, want = descend(NET, PARAMS, X, y, ALPHA, CROSS_ENTROPY, rule, steps=20)
    rounds = relinearise(NET, PARAMS, X, y, ALPHA, [RATE] * 20, RATE, 1.0, loss=CROSS_ENTROPY)
    *_, found = rounds
    all_close(found.params, want.params, times=1e5)


def test_heavy_ball_in_a_round_is_that_of_a_leap():
    rate, steps = row(0.01, 0.02), 30
    gain = heavy_ball(rate, steps, 0.8)
    (found,) = relinearise(NET, PARAMS, X, Y, ALPHA, [row(1, 1)], gain=lambda _: gain)
    J = jacobian(NET, PARAMS, X)
    residual = -Y / ALPHA.view(-1, 1, 1)
    want, _ = leap(J, spectrum(J.gram()), residual, rate, steps, memory=0.8)
    all_close(found.step, want, times=1e5)


def test_an_endless_round_is_the_step_of_minimum_norm_and_kernel_regression():
    (found,) = relinearise(NET, PARAMS, X, Y, ALPHA, [row(math.inf, math.inf)])
    close(found.linear_output, Y.expand(2, N, C), times=1e6)
    for i in range(2):
        rows = jacrev(lambda p: functional_call(NET, p, (X,)))(select(PARAMS, i))
        J = flat(rows, 2).flatten(0, 1)
        want = torch.linalg.pinv(J) @ Y.flatten() / ALPHA[i]
        close(flat(select(found.step, i)), want, order=0.7)


def test_a_round_of_flow_is_the_exact_solution():
    time = row(0.5, 2.0)
    (found,) = relinearise(NET, PARAMS, X, Y, ALPHA, [time], gain=flow)
    for i in range(2):
        theta = matrix(select_kernel(i))
        decay = torch.linalg.matrix_exp(-time[i] * theta)
        want = Y.mT.flatten() - decay @ Y.mT.flatten()  # from F = 0
        close(found.linear_output[i].mT.flatten(), want, times=1e5)


def select_kernel(i):
    rows = jacrev(lambda p: functional_call(NET, p, (X,)))(select(PARAMS, i))
    J = flat(rows, 2)
    return torch.einsum("icp,jdp->ijcd", J, J)


def test_a_damped_round_is_the_damped_gauss_newton_step():
    mu = row(0.3, 0.1)
    (found,) = relinearise(NET, PARAMS, X, Y, ALPHA, [mu], gain=lambda _: damped(mu))
    for i in range(2):
        J = jacobian(NET, select(PARAMS, i), X)
        target = J.value + Y / ALPHA[i]
        want = gauss_newton(J, target, SQUARED, damping=mu[i].item()).params
        all_close(select(found.step, i), want, order=0.7)


@pytest.mark.parametrize("gain", [descent(row(0.02, 0.02), row(5, 9)), flow(row(0.1, 1.0))])
def test_the_gain_gives_weights_and_outputs_alike(gain):
    (found,) = relinearise(NET, PARAMS, X, Y, ALPHA, [row(1, 1)], gain=lambda _: gain)
    assert predictor(NET, PARAMS, ALPHA)(PARAMS, X).abs().max() == 0
    tangent = ALPHA.view(-1, 1, 1) * slopes(NET, PARAMS, found.step, X, block=2)
    close(tangent, found.linear_output, times=1e5)


def test_the_tangent_model_predicts_by_its_kernel():
    (found,) = relinearise(NET, PARAMS, X, Y, ALPHA, [row(0.3, 0.4)], RATE)
    predicted = ALPHA.view(-1, 1, 1) * slopes(NET, PARAMS, found.step, X_TEST, block=3)
    for i in range(2):
        one = select(PARAMS, i)
        J, J_test = (
            flat(jacrev(lambda p, x=x: functional_call(NET, p, (x,)))(one), 2) for x in (X, X_TEST)
        )
        want = -torch.einsum("acp,ndp,nd->ac", J_test, J, found.coefficients[i])
        close(predicted[i], want, times=1e5)


def test_steps_stay_below_the_margin_of_stability():
    (found,) = relinearise(NET, PARAMS, X, Y, ALPHA, [row(5, 5)], row(10, 10), margin=0.25)
    longest = 0.25 * 2 / found.model.largest
    assert (found.duration / found.steps <= longest * (1 + 1e-12)).all()
    assert (found.duration / (found.steps - 1) > longest).all()


def test_a_network_that_is_lost_leaves_the_others_alone():
    params = {k: v.clone() for k, v in PARAMS.items()}
    params["readout.weight"][0] = 1e200
    scale = row(1e200, 3.0)
    states = list(relinearise(NET, params, X, Y, scale, [row(1, 1)] * 3, gain=flow))
    alone = list(relinearise(NET, {k: v[1:] for k, v in PARAMS.items()}, X, Y, ALPHA[1:],
                             [row(1)] * 3, gain=flow))  # fmt: skip
    assert states[-1].coefficients[0].isnan().all()
    close(states[-1].model.output[1], alone[-1].model.output[0], times=1e6)


def test_a_network_in_single_precision_has_its_spectrum_in_double():
    single = {k: v.float() for k, v in PARAMS.items()}
    args = (X.float(), Y.float(), ALPHA.float())
    (found,) = relinearise(NET, single, *args, [torch.ones(2)], RATE.float())
    (want,) = relinearise(NET, PARAMS, X, Y, ALPHA, [row(1, 1)], RATE)
    assert found.model.spectrum.values.dtype == torch.float64
    assert all(v.dtype == torch.float32 for v in found.params.values())
    close(found.linear_output.double(), want.linear_output, times=1e-4, order=0)


def test_a_kernel_that_is_not_finite_is_refused():
    kernel = torch.full((2, 2, 1, 1), torch.nan).double()
    with pytest.raises(ValueError, match="the kernel holds values that are not finite"):
        spectrum(kernel)


def test_respond_takes_steps_of_either_sign():
    """Beyond 1 / l the residual changes its sign at each step."""
    kernel, r = spectrum(torch.eye(2).double()[:, :, None, None]), row(1.0, -2.0)[:, None]
    for steps, left in ((1, -0.5), (2, 0.25), (0, 1.0)):
        gain = descent(torch.tensor(1.5).double(), torch.tensor(float(steps)).double())
        close(r - respond(kernel, r, gain), left * r)


BAD = {
    "alpha": ({"alpha": row(1, 0)}, "alpha must hold a positive number for each network"),
    "alpha count": ({"alpha": row(1)}, "alpha must hold a number for each of 2"),
    "rate": ({"rate": row(1)}, "rate must hold a number for each of 2"),
    "margin": ({"margin": 0}, r"margin must lie in \(0, 1\], got 0"),
    "y": ({"y": Y[:3]}, r"y must be \(n, c\) for the 5 examples"),
    "gain": ({"gain": flow, "loss": CROSS_ENTROPY}, "a gain is one of the squared loss"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_unusable_input_is_refused_at_the_call(change, message, unchecked):
    given = dict(module=NET, params0=PARAMS, x=X, y=Y, alpha=ALPHA, durations=[row(1, 1)])
    with pytest.raises(ValueError, match=f"^{message}"):
        relinearise(**given | change)


def test_a_round_without_duration_is_refused():
    with pytest.raises(ValueError, match="duration must hold a positive number for each network"):
        next(relinearise(NET, PARAMS, X, Y, ALPHA, [row(1, 0)]))
