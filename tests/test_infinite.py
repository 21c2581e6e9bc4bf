"""Kernels in closed form against quadrature, and against wide networks."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from tangents import infinite, models
from tangents.empirical import ntk
from tangents.infinite import convolutional, fully_connected
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


def covered(k, p, q, stride, delta):
    """Mean of k over the shifts of places p and q by a 3 x 3 kernel, zero outside of the images."""
    shifts = [(1, 1)] if delta else list(itertools.product(range(3), repeat=2))
    at = [tuple(stride * v + o - 1 for v, o in zip((*p, *q), s * 2, strict=True)) for s in shifts]
    return sum(k.get(each, 0.0) for each in at) / len(shifts)


@pytest.mark.parametrize("activation, bias, delta", [("relu", True, False), ("erf", False, True)])
def test_infinitely_many_channels_are_the_recursion_over_places(activation, bias, delta):
    images = dict(zip("ab", normal(2, 2, 3, 3), strict=True))
    every = {side: list(itertools.product(range(side), repeat=4)) for side in (3, 2)}
    k = {
        (u, v): {s: (images[u][:, *s[:2]] @ images[v][:, *s[2:]]).item() / 2 for s in every[3]}
        for u, v in ("aa", "bb", "ab")
    }
    theta = dict.fromkeys(every[3], 0.0)
    for stride, side in ((1, 3), (2, 2)):
        theta = {
            s: covered(k["a", "b"], s[:2], s[2:], stride, False)
            + covered(theta, s[:2], s[2:], stride, delta)
            + bias
            for s in every[side]
        }
        sent = {
            pair: {s: covered(k[pair], s[:2], s[2:], stride, delta) for s in every[side]}
            for pair in k
        }
        for (u, v), pixels in sent.items():
            k[u, v] = {}
            for s, cross in pixels.items():
                q, r = sent[u, u][s[:2] * 2], sent[v, v][s[2:] * 2]
                k[u, v][s], slope = expectations(activation, q, r, cross)
                theta[s] *= slope if u != v else 1
    mean = sum(k["a", "b"].values()) / 16
    want = mean, mean + sum(theta.values()) / 16 + bias
    given = dict(activation=activation, bias=bias, delta=delta)
    x, y = (image[None] for image in images.values())
    found = convolutional(x, y, **given, strides=(1, 2), kernel=3, padding=1)
    for got, expected in zip(found, want, strict=True):
        close(got, torch.tensor([[expected]]).double(), times=100, order=0.5)


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_wide_convolutions_have_the_kernel_of_infinitely_many_channels(activation, delta):
    x, module = normal(3, 2, 20, 20), models.ConvNet(2, 64, activation=activation)
    draw = models.delta(models.normal) if delta else models.normal
    params = models.initialise_stack(module, list(range(64)), draw=draw)
    found = ntk(module, params, x)[..., 0, 0]
    _, want = convolutional(x, None, activation, True, delta)
    error = (found.mean(0) - want) / (found.std(0) / 64**0.5)
    assert error.abs().max() < 6
    close(convolutional(x[:2], x[1:], activation, True, delta)[1], want[:2, 1:], order=0.5)
    other = convolutional(x, None, activation, True, not delta)[1]
    assert ((found.mean(0) - other) / (found.std(0) / 64**0.5)).abs().max() > 8


def test_infinitely_many_channels_refuse():
    x = normal(1, 2, 20, 20)
    with pytest.raises(ValueError, match="activation must be one of relu, erf: 'tanh'"):
        convolutional(x, activation="tanh")
    with pytest.raises(ValueError, match="differ in dimension"):
        convolutional(x, x[:, :1])
    with pytest.raises(ValueError, match="side 4 has no centre"):
        convolutional(x, delta=True, kernel=4)
