"""Lazy or feature learning by output scale and width: Geiger et al. (2019; 2020).

A network trains by gradient flow on F = alpha (f - f0). Small alpha forces the weights, and with
them the tangent kernel, to move; large alpha leaves both in place. At an infinite one the first
kernel learns, and how far weights and kernel go is known up to 1/alpha.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor, nn

from tangents import kernels, models, probes
from tangents.data import tasks
from tangents.data.tasks import Task, parity
from tangents.empirical import jacobian, ntk
from tangents.factored import Jacobian
from tangents.flow import ContinuousMomentum, Flow, GradientFlow, batch_flow, flow
from tangents.functional import Params, call, difference, norm, select
from tangents.lab.study import records
from tangents.limit import Learnt, kernel_derivative, learn, moved_kernel
from tangents.losses import LOSSES
from tangents.problem import Problem
from tangents.studies.lazy.config import Lazy

NTK_EXAMPLES = 200  # first test examples, on which the change of the kernel is measured
PER_DECADE = 4  # snapshots a decade of training time
KEPT = 2000  # outputs on the first test examples, kept where a claim needs them
SHOWN = 100  # first test examples whose kernel is kept where a figure shows it
SINGLE = 100.0  # largest scaled_alpha at which passes in single precision serve a flow
CROSSED = (300, 1000, 3000, 10_000)  # output scales at which a ReLU network's kernel is asked for
ANOTHER = 1_000_003  # from a seed to that of another draw


@lru_cache(maxsize=4)
def task(
    dataset: str, n: int, n_test: int, pca: int, flat: bool, seed: int, shuffled: bool, device: str
) -> Task:
    data = parity(dataset, n, n_test, pca, flat, seed, device=device)
    return tasks.shuffled(data, seed + ANOTHER) if shuffled else data


def task_of(c: Lazy, device: str) -> Task:
    found = task(c.dataset, c.n, c.n_test, c.pca, c.network == "fc", c.draw, c.shuffled, device)
    return found.to(dtype=torch.float32) if c.dtype == "float32" else found


def network(c: Lazy, x: Tensor) -> nn.Module:
    """The network that the config declares, for inputs like x (n, ...)."""
    if c.network == "conv":
        return models.ConvNet(x.shape[1], c.width, activation=c.activation, bias=c.bias)
    return models.MLP(x.shape[1], c.width, c.depth, activation=c.activation, bias=c.bias)


def rule(c: Lazy) -> GradientFlow | ContinuousMomentum:
    """The flow's rule. Without a tolerance the output may change by 0.03 a step, else by 0.1.

    At a kink of ReLU the gradient turns by a jump, however short the step, and a tolerance would
    halt the flow there: like the paper's first version, ReLU runs bound the change of F alone.
    """
    if c.dynamics == "momentum":  # the paper: from 1e-4 to 0.01 a step
        return ContinuousMomentum(change=(0.01, 0.03))
    change = 0.03 if math.isinf(c.tolerance) else 0.1
    return GradientFlow(c.tolerance, change, c.implicit)


class Run:
    """Rows and snapshots of one network while it trains."""

    def __init__(self, config: Lazy, module: nn.Module, params0: Params, task: Task):
        self.config, self.module, self.params0, self.task = config, module, params0, task
        self.alpha = config.scaled_alpha / math.sqrt(config.width)
        self.rows: list[dict] = []
        self.snapshots: list[tuple[float, int, Params]] = [(0.0, 0, params0)]
        self.labels = task.y_test[:NTK_EXAMPLES]
        with torch.no_grad():
            self.f0 = self.f(params0, task.x)
            self.f0_test = self.f(params0, task.x_test)
        self.kernel0 = self.last = self.kernel(params0)

    def f(self, params: Params, x: Tensor) -> Tensor:
        return call(self.module, params, x)[..., 0]

    def kernel(self, params: Params) -> Tensor:
        return ntk(self.module, params, self.task.x_test[:NTK_EXAMPLES], outputs="trace")

    def row(self, step: int, time: float, split: str, **metrics: float | Tensor) -> None:
        self.rows += records(step, time, split, **metrics)

    def initial(self) -> None:
        """The speed of the preactivations at t = 0 and the size of the output."""
        one = {k: v[None] for k, v in self.params0.items()}
        scale = torch.ones_like(self.f0[:1])  # alpha cancels: F is zero yet
        x, y = self.task.x, self.task.y
        problem = Problem(self.module, x, y, LOSSES[self.config.loss], scale, self.f0[None])
        descent = {k: -v for k, v in problem.at(one, False).gradient.items()}
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
        self.last = self.kernel(params)
        self.row(
            step,
            t,
            "test",
            kernel_change=kernels.distance(self.last, self.kernel0),
            kernel_cosine=kernels.cosine(self.last, self.kernel0),
            alignment=kernels.centred_alignment(self.last, torch.outer(self.labels, self.labels)),
        )
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
        return self.rows, self.kept(output)

    def kept(self, output: Tensor) -> dict[str, np.ndarray]:
        """Outputs and kernels on the first test examples, and their labels: no raw data needed."""
        found = {}
        if self.config.keep_output:
            found |= {"test_output": array(output[:KEPT], np.float16)}
        if self.config.keep_kernel:
            pair = dict(kernel_first=self.kernel0, kernel_last=self.last)
            found |= {k: array(v[:SHOWN, :SHOWN], np.float32) for k, v in pair.items()}
        labels = {"test_label": array(self.task.y_test[:KEPT], np.int8)}
        return found | labels if found else {}

    def frozen(self) -> None:
        """Learns from scratch with the kernels of some snapshots, first and last among them."""
        places = np.linspace(0, len(self.snapshots) - 1, self.config.frozen).round().astype(int)
        for place in dict.fromkeys(places.tolist()):
            t, step, params = self.snapshots[place]
            error, converged = frozen_error(self.module, params, self.task, self.config)
            self.row(step, t, "test", frozen_error=error, frozen_converged=converged)


def array(values: Tensor, kind: type) -> np.ndarray:
    return values.cpu().numpy().astype(kind)


# ---- the first kernel, or another, learns by itself


def machine(
    module: nn.Module, params: Params, task: Task, c: Lazy
) -> tuple[Learnt, Jacobian, Tensor]:
    """What the kernel at `params` learns, the Jacobian at the training examples, and the output at
    the test examples. Raises ValueError for a kernel that is singular."""
    train, test = jacobian(module, params, task.x), jacobian(module, params, task.x_test)
    steps = GradientFlow(c.tolerance, implicit=True)
    learnt = learn(train.gram(outputs="trace"), task.y, c.loss, steps, c.max_steps)
    return learnt, train, test.gram(train, "trace") @ learnt.beta


def frozen_error(module: nn.Module, params: Params, task: Task, c: Lazy) -> tuple[float, bool]:
    """Test error of the machine that learns by the same flow with the kernel at `params`.

    And whether it fitted all training examples; (nan, False) for a kernel that is singular.
    """
    try:
        learnt, _, output = machine(module, params, task, c)
    except ValueError:
        return math.nan, False
    return probes.error_rate(output, task.y_test).item(), learnt.converged


def at_infinity(c: Lazy, device: str) -> tuple[list[dict], dict[str, np.ndarray]]:
    """A network of infinite output scale: what its first kernel learns, and `alpha_change` and
    `alpha_distance`, to which alpha times the change of kernel and weights tends. Of ReLU, whose
    kernel has no derivative, the change of the kernel where the weights have gone their way at
    sqrt(h) alpha = s, `change_s`."""
    data = task_of(c, device)
    run = Run(c, network(c, data.x), start(c, data, device), data)
    run.initial()
    if c.max_steps == 0:
        return run.rows, {}
    learnt, train, output = machine(run.module, run.params0, data, c)
    way, probe = train.vjp(learnt.beta[:, None]), data.x_test[:NTK_EXAMPLES]
    ended = learnt.steps, learnt.t
    run.row(*ended, "train", converged=learnt.converged, t1=learnt.t1, steps=learnt.steps,
            alpha_distance=_norm(way))  # fmt: skip
    run.row(*ended, "test", error=probes.error_rate(output, data.y_test))
    if c.activation == "relu":
        for scale in CROSSED:
            moved = moved_kernel(run.module, run.params0, way, probe, math.sqrt(c.width) / scale)
            run.row(*ended, "test", **{f"change_{scale}": kernels.distance(moved, run.kernel0)})
    else:
        slope = kernel_derivative(run.module, run.params0, way, probe)
        size = torch.linalg.matrix_norm(slope) / torch.linalg.matrix_norm(run.kernel0)
        run.row(*ended, "test", alpha_change=size)
    return run.rows, run.kept(output)


# ---- training


def start(c: Lazy, data: Task, device: str) -> Params:
    """The initial weights of one network."""
    module = network(c, data.x)
    return select(models.initialise_stack(module, [c.seed], data.x.dtype, device), 0)


def by_batches(c: Lazy, device: str) -> tuple[list[dict], dict[str, np.ndarray]]:
    """A network that trains by momentum on batches of examples that are not yet fitted."""
    data = task_of(c, device)
    run = Run(c, network(c, data.x), start(c, data, device), data)
    one = {k: v[None] for k, v in run.params0.items()}
    chance, t1 = Generator().manual_seed(c.seed + 2 * ANOTHER), math.nan
    dtype = torch.float32 if c.dtype == "mixed" else data.x.dtype
    for state in batch_flow(run.module, one, data.x, data.y, run.alpha, chance, loss=c.loss,
                            max_steps=c.max_steps, dtype=dtype):  # fmt: skip
        if math.isnan(t1) and state.loss[0] * run.alpha**2 < 0.5:
            t1 = state.t[0].item()
    return run.finish(state, 0, t1)


def trained(
    configs: list[Lazy], device: str, dtype: torch.dtype, again: bool = False
) -> Iterator[tuple[int, list[dict], dict]]:
    """Gradient flow of configs that differ in seed and scaled_alpha, side by side, with passes in a
    precision; where single precision fails, once more from the start in double, if `again`."""
    c = configs[0]
    data = task_of(c, device)
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
    alpha, lost = scaled / math.sqrt(c.width), []
    for state in flow(
        module, params, data.x, data.y, alpha, 1e-4 * unit, c.loss, rule(c), c.max_steps, dtype
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
            if again and state.failed[i]:
                lost.append(j)
            else:
                yield j, *runs[j].finish(state, i, t1[j].item())
            runs[j] = None  # its snapshots are not needed any more
    if lost:
        double = trained([configs[j] for j in lost], device, data.x.dtype)
        yield from ((lost[i], rows, arrays) for i, rows, arrays in double)


def run(configs: list[Lazy], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Flows that differ in seed and scaled_alpha run side by side if they share their data and the
    precision of their passes; all else one by one."""
    groups: dict[tuple, list[int]] = {}
    for i, c in enumerate(configs):
        if math.isinf(c.scaled_alpha):
            yield i, *at_infinity(c, device)
        elif c.dynamics == "batches":
            yield i, *by_batches(c, device)
        else:
            single = c.dtype == "mixed" and c.scaled_alpha <= SINGLE
            groups.setdefault((c.draw, single), []).append(i)
    for (_, single), places in groups.items():
        stack = [configs[i] for i in places]
        kind = torch.float32 if single or stack[0].dtype == "float32" else torch.float64
        for i, rows, arrays in trained(stack, device, kind, again=single):
            yield places[i], rows, arrays


def _rms(x: Tensor) -> Tensor:
    return probes.rms(x.unsqueeze(0))


def _norm(params: Params) -> Tensor:
    return norm({k: v[None] for k, v in params.items()})
