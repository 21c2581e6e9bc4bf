"""What training works on: networks, data, output scales and a loss, evaluated at parameters.

All takes stacks: tensors (b, ...) for b networks, each with its own output scale.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tangents import checks
from tangents.empirical import jacobian
from tangents.factored import Jacobian, blocks
from tangents.functional import Params, hooked, outputs, require, select, stacked, where
from tangents.inputs import taken
from tangents.losses import LOSSES, Loss, OutputLoss, require_targets

CACHE = 2**21  # bytes of a layer's output, of all networks whose passes are made together


class Point(NamedTuple):
    """What one evaluation of b networks gives, at their parameters."""

    params: Params
    output: Float[Tensor, "b n *c"]  # F = alpha (f - f0)
    loss: Float[Tensor, " b"]  # mean_i l(F_i, y_i) / alpha^2
    gradient: Params
    stiffness: Float[Tensor, "b n"] | None  # l''(y_i F_i) / n of a margin: H = J^T diag() J
    jacobian: Jacobian | None  # of f

    def otherwise(self, ok: Tensor, other: "Point") -> "Point":
        """This point for the networks where `ok`, the other elsewhere."""
        J = self.jacobian and self.jacobian.map(
            lambda new, old: torch.where(ok.view(-1, *[1] * (new.dim() - 1)), new, old),
            other.jacobian,
        )
        return Point(
            where(ok, self.params, other.params),
            torch.where(ok[:, None], self.output, other.output),
            torch.where(ok, self.loss, other.loss),
            where(ok, self.gradient, other.gradient),
            torch.where(ok[:, None], self.stiffness, other.stiffness),
            J,
        )

    @classmethod
    def joined(cls, params: Params, parts: "list[Point]") -> "Point":
        """The point at `params` from those of some networks after others; without a Jacobian."""
        _, output, loss, gradient, stiffness, _ = zip(*parts, strict=True)
        gradient = {k: torch.cat([g[k] for g in gradient]) for k in params}
        stiffness = None if stiffness[0] is None else torch.cat(stiffness)
        return cls(params, torch.cat(output), torch.cat(loss), gradient, stiffness, None)

    def select(self, live: Tensor) -> "Point":
        """The networks `live` alone."""
        return Point(
            select(self.params, live),
            self.output[live],
            self.loss[live],
            select(self.gradient, live),
            self.stiffness[live],
            self.jacobian and self.jacobian.map(lambda x: x[live]),
        )


@dataclass(frozen=True)
class Problem:
    """b networks of one kind, their data and output scales: (1/alpha^2) mean_i l(F_i, y_i).

    F = alpha (f(w, x) - f(w0, x)), Geiger et al. (2020), eq. (3). Labels y (n,) of -1 and +1 go
    with a `Loss` of the margin y F of one output, targets y (n, c) with an `OutputLoss` of c. A
    pass for a gradient takes as many networks at a time as the cache holds the largest layer of,
    which has `layer` bytes for each network and example (0: all). Passes and Jacobians are made in
    `dtype`, which may be narrower than that of the parameters, outputs and gradients.
    """

    module: nn.Module
    x: Tensor
    y: Float[Tensor, " n *c"]
    loss: Loss | OutputLoss
    alpha: Float[Tensor, " b"]
    f0: Float[Tensor, "b n *c"]
    layer: float = 0.0
    dtype: torch.dtype | None = None  # that of x

    def predictor(self, params: Params) -> Float[Tensor, "b n *c"]:
        """F at `params`."""
        f = outputs(self.module, *narrowed(params, self.x, self.dtype))
        f = (f[..., 0] if self.y.dim() == 1 else f).to(self.f0)
        return self.alpha.view(-1, *[1] * self.y.dim()) * (f - self.f0)

    def at(self, params: Params, factored: bool) -> Point:
        """Output, loss and gradient at `params`; with the factored Jacobian if asked."""
        parts = _parts(len(self.alpha), self.layer * len(self.x))
        if not factored and len(parts) > 1:
            points = [self.select(i).at(select(params, i), False) for i in parts]
            return Point.joined(params, points)
        J, (passed, x) = None, narrowed(params, self.x, self.dtype)
        if factored:
            J = jacobian(self.module, passed, x)
            f, pull = J.value, J.vjp
        else:
            f, pull = _pass(self.module, passed, x)
        narrow, f = f.dtype, (f[..., 0] if self.y.dim() == 1 else f).to(self.f0)
        alpha, n = self.alpha.view(-1, *[1] * self.y.dim()), len(self.y)
        output = alpha * (f - self.f0)
        if isinstance(self.loss, Loss):
            margin = output * self.y
            value, stiffness = self.loss.value(margin), self.loss.curvature(margin) / n
            slope = (self.loss.slope(margin) * self.y / (n * alpha)).unsqueeze(-1)
        else:
            value, stiffness = self.loss.value(output, self.y), None
            slope = self.loss.gradient(output, self.y) / (n * alpha)
        gradient = {k: v.to(params[k]) for k, v in pull(slope.to(narrow)).items()}
        return Point(params, output, value.mean(-1) / self.alpha**2, gradient, stiffness, J)

    @classmethod
    def start(
        cls,
        module: nn.Module,
        params: Params,
        x: Tensor,
        y: Tensor,
        alpha: Tensor,
        loss: str | OutputLoss,
        factored: bool = False,
        dtype: torch.dtype | None = None,
    ) -> "Problem":
        """The problem of b networks that start at `params`. ValueError for unusable input.

        `loss` is the name of one of `LOSSES`, of the margin, or an `OutputLoss`. Say if points will
        be asked for with the `factored` Jacobian: f0 is then rounded as it is in these, and the
        predictor begins at zero. Passes are in `dtype`, that of x if none is given.
        """
        checks.kind("loss", loss, str, OutputLoss)
        if isinstance(loss, str):
            require(loss in LOSSES, f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
            loss = LOSSES[loss]
        b = stacked(module, params)
        checks.tensors(y=y, alpha=alpha, params=next(iter(params.values())))
        checks.examples(x=x)
        checks.positive(alpha=alpha)
        require(
            alpha.shape == (b,), "params must be a stack: one row for each entry of alpha, "
            f"{alpha.numel()}, got {b or 'a single network'}"
        )  # fmt: skip
        if isinstance(loss, Loss):
            fits, ends = y.shape == x.shape[:1] and bool((y.abs() == 1).all()), ()
            require(fits, f"y must hold one label, -1 or +1, for each of the {len(x)} examples")
        else:
            ends = y.shape[1:]
            fits = y.dim() == 2 and len(y) == len(x) and bool(y.isfinite().all())
            require(fits, f"y must hold finite targets (n, c) for each of the {len(x)} examples")
            require_targets(loss, y)
        whole = factored or x.device.type != "cpu"
        with torch.no_grad(), taken(x):
            passed, z = narrowed(params, x, dtype)
            layer = 0.0 if whole else _largest_layer(module, select(passed, slice(1)), z)
            f0 = torch.cat([
                outputs(module, select(passed, i), z) for i in _parts(b, layer * len(x))
            ])  # fmt: skip
        f0 = f0 if dtype is None else f0.to(x.dtype)
        want, got = (b, len(x), *(ends or (1,))), tuple(f0.shape)
        require(got == want, f"outputs must have shape (b, n, c) = {want}, got {got}")
        return cls(module, x, y, loss, alpha, f0 if ends else f0[..., 0], layer, dtype)

    def select(self, live: Tensor | slice) -> "Problem":
        """The networks `live` alone."""
        return replace(self, alpha=self.alpha[live], f0=self.f0[live])

    def batch(self, rows: Int[Tensor, " m"]) -> "Problem":
        """The examples `rows` alone."""
        return replace(self, x=self.x[rows], y=self.y[rows], f0=self.f0[:, rows])


def cast(tensors: Params, dtype: torch.dtype) -> Params:
    """The same parameters in another precision."""
    return {k: v.to(dtype) for k, v in tensors.items()}


def narrowed(params: Params, x: Tensor, dtype: torch.dtype | None) -> tuple[Params, Tensor]:
    """Parameters and inputs in the precision of a pass; as they are if none is given."""
    return (params, x) if dtype is None else (cast(params, dtype), x.to(dtype))


def _pass(module: nn.Module, params: Params, x: Tensor):
    """The outputs, and what takes signals u like them to the gradient of <u, f>."""
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with torch.enable_grad():
        graph = outputs(module, leaves, x)

    def pull(u: Tensor) -> Params:
        options = dict(allow_unused=True, materialize_grads=True)
        found = torch.autograd.grad(graph, [*leaves.values()], u, **options)
        return dict(zip(leaves, found, strict=True))

    return graph.detach(), pull


def _largest_layer(module: nn.Module, params: Params, x: Tensor) -> float:
    """Bytes an example of the largest output of a layer, of the networks `params`."""
    sizes = [1]
    hooks = (
        layer.register_forward_hook(lambda *call: sizes.append(getattr(call[-1], "nbytes", 0)))
        for layer in module.modules()
    )
    with hooked(hooks):
        outputs(module, params, x)
    return max(sizes) / len(x)


def _parts(b: int, size: float) -> list[slice]:
    """Networks whose passes are made together, if one has a layer of `size` bytes; 0: all b."""
    return list(blocks(b, max(1, int(CACHE / size)) if size else b))
