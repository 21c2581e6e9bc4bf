"""When the tangent kernel is constant, and why: Liu, Zhu and Belkin (2020).

The kernel of f changes with the weights as fast as the Hessian of f is large. Gradient descent on
the squared loss moves the weights by O(1) at every width; what becomes of the kernel meanwhile
depends on the width, on what the read-out passes through, on the narrowest layer, on the step.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.func import grad

from tangents import kernels, models, probes
from tangents.curvature import output_hessian_norm, output_hessian_top
from tangents.data.tasks import pair
from tangents.descent import Descent, gradient_descent, leaving
from tangents.empirical import ntk
from tangents.functional import (
    Params,
    axpy,
    call,
    difference,
    flatten,
    inner,
    linearise,
    norm,
    require,
    select,
    unflatten,
    where,
)
from tangents.lab.study import records
from tangents.losses import LOSSES
from tangents.problem import Problem
from tangents.studies.constancy.config import Constancy

DIMENSION = 5  # of the inputs on the sphere
RADII = (0.25, 0.5, 1, 2, 4, 8)  # of the steps on which the linear model's error is measured
SEARCHED = 10  # steps of the path of steepest ascent
EVERY = 25  # steps, each of which the kernel is looked at; then
GROWTH = 1.1  # from one look to the next
KEPT = 1.25  # from one row of the trajectory to the next, in steps
LANCZOS = dict(tolerance=1e-2, max_steps=400)  # an eigenvalue to about 1e-4 of itself
CENTRES = {  # targets lie at centre -+ size, well inside what the head can give
    "linear": (0.0, 0.7),
    "tanh": (0.0, 0.7),
    "softmax": (0.0, 0.7),
    "sigmoid": (0.5, 0.35),
    "swish": (0.7, 0.7),
}
SLOPES = {  # phi' of heads that are functions of one number, from phi
    "tanh": lambda p: 1 - p * p,
    "sigmoid": lambda p: p * (1 - p),
}


@lru_cache(maxsize=4)
def task(c: Constancy, device: str) -> tuple[Tensor, Tensor]:
    """Inputs (n, ...) and labels -+1, in turn unless the config says otherwise, (n,)."""
    kind, seed = getattr(torch, c.dtype), drawn(c)
    if c.dataset != "sphere":
        options = dict(flat=c.network != "conv", seed=seed, dtype=kind, device=device)
        data = pair(c.dataset, c.n, **options)
        return data.x, data.y
    x = torch.randn(c.n, DIMENSION, generator=Generator().manual_seed(seed), dtype=torch.float64)
    x = x * (math.sqrt(DIMENSION) / x.norm(dim=1, keepdim=True))
    sides = torch.where(x[:, 0] > 0, 1.0, -1.0) if c.labels == "halves" else _in_turn(c.n)
    return x.to(device, kind), sides.to(device, kind)


def _in_turn(n: int) -> Tensor:
    return 2.0 * (torch.arange(n) % 2) - 1


def drawn(c: Constancy) -> int:
    """The seed of the draw of inputs."""
    return c.seed if c.data_seed < 0 else c.data_seed


def network(c: Constancy, x: Tensor) -> models.Headed:
    """The network that the config declares, head and all, for inputs like x (n, ...)."""
    return _network(c.network, x.shape[1], c.width, c.depth, c.bottleneck, c.activation, c.head)


@lru_cache(maxsize=4)  # the way to a network's kernel is found once for a module
def _network(
    kind: str, d: int, width: int, depth: int, bottleneck: int, activation: str, head: str
) -> models.Headed:
    options = dict(c=2 if head == "softmax" else 1, activation=activation, bias=False)
    if kind == "conv":
        net = models.ConvNet(d, width, **options)
    elif kind == "resnet":
        net = models.ResNet(d, width, depth, **options)
    else:
        net = models.MLP(d, width, depth, bottleneck=bottleneck, **options)
    return models.Headed(net, head)


def start(module: nn.Module, configs: list[Constancy], like: Tensor) -> Params:
    """The initial weights, a network for each config."""
    seeds = [c.seed for c in configs]
    params = models.initialise_stack(module, seeds, like.dtype, str(like.device))
    drawn, equal = params["net.readout.weight"], [c.positive for c in configs]
    equal = torch.tensor(equal, device=drawn.device).view(-1, *[1] * (drawn.dim() - 1))
    return params | {"net.readout.weight": torch.where(equal, drawn.abs(), drawn)}


def in_span(c: Constancy, x: Tensor, params: Params) -> tuple[nn.Module, Tensor, Params]:
    """The same network seen on the span of its inputs x (n, d), n < d, in an orthonormal basis V.

    First weights W (m, d) become W V, of inputs x V: outputs, kernels and distances in training are
    what they were but for rounding, since weights outside of the span are read by nobody and stay.
    """
    basis = torch.linalg.svd(x, full_matrices=False).Vh  # (n, d)
    small = x @ basis.mT * math.sqrt(len(basis) / x.shape[1])  # the layer divides by sqrt(n)
    first = "net.hidden.0.weight"
    return network(c, small), small, params | {first: params[first] @ basis.mT}


def problem(c: Constancy, module: nn.Module, params: Params, x: Tensor, y: Tensor, alpha: Tensor):
    """What gradient descent works on: see `Constancy`. `alpha` (b,) counts where centred."""
    if c.centred:
        return Problem.start(module, params, x, y, alpha, "square")
    centre, size = CENTRES[c.head]
    f0 = x.new_full((len(alpha), len(x)), centre)
    return Problem(module, x, y, LOSSES["square"], torch.full_like(alpha, 1 / size), f0)


# ---- what is measured at one point


def output(module: nn.Module, params: Params, x: Tensor) -> Tensor:
    """phi(f), (b, n)."""
    return call(module, params, x)[..., 0]


def without_head(params: Params) -> Params:
    """The same parameters by the names that they have in the network under the head."""
    return {name.removeprefix("net."): value for name, value in params.items()}


def curvature(module: nn.Module, params: Params, x: Tensor, c: Constancy, seeds: list[int]) -> dict:
    """Hessian norms at the start and in the ball, and the errors of the linear model, each (b,).

    Means over the inputs x at w0 and at a random point of the ball's surface; for the first of them
    alone at the end of `climb`, with v the top eigenvector at w0. The linear model's error at
    distance r along a random direction (mean over x) and along v or -v, the worse (first x).
    """
    values, vectors = output_hessian_top(module, params, x, **LANCZOS)
    top, first = vectors[:, 0], x[:1]
    aside = torch.stack([_direction(seed, top[0]) for seed in seeds])
    linear = linearise(module, params)

    def gap(direction: Tensor, r: float, at: Tensor) -> Tensor:
        w = moved(params, direction, r)
        return (output(module, w, at) - linear(w, at)[..., 0]).abs().mean(-1)

    random, steep = moved(params, aside, c.radius), climb(module, params, first, top, c.radius)
    found = dict(
        hessian=values.abs().mean(-1),
        hessian_random=output_hessian_norm(module, random, x, **LANCZOS).mean(-1),
        hessian_steepest=output_hessian_norm(module, steep, first, **LANCZOS)[:, 0],
    )
    for r in RADII:
        found[f"linear_error_random_{r:g}"] = gap(aside, r, x)
        found[f"linear_error_top_{r:g}"] = torch.maximum(gap(top, r, first), gap(top, -r, first))
    return found


def moved(params: Params, direction: Tensor, r: float) -> Params:
    """The weights at distance r along unit vectors (b, p)."""
    return axpy(torch.full_like(direction[:, 0], r), unflatten(direction, params), params)


def _direction(seed: int, like: Tensor) -> Tensor:
    """A random unit vector (p,)."""
    generator = Generator().manual_seed(1_000_003 + seed)
    v = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    return v / v.norm()


def bend(module: nn.Module, params: Params, x: Tensor, v: Tensor) -> Tensor:
    """v^T H v, the second derivative along v (b, p) of the output at one x, and its graph: (b,)."""
    along, weights = unflatten(v, params), [*params.values()]

    def derivative(value: Tensor) -> Tensor:
        found = torch.autograd.grad(value.sum(), weights, create_graph=True, materialize_grads=True)
        return inner(dict(zip(params, found, strict=True)), along)

    return derivative(derivative(output(module, params, x)))


def climb(module: nn.Module, params: Params, x: Tensor, v: Tensor, length: float) -> Params:
    """Where |v^T H v| was largest on its path of steepest ascent, of this length, from `params`.

    H is the Hessian of the output at the one x, v (b, p) stays as it is. A network whose third
    derivative vanishes stays where it is.
    """
    here, best, most = params, params, torch.zeros_like(v[:, 0])
    for _ in range(SEARCHED + 1):
        leaves = {k: w.detach().requires_grad_() for k, w in here.items()}
        bent = bend(module, leaves, x, v).abs()
        found = torch.autograd.grad(bent.sum(), [*leaves.values()], materialize_grads=True)
        bent = bent.detach()
        best, most = where(bent > most, here, best), torch.maximum(bent, most)
        g = flatten(dict(zip(leaves, found, strict=True)))
        uphill = g / g.norm(dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
        here = moved(here, uphill, length / SEARCHED)
    return best


def head_curvature(module: models.Headed, params: Params, x: Tensor) -> Tensor:
    """Norm of what a head adds to the Hessian, phi'' grad f grad f^T, mean over x: (b,)."""
    inside = without_head(params)
    f = output(module.net, inside, x).detach()
    slope = grad(lambda z: module.head(z).sum())
    second = grad(lambda z: slope(z).sum())(f)
    squares = ntk(module.net, inside, x, outputs="trace").diagonal(dim1=1, dim2=2)
    return (second.abs() * squares).mean(-1)


def signals(module: models.Headed, params: Params, x: Tensor, when: str = "") -> dict:
    """Two-norm and largest entry of df/da_l, means over x, for each hidden layer l, each (b,)."""
    inside = without_head(params)
    found = {}
    for layer, g in enumerate(probes.unit_gradients(module.net, inside, x), 1):
        found[f"signal_two_{layer}{when}"] = g.norm(dim=-1).mean(-1)
        found[f"signal_inf_{layer}{when}"] = g.abs().amax(-1).mean(-1)
    return found


# ---- the run


class Trace:
    """Rows of the networks of one stack, and the largest change of each one's kernel so far."""

    def __init__(self, module: nn.Module, params0: Params, x: Tensor, configs: list[Constancy]):
        self.module, self.params0, self.x, self.head = module, params0, x, configs[0].head
        self.kernel0 = self.kernel(params0)
        rate = torch.tensor([c.rate for c in configs], dtype=x.dtype, device=x.device)
        self.rate = rate * len(x) / torch.linalg.eigvalsh(self.kernel0)[:, -1]
        self.largest, self.turned, self.inside, self.peak = torch.zeros(4, len(rate)).to(x)
        self.sharpness = torch.zeros_like(rate)  # step times largest curvature, as last seen
        self.rows: list[list[dict]] = [[] for _ in configs]

    def kernel(self, params: Params) -> Tensor:
        return ntk(self.module, params, self.x, outputs="trace")

    def row(self, i: int, step: int, **metrics: float | Tensor) -> None:
        self.rows[i] += records(step, step * self.rate[i].item(), "train", **metrics)

    def under_head(self, kernel: Tensor, params: Params) -> Tensor:
        """The kernel of f from that of phi(f): K_f = K / (phi'(f) phi'(f)^T)."""
        slope = SLOPES[self.head](output(self.module, params, self.x))
        return kernel / (slope[:, :, None] * slope[:, None, :])

    def look(self, state: Descent, loss: Tensor, live: Tensor, at: Tensor, keep: Tensor) -> None:
        """Measures the kernels of networks of a state, at places `at` (k,) of those `live`, and
        records those to `keep` (k,)."""
        if not len(at):
            return
        params, i = _some(state.params, at), live[at]
        kernel, kernel0 = self.kernel(params), self.kernel0[i]
        change, turn = kernels.distance(kernel, kernel0), 1 - kernels.cosine(kernel, kernel0)
        spectrum = torch.linalg.eigvalsh(kernel) / len(self.x)
        self.largest[i] = torch.maximum(self.largest[i], change)
        self.turned[i] = torch.maximum(self.turned[i], turn)
        self.sharpness[i] = self.rate[i] * spectrum[:, -1]
        if self.head in SLOPES:
            inside = self.under_head(kernel, params)
            inside0 = self.under_head(kernel0, _some(self.params0, i))
            self.inside[i] = torch.maximum(self.inside[i], kernels.distance(inside, inside0))
        if not keep.any():
            return
        i, at, params = i[keep], at[keep], _some(params, _places(keep))
        gradient = _some(state.gradient, at)
        values = dict(
            loss=loss[at],
            kernel_change=change[keep],
            kernel_turn=turn[keep],
            radius=norm(difference(params, _some(self.params0, i))),
            eigenvalue_min=spectrum[keep, 0],
            eigenvalue_max=spectrum[keep, -1],
            pl_ratio=inner(gradient, gradient) / (2 * state.loss[at]),
        )
        for j, place in enumerate(i.tolist()):
            self.row(place, state.step, **{name: value[j] for name, value in values.items()})


def _some(params: Params, at: Tensor) -> Params:
    """The networks at these places; no copy where that is all of them."""
    return params if len(at) == len(next(iter(params.values()))) else select(params, at)


def _places(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()


def run(configs: list[Constancy], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Trains configs that differ in alpha, rate, sign or seed, on one draw, side by side."""
    c, b = configs[0], len(configs)
    require(len({drawn(d) for d in configs}) == 1, "networks of one stack have one draw of inputs")
    x, y = task(c, device)
    module = network(c, x)
    params0 = start(module, configs, x)
    if c.network == "mlp" and not c.probes and x.shape[1] > len(x):  # probes: a ball of all weights
        module, x, params0 = in_span(c, x, params0)
    alpha = torch.tensor([d.alpha for d in configs], dtype=x.dtype, device=device)
    task_of = problem(c, module, params0, x, y, alpha)
    trace = Trace(module, params0, x, configs)
    at_start = {"gradient": trace.kernel0.diagonal(dim1=1, dim2=2).sqrt().mean(-1)}
    if c.probes:
        at_start |= curvature(module, params0, x[: c.probes], c, [d.seed for d in configs])
    if shows_units(c):
        at_start |= signals(module, params0, x[: c.probes])
    if c.probes and c.head not in ("linear", "softmax"):
        at_start |= {"head_curvature": head_curvature(module, params0, x[: c.probes])}
    for i in range(b):
        trace.row(i, 0, **{name: values[i] for name, values in at_start.items()})
    if c.max_steps == 0:
        yield from ((i, rows, {}) for i, rows in enumerate(trace.rows))
        return

    def loss_of(live: Tensor, state: Descent) -> Tensor:
        return state.loss * task_of.alpha[live] ** 2

    def done(live: Tensor, state: Descent) -> Tensor:
        loss = loss_of(live, state)  # both false for NaN
        return (loss < c.goal) | ~(loss < 1e12) | (state.step == c.max_steps)

    due, keep = 0, 0
    rule = lambda live: gradient_descent(trace.rate[live])  # noqa: E731
    for live, state in leaving(task_of, params0, rule, c.max_steps, done):
        loss, ended = loss_of(live, state), done(live, state)
        trace.peak[live] = torch.maximum(trace.peak[live], loss)
        at = _places((loss < 1e12) & (ended | (state.step >= due)))
        trace.look(state, loss, live, at, ended[at] | (state.step >= keep))
        if state.step >= due:
            due = state.step + 1 if state.step < EVERY else math.ceil(state.step * GROWTH)
            if state.step >= keep:
                keep = max(state.step + 1, math.ceil(state.step * KEPT))
        for j in _places(ended).tolist():
            one = {k: v[j : j + 1] for k, v in state.params.items()}
            yield finish(trace, c, state.step, int(live[j]), one, bool(loss[j] < c.goal))


def shows_units(c: Constancy) -> bool:
    """Whether df/da_l is measured: not of convolutions, nor of networks of two outputs."""
    return c.probes > 0 and c.network != "conv" and c.head != "softmax"


def finish(
    trace: Trace, c: Constancy, step: int, i: int, params: Params, fitted: bool
) -> tuple[int, list[dict], dict[str, np.ndarray]]:
    """Place, rows and kernels of the network at place i, a stack of one, whose training is over."""
    ending, arrays = dict(converged=fitted, steps=step), {}
    if fitted:
        ending |= dict(
            kernel_largest=trace.largest[i],
            turn_largest=trace.turned[i],
            loss_peak=trace.peak[i],
            sharpness=trace.sharpness[i],
        )
        if c.head in SLOPES:
            ending |= dict(inside_largest=trace.inside[i])
        if c.probes:
            x = trace.x[: c.probes]
            found = output_hessian_norm(trace.module, params, x, **LANCZOS)
            ending |= dict(hessian_trained=found.mean())
            kept = dict(kernel0=trace.kernel0[i], kernel=trace.kernel(params)[0])
            arrays = {name: k.float().cpu().numpy() for name, k in kept.items()}
        if shows_units(c):
            found = signals(trace.module, params, x, "_trained")
            ending |= {name: value[0] for name, value in found.items()}
    trace.row(i, step, **ending)
    return i, trace.rows[i], arrays
