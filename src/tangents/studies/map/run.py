"""One plane for all knobs: every way to make a network lazy, measured alike.

A network is trained until its loss has a given value, by flow, by an optimiser or in rounds. How
far weights, features and kernel moved is measured, and the test error set beside that of its frozen
kernels: the flow on the first one, and on the last, to the same loss.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from scipy.optimize import brentq
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tangents import kernels, linearised, models, probes
from tangents.data.tasks import Task, pair, parity, xor
from tangents.descent import adam, gradient_descent, momentum, updates
from tangents.empirical import ntk
from tangents.flow import GradientFlow
from tangents.flow import flow as gradient_flow
from tangents.functional import Params, difference, norm, outputs
from tangents.lab.study import records
from tangents.linearised import Gain
from tangents.losses import SQUARED
from tangents.problem import Problem
from tangents.relinearised import TangentModel, predictor, slopes
from tangents.studies.map.config import Map

KERNEL_EXAMPLES = 300  # first test examples, on which kernels and features are compared
MEMORY = 0.9  # of momentum
CHANGE = 0.1  # of the outputs in a step of the flow
DIVERGED = 1e3  # loss at which training is given up


@lru_cache(maxsize=4)
def _task(dataset: str, n: int, n_test: int, flat: bool, seed: int) -> Task:
    if dataset == "xor":
        return xor(n, n_test, 15, seed)
    make = pair if dataset == "cifar-10" else parity
    data = make(dataset, n, n_test, flat=False, seed=seed)
    return Task(_halved(data.x, flat), data.y, _halved(data.x_test, flat), data.y_test)


def task(c: Map, device: str) -> Task:
    """Images averaged over squares of two pixels, odd classes against even ones, or cars against
    planes; or the sign of x1 x2 among 15 Gaussian inputs. Targets (n, 1) of -1 and +1."""
    data = _task(c.dataset, c.n, c.n_test, c.network == "fc", c.seed)
    y, order = data.y, torch.randperm(c.n, generator=Generator().manual_seed(c.seed))
    for label in (-1, 1):
        wrong = order[data.y[order] == label]
        wrong = wrong[: round(c.flipped * len(wrong))]
        y = y.index_copy(0, wrong, -data.y[wrong])
    data = Task(data.x, y[:, None], data.x_test, data.y_test[:, None])
    return data.to(device, getattr(torch, c.dtype))


def _halved(x: Tensor, flat: bool) -> Tensor:
    """Images at half the resolution, each with |x|^2 = d."""
    x = F.avg_pool2d(x, 2)
    size = x.flatten(1).square().mean(1).sqrt()
    x = x / size.view(-1, 1, 1, 1)
    return x.flatten(1) if flat else x


def network(c: Map, x: Tensor, device: str) -> tuple[nn.Module, Params]:
    """The network that the config declares, and its initial weights, a stack of one."""
    if c.network == "conv":
        module: nn.Module = models.ConvNet(x.shape[1], c.width, activation=c.activation, side=3)
    else:
        module = models.MLP(x.shape[1], c.width, c.depth, activation=c.activation)
    draw = models.orthogonal if c.draw == "orthogonal" else models.normal
    params = models.initialise_stack(module, [c.seed], x.dtype, device, draw)
    return module, {name: c.scale * v for name, v in params.items()}


class Start:
    """A network before training: data, predictor, and its tangent model on the training inputs."""

    def __init__(self, c: Map, device: str):
        self.data = task(c, device)
        self.module, self.params = network(c, self.data.x, device)
        self.model = self.tangent(self.params)
        self.kernel = self.kernel_at(self.params)
        self.hidden = self.hidden_at(self.params)
        self.f_test = self.outputs(self.params)

    def tangent(self, params: Params) -> TangentModel:
        """On F of output scale one."""
        one = self.data.x.new_ones(1)
        return TangentModel.at(self.module, self.params, self.data.x, one, params)

    def growth(self, params: Params) -> float:
        """The largest eigenvalue of the kernel on the training inputs, over that at the start."""
        if not all(bool(v.isfinite().all()) for v in params.values()):
            return math.inf
        kernel = ntk(self.module, params, self.data.x, outputs="trace")[0].double()
        return (torch.linalg.eigvalsh(kernel)[-1] / self.model.largest).item()

    def kernel_at(self, params: Params) -> Tensor:
        x = self.data.x_test[:KERNEL_EXAMPLES]
        return ntk(self.module, params, x, outputs="trace")[0].double()

    @torch.no_grad()
    def hidden_at(self, params: Params) -> list[Tensor]:
        """Gram matrices of the preactivations of each hidden layer."""
        x = self.data.x_test[:KERNEL_EXAMPLES]
        found = [z[0].flatten(1) for z in probes.preactivations(self.module, params, x)]
        return [z @ z.mT for z in found]

    @torch.no_grad()
    def outputs(self, params: Params) -> Tensor:
        """f on the test examples, block by block, (n, 1)."""
        parts = self.data.x_test.split(2000)
        return torch.cat([outputs(self.module, params, x) for x in parts], 1)[0]

    @torch.no_grad()
    def slopes(self, params: Params, step: Params) -> Tensor:
        """How f changes on the test examples to first order, (n, 1)."""
        return slopes(self.module, params, step, self.data.x_test, 2000)[0]


def crossing(excess: Callable[[float], float], top: float) -> float:
    """The time at which what falls from above zero is zero, where rates are at most `top`; nan for
    what never is."""
    low, high = math.log(1e-6 / top), math.log(1e12 / top)
    if not excess(math.exp(low)) > 0 > excess(math.exp(high)):
        return math.nan
    return math.exp(brentq(lambda s: excess(math.exp(s)), low, high, xtol=1e-6))


class Frozen:
    """The machine that learns from F = 0 by gradient flow with the kernel of a tangent model."""

    def __init__(self, start: Start, model: TangentModel):
        self.start, self.model = start, model
        y = start.data.y.double()
        self.lost = model.spectrum.into(-y[None])[0].square() / (2 * len(y))

    def loss(self, time: float) -> float:
        """Half the mean squared residual at a time of the flow."""
        return (self.lost * (-2 * time * self.model.spectrum.values[0]).exp()).sum().item()

    def time(self, loss: float) -> float:
        """When the loss is that; nan if it never is."""
        return crossing(lambda time: self.loss(time) - loss, self.model.largest.item())

    def outputs(self, loss: float) -> Tensor:
        """On the test examples, where the loss on the training examples is that, (n, 1); nan if it
        never is."""
        time, y = self.time(loss), self.start.data.y
        if math.isnan(time):
            return torch.full_like(self.start.data.y_test, math.nan)
        gain = linearised.flow(self.model.alpha.double() * time)
        c = linearised.respond(self.model.spectrum, -y[None], gain)
        return self.start.slopes(self.model.anchor, self.model.jacobian.vjp(-c.to(y)))


# ---- training, each way a generator of (steps made, weights, loss)

State = tuple[int, Params, float]


def by_flow(c: Map, start: Start) -> Iterator[State]:
    """Gradient flow, by steps that change no output by more than `CHANGE`."""
    data, alpha = start.data, start.data.x.new_full((1,), c.alpha)
    rule, first = GradientFlow(math.inf, CHANGE, implicit=True), torch.full_like(alpha, 1e-4)
    y, most = data.y[:, 0], c.max_steps
    for state in gradient_flow(
        start.module, start.params, data.x, y, alpha, first, "square", rule, most
    ):
        yield state.step.item(), state.params, state.loss.item() * c.alpha**2


def by_descent(c: Map, start: Start) -> Iterator[State]:
    """Steps of gradient descent, heavy ball or Adam on all examples."""
    data, alpha = start.data, start.data.x.new_full((1,), c.alpha)
    stable = 2 * c.n / start.model.largest.item()  # of the mean loss, at the start
    rules = dict(
        descent=lambda: gradient_descent(c.rate * stable),
        momentum=lambda: momentum(c.rate * stable, MEMORY),
        adam=lambda: adam(c.rate),
    )
    problem = Problem.start(start.module, start.params, data.x, data.y, alpha, SQUARED)
    for state in updates(problem, start.params, rules[c.train](), c.max_steps):
        yield state.step, state.params, state.loss.item() * c.alpha**2


def by_tangents(c: Map, start: Start) -> Iterator[State]:
    """Tangent models, each trained for a while before the next: in rounds that each take the same
    share off the loss, as many as `rounds` where the network does what they predict; or by damped
    Gauss-Newton steps."""
    data, alpha = start.data, start.data.x.new_full((1,), c.alpha)
    F_train, params = predictor(start.module, start.params, alpha), start.params
    damping = c.damping * start.model.spectrum.values.mean()
    share = (c.target / 0.5) ** (1 / c.rounds)
    for step in range(c.max_steps + 1):
        with torch.no_grad():
            output = F_train(params, data.x)
        residual = (output - data.y).double()
        loss = residual.square().mean().item() / 2
        yield step, params, loss
        model = start.tangent(params)
        if c.train == "rounds":
            gain = _falling(model, residual, share)
        else:
            gain = _scaled(c.rate, linearised.damped(damping[None]))
        found = linearised.respond(model.spectrum, residual, gain).to(output)
        change = model.jacobian.vjp(-found / c.alpha)
        params = {k: v + change[k] for k, v in params.items()}


def _falling(model: TangentModel, residual: Tensor, share: float) -> Gain:
    """The flow of a tangent model until its loss has fallen to that share."""
    lost, values = model.spectrum.into(residual)[0].square(), model.spectrum.values[0]

    def excess(time: float) -> float:
        return ((lost * (-2 * time * values).exp()).sum() / lost.sum()).item() - share

    time = crossing(excess, values.amax().item())
    return linearised.flow(values.new_full((1,), math.inf if math.isnan(time) else time))


def _scaled(factor: float, gain: Gain) -> Gain:
    return lambda values: factor * gain(values)


WAYS = dict(flow=by_flow, descent=by_descent, momentum=by_descent, adam=by_descent,
            rounds=by_tangents, gauss_newton=by_tangents)  # fmt: skip
SLACK = {"descent": 1.0, "momentum": 1 + MEMORY}  # of the edge of stability, 2 / eigenvalue


def train(c: Map, start: Start) -> tuple[int, Params, float, float, float]:
    """The first state whose loss is small enough, or the last one; the largest eigenvalue of the
    kernel on the way, over that at the start; and the largest factor by which the loss rose."""
    grown, least, rise, looks = 1.0, math.inf, 1.0, {round(1.5**k) for k in range(40)}
    for step, params, loss in WAYS[c.train](c, start):
        least = min(least, loss)
        rise = max(rise, loss / least)
        ended = not c.target < loss < DIVERGED
        if ended or (step in looks and c.train in SLACK):
            grown = max(grown, start.growth(params))
        if ended:
            break
    return step, params, loss, grown, rise


# ---- measures


def measured(c: Map, start: Start) -> list[dict]:
    """Rows of one network, of the end of its training; it counts as converged where it and both
    machines reach the loss."""
    step, params, loss, grown, rise = train(c, start)
    sound = math.isfinite(loss) and loss <= c.target
    rows = records(step, step, "train", steps=step, loss=loss, rise=rise)
    if not sound:
        return rows + records(step, step, "train", converged=False)
    model, moved = start.tangent(params), difference(params, start.params)
    rows += records(
        step, step, "train",
        distance=norm(moved), share=norm(moved) / norm(start.params), growth=grown,
        edge=c.rate * grown / SLACK.get(c.train, math.inf),
        **aligned(start.model, model, start.data.y),
    )  # fmt: skip
    change, tangent = start.outputs(params) - start.f_test, start.slopes(start.params, moved)
    machines = (Frozen(start, each).outputs(loss) for each in (start.model, model))
    found = dict(zip(("linear", "final"), machines, strict=True), tangent=tangent)
    errors = {f"error_{name}": error(output, start) for name, output in found.items()}
    rows += records(
        step, step, "test",
        nonlinear=(change - tangent).norm() / change.norm(), error=error(change, start), **errors,
        **turned(start, params),
    )  # fmt: skip
    fitted = not any(math.isnan(v) for v in errors.values())  # the machines, to the same loss
    return rows + records(step, step, "train", converged=fitted)


def aligned(before: TangentModel, after: TangentModel, y: Tensor) -> dict[str, Tensor]:
    """Centred alignment of the kernel with the labels of training."""
    found, told = {}, (y @ y.mT).double()
    for name, model in (("alignment_train_start", before), ("alignment_train", after)):
        values, vectors = model.spectrum.values[0], model.spectrum.vectors[0]
        found[name] = kernels.centred_alignment(vectors * values @ vectors.mT, told)
    return found


def turned(start: Start, params: Params) -> dict[str, float | Tensor]:
    """How far kernel and hidden layers are from the start, and aligned with the labels, on test
    examples."""
    kernel, y = start.kernel_at(params), start.data.y_test[:KERNEL_EXAMPLES].double()
    layers = zip(start.hidden_at(params), start.hidden, strict=True)
    hidden = [1 - kernels.centred_alignment(now, before).item() for now, before in layers]
    return dict(
        turn=1 - kernels.cosine(kernel, start.kernel),
        turn_centred=1 - kernels.centred_alignment(kernel, start.kernel),
        kernel_change=kernels.distance(kernel, start.kernel),
        alignment_start=kernels.centred_alignment(start.kernel, y @ y.mT),
        alignment=kernels.centred_alignment(kernel, y @ y.mT),
        turn_hidden=sum(hidden) / len(hidden),
        turn_last=hidden[-1],
    )


def error(output: Tensor, start: Start) -> float:
    """Test error of outputs (n, 1); nan for one that is not finite."""
    sound = bool(output.isfinite().all())
    return probes.error_rate(output[:, 0], start.data.y_test[:, 0]).item() if sound else math.nan


def run(configs: list[Map], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Configs that start from the same network are trained one after the other."""
    start = Start(configs[0], device)
    for i, c in enumerate(configs):
        yield i, measured(c, start), {}
