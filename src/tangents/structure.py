"""What each layer contributes to the Jacobian of a network, from what passes through it.

Linear, convolutional, embedding and normalisation layers have factors (`tangents.jacobian`): their
inputs, and the signals that automatic differentiation brings back to their outputs. Where a layer
acts at many positions, as a convolution does, its rows are formed if that is cheaper. All other
parameters get their rows by automatic differentiation.
"""

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from tangents.functional import Params, hooked, select
from tangents.jacobian import Factor, Tangent, blocks, stack_tangents

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONVS = (nn.Conv1d, nn.Conv2d)
CACHE = 2**20  # bytes that a core keeps at hand


def owners(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that own parameters, by name."""
    return {k: v for k, v in module.named_modules() if list(v.parameters(recurse=False))}


def candidates(module: nn.Module) -> set[str]:
    """Layers of a known kind that share no parameter with another."""
    holders: dict[nn.Parameter, list[str]] = {}
    found = set()
    for name, layer in owners(module).items():
        for p in layer.parameters(recurse=False):
            holders.setdefault(p, []).append(name)
        plain = type(layer) in (nn.Linear, *_CONVS)
        stated = isinstance(layer, (nn.Linear, *_CONVS)) and hasattr(layer, "scale")
        norm = isinstance(layer, _NORMS)
        table = type(layer) is nn.Embedding and layer.padding_idx is None and not layer.max_norm
        if plain or stated or norm or table:
            found.add(name)
    shared = {name for names in holders.values() if len(names) > 1 for name in names}
    return found - shared


def qualified(layer: str, parameter: str) -> str:
    """The name of a layer's parameter in the whole network."""
    return f"{layer}.{parameter}" if layer else parameter


def structured(
    module: nn.Module, params: Params, x: Tensor, names: frozenset[str]
) -> tuple[Tensor, list[Factor]]:
    """The outputs, and the factors of the layers `names` that are called as they must be."""
    layers = {k: v for k, v in owners(module).items() if k in names}
    calls: dict[str, list[tuple[Tensor, Tensor, int]]] = {}

    def record(name):
        def hook(layer, inputs, output):
            given = inputs[0].detach() if inputs else None
            calls.setdefault(name, []).append((given, output, output._version))

        return hook

    handles = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    with hooked(handles), torch.enable_grad():
        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        f = functional_call(module, leaves, (x,))
        totals = f.flatten(0, -2).sum(0).unbind()  # no example has a part in another's output
    axis, n = f.dim() - 2, len(x)

    def usable(layer: nn.Module, given: Tensor | None, z: Tensor, version: int) -> bool:
        if given is None or not z.requires_grad:  # called by keyword, or without gradients
            return False
        folded = isinstance(layer, nn.Linear) and z.shape[axis:-1].numel() % n == 0
        return z._version == version and (folded or z.shape[axis] == n)

    kept = {k: v for k, v in calls.items() if all(usable(layers[k], *call) for call in v)}
    places = [z for each in kept.values() for _, z, _ in each]
    f, c, factors = f.detach(), len(totals), []
    signals = [z.new_empty(*z.shape[:axis], c, *z.shape[axis:]) for z in places]
    for k, total in enumerate(totals if places else ()):
        found = torch.autograd.grad(total, places, retain_graph=k + 1 < c, materialize_grads=True)
        if c == 1:
            signals = [gradient.unsqueeze(axis) for gradient in found]
            break
        for signal, gradient in zip(signals, found, strict=True):
            signal.select(axis, k).copy_(gradient)
    returned = iter(signals)
    for name, each in kept.items():
        inputs, b = [a for a, *_ in each], [next(returned) for _ in each]
        factors += _factors(name, layers[name], n, inputs, b, axis)
    return f, factors


def _factors(name, layer, n, inputs, signals, axis) -> list[Factor]:
    """The factors of one layer from its calls: inputs (*s, n, ...), signals (*s, c, n, ...)."""
    weight, bias = qualified(name, "weight"), qualified(name, "bias")
    bias = bias if getattr(layer, "bias", None) is not None else None
    shape, scale = layer.weight.shape, getattr(layer, "scale", 1.0)
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
        positions = sum(z.shape[axis + 3 :].numel() for z in signals)
        if not _factored(positions, shape[0], shape[1:].numel()):
            rows = sum(
                _convolution_rows(layer, x, z, axis) for x, z in zip(inputs, signals, strict=True)
            )
            shifts = sum(z.flatten(axis + 3).sum(-1) for z in signals) if bias else None
            return _formed(weight, bias, shape, rows.mul_(scale), shifts)
        a = [_patches(layer, v).mT for v in inputs]
        a = [v.expand(*z.shape[:axis], *v.shape[-3:]) for v, z in zip(a, signals, strict=True)]
        b = [z.flatten(axis + 3).mT for z in signals]
    a, b = (v[0] if len(v) == 1 else torch.cat(v, -2) for v in (a, b))
    factor = Factor(weight, bias, shape, scale, a, b)
    if _factored(b.shape[-2], b.shape[-1], a.shape[-1]):
        return [factor]
    return _formed(weight, bias, shape, factor.rows(), b.sum(-2) if bias else None)


def _factored(q: int, o: int, i: int) -> bool:
    """Whether q positions cost fewer operations as they are than summed into an (o, i) row."""
    return q == 1 or q * q * (o + i) < o * i


def _formed(weight, bias, shape, rows: Tensor, shifts: Tensor | None) -> list[Factor]:
    """The factors of a weight and a bias whose rows (*s, c, n, p) are at hand."""
    found = [Factor(weight, None, shape, 1.0, None, rows.unsqueeze(-2))]
    if bias:
        found.append(Factor(bias, None, shape[:1], 1.0, None, shifts.unsqueeze(-2)))
    return found


def _convolution_rows(layer: nn.Module, x: Tensor, z: Tensor, axis: int) -> Tensor:
    """sum_q z_q a_q^T over positions, (*s, c, n, o i k k), from inputs x and signals z.

    The patches a outweigh the inputs many times: they are made for so few examples at a time that
    they stay in the cache.
    """
    z = z.flatten(axis + 3)
    *lead, o, q = z.shape
    rows = z.new_empty(*lead, layer.weight[0].numel() * o)
    first = x.dim() - layer.weight.dim()  # the axis of the examples in x
    each = x.shape[:first].numel() * layer.weight[0].numel() * q * x.element_size()
    for i in blocks(lead[-1], max(1, CACHE // each)):
        a = _patches(layer, x[(slice(None),) * first + (i,)]).unsqueeze(-4).mT
        rows[..., i, :] = (z[..., i, :, :] @ a).flatten(-2)
    return rows


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
    return _formed(weight, bias, shape, scale * rows, shifts)


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


def general(
    module, params: Params, x: Tensor, names: list[str], stacked: bool, batched: bool
) -> list[Factor]:
    """Rows of the parameters `names` by reverse mode, example by example."""
    if not names:
        return []
    if stacked:
        each = [
            general(module, select(params, i), x, names, False, batched)
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
    signals = {
        k: v.detach().reshape(*v.shape[:2], -1).transpose(0, 1).unsqueeze(-2)
        for k, v in rows.items()
    }
    return [Factor(k, None, some[k].shape, 1.0, None, b) for k, b in signals.items()]


def _one_by_one(one, some: Params, xi: Tensor) -> Params:
    """Rows (c, ...) of one example, an output at a time."""
    with torch.enable_grad():
        leaves = {k: v.clone().requires_grad_() for k, v in some.items()}
        options = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
        rows = [torch.autograd.grad(f, [*leaves.values()], **options) for f in one(leaves, xi)]
    return {k: torch.stack(r) for k, r in zip(leaves, zip(*rows, strict=True), strict=True)}
