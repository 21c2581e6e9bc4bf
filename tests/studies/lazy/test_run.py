"""The study of lazy and feature learning: its configs, and tiny runs of its smoke preset."""

import math
from dataclasses import replace
from math import inf as INF

import numpy as np
import pytest
import torch

from tangents import kernels, models, probes
from tangents.data.sets import DATASETS
from tangents.empirical import ntk
from tangents.functional import select
from tangents.lab.study import ConfigError, coerce, expand, fields
from tangents.losses import LOSSES
from tangents.studies.lazy import STUDY
from tangents.studies.lazy import run as lazy
from tangents.studies.lazy.config import PRESETS, Lazy
from tests.cases import close, normal

TINY = {"n": 8, "n_test": 30, "width": 4, "seed": 0, "tolerance": 0.05, "scaled_alpha": [0.3, 1e3]}
TINY |= {"data_seed": 0, "keep_kernel": False}
ALWAYS = {"preactivation_velocity", "output_norm"}
TRAINED = {
    *ALWAYS,
    *("loss", "output_change", "distance", "weights_change", "kernel_change", "kernel_cosine"),
    "alignment",
    *("converged", "t1", "output_t1", "steps", "error"),
}


def run(**overrides):
    """{place: (config, rows as a dict metric -> [(time, value)], arrays)} of the smoke preset."""
    configs = expand(STUDY, "smoke", TINY | overrides)
    groups = {}
    for c in configs:
        groups.setdefault((c.part, c.frozen), []).append(c)
    found = []
    for group in groups.values():
        places = []
        for i, rows, arrays in lazy.run(group, "cpu"):
            table = {}
            for r in rows:
                assert r.keys() == {"step", "time", "split", "metric", "value"}
                assert r["split"] in ("train", "test") and isinstance(r["value"], float)
                table.setdefault(r["metric"], []).append((r["time"], r["value"]))
            found.append((group[i], table, arrays))
            places.append(i)
        assert sorted(places) == list(range(len(group)))  # each once
    return found


@pytest.fixture(scope="module")
def smoke():
    return run()


def test_rows_hold_every_metric(smoke):
    for config, table, arrays in smoke:
        want = TRAINED | ({"frozen_error", "frozen_converged"} if config.frozen else set())
        assert table.keys() == want
        assert table["converged"][0][1] == 1 and 0 <= table["error"][0][1] < 0.6
        assert set(arrays) == ({"test_output", "test_label"} if config.keep_output else set())
        if config.frozen:
            assert [t for t, _ in table["frozen_error"]] == [0, table["error"][0][0]]
    assert {c.part for c, *_ in smoke} >= {"phase", "frozen"}


def test_trajectories_are_those_of_training(smoke):
    for config, table, arrays in smoke:
        end = table["error"][0][0]
        times, losses = np.array(table["loss"]).T
        assert (np.diff(times) > 0).all() and times[-1] == end and losses[-1] < losses[0] <= 1.01
        t1 = table["t1"][0][1]
        assert times[losses < 0.5][0] >= t1 > times[losses >= 0.5][-1]
        ((at, size),) = table["output_t1"]
        assert at == t1 and size > 0
        shares = np.array(table["distance"])[:, 1] / np.array(table["weights_change"])[:, 1]
        assert np.allclose(shares, shares[0])  # both tell the same movement
        if config.keep_output:
            data = lazy.task_of(config, "cpu")
            output = torch.from_numpy(arrays["test_output"].astype(float))
            assert probes.error_rate(output, data.y_test) == table["error"][0][1]


def test_large_scales_are_lazy(smoke):
    for metric in ("kernel_change", "weights_change"):
        change = {s: [] for s in TINY["scaled_alpha"]}
        for config, table, _ in smoke:
            change[config.scaled_alpha].append(table[metric][-1][1])
        assert max(change[1e3]) < 0.02 < 0.1 < min(change[0.3])


def test_the_lazy_network_is_its_frozen_kernel(unchecked):
    ((_, table, _),) = run(part="frozen", scaled_alpha=1e5, seed=0, frozen=2, keep_output=False)
    (_, first), (_, last) = table["frozen_error"]
    assert first == last == table["error"][0][1]


def test_a_run_is_alone_what_it_is_in_a_stack(smoke, unchecked):
    config, table, _ = smoke[-1]
    ((_, rows, _),) = lazy.run([config], "cpu")
    alone = {r["metric"]: r["value"] for r in rows}
    for metric in ("t1", "loss", "kernel_change", "output_norm"):
        assert table[metric][-1][1] == pytest.approx(alone[metric], rel=1e-5)


def test_without_steps_there_is_the_start_alone():
    for _, table, arrays in [*run(max_steps=0), *run(max_steps=0, scaled_alpha=INF, frozen=0)]:
        assert table.keys() == ALWAYS and not arrays


def test_out_of_steps_is_a_row():
    for _, table, _ in run(max_steps=3, frozen=0):
        assert table["converged"][0][1] == 0 and math.isnan(table["t1"][0][1])


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("n", 0, "n must be at least 1, got 0"),
        ("width", -3, "width must be at least 1, got -3"),
        ("depth", 0, "depth must be at least 1, got 0"),
        ("scaled_alpha", 0, "scaled_alpha must be positive, or inf, got 0.0"),
        ("network", "rnn", "network must be one of fc, conv, got 'rnn'"),
        ("dynamics", "sgd", "dynamics must be one of gradient_flow, momentum, batches, got 'sgd'"),
        ("loss", "mse", "loss must be one of soft_hinge, hinge, square, got 'mse'"),
        ("activation", "gelu", "activation must be one of softplus, relu, tanh, erf, got 'gelu'"),
        ("dtype", "half", "dtype must be one of mixed, float64, float32, got 'half'"),
        ("scaled_alfa", 1, "unknown field 'scaled_alfa': .* did you mean 'scaled_alpha'"),
    ],
)
def test_bad_configs_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message) as error:
        coerce(Lazy, {field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_expand(preset):
    configs = expand(STUDY, preset)
    assert configs and len(set(configs)) == len(configs)


def test_the_networks_that_are_declared():
    assert lazy.network(Lazy(depth=3, width=7), normal(2, 10)).readout.in_features == 7
    conv = lazy.network(Lazy(network="conv", width=5, bias=False), normal(2, 1, 28, 28))
    assert isinstance(conv, models.ConvNet) and conv.hidden[0].bias is None


@pytest.mark.parametrize("depth", [1, 3])
def test_homogeneity_behind_the_kernel_exponent(depth):
    """f of degree L + 1 in the weights: the kernel has degree 2L, hence a = 2L / (L + 1)."""
    c = Lazy(depth=depth, width=5, activation="relu", bias=False)
    x, scale = normal(4, 3), 1.7
    module = lazy.network(c, x)
    params = models.initialise_stack(module, [0])
    scaled = {k: scale * v for k, v in params.items()}
    K, K_scaled = (ntk(module, select(p, 0), x)[..., 0, 0] for p in (params, scaled))
    close(K_scaled, scale ** (2 * depth) * K)
    change = kernels.distance(K_scaled, K).item()
    assert change == pytest.approx(scale ** (2 * depth) - 1)


def test_fields_accept_what_there_is():
    known = fields(Lazy)
    assert set(known["dataset"].choices) == set(DATASETS)
    assert {*known["activation"].choices, "linear"} == set(models.ACTIVATIONS)
    assert set(known["loss"].choices) == set(LOSSES)


def test_kept_outputs_come_with_their_labels_and_another_draw_has_others():
    def one(draw):
        config = Lazy(**TINY | dict(scaled_alpha=1.0, dataset="digits", depth=2, keep_output=True,
                             max_steps=3, data_seed=draw))  # fmt: skip
        ((_, _, arrays),) = lazy.run([config], "cpu")
        return config, arrays

    for draw in (0, 1):
        c, arrays = one(draw)
        data = lazy.task_of(c, "cpu")
        assert arrays["test_label"].tolist() == data.y_test.tolist()
        assert arrays["test_output"].shape == arrays["test_label"].shape == (30,)
    assert not np.array_equal(one(0)[1]["test_output"], one(1)[1]["test_output"])


def rows_of(*configs):
    """The last value of each metric, by config."""
    found = {i: {r["metric"]: r["value"] for r in rows} for i, rows, _ in lazy.run(configs, "cpu")}
    return [found[i] for i in range(len(configs))]


SMALL = Lazy(dataset="digits", n=12, n_test=60, pca=8, width=16, depth=2, tolerance=1e-3)


def test_an_infinite_scale_is_the_limit_of_large_ones(unchecked):
    """The real network in double precision, at a large finite scale, is the oracle."""
    far = replace(SMALL, scaled_alpha=1e5, dtype="float64")
    limit, real = rows_of(replace(SMALL, scaled_alpha=INF), far)
    alpha = far.scaled_alpha / math.sqrt(far.width)
    assert limit["error"] == real["error"] and limit["converged"] == 1
    assert limit["t1"] == pytest.approx(real["t1"], rel=1e-2)
    assert limit["alpha_distance"] == pytest.approx(alpha * real["distance"], rel=2e-3)
    assert limit["alpha_change"] == pytest.approx(alpha * real["kernel_change"], rel=2e-3)


def test_a_relu_kernel_is_asked_for_on_the_way_of_the_limit(unchecked):
    relu = replace(SMALL, activation="relu", width=40, tolerance=INF)
    far = replace(relu, scaled_alpha=1e4, dtype="float64")
    limit, real = rows_of(replace(relu, scaled_alpha=INF), far)
    assert limit["change_10000"] == pytest.approx(real["kernel_change"], rel=0.15)
    assert limit["change_300"] > limit["change_10000"] > 0


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 10.0, 100.0])
def test_single_precision_passes_change_nothing(scale, unchecked):
    one = replace(SMALL, scaled_alpha=scale, width=32, tolerance=1e-2)
    mixed, double = rows_of(one, replace(one, dtype="float64"))
    assert mixed["error"] == double["error"] and mixed["converged"] == 1
    for metric in ("t1", "kernel_change", "weights_change", "kernel_cosine"):
        assert mixed[metric] == pytest.approx(double[metric], rel=2e-2), metric


def test_what_fails_in_single_precision_is_done_in_double(monkeypatch, unchecked):
    """At a scale of 1e6 an output is rounded by more than it may change in a step."""
    far = replace(SMALL, scaled_alpha=1e6, max_steps=200, tolerance=1e-2)
    (double,) = rows_of(far)
    monkeypatch.setattr(lazy, "SINGLE", 1e7)
    (mixed,) = rows_of(far)
    assert mixed == double and mixed["converged"] == 1
    ((_, single, _),) = lazy.trained([far], "cpu", torch.float32)
    assert {r["metric"]: r["value"] for r in single}["converged"] == 0


def test_batches_fit_and_shuffled_labels_teach_nothing(unchecked):
    conv = Lazy(network="conv", dataset="mnist", dynamics="batches", loss="hinge", pca=0, width=3,
                activation="relu", tolerance=INF, n=20, n_test=60, max_steps=1000,
                seed=1000)  # fmt: skip
    (found,) = rows_of(conv)
    assert found["converged"] == 1 and found["error"] < 0.45 and found["kernel_change"] > 0
    (found,) = rows_of(replace(conv, max_steps=3))
    assert found["converged"] == 0
    true, noise = (lazy.task_of(replace(SMALL, shuffled=s), "cpu") for s in (False, True))
    assert torch.equal(true.x, noise.x) and torch.equal(true.y_test, noise.y_test)
    assert not torch.equal(true.y, noise.y) and true.y.sum() == noise.y.sum()


def test_kernels_are_kept_first_and_last(unchecked):
    ((_, rows, arrays),) = lazy.run([replace(SMALL, keep_kernel=True)], "cpu")
    first, last = (arrays[f"kernel_{name}"] for name in ("first", "last"))
    change = np.linalg.norm(last - first) / np.linalg.norm(first)
    found = {r["metric"]: r["value"] for r in rows}
    assert first.shape == (60, 60) and change == pytest.approx(found["kernel_change"], rel=1e-4)


@pytest.mark.parametrize("change", [dict(frozen=2), dict(dynamics="momentum"),
                                    dict(keep_kernel=True)])  # fmt: skip
def test_an_infinite_scale_has_one_kernel(change):
    with pytest.raises(ConfigError, match="scaled_alpha=inf has") as error:
        coerce(Lazy, dict(scaled_alpha=INF) | change)
    assert "\n" not in str(error.value)
