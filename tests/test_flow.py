"""Gradient flow against closed forms, dense algebra and itself by other means."""

import math
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from tangents import kernels, models
from tangents import problem as module
from tangents.empirical import ntk
from tangents.flow import ContinuousMomentum, GradientFlow, batch_flow, flow, implicit_direction
from tangents.functional import select
from tangents.losses import LOSSES, soft_hinge
from tangents.problem import Problem
from tests.cases import all_close, close, exact_flow, flat, normal, points_close

N, D = 6, 4
X = normal(N, D, seed=2)
Y = torch.where(X[:, 0] > 0, 1.0, -1.0).double()
NET = models.MLP(D, 8, 2)
LINEAR = models.Linear(D, 1, bias=False)


def network(*seeds):
    return models.initialise_stack(NET, list(seeds))


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def last(states):
    """The last state of each network by its index: a dict of (state, place)."""
    return {k: (s, i) for s in states for i, k in enumerate(s.index.tolist())}


def at_time(states, t):
    """The first state of one network at or after time t."""
    return next(s for s in states if s.t[0] >= t)


# ---- losses


@pytest.mark.parametrize("name", LOSSES)
def test_slope_and_curvature_are_derivatives(name):
    loss = LOSSES[name]
    u = (3 * normal(50)).requires_grad_()
    value = loss.value(u)
    (slope,) = torch.autograd.grad(value.sum(), u, create_graph=True)
    close(loss.slope(u).detach(), slope.detach())
    if name != "hinge":  # torch knows no second derivative there: it is zero
        (curvature,) = torch.autograd.grad(loss.slope(u).sum(), u)
        close(loss.curvature(u).detach(), curvature)
    else:
        assert loss.curvature(u).abs().max() == 0


def test_losses_at_known_margins():
    u = row(-1, 0, 1, 2)
    assert LOSSES["hinge"].value(u).tolist() == [2, 1, 0, 0]
    assert LOSSES["square"].value(u).tolist() == [2, 0.5, 0, 0.5]
    want = np.logaddexp(0, 20 * (1 - u.numpy())) / 20
    close(LOSSES["soft_hinge"].value(u), torch.from_numpy(want))
    close(soft_hinge(1e4).value(u), LOSSES["hinge"].value(u), times=1e-4, order=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_hinge_does_not_overflow(dtype):
    u = torch.tensor([-1e4, -40, -4, 1e4], dtype=dtype)
    close(LOSSES["soft_hinge"].value(u), LOSSES["hinge"].value(u))


# ---- one evaluation


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("factored", [True, False])
def test_gradient_is_that_of_the_scaled_loss(loss, factored):
    params0, params, alpha = network(0, 1), network(2, 3), row(0.3, 7)
    point = Problem.start(NET, params0, X, Y, alpha, loss).at(params, factored)
    for i in range(2):

        def objective(p, i=i):
            f0 = functional_call(NET, select(params0, i), (X,))[:, 0]
            output = alpha[i] * (functional_call(NET, p, (X,))[:, 0] - f0)
            return LOSSES[loss].value(output * Y).mean() / alpha[i] ** 2

        leaves = {k: v.clone().requires_grad_() for k, v in select(params, i).items()}
        value = objective(leaves)
        want = dict(zip(leaves, torch.autograd.grad(value, [*leaves.values()]), strict=True))
        close(point.loss[i], value.detach())
        close(flat(point.gradient, 1)[i], flat(want))


def dense(params, i):
    f = lambda p: functional_call(NET, p, (X,))[:, 0]  # noqa: E731
    return flat(jacrev(f)(select(params, i)), 1)


@pytest.mark.parametrize(
    "loss, times, bound", [("square", 1, 1e-3), ("square", 1e3, 1e-6), ("soft_hinge", 1, 0.1)]
)
def test_implicit_direction_solves_the_linear_system(loss, times, bound):
    """While the step is moderate to single precision: the matrix, of trace up to 1e4 and with 1 for
    its smallest eigenvalue, is rounded by 1e-7 of itself. The soft hinge leaves out what weighs
    less than 0.1."""
    params0, dt = network(0, 1), times * row(3e3, 2e3)
    problem = Problem.start(NET, params0, X, Y, row(1, 5), loss)
    if loss == "soft_hinge":
        problem = replace(problem, loss=soft_hinge(1.0))  # wide, so that some examples are stiff
    point = problem.at(network(2, 1), True)
    got = flat(implicit_direction(point, dt), 1)
    for i in range(2):
        J, g = dense(point.params, i), flat(point.gradient, 1)[i]
        H = J.T @ torch.diag(point.stiffness[i]) @ J
        want = torch.linalg.solve(torch.eye(len(g)) + dt[i] * H, g)
        assert (got[i] - want).norm() <= bound * want.norm()
        assert (g - want).norm() > 0.5 * g.norm()


def test_implicit_direction_is_the_gradient_for_small_steps():
    point = Problem.start(NET, network(0, 1), X, Y, row(1, 5), "square").at(network(2, 1), True)
    all_close(implicit_direction(point, row(1e-12, 1e-9)), point.gradient)
    mixed = implicit_direction(point, row(1e-9, 1e4))
    all_close(select(mixed, 0), select(point.gradient, 0))
    assert mixed["readout.bias"][1] != point.gradient["readout.bias"][1]


@pytest.mark.parametrize("factored", [True, False])
def test_points_mix_by_network(factored):
    problem = Problem.start(NET, network(0, 1), X, Y, row(1, 5), "square")
    new, old = (problem.at(network(*seeds), factored) for seeds in ((2, 3), (4, 5)))
    mixed = new.otherwise(torch.tensor([True, False]), old)
    for i, want in enumerate((new, old)):
        alone = want.select(torch.tensor([i]))
        for name in ("output", "loss", "stiffness"):
            assert getattr(mixed, name)[i].equal(getattr(alone, name)[0])
        for name in ("params", "gradient"):
            assert flat(getattr(mixed, name), 1)[i].equal(flat(getattr(alone, name)))
        if factored:
            close(mixed.jacobian.gram()[i], alone.jacobian.gram()[0])
            assert mixed.jacobian.value[i].equal(alone.jacobian.value[0])


# ---- the flow


def linear_flow(rule, t, alpha=1.0, dt=1e-6):
    params = {"weight": normal(1, 1, D, seed=3)}
    states = flow(LINEAR, params, X, Y, row(alpha), row(dt), "square", rule)
    return at_time(states, t)


def kernel_flow(t):
    """F(t) = (1 - exp(-K t / n)) y, the flow of the mean square loss of a linear model."""
    return Y - torch.linalg.matrix_exp(-t * (X @ X.T / D) / N) @ Y


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("alpha", [1e-2, 1.0, 1e3])
def test_a_linear_model_follows_kernel_gradient_flow(implicit, alpha, unchecked):
    def error(change):
        state = linear_flow(GradientFlow(1.0, change, implicit), 4.0, alpha)
        return (state.output[0] - kernel_flow(state.t[0])).abs().max().item()

    coarse = error(0.04)
    assert coarse < 0.03
    if alpha == 1:
        assert coarse / error(0.02) == pytest.approx(2, rel=0.3)  # a method of first order


def test_continuous_momentum_relaxes_to_gradient_flow(unchecked):
    def error(mu):
        state = linear_flow(ContinuousMomentum(mu, change=(5e-3, 1e-2)), 4.0)
        return (state.output[0] - kernel_flow(state.t[0])).abs().max().item()

    assert error(1e4) < 0.02 < 0.05 < error(3.0)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_network_follows_gradient_flow(implicit, unchecked):
    params, alpha, rule = network(0), row(0.5), GradientFlow(1e-2, 0.02, implicit)
    state = at_time(flow(NET, params, X, Y, alpha, row(1e-4), "soft_hinge", rule), 0.5)
    problem = Problem.start(NET, params, X, Y, alpha, "soft_hinge")
    want = exact_flow(problem, params, state.t[0].item())
    assert want.abs().max() > 0.3
    close(state.output[0], want, times=0.03, order=0)


def test_momentum_forgets_exponentially():
    rule, params = ContinuousMomentum(mu=10.0), network(0)
    point = Problem.start(NET, params, X, Y, row(1), "square").at(params, False)
    moved, velocity = rule.propose(point, rule.init(params), row(2.0), row(0.1))
    want = {k: -(1 - np.exp(-10 * 0.1 / 2)) * g for k, g in point.gradient.items()}
    all_close(velocity, want)
    all_close(moved, {k: params[k] + 0.1 * velocity[k] for k in params})
    first, _ = rule.propose(point, rule.init(params), row(0.0), row(0.1))
    assert all(v.isfinite().all() for v in first.values())


def test_explicit_and_implicit_flow_agree_where_they_end(unchecked):
    ends = []
    for rule in GradientFlow(1e-3, 3e-2), GradientFlow(1e-2, 3e-2, implicit=True):
        states = flow(NET, network(0), X, Y, row(1.0), row(1e-4), "soft_hinge", rule)
        *_, end = states
        ends.append(end)
    assert all(bool(end.converged[0]) for end in ends)
    assert ends[0].t[0].item() == pytest.approx(ends[1].t[0].item(), rel=0.05)
    close(ends[1].output, ends[0].output, times=0.03, order=0)
    assert ends[1].step[0] < ends[0].step[0]


def test_large_alpha_is_the_frozen_kernel(unchecked):
    params, (alpha, dt), rule = network(0), (row(1e5), row(1e-4)), GradientFlow(1e-3, 0.02)
    *_, network_end = flow(NET, params, X, Y, alpha, dt, "soft_hinge", rule)
    K = ntk(NET, select(params, 0), X)[..., 0, 0]
    phi, _ = kernels.features(K, K)
    machine, start = models.Linear(N, 1, bias=False), {"weight": torch.zeros(1, 1, N).double()}
    data = phi * N**0.5  # undoes the layer's scale
    *_, kernel_end = flow(machine, start, data, Y, row(1.0), dt, "soft_hinge", rule)
    close(network_end.output, kernel_end.output, times=1e-4, order=0)
    close(network_end.t, kernel_end.t, times=1e-4, order=0)
    moved = {k: network_end.params[k] - params[k] for k in params}
    assert all(v.abs().max() < 1e-3 for v in moved.values())


RULES = {
    "explicit": lambda: GradientFlow(1e-2),
    "implicit": lambda: GradientFlow(1e-2, implicit=True),
    "momentum": lambda: ContinuousMomentum(100.0, change=(1e-2, 5e-2)),
}
ALPHA, DT = row(0.1, 3, 1e3), row(1e-4, 1e-2, 1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_a_stack_trains_like_its_networks(rule, unchecked):
    params = network(0, 1, 2)
    together = last(flow(NET, params, X, Y, ALPHA, DT, "soft_hinge", RULES[rule](), 80))
    for i in range(3):
        one = {k: v[i : i + 1] for k, v in params.items()}
        alpha, dt = ALPHA[i : i + 1], DT[i : i + 1]
        states = flow(NET, one, X, Y, alpha, dt, "soft_hinge", RULES[rule](), 80)
        ((alone, _),) = last(states).values()
        state, place = together[i]
        assert state.step[place] == alone.step[0] and state.converged[place] == alone.converged[0]
        for a, b in ((state.t, alone.t), (state.output, alone.output), (state.loss, alone.loss)):
            close(a[place], b[0], times=100, order=0.5)


def test_networks_leave_the_stack_when_they_are_done(unchecked):
    states = list(flow(NET, network(0, 1, 2), X, Y, ALPHA, DT, rule=RULES["implicit"]()))
    seen = [s.index.tolist() for s in states]
    done = [s.index[s.converged | s.failed].tolist() for s in states]
    for before, gone, after in zip(seen, done, [*seen[1:], []], strict=True):
        assert after == [k for k in before if k not in gone]
    assert seen[0] == [0, 1, 2] and sorted(chain(*done)) == [0, 1, 2]
    assert len({len(s) for s in seen}) == 3  # at different times
    for state, place in last(states).values():
        assert state.converged[place] and not state.failed[place]
        assert (state.output[place] * Y).min() >= 1
    for s in states:
        n = len(s.index)
        assert s.output.shape == (n, N) and {len(v) for v in s.params.values()} == {n}
        assert {len(v) for v in (s.t, s.dt, s.loss, s.step)} == {n}


def test_out_of_steps_is_a_failure():
    states = list(flow(NET, network(0, 1), X, Y, row(1, 1), row(1e-9, 1e-9), max_steps=7))
    assert len(states) == 7
    assert states[-1].failed.tolist() == [True, True] and not states[-2].failed.any()
    assert not states[-1].converged.any()


@pytest.mark.parametrize("rule", RULES)
def test_a_network_that_is_not_finite_fails_alone(rule):
    params = network(0, 1)
    params["readout.weight"][0] = torch.nan
    states = list(flow(NET, params, X, Y, row(1, 1), row(1e-4, 1e-4), rule=RULES[rule]()))
    assert states[0].index.tolist() == [0, 1] and states[0].failed.tolist() == [True, False]
    assert states[1].index.tolist() == [1] and states[-1].converged.tolist() == [True]


def test_the_hinge_ends_where_its_gradient_vanishes():
    rule = GradientFlow(math.inf)  # at its kink the gradient turns by a jump
    *_, end = flow(NET, network(0), X, Y, row(1), row(1e-3), "hinge", rule, 1000)
    assert end.converged.all()


@pytest.mark.parametrize("net", [NET, models.ConvNet(1, 2)], ids=["mlp", "images"])
def test_networks_in_parts_are_those_all_at_once(net, monkeypatch):
    x, alpha = X if net is NET else normal(N, 1, 19, 19), row(1, 2, 3)
    start, params = (models.initialise_stack(net, seeds) for seeds in ([0, 1, 2], [3, 4, 5]))
    problem = Problem.start(net, start, x, Y, alpha, "square")
    other = problem.at(params, False)
    for together in (1, 2):
        monkeypatch.setattr(module, "CACHE", together * problem.layer * len(x))
        assert len(module._parts(3, problem.layer * len(x))) == 4 - together
        found = problem.at(params, False)
        close(Problem.start(net, start, x, Y, alpha, "square").f0, problem.f0)
        points_close(found, other)
        assert all(found.params[name].equal(params[name]) for name in params)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_predictor_begins_at_exactly_zero(factored, dtype, monkeypatch):
    monkeypatch.setattr(module, "CACHE", 2**16)
    net = models.ResNet(300, 50, 3)
    params = models.initialise_stack(net, [0, 1, 2], dtype)
    x, alpha = normal(500, 300).to(dtype), row(1, 2, 3).to(dtype)
    y = x[:, 0].sign()
    problem = Problem.start(net, params, x, y, alpha, "square", factored)
    assert len(module._parts(3, problem.layer * len(x))) == (1 if factored else 3)
    assert (problem.at(params, factored).output == 0).all()


def test_as_many_networks_go_together_as_the_cache_holds(monkeypatch):
    problem = Problem.start(NET, network(0, 1, 2, 3), X, Y, row(1, 1, 1, 1), "square")
    assert problem.layer == 8 * 8  # eight units
    monkeypatch.setattr(module, "CACHE", problem.layer * N)
    assert [len(module._parts(4, problem.layer * n)) for n in (2 * N, N, N / 2, 0)] == [4, 4, 2, 1]


def test_a_gradient_that_is_not_a_number_is_no_minimum():
    g = {"w": row(1, 1).unsqueeze(1)}
    new = {"w": row(float("nan"), 0).unsqueeze(1)}
    size = GradientFlow().size(g, new, row(0, 0))
    assert not size[0] < 1 and size[1] == 0


def test_parameters_without_effect_stay():
    class Idle(models.Linear):
        def __init__(self):
            super().__init__(D, 1)
            self.idle = torch.nn.Parameter(torch.zeros(3))

    params = {"weight": normal(1, 1, D), "bias": normal(1, 1), "idle": normal(1, 3)}
    problem = Problem.start(Idle(), params, X, Y, row(1), "square")
    with torch.no_grad():
        found = problem.at(params, False)
    assert (found.gradient["idle"] == 0).all() and found.gradient["weight"].abs().max() > 0


def test_a_step_into_the_infinite_is_retried():
    states = list(flow(NET, network(0), X, Y, row(1.0), row(1e300), rule=GradientFlow(1e-2)))
    assert states[0].step[0] == 0 and states[-1].converged[0]


@pytest.mark.parametrize("implicit", [True, False])
def test_steps_obey_the_two_tests(implicit, unchecked):
    rule, params = GradientFlow(1e-2, 0.1, implicit), network(0)
    problem = Problem.start(NET, params, X, Y, row(0.5), "soft_hinge")
    before = problem.at(params, False)
    dt, t, step, rejected, grown = row(10.0), row(0.0), 0, 0, 0
    for state in flow(NET, params, X, Y, row(0.5), dt, rule=rule):
        after = problem.at(state.params, False)
        if state.step[0] == step:
            rejected += 1
            assert state.t.equal(t) and after.output.equal(before.output)
            assert (dt / 10 <= state.dt).all() and (state.dt <= 0.84 * dt).all()
        else:
            g, new = flat(before.gradient), flat(after.gradient)
            turn = (g - new).square().sum() / (g.norm() * new.norm())
            moved = (after.output - before.output).abs().max()
            measure = max(turn / 1e-2, moved / 0.1)
            assert measure < 1 + 1e-6 and state.step[0] == step + 1
            close(state.t, t + dt)
            close(state.dt, dt * (0.7 / measure).sqrt().clamp(0.2, 1.3), times=1e6)
            grown += measure < 0.7
        before, dt, t, step = after, state.dt, state.t, state.step[0]
    assert rejected > 3 and grown > 3 and step > 10 and state.converged[0]


# ---- input that cannot be trained on


TWO = models.MLP(D, 8, 2, c=2)
GOOD = {"module": NET, "x": X, "y": Y, "alpha": row(1, 1), "dt": row(1e-4, 1e-4)}
BAD = {
    "loss": ({"loss": "mse"}, "loss must be one of soft_hinge, hinge, square, got 'mse'"),
    "alpha zero": ({"alpha": row(1, 0)}, r"alpha must hold a positive number .* got \[1.0, 0.0\]"),
    "alpha nan": ({"alpha": row(1, np.nan)}, "alpha must hold a positive number"),
    "alpha shape": ({"alpha": row(1)[0]}, "alpha must hold a positive number"),
    "alpha count": ({"alpha": row(1, 1, 1)}, "params must be a stack: one row for each"),
    "one network": ({"params": models.initialise(NET, 0)}, "params must be a stack"),
    "dt": ({"dt": row(0, 1)}, "dt must hold a positive number"),
    "dt count": ({"dt": row(1)}, r"dt must have the shape of alpha, \(2,\)"),
    "labels 0 and 1": ({"y": (Y + 1) / 2}, r"y must hold one label, -1 or \+1, for each of the 6"),
    "labels count": ({"y": Y[:4]}, "y must hold one label"),
    "labels column": ({"y": Y[:, None]}, "y must hold one label"),
    "no examples": ({"x": X[:0], "y": Y[:0]}, r"y is empty, of shape \(0,\)"),
    "no networks": (
        {"params": {k: v[:0] for k, v in network(0).items()}, "alpha": row(), "dt": row()},
        "params are a stack of 0 networks",
    ),
    "x nan": (
        {"x": X.clone().index_fill_(0, torch.tensor([2]), np.nan)},
        "x holds values that are not finite",
    ),
    "outputs": (
        {"module": TWO, "params": models.initialise_stack(TWO, [0, 1])},
        r"outputs must have shape \(b, n, c\) = \(2, 6, 1\), got \(2, 6, 2\)",
    ),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_unusable_input_is_refused_at_the_call(change, message, unchecked):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        flow(**GOOD | {"params": network(0, 1)} | change)
    assert "\n" not in str(error.value)


# ---- passes in single precision, and training on batches


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 30.0])
def test_single_precision_passes_leave_the_flow_as_it_is(scale, unchecked):
    """Weights, margins and steps stay in double precision."""
    alpha, dt = row(scale, scale), row(1e-4, 1e-4)
    rule = GradientFlow(1e-2, 0.1, True)
    single, double = (
        last(flow(NET, network(0, 1), X, Y, alpha, dt, "soft_hinge", rule, 3000, dtype))
        for dtype in (torch.float32, None)
    )
    for i in range(2):
        (a, j), (b, k) = single[i], double[i]
        assert a.converged[j] and b.converged[k] and a.output.dtype == torch.float64
        assert all(v.dtype == torch.float64 for v in a.params.values())
        assert (a.output[j] - b.output[k]).abs().max() < 2e-2
        assert a.t[j] == pytest.approx(b.t[k].item(), rel=2e-2)


def chance():
    return torch.Generator().manual_seed(0)


def test_a_batch_of_all_examples_is_a_step_of_momentum():
    rule, alpha = ContinuousMomentum(10.0, (0.1, 0.3)), row(0.5)
    states = batch_flow(NET, network(0), X, Y, 0.5, chance(), N, "hinge", rule)
    first, second = next(states), next(states)
    here = Problem.start(NET, network(0), X, Y, alpha, "hinge").at(network(0), False)
    start = {k: torch.zeros_like(v) for k, v in network(0).items()}
    want, _ = rule.propose(here, start, row(0.0), second.t)
    assert first.t == 0 and first.output.abs().max() == 0 and second.step == 1
    close(flat(second.params), flat(want))


def test_batches_fit_all_and_later_ones_hold_what_is_not_fitted(monkeypatch, unchecked):
    seen = []
    batch = Problem.batch
    monkeypatch.setattr(Problem, "batch", lambda p, rows: seen.append(rows) or batch(p, rows))
    states = list(batch_flow(NET, network(0), X, Y, 0.5, chance(), 2, max_steps=2000))
    assert states[-1].converged and not states[-1].failed
    left = [int((s.output[0] * Y < 1).sum()) for s in states[:-1]]
    assert sum(map(len, seen)) == sum(left) and max(map(len, seen)) == 2
    *_, lost = batch_flow(NET, network(0), X, Y, 0.5, chance(), 2, max_steps=1)
    assert lost.failed and not lost.converged


def test_batches_of_nothing_and_of_two_networks_are_refused():
    with pytest.raises(ValueError, match="batch must be a whole number, at least 1, got 0"):
        batch_flow(NET, network(0), X, Y, 0.5, chance(), 0)
    with pytest.raises(ValueError, match="params must be a stack"):
        batch_flow(NET, network(0, 1), X, Y, 0.5, chance())
