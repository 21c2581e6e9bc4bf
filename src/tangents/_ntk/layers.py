"""What each layer contributes to the Jacobian of a network, from what passes through it.

Linear, convolutional, embedding and normalisation layers have factors (`tangents.factored`): their
inputs, and the signals that automatic differentiation brings back to their outputs. Where a layer
acts at many positions, as a convolution does, its rows are formed if that is cheaper. All other
parameters get their rows by automatic differentiation.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from tangents.factored import Factor, Jacobian, blocks, stack_jacobians
from tangents.functional import Params, call, hooked, select

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONVS = (nn.Conv1d, nn.Conv2d)
NARROW = 16  # inputs of a position, below which a product is quicker the other way round
TOGETHER = 16  # outputs that one pass backward brings back, unless there are convolutions


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
        table = type(layer) is nn.Embedding and layer.padding_idx is None
        own = {k for k, p in layer._parameters.items() if p is not None}  # pruned: another name
        if {"weight"} <= own <= {"weight", "bias"} and (plain or stated or norm or table):
            found.add(name)
    shared = {name for names in holders.values() if len(names) > 1 for name in names}
    return found - shared


def qualified(layer: str, parameter: str) -> str:
    """The name of a layer's parameter in the whole network."""
    return f"{layer}.{parameter}" if layer else parameter


class Share(NamedTuple):
    """What one layer contributes: its factors but for b, and how b comes from signals.

    A factor is known by (weight, bias, shape, scale, a), see `Factor`, and by the last two
    dimensions (q, o) of its b. `signals` takes those of the layer's calls, (*s, r, n, ...) for r
    outputs, to the b of each factor, (*s, r, n, q, o), and may write it where it shall go.
    """

    factors: list[tuple]
    ends: list[tuple[int, int]]
    signals: Callable[[list[Tensor], list[Tensor] | None], list[Tensor]]
    transient: int = 0  # numbers that it keeps until all signals have come


class Passes:
    """A pass forward, and passes back to those layers `names` that are called as they must be.

    A pass back brings several outputs; but one where there are convolutions, which are slower so.
    """

    def __init__(self, module: nn.Module, params: Params, x: Tensor, names: frozenset[str]):
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
            self.graph = call(module, leaves, x)
        self.value = self.graph.detach()
        axis, n = self.value.dim() - 2, len(x)

        def usable(layer: nn.Module, given: Tensor | None, z: Tensor, version: int) -> bool:
            if given is None or not z.requires_grad:  # called by keyword, or without gradients
                return False
            if isinstance(layer, nn.Linear):  # on vectors (*s, n, ..., i), or (n ..., i) folded
                each = z.shape[axis:-1].numel() % n == 0
            else:
                each = z.shape[axis] == n
            return z._version == version and each

        kept = {k: v for k, v in calls.items() if all(usable(layers[k], *call) for call in v)}
        self.shares: list[tuple[Share, list[Tensor]]] = []  # and the outputs of the layer's calls
        for name, each in kept.items():
            inputs, outputs = [a for a, *_ in each], [z for _, z, _ in each]
            self.shares.append((_share(name, layers[name], n, inputs, outputs, axis), outputs))
        self.places = [z for _, outputs in self.shares for z in outputs]
        convolves = any(isinstance(layer, nn.modules.conv._ConvNd) for layer in module.modules())
        self.together = 1 if convolves else TOGETHER

    def empty(self, c: int, n: int) -> list[Tensor]:
        """Room for the b of each factor, of c outputs and n examples."""
        lead = (*self.value.shape[:-2], c, n)
        return [z.new_empty(*lead, *end) for share, (z, *_) in self.shares for end in share.ends]

    def signals(self, k: slice, into: list[Tensor] | None = None) -> list[Tensor]:
        """The b of each factor for the outputs k, (*s, k, n, q, o), in tensors of that shape."""
        returned, found = iter(_backward(self.graph, self.places, k)), []
        for share, outputs in self.shares:
            given = [next(returned) for _ in outputs]
            found += share.signals(given, into and into[len(found) :])
        if into is None:
            return found
        for place, b in zip(into, found, strict=True):
            if place.data_ptr() != b.data_ptr():
                place.copy_(b)
        return into

    def inputs(self) -> list[Tensor | None]:
        return [a for share, _ in self.shares for *_, a in share.factors]

    def factors(self, inputs: list[Tensor | None], signals: list[Tensor]) -> list[Factor]:
        kinds = [kind for share, _ in self.shares for *kind, _ in share.factors]
        return [Factor(*kind, a, b) for kind, a, b in zip(kinds, inputs, signals, strict=True)]


def structured(
    module: nn.Module, params: Params, x: Tensor, names: frozenset[str], size: int
) -> tuple[Tensor, list[Factor]]:
    """The outputs, and the factors of the layers `names`; `size` examples are taken at a time."""
    values, inputs, b, whole = [], None, None, size >= len(x)
    for i in blocks(len(x), size):
        passes = None  # and with it all that was recorded of the last examples
        passes = Passes(module, params, x[i], names)
        values.append(passes.value)
        axis, c = passes.value.dim() - 2, passes.value.shape[-1]
        before = (slice(None),) * axis
        found = passes.inputs()
        if whole:
            inputs = found
        else:
            inputs = inputs or [
                None if a is None else a.new_empty(*a.shape[:axis], len(x), *a.shape[axis + 1 :])
                for a in found
            ]
            for place, a in zip(inputs, found, strict=True):
                if a is not None:
                    place[(*before, i)] = a
        if not passes.places:
            b = []
        elif whole and c <= passes.together:
            b = passes.signals(slice(0, c))
        else:
            b = b or passes.empty(c, len(x))
            for k in blocks(c, passes.together):
                passes.signals(k, [v[(*before, k, i)] for v in b])
    return _joined(values, axis), passes.factors(inputs, b)


def few_outputs(
    module: nn.Module, params: Params, x: Tensor, names: frozenset[str], group: int
) -> Iterator[tuple[slice, Tensor, list[Factor]]]:
    """`structured` for `group` outputs after others, in memory that each leave to the next."""
    passes = Passes(module, params, x, names)
    c = passes.value.shape[-1]
    b = passes.empty(min(c, group), len(x))
    for k in blocks(c, group):
        some = [v[..., : k.stop - k.start, :, :, :] for v in b]
        if passes.places:
            passes.signals(k, some)
        yield k, passes.value[..., k], passes.factors(passes.inputs(), some)


def transient(
    module: nn.Module, params: Params, x: Tensor, names: frozenset[str]
) -> tuple[int, int, int]:
    """Numbers that `structured` holds beside the factors: those of the layers until the passes back
    are done, and those that a pass brings for an output; for how many outputs it does."""
    passes = Passes(module, params, x, names)
    kept = sum(share.transient for share, _ in passes.shares)
    returned = sum(z.numel() for z in passes.places)
    return kept, returned, min(passes.value.shape[-1], passes.together)


@torch.enable_grad()
def _backward(f: Tensor, places: list[Tensor], k: slice) -> list[Tensor]:
    """The gradients of the outputs k, (*s, k, n, ...) for each place (*s, n, ...)."""
    axis = f.dim() - 2
    totals = f.flatten(0, -2).sum(0)[k]  # no example has a part in another's output
    r = len(totals)
    found = None
    if r > 1:
        eye = torch.eye(r, dtype=f.dtype, device=f.device)
        with suppress(RuntimeError, ValueError):  # what vmap cannot do
            found = _gradients(totals, places, eye, True)
    if found is None:
        each = [_gradients(total, places) for total in totals.unbind()]
        found = [v[0].unsqueeze(0) if r == 1 else torch.stack(v) for v in zip(*each, strict=True)]
    return [v.movedim(0, axis) for v in found]


def _gradients(totals, places: list[Tensor], weights=None, batched: bool = False) -> list[Tensor]:
    lead = (len(totals),) if batched else ()
    options = dict(retain_graph=True, allow_unused=True, is_grads_batched=batched)
    found = torch.autograd.grad(totals, places, weights, **options)
    return [
        z.new_zeros(*lead, *z.shape) if v is None else v for v, z in zip(found, places, strict=True)
    ]


def _share(name, layer, n, inputs, outputs, axis) -> Share:
    """The share of a layer from its calls: inputs (*s, n, ...) and outputs alike."""
    weight, bias = qualified(name, "weight"), qualified(name, "bias")
    bias = bias if getattr(layer, "bias", None) is not None else None
    shape, scale = layer.weight.shape, getattr(layer, "scale", 1.0)
    formed = [(weight, None, shape, 1.0, None)]
    formed += [(bias, None, layer.bias.shape, 1.0, None)] if bias else []
    ends = [(1, kind[2].numel()) for kind in formed]
    if isinstance(layer, _NORMS):
        return Share(formed, ends, _norm_signals(layer, inputs))
    if isinstance(layer, nn.Embedding):
        a = _joined([v.reshape(len(v), -1) for v in inputs], -1)

        def vectors(signals):
            return _joined([z.reshape(*z.shape[:2], -1, shape[1]) for z in signals], -2)

        factor, end = (weight, None, shape, 1.0, a), (a.shape[-1], shape[1])
        return Share([factor], [end], lambda given, into: [vectors(given)])
    lead, g = outputs[0].shape[:axis], getattr(layer, "groups", 1)
    if isinstance(layer, nn.Linear):
        of_each = [
            v.shape[: v.dim() - z.dim() + axis] for v, z in zip(inputs, outputs, strict=True)
        ]
        a = [v.reshape(*s, n, 1, -1, shape[1]) for v, s in zip(inputs, of_each, strict=True)]

        def vectors(signals):  # (*s, r, n, q, o)
            return _joined([z.reshape(*z.shape[: axis + 1], n, -1, shape[0]) for z in signals], -2)

    else:
        a = [_patches(layer, v).unflatten(-2, (g, -1)).mT for v in inputs]

        def vectors(signals):
            return _joined([z.flatten(axis + 3) for z in signals], -1).mT

    a = _joined([v.expand(*lead, *v.shape[-4:]) for v in a], -2)  # (*s, n, g, q, i)
    if g == 1 and _factored(a.shape[-2], shape[0], a.shape[-1]):
        factor, end = (weight, bias, shape, scale, a.squeeze(-3)), (a.shape[-2], shape[0])
        return Share([factor], [end], lambda given, into: [vectors(given)])

    def rows(given, into):
        b, a_of_all = vectors(given), a.unsqueeze(axis)
        each = (g, shape[0] // g, a.shape[-1])
        of_groups = b.mT.unflatten(-2, each[:2])
        if each[-1] < NARROW:
            summed = (a_of_all.mT @ of_groups.mT).mT
        else:
            out = into[0].unflatten(-1, each).squeeze(-4) if into else None
            summed = torch.matmul(of_groups, a_of_all, out=out)
        summed = summed if scale == 1 else summed.mul_(scale)
        found = (summed.flatten(-3), b.sum(-2)) if bias else (summed.flatten(-3),)
        return [v.unsqueeze(-2) for v in found]

    return Share(formed, ends, rows, 0 if isinstance(layer, nn.Linear) else a.numel())


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def _factored(q: int, o: int, i: int) -> bool:
    """Whether q positions cost fewer operations as they are than summed into an (o, i) row."""
    return q == 1 or q * q * (o + i) < o * i


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


def _norm_signals(layer, inputs: list[Tensor]) -> Callable:
    """A normalisation's scale and shift: the signals, times the normalised inputs for the scale."""
    plain = {"weight": torch.ones_like(layer.weight)}
    if getattr(layer, "bias", None) is not None:
        plain["bias"] = torch.zeros_like(layer.bias)
    with torch.no_grad():
        normal = [
            call(layer, {k: v.to(x) for k, v in plain.items()}, x) for x in inputs
        ]

    def summed(v: Tensor) -> Tensor:  # (r, n, ...) to the parameter's shape
        if isinstance(layer, nn.LayerNorm):
            v = v.flatten(2).unflatten(-1, (-1, layer.weight.numel())).sum(2)
        else:
            v = v.flatten(3).sum(-1) if v.dim() > 3 else v
        return v.unsqueeze(-2)

    def signals(given: list[Tensor], into: list[Tensor] | None) -> list[Tensor]:
        found = [sum(summed(z * v) for z, v in zip(given, normal, strict=True))]
        return [*found, sum(summed(z) for z in given)] if "bias" in plain else found

    return signals


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
        return list(stack_jacobians([Jacobian(x.new_empty(0, 0), tuple(e)) for e in each]).factors)

    def one(some: Params, xi: Tensor) -> Tensor:
        return call(module, {**params, **some}, xi.unsqueeze(0)).squeeze(0)

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
