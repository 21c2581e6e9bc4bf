"""Distances between kernels and machines with a fixed kernel, by their invariances."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangents import kernels
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


def test_ridge_is_regression_for_each_shift():
    z, y = normal(6, 4), normal(6, 2, seed=1)
    k, shifts = z @ z.mT, (0.1, 3.0)
    for shift, a in zip(shifts, kernels.ridge(k, y, shifts), strict=True):
        for j in range(2):
            close(k @ a[:, j], kernels.regression(k, k, y[:, j], shift), times=1e3)


@given(seed=SEEDS, factor=FACTORS)
def test_velocity_is_how_far_a_kernel_turns(seed, factor):
    k, k0 = kernel(seed), kernel(seed + 1)
    turned = 1 - (k @ k0).trace() / ((k @ k).trace() * (k0 @ k0).trace()).sqrt()
    close(kernels.velocity(factor * k, k0, 0.5), 2 * turned)
    assert abs(kernels.velocity(factor * k, k, 0.1)) < 1e-13
