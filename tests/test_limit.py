"""The limit of infinite output scale against exponentials, derivatives and a network near it."""

import math

import pytest
import torch

from tangents import models
from tangents.empirical import jacobian, ntk
from tangents.flow import GradientFlow, flow
from tangents.functional import norm, select
from tangents.limit import kernel_derivative, learn, moved_kernel
from tests.cases import close, normal

N, D, ALPHA = 6, 4, 1e6
X = normal(N, D, seed=2)
Y = torch.where(X[:, 0] > 0, 1.0, -1.0).double()
NET = models.MLP(D, 8, 2)
PARAMS = models.initialise_stack(NET, [0])
ONE = select(PARAMS, 0)
RULE = GradientFlow(1e-4, 0.1, True)


def test_the_square_loss_decays_by_exponentials(unchecked):
    """Until the first margin is one F = (1 - exp(-t K / n)) y."""
    k = ntk(NET, ONE, X, outputs="trace")
    found = learn(k, Y, "square", GradientFlow(1e-2, 1e-2, True), 150)
    values, vectors = torch.linalg.eigh(k)
    want = vectors @ ((1 - torch.exp(-found.t * values / N)) * (vectors.T @ Y))
    assert found.t > 0 and (found.output - want).abs().max() < 2e-2
    close(k @ found.beta, found.output, times=1e7)


def test_a_network_of_large_scale_goes_the_way_of_the_limit(unchecked):
    J = jacobian(NET, ONE, X)
    found = learn(J.gram(outputs="trace"), Y, rule=RULE)
    row = torch.tensor([ALPHA], dtype=torch.float64)
    *_, end = flow(NET, PARAMS, X, Y, row, 1e-4 * row / row, "soft_hinge", RULE)
    assert found.converged and end.converged[0] and 0 < found.t1 < found.t
    assert (found.output - end.output[0]).abs().max() < 1e-2
    way = J.vjp(found.beta[:, None])
    moved = {k: (end.params[k][0] - ONE[k]) * ALPHA for k in ONE}
    apart = norm({k: (moved[k] - way[k])[None] for k in way})
    assert apart < 1e-2 * norm({k: v[None] for k, v in way.items()})
    slope = kernel_derivative(NET, ONE, way, X)
    change = ntk(NET, select(end.params, 0), X, outputs="trace") - ntk(NET, ONE, X, outputs="trace")
    assert (ALPHA * change - slope).norm() < 2e-2 * slope.norm()


def test_the_derivative_of_the_kernel():
    """Against Richardson's extrapolation of longer steps, and of opposite sign the other way."""
    way = select(models.initialise_stack(NET, [3]), 0)
    size = norm({k: v[None] for k, v in way.items()}).item()

    def central(length):
        ends = (moved_kernel(NET, ONE, way, X, s * length / size) for s in (1, -1))
        return (next(ends) - next(ends)) * size / (2 * length)

    want = (4 * central(5e-3) - central(1e-2)) / 3
    got = kernel_derivative(NET, ONE, way, X)
    assert (got - want).norm() < 1e-4 * want.norm()
    back = kernel_derivative(NET, ONE, {k: -v for k, v in way.items()}, X)
    close(back, -got, times=100)


def test_out_of_steps_is_told_and_singular_kernels_are_refused():
    k = ntk(NET, ONE, X, outputs="trace")
    found = learn(k, Y, max_steps=2)
    assert not found.converged and math.isnan(found.t1)
    with pytest.raises(ValueError, match="not positive definite"):
        learn(-k, Y)
