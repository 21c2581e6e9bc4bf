"""Was that training lazy? What it moved, from the weights before and after and one batch.

    found = measure(net, before, after, x_test, y_test, params=["*lora*"])
    print(found)  # a table; found["nonlinear"].value, found.layers["0"]["turn"].low, found.json()

*What it costs*, see `benchmarks/laziness.py`: R two or three steps of SGD on the batch, 4 ms for
10^5 parameters. All else up to two hundred such steps: for each checkpoint and output a pass back,
with `sums=16` sixteen however many outputs there are. Memory: `budget` for the kernels, and about
twice the weights, beside the module's own and those before and after.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from jaxtyping import Num
from scipy import stats
from torch import Tensor, nn

from tangents import checks, kernels, probes
from tangents._ntk.layers import evaluate
from tangents._ntk.parts import activations, by_layer, owner
from tangents.functional import Params, differentiable, linearise, require, stacked
from tangents.inputs import Inputs, count, each, taken, tensors
from tangents.laziness import OF_LAYERS, WORDS, Laziness, Measured

GROUPS = 10  # of examples, left out one after the other
RIDGE = 1e-3  # of kernel regression, over the kernel's mean diagonal


def measure(
    module: nn.Module,
    before: Params,
    after: Params,
    x: Inputs,
    y: Num[Tensor, " n *c"] | None = None,
    budget: float | None = None,
    params: Sequence[str] = (),
    sums: int | None = None,
) -> Laziness:
    """How lazy the training from the weights `before` to those `after` was, on examples x (n, ...).

    R = |f_1 - f_0 - J_0 dw| / |f_1 - f_0|, by one pass in forward mode: near zero the network did
    what its linearisation does; its interval has room for rounding. Turn and change of the tangent
    kernel, traced over outputs, and how far the weights went. With labels y, classes (n,) or real
    targets (n,) or (n, c), the kernel's centred alignment with them, and the error of kernel
    regression in five folds: the share of wrong classes, or the squared error over the variance.
    Intervals leave out a tenth of the examples at a time. At least twenty examples that training
    has not seen make sense of all that.

    By layer, the module that owns a parameter, by its path: its share of the trace of the kernel,
    before and after; how far its part of the kernel turned, and what it gives out, as 1 - CKA; nan
    for a part that is zero. *Hidden* are all layers but that which gives f.

    `before` and `after` are parameters or state_dicts. Buffers, as statistics of batch norm, are
    the module's, both times. `params`: patterns, as `*lora*`, of names of parameters; then the
    kernel is that of these alone, and R of what they alone moved: the others are as `before` has
    them, or the module. `sums`: the kernel of so many random sums of the outputs, for networks of
    very many. `budget`: bytes that kernels take, as for `ntk`.

    Raises ValueError as `ntk` does, for weights or outputs that are the same, patterns that fit no
    name, fewer than 20 examples, labels that do not fit, and over a thousand outputs without
    `sums`. Source: Chizat et al. (2019), section 1; Geiger et al. (2020); CKA of kernels Cortes et
    al. (2012), of layers Kornblith et al. (2019).
    """
    checks.kind("module", module, nn.Module)
    n = count(x)
    require(n >= 2 * GROUPS, f"at least {2 * GROUPS} examples are needed, got {n}")
    if y is not None:
        checks.kind("y", y)
        require(len(y) == n, f"labels must be of the {n} examples, got {len(y)}")
    targets = None if y is None else _targets(y.to(tensors(x)[0].device))
    names = _chosen(module, params)
    start, end = (_taken(module, names, p, when, bool(params))
                  for p, when in ((before, "before"), (after, "after")))  # fmt: skip
    strange = next((k for k in names if start[k].dtype != end[k].dtype), None)
    require(strange is None, f"{strange!r} is of one type before, and of another after")
    moved = _length(end[k] - start[k] for k in names)
    require(moved != 0, "the weights before and after are the same")
    layers = list(dict.fromkeys(map(owner, names)))
    others = {k: before[k] for k, _ in module.named_parameters() if k in before.keys() - {*names}}
    with _at(module, others):
        seen = _see(module, start, end, x, layers, budget, sums)
    found = _with_intervals(seen, layers, targets)
    found[None, "distance"] = Measured(moved / _length(start.values()), math.nan, math.nan)
    whole = {name: found[None, name] for name in WORDS if (None, name) in found}
    rows = {layer: {k: found[layer, k] for k in OF_LAYERS if (layer, k) in found}
            for layer in layers}  # fmt: skip
    return Laziness(whole, rows)


def _with_intervals(seen: "_Seen", layers: list[str], y: tuple | None) -> dict[tuple, Measured]:
    every = torch.arange(len(seen.outputs[0]), device=seen.outputs[0].device)
    parts = [_numbers(seen, layers, y, every[every % GROUPS != g]) for g in range(GROUPS)]
    found = {k: _interval(v, [part[k] for part in parts])
             for k, v in _numbers(seen, layers, y, every).items()}  # fmt: skip
    f0, f1, _ = (f.norm() for f in seen.outputs)
    rounding = seen.unit * max(f0, f1).item() / (seen.outputs[1] - seen.outputs[0]).norm().item()
    value, low, high = found[None, "nonlinear"]
    found[None, "nonlinear"] = Measured(value, low - rounding, high + rounding)
    return found


def _chosen(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The names of parameters that fit any of the patterns, or all names without these."""
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        fits = any(fnmatchcase(name, pattern) for name in names)
        some = ", ".join(names[:: max(1, len(names) // 5)][:5])
        require(fits, f"no parameter fits {pattern!r}: accepted are patterns of names such as "
                f"{some}")  # fmt: skip
    return [k for k in names if not patterns or any(fnmatchcase(k, v) for v in patterns)]


def _taken(module: nn.Module, names: list[str], state: Params, when: str, partial: bool) -> Params:
    """These parameters of a state, which may hold buffers too, and others if partial."""
    checks.kind(f"the weights {when}", state, dict)
    buffers = {name for name, _ in module.named_buffers()}
    state = {k: v for k, v in state.items() if k not in buffers}
    lacking = next((name for name in names if name not in state), None)
    require(lacking is None, f"the weights {when} lack {lacking!r}")
    require(stacked(module, state, partial) == 0, "measure takes one network, not a stack")
    return {name: state[name].detach() for name in names}


def _length(tensors) -> float:
    return math.hypot(*(torch.linalg.vector_norm(v).item() for v in tensors))


@contextmanager
def _at(module: nn.Module, params: Params) -> Iterator[None]:
    """The module at these parameters; its own are put back."""
    own = dict(module.named_parameters())
    held = {name: own[name].data for name in params}
    for name, v in params.items():
        one = v.dtype == held[name].dtype
        require(one, f"{name!r} is {held[name].dtype} in the module, and before {v.dtype}")
    try:
        for name, v in params.items():
            own[name].data = v.detach().to(held[name].device)
        yield
    finally:
        for name, v in held.items():
            own[name].data = v


class _Seen(NamedTuple):
    """What is computed of a network, before and after."""

    outputs: tuple[Tensor, Tensor, Tensor]  # (n, c), also of the tangent model
    parts: tuple[Tensor, Tensor]  # of the kernel by layer (l, n, n)
    hidden: list[str]
    grams: tuple[Tensor, Tensor]  # of what these give out (m, n, n)
    unit: float  # of rounding


def _see(module, start: Params, end: Params, x: Inputs, layers: list[str], budget, sums) -> _Seen:
    with taken(x):
        parts, unit = by_layer(module, (start, end), x, budget, sums)
    with torch.no_grad(), differentiable(module):
        f0, f1 = (evaluate(module, p, x) for p in (start, end))
        f_lin = linearise(module, start)(end, each(x, Tensor.clone)).reshape(f0.shape)
        h0, h1 = (activations(module, p, x, layers) for p in (start, end))
    require(not f0.equal(f1), "the outputs before and after are the same on these examples")
    hidden = [k for k in h0 if k in h1]
    grams = (torch.stack([h[k] for k in hidden]) if hidden else parts[0][:0] for h in (h0, h1))
    outputs = tuple(f.double() for f in (f0, f1, f_lin))
    return _Seen(outputs, tuple(parts), hidden, tuple(grams), unit)


Numbers = dict[tuple[str | None, str], float]  # by layer, None for the whole, and name


def _numbers(seen: _Seen, layers: list[str], y: tuple | None, rows: Tensor) -> Numbers:
    """All measures on some of the examples."""
    f0, f1, f_lin = (f[rows] for f in seen.outputs)
    a, b = (k[:, rows][:, :, rows] for k in seen.parts)
    k0, k1 = a.sum(0), b.sum(0)
    whole = {
        "nonlinear": (f1 - f_lin).norm() / (f1 - f0).norm(),
        "turn": 1 - kernels.cosine(k1, k0),
        "turn_centred": 1 - kernels.centred_alignment(k1, k0),
        "kernel_change": kernels.distance(k1, k0),
    }
    each_layer = {
        "share_before": _trace(a) / _trace(k0),
        "share_after": _trace(b) / _trace(k1),
        "turn": 1 - kernels.centred_alignment(b, a),
    }
    found = {(layer, k): v for k, values in each_layer.items()
             for layer, v in zip(layers, values.tolist(), strict=True)}  # fmt: skip
    if seen.hidden:
        g0, g1 = (g[:, rows][:, :, rows] for g in seen.grams)
        turned = 1 - kernels.centred_alignment(g1, g0)
        whole["turn_hidden"] = turned.mean()
        found |= {(k, "turn_outputs"): v
                  for k, v in zip(seen.hidden, turned.tolist(), strict=True)}  # fmt: skip
    if y is not None:
        targets, wrong = y[0][rows], y[1]
        for name, k in (("before", k0), ("after", k1)):
            whole[f"alignment_{name}"] = kernels.centred_alignment(k, targets @ targets.mT)
            whole[f"error_{name}"] = _by_folds(k, targets, wrong, max(RIDGE, seen.unit))
    return found | {(None, name): float(v) for name, v in whole.items()}


def _trace(k: Tensor) -> Tensor:
    return k.diagonal(dim1=-2, dim2=-1).sum(-1)


def _interval(value: float, parts: list[float]) -> Measured:
    """By the jackknife that leaves out groups."""
    mean, g = sum(parts) / len(parts), len(parts)
    error = math.sqrt((g - 1) / g * sum((v - mean) ** 2 for v in parts))
    half = float(stats.t.ppf(0.975, g - 1)) * error
    return Measured(value, value - half, value + half)


def _targets(y: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Targets (n, c) without their mean, and the error of predictions."""
    if not y.is_floating_point():
        require(y.dim() == 1, f"classes must be (n,), got {tuple(y.shape)}: leave y out")
        known, place = y.unique(return_inverse=True)
        require(len(known) > 1, "the labels are all of one class")
        one_hot = torch.eye(len(known), dtype=torch.float64, device=y.device)[place]
        return one_hot - one_hot.mean(0), probes.misclassified
    y = y.double().reshape(len(y), -1)
    require(bool(y.isfinite().all()) and bool(y.var() > 0), "targets must be finite and vary")
    return y - y.mean(0), lambda f, t: (f - t).square().sum() / t.square().sum()


def _by_folds(k: Tensor, y: Tensor, wrong: Callable, ridge: float) -> Tensor:
    """The error of predictions for each fifth by regression on the others."""
    fold = torch.arange(len(k), device=k.device) % 5
    f = torch.empty_like(y)
    for i in range(5):
        a, b = fold != i, fold == i
        shift = (ridge * k.diagonal().mean() * a.sum()).item()
        f[b] = kernels.regression(k[a][:, a], k[b][:, a], y[a], shift)
    return wrong(f, y)
