"""The study of the kernel's constancy: small runs against the definitions of what they measure."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.func import functional_call

from tangents import kernels
from tangents.curvature import output_hessian_norm
from tangents.data.sets import DATASETS
from tangents.empirical import ntk
from tangents.functional import axpy, flatten, select, unflatten
from tangents.lab.study import ConfigError, coerce, expand, fields
from tangents.models import ACTIVATIONS, HEADS
from tangents.studies.constancy import STUDY
from tangents.studies.constancy import run as constancy
from tangents.studies.constancy.config import PRESETS, Constancy
from tests.cases import close, dense_hessian, flat, unflat

START = {"gradient", "hessian", "hessian_random", "hessian_steepest"}
TRAINED = {
    *("loss", "kernel_change", "radius", "eigenvalue_min", "eigenvalue_max", "pl_ratio"),
    *("converged", "steps", "kernel_largest", "kernel_turn", "turn_largest"),
    *("loss_peak", "sharpness"),
}


def run(**fields):
    """{seed: {metric: [(step, value)]}} of networks that differ in seed alone."""
    seeds = fields.pop("seed", [0, 1])
    configs = [Constancy(**{"data_seed": 0} | fields, seed=seed) for seed in seeds]
    found = {}
    for i, rows, arrays in constancy.run(configs, "cpu"):
        table = found.setdefault(seeds[i], {})
        kept = any(r["metric"] == "hessian_trained" for r in rows)
        assert arrays.keys() == ({"kernel0", "kernel"} if kept else set())
        for r in rows:
            assert r.keys() == {"step", "time", "split", "metric", "value"}
            table.setdefault(r["metric"], []).append((r["step"], r["value"]))
    assert sorted(found) == sorted(seeds)
    return found


def last(table, metric):
    return table[metric][-1][1]


SMALL = dict(width=16, probes=2, n=6)


@pytest.fixture(scope="module")
def trained():
    return run(head="tanh", **SMALL)


def test_rows_hold_every_metric(trained):
    for table in trained.values():
        extra = {"hessian_trained", "head_curvature", "inside_largest"}
        extra |= {f"signal_{kind}_1{end}" for kind in ("two", "inf") for end in ("", "_trained")}
        extra |= {f"linear_error_{d}_{r:g}" for d in ("top", "random") for r in constancy.RADII}
        assert table.keys() == START | TRAINED | extra
        assert last(table, "converged") == 1
        losses = [value for _, value in table["loss"]]
        assert losses[-1] < 2e-4 <= min(losses[:-1]) and last(table, "loss_peak") >= losses[0]
        assert last(table, "steps") == table["loss"][-1][0]


@pytest.mark.parametrize("head", ["tanh", "sigmoid", "swish", "softmax"])
def test_the_chain_rule_for_a_head(head):
    """H(phi(f)) = phi' H(f) + phi'' grad f grad f^T and K(phi(f)) = phi' phi'^T * K(f); of two
    outputs, the sum over both of phi' and over pairs of phi''."""
    c = Constancy(head=head, width=6, n=3, seed=3)
    x, _ = constancy.task(c, "cpu")
    module = constancy.network(c, x)
    params = select(constancy.start(module, [c], x), 0)
    inside = constancy.without_head(params)
    f = functional_call(module.net, inside, (x[:1],))[0]
    one = lambda z: module.head(z).sum()  # noqa: E731
    first, second = torch.func.grad(one)(f), torch.func.hessian(one)(f)
    slope = torch.func.grad(lambda p, k: functional_call(module.net, p, (x[:1],))[0, k])
    J = [flat(slope(inside, k)) for k in range(len(f))]
    want = sum(first[k] * dense_hessian(module.net, inside, x[0], k) for k in range(len(f)))
    pairs = [(j, k) for j in range(len(f)) for k in range(len(f))]
    want = want + sum(second[j, k] * torch.outer(J[j], J[k]) for j, k in pairs)
    close(dense_hessian(module, params, x[0]), want)
    if head in constancy.SLOPES:
        stack = {k: v[None] for k, v in params.items()}
        trace = constancy.Trace(module, stack, x, [c])
        under = ntk(module.net, inside, x, outputs="trace")
        close(trace.under_head(trace.kernel0, stack)[0], under)


def test_without_steps_the_start_alone_is_measured(trained):
    for seed, table in run(head="tanh", max_steps=0, **SMALL).items():
        assert table.keys() >= START and not table.keys() & (TRAINED | {"hessian_trained"})
        for metric in START:
            assert last(table, metric) == trained[seed][metric][0][1]


def test_pl_ratio_lies_between_the_eigenvalues(trained):
    for table in trained.values():
        for metric in ("pl_ratio", "eigenvalue_min", "eigenvalue_max"):
            assert [step for step, _ in table[metric]] == [step for step, _ in table["loss"]]
        trio = zip(table["eigenvalue_min"], table["pl_ratio"], table["eigenvalue_max"], strict=True)
        for (_, low), (_, ratio), (_, high) in trio:
            assert 0 < low * (1 - 1e-9) <= ratio <= high * (1 + 1e-9)


def test_the_last_kernel_is_that_of_explicit_steps():
    """Gradient descent on (1/2n) sum (phi(f) - t)^2, written out."""
    c = Constancy(head="tanh", seed=1, data_seed=0, **SMALL)
    x, y = constancy.task(c, "cpu")
    module = constancy.network(c, x)
    params = select(constancy.start(module, [c], x), 0)
    kernel0 = ntk(module, params, x, outputs="trace")
    rate = 0.5 * c.n / torch.linalg.eigvalsh(kernel0)[-1]

    def loss(p):
        return (functional_call(module, p, (x,))[:, 0] - 0.7 * y).square().mean() / 2

    start, largest, steps = params, 0.0, 0
    while loss(params) >= 1e-4 * 0.98:  # goal 2e-4 for F = phi / 0.7
        change = kernels.distance(ntk(module, params, x, outputs="trace"), kernel0).item()
        largest, g = max(largest, change), torch.func.grad(loss)(params)
        params, steps = {k: v - rate * g[k] for k, v in params.items()}, steps + 1
    table = run(head="tanh", **SMALL)[1]
    assert last(table, "steps") == steps
    radius = torch.cat([(params[k] - start[k]).flatten() for k in params]).norm().item()
    assert last(table, "radius") == pytest.approx(radius, rel=1e-9)
    change = kernels.distance(ntk(module, params, x, outputs="trace"), kernel0).item()
    assert last(table, "kernel_change") == pytest.approx(change, rel=1e-9)
    assert last(table, "kernel_largest") == pytest.approx(max(largest, change), rel=1e-2)
    assert last(table, "gradient") == pytest.approx(kernel0.diagonal().sqrt().mean().item())


def test_hessians_are_taken_where_they_say(trained):
    c = Constancy(head="tanh", seed=0, **SMALL)
    x, _ = constancy.task(c, "cpu")
    module = constancy.network(c, x)
    params = constancy.start(module, [c], x)
    want = output_hessian_norm(module, params, x[:2]).mean().item()
    assert last(trained[0], "hessian") == pytest.approx(want, rel=1e-3)
    aside = constancy._direction(0, flatten(params)[0])[None]
    moved = axpy(torch.tensor([10.0]).double(), unflatten(aside, params), params)
    want = output_hessian_norm(module, moved, x[:2]).mean().item()
    assert last(trained[0], "hessian_random") == pytest.approx(want, rel=1e-3)


def test_the_head_adds_its_curvature_times_the_squared_gradient(trained):
    c = Constancy(head="tanh", seed=1, data_seed=0, **SMALL)
    x, _ = constancy.task(c, "cpu")
    module = constancy.network(c, x)
    inside = select(constancy.without_head(constancy.start(module, [c], x)), 0)
    f = functional_call(module.net, inside, (x,))[:, 0]
    squares = ntk(module.net, inside, x, outputs="trace").diagonal()
    want = (2 * f.tanh() * (1 - f.tanh() ** 2) * squares)[: c.probes].abs().mean().item()
    assert last(trained[1], "head_curvature") == pytest.approx(want, rel=1e-9)


def test_rows_are_kept_at_growing_distances():
    """No gap of more than a quarter, and a look at the kernel, between one row and the next."""
    ((table),) = run(seed=[0], head="tanh", width=16, probes=0, goal=1e-9, max_steps=400).values()
    steps = [step for step, _ in table["loss"]]
    assert steps[:5] == [0, 1, 2, 3, 4] and steps[-1] > 300
    assert all(b <= max(a + 1, math.ceil(1.25 * 1.1 * a)) + 1 for a, b in pairwise(steps))


def test_errors_of_the_linear_model_by_hand(trained):
    c = Constancy(head="tanh", seed=0, **SMALL)
    x, _ = constancy.task(c, "cpu")
    module = constancy.network(c, x)
    params = select(constancy.start(module, [c], x), 0)
    top = torch.linalg.eigh(dense_hessian(module, params, x[0]))
    v = top.eigenvectors[:, top.eigenvalues.abs().argmax()]
    g = torch.func.grad(lambda p: functional_call(module, p, (x[:1],)).sum())(params)
    errors = []
    for sign in (1, -1):
        ahead = unflat(flat(params) + 2 * sign * v, params)
        gap = functional_call(module, ahead, (x[:1],)) - functional_call(module, params, (x[:1],))
        errors.append((gap - 2 * sign * flat(g) @ v).abs())
    assert last(trained[0], "linear_error_top_2") == pytest.approx(max(errors).item(), rel=1e-2)


def test_a_climb_follows_the_steepest_ascent_of_the_second_derivative():
    c = Constancy(seed=0, width=5, n=2, probes=1)
    x, _ = constancy.task(c, "cpu")
    module = constancy.network(c, x)
    params = constancy.start(module, [c, replace(c, seed=1)], x)
    v = torch.stack([constancy._direction(i, flatten(params)[0]) for i in (5, 6)])

    def bent(w):
        along = torch.func.jvp
        f = lambda u: constancy.output(module, unflatten(u, params), x[:1])[:, 0]  # noqa: E731
        slope = lambda u: along(f, (u,), (v,))[1]  # noqa: E731
        return along(slope, (w,), (v,))[1].abs()

    there = flatten(constancy.climb(module, params, x[:1], v, 1e-4))
    start = flatten(params)
    path = (there - start) / (there - start).norm(dim=1, keepdim=True)
    close((there - start).norm(dim=1), torch.full((2,), 1e-4).double(), times=1e-3, order=0)
    steepest = (bent(start + 1e-5 * path) - bent(start - 1e-5 * path)) / 2e-5
    for j in (0, 7, 29):  # no coordinate rises faster than its share of the path's rise
        unit = torch.zeros_like(v)
        unit[:, j] = 1e-5
        slope = (bent(start + unit) - bent(start - unit)) / 2e-5
        close(slope, steepest * path[:, j], times=1e-3, order=0)
    far = constancy.climb(module, params, x[:1], v, 10.0)
    assert (bent(flatten(far)) > 2 * bent(start)).all()
    assert ((flatten(far) - start).norm(dim=1) <= 10 + 1e-9).all()


def test_a_run_is_alone_what_it_is_in_a_stack(trained, unchecked):
    ((alone),) = run(head="tanh", seed=[1], **SMALL).values()
    for metric in START | TRAINED:
        assert last(alone, metric) == pytest.approx(last(trained[1], metric), rel=1e-3)


def test_beyond_the_stable_step_the_loss_rises_first():
    fields = dict(width=64, probes=0)
    for table in run(rate=2.5, **fields).values():
        assert last(table, "loss_peak") > 1.05 * table["loss"][0][1]
        assert last(table, "converged") == 1 and last(table, "sharpness") < 2
    for table in run(rate=50.0, max_steps=40, **fields).values():
        assert last(table, "converged") == 0 and "kernel_largest" not in table


def test_large_scale_is_lazy():
    change = {}
    for alpha in (1.0, 64.0):
        table = run(centred=True, alpha=alpha, seed=[0], width=32, probes=0, activation="softplus")
        change[alpha] = last(table[0], "kernel_largest")
    assert change[64.0] < 0.1 * change[1.0]


def test_read_outs_of_one_sign():
    c = Constancy(positive=True, width=8)
    x, _ = constancy.task(c, "cpu")
    params = constancy.start(constancy.network(c, x), [c], x)
    assert (params["net.readout.weight"] >= 0).all() and (params["net.hidden.0.weight"] < 0).any()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"bottleneck": -1}, "bottleneck must be at least 0, got -1"),
        ({"rate": math.inf}, "rate must be positive and finite, got inf"),
        ({"head": "relu"}, "head must be one of linear, tanh, sigmoid, swish, softmax, got 'relu'"),
        ({"dataset": "moons"}, "dataset must be one of sphere, mnist"),
        ({"network": "conv"}, "network 'conv' takes images, which dataset 'sphere' has not"),
        ({"network": "resnet", "bottleneck": 3}, "a bottleneck needs network 'mlp', got 'resnet'"),
        ({"alpha": 2}, "alpha needs centred=True"),
        ({"probes": 11}, "probes must be at most n=10, got 11"),
        ({"dataset": "mnist", "labels": "halves"}, "labels='halves' needs dataset 'sphere'"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        coerce(Constancy, fields)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_expand(preset):
    configs = expand(STUDY, preset)
    assert configs and len(set(configs)) == len(configs)


def test_the_networks_that_are_declared():
    x = torch.ones(1, 5).double()
    net = constancy.network(Constancy(depth=3, width=7, bottleneck=2), x).net
    assert [layer.out_features for layer in net.hidden] == [7, 2, 7]
    net = constancy.network(Constancy(head="softmax"), x).net
    assert net.readout.out_features == 2 and net.readout.bias is None


def test_fields_accept_what_there_is():
    known = fields(Constancy)
    assert set(known["dataset"].choices) == {"sphere", *DATASETS}
    assert {*known["activation"].choices, "linear"} == set(ACTIVATIONS)
    assert set(known["head"].choices) == set(HEADS) == set(constancy.CENTRES)


def test_the_metrics_that_are_searched_for_are_those_of_the_radii():
    named = {f"linear_error_top_{r:g}" for r in constancy.RADII}
    assert named == {name for name in STUDY.tolerances if name.startswith("linear_error_top")}


def test_another_draw_of_the_inputs_is_another_task():
    first, other, given = (
        constancy.task(Constancy(n=6, **seeds), "cpu")[0]
        for seeds in (dict(seed=0), dict(seed=1), dict(seed=1, data_seed=0))
    )
    assert first.shape == other.shape and not first.allclose(other)
    assert first.equal(given)
    with pytest.raises(ValueError, match="networks of one stack have one draw of inputs"):
        run(data_seed=-1, **SMALL)


def test_labels_of_two_halves():
    x, y = constancy.task(Constancy(labels="halves", n=20), "cpu")
    assert y.equal(x[:, 0].sign()) and 0 < (y > 0).sum() < 20
    inputs, given = constancy.task(Constancy(n=20), "cpu")
    assert inputs.equal(x) and given.tolist() == [-1, 1] * 10


def test_networks_on_the_span_of_their_inputs_are_the_same():
    """The same kernels, distances and losses as with all pixels, step by step."""
    fields = dict(dataset="digits", n=6, depth=2, width=8, head="tanh", seed=[0])
    small, whole = (run(probes=probes, **fields)[0] for probes in (0, 1))
    for metric in TRAINED - {"converged"}:
        assert len(small[metric]) == len(whole[metric])
        for (step, value), (other, want) in zip(small[metric], whole[metric], strict=True):
            assert step == other and value == pytest.approx(want, rel=1e-6, abs=1e-9), metric


def test_rates_and_signs_of_one_stack():
    """Networks that end at different times are alone what they are side by side."""
    fields = dict(width=16, n=6, probes=0)
    configs = [Constancy(rate=rate, positive=positive, **fields)
               for rate in (0.5, 1.5, 2.5) for positive in (False, True)]  # fmt: skip
    ends = {}
    for i, rows, _ in constancy.run(configs, "cpu"):
        ends[i] = {r["metric"]: r["value"] for r in rows}
    assert len({end["steps"] for end in ends.values()}) > 3
    for i, c in enumerate(configs):
        ((_, rows, _),) = constancy.run([c], "cpu")
        for r in {r["metric"]: r for r in rows}.values():
            assert ends[i][r["metric"]] == pytest.approx(r["value"], rel=1e-6, abs=1e-12)
