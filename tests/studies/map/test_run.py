"""The study of the map: tiny runs against what they have to be."""

import math
from dataclasses import replace

import pytest
import torch

from tangents import kernels
from tangents.data.sets import DATASETS
from tangents.empirical import ntk
from tangents.lab.study import ConfigError, coerce, expand, fields
from tangents.studies.map import STUDY
from tangents.studies.map import run as study
from tangents.studies.map.config import PRESETS, Map

TINY = dict(dataset="digits", n=24, n_test=200, width=8, depth=2, target=0.1, dtype="float64")


def measured(**given):
    """{metric: value} of one network."""
    ((_, rows, arrays),) = study.run([Map(**TINY | given)], "cpu")
    assert not arrays
    return {row["metric"]: row["value"] for row in rows}


WAYS = {
    "flow": {},
    "descent": dict(rate=0.1),
    "momentum": dict(rate=0.05),
    "adam": dict(rate=0.01),
    "rounds": dict(rounds=3),
    "gauss_newton": dict(rate=0.25, damping=0.1),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_ends_at_the_loss_and_is_measured(way):
    found = measured(train=way, **WAYS[way])
    assert found["converged"] == 1 and 0 < found["loss"] <= 0.1 and found["steps"] >= 1
    assert all(math.isfinite(value) for value in found.values())
    assert found["edge"] > 0 if way in ("descent", "momentum") else found["edge"] == 0
    if way in ("flow", "descent"):
        assert found["rise"] < 1.05, "below the edge the loss falls"


def test_small_steps_of_all_kinds_are_the_flow():
    flow = measured()
    for way in (dict(train="descent", rate=0.03), dict(train="rounds", rounds=30)):
        other = measured(**way)
        for metric in ("nonlinear", "turn", "kernel_change", "distance"):
            assert other[metric] == pytest.approx(flow[metric], rel=0.1), (way, metric)


@pytest.mark.parametrize("way", ["flow", "rounds", "descent"])
def test_a_lazy_network_is_its_frozen_machine(way):
    found = measured(train=way, alpha=1e4, rounds=20)
    assert found["nonlinear"] < 1e-2 and found["turn"] < 1e-5 and found["kernel_change"] < 1e-2
    near = dict(abs=0.011)
    for name in ("error_linear", "error_final", "error_tangent"):
        assert found[name] == pytest.approx(found["error"], **near)


def test_gauss_newton_steps_of_a_lazy_network_are_those_of_least_squares():
    c = Map(**TINY | dict(train="gauss_newton", alpha=1e4, rate=0.25, damping=1e-9))
    start = study.Start(c, "cpu")
    losses = [loss for *_, loss in study.by_tangents(replace(c, max_steps=3), start)]
    assert losses == pytest.approx([0.5 * 0.75 ** (2 * k) for k in range(4)], rel=1e-2)


def test_rounds_take_equal_shares_off_the_loss_of_a_lazy_network():
    c = Map(**TINY | dict(train="rounds", alpha=1e4, rounds=4))
    start = study.Start(c, "cpu")
    losses = [loss for *_, loss in study.by_tangents(replace(c, max_steps=4), start)]
    assert losses == pytest.approx([0.5 * 0.2 ** (k / 4) for k in range(5)], rel=1e-2)


def test_the_frozen_machine_is_kernel_flow():
    """Against small explicit steps in the space of outputs."""
    start = study.Start(Map(**TINY), "cpu")
    frozen, d = study.Frozen(start, start.model), start.data
    k, k_test = (
        ntk(start.module, start.params, x, d.x, outputs="trace")[0] for x in (d.x, d.x_test)
    )
    step = 1e-3 / start.model.largest
    f, f_test = torch.zeros_like(d.y), torch.zeros_like(d.y_test)
    while (loss := (f - d.y).square().mean().item() / 2) > 0.2:
        f, f_test = f + step * k @ (d.y - f), f_test + step * k_test @ (d.y - f)
    output = frozen.outputs(loss)
    assert frozen.loss(frozen.time(loss)) == pytest.approx(loss)
    assert (output - f_test).norm() < 2e-3 * f_test.norm()
    assert math.isnan(frozen.time(0.6)) and math.isnan(study.error(frozen.outputs(0.6), start))


def test_measures_of_the_kernel_are_those_of_whole_kernels():
    c = Map(**TINY | dict(alpha=0.1))
    start = study.Start(c, "cpu")
    _, params, *_ = study.train(c, start)
    x, y = start.data.x_test[:300], start.data.y_test[:300, 0]
    before, after = (ntk(start.module, w, x, outputs="trace")[0] for w in (start.params, params))
    found = study.turned(start, params)
    assert found["turn"] == pytest.approx(1 - kernels.cosine(after, before).item())
    assert found["turn_centred"] == pytest.approx(
        1 - kernels.centred_alignment(after, before).item()
    )
    told = torch.outer(y, y)
    assert found["alignment"] == pytest.approx(kernels.centred_alignment(after, told).item())
    train = [ntk(start.module, w, start.data.x, outputs="trace")[0] for w in (start.params, params)]
    y = start.data.y
    aligned = study.aligned(start.model, start.tangent(params), y)
    for name, k in zip(("alignment_train_start", "alignment_train"), train, strict=True):
        assert aligned[name] == pytest.approx(kernels.centred_alignment(k, y @ y.mT).item())
    assert start.growth(params) == pytest.approx(
        (torch.linalg.eigvalsh(train[1])[-1] / torch.linalg.eigvalsh(train[0])[-1]).item()
    )


def test_wrong_labels_are_a_share_of_each_class():
    plain = study.task(Map(**TINY), "cpu")
    for share in (0.25, 0.5):
        data = study.task(Map(**TINY | dict(flipped=share)), "cpu")
        wrong = data.y != plain.y
        assert torch.equal(data.x, plain.x) and torch.equal(data.y_test, plain.y_test)
        for label in (-1, 1):
            assert wrong[plain.y == label].double().mean().item() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("given", [{}, dict(dataset="xor")])
def test_tasks(given):
    data = study.task(Map(**TINY | given), "cpu")
    assert data.y.shape == (24, 1) and set(data.y.flatten().tolist()) == {-1.0, 1.0}
    other = study.task(Map(**TINY | given | dict(seed=1)), "cpu")
    assert not torch.equal(data.x, other.x), "the seed draws the data, too"
    if given.get("dataset") != "xor":
        assert data.x.square().mean(1).tolist() == pytest.approx([1.0] * 24)


def test_a_network_that_does_not_get_there_is_a_row():
    found = measured(train="descent", rate=1e-4, max_steps=5)
    assert found["converged"] == 0 and "error" not in found
    assert measured(train="descent", rate=3.0, alpha=1e4)["converged"] == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_expand(preset):
    configs = expand(STUDY, preset)
    assert configs and len(set(configs)) == len(configs)
    assert preset == "smoke" or min(c.seed for c in configs) >= 100


def test_fields_accept_what_there_is():
    assert {*fields(Map)["dataset"].choices} == {*DATASETS, "xor"}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"damping": -1}, "damping must be at least 0 and finite, got -1"),
        ({"flipped": 0.6}, "flipped must be 0 to 0.5, got 0.6"),
        ({"target": 0.5}, "target must be below 0.5"),
        ({"network": "conv"}, "needs larger images than digits has"),
    ],
)
def test_bad_configs_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        coerce(Map, TINY | given)
