"""Exact Gauss-Newton steps in reversible networks: Buffelli et al. (2024).

A network is trained by steps that move its outputs, to first order, straight to what the loss asks
of them. Many changes of the weights do that, all right inverses of the Jacobian; which one is taken
decides what happens where the network was not asked.
"""

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from tangents import kernels, models, probes
from tangents.curvature import gauss_newton
from tangents.data.sets import TABLES
from tangents.data.tasks import Task, classes, shuffled, table
from tangents.descent import (
    Batch,
    Descent,
    Rule,
    adam,
    epochs,
    gradient_descent,
    momentum,
    updates,
)
from tangents.empirical import jacobian, ntk
from tangents.functional import Params, call, difference, inner, linearise, norm, select, stack
from tangents.functional import outputs as outputs_of
from tangents.lab.study import records
from tangents.losses import OUTPUT_LOSSES, SQUARED, newton
from tangents.problem import Problem
from tangents.reversible import RevMLP, cholesky, damped, right_inverse, truncated
from tangents.studies.gauss_newton.config import EXACT, GaussNewton

DIVERGED = 3.0  # times the first loss: training has diverged
PROBES = 50  # test examples on which kernels are compared
LOOKS = 10  # steps of an epoch whose effect on the loss is measured
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}  # of the minimum-norm step's conjugate gradients
_FIRST = re.compile(r"blocks\.\d+\.0\.")  # the weights of a first half
RIDGE = 1e-3  # of a linear probe and of kernel regression, over the kernel's mean diagonal


@lru_cache(maxsize=4)
def _task(name, pool, n, n_test, seed, dtype, device) -> Task:
    where = dict(seed=seed, dtype=getattr(torch, dtype), device=device)
    if name in TABLES:
        return table(name, n, n_test, **where)
    return classes(name, n, n_test, pool, **where)


def task(c: GaussNewton, device: str) -> Task:
    """Training and test examples with an even number of inputs, of which the first half goes to
    the first half of the network."""
    data = _task(c.dataset, c.pool, c.n, c.n_test, c.seed, c.dtype, device)

    def arranged(x: Tensor) -> Tensor:
        if c.layout == "both":
            return torch.cat([x, x], 1)
        x = torch.cat([x, torch.zeros_like(x[:, : x.shape[1] % 2])], 1)
        return torch.cat([x[:, 0::2], x[:, 1::2]], 1) if c.layout == "interleaved" else x

    data = Task(arranged(data.x), data.y, arranged(data.x_test), data.y_test)
    return shuffled(data, c.seed) if c.shuffled else data


def network(c: GaussNewton, data: Task) -> tuple[nn.Module, Params]:
    """The network and its initial weights, a stack of one."""
    d, outputs = data.x.shape[1], data.y.shape[1]
    if c.network == "mlp":
        module = models.MLP(d, c.width, 2 * c.blocks, outputs, c.activation)
        params = models.initialise(module, c.seed, data.x.dtype, data.x.device)
    else:
        module = RevMLP(d, c.width, c.blocks, outputs, c.seed, c.activation, c.first)
        module = module.to(data.x.device, data.x.dtype)
        params = module.initial(c.seed, c.std, data.x.dtype, data.x.device)
    return module, stack([params])


# ---- steps


def asked(c: GaussNewton, here: Batch) -> Tensor:
    """What the outputs f are asked to lose: the gradient of each example's loss, or Newton's
    step."""
    loss, F, y = here.problem.loss, here.point.output, here.problem.y
    g = newton(loss, F, y.expand_as(F)) if c.hessian else loss.gradient(F, y)
    return g / c.alpha


def reversible(c: GaussNewton, module: RevMLP, here: Batch) -> Params:
    """The reversible right inverse."""
    solver = truncated(c.rtol) if c.rtol else damped(c.damping) if c.damping else cholesky
    shares = None if c.shares == "equal" else [0.0] * (c.blocks - 1) + [1.0]
    eps = asked(c, here)
    return right_inverse(module, here.params, here.problem.x, eps, solver, c.correction, shares)


def minimum(c: GaussNewton, module: nn.Module, here: Batch, eps: Tensor | None = None) -> Params:
    """The change of minimum norm, -J^+ eps, by conjugate gradients; with a metric g of the norm in
    which changes of the first halves' weights count 1 / g."""
    J = here.point.jacobian or jacobian(module, here.params, here.problem.x)
    size = {name: c.weighting**0.5 if _FIRST.match(name) else 1.0 for name in here.params}
    if c.weighting != 1:
        J = replace(J, factors=tuple(replace(f, b=size[f.weight] * f.b) for f in J.factors))
    options = dict(damping=c.damping, relative=True, dense=False, tolerance=TOLERANCE[c.dtype])
    if c.hessian and eps is None:
        target = here.problem.y.expand_as(J.value)
        found = gauss_newton(J, target, here.problem.loss, **options)
    else:
        eps = asked(c, here) if eps is None else eps
        found = gauss_newton(J, J.value - eps, SQUARED, **options)
    return {name: size[name] * v for name, v in found.params.items()}


def at_random(c: GaussNewton, module: RevMLP, here: Batch, generator: Generator) -> Params:
    """A right inverse drawn at random among those whose change is as long as the reversible one:
    the minimum-norm change, and beside it a direction that outputs do not feel."""
    J = jacobian(module, here.params, here.problem.x)
    least, other = minimum(c, module, here), reversible(c, module, here)
    aside = _drawn(least, generator)
    felt = minimum(c, module, here, J.jvp(aside))
    aside = {k: v + felt[k] for k, v in aside.items()}
    length = (inner(other, other) - inner(least, least)).clamp(min=0).sqrt() / norm(aside)
    return {k: least[k] + length.view(-1, *[1] * (v.dim() - 1)) * v for k, v in aside.items()}


def _drawn(like: Params, generator: Generator) -> Params:
    """A direction with entries N(0, 1)."""
    return {k: models.normal(v.shape, generator).to(v) for k, v in like.items()}


def rule(c: GaussNewton, module: nn.Module, step: str, rate: float) -> Rule:
    """The update by one kind of step, with what is added to it."""
    descents = dict(adam=adam, sgd=gradient_descent, momentum=momentum)
    generator = Generator().manual_seed(c.seed)
    if step in descents:
        return _beside(c, descents[step](rate), rate, generator)

    def move(here: Batch, state):
        if step == "random":
            change = at_random(c, module, here, generator)
        else:
            change = dict(reversible=reversible, minimum=minimum)[step](c, module, here)
        return {k: v + rate * change[k] for k, v in here.params.items()}, state

    found = Rule(lambda _: (), move, factored=step == "minimum")
    return _beside(c, found, rate, generator)


def _beside(c: GaussNewton, found: Rule, rate: float, generator: Generator) -> Rule:
    """The rule with decay of the weights and with noise."""
    if not (c.decay or c.noise):
        return found

    def step(here: Batch, state):
        params, state = found.step(here, state)
        moved = difference(params, here.params)
        noise = _drawn(moved, generator)
        size = c.noise * (norm(moved) / norm(noise)).item()
        kept = rate * c.decay
        return {k: v + moved[k] - kept * v + size * noise[k] for k, v in here.params.items()}, state

    return Rule(found.init, step, found.factored)


# ---- measures


def error(output: Tensor, y: Tensor) -> float:
    """Share of examples whose class is not that of the largest output; of real targets the mean
    squared error over their variance."""
    if y.shape[-1] == 1:
        return ((output - y).square().mean() / y.var(correction=0)).item()
    return probes.misclassified(output, y).item()


def linear_cka(a: Tensor, b: Tensor) -> float:
    """CKA of two representations (n, p) of the same examples (Kornblith et al. 2019)."""
    return kernels.centred_alignment(a @ a.mT, b @ b.mT).item()


class Record:
    """Rows of one network, whose predictor is F = f, or alpha (f - f0) if centred."""

    def __init__(self, c: GaussNewton, module: nn.Module, params0: Params, data: Task):
        self.c, self.module, self.params0, self.data = c, module, params0, data
        self.rows: list[dict] = []
        self.loss = OUTPUT_LOSSES[c.loss]
        alpha = data.x.new_full((1,), c.alpha)
        problem = Problem.start(module, params0, data.x, data.y, alpha, self.loss)
        f0 = problem.f0 if c.centred else torch.zeros_like(problem.f0)
        self.problem = replace(problem, f0=f0)

    def row(self, step: int, at: float, split: str, **metrics) -> None:
        self.rows += records(step, at, split, **metrics)

    @torch.no_grad()
    def F(self, params: Params, x: Tensor) -> Tensor:
        f = torch.cat([outputs_of(self.module, params, some) for some in x.split(2000)], 1)[0]
        if self.c.centred:
            f = self.c.alpha * (f - outputs_of(self.module, self.params0, x)[0])
        return f

    @torch.no_grad()
    def sound(self, params: Params) -> bool:
        """Whether the outputs on all examples are finite."""
        return all(
            bool(self.F(params, x).isfinite().all()) for x in (self.data.x, self.data.x_test)
        )

    def mean_loss(self, params: Params, x: Tensor, y: Tensor) -> float:
        return self.loss.value(self.F(params, x), y).mean().item()

    def look(self, step: int, at: float, params: Params) -> float:
        """Losses and test error; returns the training loss."""
        d = self.data
        loss, output = self.mean_loss(params, d.x, d.y), self.F(params, d.x_test)
        self.row(step, at, "train", loss=loss)
        test_loss = self.loss.value(output, d.y_test).mean()
        self.row(step, at, "test", error=error(output, d.y_test), test_loss=test_loss)
        return loss

    @torch.no_grad()
    def states(self, params: Params) -> list[Tensor]:
        """The state after each block on test examples, (m, d) each."""
        x = self.data.x_test[:500]
        found = call(self.module, select(params, 0), x, states=True)
        return [torch.cat(halves, -1) for halves in found[1:]]

    def features(self, step: int, at: float, params: Params) -> None:
        """How far kernel, features and weights are from their start, and what they are worth for
        others: by regression with the kernel, and with the last states."""
        d, start, now = self.data, select(self.params0, 0), select(params, 0)
        x = d.x_test[:PROBES]
        first, last = (ntk(self.module, w, x).flatten(2).movedim(-1, 0) for w in (start, now))
        turned = kernels.cosine(last.flatten(0, 1), first.flatten(0, 1)).item()
        centred = kernels.centred_alignment(_trace(last), _trace(first))
        self.row(step, at, "test", kernel_cosine=turned, kernel_change=1 - turned,
                 kernel_cka=centred)  # fmt: skip
        k, k_test = (ntk(self.module, now, x, d.x, outputs="trace") for x in (d.x, d.x_test))
        self.row(step, at, "test", error_kernel=_regressed(k, k_test, d))
        if isinstance(self.module, RevMLP):
            for place, (a, b) in enumerate(
                zip(self.states(params), self.states(self.params0), strict=True), 1
            ):
                self.row(step, at, "test", **{f"cka_{place}": linear_cka(a, b)})
            with torch.no_grad():
                a, a_test = (
                    torch.cat(call(self.module, now, x, states=True)[-1], -1)
                    for x in (d.x, d.x_test)
                )
            self.row(step, at, "test", error_probe=_regressed(a @ a.mT, a_test @ a.mT, d))
        lengths = norm(params), norm(self.params0)
        self.row(step, at, "train", weight_ratio=lengths[0] / lengths[1],
                 weight_cosine=inner(params, self.params0) / (lengths[0] * lengths[1]),
                 distance=norm(difference(params, self.params0)))  # fmt: skip

    def first_step(self, chosen: Rule) -> None:
        """What the linearised network predicts once a whole step, of rate 1, has been made: theory
        at the start. And how far the step is from a right inverse."""
        here = Batch(self.problem, self.problem.at(self.params0, chosen.factored))
        after, _ = chosen.step(here, chosen.init(self.params0))
        change = select({k: (v - self.params0[k]) / self.c.rate for k, v in after.items()}, 0)
        start, d = select(self.params0, 0), self.data
        f_lin = linearise(self.module, start)
        end = {k: v + change[k] for k, v in start.items()}
        output = f_lin(end, d.x_test)
        if self.c.centred:
            output = self.c.alpha * (output - call(self.module, start, d.x_test))
        moved = f_lin(end, d.x) - call(self.module, start, d.x)
        eps = asked(self.c, here)[0]
        self.row(0, 0.0, "test", error_theory=error(output, d.y_test))
        self.row(0, 0.0, "train", residual=(moved + eps).norm() / eps.norm(),
                 step_length=norm({k: v[None] for k, v in change.items()}))  # fmt: skip


def _trace(kernel: Tensor) -> Tensor:
    """The sum over outputs, (n, n), of a kernel (c c, n, n)."""
    return kernel[:: math.isqrt(len(kernel)) + 1].sum(0)


def _regressed(k: Tensor, k_test: Tensor, d: Task) -> float:
    """The test error of kernel regression on the training targets."""
    ridge = RIDGE * k.diagonal().mean().item()
    f = kernels.regression(k.double(), k_test.double(), d.y.double(), ridge)
    return error(f, d.y_test)


# ---- training


def phases(c: GaussNewton) -> list[tuple[str, float, int]]:
    """Kinds of step, their rates and how many steps or epochs of each."""
    if not c.then:
        return [(c.method, c.rate, c.length)]
    return [(c.method, c.rate, c.switch), (c.then, c.then_rate, c.length - c.switch)]


def full(c: GaussNewton, record: Record) -> tuple[int, Params]:
    """Full-batch training; ends where the loss is small enough, or has diverged."""
    first = record.mean_loss(record.params0, record.data.x, record.data.y)
    looks = {round(1.3**k) for k in range(60)} | {0, c.length}
    for state in updates(
        record.problem, record.params0, rule(c, record.module, c.method, c.rate), c.length
    ):
        loss = state.loss.item() * c.alpha**2
        ended = not c.until <= loss < DIVERGED * first
        if ended or c.method in EXACT or state.step in looks:
            record.look(state.step, state.step, state.params)
        if ended:
            break
    sound = loss < (c.until or DIVERGED * first)
    record.row(state.step, state.step, "train", converged=sound, updates=state.step)
    return state.step, state.params


def effect(record: Record, before: Descent, now: Descent) -> tuple[float, float]:
    """How a step changes the loss of its own batch and of the next, in per cent."""
    own, coming = ((record.data.x[s.batch], record.data.y[s.batch]) for s in (before, now))
    scale = record.c.alpha**2
    first, last = before.loss.item() * scale, now.loss.item() * scale
    untouched = record.mean_loss(before.params, *coming)
    return 100 * (record.mean_loss(now.params, *own) / first - 1), 100 * (last / untouched - 1)


def batched(c: GaussNewton, record: Record) -> tuple[int, Params]:
    """Training in batches, with a look and the mean effect of some steps each epoch; it ends where
    the loss has diverged."""
    per, coming = math.ceil(c.n / c.batch), epochs(c.n, c.batch, Generator().manual_seed(c.seed))
    first = loss = record.look(0, 0.0, record.params0)
    done, params = 0, record.params0
    for kind, rate, many in phases(c):
        effects, before = [], None
        states = updates(record.problem, params, rule(c, record.module, kind, rate), many * per,
                         coming)  # fmt: skip
        for state in states:
            step, params = done + state.step, state.params
            if before and len(effects) < LOOKS:
                effects.append(effect(record, before, state))
            before, whole = state, state.step > 0 and step % per == 0
            if whole or not math.isfinite(state.loss.item()):
                loss = record.look(step, step / per, params)
                own, other = (sum(v) / len(v) for v in zip(*effects, strict=True))
                record.row(step, step / per, "train", change_own=own, change_next=other)
                effects = []
                if not loss < DIVERGED * first:
                    break
        done = step
        if not loss < DIVERGED * first:
            break
    sound = loss < DIVERGED * first
    record.row(done, done / per, "train", converged=sound, updates=done)
    return done, params


def cost(c: GaussNewton, record: Record) -> None:
    """The time of a step over that of a gradient, the least of five each."""
    here = Batch(record.problem, record.problem.at(record.params0, False))
    calls = dict(gradient=lambda: record.problem.at(record.params0, False),
                 step=lambda: reversible(c, record.module, here))  # fmt: skip
    best = {}
    for name, timed in calls.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            timed()
            times.append(time.perf_counter() - start)
        best[name] = min(times)
    record.row(0, 0.0, "train", cost=best["step"] / best["gradient"])


def run(configs: list[GaussNewton], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Trains each config by itself."""
    for i, c in enumerate(configs):
        data = task(c, device)
        record = Record(c, *network(c, data), data)
        if c.deep:
            record.features(0, 0.0, record.params0)
        try:
            if c.method in EXACT and not c.batch:
                record.first_step(rule(c, record.module, c.method, c.rate))
            if c.part == "cost":
                cost(c, record)
            step, params = (batched if c.batch else full)(c, record)
        except ValueError as refused:  # dependent features, or a system out of reach
            record.row(c.length, math.nan, "train", converged=False)
            print(f"{c.part}, seed {c.seed}: {refused}")
        else:
            if c.deep and record.sound(params):
                record.features(step, step, params)
        yield i, record.rows, {}
