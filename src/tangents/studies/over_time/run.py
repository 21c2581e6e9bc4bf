"""The kernel over time: Fort and co-authors (2020), and alignment before the loss falls.

A network trains; from points of the way pairs of children go on with batches of their own, and the
network linearised there learns, beside the network itself at the same low rate.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from tangents import kernels, models, probes
from tangents.data.tasks import Task, classes, parity, shuffled
from tangents.descent import Descent, epochs, momentum, updates
from tangents.empirical import ntk
from tangents.flow import GradientFlow, flow
from tangents.functional import (
    Linearised,
    Params,
    difference,
    linearise,
    norm,
    outputs,
    select,
    stack,
)
from tangents.lab.study import records
from tangents.linearised import matrix
from tangents.losses import CROSS_ENTROPY
from tangents.problem import Problem
from tangents.studies.over_time.config import LEARNT, OverTime

PROBE = 60  # first test examples, on which kernels of classifiers are measured
SHARED = 1000  # first training examples, on which errors are
MEMORY = 0.9  # of momentum
FIRST, PER_OCTAVE = 0.1, 2  # epochs to the first look, and looks in a doubling of the time
LAG = 0.4  # epochs between the two kernels of a velocity
SPAWNED = (0.0, 0.2, 0.8, 3.2, 12.8)  # epochs at which pairs of children begin
POINTS = 5  # places between two children
FLOWN = 100  # first training and test examples, on which those of a flow are
PER_DECADE = 16  # looks at a flow in ten times the time
PLANTED = 6  # walks that are drawn to be compared with
ANOTHER = 1_000_003  # from a seed to that of another draw


@lru_cache(maxsize=4)
def task(c: OverTime, device: str) -> Task:
    """All classes by SGD, odd against even by flow."""
    options = dict(seed=c.seed if c.data_seed < 0 else c.data_seed, device=device)
    options |= dict(dtype=getattr(torch, c.dtype))
    if c.train == "flow":
        return parity(c.dataset, c.n, c.n_test, c.pca, **options)
    data = classes(c.dataset, c.n, c.n_test, c.pool, c.network == "fc", **options)
    if c.shuffled:
        data = shuffled(data, options["seed"] + ANOTHER)
    return data


def network(c: OverTime, x: Tensor, classes: int) -> nn.Module:
    """The network that the config declares, for inputs like x (n, ...)."""
    options = dict(c=classes, activation=c.activation)
    if c.network == "conv":
        layers = models.UnscaledConv2d, models.Unscaled
        return models.ConvNet(x.shape[1], c.width, side=3, layers=layers, **options)
    layer = models.Linear if c.train == "flow" else models.Unscaled
    return models.MLP(x.shape[1], c.width, c.depth, layer=layer, **options)


def start(c: OverTime, module: nn.Module, device: str) -> Params:
    """The initial weights, a stack of one: of variance one over the fan-in where unscaled."""
    params = models.initialise_stack(module, [c.seed], getattr(torch, c.dtype), device)
    if c.train == "flow":
        return params
    return {
        name: w / math.sqrt(w[0, 0].numel()) if name.endswith("weight") else w
        for name, w in params.items()
    }


def looks(c: OverTime) -> list[float]:
    """Epochs at which the network is measured: at equal ratios, and at both ends."""
    count = math.ceil(PER_OCTAVE * math.log2(c.epochs / FIRST) - 1e-9)
    return [0.0, *(FIRST * 2 ** (k / PER_OCTAVE) for k in range(count)), float(c.epochs)]


# ---- training


def trained(
    module: nn.Module,
    params: Params,
    data: Task,
    rate: float,
    batches: Iterable,
    at: Sequence[int],
    memory: Params | None = None,
) -> dict[int, Descent]:
    """SGD with momentum on the cross-entropy of f, for a stack: its states at these steps."""
    b = len(next(iter(params.values())))
    ones = torch.ones(b, dtype=data.x.dtype, device=data.x.device)
    begun = Problem.start(module, params, data.x, data.y, ones, CROSS_ENTROPY)
    problem = replace(begun, f0=torch.zeros_like(begun.f0))  # f itself, not what it has moved
    wanted = set(at)
    states = updates(problem, params, momentum(rate, MEMORY), max(at), batches, memory)
    return {state.step: state for state in states if state.step in wanted}


class Record:
    """One network, its way, and rows of what is measured on it."""

    def __init__(self, c: OverTime, data: Task, device: str):
        self.c, self.data, self.device = c, data, device
        self.module = network(c, data.x, data.y.shape[1])
        self.params0 = start(c, self.module, device)
        self.rows: list[dict] = []
        self.probe, self.labels = data.x_test[:PROBE], data.y_test[:PROBE]
        self.splits = dict(
            train=(data.x[:SHARED], data.y[:SHARED]), test=(data.x_test, data.y_test)
        )
        self.f0 = self.f(self.params0, data.x_test)
        self.kernel0 = self.kernel(self.params0)
        self.patterns0 = probes.patterns(self.module, self.params0, self.probe)
        self.hidden0 = self.hidden(self.params0)
        self.layers = [*range(1, len(self.hidden0)), "last"]

    def step(self, epoch: float) -> int:
        return round(epoch * math.ceil(self.c.n / self.c.batch))

    def batches(self, draw: int) -> Iterator[Tensor]:
        """Those of the network itself (0), of its children (1, 2), of what is linearised (3)."""
        seed = self.c.seed if self.c.data_seed < 0 else self.c.data_seed
        generator = Generator().manual_seed(seed + draw * ANOTHER)
        return epochs(self.c.n, self.c.batch, generator)

    def row(self, epoch: float, split: str, **metrics: float | Tensor) -> None:
        self.rows += records(self.step(epoch), epoch, split, **metrics)

    # ---- measures of one network, a stack of one

    def f(self, params: Params, x: Tensor) -> Tensor:
        with torch.no_grad():
            return outputs(self.module, params, x)

    def kernel(self, params: Params) -> Tensor:
        """Of all outputs, (n, n, c, c), in double precision: near kernels are compared."""
        params = {k: v.double() for k, v in params.items()}
        return ntk(self.module, params, self.probe.double())[0]

    def hidden(self, params: Params) -> list[Tensor]:
        """Gram matrices of the states of each hidden layer."""
        with torch.no_grad():
            states = probes.preactivations(self.module, params, self.probe)
        acted = [self.module.activation(z[0]).flatten(1).double() for z in states]
        return [a @ a.mT for a in acted]

    def planted(self) -> None:
        """Walks upwards that have nothing to do with each other: a null for correlations."""
        generator = Generator().manual_seed(self.c.seed + 4 * ANOTHER)
        seen = looks(self.c)
        walks = torch.rand(len(seen), PLANTED, generator=generator).cumsum(0)
        for epoch, heights in zip(seen, walks, strict=True):
            self.row(epoch, "test", **{f"planted_{k}": v for k, v in enumerate(heights, 1)})

    def error(self, split: str):
        x, y = self.splits[split]
        return lambda params: probes.misclassified(self.f(params, x), y)

    def nonlinear(self, params: Params) -> Tensor:
        """|f_t - f_0 - J_0 dw| / |f_t - f_0| on the test examples."""
        with torch.no_grad():
            linear = linearise(self.module, self.params0)(params, self.data.x_test)
        f = self.f(params, self.data.x_test)
        return torch.linalg.norm(f - linear) / torch.linalg.norm(f - self.f0)

    def measure(self, epoch: float, params: Params, later: Params, latest: Params) -> None:
        """What is measured on the network; its kernels one and two `LAG` later give velocities."""
        kernel = self.kernel(params)
        full, full0 = matrix(kernel), matrix(self.kernel0)
        ahead, twice = (matrix(self.kernel(each)) for each in (later, latest))
        trace = kernel.diagonal(dim1=-2, dim2=-1).sum(-1)
        pairs = zip(self.hidden(params), self.hidden0, strict=True)
        for split, (x, y) in self.splits.items():
            f = self.f(params, x)
            loss = CROSS_ENTROPY.value(f[0], y).mean()
            self.row(epoch, split, **{f"loss_{split}": loss,
                                      f"error_{split}": probes.misclassified(f, y)})  # fmt: skip
        self.row(
            epoch, "test",
            kernel_turn=1 - kernels.cosine(full, full0),
            kernel_change=kernels.distance(full, full0),
            kernel_velocity=kernels.velocity(ahead, full, LAG),
            kernel_velocity_twice=kernels.velocity(twice, full, 2 * LAG),
            alignment=kernels.centred_alignment(trace, (self.labels @ self.labels.mT).double()),
            pattern=probes.pattern_distance(
                probes.patterns(self.module, params, self.probe), self.patterns0),
            moved=norm(difference(params, self.params0)) / norm(self.params0),
            **{f"cka_{name}": kernels.centred_alignment(a, b)
               for name, (a, b) in zip(self.layers, pairs, strict=True)},
        )  # fmt: skip
        if epoch:
            self.row(epoch, "test", nonlinear=self.nonlinear(params))

    # ---- what begins on the way

    def children(self, begun: dict[float, Descent]) -> None:
        """Pairs that go on from the same weights and velocity: barriers between their ends."""
        params, velocity = (
            stack([select(getattr(state, name), 0) for state in begun.values()])
            for name in ("params", "memory")
        )
        last = self.step(self.c.epochs)
        first, second = (
            trained(self.module, params, self.data, self.c.rate, self.batches(draw), [last],
                    velocity)[last].params
            for draw in (1, 1 if self.c.same else 2)
        )  # fmt: skip
        for split in self.splits:
            heights = probes.barrier(self.error(split), first, second, POINTS)
            for epoch, height in zip(begun, heights, strict=True):
                self.row(epoch, split, **{f"barrier_{split}": height})

    def learners(self, begun: dict[float, Descent]) -> None:
        """The network linearised on the way, and beside it the network itself, at a low rate."""
        c, last = self.c, self.step(self.c.learn)
        for epoch, state in begun.items():
            tangent = Linearised(self.module, state.params)
            for name, module, params in (
                ("linear", tangent, tangent.named(state.params)),
                ("beside", self.module, state.params),
            ):
                found = trained(module, params, self.data, c.learn_rate, self.batches(3), [last])
                with torch.no_grad():
                    f = outputs(module, found[last].params, self.data.x_test)
                error = probes.misclassified(f, self.data.y_test)
                self.row(epoch, "test", **{f"error_{name}": error})


def sgd(c: OverTime, device: str) -> list[dict]:
    """A network by SGD, its children and what is linearised on its way."""
    record = Record(c, task(c, device), device)
    seen = looks(c)
    later = [epoch + lag for epoch in seen for lag in (LAG, 2 * LAG)]
    at = [record.step(epoch) for epoch in (*seen, *later, *SPAWNED, *LEARNT)]
    way = trained(record.module, record.params0, record.data, c.rate, record.batches(0), at)
    for epoch in seen:
        record.measure(epoch, *(way[record.step(epoch + k * LAG)].params for k in range(3)))
    if c.children:
        record.children({epoch: way[record.step(epoch)] for epoch in SPAWNED})
    if c.learn:
        record.learners({epoch: way[record.step(epoch)] for epoch in (*LEARNT, float(c.epochs))})
    end = way[record.step(c.epochs)].loss
    record.row(float(c.epochs), "train", converged=bool(end.isfinite().all()))
    record.planted()
    return record.rows


# ---- gradient flow


class Flown:
    """Rows of one network that trains by gradient flow."""

    def __init__(self, module: nn.Module, params0: Params, data: Task):
        self.module, self.rows, self.t1 = module, [], math.nan
        self.probes = dict(train=(data.x[:FLOWN], data.y[:FLOWN]),
                           test=(data.x_test[:FLOWN], data.y_test[:FLOWN]))  # fmt: skip
        self.kernels0 = self.kernels(params0)

    def kernels(self, params: Params) -> list[Tensor]:
        """On training and on test examples."""
        return [ntk(self.module, params, x, outputs="trace")[0] for x, _ in self.probes.values()]

    def measure(self, step: int, t: float, params: Params, loss: float) -> None:
        found = zip(self.probes.items(), self.kernels(params), self.kernels0, strict=True)
        for (split, (_, y)), k, k0 in found:
            name = "alignment" if split == "test" else "alignment_train"
            aligned = {name: kernels.centred_alignment(k, torch.outer(y, y))}
            change = dict(kernel_change=kernels.distance(k, k0)) if split == "test" else {}
            self.rows += records(step, t, split, **aligned, **change)
        self.rows += records(step, t, "train", loss_train=loss)


def flows(configs: list[OverTime], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Gradient flow at several output scales, side by side."""
    c = configs[0]
    data = task(c, device)
    module = network(c, data.x, 1)
    params = stack([select(start(d, module, device), 0) for d in configs])
    scaled = torch.tensor([d.scaled_alpha for d in configs], dtype=data.x.dtype, device=device)
    unit, alpha = scaled.clamp(max=1.0), scaled / math.sqrt(c.width)  # t1 is about sqrt(h) alpha
    each = [Flown(module, select(params, slice(i, i + 1)), data) for i in range(len(configs))]
    due = 1e-3 * unit
    rule = GradientFlow(1e-2, 0.1, True)
    for state in flow(
        module, params, data.x, data.y, alpha, 1e-4 * unit, "soft_hinge", rule, c.max_steps
    ):
        done = state.converged | state.failed
        for i, k in enumerate(state.index.tolist()):
            step, t, run = state.step[i].item(), state.t[i].item(), each[k]
            loss = (state.loss[i] * alpha[k] ** 2).item()
            if math.isnan(run.t1) and loss < 0.5:
                run.t1 = t
            if t >= due[k] or done[i] or not run.rows:
                run.measure(step, t, select(state.params, slice(i, i + 1)), loss)
                while due[k] <= t:
                    due[k] *= 10 ** (1 / PER_DECADE)
            if done[i]:
                ended = dict(converged=state.converged[i], t1=run.t1)
                yield k, run.rows + records(step, t, "train", **ended), {}


def run(configs: list[OverTime], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Flows that differ in the output scale run side by side; SGD one by one."""
    if configs[0].train == "flow":
        yield from flows(configs, device)
        return
    for i, c in enumerate(configs):
        yield i, sgd(c, device), {}
