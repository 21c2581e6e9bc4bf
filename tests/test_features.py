"""Random features against what they sketch, dense, and against the kernel in closed form."""

import math

import numpy as np
import pytest
import torch
from sklearn.kernel_approximation import PolynomialCountSketch

from tangents import kernels
from tangents.features import Moments, NTKFeatures, TensorSketch, TensorSRHT
from tangents.infinite import fully_connected
from tests.cases import close, normal

A, B = normal(3, 5), normal(3, 4, seed=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_tensor_sketch_is_the_count_sketch_of_the_outer_product():
    sketch = TensorSketch.draw(5, 4, 7, generator())
    want = torch.zeros(3, 7).double()
    for i in range(5):
        for j in range(4):
            place = (sketch.places[0][i] + sketch.places[1][j]) % 7
            sign = sketch.signs[0][i] * sketch.signs[1][j]
            want[:, place] += sign * A[:, i] * B[:, j]
    close(sketch(A, B), want, times=100)


def test_a_tensor_sketch_of_a_vector_with_itself_is_that_of_scikit_learn():
    theirs = PolynomialCountSketch(degree=2, n_components=6, random_state=0).fit(A.numpy())
    places = tuple(torch.from_numpy(h).long() for h in theirs.indexHash_)
    signs = tuple(torch.from_numpy(np.asarray(s, float)) for s in theirs.bitHash_)
    ours = TensorSketch(6, places, signs)(A, A)
    close(ours, torch.from_numpy(theirs.transform(A.numpy())), times=100)


def test_a_tensor_srht_is_made_of_products_of_fourier_coefficients():
    sketch = TensorSRHT.draw(5, 4, 8, generator())
    turns = (torch.outer(k, k).double() / len(k) for k in map(torch.arange, (5, 4)))
    waves = (torch.exp(-2j * math.pi * turn) for turn in turns)
    left, right = (
        ((x * signs).to(f) @ f)[:, at]
        for x, signs, f, at in zip((A, B), sketch.signs, waves, sketch.places, strict=True)
    )
    products = left * right / 2
    want = torch.stack([products.real, products.imag], -1).flatten(1)
    close(sketch(A, B), want, times=1e3)


@pytest.mark.parametrize("kind", [TensorSketch, TensorSRHT])
def test_inner_products_of_sketches_are_right_in_the_mean(kind):
    want = (A @ A.mT) * (B @ B.mT)
    draws = []
    for seed in range(2000):
        z = kind.draw(5, 4, 8, generator(seed))(A, B)
        draws.append(z @ z.mT)
    draws = torch.stack(draws)
    error = (draws.mean(0) - want) / (draws.std(0) / 2000**0.5).clamp(min=1e-12)
    assert error.abs().max() < 5


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("options", [dict(sketch="srht"), dict(sketch="count"),
                                     dict(leverage=True), dict(units=16)])  # fmt: skip
def test_features_have_the_kernel_in_the_mean(depth, options):
    x = normal(4, 6)
    want = fully_connected(x, None, depth, "relu", False)[1]
    draws = []
    for seed in range(400):
        z = NTKFeatures.draw(6, 256, depth, seed, **options)(x)
        assert z.shape == (4, 256)
        draws.append(z @ z.mT)
    draws = torch.stack(draws)
    error = (draws.mean(0) - want) / (draws.std(0) / 20)
    assert error.abs().max() < 6 and (draws[0] - want).abs().max() > 1e-3


def test_the_error_falls_with_the_number_of_features():
    x = normal(30, 6)
    want = fully_connected(x, None, 2, "relu", False)[1]
    errors = [
        np.mean([kernels.distance(z @ z.mT, want).item()
                 for z in (NTKFeatures.draw(6, m, 2, seed)(x) for seed in range(5))])
        for m in (64, 1024)
    ]  # fmt: skip
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.35)


def test_a_draw_is_that_of_its_seed_in_every_precision():
    x = normal(4, 6)
    one, same, other = (NTKFeatures.draw(6, 32, 2, seed)(x) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.allclose(one, other)
    single = NTKFeatures.draw(6, 32, 2, 0)(x.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), one, rtol=1e-4, atol=1e-5)


def test_ridge_on_features_is_ridge_with_their_kernel():
    z, y, z_test = normal(20, 7), normal(20, 2, seed=1), normal(5, 7, seed=2)
    found = Moments.of(zip(z.split(6), y.split(6), strict=True))
    for penalty, w in zip((0.1, 3.0), found.ridge((0.1, 3.0)), strict=True):
        for j in range(2):
            want = kernels.regression(z @ z.mT, z_test @ z.mT, y[:, j], 20 * penalty)
            close(z_test @ w[:, j], want, times=1e3)


@pytest.mark.parametrize("given, message", [
    (dict(d=0), "d must be a whole number, at least 1"),
    (dict(depth=0), "depth must be a whole number, at least 1"),
    (dict(sketch="fast"), "sketch must be one of count, srht, got 'fast'"),
    (dict(units=31), "32 features leave none"), (dict(size=1), "1 features leave none"),
])  # fmt: skip
def test_features_refuse(given, message):
    with pytest.raises(ValueError, match=message):
        NTKFeatures.draw(**dict(d=6, size=32) | given)


def test_inputs_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"inputs must be \(n, 6\), got \(2, 5\)"):
        NTKFeatures.draw(6, 32)(normal(2, 5))
    with pytest.raises(ValueError, match="must be even, got 7"):
        TensorSRHT.draw(5, 4, 7, generator())
    with pytest.raises(ValueError, match="penalties must be positive"):
        Moments.of([(A, B)]).ridge([0.0])
    with pytest.raises(ValueError, match="there are no rows"):
        Moments.of([])
