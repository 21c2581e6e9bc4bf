"""Discrete optimisers against those of PyTorch, their loop against gradient flow and autograd."""

from itertools import chain, islice
from typing import NamedTuple

import pytest
import torch
from torch import Generator, nn
from torch.func import functional_call, grad, jacrev

from tangents import descent as module
from tangents import models
from tangents.functional import select
from tangents.losses import CROSS_ENTROPY, SQUARED
from tangents.problem import Problem
from tests.cases import all_close, close, exact_flow, flat, like, normal

N, D = 6, 4
X = normal(N, D, seed=2)
Y = torch.where(X[:, 0] > 0, 1.0, -1.0).double()
NET = models.MLP(D, 8, 2)


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


class At(NamedTuple):
    """What rules see of a batch that need no more than its gradient."""

    params: dict
    gradient: dict


RATES = row(0.05, 0.2)
RULES = {
    "gd": (module.gradient_descent, lambda p, lr: torch.optim.SGD(p, lr)),
    "momentum": (
        lambda rate: module.momentum(rate, 0.8),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8),
    ),
    "adam": (
        lambda rate: module.adam(rate, (0.8, 0.95), 1e-3),
        lambda p, lr: torch.optim.Adam(p, lr, (0.8, 0.95), 1e-3),
    ),
    "adam, defaults": (lambda rate: module.adam(), lambda p, lr: torch.optim.Adam(p)),
}


@pytest.mark.parametrize("ours, theirs", RULES.values(), ids=RULES)
def test_rules_are_those_of_torch(ours, theirs):
    params = models.initialise_stack(NET, [0, 1])
    leaves = [{k: v.clone() for k, v in select(params, i).items()} for i in range(2)]
    others = [theirs([*leaves[i].values()], RATES[i].item()) for i in range(2)]
    rule = ours(RATES)
    state = rule.init(params)
    for step in range(6):
        gradient = like(params, seed=step)
        given = {k: v.clone() for k, v in params.items()}
        new, state = rule.step(At(params, gradient), state)
        assert all(torch.equal(given[k], params[k]) for k in given)  # pure
        params = new
        for i, other in enumerate(others):
            for k, leaf in leaves[i].items():
                leaf.grad = gradient[k][i]
            other.step()
            all_close(select(params, i), leaves[i])


def descent(rule, alpha=None, seeds=(0, 1), **options):
    params = models.initialise_stack(NET, list(seeds))
    alpha = row(*[1.0] * len(seeds)) if alpha is None else alpha
    return module.descend(NET, params, X, Y, alpha, "soft_hinge", rule, **options)


def test_small_steps_approach_gradient_flow():
    params, alpha = models.initialise_stack(NET, [0]), row(2.0)
    want = exact_flow(Problem.start(NET, params, X, Y, alpha, "soft_hinge"), params, 0.5)

    def error(steps):
        rule = module.gradient_descent(0.5 / steps)
        *_, end = descent(rule, alpha, seeds=(0,), steps=steps)
        return (end.output[0] - want).norm().item()

    assert error(200) < 0.01 * want.norm()
    assert error(20) / error(80) == pytest.approx(4, rel=0.3)  # of first order, like Euler's


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("batch", [None, 2])
def test_a_stack_is_its_networks(name, batch):
    alpha = row(0.5, 20)

    def run(rates, seeds, alpha):
        rows = module.draws(N, batch, Generator().manual_seed(3)) if batch else None
        return list(descent(RULES[name][0](rates), alpha, seeds, batches=rows, steps=5))

    together = run(RATES, (0, 1), alpha)
    for i in range(2):
        singles = run(RATES[i : i + 1], (i,), alpha[i : i + 1])
        for state, alone in zip(together, singles, strict=True):
            assert state.batch.equal(alone.batch)
            close(state.loss[i], alone.loss[0], times=1e5)
            all_close(select(state.params, i), select(alone.params, 0), times=1e5)


@pytest.mark.parametrize("rule", [module.momentum(0.1), module.adam(0.1)], ids=["ball", "adam"])
def test_a_training_that_is_resumed_is_the_training(rule):
    """From the parameters and the memory of an earlier state."""
    params = models.initialise_stack(NET, [0, 1])
    problem = Problem.start(NET, params, X, Y, row(1, 2), "square")
    whole = list(module.updates(problem, params, rule, 6))
    rest = list(module.updates(problem, whole[2].params, rule, 4, memory=whole[2].memory))
    for state, again in zip(whole[2:], rest, strict=True):
        all_close(state.params, again.params, times=0)
    afresh = list(module.updates(problem, whole[2].params, rule, 4))
    assert (afresh[-1].loss != whole[-1].loss).all()


def test_states_count_the_updates_and_the_loss_falls():
    states = list(descent(module.gradient_descent(0.1), steps=10))
    assert [s.step for s in states] == list(range(11))
    assert states[0].output.abs().max() == 0  # centred
    close(states[0].loss, torch.ones(2).double(), times=1e-8, order=0)
    assert (states[-1].loss < states[0].loss).all()
    assert torch.equal(states[0].params["readout.bias"], torch.zeros(2, 1))


def test_batches_are_distinct_examples_drawn_by_the_generator():
    def batches(seed):
        rows = module.draws(N, 3, Generator().manual_seed(seed))
        rule = module.gradient_descent(0.0)
        return [s.batch.tolist() for s in descent(rule, batches=rows, steps=40)]

    torch.manual_seed(0)
    first = batches(1)
    torch.manual_seed(1)
    assert first == batches(1) != batches(2)
    assert all(len(set(b)) == 3 for b in first) and set(chain(*first)) == set(range(N))


def test_a_batch_sees_its_own_labels_and_start():
    rule, rows = module.gradient_descent(0.5), module.draws(N, N, Generator().manual_seed(0))
    full = list(descent(rule, batches=rows, steps=5))
    for state, other in zip(full, descent(rule, steps=5), strict=True):
        close(state.output, other.output[:, state.batch])  # the order alone differs
        close(state.loss, other.loss)


BAD = {
    "steps": ({"steps": -1}, "steps must be a whole number, at least 0, got -1"),
    "alpha": ({"alpha": row(1, -1)}, "alpha must hold a positive number"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_unusable_input_is_refused_at_the_call(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        descent(module.gradient_descent(0.1), **options)


@pytest.mark.parametrize("build", [module.momentum, lambda r, m: module.adam(r, (0.9, m))])
def test_a_memory_without_end_is_refused(build):
    with pytest.raises(ValueError, match=r"^memory must lie in \[0, 1\), got"):
        build(0.1, 1.0)


@pytest.mark.parametrize("batches", [module.draws, module.epochs])
def test_a_batch_larger_than_the_data_is_refused(batches):
    with pytest.raises(ValueError, match="a batch must hold 1 to 6 examples, got 7"):
        batches(N, 7, Generator())


def test_an_epoch_sees_each_example_once():
    rows = [b.tolist() for b in islice(module.epochs(N, 4, Generator().manual_seed(0)), 6)]
    assert [len(b) for b in rows] == [4, 2] * 3
    assert all(sorted(rows[i] + rows[i + 1]) == list(range(N)) for i in (0, 2, 4))
    assert rows[:2] != rows[2:4]


def test_a_parameter_that_is_missing_is_named():
    params = models.initialise_stack(NET, [0, 1])
    del params["readout.bias"]
    with pytest.raises(ValueError, match=r"^params lack 'readout.bias'"):
        module.descend(NET, params, X, Y, row(1, 1), "square", module.gradient_descent(0.1))


# ---- several outputs

WIDE = models.MLP(D, 8, 2, c=3)
TARGETS = torch.eye(3, dtype=torch.float64)[torch.arange(N) % 3]
OUTPUT_LOSSES = {"squared": SQUARED, "cross-entropy": CROSS_ENTROPY}


def loss_of(params, params0, alpha, name):
    """The loss of one network, by torch's own functions."""
    F = alpha * (functional_call(WIDE, params, (X,)) - functional_call(WIDE, params0, (X,)))
    if name == "squared":
        return ((F - TARGETS) ** 2).sum(1).mean() / 2 / alpha**2
    return torch.nn.functional.cross_entropy(F, TARGETS) / alpha**2


@pytest.mark.parametrize("name", OUTPUT_LOSSES)
def test_losses_of_several_outputs_are_those_of_torch(name):
    params, start = (models.initialise_stack(WIDE, seeds) for seeds in ([2, 3], [0, 1]))
    alpha = row(0.5, 4)
    problem = Problem.start(WIDE, start, X, TARGETS, alpha, OUTPUT_LOSSES[name])
    for factored in (False, True):
        point = problem.at(params, factored)
        for i in range(2):
            one, zero = select(params, i), select(start, i)
            want = grad(loss_of)(one, zero, alpha[i], name)
            close(point.loss[i], loss_of(one, zero, alpha[i], name))
            all_close(select(point.gradient, i), want)


@pytest.mark.parametrize("alpha", [row(1, 1), row(0.3, 5)])
def test_a_gauss_newton_step_is_that_of_the_linear_model(alpha):
    """It fits the linearised predictor to the targets, with the least change of the weights."""
    params = models.initialise_stack(WIDE, [0, 1])
    rule = module.gauss_newton_descent()
    _, second = module.descend(WIDE, params, X, TARGETS, alpha, SQUARED, rule, steps=1)
    for i in range(2):
        one = select(params, i)
        rows = jacrev(lambda p: functional_call(WIDE, p, (X,)))(one)
        J = alpha[i] * flat(rows, 2).flatten(0, 1)
        want = torch.linalg.pinv(J) @ TARGETS.flatten()
        moved = flat(select(second.params, i)) - flat(one)
        close(moved, want, order=0.7)


def test_damped_gauss_newton_of_any_loss_solves_its_normal_equations():
    params, alpha = models.initialise_stack(WIDE, [0]), row(2.0)
    rule = module.gauss_newton_descent(0.5, damping=0.3)
    first, second = module.descend(WIDE, params, X, TARGETS, alpha, CROSS_ENTROPY, rule, steps=1)
    one = select(params, 0)
    J = 2.0 * flat(jacrev(lambda p: functional_call(WIDE, p, (X,)))(one), 2)
    p = torch.softmax(first.output[0], -1)
    H = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    G = torch.einsum("ncp,ncd,ndq->pq", J, H, J) + 0.3 * torch.eye(J.shape[-1]).double()
    g = torch.einsum("ncp,nc->p", J, p - TARGETS)
    moved = flat(select(second.params, 0)) - flat(one)
    close(moved, -0.5 * torch.linalg.solve(G, g), order=0.7)


def test_gauss_newton_wants_a_loss_of_outputs():
    params, rule = models.initialise_stack(NET, [0]), module.gauss_newton_descent()
    states = module.descend(NET, params, X, Y, row(1), "square", rule, steps=1)
    next(states)
    with pytest.raises(ValueError, match="needs an OutputLoss"):
        next(states)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (TARGETS[:4], "y must hold finite targets"),
        (TARGETS[:, 0], "y must hold finite targets"),
        (TARGETS * torch.nan, "y must hold finite targets"),
        (TARGETS[:, :2], r"outputs must have shape \(b, n, c\) = \(1, 6, 2\), got \(1, 6, 3\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(y, message):
    params = models.initialise_stack(WIDE, [0])
    with pytest.raises(ValueError, match=f"^{message}"):
        Problem.start(WIDE, params, X, y, row(1), SQUARED)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([torch.arange(3)] * 2, "the batches end after 2: 4 are needed"),
        ([torch.arange(0)] * 4, "a batch must be a vector of row numbers"),
        ([torch.ones(N, dtype=torch.bool)] * 4, "a batch must be a vector of row numbers"),
    ],
)
def test_batches_that_cannot_be_used_are_refused(batches, message, unchecked):
    with pytest.raises(ValueError, match=message):
        list(descent(module.gradient_descent(0.1), batches=batches, steps=3))


def test_networks_of_torchs_own_layers_train_as_those_of_this_package():
    ours = models.MLP(D, 8, 1, c=3, activation="tanh", bias=False)
    theirs = nn.Sequential(nn.Linear(D, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))
    start = models.initialise_stack(ours, [0, 1])
    scales = {"hidden.0.weight": D**-0.5, "readout.weight": 8**-0.5}
    mine = {"0.weight": start["hidden.0.weight"] * scales["hidden.0.weight"],
            "2.weight": start["readout.weight"] * scales["readout.weight"]}  # fmt: skip
    rule, alpha = module.gauss_newton_descent(0.3, damping=0.1), row(1, 2)
    *_, end = module.descend(theirs, mine, X, TARGETS, alpha, SQUARED, rule, steps=2)
    for i in range(2):
        one = {k: v[i : i + 1] for k, v in mine.items()}
        given = theirs, one, X, TARGETS, alpha[i : i + 1], SQUARED, rule
        *_, alone = module.descend(*given, steps=2)
        close(end.output[i], alone.output[0], times=1e5)
    first = next(module.descend(theirs, mine, X, TARGETS, alpha, SQUARED, rule, steps=1))
    want = next(module.descend(ours, start, X, TARGETS, alpha, SQUARED, rule, steps=1))
    close(first.loss, want.loss)
    for name, scale in zip(("0.weight", "2.weight"), scales.items(), strict=True):
        close(first.gradient[name] * scale[1], want.gradient[scale[0]])


def test_networks_leave_a_stack_when_they_are_done():
    """Each is, until it goes, what it is in a stack that all stay in; the last step ends it."""
    rates, params = row(0.05, 0.5, 0.2), models.initialise_stack(NET, [0, 1, 2])
    problem = Problem.start(NET, params, X, Y, row(1, 1, 1), "square")
    goals, left = [0.45, 0.3, 1e-9], {}
    whole = list(module.updates(problem, params, module.gradient_descent(rates), 30))

    def rule(live):
        return module.gradient_descent(rates[live])

    def done(live, state):
        return state.loss < row(*goals)[live]

    steps = []
    for live, state in module.leaving(problem, params, rule, 30, done):
        steps.append(state.step)
        close(state.loss, whole[state.step].loss[live])
        all_close(state.params, select(whole[state.step].params, live))
        left |= dict.fromkeys(live.tolist(), state.step)
    want = [next(s.step for s in whole if s.loss[i] < goals[i] or s.step == 30) for i in range(3)]
    assert steps == list(range(31)) and [left[i] for i in range(3)] == want
    assert len(set(want)) == 3 and want[2] == 30
