"""The study of lazy and feature learning: its configs, and tiny runs of its smoke preset."""

import math

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
ALWAYS = {"preactivation_velocity", "output_norm"}
TRAINED = {
    *ALWAYS,
    *("loss", "output_change", "distance", "weights_change", "kernel_change"),
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
            sizes = config.n, config.n_test, config.pca
            data = lazy.task(config.dataset, *sizes, True, 0, "float64", "cpu")
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
    for _, table, arrays in run(max_steps=0):
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
        ("scaled_alpha", 0, "scaled_alpha must be positive and finite, got 0.0"),
        ("network", "rnn", "network must be one of fc, conv, got 'rnn'"),
        ("dynamics", "sgd", "dynamics must be one of gradient_flow, momentum, got 'sgd'"),
        ("loss", "mse", "loss must be one of soft_hinge, hinge, square, got 'mse'"),
        ("activation", "gelu", "activation must be one of softplus, relu, tanh, erf, got 'gelu'"),
        ("dtype", "half", "dtype must be one of float64, float32, got 'half'"),
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
        config = Lazy(**TINY | {"scaled_alpha": 1.0}, dataset="digits", depth=2, keep_output=True,
                      max_steps=3, data_seed=draw)  # fmt: skip
        ((_, _, arrays),) = lazy.run([config], "cpu")
        return config, arrays

    for draw in (0, 1):
        c, arrays = one(draw)
        data = lazy.task(c.dataset, c.n, c.n_test, c.pca, True, draw, "float64", "cpu")
        assert arrays["test_label"].tolist() == data.y_test.tolist()
        assert arrays["test_output"].shape == arrays["test_label"].shape == (30,)
    assert not np.array_equal(one(0)[1]["test_output"], one(1)[1]["test_output"])
