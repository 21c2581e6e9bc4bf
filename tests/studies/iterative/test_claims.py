"""The chapter's claims on invented tables whose answers are known exactly."""

from functools import partial

import pandas as pd
import pytest

from tangents.studies.iterative.claims import CLAIMS
from tests.studies.judging import entry_of

BASE = dict(train="rounds", rounds=8, schedule="uniform", damping=0.0, alpha=0.3, width=64, n=300)
BASE |= dict(first=0.01, rate=0.05, shuffled=False)


def runs(part, metric, value, count=6, time=10.0, **fields):
    """Networks of some seeds, with value(seed) of a metric at their end."""
    rows = []
    for seed in range(count):
        run = BASE | fields | dict(part=part, seed=seed)
        run |= dict(run_id=repr(sorted((k, str(v)) for k, v in run.items())), step=3, time=time)
        noise = 1 + 1e-3 * ((seed * 7) % 5)
        rows.append(run | dict(metric=metric, value=value * noise))
        rows.append(run | dict(metric="converged", value=1.0))
    return pd.DataFrame(rows)


judged = partial(entry_of, CLAIMS)


def parity(metric, few, one, end):
    name = "error" if metric == "error_linear" else metric
    return (
        runs("parity", metric, few),
        runs("parity", metric, one, rounds=1),
        runs("parity", name, end, train="steps"),
    )


@pytest.mark.parametrize("few, verdict", [(0.12, "supported"), (0.16, "contradicted")])
def test_few_updates_suffice(few, verdict):
    found = judged("goldwaser-1-parity", *parity("error_linear", few, 0.2, 0.13))
    assert found["estimate"] == pytest.approx(100 * (few - 0.13), abs=0.05)
    assert found["verdict"] == verdict and found["seeds"] == 6
    assert found["note"].endswith(": 8" if few < 0.13 else ": none")


def test_one_linearisation_is_worse():
    found = judged("goldwaser-2-parity", *parity("error_linear", 0.12, 0.2, 0.13))
    assert found["estimate"] == pytest.approx(7, abs=0.1) and found["verdict"] == "supported"


def test_stopping_early_takes_the_least_validation_error():
    frames = [
        runs("parity", "error_linear", 0.3, rounds=1), runs("parity", "error", 0.1, train="steps"),
        runs("parity", "error_linear", 0.15, rounds=1, time=1.0),
        runs("parity", "error_linear_validation", 0.29, rounds=1),
        runs("parity", "error_linear_validation", 0.14, rounds=1, time=1.0),
        runs("parity", "error_validation", 0.1, train="steps"),
    ]  # fmt: skip
    found = judged("goldwaser-2-stopped-parity", *frames)
    assert found["estimate"] == pytest.approx(5, abs=0.1)


def test_matched_damping():
    damped = runs("damping", "error_linear", 0.125, damping=-1.0)
    found = judged("goldwaser-5-8", damped, *parity("error_linear", 0.12, 0.2, 0.13))
    assert found["estimate"] == pytest.approx(0.5, abs=0.05) and found["verdict"] == "supported"


def test_fewer_updates_that_change_more_contradict():
    found = judged("beyond-measure-weights", *parity("distance", 30.0, 30.0, 15.0))
    assert found["estimate"] == pytest.approx(2) and found["verdict"] == "contradicted"
    found = judged("beyond-measure-kernel", *parity("kernel_cka", 0.7, 0.7, 0.8))
    assert found["estimate"] == pytest.approx(1.5, rel=0.05)


def test_an_overshoot_contradicts_a_monotone_curve():
    frames = [
        runs("parity", "error_linear", error, rounds=n)
        for n, error in ((4, 0.12), (8, 0.11), (16, 0.13))
    ]
    found = judged("beyond-overshoot", *frames, runs("parity", "error", 0.14, train="steps"))
    assert found["estimate"] == pytest.approx(2, abs=0.1) and found["verdict"] == "contradicted"


def test_one_update_late_and_early():
    frames = [runs("parity", "error_linear", 0.2, rounds=1),
              runs("once", "error_linear", 0.15, rounds=2, first=0.3),
              runs("once", "error_linear", 0.2, rounds=2, first=0.01)]  # fmt: skip
    assert judged("beyond-once-late", *frames)["verdict"] == "supported"
    assert judged("beyond-once-early", *frames)["verdict"] == "supported"


def test_the_gap_by_size_in_points_a_doubling():
    frames = [
        runs("size", "error_linear", 0.1 + gain / 100 * (rounds == 1), rounds=rounds, n=n)
        for n, gain in ((100, 8), (200, 6), (400, 4)) for rounds in (1, 8)
    ]  # fmt: skip
    found = judged("beyond-gap-size", *frames)
    assert found["estimate"] == pytest.approx(-2, abs=0.1) and found["verdict"] == "supported"


def test_tangents_fall_with_scale_and_width():
    frames = [
        runs("tangents", "tangents", 40 / alpha / (h / 64), train="tangents", alpha=alpha, width=h)
        for alpha in (0.1, 1.0, 10.0) for h in (64, 256)
    ]  # fmt: skip
    for x in ("scale", "width"):
        assert judged(f"beyond-tangents-{x}", *frames)["estimate"] == pytest.approx(-1)


def test_other_losses_and_a_closer_stand_in():
    for part in ("entropy", "batches"):
        frames = [runs(part, "error_linear", 0.3, rounds=1),
                  runs(part, "error_linear", 0.2, rounds=8),
                  runs(part, "error", 0.21, train="steps")]  # fmt: skip
        assert judged(f"goldwaser-1-{part}", *frames)["estimate"] == pytest.approx(-1, abs=0.1)
        assert judged(f"goldwaser-2-{part}", *frames)["estimate"] == pytest.approx(9, abs=0.1)
    dense = runs("dense", "error_linear", 0.15, rounds=128, schedule="geometric")
    coarse = runs("planes", "error_linear", 0.16, rounds=32, schedule="geometric")
    few = runs("planes", "error_linear", 0.18, rounds=8)
    assert judged("goldwaser-1-dense", dense, coarse, few)["estimate"] == pytest.approx(3, abs=0.1)
    assert judged("control-stand-in", dense, coarse)["estimate"] == pytest.approx(1, abs=0.1)


def test_the_schedule_and_momentum():
    geometric = runs("schedule", "distance", 16.0, schedule="geometric")
    found = judged("beyond-schedule-weights", geometric, *parity("distance", 30.0, 30.0, 15.0))
    assert found["estimate"] == pytest.approx(16 / 15, rel=0.01) and found["verdict"] == "supported"
    heavy = runs("momentum", "error_linear", 0.121, memory=0.9)
    found = judged("control-momentum", heavy, *parity("error_linear", 0.12, 0.2, 0.13))
    assert found["estimate"] == pytest.approx(0.1, abs=0.05) and found["verdict"] == "supported"


def test_controls():
    frames = [runs("shuffled", "error_linear", 0.5, rounds=n, shuffled=True) for n in (1, 8)]
    assert judged("control-labels", *frames)["verdict"] == "supported"
    frames[1]["value"] = frames[1]["value"].where(frames[1]["metric"] != "error_linear", 0.4)
    assert judged("control-labels", *frames)["verdict"] == "contradicted"
    kernel = runs("scale", "kernel_cka", 0.8, alpha=10.0)
    assert judged("control-kernel", kernel)["verdict"] == "contradicted"
