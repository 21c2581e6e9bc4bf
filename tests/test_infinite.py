"""Kernels in closed form against quadrature, and against wide networks."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from tangents import infinite, models
from tangents.empirical import ntk
from tangents.infinite import fully_connected
from tests.cases import close, normal

NODES = [torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(180)]
NODES[1] /= NODES[1].sum()


def expectations(activation, q, r, k):
    """E[s(u) s(v)] and E[s'(u) s'(v)] over u, v ~ N(0, ((q, k), (k, r))), by quadrature."""
    if activation == "relu":  # in polar coordinates, where the radius integrates to 2 and 1
        tilt = math.acos(max(-1.0, min(1.0, k / math.sqrt(q * r))))
        low, high = tilt - math.pi / 2, math.pi / 2  # where both are positive
        mean = quad(lambda a: math.cos(a) * math.cos(a - tilt), low, high, epsabs=1e-14)[0]
        return 2 / math.pi * math.sqrt(q * r) * mean, (high - low) / math.pi
    z, w = NODES
    u = math.sqrt(q) * z[:, None]
    v = k / math.sqrt(q) * z[:, None] + math.sqrt(max(r - k * k / q, 0)) * z
    s, slope = torch.erf, lambda t: 2 / math.sqrt(math.pi) * (-t * t).exp()
    return tuple((w[:, None] * w * g(u) * g(v)).sum().item() for g in (s, slope))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_infinite_width_is_the_recursion(activation, bias, monkeypatch):
    x1, x2 = normal(5, 3), normal(4, 3, seed=1)
    monkeypatch.setattr(infinite, "TILE", 2)
    for other in (x2, None):
        found = fully_connected(x1, other, 2, activation, bias)
        right = x1 if other is None else other
        want = torch.empty(2, len(x1), len(right), dtype=torch.float64)
        for i, a in enumerate(x1):
            for j, b in enumerate(right):
                q, r, k = (float(u @ v) / 3 for u, v in ((a, a), (b, b), (a, b)))
                theta = k + bias
                for _ in range(2):
                    k, slope = expectations(activation, q, r, k)
                    q, r = (expectations(activation, v, v, v)[0] for v in (q, r))
                    theta = k + bias + theta * slope
                want[:, i, j] = torch.tensor([k, theta])
        for got, expected in zip(found, want, strict=True):
            close(got, expected, times=10, order=0.5)
    whole = fully_connected(x1, None, 2, activation, bias)
    close(whole[1], fully_connected(x1, x1, 2, activation, bias)[1], 10, 0.5)
    close(whole[1], whole[1].mT)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_wide_networks_have_the_kernel_of_infinite_width(activation):
    x, module = normal(4, 3), models.MLP(3, 256, 2, activation=activation)
    params = models.initialise_stack(module, list(range(64)))
    found = ntk(module, params, x)[..., 0, 0]
    _, want = fully_connected(x, depth=2, activation=activation)
    error = (found.mean(0) - want) / (found.std(0) / 64**0.5)
    assert error.abs().max() < 6  # of 10 distinct entries; the bias is of order 1 / width
    assert (found[0] - want).abs().max() > 1e-3 * want.max()


def test_infinite_width_refuses():
    with pytest.raises(ValueError, match="activation must be one of relu, erf: 'tanh'"):
        fully_connected(normal(2, 3), activation="tanh")
    with pytest.raises(ValueError, match="differ in dimension"):
        fully_connected(normal(2, 3), normal(2, 4))
    zero = torch.zeros(1, 3).double()
    with pytest.raises(ValueError, match="zeros lies at the kink of relu"):
        fully_connected(normal(2, 3), zero)
    assert fully_connected(zero, activation="erf")[1].isfinite().all()
