"""The map's claims on invented tables whose answers are known."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from tangents.lab.evidence import Table
from tangents.studies.map import figures
from tangents.studies.map.claims import CLAIMS, OTHERS, SAME
from tests.studies.judging import entry_of

BASE = dict(dataset="mnist", flipped=0.0, network="fc", depth=3, width=64, activation="relu",
            draw="normal", scale=1.0, train="flow", rate=0.1, rounds=1, damping=0.0, target=0.03,
            n=300)  # fmt: skip
SEEDS = range(5)
judged = partial(entry_of, CLAIMS)


def network(seed, gain, part="alpha", alpha=1.0, metrics=(), **fields):
    """The rows of one network with this gain in points; other metrics at what they are here."""
    run = BASE | fields | dict(part=part, alpha=alpha, seed=seed)
    run |= dict(run_id=repr(sorted((k, str(v)) for k, v in run.items())), step=3, time=3.0)
    values = dict.fromkeys(OTHERS, 0.1) | dict(error_linear=0.2, error=0.2 - gain / 100, edge=0.0)
    values |= dict(error_final=values["error"]) | dict(metrics) | dict(converged=1.0)
    return pd.DataFrame([run | dict(metric=k, value=v) for k, v in values.items()])


def world(gain, dataset="mnist", measure="turn_centred", parts=(*SAME, "depth"), count=6):
    """Networks of all knobs whose gain is gain(x, part), x the measure, and a little noise."""
    rng, frames = np.random.default_rng(0), []
    for seed in SEEDS:
        for part in parts:
            for k, x in enumerate(rng.uniform(0.01, 0.5, size=count)):
                value = gain(x, part) + 0.05 * rng.normal()
                metrics = {measure: x, "turn": rng.uniform()} | {measure: x}
                frames.append(network(seed, value, part, alpha=1.0 + k, metrics=metrics,
                                      dataset=dataset))  # fmt: skip
    return pd.concat(frames)


def kinds(value, **fields):
    """One network a seed, its gain value plus a little."""
    given = fields.pop("metrics", ())
    return pd.concat(
        network(s, value + 0.05 * ((7 * s) % 5 - 2), metrics=given, **fields) for s in SEEDS
    )


def test_one_coordinate_and_a_knob_of_its_own():
    alike = judged("map-collapse-mnist", world(lambda x, _: 8 * x))
    assert alike["estimate"] > 0.97 and "the knob's name adds: " in alike["note"]
    assert alike["verdict"] == "contradicted", "above the accepted range, which has two ends"
    apart = judged("map-collapse-mnist", world(lambda x, part: 8 * x - 4 * (part == "adam")))
    assert apart["estimate"] < 0.6 and apart["verdict"] != "supported"
    assert judged("map-alpha-mnist", world(lambda x, _: 8 * x))["verdict"] == "supported"


def test_knobs_of_one_network_alone():
    frame = world(lambda x, part: 4 * x - 4 * (part == "depth"), measure="share")
    found = judged("map-collapse-mnist-same", frame)
    assert found["estimate"] > 0.95
    every = frame.assign(value=frame["value"].where(frame["metric"] != "share", 0.1))
    assert judged("map-collapse-mnist-same", every)["estimate"] < 0.1
    xor = world(lambda x, _: x, "xor", "turn")
    assert judged("map-collapse-xor-same", xor)["estimate"] > 0.8


def test_which_measure():
    mnist, xor = (world(lambda x, _: 8 * x, name) for name in ("mnist", "xor"))
    assert judged("map-measure-mnist", mnist)["verdict"] == "supported"
    assert judged("map-measure-xor", xor)["verdict"] == "contradicted"


def test_a_knob_off_the_curve():
    frame = world(lambda x, part: 4 * x + 1.5 * (part == "adam"))
    found = judged("map-offender-adam-mnist", frame)
    assert found["estimate"] == pytest.approx(1.5, abs=0.15) and found["verdict"] == "supported"
    assert judged("map-offender-newton-mnist", frame)["verdict"] == "contradicted"


def test_runs_beyond_the_edge_stand_apart():
    steps = dict(dataset="xor", part="descent", train="descent", alpha=0.1)
    frames = [kinds(9, rate=rate, metrics=dict(edge=20 * rate), **steps) for rate in (0.5, 0.05)]
    assert judged("map-edge-xor", *frames)["estimate"] == pytest.approx(0, abs=0.1)
    inside = world(lambda x, _: 4 * x)
    beyond = inside.assign(run_id=inside["run_id"] + "!", damping=9.0)
    turned = beyond["value"].where(beyond["metric"] != "edge", 3.0)
    turned = turned.where(beyond["metric"] != "error", 0.9)
    found = judged("map-collapse-mnist", inside, beyond.assign(value=turned))
    assert found["estimate"] > 0.95


@pytest.mark.parametrize("gain, verdict", [(2.7, "supported"), (-1.0, "contradicted")])
def test_the_gain_of_those_that_moved(gain, verdict):
    moved = kinds(gain, metrics=dict(nonlinear=0.9))
    other = kinds(9.0, alpha=9.0, metrics=dict(nonlinear=0.3))
    found = judged("map-labels-mnist", moved, other)
    assert found["estimate"] == pytest.approx(gain) and found["verdict"] == verdict
    wrong = kinds(-1.0, flipped=0.2, metrics=dict(nonlinear=0.9))
    assert judged("map-labels-mnist-flipped", moved, wrong)["verdict"] == "supported"
    nothing = kinds(0.0, flipped=0.5, metrics=dict(nonlinear=0.9))
    assert judged("control-labels-mnist", nothing)["verdict"] == "supported"
    nothing = kinds(2.0, flipped=0.5, metrics=dict(nonlinear=0.9))
    assert judged("control-labels-mnist", nothing)["verdict"] == "contradicted"


def test_gains_what_the_first_kernel_lacks():
    frames = [kinds(100 * (first - 0.1), part="depth", depth=k, alpha=0.1,
                    metrics=dict(error_linear=first, error=0.1))
              for k, first in enumerate((0.12, 0.15, 0.2), 1)]  # fmt: skip
    assert judged("map-baseline", *frames)["estimate"] == pytest.approx(1)


def test_an_optimum_short_of_features():
    peak = [kinds(g, alpha=a) for a, g in ((0.01, 1.0), (0.1, 3.0), (10.0, 0.0))]
    found = judged("map-optimum-mnist", *peak)
    assert found["estimate"] == pytest.approx(2) and found["verdict"] == "contradicted"
    flat = [frame.assign(flipped=0.2) for frame in peak]
    assert judged("map-optimum-flipped", *flat)["verdict"] == "supported"


def test_pooled_labels():
    rng = np.random.default_rng(1)
    frames = []
    for seed in SEEDS:
        for flipped, sign in ((0.0, 1), (0.2, -1), (0.5, 0)):
            for k, x in enumerate(rng.uniform(size=8)):
                metrics = dict(nonlinear=x, alignment=0.1 + sign * x)
                given = dict(flipped=flipped, alpha=1.0 + k, metrics=metrics)
                frames.append(network(seed, sign * x + 0.01 * k, **given))
    assert judged("map-pooled-movement", *frames)["estimate"] < 0.25
    assert judged("map-pooled-alignment", *frames)["estimate"] > 0.95


def test_the_final_kernel_machine():
    frames = [kinds(1.0, metrics=dict(error_final=0.19 + d / 100), alpha=1.0 + k)
              for k, d in enumerate((0.4, -0.4, 0.6))]  # fmt: skip
    found = judged("map-final-mnist", *frames)
    assert found["estimate"] == pytest.approx(np.sqrt((0.16 + 0.16 + 0.36) / 3), abs=0.1)
    far = judged("map-final-mnist", kinds(1.0, metrics=dict(error_final=0.25)))
    assert far["verdict"] == "contradicted" and far["note"].startswith("mean 6.00")


def test_controls_must_fail():
    frame = world(lambda x, _: 8 * x)
    for name in ("control-permuted-mnist", "control-planted-mnist"):
        assert judged(name, frame)["verdict"] == "supported", name
    assert judged("control-lazy-mnist", kinds(0.0, alpha=100.0))["verdict"] == "supported"
    assert judged("control-lazy-mnist", kinds(2.0, alpha=100.0))["verdict"] == "contradicted"


def test_a_point_of_the_map_says_how_to_run_it_again():
    table = Table(pd.concat([kinds(1.0), kinds(2.0, part="rounds", train="rounds", rounds=4)]))
    found = {spot["group"]: spot for spot in figures.spots(table)}
    spot = found["linearisations"]
    assert spot["command"].endswith("--only flipped 0 --only part rounds --only alpha 1 "
                                    "--only rounds 4")  # fmt: skip
    assert spot["y"] == pytest.approx(2.0) and "5 seeds" in spot["text"]
    assert spot["marks"] == ["Goldwaser & Ge: linearisations"] and len(found) == 2
