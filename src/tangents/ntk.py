"""The empirical tangent kernel Theta(x, x') = J(x) J(x')^T of any network, J = df/dparameters.

Linear, convolutional, embedding and normalisation layers are structured: their share of the kernel
comes from what enters and what returns through the layer (`tangents.jacobian`). Where a layer acts
at many positions, as a convolution does, its rows are formed if that is cheaper. A parameter whose
layer has no such form gets its rows by automatic differentiation.
"""

from contextlib import suppress
from typing import NamedTuple
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from tangents.functional import Params, select
from tangents.jacobian import Factor, Tangent, blocks, stack_tangents

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONVS = (nn.Conv1d, nn.Conv2d)


def tangent(module: nn.Module, params: Params, x: Tensor) -> Tangent:
    """The factored Jacobian at x (n, ...): one pass forward and one back for each output.

    `module` maps (n, ...) to (n, c), each example by itself. For a stack of b networks, `params`
    have a leading axis b. Linear, convolutional, embedding and normalisation layers are
    structured, at several positions or in several calls too, if their structured gradient agrees
    with automatic differentiation; all other parameters take the general route. Raises ValueError
    for a module that is not a map of single examples.
    """
    stacked = _stacked(module, params)
    if stacked and not all(hasattr(layer, "scale") for layer in _owners(module).values()):
        networks = [tangent(module, select(params, i), x) for i in range(stacked)]
        return stack_tangents(networks)
    return _tangent(module, params, x, _plan(module, params, x, stacked))


def ntk(
    module: nn.Module,
    params: Params,
    x1: Tensor,
    x2: Tensor | None = None,
    outputs: str = "full",
    budget: float | None = None,
) -> Tensor:
    """The empirical tangent kernel Theta (n, m, c, c) between inputs x1 (n, ...) and x2 (m, ...).

    Without `x2`, between x1 and itself. `outputs`: "full"; the "diagonal" over outputs (n, m, c);
    their "trace" (n, m). For a stack of b networks with a leading axis b. Beside the result about
    `budget` bytes are used, by default a quarter of those free. Raises ValueError for what
    `tangent` refuses, and where a parameter, an input or an output is not finite. Source: Jacot et
    al. (2018), section 4; Novak et al. (2022), section 3.
    """
    for name, values in {**params, "x1": x1, "x2": x1 if x2 is None else x2}.items():
        finite = not values.is_floating_point() or bool(values.isfinite().all())
        _require(finite, f"{name} holds values that are not finite")
    if budget is None:
        budget = _free(x1.device) / 4
    probe = tangent(module, params, x1[:2])
    bytes_each = 4 * sum(v.nbytes for f in probe.factors for v in (f.a, f.b) if v is not None)
    size = max(1, int(budget / bytes_each / 2))

    def rows(x: Tensor, index: slice) -> Tangent:
        found = tangent(module, params, x[index])
        finite = bool(found.value.isfinite().all())
        _require(finite, f"the output is not finite for the inputs {index.start} to {index.stop}")
        return found

    n, m = len(x1), len(x1 if x2 is None else x2)
    if max(n, m) <= size:
        left = rows(x1, slice(0, n))
        right = None if x2 is None else rows(x2, slice(0, m))
        return left.gram(right, outputs)
    out = None
    for i in blocks(n, size):
        left = rows(x1, i)
        for j in blocks(m, size):
            if x2 is None and j.start > i.start:
                break
            same = x2 is None and j == i
            tile = left.gram(None if same else rows(x1 if x2 is None else x2, j), outputs)
            axis = left.value.dim() - 2
            if out is None:
                out = tile.new_empty(*tile.shape[:axis], n, m, *tile.shape[axis + 2 :])
            before = (slice(None),) * axis
            out[(*before, i, j)] = tile
            if x2 is None and not same:
                flipped = tile.transpose(axis, axis + 1)
                out[(*before, j, i)] = flipped.mT if outputs == "full" else flipped
    return out


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _stacked(module: nn.Module, params: Params) -> int:
    """Length of the stack that the parameters are, 0 for those of a single network."""
    sizes = set()
    for name, p in module.named_parameters():
        _require(name in params, f"params lack {name!r}")
        extra = params[name].dim() - p.dim()
        shape = params[name].shape[extra:] if extra in (0, 1) else None
        message = f"{name!r} must have shape {tuple(p.shape)}, got {tuple(params[name].shape)}"
        _require(shape == p.shape, message)
        sizes.add(len(params[name]) if extra else 0)
    _require(len(sizes) == 1, "params must all be of one network, or all of one stack")
    return sizes.pop()


def _owners(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that own parameters, by name."""
    return {k: v for k, v in module.named_modules() if list(v.parameters(recurse=False))}


def _candidates(module: nn.Module) -> set[str]:
    """Layers of a known kind that share no parameter with another."""
    owners: dict[nn.Parameter, list[str]] = {}
    found = set()
    for name, layer in _owners(module).items():
        for p in layer.parameters(recurse=False):
            owners.setdefault(p, []).append(name)
        plain = type(layer) in (nn.Linear, *_CONVS)
        stated = isinstance(layer, (nn.Linear, *_CONVS)) and hasattr(layer, "scale")
        norm = isinstance(layer, _NORMS)
        table = type(layer) is nn.Embedding and layer.padding_idx is None and not layer.max_norm
        if plain or stated or norm or table:
            found.add(name)
    shared = {name for names in owners.values() if len(names) > 1 for name in names}
    return found - shared


_PLANS: WeakKeyDictionary = WeakKeyDictionary()


class Plan(NamedTuple):
    """Which way the columns of J come, found once for each kind of input."""

    structured: frozenset[str]  # layers whose structured gradient is automatic differentiation's
    batched: bool = True  # whether the general rows come right for all examples at once


def _plan(module: nn.Module, params: Params, x: Tensor, stacked: int) -> Plan:
    for name, layer in module.named_modules():
        batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        noise = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        random = layer.training and (batch or noise)
        kind = type(layer).__name__
        _require(not random, f"layer {name!r} ({kind}) is in training mode: call module.eval()")
    plans = _PLANS.setdefault(module, {})
    key = (x.shape[1:], x.dtype, bool(stacked), min(len(x), 2))
    if key not in plans:
        plans[key] = _verified(module, select(params, 0) if stacked else params, x[:2])
    return plans[key]


def _verified(module: nn.Module, params: Params, x: Tensor) -> Plan:
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with torch.enable_grad():
        f = functional_call(module, leaves, (x,))
    single = f.dim() == 2 and len(f) == len(x)
    _require(single, f"outputs must have shape (n, c), got {tuple(f.shape)} for n = {len(x)}")
    _require(bool(f.isfinite().all()), "the output is not finite")
    with torch.no_grad():
        alone = functional_call(module, params, (x[:1],))
    message = "the output of one example depends on the others in its batch"
    _require(_near(alone, f.detach()[:1]), message)
    u = torch.linspace(0.5, 1.5, f.numel(), dtype=f.dtype, device=f.device).view_as(f)
    names = list(leaves)
    found = torch.autograd.grad(f, [*leaves.values()], u, allow_unused=True)
    want = {
        k: torch.zeros_like(leaves[k]) if g is None else g
        for k, g in zip(names, found, strict=True)
    }

    def right(value: Tensor, factors) -> set[str]:
        got = Tangent(value, tuple(factors)).backward(u)
        return {k for k in got if _near(got[k], want[k])}

    agreeing = right(*_structured(module, params, x, frozenset(_candidates(module))))
    plan = Plan(
        frozenset(
            name
            for name in _candidates(module)
            if all(_join(name, p) in agreeing for p, _ in _owners(module)[name].named_parameters())
        )
    )
    whole = _tangent(module, params, x, plan)
    batched = right(whole.value, whole.factors) == want.keys()
    return plan if batched else plan._replace(batched=False)


def _near(got: Tensor, want: Tensor) -> bool:
    unit = torch.finfo(want.dtype).eps ** 0.5 * want.abs().max()
    return bool(((got - want).abs() <= unit).all())


def _join(layer: str, parameter: str) -> str:
    return f"{layer}.{parameter}" if layer else parameter


def _tangent(module: nn.Module, params: Params, x: Tensor, plan: Plan) -> Tangent:
    f, factors = _structured(module, params, x, plan.structured)
    done = {name for factor in factors for name in (factor.weight, factor.bias)}
    others = [k for k in params if k not in done]
    factors += _general(module, params, x, others, f.dim() == 3, plan.batched)
    return Tangent(f, tuple(factors))


def _structured(
    module: nn.Module, params: Params, x: Tensor, names: frozenset[str]
) -> tuple[Tensor, list[Factor]]:
    """The outputs, and the factors of the layers `names` that are called as they must be."""
    layers = {k: v for k, v in _owners(module).items() if k in names}
    calls: dict[str, list[tuple[Tensor, Tensor, int]]] = {}

    def record(name):
        def hook(layer, inputs, output):
            calls.setdefault(name, []).append((inputs[0].detach(), output, output._version))

        return hook

    handles = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
            f = functional_call(module, leaves, (x,))
            one = [f[..., k] for k in range(f.shape[-1])]
    finally:
        for handle in handles:
            handle.remove()
    axis, n = f.dim() - 2, len(x)

    def usable(layer: nn.Module, z: Tensor, version: int) -> bool:
        folded = isinstance(layer, nn.Linear) and z.shape[axis:-1].numel() % n == 0
        return z._version == version and (folded or z.shape[axis] == n)

    kept = {k: v for k, v in calls.items() if all(usable(layers[k], *call[1:]) for call in v)}
    places = [z for each in kept.values() for _, z, _ in each]
    ones, c = torch.ones_like(f[..., 0]), f.shape[-1]
    signals = [
        torch.autograd.grad(one[k], places, ones, retain_graph=k + 1 < c, materialize_grads=True)
        for k in range(c if places else 0)
    ]
    f, factors = f.detach(), []
    join = torch.stack if c > 1 else lambda each, axis: each[0].unsqueeze(axis)
    returned = iter([join(each, axis) for each in zip(*signals, strict=True)])
    for name, each in kept.items():
        inputs, b = [a for a, *_ in each], [next(returned) for _ in each]
        factors += _factors(name, layers[name], n, inputs, b, axis)
    return f, factors


def _factors(name, layer, n, inputs, signals, axis) -> list[Factor]:
    """The factors of one layer from its calls: inputs (*s, n, ...), signals (*s, c, n, ...)."""
    weight, bias = _join(name, "weight"), _join(name, "bias")
    bias = bias if getattr(layer, "bias", None) is not None else None
    shape, scale = tuple(layer.weight.shape), getattr(layer, "scale", 1.0)
    if isinstance(layer, _NORMS):
        return _norm_factors(layer, weight, bias, shape, inputs, signals)
    if isinstance(layer, nn.Embedding):
        a = torch.cat([v.reshape(len(v), -1) for v in inputs], -1)
        b = torch.cat([v.reshape(*v.shape[:2], -1, shape[-1]) for v in signals], -2)
        return [Factor(weight, None, shape, 1.0, a, b)]
    if isinstance(layer, nn.Linear):
        *s, c = signals[0].shape[: axis + 1]
        a = [
            v.reshape(*(s if v.dim() + 1 == z.dim() else ()), n, -1, layer.in_features)
            for v, z in zip(inputs, signals, strict=True)
        ]
        a = [v.expand(*s, *v.shape[-3:]) for v in a]
        b = [z.reshape(*s, c, n, -1, shape[0]) for z in signals]
    else:
        if layer.groups > 1:
            return _grouped_convolution(layer, weight, bias, shape, scale, inputs, signals, axis)
        a = [_patches(layer, v).mT for v in inputs]
        a = [v.expand(*z.shape[:axis], *v.shape[-3:]) for v, z in zip(a, signals, strict=True)]
        b = [z.flatten(axis + 3).mT for z in signals]
    a, b = (v[0] if len(v) == 1 else torch.cat(v, -2) for v in (a, b))
    factor = Factor(weight, bias, shape, scale, a, b)
    q, o, i = b.shape[-2], b.shape[-1], a.shape[-1]
    if q == 1 or q * q * (o + i) < o * i:
        return [factor]
    formed = [factor.rows()]
    if bias:
        formed.append(Factor(bias, None, (o,), 1.0, None, b.sum(-2, keepdim=True)))
    return formed


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """The inputs of a convolution at each of its positions: (*s, n, i k k, positions)."""
    spatial = layer.weight.dim() - 2
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    lead = x.shape[: -spatial - 1]
    x = F.pad(x.flatten(0, -spatial - 2), layer._reversed_padding_repeated_twice, mode)
    k, d, s = layer.kernel_size, layer.dilation, layer.stride
    if spatial == 1:
        x, k, d, s = x.unsqueeze(-2), (1, *k), (1, *d), (1, *s)
    return F.unfold(x, k, d, 0, s).unflatten(0, lead)


def _grouped_convolution(layer, weight, bias, shape, scale, inputs, signals, axis):
    """Rows formed group by group; the groups' weights follow each other in the tensor."""
    g, rows, shifts = layer.groups, 0, 0
    for x, z in zip(inputs, signals, strict=True):
        a = _patches(layer, x).unflatten(-2, (g, -1))  # (*s, n, g, i k k, q)
        b = z.flatten(axis + 3).unflatten(-2, (g, -1))  # (*s, c, n, g, o, q)
        rows = rows + (b @ a.mT.unsqueeze(axis)).flatten(-3)
        shifts = shifts + b.sum(-1).flatten(-2)
    found = [Factor(weight, None, shape, 1.0, None, (scale * rows).unsqueeze(-2))]
    if bias:
        found.append(Factor(bias, None, shape[:1], 1.0, None, shifts.unsqueeze(-2)))
    return found


def _norm_factors(layer, weight, bias, shape, inputs, signals) -> list[Factor]:
    """A normalisation's scale and shift: the signals, times the normalised inputs for the scale."""
    plain = {"weight": torch.ones_like(layer.weight)}
    if bias:
        plain["bias"] = torch.zeros_like(layer.bias)

    def summed(v: Tensor) -> Tensor:  # (c, n, ...) to the parameter's shape
        if isinstance(layer, nn.LayerNorm):
            v = v.flatten(2).unflatten(-1, (-1, layer.weight.numel())).sum(2)
        else:
            v = v.flatten(3).sum(-1) if v.dim() > 3 else v
        return v.unsqueeze(-2)

    scaled = shifted = 0
    for x, z in zip(inputs, signals, strict=True):
        ones = {k: v.to(x) for k, v in plain.items()}
        with torch.no_grad():
            scaled = scaled + summed(z * functional_call(layer, ones, (x,)))
        shifted = shifted + summed(z)
    found = [Factor(weight, None, shape, 1.0, None, scaled)]
    return found + ([Factor(bias, None, shape, 1.0, None, shifted)] if bias else [])


def _general(
    module, params: Params, x: Tensor, names: list[str], stacked: bool, batched: bool
) -> list[Factor]:
    """Rows of the parameters `names` by reverse mode, example by example."""
    if not names:
        return []
    if stacked:
        each = [
            _general(module, select(params, i), x, names, False, batched)
            for i in range(len(next(iter(params.values()))))
        ]
        return list(stack_tangents([Tangent(x.new_empty(0, 0), tuple(e)) for e in each]).factors)

    def one(some: Params, xi: Tensor) -> Tensor:
        return functional_call(module, {**params, **some}, (xi.unsqueeze(0),)).squeeze(0)

    some = {k: params[k].detach() for k in names}
    rows = None
    if batched:
        with suppress(RuntimeError, ValueError):  # what vmap cannot do: branches, some layers
            rows = vmap(jacrev(one), (None, 0), chunk_size=64)(some, x)
    if rows is None:
        each = [_one_by_one(one, some, xi) for xi in x]
        rows = {k: torch.stack([r[k] for r in each]) for k in names}
    signals = {k: v.detach().flatten(2).transpose(0, 1).unsqueeze(-2) for k, v in rows.items()}
    return [Factor(k, None, tuple(some[k].shape), 1.0, None, b) for k, b in signals.items()]


def _one_by_one(one, some: Params, xi: Tensor) -> Params:
    """Rows (c, ...) of one example, an output at a time."""
    with torch.enable_grad():
        leaves = {k: v.clone().requires_grad_() for k, v in some.items()}
        options = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
        rows = [torch.autograd.grad(f, [*leaves.values()], **options) for f in one(leaves, xi)]
    return {k: torch.stack(r) for k, r in zip(leaves, zip(*rows, strict=True), strict=True)}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"ntk: {message}")
