"""The study of the kernel over time: tiny runs against what they have to be."""

import math
from itertools import pairwise

import pytest
import torch
from torch.func import functional_call

from tangents import kernels, models
from tangents.descent import epochs
from tangents.empirical import ntk
from tangents.functional import linearise, select
from tangents.lab.study import ConfigError, coerce
from tangents.studies.over_time import run as study
from tangents.studies.over_time.config import OverTime
from tests.cases import close

SGD = dict(dataset="digits", pool=1, n=60, n_test=80, batch=20, width=8, epochs=13, rate=0.05,
           dtype="float64", children=False)  # fmt: skip
FLOW = dict(train="flow", dataset="digits", pool=1, pca=5, n=10, n_test=30, width=8,
            dtype="float64", activation="softplus", max_steps=2000)  # fmt: skip


def run(*configs):
    """{metric: {time: value}} of each config, all in one stack."""
    found = [{} for _ in configs]
    for i, rows, arrays in study.run([OverTime(**c) for c in configs], "cpu"):
        assert not arrays
        for row in rows:
            found[i].setdefault(row["metric"], {})[row["time"]] = row["value"]
    return found


def last(found, metric):
    return found[metric][max(found[metric])]


def by_hand(f, params, data, rate, steps, seed):
    """SGD with momentum by torch's own optimiser, in batches of 20 of a seed: one network's end."""
    leaves = {k: v[0].clone().requires_grad_() for k, v in params.items()}
    optimiser = torch.optim.SGD([*leaves.values()], rate, momentum=0.9)
    batches = epochs(60, 20, torch.Generator().manual_seed(seed))
    for _, rows in zip(range(steps), batches, strict=False):
        optimiser.zero_grad()
        output = f(leaves, data.x[rows])
        torch.nn.functional.cross_entropy(output, data.y[rows].argmax(1)).backward()
        optimiser.step()
    return {k: v.detach() for k, v in leaves.items()}


def test_rows_hold_every_metric(unchecked):
    (found,) = run(SGD | dict(children=True, learn=1, dtype="float32"))
    measured = {"loss_train", "loss_test", "error_train", "error_test", "kernel_turn", "pattern",
                "kernel_change", "kernel_velocity", "kernel_velocity_twice", "alignment", "moved",
                "cka_1", "cka_last", *(f"planted_{k}" for k in range(1, 7))}  # fmt: skip
    c = OverTime(**SGD)
    assert all([*found[name]] == study.looks(c) for name in measured)
    begun = {"barrier_train": study.SPAWNED, "barrier_test": study.SPAWNED,
             "error_linear": (*study.LEARNT, 13), "error_beside": (*study.LEARNT, 13)}  # fmt: skip
    assert all(tuple(found[name]) == times for name, times in begun.items())
    assert found.keys() == measured | begun.keys() | {"nonlinear", "converged"}
    (found,) = run(FLOW)
    flown = {"alignment", "alignment_train", "kernel_change", "loss_train"}
    assert found.keys() == flown | {"converged", "t1"}


def test_looks_are_at_equal_ratios_with_both_ends():
    seen = study.looks(OverTime(epochs=20))
    assert seen[0] == 0 and seen[-1] == 20 and len(seen) == len(set(seen)) == 18
    assert all(b / a == pytest.approx(math.sqrt(2)) for a, b in pairwise(seen[1:-1]))
    assert study.looks(OverTime(epochs=13)) == sorted(study.looks(OverTime(epochs=13)))


def test_measures_are_those_of_the_network_that_torch_trains():
    c = OverTime(**SGD | dict(seed=3))
    data, module = study.task(c, "cpu"), models.MLP(64, 8, 2, 10, "relu", layer=models.Unscaled)
    start = study.start(c, module, "cpu")
    w = start["hidden.1.weight"]
    assert w.square().mean().item() == pytest.approx(1 / 8, rel=0.5) and w.shape == (1, 8, 8)
    f, one = models.apply(module), select(start, 0)
    ends = [by_hand(f, start, data, 0.05, steps, 3) for steps in (39, 40, 41)]
    (found,) = run(SGD | dict(seed=3))
    x, y = data.x_test, data.y_test.argmax(1)
    output = functional_call(module, ends[0], (x,))
    loss = torch.nn.functional.cross_entropy(output, y)
    assert last(found, "loss_test") == pytest.approx(loss.item(), rel=1e-9)
    assert last(found, "error_test") == (output.argmax(1) != y).double().mean()
    thetas = [ntk(module, p, x[:60]).transpose(1, 2).reshape(600, 600) for p in (one, *ends)]
    first, end, later, twice = (k / k.norm() for k in thetas)
    assert last(found, "kernel_turn") == pytest.approx(1 - (first * end).sum().item())
    assert last(found, "kernel_velocity") == pytest.approx((1 - (end * later).sum().item()) / 0.4)
    turn = 1 - (end * twice).sum().item()
    assert last(found, "kernel_velocity_twice") == pytest.approx(turn / 0.8)
    trace = ntk(module, ends[0], x[:60], outputs="trace")
    same = (y[:60, None] == y[:60]).double()
    aligned = kernels.centred_alignment(trace, same).item()
    assert last(found, "alignment") == pytest.approx(aligned)
    linear = linearise(module, one)(ends[0], x)
    f0 = functional_call(module, one, (x,))
    share = (output - linear).norm() / (output - f0).norm()
    assert last(found, "nonlinear") == pytest.approx(share.item())
    flat = [torch.cat([v.flatten() for v in p.values()]) for p in (one, ends[0])]
    moved = (flat[1] - flat[0]).norm() / flat[0].norm()
    assert last(found, "moved") == pytest.approx(moved.item())


def test_what_is_linearised_learns_by_the_same_descent():
    c = OverTime(**SGD | dict(learn=2, learn_rate=0.02))
    data, module = study.task(c, "cpu"), models.MLP(64, 8, 2, 10, "relu", layer=models.Unscaled)
    start = study.start(c, module, "cpu")
    (found,) = run(SGD | dict(learn=2, learn_rate=0.02))
    f_lin = linearise(module, select(start, 0))
    for name, f in (("linear", f_lin), ("beside", models.apply(module))):
        end = by_hand(f, start, data, 0.02, 6, 3 * study.ANOTHER)
        wrong = f(end, data.x_test).argmax(1) != data.y_test.argmax(1)
        assert found[f"error_{name}"][0.0] == wrong.double().mean()


def test_children_go_on_from_weights_and_velocity():
    """On the batches of the network itself a child is the network that trains on."""
    c = OverTime(**SGD)
    data = study.task(c, "cpu")
    record = study.Record(c, data, "cpu")
    way = study.trained(record.module, record.params0, data, 0.05, record.batches(0), [9, 21])
    rest = record.batches(0)
    for _ in range(9):
        next(rest)
    state = way[9]
    child = study.trained(record.module, state.params, data, 0.05, rest, [12], state.memory)[12]
    for name, value in way[21].params.items():
        close(child.params[name], value)


def test_children_on_the_same_batches_have_no_barrier(unchecked):
    given = SGD | dict(children=True, rate=0.3)
    same, other = run(given | dict(same=True))[0], run(given)[0]
    assert set(same["barrier_train"].values()) == set(same["barrier_test"].values()) == {0.0}
    assert max(other["barrier_test"].values()) > 0


def test_shuffled_labels_are_as_many_and_those_of_test_stay():
    plain, shuffled = (study.task(OverTime(**SGD, shuffled=s), "cpu") for s in (False, True))
    assert torch.equal(plain.y_test, shuffled.y_test) and torch.equal(plain.x, shuffled.x)
    assert torch.equal(plain.y.sum(0), shuffled.y.sum(0)) and not torch.equal(plain.y, shuffled.y)


def test_a_convnet_is_measured_too():
    given = SGD | dict(network="conv", width=2, n=20, n_test=20, dtype="float32")
    (found,) = run(given)
    assert found.keys() >= {"cka_1", "cka_2", "cka_3", "cka_last", "nonlinear"}
    assert last(found, "converged") == 1


def test_a_flow_in_a_stack_is_the_flow_alone(unchecked):
    scales = (0.5, 100.0)
    stack = run(*(FLOW | dict(scaled_alpha=alpha) for alpha in scales))
    for alpha, together in zip(scales, stack, strict=True):
        (alone,) = run(FLOW | dict(scaled_alpha=alpha))
        assert alone.keys() == together.keys() and last(alone, "converged") == 1
        for metric, values in alone.items():
            got = together[metric]
            assert [*got] == pytest.approx([*values], rel=1e-6)
            assert [*got.values()] == pytest.approx([*values.values()], rel=1e-5, abs=1e-9)


def test_what_a_flow_tells():
    (found,) = run(FLOW | dict(seed=2))
    c = OverTime(**FLOW | dict(seed=2))
    data, module = study.task(c, "cpu"), models.MLP(5, 8, 2)
    params = models.initialise(module, 2)
    kernel = ntk(module, params, data.x_test[:100], outputs="trace")
    y = data.y_test[:100]
    aligned = kernels.centred_alignment(kernel, torch.outer(y, y)).item()
    first = min(found["alignment"])
    assert found["alignment"][first] == pytest.approx(aligned, abs=0.01)
    t1, losses = last(found, "t1"), found["loss_train"]
    assert losses[first] == pytest.approx(1, abs=0.01) and found["kernel_change"][first] < 0.01
    before = [v for t, v in losses.items() if t < t1]
    after = [v for t, v in losses.items() if t >= t1]
    assert min(before) >= 0.5 > max(after) and len(before) > 10 and len(after) > 3


@pytest.mark.parametrize("given, message", [
    (FLOW | dict(network="conv"), "train='flow' is of a fully connected network"),
    (FLOW | dict(shuffled=True), "train='flow' is of a fully connected network"),
    (FLOW | dict(max_steps=0), "max_steps must be at least 1 for train='flow', else 0"),
    (SGD | dict(max_steps=9), "max_steps must be at least 1 for train='flow', else 0"),
    (SGD | dict(pca=3), "pca needs train='flow'"),
    (SGD | dict(batch=61), "a batch of 1 to n = 60, got 61"),
    (SGD | dict(same=True), "same=True needs children=True"),
    (SGD | dict(epochs=12), "epochs must be above 12.8"),
])  # fmt: skip
def test_configs_that_cannot_be_run_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        coerce(OverTime, given)
