"""The chapter's claims on invented tables whose answers are known exactly."""

from functools import partial

import pandas as pd
import pytest

from tangents.studies.recurrent.claims import CLAIMS
from tangents.studies.recurrent.config import ARCHIVE
from tests.studies.judging import entry_of

BASE = dict(series="mnist", method="recurrent", activation="relu", cut=False, width=256, sw=1.2,
            of="kernel", steps=25)  # fmt: skip


def runs(part, metric, value, count=6, **fields):
    """Runs of some seeds, with a value of a metric."""
    rows = []
    for seed in range(count):
        run = BASE | dict(seed=seed) | fields | dict(part=part, step=0, time=0.0)
        run["run_id"] = repr(sorted((k, str(v)) for k, v in run.items()))
        noise = 1 + 1e-3 * ((seed * 7) % 5)
        rows.append(run | dict(metric=metric, value=value * noise))
        rows.append(run | dict(metric="converged", value=1.0))
    return pd.DataFrame(rows)


def on_sets(part, value, count=8, **fields):
    """Test errors on sets of the archive, all of one seed."""
    each = [runs(part, "error", value * (1 + 0.01 * place), 1, series=name, seed=0, **fields)
            for place, name in enumerate(ARCHIVE[:count])]  # fmt: skip
    return pd.concat(each)


judged = partial(entry_of, CLAIMS)


@pytest.mark.parametrize("name, metric, part", [
    ("rntk-1-relu-equal", "kernel_error", "limit"), ("rntk-3-relu", "output_error", "train"),
])  # fmt: skip
@pytest.mark.parametrize("power, verdict", [(-0.5, "supported"), (-0.1, "contradicted")])
def test_distances_fall_with_the_root_of_the_width(name, metric, part, power, verdict):
    frames = [runs(part, metric, width**power, width=width) for width in (256, 1024)]
    found = judged(name, *frames)
    assert found["estimate"] == pytest.approx(power, abs=1e-3) and found["verdict"] == verdict


@pytest.mark.parametrize("size, verdict", [(0.05, "supported"), (0.5, "contradicted")])
def test_the_change_in_training_is_that_of_the_widest(size, verdict):
    frames = [runs("train", "kernel_change", size, width=1024),
              runs("train", "kernel_change", 1.0, width=64)]  # fmt: skip
    found = judged("rntk-2-relu-size", *frames)
    assert found["estimate"] == pytest.approx(size, rel=0.01) and found["verdict"] == verdict


@pytest.mark.parametrize("name, sw, place, verdict", [
    ("rntk-4-small", 1.2, 0.9, "supported"), ("rntk-4-small", 1.2, 0.5, "contradicted"),
    ("rntk-4-large", 1.6, 0.1, "supported"), ("rntk-4-large", 1.6, 0.9, "contradicted"),
])  # fmt: skip
def test_the_kernel_looks_at_one_end(name, sw, place, verdict):
    found = judged(name, runs("moments", "centre", place, sw=sw))
    assert found["verdict"] == verdict


def test_a_network_is_compared_with_its_own_kernel():
    places = dict(kernel=0.9, network=0.5, prediction=0.9)
    frames = [runs("moments", "centre", place, of=of) for of, place in places.items()]
    found = judged("beyond-network-relu-small", *frames)
    assert found["estimate"] == pytest.approx(-0.4, abs=0.01)
    assert found["verdict"] == "contradicted"


@pytest.mark.parametrize("own, verdict", [(0.1, "supported"), (0.4, "contradicted")])
def test_gains_are_over_sets(own, verdict):
    frames = [on_sets("archive", own), on_sets("archive", 0.2, method="dtw"),
              on_sets("wide", own, method="wide")]  # fmt: skip
    for name in ("rntk-6-dtw", "rntk-7-dtw"):
        found = judged(name, *frames)
        assert found["seeds"] == 8 and found["verdict"] == verdict
        assert found["estimate"] == pytest.approx(100 * (0.2 - own) * 1.035, rel=0.01)


def test_sets_that_a_method_lacks_are_left_out():
    frames = [on_sets("archive", 0.1), on_sets("archive", 0.2, 5, method="dtw")]
    assert judged("rntk-6-dtw", *frames)["seeds"] == 5


@pytest.mark.parametrize("padded, verdict", [(0.5, "supported"), (0.1, "contradicted")])
def test_padding_is_compared_on_sets_and_on_images(padded, verdict):
    sets = [on_sets("archive", 0.2), on_sets("padded", padded, method="padded")]
    assert judged("rntk-5-archive", *sets)["verdict"] == verdict
    images = [runs("columns", "error", 0.2), runs("columns", "error", padded, method="padded")]
    assert judged("rntk-5-columns", *images)["verdict"] == verdict


def test_controls_fail_where_they_must():
    order = [on_sets("archive", 0.2), on_sets("scrambled", 0.4)]
    assert judged("control-order", *order)["verdict"] == "supported"
    told = [on_sets("shuffled", 0.2), on_sets("shuffled", 0.5).assign(metric="error_common")]
    assert judged("control-labels", *told)["verdict"] == "contradicted"
    same = [runs("limit", "kernel_error_deeper", 0.7, activation="erf", width=w)
            for w in (1024, 2048)]  # fmt: skip
    assert judged("control-kernel-deeper", *same)["verdict"] == "supported"
