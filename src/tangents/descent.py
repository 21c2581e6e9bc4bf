"""Optimisers with discrete steps, as pure functions on stacks of parameters, and their loop.

A rule is a pair: ``state = rule.init(params)`` and ``params, state = rule.step(here, state)``;
`here` is what a batch gives at the parameters: outputs, loss, gradient, and the factored Jacobian
if the rule asks for it. Rates are one number, or one for each network of the stack, shape (b,).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from tangents import checks
from tangents.curvature import gauss_newton
from tangents.functional import Params, axpy, require, select, stacked
from tangents.losses import OutputLoss
from tangents.problem import Point, Problem


class Rule(NamedTuple):
    """An update rule: its state at the start, and one step of parameters and state."""

    init: Callable[[Params], Any]
    step: Callable[["Batch", Any], tuple[Params, Any]]
    factored: bool = False  # whether a step needs the Jacobian


class Batch(NamedTuple):
    """What a rule sees: the problem on the examples of this step, and its evaluation."""

    problem: Problem
    point: Point

    @property
    def params(self) -> Params:
        return self.point.params

    @property
    def gradient(self) -> Params:
        return self.point.gradient


def gradient_descent(rate: float | Float[Tensor, " b"]) -> Rule:
    """w' = w - rate g. On minibatches: stochastic gradient descent."""
    checks.rates("rate", rate, zero=True)
    return Rule(lambda _: (), lambda here, state: (_move(here.params, here.gradient, rate), state))


def momentum(rate: float | Float[Tensor, " b"], memory: float = 0.9) -> Rule:
    """Heavy ball: v' = memory v + g, w' = w - rate v' (Polyak 1964, in the scaling of PyTorch)."""
    require(0 <= memory < 1, f"memory must lie in [0, 1), got {memory}")
    checks.rates("rate", rate, zero=True)

    def step(here, v):
        v = _blend(memory, v, 1.0, here.gradient)
        return _move(here.params, v, rate), v

    return Rule(_zeros, step)


class Moments(NamedTuple):
    """What Adam remembers."""

    count: int
    mean: Params
    square: Params


def adam(
    rate: float | Float[Tensor, " b"] = 1e-3,
    memory: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Rule:
    """w' = w - rate m / (sqrt(s) + eps), m and s running means of g and g^2, bias-corrected.

    Source: Kingma & Ba (2015), algorithm 1.
    """
    require(all(0 <= m < 1 for m in memory), f"memory must lie in [0, 1), got {memory}")
    checks.rates("rate", rate, zero=True)
    checks.number("eps", eps)
    keep, keep_square = memory

    def step(here, state):
        g, count = here.gradient, state.count + 1
        mean = _blend(keep, state.mean, 1 - keep, g)
        squares = {k: v.square() for k, v in g.items()}
        square = _blend(keep_square, state.square, 1 - keep_square, squares)
        a, b = 1 - keep**count, 1 - keep_square**count
        direction = {k: (mean[k] / a) / ((square[k] / b).sqrt() + eps) for k in g}
        return _move(here.params, direction, rate), Moments(count, mean, square)

    return Rule(lambda params: Moments(0, _zeros(params), _zeros(params)), step)


def gauss_newton_descent(
    rate: float | Float[Tensor, " b"] = 1.0, damping: float = 0.0, **options: Any
) -> Rule:
    """w' = w + rate d, d the Gauss-Newton step of minimum norm on F = alpha (f - f0).

    For an `OutputLoss`; `damping` stands beside the Gauss-Newton matrix of the sum over examples,
    and `options` go to `curvature.gauss_newton`. Source: Buffelli et al. (2024), section 3.
    """
    checks.rates("rate", rate, zero=True)
    checks.number("damping", damping)

    def step(here, state):
        problem, J = here.problem, here.point.jacobian
        require(isinstance(problem.loss, OutputLoss), "gauss_newton_descent needs an OutputLoss")
        eye = torch.eye(J.value.shape[-1], dtype=J.value.dtype, device=J.value.device)
        scale = problem.alpha.view(-1, 1, 1, 1) * eye
        J = J.left_multiply(scale.expand(*J.value.shape, -1))
        J = replace(J, value=here.point.output)  # of F
        y = problem.y.expand_as(J.value)
        direction = gauss_newton(J, y, problem.loss, damping=damping, **options).params
        return _move(here.params, direction, -torch.as_tensor(rate)), state

    return Rule(lambda _: (), step, factored=True)


@dataclass(frozen=True)
class Descent:
    """State after `step` updates; output and loss are those of the batch that comes next."""

    step: int
    params: Params  # (b, ...)
    batch: Int[Tensor, " m"]  # which examples, the same for all networks
    output: Float[Tensor, "b m *c"]  # predictor F on the batch
    loss: Float[Tensor, " b"]  # mean_i l(F_i, y_i) / alpha^2
    gradient: Params  # of the loss, (b, ...)
    memory: Any = ()  # what the rule remembers: handed to `updates`, it goes on from here


def draws(n: int, size: int, generator: Generator) -> Iterator[Int[Tensor, " m"]]:
    """Batches of `size` distinct examples out of n, each drawn afresh, without end."""
    _require_batches(n, size, generator)
    return (_shuffled(n, generator)[:size] for _ in iter(int, 1))


def epochs(n: int, size: int, generator: Generator) -> Iterator[Int[Tensor, " m"]]:
    """Batches of `size` in which each of n examples comes once an epoch, without end.

    The last batch of an epoch holds what is left.
    """
    _require_batches(n, size, generator)
    return (rows for _ in iter(int, 1) for rows in _shuffled(n, generator).split(size))


def descend(
    module: nn.Module,
    params: Params,
    x: Tensor,
    y: Float[Tensor, " n *c"],
    alpha: Float[Tensor, " b"],
    loss: str | OutputLoss,
    rule: Rule,
    batches: Iterable[Int[Tensor, " m"]] | None = None,
    steps: int = 1000,
) -> Iterator[Descent]:
    """Trains b networks by `steps` updates of F = alpha (f - f0), see `problem.Problem`.

    `params` (b, ...) at initialisation, output scales alpha; labels y in {-1, +1} with the name of
    a margin loss, or targets (n, c) with an `OutputLoss`. Each step takes the next of `batches`, as
    `draws` or `epochs` give them; all examples without. Yields steps + 1 states, each with a batch,
    the first before any update. Raises ValueError for unusable input.
    """
    checks.kind("rule", rule, Rule)
    problem = Problem.start(module, params, x, y, alpha, loss, rule.factored)
    checks.whole("steps", steps)
    return updates(problem, params, rule, steps, batches)


def updates(
    problem: Problem,
    params: Params,
    rule: Rule,
    steps: int,
    batches: Iterable[Int[Tensor, " m"]] | None = None,
    memory: Any = None,
) -> Iterator[Descent]:
    """The loop of `descend` for a problem that is at hand, whatever its f0 is centred on.

    With the `memory` of an earlier state it goes on from there; without, the rule begins afresh.
    """
    b, found = len(problem.alpha), stacked(problem.module, params)
    require(found == b, f"params must be a stack of the problem's {b} networks, got {found or 1}")
    memory = rule.init(params) if memory is None else memory
    coming = None if batches is None else iter(batches)
    rows, part = torch.arange(len(problem.y), device=problem.y.device), problem
    for step in range(steps + 1):
        if coming is not None:
            rows = next(coming, None)
            require(rows is not None, f"the batches end after {step}: {steps + 1} are needed")
            checks.rows(rows, len(problem.y))
            rows = rows.to(problem.y.device)
            part = problem.batch(rows)
        here = part.at(params, rule.factored)
        yield Descent(step, params, rows, here.output, here.loss, here.gradient, memory)
        if step < steps:
            params, memory = rule.step(Batch(part, here), memory)


def leaving(
    problem: Problem,
    params: Params,
    rule: Callable[[Int[Tensor, " k"]], Rule],
    steps: int,
    done: Callable[[Int[Tensor, " k"], Descent], Bool[Tensor, " k"]],
) -> Iterator[tuple[Int[Tensor, " k"], Descent]]:
    """`updates` on all examples, of a stack that each network leaves when it is done.

    Yields the places (k,) of those that are still there, and their state. `done` says of a state
    whose last it is; `rule` gives the rule of the networks at these places, one without memory.
    """
    live, step = torch.arange(len(problem.alpha), device=problem.y.device), -1
    while len(live):
        before = max(step, 0)
        for state in updates(problem.select(live), params, rule(live), steps - before):
            state = replace(state, step=before + state.step)
            if state.step == step:  # known already, to more networks
                continue
            step = state.step
            yield live, state
            gone = done(live, state)
            if gone.any():
                break
        else:
            return
        rest = (~gone).nonzero().flatten()
        live, params = live[rest], select(state.params, rest)


def _require_batches(n: int, size: int, generator: Generator) -> None:
    checks.whole("n", n, 1)
    checks.whole("the size of a batch", size)
    require(1 <= size <= n, f"a batch must hold 1 to {n} examples, got {size}")
    checks.kind("generator", generator, Generator)


def _shuffled(n: int, generator: Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device)


def _move(params: Params, direction: Params, rate: float | Tensor) -> Params:
    some = next(iter(params.values()))
    rates = torch.as_tensor(rate, dtype=some.dtype, device=some.device)
    fits = rates.dim() == 0 or rates.shape == (len(some),)
    require(fits, f"a rate must be a number, or ({len(some)},), got {tuple(rates.shape)}")
    rates = rates.expand(len(some))
    return axpy(-rates, direction, params)


def _blend(p: float, x: Params, q: float, y: Params) -> Params:
    return {k: p * x[k] + q * y[k] for k in x}


def _zeros(params: Params) -> Params:
    return {k: torch.zeros_like(v) for k, v in params.items()}
