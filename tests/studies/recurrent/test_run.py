"""The study of recurrent networks: tiny runs against what they have to be."""

import numpy as np
import pytest
import torch

from tangents.data import series as archive
from tangents.data.series import Series
from tangents.functional import outputs
from tangents.lab.study import ConfigError, coerce
from tangents.recurrent import Recurrent
from tangents.studies.recurrent import run as study
from tangents.studies.recurrent.config import Sequences
from tests.cases import close, normal

COLUMNS = dict(series="digits", pool=1, n=8)
CUT = dict(series="mnist", pool=4, cut=True, n=8)
SINES = dict(series="sines", measure="classify", n=20, n_test=30, steps=8, noise=0.1)


def run(**config):
    """{metric: [values]} of one config."""
    ((_, rows, arrays),) = study.run([Sequences(**config)], "cpu")
    assert not arrays
    found = {}
    for row in rows:
        found.setdefault(row["metric"], []).append(row["value"])
    return found


def test_sines_are_what_their_class_says():
    data = study.sines(6, 4, 64, 0.0, 0)
    strongest = np.abs(np.fft.rfft(data.x[..., 0], axis=1)).argmax(1)
    assert (strongest == np.take(study.FREQUENCIES, data.y)).all()
    assert data.train == 6 and np.bincount(data.y).tolist() == [5, 5]


def test_a_cut_series_stands_at_its_end():
    x, lengths = normal(2, 4, 3), torch.tensor([4, 2])
    found = study.present(x, lengths)
    assert found[..., -1].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert (found[1, 2:, :3] == x[1, :2]).all() and not found[1, :2].any()


def test_distances_fall_with_width_but_to_another_kernel():
    errors = [run(width=w, sb=0.1, **CUT) for w in (64, 1024)]
    assert errors[1]["kernel_error"] < errors[0]["kernel_error"]
    assert errors[1]["kernel_error_deeper"] > errors[1]["kernel_error"]
    assert errors[1]["kernel_error_padded"] > errors[1]["kernel_error"]
    assert "kernel_error_padded" not in run(**COLUMNS)


def test_training_ends_at_its_goal_and_knows_when_infinite_width_does():
    c = Sequences(measure="train", width=64, goal=0.1, max_steps=500, n_test=5, sb=0.1, **COLUMNS)
    training = study.Training(c, "cpu")
    *_, (state, fitted, ended) = training.states()
    assert fitted and ended and state.loss.item() < 0.05
    steps = training.steps()
    left = [1 - training.grown(k) for k in (steps - 1, steps)]
    modes = training.vectors.mT @ training.y[:8]
    shares = [((v * modes).square().sum() / modes.square().sum()).item() for v in left]
    assert shares[1] < 0.1 <= shares[0]
    # gradient descent on the kernel, step by step
    a = torch.zeros(8).double()
    for _ in range(steps):
        a = a + training.rate / 8 * (training.y[:8] - 8 * training.theta @ a)
    close(training.predicted(steps), 8 * training.theta_test @ a, times=1e4, order=0.5)


def test_the_infinite_network_is_learnt_as_predicted():
    found = [run(measure="train", width=w, goal=0.2, max_steps=500, n_test=8, sb=0.1, **COLUMNS)
             for w in (16, 512)]  # fmt: skip
    assert found[1]["output_error"][0] < 0.7 * found[0]["output_error"][0]
    assert found[1]["kernel_change"][0] < 0.3 * found[0]["kernel_change"][0]


def test_moments_are_derivatives():
    c = Sequences(measure="moments", series="sines", steps=5, n=3, n_test=2, sb=0.2)
    found = run(**{k: getattr(c, k) for k in ("measure", "series", "steps", "n", "n_test", "sb")})
    x, _ = study.tensors(c, "cpu")
    net, eps = Recurrent(sb=0.2), 1e-6
    sizes = torch.zeros(5)
    for step in range(5):
        ends = []
        for sign in (1, -1):
            moved = x[3:].clone()
            moved[:, step] += sign * eps
            ends.append(net.kernels(moved, x[:3])[1])
        sizes[step] = ((ends[0] - ends[1]) / (2 * eps)).abs().mean()
    shares = sizes / sizes.sum()
    assert found["share"] == pytest.approx(shares.tolist(), rel=1e-5)
    centre = (shares * torch.linspace(0, 1, 5)).sum().item()
    assert found["centre"] == pytest.approx([centre], rel=1e-5)


def test_moments_of_what_is_learnt_are_derivatives_of_the_prediction():
    config = dict(measure="moments", series="sines", steps=5, n=4, n_test=3, sb=0.2, goal=0.3,
                  max_steps=200, of="prediction")  # fmt: skip
    c = Sequences(**config)
    training, (x, _) = study.Training(c, "cpu"), study.tensors(c, "cpu")
    a, eps, sizes = training.weights(training.steps()), 1e-6, torch.zeros(5)
    for step in range(5):
        moved = [x[4:].clone() for _ in range(2)]
        for v, sign in zip(moved, (1, -1), strict=True):
            v[:, step] += sign * eps
        f = [Recurrent(sb=0.2).kernels(v, x[:4])[1] @ a for v in moved]
        sizes[step] = ((f[0] - f[1]) / (2 * eps)).abs().mean()
    assert run(**config)["share"] == pytest.approx((sizes / sizes.sum()).tolist(), rel=1e-4)
    network = run(**config | dict(of="network", width=32))
    assert sum(network["share"]) == pytest.approx(1) and network["converged"] == [1]


@pytest.mark.parametrize("method", ["recurrent", "wide", "averaged", "connected", "gaussian"])
def test_each_kernel_tells_clear_sines(method):
    found = run(method=method, **SINES)
    assert found["error"][0] < found["error_common"][0] == 0.5
    assert found["error_validation"][0] < 0.5 and found["converged"] == [1]


def test_the_kernel_of_the_chosen_settings_is_used():
    c = Sequences(**SINES)
    data = study.task(c)
    found = run(**SINES)
    setting = {k: found[f"chosen_{k}"][0] for k in ("sw", "sb", "sh")}
    k = Recurrent(**setting).kernels(torch.from_numpy(data.x))[1].numpy()
    cost, y = found["cost"][0], data.y
    predicted = study.svm.classify(k[:20, :20], y[:20], k[20:, :20], cost)
    assert (predicted != y[20:]).mean() == found["error"][0]


def test_methods_choose_among_as_many_settings():
    more = {"wide", "averaged"}
    for name, settings in study.SETTINGS.items():
        assert len({tuple(s.values()) for s in settings}) == (30 if name in more else 18)


def test_the_nearest_neighbour_in_warped_time_and_its_cap(monkeypatch):
    found = run(method="dtw", **SINES)
    assert found["converged"] == [1] and 0 <= found["error"][0] <= 1
    monkeypatch.setattr(study, "CAP", 1)
    assert run(method="dtw", **SINES) == {"error_common": [0.5], "converged": [0]}


def invented():
    rng = np.random.default_rng(0)
    lengths = np.array([5, 4, 5, 3, 5, 5])
    x = rng.normal(3.0, 2.0, (6, 5)) * (np.arange(5) < lengths[:, None])
    return Series(x, lengths, np.array([0, 1, 0, 1, 0, 1]), 4)


def test_a_set_of_the_archive_is_standardised_by_its_training_steps(monkeypatch):
    data = invented()
    monkeypatch.setattr(study, "load_series", lambda _: data)
    study.task.cache_clear()
    found = study.task(Sequences(measure="classify", series="Coffee", n=0))
    there = np.arange(5) < data.lengths[:, None]
    train = found.x[:4, :, 0][there[:4]]
    assert train.mean() == pytest.approx(0, abs=1e-12) and train.std() == pytest.approx(1)
    assert not found.x[~there].any()
    found = run(measure="classify", series="Coffee", n=0)
    assert found["converged"] == [1]
    study.task.cache_clear()


def test_controls_change_what_they_say():
    plain, scrambled, shuffled = (
        study.task(Sequences(**SINES | more))
        for more in ({}, dict(scrambled=True), dict(shuffled=True))
    )
    assert (np.sort(plain.x, 1) == np.sort(scrambled.x, 1)).all() and (plain.x != scrambled.x).any()
    assert (plain.y[20:] == shuffled.y[20:]).all() and (plain.y[:20] != shuffled.y[:20]).any()


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(series="Cofee"), "unknown series"),
        (dict(series="Coffee", n=0), "classified as it is"),
        (dict(series="Coffee", measure="classify"), "n and n_test must be 0"),
        (dict(n=1), "at least 2"),
        (dict(measure="classify"), "a test series"),
        (dict(method="dtw"), "measure='classify'"),
        (dict(max_steps=3), "max_steps"),
        (dict(measure="train", n_test=3), "max_steps"),
        (dict(sb=-1), "at least 0"),
    ],
)
def test_settings_that_contradict_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        coerce(Sequences, config)


def test_sets_are_those_of_the_archive():
    from tangents.studies.recurrent.config import ARCHIVE, LARGER, SHORT, UNEQUAL

    assert {*ARCHIVE, *LARGER} == set(archive.SERIES) and not {*ARCHIVE} & {*LARGER}
    assert {*SHORT, *UNEQUAL} <= {*ARCHIVE} and len(UNEQUAL) == 10
    sizes = [archive.SERIES[name].train ** 2 * archive.SERIES[name].length for name in ARCHIVE]
    assert sizes == sorted(sizes, reverse=True)


def test_a_network_takes_series_with_their_presence():
    c = Sequences(width=16, **CUT)
    x, lengths = study.tensors(c, "cpu")
    module, params = study.network(c, x, "cpu")
    alone = [outputs(module, params, study.present(x[i : i + 1, :n], lengths[i : i + 1]))
             for i, n in enumerate(lengths)]  # fmt: skip
    close(outputs(module, params, study.present(x, lengths)), torch.cat(alone, 1))
