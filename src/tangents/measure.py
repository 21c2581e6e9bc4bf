"""Was that training lazy? What it moved, from the weights before and after and one batch."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Num
from scipy import stats
from torch import Tensor, nn

from tangents import checks, kernels, probes
from tangents.empirical import ntk
from tangents.functional import Params, call, difference, linearise, norm, require, stack, stacked

GROUPS = 10  # of examples, left out one after the other
RIDGE = 1e-3  # of kernel regression, over the kernel's mean diagonal
WORDS = {
    "nonlinear": "nonlinear share R of the change of the outputs",
    "turn": "turn of the tangent kernel, 1 - cosine",
    "turn_centred": "turn of the centred kernel, 1 - CKA",
    "kernel_change": "relative change of the kernel",
    "distance": "distance of the weights over their norm",
    "alignment_before": "alignment of the kernel with the labels, before",
    "alignment_after": "the same, after",
    "error_before": "error of regression with the kernel before, by folds",
    "error_after": "error of regression with the kernel after, by folds",
}


class Measured(NamedTuple):
    """A value, and its 95 % interval over examples, nan where it does not depend on these."""

    value: float
    low: float
    high: float


class Laziness(dict[str, Measured]):
    """What was measured, by the names in `WORDS`; as text a table."""

    def __str__(self) -> str:
        width = max(len(WORDS[name]) for name in self)
        ends = {n: "" if math.isnan(m.low) else f"  [{m.low:.3g}, {m.high:.3g}]"
                for n, m in self.items()}  # fmt: skip
        return "\n".join(f"{WORDS[n]:{width}}  {m.value:10.3g}{ends[n]}" for n, m in self.items())


def measure(
    module: nn.Module,
    before: Params,
    after: Params,
    x: Tensor,
    y: Num[Tensor, " n *c"] | None = None,
    budget: float | None = None,
) -> Laziness:
    """How lazy the training from the weights `before` to those `after` was, on examples x (n, ...).

    R = |f_1 - f_0 - J_0 dw| / |f_1 - f_0|, by one pass in forward mode: near zero the network did
    what its linearisation does. Turn and change of the tangent kernel, traced over outputs, and
    how far the weights went. With labels y, classes (n,) or real targets (n,) or (n, c), the
    kernel's centred alignment with them, and the error of kernel regression in five folds: the
    share of wrong classes, or the squared error over the variance. Intervals leave out a tenth of
    the examples at a time. At least twenty examples that training has not seen make sense of all
    that. Raises ValueError as `ntk` does, for weights that are the same, fewer than 20 examples,
    and labels that do not fit. Source: Chizat et al. (2019), section 1; Geiger et al. (2020).
    """
    for params in (before, after):
        require(stacked(module, params) == 0, "measure takes one network, not a stack")
    checks.kind("x", x)
    if y is not None:
        checks.kind("y", y)
    n = len(x)
    require(n >= 2 * GROUPS, f"at least {2 * GROUPS} examples are needed, got {n}")
    fits = y is None or len(y) == n
    require(fits, f"labels must be of the {n} examples, got {0 if y is None else len(y)}")
    moved = difference(after, before)
    length, size = (norm(stack([p])).item() for p in (moved, before))
    require(length > 0, "the weights before and after are the same")
    with torch.no_grad(), checks.taken(x):
        f0, f1 = (call(module, p, x).double() for p in (before, after))
        f_lin = linearise(module, before)(after, x).double()
    k0, k1 = (ntk(module, p, x, outputs="trace", budget=budget).double() for p in (before, after))
    targets, wrong = (None, None) if y is None else _targets(y.to(k0.device))

    def of(rows: Tensor) -> dict[str, float]:
        change, rest = f1[rows] - f0[rows], f1[rows] - f_lin[rows]
        a, b = (k[rows][:, rows] for k in (k0, k1))
        found = {
            "nonlinear": rest.norm() / change.norm(),
            "turn": 1 - kernels.cosine(b, a),
            "turn_centred": 1 - kernels.centred_alignment(b, a),
            "kernel_change": kernels.distance(b, a),
        }
        if targets is not None:
            told = targets[rows] @ targets[rows].mT
            for name, k in (("before", a), ("after", b)):
                found[f"alignment_{name}"] = kernels.centred_alignment(k, told)
                found[f"error_{name}"] = _by_folds(k, targets[rows], wrong)
        return {name: float(v) for name, v in found.items()}

    everything = torch.arange(n, device=k0.device)
    whole = of(everything)
    parts = [of(everything[everything % GROUPS != g]) for g in range(GROUPS)]
    found = {name: _interval(v, [part[name] for part in parts]) for name, v in whole.items()}
    found["distance"] = Measured(length / size, math.nan, math.nan)
    return Laziness({name: found[name] for name in WORDS if name in found})


def _interval(value: float, parts: list[float]) -> Measured:
    """By the jackknife that leaves out groups."""
    mean, g = sum(parts) / len(parts), len(parts)
    error = math.sqrt((g - 1) / g * sum((v - mean) ** 2 for v in parts))
    half = float(stats.t.ppf(0.975, g - 1)) * error
    return Measured(value, value - half, value + half)


def _targets(y: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Targets (n, c) without their mean, and the error of predictions."""
    if not y.is_floating_point():
        require(y.dim() == 1, f"classes must be (n,), got {tuple(y.shape)}")
        known, place = y.unique(return_inverse=True)
        require(len(known) > 1, "the labels are all of one class")
        one_hot = torch.eye(len(known), dtype=torch.float64, device=y.device)[place]
        return one_hot - one_hot.mean(0), probes.misclassified
    y = y.double().reshape(len(y), -1)
    require(bool(y.isfinite().all()) and bool(y.var() > 0), "targets must be finite and vary")
    return y - y.mean(0), lambda f, t: (f - t).square().sum() / t.square().sum()


def _by_folds(k: Float[Tensor, "n n"], y: Float[Tensor, "n c"], wrong: Callable) -> Tensor:
    """The error of predictions for each fifth by regression on the others."""
    fold = torch.arange(len(k), device=k.device) % 5
    f = torch.empty_like(y)
    for i in range(5):
        a, b = fold != i, fold == i
        shift = RIDGE * k.diagonal().mean() * a.sum()
        f[b] = k[b][:, a] @ kernels.ridge(k[a][:, a], y[a], [shift])[0]
    return wrong(f, y)
