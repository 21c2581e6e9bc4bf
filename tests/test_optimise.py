"""Discrete optimisers against those of PyTorch, and their loop against gradient flow."""

from itertools import chain

import pytest
import torch
from torch import Generator

from tangents import models, optimise
from tangents.functional import select
from tangents.train import Problem
from tests.cases import all_close, close, exact_flow, like, normal

N, D = 6, 4
X = normal(N, D, seed=2)
Y = torch.where(X[:, 0] > 0, 1.0, -1.0).double()
NET = models.MLP(D, 8, 2)


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


RATES = row(0.05, 0.2)
RULES = {
    "gd": (optimise.gradient_descent, lambda p, lr: torch.optim.SGD(p, lr)),
    "momentum": (
        lambda rate: optimise.momentum(rate, 0.8),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.8),
    ),
    "adam": (
        lambda rate: optimise.adam(rate, (0.8, 0.95), 1e-3),
        lambda p, lr: torch.optim.Adam(p, lr, (0.8, 0.95), 1e-3),
    ),
    "adam, defaults": (lambda rate: optimise.adam(), lambda p, lr: torch.optim.Adam(p)),
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
        new, state = rule.step(params, gradient, state)
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
    return optimise.descend(NET, params, X, Y, alpha, "soft_hinge", rule, **options)


def test_small_steps_approach_gradient_flow():
    params, alpha = models.initialise_stack(NET, [0]), row(2.0)
    want = exact_flow(Problem.start(NET, params, X, Y, alpha, "soft_hinge"), params, 0.5)

    def error(steps):
        rule = optimise.gradient_descent(0.5 / steps)
        *_, end = descent(rule, alpha, seeds=(0,), steps=steps)
        return (end.output[0] - want).norm().item()

    assert error(200) < 0.01 * want.norm()
    assert error(20) / error(80) == pytest.approx(4, rel=0.3)  # of first order, like Euler's


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("batch", [None, 2])
def test_a_stack_is_its_networks(name, batch):
    alpha = row(0.5, 20)

    def run(rates, seeds, alpha):
        drawn = Generator().manual_seed(3) if batch else None
        rule = RULES[name][0](rates)
        return list(descent(rule, alpha, seeds, batch=batch, generator=drawn, steps=5))

    together = run(RATES, (0, 1), alpha)
    for i in range(2):
        singles = run(RATES[i : i + 1], (i,), alpha[i : i + 1])
        for state, alone in zip(together, singles, strict=True):
            assert state.batch.equal(alone.batch)
            close(state.loss[i], alone.loss[0], times=1e5)
            all_close(select(state.params, i), select(alone.params, 0), times=1e5)


def test_states_count_the_updates_and_the_loss_falls():
    states = list(descent(optimise.gradient_descent(0.1), steps=10))
    assert [s.step for s in states] == list(range(11))
    assert states[0].output.abs().max() == 0  # centred
    close(states[0].loss, torch.ones(2).double(), times=1e-8, order=0)
    assert (states[-1].loss < states[0].loss).all()
    assert torch.equal(states[0].params["readout.bias"], torch.zeros(2, 1))


def test_batches_are_distinct_examples_drawn_by_the_generator():
    def batches(seed):
        drawn = Generator().manual_seed(seed)
        rule = optimise.gradient_descent(0.0)
        return [s.batch.tolist() for s in descent(rule, batch=3, generator=drawn, steps=40)]

    torch.manual_seed(0)
    first = batches(1)
    torch.manual_seed(1)
    assert first == batches(1) != batches(2)
    assert all(len(set(b)) == 3 for b in first) and set(chain(*first)) == set(range(N))


def test_a_batch_sees_its_own_labels_and_start():
    rule, drawn = optimise.gradient_descent(0.5), Generator().manual_seed(0)
    full = list(descent(rule, batch=N, generator=drawn, steps=5))
    for state, other in zip(full, descent(rule, steps=5), strict=True):
        close(state.output, other.output[:, state.batch])  # the order alone differs
        close(state.loss, other.loss)


BAD = {
    "no generator": ({"batch": 2}, "optimise: a batch needs a generator"),
    "batch": ({"batch": 7, "generator": Generator()}, "optimise: batch must lie in 1..6, got 7"),
    "steps": ({"steps": -1}, "optimise: steps must be at least 0, got -1"),
    "alpha": ({"alpha": row(1, -1)}, "train: alpha must hold a positive number"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_unusable_input_is_refused_at_the_call(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        descent(optimise.gradient_descent(0.1), **options)


@pytest.mark.parametrize("build", [optimise.momentum, lambda r, m: optimise.adam(r, (0.9, m))])
def test_a_memory_without_end_is_refused(build):
    with pytest.raises(ValueError, match=r"^optimise: memory must lie in \[0, 1\), got"):
        build(0.1, 1.0)
