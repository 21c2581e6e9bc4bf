"""Iterative linearisation: Goldwaser and Ge (2023).

A network is linearised, its tangent model is trained for a while, and where that ends the network
is linearised anew. One round is lazy training, a round for every step is gradient descent; between
the two the number of rounds N says how often the features are updated.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from tangents import kernels, models, probes
from tangents.data.tasks import Task, classes, pair, parity, shuffled
from tangents.descent import epochs, gradient_descent, updates
from tangents.empirical import ntk
from tangents.functional import Params, difference, norm, outputs
from tangents.lab.study import records
from tangents.linearised import damped, flow, heavy_ball, matrix, stable_rate
from tangents.losses import OUTPUT_LOSSES, SQUARED
from tangents.problem import Problem
from tangents.relinearised import (
    Round,
    TangentModel,
    predictor,
    relinearise,
    slopes,
)
from tangents.studies.iterative.config import Iterative

KERNEL_EXAMPLES = 200  # first test examples, on which the change of the kernel is measured
VALIDATION = 0.2  # share of the test examples by which training is stopped early
PER_DECADE = 4  # looks at a tangent model in a decade of its training time
FAITHFUL = 0.9  # least share of a predicted fall of the loss that the network must achieve
MOST = 200  # tangents of a training, at most
SHORTEST = 1e-9  # of what is left of the training, the shortest round that is tried


@lru_cache(maxsize=4)
def task(c: Iterative, device: str) -> Task:
    """Training and test examples with targets (n, c): one of -+1, or one-hot, less its mean for the
    squared loss."""
    seed, dtype = c.seed if c.data_seed < 0 else c.data_seed, getattr(torch, c.dtype)
    flat, where = c.network == "fc", dict(seed=seed, dtype=dtype, device=device)
    if c.target == "classes":
        data = classes(c.dataset, c.n, c.n_test, flat=flat, **where)
        mean = data.y.shape[1] ** -1 if c.loss == "squared" else 0
        y, y_test = data.y - mean, data.y_test - mean
    else:
        make = parity if c.target == "parity" else pair
        data = make(c.dataset, c.n, c.n_test, flat=flat, **where)
        y, y_test = data.y[:, None], data.y_test[:, None]
    data = Task(data.x, y, data.x_test, y_test)
    return shuffled(data, seed) if c.shuffled else data


def network(c: Iterative, x: Tensor, outputs: int) -> nn.Module:
    """The network that the config declares, for inputs like x (n, ...)."""
    options = dict(c=outputs, activation=c.activation)
    if c.network == "conv":
        return models.ConvNet(x.shape[1], c.width, **options)
    return models.MLP(x.shape[1], c.width, c.depth, **options)


def lengths(c: Iterative) -> list[float]:
    """The durations of the rounds, which add up to the time of training."""
    if c.rounds == 1 or c.schedule == "uniform":
        return [c.duration / c.rounds] * c.rounds
    if c.schedule == "once":
        return [c.first, c.duration - c.first]
    ratio = (c.duration / c.first) ** (1 / (c.rounds - 1))  # of the ends, from `first` to `time`
    ends = [0.0] + [c.first * ratio**k for k in range(c.rounds)]
    return [b - a for a, b in pairwise(ends)]


def error(output: Tensor, y: Tensor) -> float:
    """Share of examples whose class is not that of the largest output, or not of its sign."""
    if y.shape[-1] == 1:
        return (~(output * y > 0)).double().mean().item()
    return probes.misclassified(output, y).item()


class Record:
    """Rows of one network; `F` is its predictor."""

    def __init__(self, c: Iterative, module: nn.Module, params0: Params, data: Task):
        self.c, self.module, self.params0, self.data = c, module, params0, data
        self.alpha = data.x.new_full((1,), c.alpha)
        self.F = predictor(module, params0, self.alpha)
        self.valid = round(VALIDATION * len(data.y_test))
        self.loss_of = OUTPUT_LOSSES[c.loss]
        self.kernel0, self.rows = self.kernel(params0), []
        self.output0 = self.net(params0)

    def kernel(self, params: Params) -> Tensor:
        x = self.data.x_test[:KERNEL_EXAMPLES]
        return ntk(self.module, params, x, outputs="trace")[0]

    def row(self, step: int, time: float, split: str, **metrics: float | Tensor) -> None:
        self.rows += records(step, time, split, **metrics)

    @torch.no_grad()
    def net(self, params: Params) -> Tensor:
        """f on the test examples, block by block."""
        parts = self.data.x_test.split(1000)
        return torch.cat([outputs(self.module, params, x) for x in parts], 1)[0]

    @torch.no_grad()
    def sound(self, params: Params) -> bool:
        """Whether weights and outputs are finite."""
        values = [*params.values(), self.F(params, self.data.x)]
        return all(bool(v.isfinite().all()) for v in values)

    def errors(self, step: int, time: float, output: Tensor, name: str) -> None:
        """Errors on the test examples, and on those that stop training early."""
        y, k = self.data.y_test, self.valid
        self.row(step, time, "test", **{name: error(output[k:], y[k:])})
        self.row(step, time, "validation", **{f"{name}_validation": error(output[:k], y[:k])})

    def loss(self, output: Tensor) -> float:
        return self.loss_of.value(output, self.data.y).sum().item()

    def anchor(self, step: int, time: float, params: Params) -> None:
        """What is measured where the network is linearised."""
        self.output = self.c.alpha * (self.net(params) - self.output0)
        self.errors(step, time, self.output, "error")
        theta = self.kernel(params)
        labels = self.data.y_test[:KERNEL_EXAMPLES]
        target = labels @ labels.mT
        self.row(
            step, time, "test",
            kernel_cosine=kernels.cosine(theta, self.kernel0),
            kernel_cka=kernels.centred_alignment(theta, self.kernel0),
            kernel_change=kernels.distance(theta, self.kernel0),
            alignment=kernels.centred_alignment(theta, target),
        )  # fmt: skip
        self.row(step, time, "train", distance=norm(difference(params, self.params0)))

    def linear(self, step: int, time: float, model: TangentModel, change: Params) -> None:
        """Errors of the tangent model after this change of the weights from the last anchor."""
        slope = slopes(self.module, model.anchor, change, self.data.x_test)[0]
        self.errors(step, time, self.output + self.c.alpha * slope, "error_linear")

    def share(self, model: TangentModel, c: Tensor, params: Params) -> tuple[float, float, float]:
        """The loss that the tangent model predicts, the network's, and the share of the predicted
        fall that the network achieves."""
        with torch.no_grad():
            net = self.F(params, self.data.x)[0]
        outputs = model.output[0], model.outputs(c)[0], net
        before, predicted, achieved = map(self.loss, outputs)
        fall = before - predicted
        return predicted, achieved, (before - achieved) / fall if fall > 0 else math.nan

    def round(self, found: Round) -> None:
        """What a round predicts, what the network does, and the tangent model on the way."""
        step, start, length = found.index + 1, found.start.item(), found.duration.item()
        predicted, achieved, share = self.share(found.model, found.coefficients, found.params)
        self.row(step, start + length, "train", loss=achieved, loss_linear=predicted,
                 gain_share=share, eigenvalue=found.model.largest, steps=found.steps)  # fmt: skip
        if self.c.rounds == 1 and self.loss_of is SQUARED and not self.c.batch:
            top = found.model.largest.item()
            decades = max(0, math.floor(PER_DECADE * math.log10(length * top)))
            for k in range(1, decades + 1):
                time = length * 10 ** (-k / PER_DECADE)
                gain = flow(torch.full_like(found.start, time).double())
                change = found.model.step(found.model.train(self.data.y, gain))
                self.linear(step, time, found.model, change)
        self.linear(step, start + length, found.model, found.step)

    def finish(self, step: int, time: float, params: Params, eigenvalue0: float) -> list[dict]:
        """Rows, with those of the end."""
        if self.sound(params):
            self.anchor(step, time, params)
        self.row(step, time, "train", converged=self.sound(params), eigenvalue_start=eigenvalue0)
        return self.rows


def batches(c: Iterative) -> Iterator[Tensor] | None:
    """The examples of each step, of one draw for all ways to train a network."""
    return epochs(c.n, c.batch, Generator().manual_seed(c.seed)) if c.batch else None


def rounds(c: Iterative, record: Record, longest: Tensor) -> tuple[int, float, Params]:
    """Trains in rounds of given lengths; returns how many, the time, and the weights."""
    data, planned = record.data, [longest.new_full((1,), v) for v in lengths(c)]

    def gain(duration: Tensor):
        if c.memory:  # which lengthens each step 1 / (1 - memory) times
            travelled = duration * (1 - c.memory)
            steps = math.ceil((travelled / longest).item())
            return heavy_ball(travelled / steps, steps, c.memory)
        return damped(1 / duration if c.damping == -1 else torch.full_like(duration, c.damping))

    states = relinearise(
        record.module, record.params0, data.x, data.y, record.alpha, planned, longest,
        gain=gain if c.damping or c.memory else None, loss=record.loss_of, batches=batches(c),
    )  # fmt: skip
    time = 0.0
    for found in states:
        if found.index:
            record.anchor(found.index, time, found.model.anchor)
        time += found.duration.item()
        record.round(found)
        if not record.sound(found.params):
            break
    return found.index + 1, time, found.params


def steps(c: Iterative, record: Record, longest: Tensor) -> tuple[int, float, Params]:
    """Gradient descent on the network itself: a round for every step."""
    data, count = record.data, math.ceil(c.duration / longest.item())
    rate = c.duration / count * len(data.y)  # the problem's loss is a mean over examples
    loss = record.loss_of
    problem = Problem.start(record.module, record.params0, data.x, data.y, record.alpha, loss)
    looks = {round(count ** (k / 20)) for k in range(21)}
    rule = gradient_descent(rate)
    for state in updates(problem, record.params0, rule, count, batches(c)):
        time = state.step * c.duration / count
        if state.step in looks - {count}:
            record.anchor(state.step, time, state.params)
        if state.step in looks:
            with torch.no_grad():
                output = record.F(state.params, data.x)[0]
            record.row(state.step, time, "train", loss=record.loss(output))
    return count, c.duration, state.params


def tangents(c: Iterative, record: Record, longest: Tensor) -> tuple[int, float, Params]:
    """As few rounds as are faithful, each as long as the network does what its tangent predicts."""
    data, params, left, count = record.data, record.params0, c.duration, 0
    given = record.module, record.params0, data.x, record.alpha
    while left > SHORTEST * c.duration and count < MOST:
        model, length, share = TangentModel.at(*given, params), left, 0.0
        while not share >= FAITHFUL and length > SHORTEST * left:
            coefficients = model.train(data.y, flow(longest.new_full((1,), length).double()))
            change = model.step(coefficients)
            end = {k: v + change[k] for k, v in params.items()}
            *_, share = record.share(model, coefficients, end)
            length = length / 2
        params, left, count = end, left - 2 * length, count + 1
    whole = left <= SHORTEST * c.duration
    record.row(count, c.duration - left, "train", tangents=count if whole else math.inf)
    return count, c.duration - left, params


def run(configs: list[Iterative], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Trains each config by itself: their data differ."""
    for i, c in enumerate(configs):
        data = task(c, device)
        module = network(c, data.x, data.y.shape[1])
        params0 = models.initialise_stack(module, [c.seed], data.x.dtype, device)
        record = Record(c, module, params0, data)
        top = torch.linalg.eigvalsh(matrix(ntk(module, params0, data.x)).double())[:, -1]
        longest = (c.rate * stable_rate(top, record.loss_of)).to(data.x)
        record.anchor(0, 0.0, params0)
        way = dict(rounds=rounds, steps=steps, tangents=tangents)[c.train]
        yield i, record.finish(*way(c, record, longest), top.item()), {}
