"""The study of random features: tiny runs against what they have to be."""

import pytest
import torch

from tangents import infinite, kernels, models
from tangents.features import NTKFeatures
from tangents.lab.study import ConfigError, coerce
from tangents.studies.random_features import run as study
from tangents.studies.random_features.config import RandomFeatures
from tests.cases import close

TINY = dict(dataset="digits", pool=1, n=40, size=128)
RIDGE = TINY | dict(measure="ridge", n_test=50)


def run(*configs):
    """{metric: value} of each config, all in one stack."""
    found = [{} for _ in configs]
    for i, rows, arrays in study.run([RandomFeatures(**c) for c in configs], "cpu"):
        assert not arrays and {row["step"] for row in rows} == {0}
        found[i] = {row["metric"]: row["value"] for row in rows}
    return found


def test_rows_hold_every_metric():
    compared = {"kernel_error", "kernel_error_other", "spectral_error", "degrees", "dimension"}
    for method in ("srht", "count", "leverage", "gradient"):
        (found,) = run(TINY | dict(method=method))
        assert found.keys() == compared | {"converged"}
    assert run(RIDGE)[0].keys() == {"error", "converged"}
    assert run(TINY | dict(measure="cost"))[0].keys() == {"cost", "inputs", "converged"}


def test_a_map_in_a_stack_is_the_map_alone():
    configs = [TINY | dict(method=m, size=s) for m in ("srht", "gradient") for s in (64, 128)]
    assert run(*configs) == [run(c)[0] for c in configs]


@pytest.mark.parametrize("depth", [1, 2])
def test_distances_are_those_of_the_gram_matrix(depth):
    c = RandomFeatures(**TINY | dict(depth=depth, seed=3))
    x = study.task(c, "cpu").x
    z = NTKFeatures.draw(64, 128, depth, 3)(x)
    exact, deeper = (
        infinite.fully_connected(x, None, k, "relu", False)[1] for k in (depth, depth + 1)
    )
    (found,) = run(TINY | dict(depth=depth, seed=3))
    assert found["kernel_error"] == pytest.approx(kernels.distance(z @ z.mT, exact).item())
    assert found["kernel_error_other"] == pytest.approx(kernels.distance(z @ z.mT, deeper).item())
    shifted = exact + 1e-4 * exact.trace() * torch.eye(40).double()
    values = torch.linalg.eigvals(torch.linalg.solve(shifted, z @ z.mT - exact))
    assert found["spectral_error"] == pytest.approx(values.real.abs().max().item(), rel=1e-6)
    assert found["degrees"] == pytest.approx(torch.linalg.solve(shifted, exact).trace().item())


@pytest.mark.parametrize("depth, size", [(1, 700), (3, 700), (3, 5000)])
def test_a_finite_network_has_as_many_parameters_as_there_are_features(depth, size):
    c = RandomFeatures(**TINY | dict(method="gradient", depth=depth, size=size))
    module = study.finite(c, 64)
    count = sum(p.numel() for p in module.parameters())
    width = module.readout.in_features
    more = models.MLP(64, width + 1, depth, activation="relu", bias=False)
    assert count <= size < sum(p.numel() for p in more.parameters())


def test_ridge_by_features_is_ridge_by_their_kernel():
    c = RandomFeatures(**RIDGE | dict(size=32))
    data = study.task(c, "cpu")
    z = study.features(c, 64, 0)
    a = z(data.x)
    found = study.by_features(z, data, z)
    want = study.by_kernel(a @ a.mT, z(data.x_test) @ a.mT, data.y)
    assert found.loss == pytest.approx(want.loss, rel=1e-6)
    close(found.predict(), want.predict(), times=1e9)


def test_a_penalty_is_chosen_on_a_fifth_of_the_examples():
    c = RandomFeatures(**RIDGE)
    data = study.task(c, "cpu")
    k, k_test = study.limit(c, data.x), study.limit(c, data.x_test, data.x)
    output = study.by_kernel(k, k_test, data.y).predict()
    size = k.diagonal()[:32].mean()

    def predict(fit, cross, y, penalty):
        shift = penalty * size * len(fit) * torch.eye(len(fit)).double()
        return cross @ torch.linalg.solve(fit + shift, y)

    losses = [
        (predict(k[:32, :32], k[32:, :32], data.y[:32], p) - data.y[32:]).square().sum().item()
        for p in study.PENALTIES
    ]
    best = study.PENALTIES[losses.index(min(losses))]
    close(output, predict(k, k_test, data.y, best), times=1e6)


def test_features_classify_and_those_of_another_draw_do_not():
    given = RIDGE | dict(n=300, n_test=300, size=512)
    methods = ("exact", "srht", "fourier", "gradient")
    configs = [given | dict(method=method) for method in methods] + [given | dict(wrong=True)]
    exact, own, fourier, gradient, wrong = (found["error"] for found in run(*configs))
    assert exact < 0.1 and own < 0.15 and fourier < 0.15 and gradient < 0.3 and wrong > 0.75


@pytest.mark.parametrize("given, message", [
    (dict(method="exact"), "features of the kernel, not 'exact'"),
    (dict(method="fourier"), "features of the kernel, not 'fourier'"),
    (dict(measure="ridge"), "needs n >= 5 and test examples"),
    (dict(wrong=True), "wrong=True needs measure='ridge'"),
    (dict(measure="cost", method="gradient"), "of sketches or the kernel, not 'gradient'"),
    (dict(size=30), "size must be a multiple of 4, at least 8, got 30"),
])  # fmt: skip
def test_configs_that_cannot_be_run_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        coerce(RandomFeatures, given)
