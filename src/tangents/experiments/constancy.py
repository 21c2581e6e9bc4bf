"""When the tangent kernel is constant, and why: Liu, Zhu and Belkin (2020).

The kernel of f changes with the weights as fast as the Hessian of f is large. Gradient descent on
the squared loss moves the weights by O(1) at every width; what becomes of the kernel meanwhile
depends on the width, on what the read-out passes through, on the narrowest layer, on the step.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, jvp

from tangents import datasets, kernels, models, probes
from tangents.curvature import output_hessian, output_hessian_norm, output_hessian_top
from tangents.declaration import Experiment, accept, records
from tangents.experiments.constancy_claims import CLAIMS
from tangents.functional import (
    Params,
    axpy,
    difference,
    flatten,
    inner,
    linearise,
    norm,
    select,
    unflatten,
    where,
)
from tangents.losses import LOSSES
from tangents.ntk import ntk
from tangents.optimise import Descent, gradient_descent, updates
from tangents.train import Problem

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
# Eigenvectors are found to 1e-2, and a stack searches until its slowest network is done: computed
# alone, a network may stop earlier, with a vector as good or at an eigenvalue close to the top one.
SEARCHED_FOR = (
    *("hessian", "hessian_random", "hessian_steepest", "hessian_trained"),
    *(f"linear_error_top_{r:g}" for r in RADII),
)
IDENTITIES = ("kernel_identity", "hessian_identity")
SMOOTH = ("tanh", "sigmoid", "swish")  # heads of one number whose identities are checked


@dataclass(frozen=True)
class Constancy:
    """One network phi(f), trained by gradient descent until mean (F - y)^2 / 2 < `goal`.

    F = (phi(f) - centre) / size with y = -+1, so that phi(f) learns the targets centre -+ size;
    `centred`, it is F = alpha (f - f0) instead, as in the chapter on the output scale.
    """

    part: str = "head"  # which part of the chapter the run belongs to
    dataset: str = "sphere"  # n points with |x|^2 = d = 5; or "mnist", zeros and ones
    n: int = 10
    network: str = "mlp"  # or "resnet", or "conv" on images
    depth: int = 1  # hidden layers
    width: int = 128
    bottleneck: int = 0  # width of the middle hidden layer; 0: that of the others
    activation: str = "tanh"
    head: str = "linear"  # phi
    positive: bool = False  # read-out weights |v|, v normal: no two units cancel each other
    centred: bool = False
    alpha: float = 1.0  # output scale, where centred
    rate: float = 0.5  # in units of n / lambda_max(K0); gradient descent is stable below 2
    goal: float = 2e-4
    max_steps: int = 20_000  # 0: only what is known at the start
    radius: float = 10.0  # of the ball about w0 in which the Hessian is measured
    probes: int = 3  # first inputs, at which the Hessian is measured; 0: it is not
    dtype: str = "float64"
    seed: int = 0  # of the weights; the inputs are the same for all

    def __post_init__(self):
        for name in ("n", "depth", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("bottleneck", "max_steps", "probes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("alpha", "rate", "goal", "radius"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        accept("dataset", self.dataset, ("sphere", *datasets.DATASETS))
        accept("network", self.network, ("mlp", "resnet", "conv"))
        accept("activation", self.activation, models.ACTIVATIONS)
        accept("head", self.head, models.HEADS)
        accept("dtype", self.dtype, ("float64", "float32"))
        if self.network == "conv" and self.dataset == "sphere":
            raise ValueError("network 'conv' takes images, which dataset 'sphere' has not")
        if self.bottleneck and self.network != "mlp":
            raise ValueError(f"a bottleneck needs network 'mlp', got {self.network!r}")
        if self.alpha != 1 and not self.centred:
            raise ValueError("alpha needs centred=True: without, the targets are those of the head")
        if self.n < self.probes:
            raise ValueError(f"probes must be at most n={self.n}, got {self.probes}")


@lru_cache(maxsize=4)
def task(dataset: str, n: int, flat: bool, dtype: str, device: str) -> tuple[Tensor, Tensor]:
    """Inputs (n, ...) and labels -+1, in turn, (n,)."""
    kind = getattr(torch, dtype)
    if dataset != "sphere":
        data = datasets.pair(dataset, n, flat=flat, dtype=kind, device=device)
        return data.x, data.y
    x = torch.randn(n, DIMENSION, generator=Generator().manual_seed(0), dtype=torch.float64)
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
    return functional_call(module, params, (x,))[..., 0]


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
    x, y = task(c.dataset, c.n, c.network != "conv", c.dtype, device)
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


SEEDS = range(10)
SHALLOW = [2**k for k in range(5, 12)]
DEEP = [2**k for k in range(5, 11)]
WIDE = [2**k for k in range(5, 15)]
WIDE_DEEP = [2**k for k in range(5, 14)]
HEADS, OTHER = ["linear", "tanh"], ["sigmoid", "swish", "softmax"]
RATES = [0.5, 1.0, 1.5, 2.5, 3.0, 3.5]
PLANE = dict(part="plane", activation="softplus", centred=True, probes=0)
CATAPULT = dict(part="catapult", rate=RATES, probes=0)
DIGITS = dict(part="mnist", dataset="mnist", n=128, depth=3, probes=0)
IMAGES = dict(dataset="mnist", n=128, depth=3, max_steps=0, probes=2, seed=SEEDS)
CONV = dict(part="conv", network="conv", dataset="mnist", n=16, probes=1)

# fmt: off
PRESETS = {
    "smoke": [
        dict(part="head", depth=[1, 3], width=[8, 16], head=HEADS, seed=range(2), probes=2),
        dict(part="bottleneck", depth=3, bottleneck=2, width=[8, 16], seed=range(2), probes=1),
        dict(part="catapult", rate=2.5, width=16, probes=0),
    ],
    "book": [  # the longest stacks first, so that no worker waits for another at the end
        dict(part="head", depth=3, width=DEEP[::-1], head=HEADS, seed=SEEDS, probes=2),
        dict(width=[32, 16, 8, 4], head=HEADS, seed=SEEDS, **CONV),
        dict(part="resnet", network="resnet", depth=3, width=[512, 256, 128, 64, 32], head=HEADS,
             seed=SEEDS, probes=1),
        dict(part="images", width=[512, 256, 128, 64, 32], head=HEADS, **IMAGES),
        dict(part="bottleneck-images", bottleneck=[1, 3, 10], width=[256, 128, 64, 32], **IMAGES),
        dict(bottleneck=[1, 3, 10, 30], width=128, seed=SEEDS, **DIGITS),
        dict(width=[128, 64, 32], head=HEADS, seed=SEEDS, **DIGITS),
        dict(part="bottleneck", depth=3, bottleneck=[1, 3, 10, 30], width=[512, 256, 128, 64, 32],
             seed=SEEDS, probes=2),
        dict(part="head", depth=1, width=SHALLOW[::-1], head=HEADS, seed=SEEDS),
        dict(part="heads", depth=1, width=[2048, 512, 128, 32], head=OTHER, seed=SEEDS),
        dict(part="softplus", activation="softplus", depth=[3, 1], width=[512, 128, 32],
             head=HEADS, seed=SEEDS, probes=1),
        dict(part="relu", activation="relu", depth=[3, 1], width=[512, 128, 32], head=HEADS,
             seed=SEEDS, probes=0),
        dict(part="relu", activation="relu", depth=1, width=[2048, 1024, 256, 64], head=HEADS,
             seed=SEEDS, probes=0),
        dict(width=SHALLOW[::-1], alpha=[1.0, 4.0, 16.0, 64.0], positive=[False, True],
             seed=SEEDS, **PLANE),
        dict(width=[2048, 512, 128], seed=SEEDS, **CATAPULT),
    ],
    "paper": [
        dict(part="head", depth=3, width=WIDE_DEEP[::-1], head=HEADS, seed=SEEDS, probes=1),
        dict(width=[128, 64, 32, 16, 8, 4], head=HEADS, seed=SEEDS, **CONV),
        dict(part="resnet", network="resnet", depth=3, width=DEEP[::-1], head=HEADS, seed=SEEDS,
             probes=1),
        dict(part="images", width=WIDE_DEEP[::-1], head=HEADS, **IMAGES),
        dict(part="bottleneck-images", bottleneck=[1, 3, 10, 30], width=DEEP[::-1], **IMAGES),
        dict(bottleneck=[1, 3, 10, 30, 100, 300, 1000], width=8192, seed=SEEDS, **DIGITS),
        dict(width=DEEP[::-1], head=HEADS, seed=SEEDS, **DIGITS),
        dict(part="bottleneck", depth=3, bottleneck=[1, 3, 10, 30], width=DEEP[::-1], seed=SEEDS,
             probes=2),
        dict(part="head", depth=1, width=WIDE[::-1], head=HEADS, seed=SEEDS),
        dict(part="heads", depth=1, width=WIDE[::-2], head=OTHER, seed=SEEDS),
        dict(part="softplus", activation="softplus", depth=[3, 1], width=DEEP[::-1], head=HEADS,
             seed=SEEDS, probes=1),
        dict(part="relu", activation="relu", depth=3, width=DEEP[::-1], head=HEADS, seed=SEEDS,
             probes=0),
        dict(part="relu", activation="relu", depth=1, width=WIDE[::-1], head=HEADS, seed=SEEDS,
             probes=0),
        dict(width=WIDE[::-1], alpha=[1.0, 4.0, 16.0, 64.0, 256.0], positive=[False, True],
             seed=SEEDS, **PLANE),
        dict(width=WIDE[2::2], seed=SEEDS, **CATAPULT),
    ],
}
# fmt: on

EXPERIMENT = Experiment(
    name="constancy",
    version=2,
    config=Constancy,
    presets=PRESETS,
    stack=("seed", "alpha"),
    run=run,
    claims=CLAIMS,
    tolerances={"*": (1e-3, 1e-9)}
    | dict.fromkeys(IDENTITIES, (0.0, 1e-10))
    | dict.fromkeys(SEARCHED_FOR, (0.05, 1e-9)),
)
