"""Reversible networks, and their exact Gauss-Newton step by the inverse of each block.

A network that can be run backwards has a right inverse of its Jacobian in closed form: the change
of the output that is asked for is pulled back to the output of each half of a block, where a linear
regression on fixed features realises it. Source: Buffelli et al. (2024), section 4.

Losses are sums over examples; eps = dl/df is what the step takes away from the outputs. All takes
one network or a stack of b on a leading axis.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import jvp

from tangents import checks
from tangents.functional import Params, call, require, stacked
from tangents.inputs import taken
from tangents.models import Unscaled, activation_named

Solver = Callable[[Float[Tensor, "*s n h"], Float[Tensor, "*s n m"]], Float[Tensor, "*s h m"]]


class Half(nn.Module):
    """x -> W sigma(V x) + b, with V fixed: half of a block. `trained` holds W and b."""

    def __init__(self, side: int, width: int, activation: str, generator: Generator):
        super().__init__()
        self.activation = activation_named(activation)
        fixed = torch.randn(width, side, generator=generator, dtype=torch.float64)
        self.register_buffer("fixed", fixed / math.sqrt(width))
        self.trained = Unscaled(width, side)

    def features(self, x: Float[Tensor, "*s n i"]) -> Float[Tensor, "*s n h"]:
        return self.activation(x @ self.fixed.to(x).mT)

    def forward(self, x: Tensor) -> Tensor:
        return self.trained(self.features(x))


class RevMLP(nn.Module):
    """Blocks x1' = x1 + W1 sigma(V1 x2) + b1, x2' = x2 + W2 sigma(V2 x1') + b2 on the two halves of
    an input (n, d); the output (n, c) is (x1, x2) U.

    V and U are buffers, drawn by `seed`: entries N(0, 1/h) for h = `width` features, and c
    orthonormal columns. Trained are W and b, 2 `blocks` (h + 1) d / 2 numbers. With
    `first="linear"` the first block has no activation, as in the public code of the paper.
    Source: Buffelli et al. (2024), section 5; in the text all blocks are alike.
    """

    def __init__(
        self,
        d: int,
        width: int,
        blocks: int,
        c: int,
        seed: int = 0,
        activation: str = "relu",
        first: str = "",
    ):
        super().__init__()
        checks.sizes(d=d, width=width, blocks=blocks, c=c)
        require(d % 2 == 0, f"RevMLP: d must be even, for two halves, got {d}")
        require(c <= d, f"RevMLP: c = {c} outputs are more than the d = {d} numbers that they read")
        generator = checks.seeded(seed)
        kinds = [first or activation] + [activation] * (blocks - 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(Half(d // 2, width, kind, generator) for _ in range(2)) for kind in kinds
        )
        frame = torch.randn(d, c, generator=generator, dtype=torch.float64)
        self.register_buffer("readout", torch.linalg.qr(frame).Q)

    def inverse(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The input (*s, n, d) whose last halves these are."""
        checks.tensors(x1=x1, x2=x2)
        checks.shaped("x2", x2, *x1.shape)
        for first, second in reversed(self.blocks):
            x2 = x2 - second(x1)
            x1 = x1 - first(x2)
        return torch.cat([x1, x2], -1)

    def forward(self, x: Float[Tensor, "n d"], states: bool = False):
        """The output; with `states` the halves (x1, x2) of the input and after each block."""
        x1, x2 = x.chunk(2, -1)
        kept = [(x1, x2)]
        for first, second in self.blocks:
            x1 = x1 + first(x2)
            x2 = x2 + second(x1)
            kept.append((x1, x2))
        return kept if states else torch.cat([x1, x2], -1) @ self.readout.to(x1)

    def initial(self, seed: int, std: float = 1e-3, dtype=torch.float64, device="cpu") -> Params:
        """Weights N(0, std^2), biases zero: drawn on the CPU in float64, equal on every device."""
        checks.number("std", std)
        generator = checks.seeded(seed)
        found = {}
        for name, p in self.named_parameters():
            value = torch.zeros(p.shape, dtype=torch.float64)
            if not name.endswith("bias"):
                value = std * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            found[name] = value.to(device, dtype)
        return found


# ---- regressions of a half


def cholesky(features: Float[Tensor, "*s n h"], target: Float[Tensor, "*s n m"]) -> Tensor:
    """The weights of minimum norm with features @ weights = target, for n <= h.

    Raises ValueError where the features' kernel is singular to rounding.
    """
    return damped(0.0)(features, target)


def damped(damping: float) -> Solver:
    """The weights of ridge regression; the ridge is `damping` times the mean diagonal of the
    features' kernel. ValueError for a kernel that is singular to rounding."""
    checks.number("damping", damping)

    def solve(features: Tensor, target: Tensor) -> Tensor:
        _require_regression(features, target)
        kernel = features @ features.mT
        diagonal = kernel.diagonal(dim1=-2, dim2=-1)
        diagonal += damping * diagonal.mean(-1, keepdim=True)
        root, info = torch.linalg.cholesky_ex(kernel)
        pivots, (n, h) = root.diagonal(dim1=-2, dim2=-1).square(), features.shape[-2:]
        least = 100 * torch.finfo(kernel.dtype).eps * pivots.amax(-1)
        regular = not info.any() and bool((pivots.amin(-1) > least).all())
        require(regular, f"the {h} features of {n} examples are dependent to rounding: "
                "truncate them, add damping or features")  # fmt: skip
        return features.mT @ torch.cholesky_solve(target, root)

    return solve


def truncated(rtol: float = 1e-2, atol: float = 1e-5) -> Solver:
    """The weights of minimum norm on the singular directions of the features above `rtol` of the
    largest singular value, and above `atol`: as in the paper's public code."""
    checks.number("rtol", rtol)
    checks.number("atol", atol)

    def solve(features: Tensor, target: Tensor) -> Tensor:
        _require_regression(features, target)
        values, vectors = torch.linalg.eigh(features @ features.mT)
        size = values.clamp(min=0).sqrt()
        kept = size > torch.clamp(rtol * size.amax(-1, keepdim=True), min=atol)
        inverse = torch.where(kept, 1 / values, 0).unsqueeze(-1)
        return features.mT @ (vectors @ (inverse * (vectors.mT @ target)))

    return solve


def _require_regression(features: Tensor, target: Tensor) -> None:
    checks.tensors(features=features, target=target)
    fits = features.dim() == target.dim() >= 2 and features.shape[:-1] == target.shape[:-1]
    require(fits, f"features must be (*s, n, h) and targets (*s, n, m), got {tuple(features.shape)}"
            f" and {tuple(target.shape)}")  # fmt: skip
    checks.finite(features=features, target=target)


def right_inverse(
    net: RevMLP,
    params: Params,
    x: Float[Tensor, "n d"],
    eps: Float[Tensor, "*s n c"],
    solver: Solver = cholesky,
    correction: bool = True,
    shares: Sequence[float] | None = None,
) -> Params:
    """The change of the weights that changes the outputs by -eps to first order: J change = -eps.

    J is that of `net` at `params`, for n <= h + 1 examples. Going back from the output, the change
    -eps U^T of the last state becomes one of every earlier state by the derivative of the inverse
    map, and in each half of a block `solver` finds weights that make it on its fixed features.
    Every block does an equal share of it, or block l the `shares`[l], which sum to one.
    `correction` keeps the second half from repeating what the first one passes on to it. Exact for
    `cholesky`, as far as another solver reaches its targets. Not the solution of minimum norm,
    which is `curvature.gauss_newton`'s. Raises ValueError where features are dependent, and for
    shares that do not fit. Source: Buffelli et al. (2024), theorem 4.2 and its public code, which
    holds a version without the correction too.
    """
    checks.kind("net", net, RevMLP)
    stacked(net, params)
    checks.alike(x=x, eps=eps, weights=next(iter(params.values())))
    blocks = len(net.blocks)
    shares = [1 / blocks] * blocks if shares is None else list(shares)
    fits = len(shares) == blocks and math.isclose(sum(shares), 1)
    require(fits, f"shares must be {blocks} numbers with sum 1, got {shares}")
    with taken(x):
        y1, y2 = call(net, params, x, states=True)[-1]
    checks.shaped("eps", eps, *y1.shape[:-1], net.readout.shape[1])
    t1, t2 = (-eps @ net.readout.to(eps).mT).chunk(2, -1)
    change = {}
    for place in reversed(range(blocks)):
        names = [f"blocks.{place}.{i}.trained" for i in range(2)]
        second = _At(net.blocks[place][1], params, names[1], y1)
        passed = second.slope(t1)
        x2, t2_before = y2 - second.value, t2 - passed
        first = _At(net.blocks[place][0], params, names[0], x2)
        weights = solver(first.features, t1)
        if not correction:
            passed = 0
        elif solver is not cholesky:  # which reaches t1 as it is
            passed = second.slope(first.features @ weights)
        for name, v in ((names[0], weights), (names[1], solver(second.features, t2 - passed))):
            v = shares[place] * v.mT
            change |= {f"{name}.weight": v[..., :-1], f"{name}.bias": v[..., -1]}
        t1, t2 = t1 - first.slope(t2_before), t2_before
        y1, y2 = y1 - first.value, x2
    return {name: change[name] for name in params}


class _At:
    """A half of a block at its input: what it gives, its features, its derivative in the input."""

    def __init__(self, half: Half, params: Params, name: str, x: Tensor):
        self.weight, self.fixed = params[f"{name}.weight"].mT, half.fixed.to(x).mT
        z = x @ self.fixed
        a, self.slopes = jvp(half.activation, (z,), (torch.ones_like(z),))
        self.value = a @ self.weight + params[f"{name}.bias"].unsqueeze(-2)
        self.features = torch.cat([a, torch.ones_like(a[..., :1])], -1)  # the bias's at the end

    def slope(self, t: Tensor) -> Tensor:
        """The change of its value when the input changes by t."""
        return (self.slopes * (t @ self.fixed)) @ self.weight
