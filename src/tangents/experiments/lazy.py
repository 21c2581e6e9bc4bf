"""Lazy or feature learning by output scale and width: Geiger et al. (2019; 2020).

A network trains by gradient flow on F = alpha (f - f0). Small alpha forces the weights, and with
them the tangent kernel, to move; large alpha leaves both in place.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from tangents import kernels, models, probes
from tangents.datasets import DATASETS, Task, parity
from tangents.declaration import Experiment, accept, records
from tangents.experiments.lazy_claims import CLAIMS
from tangents.functional import Params, difference, norm, select
from tangents.losses import LOSSES
from tangents.ntk import ntk, tangent
from tangents.train import ContinuousMomentum, Flow, GradientFlow, Problem, flow

NTK_EXAMPLES = 200  # first test examples, on which the change of the kernel is measured
PER_DECADE = 4  # snapshots a decade of training time
KEPT = 5000  # outputs on the first test examples, kept where a claim needs them


@dataclass(frozen=True)
class Lazy:
    """One network: `scaled_alpha` is sqrt(width) times the output scale alpha of the paper."""

    part: str = "phase"  # which part of the chapter the run belongs to
    dataset: str = "mnist"
    pca: int = 10  # principal components kept and whitened; 0: none
    n: int = 1000
    n_test: int = 5000
    network: str = "fc"  # or "conv"
    depth: int = 5  # hidden layers
    width: int = 64
    bias: bool = True
    activation: str = "softplus"
    scaled_alpha: float = 1.0
    loss: str = "soft_hinge"
    dynamics: str = "gradient_flow"  # or "momentum", the continuous one
    implicit: bool = True  # linearly implicit steps where the flow is stiff; else Euler's
    tolerance: float = 1e-2  # on the turn of the gradient in a step; inf: bound the output alone
    max_steps: int = 20_000  # attempts; 0: only what is known at initialisation
    frozen: int = 0  # kernels frozen along training and learnt with; from 2 on first and last too
    keep_output: bool = False
    dtype: str = "float64"
    seed: int = 0

    def __post_init__(self):
        for name in ("n", "n_test", "depth", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.scaled_alpha < math.inf:
            raise ValueError(f"scaled_alpha must be positive and finite, got {self.scaled_alpha}")
        for name in ("max_steps", "frozen", "pca"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")
        accept("dataset", self.dataset, DATASETS)
        accept("network", self.network, ("fc", "conv"))
        if self.network == "conv" and self.dataset == "digits":
            raise ValueError("the images of digits, 8 x 8, are too small for network='conv'")
        accept("dynamics", self.dynamics, ("gradient_flow", "momentum"))
        accept("loss", self.loss, LOSSES)
        accept("activation", self.activation, models.ACTIVATIONS)
        accept("dtype", self.dtype, ("float64", "float32"))


@lru_cache(maxsize=4)
def task(dataset: str, n: int, n_test: int, pca: int, flat: bool, dtype: str, device: str) -> Task:
    return parity(dataset, n, n_test, pca, flat, dtype=getattr(torch, dtype), device=device)


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
        return torch.func.functional_call(self.module, params, (x,))[..., 0]

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
        arrays = {"test_output": output[:KEPT].cpu().numpy().astype(np.float16)}
        return self.rows, arrays if self.config.keep_output else {}

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
    train, test = tangent(module, params, task.x), tangent(module, params, task.x_test)
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
    data = task(c.dataset, c.n, c.n_test, c.pca, c.network == "fc", c.dtype, device)
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


FEATURE_TO_LAZY = [10.0**e for e in (-2, -1, 0, 1, 1.5, 2, 2.5, 3, 4)]
SEEDS, FEW, MANY, FRESH = range(5), range(3), range(10), range(5, 15)
BORDER = [10.0**e for e in (1, 1.5, 2, 2.5)]
SMALL = dict(n=200, n_test=1000)
MILD = dict(part="integrator", width=32, scaled_alpha=[1.0, 1e1, 1e3], seed=FEW, **SMALL)
MILD |= dict(keep_output=True)
FEATURE = dict(scaled_alpha=1.0)  # beyond, momentum's explicit steps do not converge in minutes
ENDS = dict(scaled_alpha=[1.0, 1e3])
RELU = dict(part="relu", activation="relu", tolerance=math.inf)
CONV = dict(part="conv", network="conv", activation="relu", pca=0, tolerance=math.inf)

# The sweep of the paper, three values a decade; outputs are kept where a claim needs them.
PAPER_SCALES = [10.0 ** (k / 3) for k in range(-9, 16)]
PAPER_KEPT = [1e-2, 1.0, 1e4]
PAPER = dict(n=5000, n_test=50_000, tolerance=1e-4)

# fmt: off
PRESETS = {
    "smoke": [
        dict(part="phase", dataset="digits", n=60, n_test=200, depth=2, width=[8, 16],
             scaled_alpha=[0.1, 10.0, 1000.0], seed=range(2), keep_output=True),
        dict(part="frozen", dataset="digits", n=60, n_test=200, depth=2, width=8, scaled_alpha=0.1,
             frozen=2),
    ],
    "book": [  # the longest stacks first, so that no worker waits for another at the end
        dict(n=150, width=4, scaled_alpha=[1.0, 1e3], seed=SEEDS, **CONV),
        dict(tolerance=1e-4, implicit=False, max_steps=100_000, **MILD),
        dict(dynamics="momentum", implicit=False, max_steps=100_000, **(MILD | FEATURE)),
        dict(part="phase", width=[32, 64, 128], scaled_alpha=FEATURE_TO_LAZY, seed=SEEDS,
             keep_output=True),
        dict(part="frozen", width=64, scaled_alpha=[1e-1, 1.0, 1e2], seed=SEEDS, frozen=5),
        dict(part="fashion", dataset="fashion-mnist", pca=0, depth=3, bias=False, width=[32, 256],
             scaled_alpha=[1e-2, 1e4], seed=SEEDS),
        dict(part="border", width=[16, 32, 64, 128, 256], scaled_alpha=BORDER, seed=MANY, **SMALL),
        dict(part="velocity", width=[128, 256, 512, 1024, 2048], max_steps=0, n=200, n_test=200,
             seed=FRESH),
        dict(tolerance=[1e-2, 1e-4], **MILD),
        dict(tolerance=1e-6, max_steps=100_000, **(MILD | ENDS)),
        dict(part="depth", depth=[1, 2, 3, 4, 5], width=100, scaled_alpha=[1e-3, 1e-2, 1e-1],
             seed=SEEDS, **SMALL),
        dict(part="residual", width=[16, 32, 64, 128, 256], scaled_alpha=[1e3, 1e5], seed=MANY,
             **SMALL),
        dict(width=[64, 128], scaled_alpha=[2e2, 2e3, 2e4], seed=FRESH, **RELU, **SMALL),
    ],
    "paper": [
        dict(part="velocity", width=[2**k for k in range(7, 13)], max_steps=0, n=200, n_test=200,
             seed=MANY),
        dict(part="depth", depth=[1, 2, 3, 4, 5, 7, 9], width=400,
             scaled_alpha=[1e-3, 1e-2, 1e-1], n=1000, n_test=1000, seed=MANY),
        dict(part="border", width=[2**k for k in range(4, 11)], scaled_alpha=BORDER, n=1000,
             n_test=1000, seed=range(20)),
        dict(part="residual", width=[2**k for k in range(4, 12)], scaled_alpha=[1e3, 1e4, 1e5],
             n=1000, n_test=1000, seed=MANY),
        dict(width=[100, 200, 400, 800], scaled_alpha=[2e2, 1e3, 1e4, 1e5, 1e6], n=1000,
             n_test=1000, seed=MANY, **RELU),
        dict(part="phase", width=[100, 200, 400, 800], seed=MANY, keep_output=True,
             scaled_alpha=PAPER_KEPT, **PAPER),
        dict(part="phase", width=[100, 200, 400, 800], seed=MANY,
             scaled_alpha=[s for s in PAPER_SCALES if s not in PAPER_KEPT], **PAPER),
        dict(part="frozen", width=400, scaled_alpha=[1e-2, 1.0, 1e2], seed=SEEDS, frozen=9,
             **PAPER),
        dict(tolerance=[1e-2, 1e-4], **MILD),
        dict(tolerance=1e-6, max_steps=100_000, **MILD),
        dict(tolerance=1e-4, implicit=False, max_steps=200_000, **MILD),
        dict(dynamics="momentum", implicit=False, max_steps=200_000, **(MILD | FEATURE)),
        dict(part="fashion", dataset="fashion-mnist", pca=0, depth=3, bias=False, n=10_000,
             n_test=50_000, width=[100, 300, 1000], scaled_alpha=[1e-2, 1e4], seed=MANY),
        dict(n=5000, n_test=50_000, width=[16, 32, 64], scaled_alpha=[1e-1, 1e1, 1e3], seed=FEW,
             implicit=False, max_steps=200_000, **CONV),
    ],
}
# fmt: on

EXPERIMENT = Experiment(
    name="lazy",
    version=2,
    config=Lazy,
    presets=PRESETS,
    stack=("scaled_alpha", "seed"),
    run=run,
    claims=CLAIMS,
    tolerances={"*": (0.05, 1e-6), "error": (0.0, 0.005), "frozen_error": (0.0, 0.005)},
)
