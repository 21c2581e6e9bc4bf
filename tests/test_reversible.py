"""The reversible network runs backwards, and its right inverse is one, by dense derivatives."""

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from tangents import models
from tangents.curvature import gauss_newton
from tangents.empirical import jacobian, ntk
from tangents.functional import linearise, norm, select, stack
from tangents.losses import SQUARED
from tangents.reversible import RevMLP, cholesky, damped, right_inverse, truncated
from tests.cases import all_close, close, flat, normal

N, D, H, C = 6, 8, 15, 3
X, EPS_Y = normal(N, D, seed=1), normal(N, C, seed=2)


def network(blocks=3, activation="tanh", std=0.3, **options):
    net = RevMLP(D, H, blocks, C, 0, activation, **options)
    return net, net.initial(1, std)


def moved(net, params, change, x=X):
    """J change."""
    w = {k: v + change[k] for k, v in params.items()}
    f_lin = linearise(net, params)
    return f_lin(w, x) - functional_call(net, params, (x,))


def residual(net, params, change, eps=EPS_Y):
    return ((moved(net, params, change) + eps).norm() / eps.norm()).item()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("std", [1e-3, 0.5])
def test_the_network_runs_backwards(activation, std):
    net, params = network(4, activation, std)
    states = functional_call(net, params, (X,), {"states": True})
    net.double().load_state_dict(params, strict=False)
    assert len(states) == 5
    close(net.inverse(*states[-1]).detach(), X, times=1e5)
    close(torch.cat(states[-1], -1) @ net.readout, functional_call(net, params, (X,)))


def test_a_block_is_what_the_paper_writes():
    net, params = network(1, "relu")
    (first, second), (x1, x2) = net.blocks[0], X.chunk(2, -1)
    w1, b1, w2, b2 = params.values()
    y1 = x1 + models.relu(x2 @ first.fixed.mT) @ w1.mT + b1
    y2 = x2 + models.relu(y1 @ second.fixed.mT) @ w2.mT + b2
    close(functional_call(net, params, (X,)), torch.cat([y1, y2], -1) @ net.readout)
    close(net.readout.mT @ net.readout, torch.eye(C).double())


def test_fixed_matrices_have_the_variance_of_the_paper():
    net = RevMLP(400, 300, 1, 10)
    assert net.blocks[0][0].fixed.shape == (300, 200)
    assert net.blocks[0][0].fixed.square().mean().item() == pytest.approx(1 / 300, rel=0.03)
    assert {name for name, _ in net.named_parameters()} == {
        f"blocks.0.{i}.trained.{k}" for i in (0, 1) for k in ("weight", "bias")
    }


@pytest.mark.parametrize("std", [1e-3, 0.1, 0.5])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_right_inverse_is_exact(activation, std):
    net, params = network(3, activation, std)
    assert residual(net, params, right_inverse(net, params, X, EPS_Y)) < 1e-10


@pytest.mark.parametrize("std, least", [(0.1, 1e-3), (0.5, 0.05)])
def test_without_its_correction_it_is_none(std, least):
    net, params = network(3, "relu", std)
    change = right_inverse(net, params, X, EPS_Y, correction=False)
    assert residual(net, params, change) > least


def dense(net, params, x, eps):
    """The paper's formula: by the Jacobian of the inverse map from the last state to each other,
    and the pseudo-inverse of the features, each by dense automatic differentiation."""
    blocks, half = len(net.blocks), x.shape[-1] // 2

    def at(place, k):
        return [params[f"blocks.{place}.{k}.trained.{name}"] for name in ("weight", "bias")]

    def apply(place, k, z):
        w, b = at(place, k)
        part = net.blocks[place][k]
        return part.activation(z @ part.fixed.mT) @ w.mT + b

    def back(last, place):
        """The halves after block `place`, and the second half before it, from the last state."""
        x1, x2 = last[:half], last[half:]
        for q in range(blocks - 1, place, -1):
            x2 = x2 - apply(q, 1, x1)
            x1 = x1 - apply(q, 0, x2)
        return x1, x2, x2 - apply(place, 1, x1)

    last = torch.cat(functional_call(net, params, (x,), {"states": True})[-1], -1)
    push = -eps @ net.readout.mT
    change = {}
    for place in range(blocks):
        x1, _, before = vmap(lambda v, p=place: back(v, p))(last)
        J1, J2, _ = vmap(jacrev(lambda v, p=place: back(v, p)))(last)
        t1, t2 = (torch.einsum("nij,nj->ni", J, push) for J in (J1, J2))
        through = vmap(jacrev(lambda z, p=place: apply(p, 1, z)))(x1)
        t2 = t2 - torch.einsum("nij,nj->ni", through, t1)
        for k, (z, t) in enumerate(((before, t1), (x1, t2))):
            part = net.blocks[place][k]
            a = torch.cat([part.activation(z @ part.fixed.mT), torch.ones(len(z), 1)], -1)
            w = torch.linalg.pinv(a.double()) @ t / blocks
            change[f"blocks.{place}.{k}.trained.weight"] = w[:-1].mT
            change[f"blocks.{place}.{k}.trained.bias"] = w[-1]
    return change


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_second_implementation_by_dense_derivatives_gives_the_same_steps(activation):
    net, params = network(3, activation, 0.4)
    all_close(right_inverse(net, params, X, EPS_Y), dense(net, params, X, EPS_Y), times=1e6)


def test_a_step_takes_away_its_share_of_the_error():
    net, params = network(2, "tanh", 0.3)
    y = normal(N, C, seed=3)
    f = functional_call(net, params, (X,))
    change = right_inverse(net, params, X, f - y)
    gaps = []
    for rate in (1e-2, 1e-3):
        w = {k: v + rate * change[k] for k, v in params.items()}
        left = functional_call(net, w, (X,)) - y
        gaps.append(((left - (1 - rate) * (f - y)).norm() / (f - y).norm()).item())
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.1)  # second order in the rate


def test_it_is_not_the_step_of_minimum_norm():
    net, params = network()
    J = jacobian(net, params, X)
    least = gauss_newton(J, J.value - EPS_Y, SQUARED).params
    change = right_inverse(net, params, X, EPS_Y)
    assert residual(net, params, least) < 1e-8
    assert norm({k: v[None] for k, v in change.items()}) > 1.2 * norm(
        {k: v[None] for k, v in least.items()}
    )


def test_of_one_block_and_as_many_outputs_as_inputs_it_is_the_minimum_norm_step():
    """Then each half has its own outputs (Buffelli et al. 2024, appendix), up to the passing on."""
    net = RevMLP(D, H, 1, D, 0, "tanh")
    params = net.initial(0, 1e-9)
    eps = normal(N, D, seed=5)
    J = jacobian(net, params, X)
    least = gauss_newton(J, J.value - eps, SQUARED).params
    all_close(right_inverse(net, params, X, eps), least, order=0.5, times=10)


def test_shares_of_the_blocks():
    net, params = network(2)
    alone = right_inverse(net, params, X, EPS_Y, shares=[0.0, 1.0])
    assert residual(net, params, alone) < 1e-10
    assert all((alone[name] == 0).all() for name in alone if name.startswith("blocks.0"))


def test_solvers():
    a, t = normal(5, 9, seed=1), normal(5, 2, seed=2)
    close(cholesky(a, t), torch.linalg.pinv(a) @ t, times=1e5)
    close(truncated(0.0, 0.0)(a, t), torch.linalg.pinv(a) @ t, times=1e5)
    values = torch.linalg.svdvals(a)
    rtol = (values[2] + values[3]).item() / 2 / values[0].item()
    close(truncated(rtol)(a, t), torch.linalg.pinv(a, rtol=rtol) @ t, times=1e5)
    ridge = 0.1 * (a @ a.mT).diagonal().mean()
    close(
        damped(0.1)(a, t),
        a.mT @ torch.linalg.solve(a @ a.mT + ridge * torch.eye(5).double(), t),
        1e5,
    )


def test_a_stack_is_its_networks():
    net, params = network(2)
    other = net.initial(7, 0.2)
    both, eps = stack([params, other]), torch.stack([EPS_Y, 2 * EPS_Y])
    for solver in (cholesky, truncated(0.1), damped(0.1)):
        found = right_inverse(net, both, X, eps, solver)
        for i, one in enumerate((params, other)):
            all_close(select(found, i), right_inverse(net, one, X, eps[i], solver), times=1e5)


def test_the_engine_takes_the_network():
    net, params = network(2, "relu")
    rows = flat(jacrev(lambda p: functional_call(net, p, (X,)))(params), 2)
    close(ntk(net, params, X), torch.einsum("iap,jbp->ijab", rows, rows), times=1e4)


def test_a_linear_first_block_lacks_features():
    """Its d / 2 features and the bias do not tell more than d / 2 + 1 examples apart."""
    net, params = network(2, "relu", first="linear")
    with pytest.raises(ValueError, match="the 16 features of 6 examples are dependent"):
        right_inverse(net, params, X, EPS_Y)
    change = right_inverse(net, params, X, EPS_Y, truncated())
    assert residual(net, params, change) > 0.01
    assert residual(net, params, change | {k: 0 * v for k, v in change.items()}) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: RevMLP(7, 5, 1, 2), "d must be even, for two halves, got 7"),
        (lambda: RevMLP(8, 0, 1, 2), "width must be a whole number, at least 1, got 0"),
        (lambda: RevMLP(4, 5, 1, 5), "c = 5 outputs are more than the d = 4"),
        (lambda: RevMLP(4, 5, 1, 2, activation="cosine"), "activation 'cosine' is unknown"),
        (lambda: damped(-1.0), "damping must be finite and at least 0, got -1"),
        (lambda: right_inverse(*network(2), X, EPS_Y, shares=[1.0]), "shares must be 2 numbers"),
    ],
)
def test_unusable_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
