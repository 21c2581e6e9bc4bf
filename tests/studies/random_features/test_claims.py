"""The chapter's claims on invented tables whose answers are known exactly."""

from functools import partial

import pandas as pd
import pytest

from tangents.studies.random_features.claims import CLAIMS
from tests.studies.judging import entry_of

BASE = dict(method="srht", depth=1, size=4096, dataset="mnist", n=2000, wrong=False, pool=1)


def runs(part, metric, value, count=6, **fields):
    """Maps of some seeds, with a value of a metric."""
    rows = []
    for seed in range(count):
        run = BASE | fields | dict(part=part, seed=seed, step=0, time=0.0)
        run["run_id"] = repr(sorted((k, str(v)) for k, v in run.items()))
        noise = 1 + 1e-3 * ((seed * 7) % 5)
        rows.append(run | dict(metric=metric, value=value * noise))
        rows.append(run | dict(metric="converged", value=1.0))
    return pd.DataFrame(rows)


judged = partial(entry_of, CLAIMS)


@pytest.mark.parametrize("name, metric, fields", [
    ("zandieh-1-1", "kernel_error", dict()), ("zandieh-1-3", "kernel_error", dict(depth=3)),
    ("zandieh-1-count", "kernel_error", dict(method="count")),
    ("zandieh-3-rate", "spectral_error", dict()),
    ("control-gradients", "kernel_error", dict(method="gradient")),
])  # fmt: skip
@pytest.mark.parametrize("power, verdict", [(-0.5, "supported"), (-0.1, "contradicted")])
def test_errors_fall_with_the_root_of_the_size(name, metric, fields, power, verdict):
    frames = [runs("kernel", metric, m**power, size=m, **fields) for m in (1024, 4096)]
    found = judged(name, *frames)
    assert found["estimate"] == pytest.approx(power, abs=1e-3) and found["verdict"] == verdict


def test_gradients_are_compared_from_a_thousand_features_on():
    frames = [runs("kernel", "kernel_error", value / m, size=m, method=method)
              for m, ratio in ((256, 9), (1024, 0.2), (4096, 0.2))
              for method, value in (("srht", ratio), ("gradient", 1.0))]  # fmt: skip
    found = judged("zandieh-2-1", *frames)
    assert found["estimate"] == pytest.approx(0.2, rel=0.01) and found["verdict"] == "supported"


@pytest.mark.parametrize("value, verdict", [(0.3, "supported"), (0.8, "contradicted")])
def test_the_size_of_the_spectral_error(value, verdict):
    assert judged("zandieh-3-size", runs("kernel", "spectral_error", value, size=8192))[
        "verdict"] == verdict  # fmt: skip


@pytest.mark.parametrize("exact, verdict", [(0.05, "supported"), (0.02, "contradicted")])
def test_ridge_regression_as_good_as_with_the_kernel(exact, verdict):
    frames = [runs("ridge", "error", 0.055), runs("ridge", "error", exact, method="exact")]
    found = judged("zandieh-4-mnist", *frames)
    assert found["estimate"] == pytest.approx(100 * (0.055 - exact), abs=0.02)
    assert found["verdict"] == verdict


@pytest.mark.parametrize("name, method, power, verdict", [
    ("n", "srht", 1.0, "supported"), ("n", "srht", 2.0, "contradicted"),
    ("exact", "exact", 2.2, "supported"), ("exact", "exact", 1.0, "contradicted"),
])  # fmt: skip
def test_cost_in_examples(name, method, power, verdict):
    frames = [runs("cost", "cost", 1e-4 * n**power, n=n, method=method) for n in (1000, 4000)]
    assert judged(f"zandieh-5-{name}", *frames)["verdict"] == verdict


@pytest.mark.parametrize("power, verdict", [(0.5, "supported"), (2.0, "contradicted")])
def test_cost_in_pixels(power, verdict):
    frames = [frame for pool, d in ((1, 784), (2, 196)) for frame in
              (runs("pixels", "cost", d**power, pool=pool), runs("pixels", "inputs", d, pool=pool))]
    frames = [frame.assign(value=frame["value"].round()) if frame["metric"].eq("inputs").any()
              else frame for frame in frames]  # fmt: skip
    found = judged("zandieh-5-d", *frames)
    assert found["estimate"] == pytest.approx(power, abs=0.02) and found["verdict"] == verdict


@pytest.mark.parametrize("ratio, verdict", [(0.8, "supported"), (1.0, "contradicted")])
def test_leverage_scores(ratio, verdict):
    for name in ("kernel", "spectral"):
        frames = [runs("kernel", f"{name}_error", value, size=m, method=method)
                  for m in (256, 1024) for method, value in (("leverage", ratio), ("srht", 1))]
        assert judged(f"zandieh-6-{name}", *frames)["verdict"] == verdict


@pytest.mark.parametrize("fourier, verdict", [(0.09, "supported"), (0.05, "contradicted")])
def test_against_fourier_features(fourier, verdict):
    frames = [runs("ridge", "error", 0.06, size=512),
              runs("ridge", "error", fourier, size=512, method="fourier")]  # fmt: skip
    found = judged("beyond-fourier-mnist-512", *frames)
    assert found["estimate"] == pytest.approx(100 * (fourier - 0.06), abs=0.02)
    assert found["verdict"] == verdict


def test_what_linear_cost_buys():
    frames = [runs("large", "error", 0.02, n=60_000),
              runs("large", "error", 0.03, n=5000, method="exact")]  # fmt: skip
    assert judged("beyond-large", *frames)["verdict"] == "supported"


def test_controls():
    assert judged("control-draw", runs("wrong", "error", 0.9, wrong=True))["verdict"] == "supported"
    for value, verdict in ((0.4, "supported"), (0.2, "contradicted")):
        frames = [runs("kernel", "kernel_error_other", each, size=m)
                  for m, each in ((256, 9.0), (4096, 0.4), (8192, value))]  # fmt: skip
        assert judged("control-kernel", *frames)["verdict"] == verdict
