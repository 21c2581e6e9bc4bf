"""Gradient flow of many networks at once, as a generator: it yields its state, and measurement
stays outside the loop.

It takes stacks: tensors (b, ...) for b networks that train side by side, each with its own step
size, time and stopping point; one network is a stack of length one. Networks that are done leave
the stack, so that the slow ones do not pay for the fast ones.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from tangents import checks
from tangents.functional import (
    Params,
    axpy,
    difference,
    inner,
    norm,
    require,
    select,
    stacked,
    where,
)
from tangents.problem import Point, Problem, cast

SHORTEST = 1e-30  # step, in units of training time, below which a flow has come to a halt
SINGLE = 1e4  # largest trace of dt H at which single precision serves an implicit step


@dataclass(frozen=True)
class Flow:
    """State of an adaptive integration after one attempted step, b networks still in the stack."""

    index: Int[Tensor, " b"]  # which of the networks handed in these are
    params: Params  # (b, ...)
    output: Float[Tensor, "b n"]  # predictor on the training set
    loss: Float[Tensor, " b"]  # mean_i l(y_i F_i) / alpha^2
    t: Float[Tensor, " b"]  # training time, in units of the loss's gradient flow
    dt: Float[Tensor, " b"]
    step: Int[Tensor, " b"]  # accepted steps
    converged: Bool[Tensor, " b"]  # every training point has margin >= 1
    failed: Bool[Tensor, " b"]  # out of steps, not finite, no gradient left, or dt below SHORTEST


class GradientFlow:
    """dw/dt = -grad L by steps that must pass the two tests of Geiger et al. (2020), section 2.3.

    A step is accepted if |g - g'|^2 / (|g| |g'|) < tolerance and max_i |F_i' - F_i| < change, else
    tried again with a shorter one. Where their code divides by ten and multiplies by 1.1, the next
    step aims at seven tenths of the nearer bound, which takes fewer steps and fewer trials.

    Their step is Euler's. Near the end of training the flow is stiff and Euler is held at
    2 / (largest curvature) although the solution hardly moves. With `implicit`, the step is the
    linearly implicit Euler step w' = w - dt (1 + dt H)^-1 g, H the Gauss-Newton matrix of the loss
    (a W-method of order one, Steihaug & Wolfbrandt 1979), solved through the tangent kernel of the
    examples that carry the stiffness; without any, it is Euler's again.
    """

    def __init__(self, tolerance: float = 1e-4, change: float = 0.1, implicit: bool = False):
        if tolerance != math.inf:  # then the change of the outputs decides alone, as for ReLU
            checks.number("tolerance", tolerance, above=True)
        checks.number("change", change, above=True)
        self.tolerance, self.change, self.implicit = tolerance, change, implicit

    def init(self, params: Params) -> Params:
        return {}

    def propose(self, here: Point, memory: Params, t: Tensor, dt: Tensor):
        if not self.implicit:
            return axpy(-dt, here.gradient, here.params), memory
        return axpy(-dt, implicit_direction(here, dt), here.params), memory

    def size(self, g, g_new, moved):
        """Larger of the two measures in units of its bound, (b,): a step is accepted below one."""
        turn, ends = difference(g, g_new), norm(g) * norm(g_new)
        turn = torch.where(ends == 0, 0, inner(turn, turn) / ends)  # at a minimum, no direction
        return torch.maximum(turn / self.tolerance, moved / self.change)

    def resize(self, size):
        """Factor (b,) from one step to the next, given the size of this one."""
        return (0.7 / size).sqrt().clamp(0.2, 1.3).nan_to_num(0.1)


class ContinuousMomentum:
    """dv/dt = -(mu / t) (v + grad L), dw/dt = v: a momentum whose memory is t / mu.

    v relaxes exponentially towards -grad L within a step, which is exact while the gradient is
    constant. max_i |F_i' - F_i| stays below the second number of `change` in a step; where it was
    below the first the next step is longer. Source: Geiger et al. (2019, v1), section 2, mu = 1000
    for fully connected networks.
    """

    implicit = False

    def __init__(self, mu: float = 1000.0, change: tuple[float, float] = (1e-4, 1e-2)):
        checks.number("mu", mu, above=True)
        require(0 < change[0] <= change[1] < math.inf, f"change must be two positive numbers in "
                f"order, got {change}")  # fmt: skip
        self.mu, self.change, self.grow_below = mu, change[1], change[0] / change[1]

    def init(self, params: Params) -> Params:
        """The velocity of each network."""
        return {k: torch.zeros_like(v) for k, v in params.items()}

    def propose(self, here: Point, memory: Params, t: Tensor, dt: Tensor):
        lost = torch.expm1(-self.mu * dt / torch.where(t > 0, t, dt))
        velocity = axpy(lost, here.gradient, axpy(lost, memory, memory))
        return axpy(dt, velocity, here.params), velocity

    def size(self, g, g_new, moved):
        return moved / self.change

    def resize(self, size):
        return torch.where(size < 1, torch.where(size < self.grow_below, 1.1, 1.0), 0.1)


def implicit_direction(here: Point, dt: Float[Tensor, " b"]) -> Params:
    """(1 + dt H)^-1 g for each network, H = J^T D J and D the stiffness, by Woodbury's identity.

    Examples whose dt D_i |J_i|^2 sum to less than 0.1 are left out, smallest first: a step is
    stable without them. While all of them sum to less than `SINGLE` the matrix of the others,
    1 + dt D^1/2 J J^T D^1/2, is formed and factored in single precision: its rounding is then far
    below its smallest eigenvalue, 1, and the order of a W-method holds for any such matrix. So it
    does for a Jacobian in single precision, whose products are then summed in double.
    """
    J, g = here.jacobian, here.gradient
    narrow, wide = J.value.dtype, here.output.dtype
    weight = dt[:, None] * here.stiffness * J.diagonal()[..., 0]
    ranked, order = weight.sort(descending=True)
    count = (ranked.flip(-1).cumsum(-1).flip(-1) > 0.1).sum(-1).tolist()
    if not any(count):
        return g
    found, single = [], (weight.sum(-1) < SINGLE).tolist()
    for i, k in enumerate(count):
        rows = order[i, :k]
        J_i, root = J.map(lambda v, i=i, rows=rows: v[i, rows]), here.stiffness[i, rows].sqrt()
        slope = J_i.jvp(cast(select(g, i), narrow))[:, 0]
        M = J_i.map(_to(torch.float32 if single[i] else wide)).gram(outputs="trace")
        M.mul_((dt[i] * root[:, None] * root).to(M)).diagonal().add_(1)
        solved = torch.cholesky_solve((root * slope)[:, None].to(M), torch.linalg.cholesky(M))
        found.append(J_i.vjp(((dt[i] * root)[:, None] * solved).to(narrow)))
    return difference(g, {name: torch.stack([f[name] for f in found]) for name in g})


def flow(
    module: nn.Module,
    params: Params,
    x: Tensor,
    y: Float[Tensor, " n"],
    alpha: Float[Tensor, " b"],
    dt: Float[Tensor, " b"],
    loss: str = "soft_hinge",
    rule: GradientFlow | ContinuousMomentum | None = None,
    max_steps: int = 100_000,
    dtype: torch.dtype | None = None,
) -> Iterator[Flow]:
    """Trains b networks by gradient flow until each has margin >= 1 on every training point.

    `params` (b, ...) at initialisation, labels y in {-1, +1}, output scales alpha; the first step
    to try is `dt` (b,). Yields after every attempted step; a network is last seen when it has
    converged or failed (`max_steps` attempts, not finite, or a gradient of zero). With the square
    loss none converges: its flow ends at the margin. Passes are made in `dtype`, by default that of
    x: single precision serves while alpha is at most about ten, all else stays as it is. Raises
    ValueError for input that cannot be trained on. Source: Geiger et al. (2020), sections 2.1-2.3.
    """
    rule = rule or GradientFlow()
    checks.kind("rule", rule, GradientFlow, ContinuousMomentum)
    checks.kind("loss", loss, str)
    checks.whole("max_steps", max_steps, 1)
    problem = Problem.start(module, params, x, y, alpha, loss, rule.implicit, dtype)
    checks.tensors(dt=dt, alpha=alpha)
    checks.positive(dt=dt)
    require(dt.shape == alpha.shape, f"dt must have the shape of alpha, {tuple(alpha.shape)}")
    return _integrate(problem, params, dt, rule, max_steps)


def _integrate(problem: Problem, params: Params, dt: Tensor, rule, max_steps: int):
    index, attempts = torch.arange(len(dt), device=dt.device), 0
    t, step = torch.zeros_like(dt), torch.zeros_like(index)
    memory = rule.init(params)
    here = problem.at(params, rule.implicit)
    while len(index):
        attempts += 1
        trial, trial_memory = rule.propose(here, memory, t, dt)
        new = problem.at(trial, rule.implicit)
        size = rule.size(here.gradient, new.gradient, (new.output - here.output).abs().amax(-1))
        ok = size < 1  # false for NaN
        t, step = torch.where(ok, t + dt, t), step + ok
        dt = dt * rule.resize(size)
        memory = trial_memory if ok.all() else where(ok, trial_memory, memory)
        here = new if ok.all() else new.otherwise(ok, here)
        converged = (here.output * problem.y).amin(-1) >= 1
        stuck = (norm(here.gradient) == 0) | ~here.loss.isfinite() | (dt < SHORTEST)
        failed = ~converged & (stuck | (attempts >= max_steps))
        yield Flow(index, here.params, here.output, here.loss, t, dt, step, converged, failed)
        done = converged | failed
        if done.any():
            live = (~done).nonzero().squeeze(-1)
            index, t, dt, step = index[live], t[live], dt[live], step[live]
            memory, problem = select(memory, live), problem.select(live)
            here = here.select(live)


def batch_flow(
    module: nn.Module,
    params: Params,
    x: Tensor,
    y: Float[Tensor, " n"],
    alpha: float,
    generator: Generator,
    batch: int = 64,
    loss: str = "hinge",
    rule: ContinuousMomentum | None = None,
    max_steps: int = 100_000,
    dtype: torch.dtype | None = None,
) -> Iterator[Flow]:
    """Trains one network (params of a stack of one) on batches of those examples that are not yet
    fitted; yields after each pass over them, with the output at all examples.

    Which these are is found before each pass; a step moves the output of its batch by less than the
    rule's bound, or is tried again, shorter. Ends, max_steps and errors as in `flow`. Source:
    Geiger et al. (2019), section 2, on set-up B.
    """
    rule = rule or ContinuousMomentum(10.0, (0.1, 0.3))
    checks.kind("rule", rule, ContinuousMomentum)
    checks.kind("loss", loss, str)
    checks.kind("generator", generator, Generator)
    checks.sizes(batch=batch, max_steps=max_steps)
    checks.number("alpha", alpha, above=True)
    checks.examples(x=x)
    one = x.new_full((1,), alpha)
    problem = Problem.start(module, params, x, y, one, loss, dtype=dtype)
    require(len(one) == stacked(module, params), "params must be a stack of one network")
    return _by_batches(problem, params, rule, batch, generator, max_steps)


def _by_batches(problem: Problem, params: Params, rule, batch: int, generator, max_steps: int):
    memory, index = rule.init(params), torch.zeros(1, dtype=torch.long)
    t = torch.zeros_like(problem.alpha)
    dt, step, attempts = torch.full_like(t, 1e-6), torch.zeros_like(index), 0
    while True:
        with torch.no_grad():
            output = problem.predictor(params)
        converged = (output * problem.y).amin(-1) >= 1
        loss = problem.loss.value(output * problem.y).mean(-1) / problem.alpha**2
        failed = ~converged & ((attempts >= max_steps) | ~loss.isfinite() | (dt < SHORTEST))
        yield Flow(index, params, output, loss, t, dt, step, converged, failed)
        if converged | failed:
            return
        left = (output[0] * problem.y < 1).nonzero().squeeze(-1)
        order = left[torch.randperm(len(left), generator=generator).to(left.device)]
        for rows in order.split(batch):
            part, ok = problem.batch(rows), False
            here = part.at(params, False)
            while not ok and attempts < max_steps and dt >= SHORTEST:
                attempts += 1
                trial, trial_memory = rule.propose(here, memory, t, dt)
                with torch.no_grad():
                    moved = (part.predictor(trial) - here.output).abs().amax(-1)
                size = rule.size(None, None, moved)
                if ok := bool(size < 1):
                    params, memory, t, step = trial, trial_memory, t + dt, step + 1
                dt = dt * rule.resize(size)


def _to(dtype: torch.dtype):
    return lambda v: v.to(dtype) if v.is_floating_point() else v
