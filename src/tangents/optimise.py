"""Optimisers with discrete steps, as pure functions on stacks of parameters, and their loop.

A rule is a pair: ``state = rule.init(params)`` and ``params, state = rule.step(params, gradient,
state)``. Rates are one number, or one for each network of the stack, shape (b,).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from tangents.functional import Params, axpy
from tangents.train import Problem


class Rule(NamedTuple):
    """An update rule: its state at the start, and one step of parameters and state."""

    init: Callable[[Params], Any]
    step: Callable[[Params, Params, Any], tuple[Params, Any]]


def gradient_descent(rate: float | Float[Tensor, " b"]) -> Rule:
    """w' = w - rate g. On minibatches: stochastic gradient descent."""
    return Rule(lambda params: (), lambda params, g, state: (_move(params, g, rate), state))


def momentum(rate: float | Float[Tensor, " b"], memory: float = 0.9) -> Rule:
    """Heavy ball: v' = memory v + g, w' = w - rate v' (Polyak 1964, in the scaling of PyTorch)."""
    _require(0 <= memory < 1, f"memory must lie in [0, 1), got {memory}")

    def step(params, g, v):
        v = _blend(memory, v, 1.0, g)
        return _move(params, v, rate), v

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
    _require(all(0 <= m < 1 for m in memory), f"memory must lie in [0, 1), got {memory}")
    keep, keep_square = memory

    def step(params, g, state):
        count = state.count + 1
        mean = _blend(keep, state.mean, 1 - keep, g)
        squares = {k: v.square() for k, v in g.items()}
        square = _blend(keep_square, state.square, 1 - keep_square, squares)
        a, b = 1 - keep**count, 1 - keep_square**count
        direction = {k: (mean[k] / a) / ((square[k] / b).sqrt() + eps) for k in g}
        return _move(params, direction, rate), Moments(count, mean, square)

    return Rule(lambda params: Moments(0, _zeros(params), _zeros(params)), step)


@dataclass(frozen=True)
class Descent:
    """State after `step` updates; output and loss are those of the batch that comes next."""

    step: int
    params: Params  # (b, ...)
    batch: Int[Tensor, " m"]  # which examples, the same for all networks
    output: Float[Tensor, "b m"]  # predictor F on the batch
    loss: Float[Tensor, " b"]  # mean_i l(y_i F_i) / alpha^2
    gradient: Params  # of the loss, (b, ...)


def descend(
    module: nn.Module,
    params: Params,
    x: Tensor,
    y: Float[Tensor, " n"],
    alpha: Float[Tensor, " b"],
    loss: str,
    rule: Rule,
    batch: int | None = None,
    generator: Generator | None = None,
    steps: int = 1000,
) -> Iterator[Descent]:
    """Trains b networks by `steps` updates of F = alpha (f - f0), the predictor of `train.flow`.

    `params` (b, ...) at initialisation, labels y in {-1, +1}, output scales alpha. Each step takes
    `batch` distinct examples, drawn afresh by the `generator`; all examples without. Yields
    steps + 1 states, the first before any update. Raises ValueError for unusable input.
    """
    problem = Problem.start(module, params, x, y, alpha, loss)
    n = len(y)
    _require(steps >= 0, f"steps must be at least 0, got {steps}")
    _require(batch is None or 1 <= batch <= n, f"batch must lie in 1..{n}, got {batch}")
    _require(batch is None or generator is not None, "a batch needs a generator to draw it")
    return updates(problem, params, rule, steps, batch, generator)


def updates(
    problem: Problem,
    params: Params,
    rule: Rule,
    steps: int,
    batch: int | None = None,
    generator: Generator | None = None,
) -> Iterator[Descent]:
    """The loop of `descend` for a problem that is at hand, whatever its f0 is centred on."""
    state = rule.init(params)
    n, rows, part = len(problem.y), torch.arange(len(problem.y), device=problem.y.device), problem
    for step in range(steps + 1):
        if batch is not None:
            drawn = torch.randperm(n, generator=generator, device=generator.device)[:batch]
            rows = drawn.to(problem.y.device)
            x, y, f0 = problem.x[rows], problem.y[rows], problem.f0[:, rows]
            part = replace(problem, x=x, y=y, f0=f0)
        here = part.at(params, factored=False)
        yield Descent(step, params, rows, here.output, here.loss, here.gradient)
        if step < steps:
            params, state = rule.step(params, here.gradient, state)


def _move(params: Params, direction: Params, rate: float | Tensor) -> Params:
    some = next(iter(params.values()))
    rates = torch.as_tensor(rate, dtype=some.dtype, device=some.device).expand(len(some))
    return axpy(-rates, direction, params)


def _blend(p: float, x: Params, q: float, y: Params) -> Params:
    return {k: p * x[k] + q * y[k] for k in x}


def _zeros(params: Params) -> Params:
    return {k: torch.zeros_like(v) for k, v in params.items()}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"optimise: {message}")
