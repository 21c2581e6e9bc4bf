"""Gaussian against orthogonal weights: Huang, Du and Xu (2021).

Both have the same tangent kernel at infinite width, and it stays; so neither can train faster
there. Outside of that limit, deep and near linearity or at large rates, orthogonal weights do.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Generator, Tensor, nn
from torch.func import jvp, vjp

from tangents import infinite, kernels, models, probes
from tangents.data.tasks import Task, classes, parity
from tangents.descent import epochs, gradient_descent, updates
from tangents.empirical import ntk
from tangents.functional import Params, axpy, difference, norm, outputs, select, stack
from tangents.lab.study import records
from tangents.losses import CROSS_ENTROPY
from tangents.problem import Problem
from tangents.studies.orthogonal.config import Orthogonal

KERNEL_EXAMPLES = 20  # first training examples, on which the kernel of a classifier is measured
PROBED = 3  # of them, at which its singular values are
ANOTHER = 1_000_003  # from a seed to that of another draw
PER_OCTAVE = 2  # looks at a training in a doubling of its steps


@lru_cache(maxsize=4)
def task(c: Orthogonal, device: str) -> Task:
    """Training examples: parity, or all classes where trained by SGD."""
    options = dict(seed=c.seed if c.data_seed < 0 else c.data_seed, device=device)
    options |= dict(dtype=getattr(torch, c.dtype))
    if c.train == "sgd":
        return classes(c.dataset, c.n, 0, pool=c.pool, **options)
    if c.network == "conv":
        return parity(c.dataset, c.n, 0, flat=False, **options)
    data = classes(c.dataset, c.n, 0, pool=c.pool, **options)
    odd = 2.0 * (data.y.argmax(1) % 2) - 1
    return Task(data.x, odd.to(data.x), data.x_test, odd[:0].to(data.x))


def network(c: Orthogonal, x: Tensor, classes: int) -> nn.Module:
    """The network that the config declares, for inputs like x (n, ...)."""
    options = dict(c=classes, activation=c.activation)
    if c.network == "conv":
        return models.ConvNet(x.shape[1], c.width, bias=False, **options)
    if c.train != "sgd":
        return models.MLP(x.shape[1], c.width, c.depth, bias=False, **options)
    return models.MLP(x.shape[1], c.width, c.depth, layer=models.Unscaled, **options)


def critical_bias(variance: float, activation: str) -> float:
    """The variance of biases at which a signal's slope neither grows nor shrinks with depth.

    sigma_b^2 = q - sigma_w^2 E[s(u)^2] at the variance q of u ~ N(0, q) with
    sigma_w^2 E[s'(u)^2] = 1; 0 where there is no such q, for a linear network or weights too small.
    Source: Schoenholz et al. (2017), section 3; Pennington et al. (2017), section 2.
    """
    z, weight = np.polynomial.hermite_e.hermegauss(100)
    weight = weight / weight.sum()

    def means(q: float) -> tuple[float, float]:
        u = torch.from_numpy(math.sqrt(q) * z).requires_grad_()
        s = models.ACTIVATIONS[activation](u)
        (slope,) = torch.autograd.grad(s.sum(), u)
        return tuple(float(weight @ v.detach().square().numpy()) for v in (s, slope))

    def excess(q: float) -> float:
        return variance * means(q)[1] - 1

    if activation == "linear" or excess(0.0) <= 0:
        return 0.0
    q = brentq(excess, 0.0, 100.0)
    return q - variance * means(q)[0]


def start(c: Orthogonal, module: nn.Module, device: str) -> Params:
    """The initial weights of one network."""
    drawn = models.orthogonal if c.weights == "orthogonal" else models.normal
    drawn = models.delta(drawn) if c.delta else drawn
    seed = c.seed + ANOTHER * (c.weights == "again")
    params = models.initialise(module, seed, getattr(torch, c.dtype), device, drawn)
    if c.train != "sgd":
        return params
    generator = Generator().manual_seed(seed)
    biases = math.sqrt(critical_bias(c.variance, c.activation))
    return {
        name: value * math.sqrt(c.variance / value.shape[1])
        if name.endswith("weight")
        else biases * models.normal(value.shape, generator).to(value)
        for name, value in params.items()
    }


def limit(c: Orthogonal, x: Tensor) -> Tensor:
    """The tangent kernel of infinite width."""
    if c.network == "conv":
        return infinite.convolutional(x, None, c.activation, False, c.delta)[1]
    return infinite.fully_connected(x, None, c.depth, c.activation, False)[1]


def another(c: Orthogonal, x: Tensor) -> Tensor:
    """That of another network: twice as deep, or with the other kind of convolutions."""
    if c.network == "conv":
        return infinite.convolutional(x, None, c.activation, False, not c.delta)[1]
    return infinite.fully_connected(x, None, 2 * c.depth, c.activation, False)[1]


def looked(step: int) -> bool:
    """Whether a training is looked at: at equal ratios of steps."""
    if step < 2:
        return True
    return math.floor(PER_OCTAVE * math.log2(step)) > math.floor(PER_OCTAVE * math.log2(step - 1))


class Record:
    """Rows of the networks of one stack."""

    def __init__(self, configs: list[Orthogonal], module: nn.Module, params0: Params, x: Tensor):
        self.module, self.params0, self.x = module, params0, x
        self.kernel0 = self.kernel(params0)
        self.rows: list[list[dict]] = [[] for _ in configs]

    def kernel(self, params: Params) -> Tensor:
        return ntk(self.module, params, self.x, outputs="trace")

    def row(self, i: int, step: int, time: float, **metrics: float | Tensor) -> None:
        self.rows[i] += records(step, time, "train", **metrics)

    def change(self, i: int, params: Params) -> Tensor:
        """How far the kernel of one network, a stack of one, is from its start."""
        return kernels.distance(self.kernel(params)[0], self.kernel0[i])

    def moved(self, i: int, params: Params) -> dict[str, float]:
        """|W - W0| / |W0| of the first, of the middle layers together, and of the read-out."""
        first, *middle = (f"hidden.{k}.weight" for k in range(len(self.module.hidden)))
        groups = dict(first=[first], middle=middle, last=["readout.weight"])
        old = {name: w[i : i + 1] for name, w in self.params0.items()}
        return {
            f"moved_{group}": (
                norm(difference({k: params[k] for k in names}, {k: old[k] for k in names}))
                / norm({k: old[k] for k in names})
            ).item()
            for group, names in groups.items()
            if names
        }


def full(c: Orthogonal, configs: list[Orthogonal], record: Record, data: Task) -> Iterator[int]:
    """Gradient descent on all examples, down to `goal` times the first loss."""
    y, theta = data.y, limit(c, record.x) / c.n
    values, vectors = torch.linalg.eigh(theta)
    rates = torch.tensor([d.rate for d in configs], dtype=y.dtype).to(y) / values[-1]
    problem = Problem.start(record.module, record.params0, record.x, y, torch.ones_like(rates),
                            "square")  # fmt: skip
    modes, waiting = (vectors.mT @ y).square(), set(range(len(configs)))
    for state in updates(problem, record.params0, gradient_descent(rates), c.max_steps):
        for i in sorted(waiting):
            loss, time = state.loss[i].item(), (state.step * rates[i]).item()
            fitted = loss < c.goal / 2  # the first loss is 1 / 2
            ended = fitted or not math.isfinite(loss) or state.step == c.max_steps
            if not (ended or looked(state.step)):
                continue
            one = select(state.params, slice(i, i + 1))
            record.row(i, state.step, time, loss=loss)
            if math.isfinite(loss):
                record.row(i, state.step, time, kernel_change=record.change(i, one),
                           **record.moved(i, one))  # fmt: skip
            if ended:
                exact = steps_of_limit(rates[i] * values, modes, c.goal, c.max_steps)
                steps = state.step if fitted else math.inf
                record.row(i, state.step, time, converged=fitted, steps=steps, steps_limit=exact)
                waiting.remove(i)
                yield i
        if not waiting:
            return


def steps_of_limit(values: Tensor, modes: Tensor, goal: float, most: int) -> float:
    """Steps that a network of infinite width takes: eigenvalues of its map, y^2 by mode."""
    left = (1 - values).square()
    for step in range(most + 1):
        if (modes * left**step).mean() < goal:
            return step
    return math.inf


class Tangent(NamedTuple):
    """A linearised network in training: how far the weights have moved, and the coming batch."""

    step: int
    params: Params
    batch: Tensor
    output: Tensor


def tangent_updates(
    problem: Problem, params0: Params, start: Params, rates: Tensor, steps: int, batches: Iterator
) -> Iterator[Tangent]:
    """SGD on the networks linearised at `params0`, from a change `start` of the weights."""
    moved = start
    for step in range(steps + 1):
        rows = next(batches)
        part = problem.batch(rows)

        def f(params: Params, x: Tensor = part.x) -> Tensor:
            return outputs(problem.module, params, x)

        value, change = jvp(f, (params0,), (moved,))
        output = value + change
        yield Tangent(step, moved, rows, output)
        slope = part.loss.gradient(output, part.y.expand_as(output)) / len(rows)
        (gradient,) = vjp(f, params0)[1](slope)
        moved = axpy(-rates, gradient, moved)


def sgd(c: Orthogonal, configs: list[Orthogonal], record: Record, data: Task) -> Iterator[int]:
    """SGD until a batch is classified as well as `goal` asks; who is there leaves the stack. With
    `frozen` features, `params` are the change of the weights."""
    generator = Generator().manual_seed(c.seed if c.data_seed < 0 else c.data_seed)
    batches = epochs(c.n, c.batch, generator)
    rates = torch.tensor([d.rate for d in configs], dtype=data.y.dtype).to(data.y)
    live, params, before = torch.arange(len(configs), device=rates.device), record.params0, 0
    f0 = data.y.new_zeros(len(configs), *data.y.shape)
    problem = Problem(record.module, data.x, data.y, CROSS_ENTROPY, torch.ones_like(rates), f0)
    if c.frozen:
        params = {name: torch.zeros_like(w) for name, w in params.items()}
    while len(live):
        part, left = problem.select(live), c.max_steps - before
        if c.frozen:
            states = tangent_updates(
                part, select(record.params0, live), params, rates[live], left, batches
            )
        else:
            states = updates(part, params, gradient_descent(rates[live]), left, batches)
        for state in states:
            step, y = before + state.step, data.y[state.batch]
            right = (state.output.argmax(-1) == y.argmax(-1)).double().mean(-1)
            sound = state.output.flatten(1).isfinite().all(1)
            reached = (right > c.goal) & sound
            ended = reached | ~sound | (step == c.max_steps)
            for k, i in enumerate(live.tolist()):
                if not ended[k]:
                    continue
                time, steps = step * rates[i].item(), step if reached[k] else math.inf
                record.row(i, step, time, converged=reached[k], steps=steps)
                if reached[k] and not c.frozen:
                    one = select(state.params, slice(k, k + 1))
                    record.row(i, step, time, kernel_change=record.change(i, one))
                yield i
            if ended.any():
                break
        rest = (~ended).nonzero().flatten()
        live, params, before = live[rest], select(state.params, rest), step
        batches = chain([state.batch], batches)  # of which those that go on have made no step


def run(configs: list[Orthogonal], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Configs that differ in weights and rate, side by side, on the same batches."""
    c = configs[0]
    data = task(c, device)
    module = network(c, data.x, data.y.shape[1] if data.y.dim() == 2 else 1)
    params0 = stack([start(d, module, device) for d in configs])
    x = data.x[:KERNEL_EXAMPLES] if c.train == "sgd" else data.x
    record = Record(configs, module, params0, x)
    if c.train == "sgd":
        values = probes.state_singular_values(module, params0, x[:PROBED])
        found = dict(singular_largest=values[..., 0].mean(-1), singular_rms=probes.rms(values))
    else:
        given = dict(kernel_error=limit(c, x), kernel_error_other=another(c, x))
        found = {name: kernels.distance(record.kernel0, k) for name, k in given.items()}
    for i in range(len(configs)):
        record.row(i, 0, 0.0, **{name: value[i] for name, value in found.items()})
    if c.train == "no":
        for i in range(len(configs)):
            record.row(i, 0, 0.0, converged=True)
        ended = range(len(configs))
    else:
        train = dict(full=full, sgd=sgd)[c.train]
        ended = train(c, configs, record, data)
    for i in ended:
        yield i, record.rows[i], {}
