"""The study of exact Gauss-Newton: tiny runs against what they have to be."""

import math

import pytest
import torch
from torch.func import functional_call, jacrev

from tangents.data.sets import DATASETS, TABLES
from tangents.functional import select
from tangents.lab.study import ConfigError, coerce, expand, fields
from tangents.studies.gauss_newton import STUDY
from tangents.studies.gauss_newton import run as gauss_newton
from tangents.studies.gauss_newton.config import PRESETS, TINY, GaussNewton
from tests.cases import flat


def config(**given):
    return GaussNewton(**TINY | given)


def run(**given):
    """{metric: [(step, time, value)]} of one network."""
    ((_, rows, arrays),) = gauss_newton.run([config(**given)], "cpu")
    found = {}
    for row in rows:
        found.setdefault(row["metric"], []).append((row["step"], row["time"], row["value"]))
    assert not arrays
    return found


def values(found, metric):
    return [value for _, _, value in found[metric]]


def start(**given):
    """A config with its data, network, and what a rule sees at the start."""
    c = config(**given)
    data = gauss_newton.task(c, "cpu")
    record = gauss_newton.Record(c, *gauss_newton.network(c, data), data)
    here = gauss_newton.Batch(record.problem, record.problem.at(record.params0, False))
    return c, record, here


def test_rows_hold_every_metric():
    base = {"loss", "error", "test_loss", "converged", "updates"}
    first = {"error_theory", "residual", "step_length"}
    assert run().keys() == base | first
    assert run(method="adam").keys() == base
    assert run(batch=10).keys() == base | {"change_own", "change_next"}
    deep = {"kernel_cosine", "kernel_change", "kernel_cka", "cka_1", "cka_2", "weight_cosine",
            "weight_ratio", "distance", "error_kernel", "error_probe"}  # fmt: skip
    assert run(deep=True).keys() == base | first | deep
    assert run(network="mlp", method="adam", deep=True).keys() == base | deep - {
        "cka_1", "cka_2", "error_probe"
    }  # fmt: skip


def test_right_inverses_share_their_training_curve_and_not_what_they_predict():
    curves = {m: run(method=m, rate=0.05, length=10) for m in ("reversible", "minimum", "random")}
    for found in curves.values():
        assert values(found, "residual")[0] < 1e-4
        for loss, other in zip(values(found, "loss"), values(curves["minimum"], "loss"),
                               strict=True):  # fmt: skip
            assert loss == pytest.approx(other, rel=0.1)
    ends = {method: values(found, "test_loss")[-1] for method, found in curves.items()}
    assert ends["reversible"] > 1.2 * ends["minimum"]


def test_a_random_right_inverse_is_as_long_as_the_reversible_one():
    lengths = {m: run(method=m)["step_length"][0][2] for m in ("reversible", "minimum", "random")}
    assert lengths["random"] == pytest.approx(lengths["reversible"], rel=1e-4)
    assert lengths["minimum"] < lengths["reversible"]


def test_minimum_norm_in_another_metric_by_dense_algebra():
    c, record, here = start(method="minimum", weighting=7.0, n=8, width=10)
    J = flat(jacrev(lambda p: functional_call(record.module, p, (record.data.x,)))(
        select(record.params0, 0)), 2).flatten(0, 1)  # fmt: skip
    weight = torch.cat([torch.full((v[0].numel(),), 7.0 if ".0.trained" in k else 1.0)
                        for k, v in record.params0.items()]).double()  # fmt: skip
    eps = gauss_newton.asked(c, here).flatten()
    want = -weight * (J.mT @ torch.linalg.solve((J * weight) @ J.mT, eps))
    found = flat(select(gauss_newton.minimum(c, record.module, here), 0))
    assert (found - want).abs().max() < 1e-4 * want.abs().max()
    plain, _, _ = start(method="minimum", n=8, width=10)
    other = flat(select(gauss_newton.minimum(plain, record.module, here), 0))
    assert other.norm() < 0.95 * found.norm()


def test_a_whole_step_is_what_theory_predicts_of_a_small_one():
    """A network that is nearly linear in its weights after many small steps predicts it."""
    found = run(n_test=400, centred=True, alpha=100.0, rate=0.05, length=100)
    assert values(found, "error")[-1] == pytest.approx(values(found, "error_theory")[0], abs=0.01)


def test_a_batch_of_all_is_a_full_batch():
    for method in ("reversible", "minimum", "sgd", "adam"):
        one, other = run(method=method, rate=0.01), run(method=method, rate=0.01, batch=20)
        assert values(one, "loss")[-1] == pytest.approx(values(other, "loss")[-1], rel=1e-6)


def test_a_step_lowers_the_loss_of_its_batch_as_the_theorem_says():
    found = run(rate=0.01, batch=10, length=1, std=1e-3)
    assert values(found, "change_own")[0] == pytest.approx(100 * (0.99**2 - 1), rel=0.05)


def test_the_effect_of_a_step_is_that_on_both_batches():
    c, record, _ = start(method="sgd", rate=0.05, batch=5)
    rule = gauss_newton.rule(c, record.module, "sgd", 0.05)
    batches = iter(torch.arange(15).split(5))
    before, now, _ = gauss_newton.updates(record.problem, record.params0, rule, 2, batches)
    own, coming = gauss_newton.effect(record, before, now)

    def loss(params, rows):
        f = functional_call(record.module, select(params, 0), (record.data.x[rows],))
        return ((f - record.data.y[rows]) ** 2).sum(1).mean().item() / 2

    for change, rows in ((own, slice(0, 5)), (coming, slice(5, 10))):
        want = 100 * (loss(now.params, rows) / loss(before.params, rows) - 1)
        assert change == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize("layout", ["half", "interleaved", "both"])
def test_layouts(layout):
    data, plain = (gauss_newton.task(config(layout=v), "cpu") for v in (layout, "half"))
    x, like = data.x, plain.x
    want = {"half": like, "both": torch.cat([like, like], 1),
            "interleaved": torch.cat([like[:, ::2], like[:, 1::2]], 1)}  # fmt: skip
    assert torch.equal(x, want[layout]) and torch.equal(data.y, plain.y)


def test_an_odd_number_of_inputs_is_filled_up():
    data = gauss_newton.task(config(dataset="wine"), "cpu")
    assert data.x.shape == (20, 14) and (data.x[:, -1] == 0).all() and data.y.shape == (20, 3)


def test_shuffled_labels_are_those_of_others():
    plain, shuffled = (gauss_newton.task(config(shuffled=v), "cpu") for v in (False, True))
    assert not torch.equal(plain.y, shuffled.y) and torch.equal(plain.y_test, shuffled.y_test)
    assert torch.equal(plain.y.sum(0), shuffled.y.sum(0))


def test_a_centred_network_begins_at_zero():
    y = torch.full((20,), 0.5)  # one-hot
    assert values(run(centred=True), "loss")[0] == pytest.approx(y.mean().item())
    assert values(run(), "loss")[0] > 1


def test_the_output_scale_makes_a_centred_network_lazy():
    changes = [values(run(centred=True, alpha=a, deep=True), "kernel_change")[-1]
               for a in (0.3, 30.0)]  # fmt: skip
    assert changes[1] < 0.01 * changes[0]


def test_newtons_step_asks_for_more():
    c, _, here = start(loss="cross-entropy", hessian=True)
    plain, _, _ = start(loss="cross-entropy")
    assert gauss_newton.asked(c, here).norm() > gauss_newton.asked(plain, here).norm()
    for method in ("reversible", "minimum"):
        found = run(loss="cross-entropy", hessian=True, damping=0.15, method=method, rate=0.3)
        assert values(found, "loss")[-1] < 0.9 * values(found, "loss")[0]


def test_training_ends_at_its_loss_or_is_lost():
    found = run(until=0.05, rate=0.5, length=50)
    assert values(found, "loss")[-1] < 0.05 <= values(found, "loss")[-2]
    assert values(found, "converged") == [1]
    assert values(run(until=1e-9), "converged") == [0]
    lost = run(method="sgd", rate=1e3, length=50)
    assert values(lost, "converged") == [0] and values(lost, "updates")[0] < 50
    lost = run(method="sgd", rate=1e3, batch=5, length=50, deep=True)
    assert values(lost, "converged") == [0] and len(lost["kernel_cosine"]) == 1


def test_dependent_features_are_a_row(capsys):
    found = run(width=10, deep=True)
    assert values(found, "converged") == [0] and math.isnan(found["converged"][0][1])
    assert "the 11 features of 20 examples are dependent" in capsys.readouterr().out
    assert values(run(width=10, damping=0.1), "converged") == [1]
    assert values(run(width=10, rtol=0.01), "converged") == [1]


def test_decay_and_noise_stand_beside_the_step():
    c, record, here = start(method="sgd", rate=0.1, decay=0.5)
    plain = gauss_newton.rule(config(method="sgd", rate=0.1), record.module, "sgd", 0.1)
    rule = gauss_newton.rule(c, record.module, "sgd", 0.1)
    (kept, _), (free, _) = rule.step(here, rule.init(here.params)), plain.step(here, ())
    for name in kept:
        assert torch.allclose(kept[name], free[name] - 0.05 * here.params[name])
    noisy = gauss_newton.rule(config(method="sgd", noise=2.0), record.module, "sgd", 0.1)
    moved, _ = noisy.step(here, ())
    size = gauss_newton.norm(gauss_newton.difference(moved, free))
    step = gauss_newton.norm(gauss_newton.difference(free, here.params))
    assert (size / step).item() == pytest.approx(2)


def test_a_switch_is_one_training_after_another():
    found = run(batch=10, then="adam", switch=2, length=4, rate=0.2)
    alone = run(batch=10, length=2, rate=0.2)
    assert values(found, "loss")[:3] == values(alone, "loss")
    assert found["loss"][-1][:2] == (8, 4.0)


def test_errors():
    y = torch.eye(3).double()
    assert gauss_newton.error(y[[0, 1, 1]], y) == pytest.approx(1 / 3)
    real = torch.tensor([[1.0], [2.0], [3.0]]).double()
    assert gauss_newton.error(torch.full_like(real, 2), real) == pytest.approx(1)


def test_the_cost_is_a_ratio():
    found = run(part="cost")
    assert 0 < values(found, "cost")[0] < 100


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_expand(preset):
    configs = expand(STUDY, preset)
    assert configs and len(set(configs)) == len(configs)


def test_fields_accept_what_there_is():
    assert set(fields(GaussNewton)["dataset"].choices) == {*DATASETS, *TABLES}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"network": "mlp"}, "network='mlp' has no reversible step"),
        ({"alpha": 2}, "needs centred=True"),
        ({"weighting": 2}, "a weighting is one of method='minimum'"),
        ({"then": "adam"}, "a switch is one between epochs"),
        ({"until": 0.1, "batch": 5}, "until ends a full-batch training"),
        ({"batch": 21}, "batch must be at most n = 20, got 21"),
        ({"dataset": "diabetes", "loss": "cross-entropy"}, "loss must be squared"),
        ({"damping": -1}, "damping must be at least 0 and finite"),
    ],
)
def test_bad_configs_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        coerce(GaussNewton, TINY | given)
