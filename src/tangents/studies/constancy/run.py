"""When the tangent kernel is constant, and why: Liu, Zhu and Belkin (2020).

The kernel of f changes with the weights as fast as the Hessian of f is large. Gradient descent on
the squared loss moves the weights by O(1) at every width; what becomes of the kernel meanwhile
depends on the width, on what the read-out passes through, on the narrowest layer, on the step.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn
from torch.func import grad, jvp

from tangents import kernels, models, probes
from tangents.curvature import output_hessian, output_hessian_norm, output_hessian_top
from tangents.data.tasks import pair
from tangents.descent import Descent, gradient_descent, updates
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
GROWTH = 1.1  # from one look at the kernel to the next, in steps; every step up to the 50th
KEPT = 1.25  # from one row of the trajectory to the next, in steps
LANCZOS = dict(tolerance=1e-2, max_steps=400)  # an eigenvalue to about 1e-4 of itself
CENTRES = {  # targets lie at centre -+ size, well inside what the head can give
    "linear": (0.0, 0.7),
    "tanh": (0.0, 0.7),
    "softmax": (0.0, 0.7),
    "sigmoid": (0.5, 0.35),
    "swish": (0.7, 0.7),
}
SMOOTH = ("tanh", "sigmoid", "swish")  # heads of one number whose identities are checked


@lru_cache(maxsize=4)
def task(
    dataset: str, n: int, flat: bool, seed: int, dtype: str, device: str
) -> tuple[Tensor, Tensor]:
    """Inputs (n, ...) and labels -+1, in turn, (n,)."""
    kind = getattr(torch, dtype)
    if dataset != "sphere":
        data = pair(dataset, n, flat=flat, seed=seed, dtype=kind, device=device)
        return data.x, data.y
    x = torch.randn(n, DIMENSION, generator=Generator().manual_seed(seed), dtype=torch.float64)
    x = x * (math.sqrt(DIMENSION) / x.norm(dim=1, keepdim=True))
    return x.to(device, kind), (2.0 * (torch.arange(n) % 2) - 1).to(device, kind)


def network(c: Constancy, x: Tensor) -> models.Headed:
    """The network that the config declares, head and all, for inputs like x (n, ...)."""
    options = dict(c=2 if c.head == "softmax" else 1, activation=c.activation, bias=False)
    if c.network == "conv":
        net = models.ConvNet(x.shape[1], c.width, **options)
    elif c.network == "resnet":
        net = models.ResNet(x.shape[1], c.width, c.depth, **options)
    else:
        net = models.MLP(x.shape[1], c.width, c.depth, bottleneck=c.bottleneck, **options)
    return models.Headed(net, c.head)


def start(module: nn.Module, configs: list[Constancy], like: Tensor) -> Params:
    """The initial weights, a network for each config."""
    seeds = [c.seed for c in configs]
    params = models.initialise_stack(module, seeds, like.dtype, str(like.device))
    if configs[0].positive:
        params["net.readout.weight"] = params["net.readout.weight"].abs()
    return params


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
    """v^T H v, the second derivative along v (b, p) of the output at one x: (b,)."""
    along = unflatten(v, params)

    def slope(w: Params) -> Tensor:
        return jvp(lambda u: output(module, u, x)[:, 0], (w,), (along,))[1]

    return jvp(slope, (params,), (along,))[1]


def climb(module: nn.Module, params: Params, x: Tensor, v: Tensor, length: float) -> Params:
    """Where |v^T H v| was largest on its path of steepest ascent, of this length, from `params`.

    H is the Hessian of the output at the one x, v (b, p) stays as it is. A network whose third
    derivative vanishes stays where it is.
    """
    here, best, most = params, params, bend(module, params, x, v).abs()
    for _ in range(SEARCHED):
        g = flatten(grad(lambda w: bend(module, w, x, v).abs().sum())(here))
        uphill = g / g.norm(dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
        here = moved(here, uphill, length / SEARCHED)
        bent = bend(module, here, x, v).abs()
        best, most = where(bent > most, here, best), torch.maximum(bent, most)
    return best


def identities(module: models.Headed, params: Params, x: Tensor, seen: int) -> dict:
    """Largest deviations, each (b,), from what the chain rule says about a head phi.

    H(phi(f)) = phi' H(f) + phi'' grad f grad f^T, tried on one vector at the first input, relative
    to its norm; K(phi(f)) = phi'(f) phi'(f)^T * K(f), relative to its largest entry. Beside them
    `head_curvature`, the norm of phi'' grad f grad f^T, mean over the first inputs, `seen` of them.
    """
    inside = without_head(params)
    f = output(module.net, inside, x).detach()
    slope = grad(lambda z: module.head(z).sum())
    first, second = slope(f), grad(lambda z: slope(z).sum())(f)
    kernel, inner_kernel = (
        ntk(net, p, x, outputs="trace") for net, p in ((module, params), (module.net, inside))
    )
    gap = kernel - first[:, :, None] * first[:, None, :] * inner_kernel
    found = dict(
        kernel_identity=gap.abs().amax((1, 2)) / kernel.abs().amax((1, 2)),
        head_curvature=(second.abs() * inner_kernel.diagonal(dim1=1, dim2=2))[:, :seen].mean(-1),
    )

    one = x[:1]
    g = flatten(grad(lambda p: output(module.net, p, one).sum())(inside))
    v = torch.stack([_direction(i, g[i]) for i in range(len(g))])
    want = first[:, :1] * output_hessian(module.net, inside, one)(v[:, None])[:, 0]
    want = want + second[:, :1] * g * (g * v).sum(-1, keepdim=True)
    got = output_hessian(module, params, one)(v[:, None])[:, 0]
    return found | dict(hessian_identity=(got - want).norm(dim=-1) / want.norm(dim=-1))


def signals(module: models.Headed, params: Params, x: Tensor) -> dict:
    """Two-norm and largest entry of df/da_l, means over x, for each hidden layer l, each (b,)."""
    inside = without_head(params)
    found = {}
    for layer, g in enumerate(probes.unit_gradients(module.net, inside, x), 1):
        found[f"signal_two_{layer}"] = g.norm(dim=-1).mean(-1)
        found[f"signal_inf_{layer}"] = g.abs().amax(-1).mean(-1)
    return found


# ---- the run


class Trace:
    """Rows of the networks of one stack, and the largest change of each one's kernel so far."""

    def __init__(self, module: nn.Module, params0: Params, x: Tensor, rate: float):
        self.module, self.params0, self.x = module, params0, x
        self.kernel0 = ntk(module, params0, x, outputs="trace")
        self.rate = rate * len(x) / torch.linalg.eigvalsh(self.kernel0)[:, -1]
        self.largest, self.peak = torch.zeros_like(self.rate), torch.zeros_like(self.rate)
        self.lowest = torch.full_like(self.rate, math.inf)
        self.sharpness = torch.zeros_like(self.rate)  # step times largest curvature, as last seen
        self.rows: list[list[dict]] = [[] for _ in self.rate]

    def row(self, i: int, step: int, **metrics: float | Tensor) -> None:
        self.rows[i] += records(step, step * self.rate[i].item(), "train", **metrics)

    def look(self, state: Descent, loss: Tensor, at: Tensor, keep: Tensor) -> None:
        """Measures the kernels of the networks at these places (k,), and records some: (k,)."""
        if not len(at):
            return
        params = _some(state.params, at)
        kernel = ntk(self.module, params, self.x, outputs="trace")
        change = kernels.distance(kernel, self.kernel0[at])
        spectrum = torch.linalg.eigvalsh(kernel) / len(self.x)
        self.largest[at] = torch.maximum(self.largest[at], change)
        self.lowest[at] = torch.minimum(self.lowest[at], spectrum[:, 0])
        self.sharpness[at] = self.rate[at] * spectrum[:, -1]
        at, change, spectrum = at[keep], change[keep], spectrum[keep]
        if not len(at):
            return
        params, gradient = _some(state.params, at), _some(state.gradient, at)
        values = dict(
            loss=loss[at],
            kernel_change=change,
            radius=norm(difference(params, _some(self.params0, at))),
            eigenvalue_min=spectrum[:, 0],
            eigenvalue_max=spectrum[:, -1],
            pl_ratio=inner(gradient, gradient) / (2 * state.loss[at]),
        )
        for j, i in enumerate(at.tolist()):
            self.row(i, state.step, **{name: value[j] for name, value in values.items()})


def _some(params: Params, at: Tensor) -> Params:
    """The networks at these places; no copy where that is all of them."""
    return params if len(at) == len(next(iter(params.values()))) else select(params, at)


def run(configs: list[Constancy], device: str) -> Iterator[tuple[int, list[dict], dict]]:
    """Trains configs that differ in seed and alpha side by side."""
    c, b = configs[0], len(configs)
    x, y = task(c.dataset, c.n, c.network != "conv", c.data_seed, c.dtype, device)
    module = network(c, x)
    params0 = start(module, configs, x)
    alpha = torch.tensor([d.alpha for d in configs], dtype=x.dtype, device=device)
    task_of = problem(c, module, params0, x, y, alpha)
    trace = Trace(module, params0, x, c.rate)
    at_start = {"gradient": trace.kernel0.diagonal(dim1=1, dim2=2).sqrt().mean(-1)}
    if c.probes:
        seeds = [d.seed for d in configs]
        at_start |= curvature(module, params0, x[: c.probes], c, seeds)
        if c.network != "conv" and c.head != "softmax":  # whose network has two outputs
            at_start |= signals(module, params0, x[: c.probes])
    if c.head in SMOOTH:
        at_start |= identities(module, params0, x, c.probes or len(x))
    for i in range(b):
        trace.row(i, 0, **{name: values[i] for name, values in at_start.items()})
    if c.max_steps == 0:
        yield from ((i, rows, {}) for i, rows in enumerate(trace.rows))
        return

    waiting, due, keep = torch.ones(b, dtype=torch.bool, device=device), 0, 0
    for state in updates(task_of, params0, gradient_descent(trace.rate), c.max_steps):
        loss = state.loss * task_of.alpha**2
        trace.peak = torch.maximum(trace.peak, loss)
        finite, fitted = loss < 1e12, loss < c.goal  # both false for NaN
        ended = waiting & (fitted | ~finite | (state.step == c.max_steps))
        looked = waiting & finite & (ended | (state.step >= due))
        at = _places(looked)
        trace.look(state, loss, at, ended[at] | (state.step >= keep))
        if state.step >= due:
            due = state.step + 1 if state.step < 50 else math.ceil(state.step * GROWTH)
            if state.step >= keep:
                keep = max(state.step + 1, math.ceil(state.step * KEPT))
        for i in _places(ended).tolist():
            yield i, finish(trace, c, state, i, bool(fitted[i])), {}
        waiting &= ~ended
        if not waiting.any():
            return


def _places(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten()


def finish(trace: Trace, c: Constancy, state: Descent, i: int, fitted: bool) -> list[dict]:
    """Rows of the network at place i, whose training is over."""
    ending = dict(converged=fitted, steps=state.step)
    if fitted:
        one = {k: v[i : i + 1] for k, v in state.params.items()}
        ending |= dict(
            kernel_largest=trace.largest[i],
            eigenvalue_lowest=trace.lowest[i],
            loss_peak=trace.peak[i],
            sharpness=trace.sharpness[i],
        )
        if c.probes:
            found = output_hessian_norm(trace.module, one, trace.x[: c.probes], **LANCZOS)
            ending |= dict(hessian_trained=found.mean())
    trace.row(i, state.step, **ending)
    return trace.rows[i]
