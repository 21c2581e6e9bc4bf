"""Distances between kernels and machines with a fixed kernel, by their invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from tangents import kernels, models
from tangents.ntk import ntk
from tests.cases import close, normal

SEEDS = st.integers(0, 10**6)
FACTORS = st.floats(0.1, 100)
Y = torch.tensor([1.0, -1, 1, 1, -1], dtype=torch.float64)
EYE = torch.eye(5, dtype=torch.float64)


def kernel(seed=0, n=5):
    a = normal(n, n + 2, seed=seed)
    return a @ a.T


def rotation(seed, n=5):
    return torch.linalg.qr(normal(n, n, seed=seed)).Q


@given(seed=SEEDS, factor=FACTORS)
def test_scale_and_rotation_leave_what_they_should(seed, factor):
    k, k0, q = kernel(seed), kernel(seed + 1), rotation(seed + 2)
    turned, turned0 = q @ k @ q.T, q @ k0 @ q.T
    close(kernels.distance(factor * k, factor * k0), kernels.distance(k, k0))
    close(kernels.distance(turned, turned0), kernels.distance(k, k0))
    close(kernels.distance((1 + factor) * k0, k0), torch.tensor(factor, dtype=torch.float64))
    close(kernels.cosine(factor * k, k0), kernels.cosine(k, k0))
    close(kernels.cosine(turned, turned0), kernels.cosine(k, k0))
    close(kernels.cosine(k, factor * k), torch.tensor(1.0).double())
    close(kernels.alignment(factor * k, Y), kernels.alignment(k, Y))
    close(kernels.alignment(turned, q @ Y), kernels.alignment(k, Y))
    close(kernels.alignment(k, Y), kernels.cosine(k, torch.outer(Y, Y)))


@given(seed=SEEDS, factor=FACTORS)
def test_cka_sees_neither_scale_nor_a_constant_feature(seed, factor):
    k, k0 = kernel(seed), kernel(seed + 1)
    close(kernels.centred_alignment(factor * k + factor, k0), kernels.centred_alignment(k, k0), 1e5)
    centre = EYE - torch.full_like(EYE, 0.2)
    want = ((centre @ k @ centre) * k0).sum()
    want = want / (centre @ k @ centre).norm() / (centre @ k0 @ centre).norm()
    close(kernels.centred_alignment(k, k0), want)


def test_a_stack_is_its_kernels():
    k, k0 = torch.stack([kernel(s) for s in range(5)]), kernel(9)  # as many as examples
    rows, features = normal(5, 3, 5), kernels.features(k, normal(5, 3, 5))
    for i in range(5):
        for measure in (kernels.distance, kernels.cosine, kernels.centred_alignment):
            close(measure(k, k0)[i], measure(k[i], k0))
        close(kernels.alignment(k, Y)[i], kernels.alignment(k[i], Y))
        close(kernels.regression(k, rows, Y)[i], kernels.regression(k[i], rows[i], Y))
        for both, one in zip(features, kernels.features(k[i], normal(5, 3, 5)[i]), strict=True):
            close(both[i], one)


@given(seed=SEEDS)
def test_regression_interpolates_and_shrinks_with_the_ridge(seed):
    k, rows = kernel(seed) + EYE, normal(2, 5, seed=seed)
    close(kernels.regression(k, k, Y), Y, 1e5)
    close(kernels.regression(k, rows, Y), rows @ torch.linalg.solve(k, Y), 1e5)
    ridged = rows @ torch.linalg.solve(k + 3 * EYE, Y)
    close(kernels.regression(k, rows, Y, 3.0), ridged, 1e5)
    assert kernels.regression(k, rows, Y, 1e12).abs().max() < 1e-9


def test_features_reproduce_the_kernel():
    a, b = normal(6, 9), normal(4, 9, seed=1)
    phi, phi_test = kernels.features(a @ a.T, b @ a.T)
    close(phi @ phi.T, a @ a.T, 1, order=0.5)  # but for the jitter
    close(phi_test @ phi.T, b @ a.T, 1, order=0.5)
    assert phi.shape == (6, 6) and phi_test.shape == (4, 6)


def test_the_jitter_rescues_a_singular_kernel():
    a = normal(6, 3)
    phi, _ = kernels.features(a @ a.T, a @ a.T)
    close(phi @ phi.T, a @ a.T, 1, order=0.5)


@pytest.mark.parametrize("bad", [-torch.eye(3).double(), torch.full((3, 3), torch.nan).double()])
def test_a_kernel_that_is_not_positive_definite_is_refused(bad):
    stack = torch.stack([torch.eye(3).double(), bad])
    y = torch.ones(3).double()
    for k in (bad, stack):
        with pytest.raises(ValueError, match=r"^the kernel matrix is not positive definite; "):
            kernels.regression(k, k, y)
        with pytest.raises(ValueError, match=r"^the kernel matrix is not positive definite; "):
            kernels.features(k, k)


# ---- infinite width


def expectations(activation, q, r, k):
    """E[s(u) s(v)] and E[s'(u) s'(v)] over u, v ~ N(0, ((q, k), (k, r))), by quadrature."""
    if activation == "relu":  # in polar coordinates, where the radius integrates to 2 and 1
        tilt = math.acos(max(-1.0, min(1.0, k / math.sqrt(q * r))))
        low, high = tilt - math.pi / 2, math.pi / 2  # where both are positive
        mean = quad(lambda a: math.cos(a) * math.cos(a - tilt), low, high, epsabs=1e-14)[0]
        return 2 / math.pi * math.sqrt(q * r) * mean, (high - low) / math.pi
    z, w = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(180))
    w = w / w.sum()
    u = math.sqrt(q) * z[:, None]
    v = k / math.sqrt(q) * z[:, None] + math.sqrt(max(r - k * k / q, 0)) * z
    s, slope = torch.erf, lambda t: 2 / math.sqrt(math.pi) * (-t * t).exp()
    return tuple((w[:, None] * w * g(u) * g(v)).sum().item() for g in (s, slope))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_infinite_width_is_the_recursion(activation, bias, monkeypatch):
    x1, x2 = normal(5, 3), normal(4, 3, seed=1)
    monkeypatch.setattr(kernels, "TILE", 2)
    for other in (x2, None):
        found = kernels.fully_connected(x1, other, 2, activation, bias)
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
    whole = kernels.fully_connected(x1, None, 2, activation, bias)
    close(whole[1], kernels.fully_connected(x1, x1, 2, activation, bias)[1], 10, 0.5)
    close(whole[1], whole[1].mT)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_wide_networks_have_the_kernel_of_infinite_width(activation):
    x, module = normal(4, 3), models.MLP(3, 256, 2, activation=activation)
    params = models.initialise_stack(module, list(range(64)))
    found = ntk(module, params, x)[..., 0, 0]
    _, want = kernels.fully_connected(x, depth=2, activation=activation)
    error = (found.mean(0) - want) / (found.std(0) / 64**0.5)
    assert error.abs().max() < 6  # of 10 distinct entries; the bias is of order 1 / width
    assert (found[0] - want).abs().max() > 1e-3 * want.max()


def test_infinite_width_refuses():
    with pytest.raises(ValueError, match="activation must be one of relu, erf: 'tanh'"):
        kernels.fully_connected(normal(2, 3), activation="tanh")
    with pytest.raises(ValueError, match="differ in dimension"):
        kernels.fully_connected(normal(2, 3), normal(2, 4))
    zero = torch.zeros(1, 3).double()
    with pytest.raises(ValueError, match="zeros lies at the kink of relu"):
        kernels.fully_connected(normal(2, 3), zero)
    assert kernels.fully_connected(zero, activation="erf")[1].isfinite().all()
