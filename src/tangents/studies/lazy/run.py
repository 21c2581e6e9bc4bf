"""Lazy or feature learning by output scale and width: Geiger et al. (2019; 2020).

A network trains by gradient flow on F = alpha (f - f0). Small alpha forces the weights, and with
them the tangent kernel, to move; large alpha leaves both in place.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from tangents import kernels, models, probes
from tangents.data.tasks import Task, parity
from tangents.empirical import jacobian, ntk
from tangents.flow import ContinuousMomentum, Flow, GradientFlow, flow
from tangents.functional import Params, call, difference, norm, select
from tangents.lab.study import records
from tangents.losses import LOSSES
from tangents.problem import Problem
from tangents.studies.lazy.config import Lazy

NTK_EXAMPLES = 200  # first test examples, on which the change of the kernel is measured
PER_DECADE = 4  # snapshots a decade of training time
KEPT = 5000  # outputs on the first test examples, kept where a claim needs them


@lru_cache(maxsize=4)
def task(
    dataset: str, n: int, n_test: int, pca: int, flat: bool, seed: int, dtype: str, device: str
) -> Task:
    return parity(dataset, n, n_test, pca, flat, seed, getattr(torch, dtype), device)


def network(c: Lazy, x: Tensor) -> nn.Module:
    """The network that the config declares, for inputs like x (n, ...)."""
    if c.network == "conv":
        return models.ConvNet(x.shape[1], c.width, activation=c.activation, bias=c.bias)
    return models.MLP(x.shape[1], c.width, c.depth, activation=c.activation, bias=c.bias)


def rule(c: Lazy) -> GradientFlow | ContinuousMomentum:
    """The flow's rule. Without a tolerance the output may change by 0.01 a step, else by 0.1.

    At a kink of ReLU the gradient turns by a jump, however short the step, and a tolerance would
    halt the flow there: like the paper's first version, ReLU runs bound the change of F alone.
    """
    if c.dynamics == "momentum":
        return ContinuousMomentum()
    change = 0.01 if math.isinf(c.tolerance) else 0.1
    return GradientFlow(c.tolerance, change, c.implicit)


class Run:
    """Rows and snapshots of one network while it trains."""

    def __init__(self, config: Lazy, module: nn.Module, params0: Params, task: Task):
        self.config, self.module, self.params0, self.task = config, module, params0, task
        self.alpha = config.scaled_alpha / math.sqrt(config.width)
        self.rows: list[dict] = []
        self.snapshots: list[tuple[float, int, Params]] = [(0.0, 0, params0)]
        with torch.no_grad():
            self.f0 = self.f(params0, task.x)
            self.f0_test = self.f(params0, task.x_test)
        self.kernel0 = self.kernel(params0)

    def f(self, params: Params, x: Tensor) -> Tensor:
        return call(self.module, params, x)[..., 0]

    def kernel(self, params: Params) -> Tensor:
        return ntk(self.module, params, self.task.x_test[:NTK_EXAMPLES], outputs="trace")

    def row(self, step: int, time: float, split: str, **metrics: float | Tensor) -> None:
        self.rows += records(step, time, split, **metrics)

    def initial(self) -> None:
        """The speed of the preactivations at t = 0 and the size of the output."""
        one = {k: v[None] for k, v in self.params0.items()}
        alpha = torch.full_like(self.f0[:1], self.alpha)
        x, y = self.task.x, self.task.y
        problem = Problem(self.module, x, y, LOSSES[self.config.loss], alpha, self.f0[None])
        descent = {k: -v * self.alpha for k, v in problem.at(one, False).gradient.items()}
        speed = probes.preactivation_velocity(self.module, one, self.task.x, descent)
        self.row(0, 0.0, "train", preactivation_velocity=speed, output_norm=_rms(self.f0))

    def snapshot(self, state: Flow, i: int, last: bool = False) -> None:
        """Measures the network at place i of the stack."""
        step, t, params = state.step[i].item(), state.t[i].item(), select(state.params, i)
        moved, distance = state.output[i] / self.alpha, _norm(difference(params, self.params0))
        self.row(
            step,
            t,
            "train",
            loss=state.loss[i] * self.alpha**2,
            output_change=_rms(moved),
            output_norm=_rms(self.f0 + moved),
            distance=distance,
            weights_change=distance / _norm(self.params0),
        )
        self.row(step, t, "test", kernel_change=kernels.distance(self.kernel(params), self.kernel0))
        if self.config.frozen > 2 or (last and self.config.frozen):
            self.snapshots.append((t, step, params))

    def growth(self, state: Flow, i: int) -> None:
        """The size of the output at t1, of the network at place i of the stack."""
        size = _rms(self.f0 + state.output[i] / self.alpha)
        self.row(state.step[i].item(), state.t[i].item(), "train", output_t1=size)

    def finish(self, state: Flow, i: int, t1: float) -> tuple[list[dict], dict[str, np.ndarray]]:
        """Rows and arrays of the network at place i, whose training is over."""
        self.snapshot(state, i, last=True)
        step, t = state.step[i].item(), state.t[i].item()
        with torch.no_grad():
            f_test = self.f(select(state.params, i), self.task.x_test)
        output = self.alpha * (f_test - self.f0_test)
        self.row(step, t, "train", converged=state.converged[i], t1=t1, steps=step)
        self.row(step, t, "test", error=probes.error_rate(output, self.task.y_test))
        self.frozen()
        return self.rows, self.kept(output) if self.config.keep_output else {}

    def kept(self, output: Tensor) -> dict[str, np.ndarray]:
        """Outputs on the first test examples, and their labels: who judges needs no raw data."""
        pairs = (("test_output", output, np.float16), ("test_label", self.task.y_test, np.int8))
        return {name: v[:KEPT].cpu().numpy().astype(kind) for name, v, kind in pairs}

    def frozen(self) -> None:
        """Learns from scratch with the kernels of some snapshots, first and last among them."""
        places = np.linspace(0, len(self.snapshots) - 1, self.config.frozen).round().astype(int)
        for place in dict.fromkeys(places.tolist()):
            t, step, params = self.snapshots[place]
            error, converged = frozen_error(self.module, params, self.task, self.config)
            self.row(step, t, "test", frozen_error=error, frozen_converged=converged)


def frozen_error(module: nn.Module, params: Params, task: Task, c: Lazy) -> tuple[float, bool]:
    """Test error of the machine that learns by the same flow with the kernel at `params`.

    And whether it fitted all training examples; (nan, False) for a kernel that is singular.
    """
    train, test = jacobian(module, params, task.x), jacobian(module, params, task.x_test)
    try:
        phi, phi_test = kernels.features(train.gram(outputs="trace"), test.gram(train, "trace"))
    except ValueError:
        return math.nan, False
    n = len(phi)
    machine = models.Linear(n, 1, bias=False).to(phi)
    start = {"weight": phi.new_zeros(1, 1, n)}
    one = phi.new_ones(1)
    steps = GradientFlow(c.tolerance, implicit=True)
    for state in flow(
        machine, start, phi * math.sqrt(n), task.y, one, 1e-4 * one, c.loss, steps, c.max_steps
    ):
        last = state
    output = phi_test @ last.params["weight"][0, 0]
    return probes.error_rate(output, task.y_test).item(), bool(last.converged[0])


def run(configs: list[Lazy], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Trains configs that differ in seed and scaled_alpha side by side."""
    c = configs[0]
    data = task(c.dataset, c.n, c.n_test, c.pca, c.network == "fc", c.data_seed, c.dtype, device)
    module = network(c, data.x)
    params = models.initialise_stack(module, [d.seed for d in configs], data.x.dtype, device)
    runs = [Run(d, module, select(params, i), data) for i, d in enumerate(configs)]
    for each in runs:
        each.initial()
    if c.max_steps == 0:
        yield from ((i, each.rows, {}) for i, each in enumerate(runs))
        return
    scaled = torch.tensor([d.scaled_alpha for d in configs], dtype=data.x.dtype, device=device)
    unit = scaled.clamp(max=1.0)  # t1, the time to fit, is about sqrt(h) alpha, and O(1) when lazy
    due, t1 = 1e-3 * unit, torch.full_like(unit, math.nan)
    alpha = scaled / math.sqrt(c.width)
    for state in flow(
        module, params, data.x, data.y, alpha, 1e-4 * unit, c.loss, rule(c), c.max_steps
    ):
        k, done = state.index, state.converged | state.failed
        fitted = t1[k].isnan() & (state.loss * alpha[k] ** 2 < 0.5)
        t1[k] = torch.where(fitted, state.t, t1[k])
        for i in fitted.nonzero().flatten().tolist():
            runs[k[i]].growth(state, i)
        now = (state.t >= due[k]) & ~done
        for i in now.nonzero().flatten().tolist():
            runs[k[i]].snapshot(state, i)
        passed = ((state.t / due[k]).log10() * PER_DECADE).floor() + 1
        due[k] = torch.where(now, due[k] * 10 ** (passed / PER_DECADE), due[k])
        for i in done.nonzero().flatten().tolist():
            j = k[i].item()
            yield j, *runs[j].finish(state, i, t1[j].item())
            runs[j] = None  # its snapshots are not needed any more


def _rms(x: Tensor) -> Tensor:
    return probes.rms(x.unsqueeze(0))


def _norm(params: Params) -> Tensor:
    return norm({k: v[None] for k, v in params.items()})
