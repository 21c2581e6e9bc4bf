"""The study of iterative linearisation: tiny runs against what they have to be."""

import math

import pytest
import torch

from tangents import kernels, models
from tangents.data.sets import DATASETS
from tangents.empirical import ntk
from tangents.lab.study import ConfigError, coerce, expand, fields
from tangents.studies.iterative import STUDY
from tangents.studies.iterative import run as iterative
from tangents.studies.iterative.config import PRESETS, Iterative

TINY = dict(dataset="digits", n=20, n_test=60, width=6, depth=1, duration=0.05, activation="tanh")
AT_ANCHORS = {"kernel_cosine", "kernel_cka", "kernel_change", "alignment", "distance"}
ERRORS = {"error", "error_validation"}
OF_ROUNDS = {"loss", "loss_linear", "gain_share", "eigenvalue", "steps"}
ENDING = {"converged", "eigenvalue_start"}


def run(**given):
    """{metric: [(step, time, value)]} of one network."""
    ((_, rows, arrays),) = iterative.run([Iterative(**TINY | given)], "cpu")
    found = {}
    for row in rows:
        found.setdefault(row["metric"], []).append((row["step"], row["time"], row["value"]))
    assert not arrays
    return found


def last(found, metric):
    return found[metric][-1][2]


def test_rows_hold_every_metric():
    linear = {"error_linear", "error_linear_validation"}
    assert run(rounds=2).keys() == AT_ANCHORS | ERRORS | linear | OF_ROUNDS | ENDING
    assert run(train="steps").keys() == AT_ANCHORS | ERRORS | ENDING | {"loss"}
    assert run(train="tangents").keys() == AT_ANCHORS | ERRORS | ENDING | {"tangents"}


@pytest.mark.parametrize("target", ["parity", "classes", "pair"])
def test_targets(target):
    c = Iterative(**TINY | dict(target=target, seed=3))
    data = iterative.task(c, "cpu")
    outputs = 10 if target == "classes" else 1
    assert data.y.shape == (20, outputs) and data.y_test.shape == (60, outputs)
    size = {"classes": {-0.1, 0.9}}.get(target, {-1.0, 1.0})
    assert {round(v, 12) for v in data.y.flatten().tolist()} == size
    other = iterative.task(Iterative(**TINY | dict(target=target, seed=4)), "cpu")
    assert not torch.equal(data.x, other.x), "the seed draws the data, too"
    fixed = iterative.task(Iterative(**TINY | dict(target=target, seed=4, data_seed=3)), "cpu")
    assert torch.equal(data.x, fixed.x)


def test_shuffled_labels_are_those_of_others():
    plain, shuffled = (
        iterative.task(Iterative(**TINY | dict(shuffled=v)), "cpu") for v in (False, True)
    )
    assert torch.equal(plain.x, shuffled.x) and torch.equal(plain.y_test, shuffled.y_test)
    assert not torch.equal(plain.y, shuffled.y)
    assert torch.equal(plain.y.sort(0).values, shuffled.y.sort(0).values)


@pytest.mark.parametrize("schedule", ["uniform", "geometric", "once"])
def test_rounds_add_up_to_the_training(schedule):
    c = Iterative(**TINY | dict(schedule=schedule, rounds=2, first=0.01))
    found = iterative.lengths(c)
    assert len(found) == 2 and sum(found) == pytest.approx(c.duration) and min(found) > 0
    assert found[0] == pytest.approx(c.duration / 2 if schedule == "uniform" else 0.01)


def test_geometric_rounds_end_at_equal_ratios():
    c = Iterative(**TINY | dict(schedule="geometric", rounds=4, first=0.001, duration=1.0))
    ends = torch.tensor(iterative.lengths(c)).cumsum(0)
    assert (ends[1:] / ends[:-1]).tolist() == pytest.approx([10, 10, 10], rel=1e-5)


def test_a_round_for_every_step_is_gradient_descent():
    explicit = run(train="steps", duration=0.02)
    steps = explicit["distance"][-1][0]
    rounds = run(rounds=steps, duration=0.02)
    assert last(rounds, "distance") == pytest.approx(last(explicit, "distance"), rel=1e-8)
    assert last(rounds, "kernel_cka") == pytest.approx(last(explicit, "kernel_cka"), rel=1e-8)
    assert last(rounds, "loss") == pytest.approx(last(explicit, "loss"), rel=1e-6)


@pytest.mark.parametrize(
    "given", [dict(loss="cross-entropy", target="classes"), dict(batch=5), dict(batch=20)]
)
def test_rounds_of_other_losses_and_of_batches_are_steps_too(given):
    explicit = run(train="steps", duration=0.02, **given)
    rounds = run(rounds=explicit["distance"][-1][0], duration=0.02, **given)
    for metric in ("distance", "kernel_cka", "loss"):
        assert last(rounds, metric) == pytest.approx(last(explicit, metric), rel=1e-6)


def test_a_batch_of_all_is_no_batch():
    for train in ("rounds", "steps"):
        one, other = run(train=train, batch=20), run(train=train)
        assert last(one, "distance") == pytest.approx(last(other, "distance"), rel=1e-6)


def test_heavy_ball_goes_as_far_as_descent():
    plain, heavy = run(rounds=2, rate=0.001), run(rounds=2, rate=0.001, memory=0.5)
    assert last(heavy, "distance") == pytest.approx(last(plain, "distance"), rel=0.02)
    assert last(heavy, "distance") != last(plain, "distance")


def test_one_endless_round_is_kernel_regression():
    c = Iterative(**TINY | dict(rounds=1, duration=1e9, n_test=400))
    data = iterative.task(c, "cpu")
    module = iterative.network(c, data.x, 1)
    params = models.initialise(module, c.seed)
    k, k_test = (ntk(module, params, x, data.x, outputs="trace") for x in (data.x, data.x_test))
    output = kernels.regression(k, k_test, data.y[:, 0])[:, None]
    found = run(rounds=1, duration=1e9, n_test=400)
    valid = round(iterative.VALIDATION * 400)
    want = iterative.error(output[valid:], data.y_test[valid:])
    assert last(found, "error_linear") == pytest.approx(want, abs=2 / 320)
    assert last(found, "loss_linear") < 1e-8


def test_a_lazy_network_is_its_tangent():
    found = run(alpha=1e4, rounds=1, duration=10.0)
    assert last(found, "gain_share") == pytest.approx(1, abs=1e-3)
    assert last(found, "error") == last(found, "error_linear")
    assert last(found, "kernel_cka") > 0.999
    assert last(run(alpha=1e4, train="tangents", duration=10.0), "tangents") == 1


def test_a_bold_network_needs_more_tangents_than_one():
    found = run(alpha=0.1, train="tangents", duration=10.0)
    assert 1 < last(found, "tangents") < iterative.MOST


def test_a_network_that_is_lost_is_a_row():
    found = run(alpha=1e-250, rounds=3, activation="relu", depth=3)
    assert last(found, "converged") == 0 and last(run(rounds=3), "converged") == 1


def test_one_linearisation_is_looked_at_on_its_way():
    times = [time for _, time, _ in run(rounds=1, duration=1.0)["error_linear"]]
    assert len(times) > 3 and times[-1] == 1.0 and min(times) < 0.1


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_expand(preset):
    configs = expand(STUDY, preset)
    assert configs and len(set(configs)) == len(configs)


def test_fields_accept_what_there_is():
    known = fields(Iterative)
    assert set(known["dataset"].choices) == set(DATASETS)
    assert {*known["activation"].choices, "linear"} == set(models.ACTIVATIONS)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"damping": -2}, "damping must be at least 0, or -1, got -2"),
        ({"damping": math.inf}, "damping must be finite, got inf"),
        ({"network": "conv"}, "8 x 8, are too small"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"memory": 1}, "memory must be at least 0 and below 1, got 1"),
        ({"batch": 3}, "batch must divide n = 20, got 3"),
        ({"loss": "cross-entropy"}, "needs target='classes'"),
        ({"batch": 5, "damping": 1}, "each stand alone"),
        ({"memory": 0.5, "train": "steps"}, "knows neither damping nor memory"),
    ],
)
def test_bad_configs_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        coerce(Iterative, TINY | given)
