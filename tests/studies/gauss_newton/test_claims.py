"""The chapter's claims on invented tables whose answers are known exactly."""

from functools import partial

import pandas as pd
import pytest

from tangents.studies.gauss_newton.claims import CLAIMS, FIXES
from tests.studies.judging import entry_of

BASE = dict(layout="half", centred=False, damping=0.0, rtol=0.0, shares="equal", first="",
            loss="squared", decay=0.0, noise=0.0, std=1e-3, rate=0.2, network="reversible",
            width=1200, blocks=2, weighting=1.0, then="", dataset="mnist", correction=True,
            activation="relu")  # fmt: skip
PUBLISHED = dict(rtol=0.01, first="linear")


def runs(part, method, metric, value, count=6, time=20.0, step=3, **fields):
    """Networks of some seeds with a value at a time, or with several values at theirs."""
    rows = []
    for seed in range(count):
        run = BASE | fields | dict(part=part, method=method, seed=seed)
        run |= dict(run_id=repr(sorted((k, str(v)) for k, v in run.items())), step=step)
        noise = 1 + 1e-3 * ((seed * 7) % 5)
        for at, each in (value if isinstance(value, dict) else {time: value}).items():
            rows.append(run | dict(metric=metric, value=each * noise, time=float(at)))
        rows.append(run | dict(metric="converged", value=1.0, time=time))
    return pd.DataFrame(rows)


judged = partial(entry_of, CLAIMS)


@pytest.mark.parametrize("name, error, verdict", [("reversible", 0.5, "supported"),
                                                  ("published", 0.4, "supported"),
                                                  ("minimum", 0.2, "contradicted")])  # fmt: skip
def test_poor_generalisation_is_that_of_the_step_asked_for(name, error, verdict):
    frames = [runs("full", "adam", "error", 0.19), runs("full", "reversible", "error", 0.5),
              runs("full", "reversible", "error", 0.4, **PUBLISHED),
              runs("full", "minimum", "error", 0.2)]  # fmt: skip
    found = judged(f"buffelli-poor-{name}-squared", *frames)
    assert found["estimate"] == pytest.approx(100 * (error - 0.19), rel=0.02)
    assert found["verdict"] == verdict


def test_the_gap_and_its_causes():
    for arms, gap in ((dict(), 30), (dict(centred=True), 3), (dict(layout="both"), 1)):
        frames = [runs("ladder", "reversible", "error", 0.2 + gap / 100, **arms),
                  runs("ladder", "minimum", "error", 0.2, **arms)]  # fmt: skip
        if arms:
            name = "centred" if "centred" in arms else "both"
            found = judged(f"beyond-causes-{name}", *frames)
            assert found["estimate"] == pytest.approx(gap, rel=0.02)
            assert found["verdict"] == "supported"
        else:
            random = runs("ladder", "random", "error", 0.21)
            assert judged("beyond-causes-random", *frames, random)["estimate"] == pytest.approx(
                1, rel=0.02
            )
            mnist = [frame.assign(part="mnist") for frame in frames]
            found = judged("beyond-minimum-mnist", *mnist)
            assert found["estimate"] == pytest.approx(30, rel=0.02)


def test_saturation_is_the_growth_of_the_loss_from_the_middle_on():
    frames = [runs("batches", "reversible", "loss", {10: 0.5, 20: 0.6}),
              runs("batches", "adam", "loss", {10: 0.5, 20: 0.3}),
              runs("batches", "minimum", "loss", {10: 0.3, 20: 0.2})]  # fmt: skip
    want = {"buffelli-5-reversible-squared": 1.2, "buffelli-5-adam-squared": 0.6,
            "beyond-batches-falls-squared": 2 / 3,
            "beyond-batches-adam-squared": 2 / 3}  # fmt: skip
    for setting, value in want.items():
        found = judged(setting, *frames)
        assert found["estimate"] == pytest.approx(value, rel=0.01), setting
        assert found["verdict"] == "supported"


def test_the_drop_of_the_own_batch():
    drops = dict(reversible=-36, adam=-4, minimum=-35)
    frames = [runs("batches", m, "change_own", {2: v, 20: v}) for m, v in drops.items()]
    assert judged("buffelli-6-squared-20", *frames)["estimate"] == pytest.approx(9)
    found = judged("beyond-batches-drop-squared", *frames)
    assert found["estimate"] == pytest.approx(35 / 36) and found["verdict"] == "supported"


@pytest.mark.parametrize("fix", FIXES)
def test_remedies_are_told_apart(fix):
    frames = [runs("fixes", "reversible", "loss", 0.6), runs("fixes", "adam", "loss", 0.3),
              runs("fixes", "adam", "loss", 0.1, network="mlp", rate=0.03),
              runs("fixes", "minimum", "loss", 0.1)]  # fmt: skip
    for place, (name, (_, fields)) in enumerate(FIXES.items()):
        value = 0.45 if name == fix else 0.01 * place
        frames.append(runs("fixes", "reversible", "loss", value, **fields))
    assert judged(f"buffelli-12-{fix}", *frames)["estimate"] == pytest.approx(1.5, rel=0.01)


def test_switches_against_the_loss_at_the_switch():
    back = runs("switch", "reversible", "loss", {10: 0.6, 20: 0.3}, then="adam")
    there = runs("switch", "adam", "loss", {10: 0.4, 20: 0.5}, then="reversible")
    assert judged("buffelli-11-from", back, there)["estimate"] == pytest.approx(0.5)
    assert judged("buffelli-11-to", back, there)["estimate"] == pytest.approx(1.25)


def test_the_gap_of_the_curves_is_relative_to_their_start():
    frames = []
    for rate in (0.05, 0.1, 0.25):
        curve = {0: 2.0, 1: 1.0, 2: 0.5}
        other = {k: v + (0.1 * rate if k == 1 else 0.0) for k, v in curve.items()}
        frames += [runs("rate", "minimum", "loss", curve, rate=rate),
                   runs("rate", "reversible", "loss", other, rate=rate)]  # fmt: skip
    assert judged("curve", *frames)["estimate"] == pytest.approx(0.0025, rel=0.02)
    assert judged("curve-order", *frames)["estimate"] == pytest.approx(1, rel=0.02)


def test_steps_seconds_and_exactness():
    frames = [runs("full", "reversible", "updates", 5), runs("full", "adam", "updates", 50),
              runs("cost", "reversible", "cost", 1.4, step=0)]  # fmt: skip
    assert judged("buffelli-4-squared", *frames)["estimate"] == pytest.approx(0.1)
    assert judged("buffelli-4-cost", *frames)["estimate"] == pytest.approx(1.4, rel=0.01)
    exact = [runs("exact", "reversible", "residual", v, step=0, std=s)
             for s, v in ((0.1, 1e-14), (0.5, 1e-12))]  # fmt: skip
    assert judged("exact", *exact)["estimate"] == pytest.approx(1e-12, rel=0.01)


def test_a_control_that_fails_is_told():
    frames = [runs("shuffled", m, "error", v) for m, v in (("reversible", 0.9), ("minimum", 0.8))]
    assert judged("control-labels", *frames)["verdict"] == "contradicted"
    tuned = [runs("tuning", "adam", "loss", v, count=2, time=1.0, rate=r)
             for r, v in ((1e-3, 0.5), (3e-3, 0.4))]  # fmt: skip
    for rate, verdict in ((3e-3, "supported"), (1e-3, "contradicted")):
        used = runs("batches", "adam", "loss", 0.3, rate=rate)
        assert judged("control-tuned-squared", *tuned, used)["verdict"] == verdict


def test_laziness_and_theory():
    frames = [
        runs("mnist", m, "kernel_change", v) for m, v in (("reversible", 0.5), ("minimum", 0.1))
    ]
    assert judged("beyond-lazy-mnist", *frames)["estimate"] == pytest.approx(0.2)
    cosine = runs("lazy", "reversible", "kernel_cosine", 0.97)
    assert judged("buffelli-7-reversible-squared", cosine)["verdict"] == "supported"
    both = [runs("mnist", "minimum", "error", 0.2),
            runs("mnist", "minimum", "error_theory", 0.19, step=0)]  # fmt: skip
    assert judged("beyond-theory-minimum", *both)["estimate"] == pytest.approx(1, rel=0.05)
    blocks = [
        runs("lazy", "adam", f"cka_{k}", v, loss="cross-entropy") for k, v in ((1, 0.9), (2, 0.6))
    ]
    assert judged("buffelli-8-blocks", *blocks)["estimate"] == pytest.approx(-0.3, rel=0.01)


def test_features_and_metrics():
    few = dict(width=64, blocks=1)
    frames = [
        runs("features", "reversible", "loss", {10: 0.4, 20: 0.3}, width=256),
        runs("features", "reversible", "loss", {10: 0.4, 20: 0.2}, width=512),
        runs("features", "minimum", "loss", {10: 0.4, 20: 0.25}, width=64),
        runs("features", "minimum", "loss", {10: 0.7, 20: 0.7}, **few),
        runs("features", "reversible", "loss", {10: 0.5, 20: 0.55}, width=128, centred=True),
    ]
    for setting, want in (("features-258", 1.2), ("features-few", 1), ("features-many", 0.5),
                          ("remedies-centred", 1.1)):  # fmt: skip
        assert judged(f"beyond-{setting}", *frames)["estimate"] == pytest.approx(want, rel=0.01)
    frames = [
        runs("metric", "minimum", "error", v, weighting=g) for g, v in ((1.0, 0.2), (100.0, 0.5))
    ]
    assert judged("beyond-metric-100", *frames)["estimate"] == pytest.approx(30, rel=0.01)
    steps = [runs("full", "reversible", "updates", 11, loss="cross-entropy", **PUBLISHED),
             runs("full", "adam", "updates", 10, loss="cross-entropy")]  # fmt: skip
    assert judged("buffelli-4-published", *steps)["estimate"] == pytest.approx(1.1)
