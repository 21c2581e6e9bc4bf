"""The chapter's claims on invented tables whose answers are known exactly."""

import math
from functools import partial

import pandas as pd
import pytest

from tangents.studies.orthogonal.claims import CLAIMS
from tests.studies.judging import entry_of

BASE = dict(network="fc", delta=False, depth=50, width=128, rate=0.01, variance=1.05, max_steps=500)


def runs(part, metric, value, count=6, step=3, **fields):
    """Networks of some seeds, with `value` of a metric, or value(fields) of it."""
    rows = []
    for seed in range(count):
        run = BASE | fields | dict(part=part, seed=seed, step=step, time=1.0)
        run["run_id"] = repr(sorted((k, str(v)) for k, v in run.items()))
        noise = 1 + 1e-3 * ((seed * 7) % 5)
        rows.append(run | dict(metric=metric, value=value * noise))
        rows.append(run | dict(metric="converged", value=float(math.isfinite(value))))
    return pd.DataFrame(rows)


def trained(part, gaussian, orthogonal, **fields):
    """Steps of both kinds of weights."""
    return (runs(part, "steps", gaussian, weights="gaussian", **fields),
            runs(part, "steps", orthogonal, weights="orthogonal", **fields))  # fmt: skip


judged = partial(entry_of, CLAIMS)


@pytest.mark.parametrize("power, verdict", [(-0.5, "supported"), (-0.2, "contradicted")])
def test_the_limit_is_reached_as_one_over_the_root_of_the_width(power, verdict):
    frames = [runs("limit", "kernel_error", w**power, step=0, width=w, weights="orthogonal")
              for w in (64, 256, 1024)]  # fmt: skip
    found = judged("huang-1-fc-orthogonal", *frames)
    assert found["estimate"] == pytest.approx(power, abs=1e-3) and found["verdict"] == verdict


@pytest.mark.parametrize("name, net", [("fc", {}), ("delta", dict(network="conv", delta=True))])
def test_fluctuations_are_compared_at_equal_widths(name, net):
    sizes = dict(gaussian=2.0, orthogonal=1.2)
    frames = [runs("limit", "kernel_error", size / w, step=0, width=w, weights=kind, **net)
              for w in (16, 64) for kind, size in sizes.items()]  # fmt: skip
    found = judged(f"beyond-fluctuations-{name}", *frames)
    assert found["estimate"] == pytest.approx(0.6, rel=1e-2) and found["verdict"] == "supported"


def test_another_limit_is_asked_for_at_the_two_largest_widths():
    frames = [runs("limit", "kernel_error_other", value, step=0, width=w, weights="orthogonal")
              for w, value in ((64, 9), (256, 1), (1024, 1))]  # fmt: skip
    found = judged("control-limit-fc", *frames)
    assert found["estimate"] == pytest.approx(0, abs=0.01) and found["verdict"] == "supported"


@pytest.mark.parametrize("name, metric, power", [
    ("huang-2-gaussian", "kernel_change", -0.9), ("huang-first-gaussian", "moved_first", -0.5),
    ("huang-2-middle-gaussian", "moved_middle", -1),
])  # fmt: skip
def test_exponents_of_what_changes_while_lazy(name, metric, power):
    name = name.replace("huang-first", "huang-2-first")
    frames = [runs("lazy", metric, w**power, width=w, weights="gaussian") for w in (64, 256, 1024)]
    found = judged(name, *frames)
    assert found["estimate"] == pytest.approx(power, abs=0.01) and found["verdict"] == "supported"


@pytest.mark.parametrize("ratio, verdict", [(1.02, "supported"), (1.5, "contradicted")])
def test_no_gain_while_lazy_is_asked_for_at_the_largest_width(ratio, verdict):
    frames = [*trained("lazy", 300, 100, width=64), *trained("lazy", 100 * ratio, 100, width=512)]
    found = judged("huang-3-weights", *frames)
    assert found["estimate"] == pytest.approx(ratio, rel=0.01) and found["verdict"] == verdict
    frames.append(runs("lazy", "steps_limit", 100 * ratio, width=512, weights="orthogonal"))
    assert judged("huang-3-limit", *frames)["verdict"] == verdict


def test_a_training_that_is_not_there_in_time_counts_with_the_steps_it_was_given():
    found = judged("huang-4-mnist", *trained("depth", math.inf, 25, rate=0.03))
    assert found["estimate"] == pytest.approx(20, rel=0.01) and found["verdict"] == "supported"
    assert found["note"] == "not there in time: 6 of 6 Gaussian"
    both = judged("huang-4-mnist", *trained("depth", math.inf, math.inf, rate=0.03))
    assert both["estimate"] == pytest.approx(1) and both["verdict"] == "contradicted"


def test_the_best_rate_is_that_of_each_kind():
    frames = [*trained("depth", 80, 90, rate=0.003), *trained("depth", 60, 20, rate=0.03),
              *trained("depth", math.inf, 500, rate=0.1)]  # fmt: skip
    assert judged("huang-4-best", *frames)["estimate"] == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("name, part, field, power, verdict", [
    ("huang-5-depth", "depth", "depth", 1.0, "supported"),
    ("huang-5-depth", "depth", "depth", 0.0, "contradicted"),
    ("huang-5-rate", "depth", "rate", 0.5, "supported"),
    ("huang-5-rate-cifar", "cifar", "rate", -0.5, "contradicted"),
    ("huang-5-width", "width", "width", -0.5, "supported"),
    ("huang-5-width", "width", "width", 0.5, "contradicted"),
])  # fmt: skip
def test_how_the_gain_grows(name, part, field, power, verdict):
    values = dict(depth=(10, 50, 100), rate=(0.01, 0.03), width=(32, 128))[field]
    frames = [frame for value in values
              for frame in trained(part, 40 * value ** (power - 1), 40 / value, **{field: value},
                                   max_steps=10**9)]  # fmt: skip
    found = judged(name, *frames)
    assert found["estimate"] == pytest.approx(power, abs=0.01) and found["verdict"] == verdict


def test_the_gain_far_from_linearity_over_that_near_it():
    frames = [frame for rate in (0.01, 0.03, 0.1) for frame in
              (*trained("depth", 90, 30, rate=rate), *trained("regime", 45, 30, rate=rate,
                                                              variance=2.0))]  # fmt: skip
    found = judged("beyond-regime", *frames)
    assert found["estimate"] == pytest.approx(0.5, rel=0.01) and found["verdict"] == "supported"


@pytest.mark.parametrize("change, verdict", [(0.8, "supported"), (0.2, "contradicted")])
def test_no_gain_where_nothing_is_lazy(change, verdict):
    frames = [*trained("depth", 100, 100, depth=10)]
    frames += [runs("depth", "kernel_change", value, weights=kind, depth=10)
               for kind, value in (("gaussian", 2.0), ("orthogonal", change))]  # fmt: skip
    assert judged("beyond-lazy", *frames)["verdict"] == verdict


def test_frozen_networks():
    frames = [frame for rate, own in ((0.003, 100), (0.03, 20)) for frame in
              (*trained("frozen", math.inf, own, rate=rate),
               *trained("depth", 400, own / 0.8, rate=rate))]  # fmt: skip
    found = judged("beyond-frozen-fast", *frames)
    assert found["estimate"] == pytest.approx(25, rel=0.01) and found["verdict"] == "supported"
    assert found["note"] == "not there in time: 6 of 6 Gaussian"
    found = judged("control-frozen", *frames)
    assert found["estimate"] == pytest.approx(0.8, rel=0.01) and found["verdict"] == "supported"


def test_controls():
    found = judged("control-linear", *trained("linear", 90, 30, variance=1.0))
    assert found["estimate"] == pytest.approx(3, rel=0.01) and found["verdict"] == "supported"
    draws = runs("draws", "steps", 100, weights="again")
    for gaussian, verdict in ((110, "supported"), (300, "contradicted")):
        assert judged("control-draws", *trained("depth", gaussian, 30), draws)["verdict"] == verdict
    frames = [runs("depth", f"singular_{name}", value, step=0, depth=depth, weights=kind)
              for depth in (10, 100) for kind, power in (("gaussian", 0.5), ("orthogonal", 0))
              for name, value in (("largest", 2 * depth**power), ("rms", 1.0))]  # fmt: skip
    for kind, power in (("gaussian", 0.5), ("orthogonal", 0)):
        found = judged(f"control-isometry-{kind}", *frames)
        assert found["estimate"] == pytest.approx(power, abs=0.01)
        assert found["verdict"] == "supported"
