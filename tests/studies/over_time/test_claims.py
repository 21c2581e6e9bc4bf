"""The chapter's claims on invented tables whose answers are known exactly."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from tangents.lab.evidence import Table
from tangents.studies.over_time import claims
from tests.studies.judging import entry_of, jitter

BASE = dict(train="sgd", network="fc", rate=0.02, scaled_alpha=1.0)
TIMES = [0.0, *(0.1 * 2 ** (k / 2) for k in range(17)), 32.0]


def runs(part, metric, values, count=5, **fields):
    """Runs of some seeds with a value of a metric at each time, near those given."""
    rows = []
    for seed in range(count):
        run = BASE | fields | dict(part=part, seed=seed)
        run["run_id"] = repr(sorted((k, str(v)) for k, v in run.items()))
        value = values(seed) if callable(values) else values
        for step, (time, v) in enumerate(value.items()):
            at = dict(step=step, time=time, value=v * (1 if callable(values) else jitter(seed)))
            rows.append(run | at | dict(metric=metric))
        rows.append(run | dict(step=99, time=99.0, metric="converged", value=1.0))
    return pd.DataFrame(rows)


judged = partial(entry_of, claims.CLAIMS)


@pytest.mark.parametrize("name, part, fields", [
    ("conv", "battery", dict(network="conv")), ("edge", "rates", dict(rate=0.05))])  # fmt: skip
@pytest.mark.parametrize("first, late, verdict", [
    (0.2, 0.005, "supported"), (0.2, 0.1, "contradicted"), (0.01, 0.001, "contradicted"),
])  # fmt: skip
def test_the_basin(name, part, fields, first, late, verdict):
    heights = {0.0: first, 3.2: late, 12.8: 1.0}
    found = judged(f"fort-1-{name}", runs(part, "barrier_train", heights, **fields))
    assert found["estimate"] == pytest.approx(late / first) and found["verdict"] == verdict


def test_velocity():
    fast = {t: 2.0 if t < 3 else 0.4 * (t / 3.2) ** -0.1 for t in TIMES}
    slow = {t: v * 2**-0.5 for t, v in fast.items()}
    frames = [runs("battery", "kernel_velocity", fast),
              runs("battery", "kernel_velocity_twice", slow)]  # fmt: skip
    for name, value, verdict in (
        ("falls", 0.2, "supported"),
        ("constant", -0.1, "supported"),
        ("steady", 0.5, "contradicted"),
    ):
        found = judged(f"fort-2-{name}-fc", *frames)
        assert found["estimate"] == pytest.approx(value, abs=1e-6), name
        assert found["verdict"] == verdict


@pytest.mark.parametrize("early, verdict", [(0.1, "supported"), (0.25, "contradicted")])
def test_the_kernel_improves(early, verdict):
    found = judged("fort-3-fc", runs("battery", "error_linear", {0.0: 0.3, 3.2: early}))
    assert found["estimate"] == pytest.approx(0.3 / early) and found["verdict"] == verdict


@pytest.mark.parametrize("linear, verdict", [(0.07, "supported"), (0.09, "contradicted")])
def test_the_kernel_matches(linear, verdict):
    frames = [runs("battery", "error_linear", {6.4: linear}),
              runs("battery", "error_beside", {6.4: 0.07}),
              runs("battery", "error_test", {6.4: 0.5, 32.0: 0.068})]  # fmt: skip
    found = judged("fort-4-fc", *frames)
    assert found["estimate"] == pytest.approx(100 * (linear - 0.068))
    assert found["verdict"] == verdict
    found = judged("fort-4-beside-fc", *frames)
    assert found["estimate"] == pytest.approx(100 * (linear - 0.07), abs=1e-6)
    assert found["verdict"] == verdict


def walks(seed, signs, common, own):
    """Series whose changes share what is common to all runs and what is the run's own."""
    everyone, run = (np.random.default_rng(s).exponential(size=len(TIMES)) for s in (99, seed))
    noise = np.random.default_rng(100 + seed).exponential(size=(len(signs), len(TIMES)))
    return np.cumsum(common * everyone + own * run + 0.2 * noise, 1) * np.array(signs)[:, None]


@pytest.mark.parametrize("common, own, verdicts", [
    (1, 0, ("supported", "contradicted")), (0, 1, ("supported", "supported")),
    (0, 0, ("contradicted", "contradicted"))])  # fmt: skip
def test_correlations_of_changes(common, own, verdicts):
    signs = [sign for _, sign in claims.MEASURES.values()]

    def series(seed, k):
        return dict(zip(TIMES, walks(seed, signs, common, own)[k], strict=True))

    frames = [runs("battery", name, partial(series, k=k))
              for k, name in enumerate(claims.MEASURES)]  # fmt: skip
    names = ("fort-5-own-fc", "fort-5-others-fc")
    assert tuple(judged(name, *frames)["verdict"] for name in names) == verdicts
    found = claims.changes(Table(pd.concat(frames)), claims.MEASURES, network="fc")
    table = found[2].corr("spearman").to_numpy()
    want = table[~np.eye(len(table), dtype=bool)].mean()
    assert claims.correlation(found[2], found[2]) == pytest.approx(want)


def test_planted_walks():
    def series(seed, k):
        return dict(zip(TIMES, walks(seed, [1] * 6, 0, 0)[k], strict=True))

    frames = [runs("battery", f"planted_{k + 1}", partial(series, k=k)) for k in range(6)]
    assert judged("control-planted", *frames)["verdict"] == "supported"
    same = [runs("battery", f"planted_{k}", partial(series, k=0)) for k in range(1, 7)]
    found = judged("control-planted", *same)
    assert found["estimate"] == pytest.approx(1) and found["verdict"] == "contradicted"


@pytest.mark.parametrize("name, part, fields", [
    ("beyond-alignment-0.1", "flow", dict(scaled_alpha=0.1)),
    ("beyond-alignment-conv", "battery", dict(network="conv"))])  # fmt: skip
@pytest.mark.parametrize("share, verdict", [(0.95, "supported"), (0.5, "contradicted")])
def test_alignment_before_the_loss_falls(name, part, fields, share, verdict):
    """The loss is 0.9 of its start halfway between the second and the third look."""
    loss = {0.0: 2.0, 1.0: 1.9, 2.0: 1.7, 3.0: 0.1}
    then = 0.2 + 0.4 * share
    aligned = {0.0: 0.2, 1.0: then - 0.02, 2.0: then + 0.02, 3.0: 0.6}
    found = judged(name, runs(part, "loss_train", loss, **fields),
                   runs(part, "alignment", aligned, **fields))  # fmt: skip
    assert found["estimate"] == pytest.approx(share, rel=1e-6) and found["verdict"] == verdict


def test_one_curve_in_units_of_t1():
    """A change of (t / t1)^2, and half of it where lazy."""
    frames = []
    for alpha, t1, factor in ((0.01, 0.02, 1.0), (1.0, 2.0, 1.0), (100.0, 5.0, 0.5)):
        times = [t1 * 10**e for e in np.linspace(-2, 1, 20)]
        curve = {0.0: 0.0} | {t: factor * (t / t1) ** 2 for t in times}
        frames += [runs("flow", "kernel_change", curve, scaled_alpha=alpha),
                   runs("flow", "t1", {99.0: t1}, scaled_alpha=alpha)]  # fmt: skip
    for name, value, verdict in (("0.3", 1, "supported"), ("lazy", 0.5, "contradicted")):
        found = judged(f"beyond-t1-{name}", *frames)
        assert found["estimate"] == pytest.approx(value, rel=0.1) and found["verdict"] == verdict


def test_barriers_by_rate():
    frames = [runs(part, "barrier_train", {0.0: height}, rate=rate)
              for part, rate, height in (("rates", 0.005, 0.0), ("battery", 0.02, 0.001),
                                         ("rates", 0.05, 0.03))]  # fmt: skip
    for rate, value in ((0.005, 0), (0.02, 0.1), (0.05, 3)):
        found = judged(f"beyond-rates-{rate:g}", *frames)
        assert found["estimate"] == pytest.approx(value) and found["verdict"] == "supported"


@pytest.mark.parametrize("late, verdict", [(0.202, "supported"), (0.25, "contradicted")])
def test_learning_nonlinearly_pays_early(late, verdict):
    frames = [runs("battery", "error_linear", {0.0: 0.4, 3.2: late}),
              runs("battery", "error_beside", {0.0: 0.3, 3.2: 0.2})]  # fmt: skip
    found = judged("beyond-gain-fc", *frames)
    assert found["estimate"] == pytest.approx(100 * (late - 0.2), abs=1e-6)
    assert found["verdict"] == verdict


def test_controls():
    assert judged("control-same", runs("same", "barrier_train", {0.0: 0.0}))["estimate"] == 0
    for early, verdict in ((0.9, "supported"), (0.7, "contradicted")):
        frame = runs("shuffled", "error_linear", {0.0: 0.9, 3.2: early})
        assert judged("control-shuffled", frame)["verdict"] == verdict
