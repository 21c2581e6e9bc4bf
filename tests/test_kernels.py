"""Distances between kernels and machines with a fixed kernel, by their invariances."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

from tangents import kernels, models
from tangents.empirical import ntk
from tests.cases import close, flat, normal

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


def test_a_kernel_that_is_not_positive_definite_is_refused():
    bad, y = -torch.eye(3).double(), torch.ones(3).double()
    for k in (bad, torch.stack([torch.eye(3).double(), bad])):
        with pytest.raises(ValueError, match=r"^the kernel matrix is not positive definite; "):
            kernels.regression(k, k, y)
        with pytest.raises(ValueError, match=r"^the kernel matrix is not positive definite; "):
            kernels.features(k, k)


@given(seed=SEEDS)
def test_regression_of_several_outputs_with_one_kernel_or_with_all(seed):
    k, rows, y = kernel(seed) + EYE, normal(2, 5, seed=seed), normal(5, 3, seed=seed + 1)
    got = kernels.regression(k, rows, y, 0.1)
    for j in range(3):
        close(got[:, j], kernels.regression(k, rows, y[:, j], 0.1))
    same = torch.eye(3, dtype=torch.float64)
    whole, whole_rows = (v[..., None, None] * same for v in (k, rows))  # outputs that do not mix
    close(kernels.regression(whole, whole_rows, y, 0.1), got)
    stacks = torch.stack([whole, 2 * whole]), torch.stack([whole_rows, 2 * whole_rows])
    assert kernels.regression(*stacks, y).shape == (2, 2, 3)
    close(kernels.regression(*stacks, y)[1], kernels.regression(k, rows, y))


def test_regression_with_the_full_kernel_is_the_minimum_norm_fit_of_the_linearised_model():
    """In the space of the parameters, by a pseudoinverse of the Jacobian that autograd gives."""
    net = models.MLP(3, 9, 2, c=2, activation="tanh")
    params, x, x_test, y = models.initialise(net, 0), normal(5, 3), normal(4, 3), normal(5, 2)
    both = (torch.func.jacrev(lambda p, v=v: functional_call(net, p, (v,))) for v in (x, x_test))
    J, J_test = (flat(rows(params), 2).flatten(0, 1) for rows in both)
    k, k_test = ntk(net, params, x), ntk(net, params, x_test, x)
    want = (J_test @ torch.linalg.pinv(J) @ y.flatten()).view(4, 2)
    close(kernels.regression(k, k_test, y), want, order=0.6)


@pytest.mark.parametrize("time", [0.0, 0.3, 40.0, math.inf])
def test_the_ensemble_is_that_of_networks_linear_in_their_weights(time):
    """f = phi u + psi v with u trained and v not: exp of the flow in the space of the weights gives
    how the outputs depend on the normal initial weights, whose mean and covariance are exact."""
    n, m, p, q = 4, 3, 7, 5
    phi, psi, y = normal(n + m, p), normal(n + m, q, seed=1), normal(n, 2, seed=2)
    a, b = phi[:n], psi[:n]

    def after(u, v, y):
        """The flow du/dt = -a^T (a u + b v - y), in p + 1 dimensions where it is linear."""
        step = torch.zeros(p + 1, p + 1).double()
        step[:p, :p], step[:p, p] = -a.T @ a, -a.T @ (b @ v - y)
        if math.isinf(time):
            u = u - torch.linalg.pinv(a) @ (a @ u + b @ v - y)
        else:
            start = torch.cat([u, torch.ones(1).double()])
            u = (torch.matrix_exp(time * step) @ start)[:p]
        return phi[n:] @ u + psi[n:] @ v

    none = torch.zeros(p).double(), torch.zeros(q).double()
    mean = torch.stack([after(*none, y[:, j]) for j in range(2)], 1)
    zero = torch.zeros(n).double()
    ways = [after(e, none[1], zero) for e in torch.eye(p).double()]
    ways += [after(none[0], e, zero) for e in torch.eye(q).double()]
    covariance = torch.stack(ways, 1) @ torch.stack(ways, 1).T
    theta, prior = phi @ phi.T, phi @ phi.T + psi @ psi.T
    got = kernels.ensemble(theta[:n, :n], theta[n:, :n], prior[:n, :n], prior[n:, :n],
                           prior[n:, n:], y, time)  # fmt: skip
    close(got.mean, mean + 0.0, times=1e6)
    close(got.covariance, covariance, times=1e6)


def test_a_trained_ensemble_knows_its_examples_and_a_bayesian_one_is_the_posterior():
    phi, y = normal(7, 9), normal(4, 1)
    k = phi @ phi.T
    at = dict(ntk=k[:4, :4], nngp=k[:4, :4], y=y)
    there = kernels.ensemble(ntk_test_train=k[:4, :4], nngp_test_train=k[:4, :4],
                             nngp_test=k[:4, :4], **at)  # fmt: skip
    close(there.mean, y, 1e6)
    assert there.covariance.abs().max() < 1e-9
    # of the last layer alone Theta = K: the posterior of the Gaussian process (Lee et al. 2018)
    got = kernels.ensemble(ntk_test_train=k[4:, :4], nngp_test_train=k[4:, :4],
                           nngp_test=k[4:, 4:], **at)  # fmt: skip
    close(got.mean[:, 0], kernels.regression(k[:4, :4], k[4:, :4], y[:, 0]), 1e6)
    solved = k[4:, :4] @ torch.linalg.solve(k[:4, :4], k[:4, 4:])
    close(got.covariance, k[4:, 4:] - solved, 1e6)


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
