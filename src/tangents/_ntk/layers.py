"""What each layer contributes to the Jacobian of a network, from what passes through it.

Linear, convolutional, embedding and normalisation layers have factors (`tangents.factored`): their
inputs, and the signals that automatic differentiation brings back to their outputs. Where a layer
acts at many positions, as a convolution does, its rows are formed if that is cheaper. All other
parameters get their rows by automatic differentiation.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional as F

from tangents._ntk.guard import Misled
from tangents.factored import Factor, Jacobian, blocks, stack_jacobians
from tangents.functional import Params, call, hooked, require, select, within
from tangents.inputs import Inputs, count, each, some

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_CONVS = (nn.Conv1d, nn.Conv2d)
NARROW = 16  # inputs of a position, below which a product is quicker the other way round
TOGETHER = 16  # outputs that one pass backward brings back, unless there are convolutions


def owners(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that own parameters, by name."""
    return {k: v for k, v in module.named_modules() if list(v.parameters(recurse=False))}


def candidates(module: nn.Module, params: Params) -> set[str]:
    """Layers of a known kind that share no parameter with another, and have all in `params`."""
    holders: dict[nn.Parameter, list[str]] = {}
    found = set()
    for name, layer in owners(module).items():
        for p in layer.parameters(recurse=False):
            holders.setdefault(p, []).append(name)
        plain = type(layer) in (nn.Linear, *_CONVS)
        stated = isinstance(layer, (nn.Linear, *_CONVS)) and hasattr(layer, "scale")
        norm = isinstance(layer, _NORMS)
        table = type(layer) is nn.Embedding
        own = {k for k, p in layer._parameters.items() if p is not None}  # pruned: another name
        usual = {"weight"} <= own <= {"weight", "bias"} and layer.weight.numel() > 0
        usual = usual and all(qualified(name, k) in params for k in own)
        if usual and (plain or stated or norm or table):
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


def evaluate(module: nn.Module, params: Params, x: Inputs, b: int = 0) -> Tensor:
    """The outputs (n, c), those (n, ...) in one row each; of a stack of b networks (b, n, c). The
    module gets a copy of the inputs: its first layer may write into them."""
    f = call(module, params, each(x, Tensor.clone))
    got = tuple(f.shape) if isinstance(f, Tensor) else f"a {type(f).__name__}"
    lead = (b, count(x)) if b else (count(x),)
    fits = isinstance(f, Tensor) and f.shape[: len(lead)] == lead and f.numel() > 0
    require(fits, f"outputs must have shape (n, ...), here n = {lead[-1]}, got {got}")
    require(f.is_floating_point(), f"outputs must be real numbers, got {f.dtype}")
    return f.flatten(len(lead)) if f.dim() > len(lead) else f.unsqueeze(-1)


def promoted(f: Tensor, params: Params) -> torch.dtype:
    """The type of a Jacobian: that of the outputs or of the parameters, whichever holds more."""
    return reduce(torch.promote_types, (v.dtype for v in params.values()), f.dtype)


def leaves(params: Params) -> Params:
    return {k: v.detach().requires_grad_() for k, v in params.items()}


Marks = dict[str, list[Tensor | None]]  # of each call of a layer


def _mark(layer: nn.Module, given: Tensor, z: Tensor, n: int, axis: int) -> Tensor | None:
    """A number (*s, n) for what each example brings into a layer, None for no such input; sums of
    sizes, which cannot cancel, those of numbers below zero halved: h differs from -h."""
    table = isinstance(layer, nn.Embedding)
    lead = given.shape[: 0 if table else max(0, given.dim() - z.dim() + axis)]
    rest = given.shape[len(lead) :]
    folded = isinstance(layer, nn.Linear)  # on vectors (*s, n, ..., i), or (n ..., i) folded
    if not (rest[:-1].numel() % n == 0 if folded else rest[:1] == (n,)):
        return None
    wide = torch.promote_types(given.dtype, torch.float64 if table else torch.float32)
    v = F.leaky_relu(given.detach().reshape(*lead, n, -1).to(wide), -0.5)
    weights = torch.arange(v.shape[-1], dtype=v.dtype, device=v.device).cos_().add_(1.5)
    return v @ weights


@contextmanager
def marked(layers: dict[str, nn.Module], n: int, axis: int, kept: dict | None = None):
    """Yields the marks of all calls of these layers inside, and notes (input, output, version of
    the output) of each in `kept`."""
    marks: Marks = {}

    def record(name):
        def hook(layer, inputs, z):
            given = inputs[0] if inputs else None
            usual = isinstance(given, Tensor) and isinstance(z, Tensor)
            mark = _mark(layer, given, z, n, axis) if usual else None
            marks.setdefault(name, []).append(mark)
            if kept is not None:
                given = given.detach() if usual else None
                kept.setdefault(name, []).append((given, z, z._version if usual else 0))

        return hook

    handles = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    with hooked(handles):
        yield marks


class Passes:
    """A pass forward, and passes back to those layers `names` that are called as they must be, or
    `Misled` if `all_of` them must be.

    A pass back brings several outputs; but one where there are convolutions, which are slower so.
    """

    def __init__(
        self,
        module: nn.Module,
        params: Params,
        x: Inputs,
        names: frozenset[str],
        b: int = 0,
        all_of: bool = True,
    ):
        layers = {k: v for k, v in owners(module).items() if k in names}
        calls: dict[str, list[tuple[Tensor, Tensor, int]]] = {}
        axis, n = int(b > 0), count(x)
        self.module, self.leaves = module, leaves(params)
        with marked(layers, n, axis, calls) as self.marks, torch.enable_grad():
            self.graph = evaluate(module, self.leaves, x, b)
        self.dtype = promoted(self.graph, params)
        self.value = self.graph.detach().to(self.dtype)

        def usable(name: str) -> bool:
            for mark, (_, z, version) in zip(self.marks[name], calls[name], strict=True):
                if mark is None or not z.requires_grad or z._version != version:
                    return False  # by keyword, without gradients, other rows, written into
                if not isinstance(layers[name], nn.Linear) and z.shape[axis] != n:
                    return False
            return True

        kept = {k: v for k, v in calls.items() if usable(k)}
        if all_of and names - kept.keys():
            raise Misled(names - kept.keys())
        self.shares: list[tuple[Share, list[Tensor]]] = []  # and the outputs of the layer's calls
        for name, every in kept.items():
            inputs, outputs = [a for a, *_ in every], [z for _, z, _ in every]
            share = _share(name, layers[name], n, inputs, outputs, axis, self.dtype)
            self.shares.append((share, outputs))
        self.places = [z for _, outputs in self.shares for z in outputs]
        convolves = any(isinstance(layer, nn.modules.conv._ConvNd) for layer in module.modules())
        self.together = 1 if convolves else TOGETHER

    def empty(self, c: int, n: int) -> list[Tensor]:
        """Room for the b of each factor, of c outputs and n examples."""
        lead = (*self.value.shape[:-2], c, n)
        ends = (end for share, _ in self.shares for end in share.ends)
        return [self.value.new_empty(*lead, *end) for end in ends]

    def signals(self, k: slice, into: list[Tensor] | None = None) -> list[Tensor]:
        """The b of each factor for the outputs k, (*s, k, n, q, o), in tensors of that shape."""
        back = within(self.module, self.leaves, lambda: _backward(self.graph, self.places, k))
        returned, found = iter(v.to(self.dtype) for v in back), []
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


class Passed(NamedTuple):
    """What passes leave: the outputs, the factors of some layers, and marks of their inputs."""

    value: Tensor
    factors: list[Factor]
    marks: Marks


def structured(
    module: nn.Module,
    params: Params,
    x: Inputs,
    names: frozenset[str],
    b: int,
    size: int,
    all_of: bool = True,
) -> Passed:
    """The outputs, and the factors of the layers `names`; `size` examples are taken at a time."""
    n = count(x)
    values, marks, inputs, signals, whole = [], [], None, None, size >= n
    for i in blocks(n, size):
        passes = None  # and with it all that was recorded of the last examples
        passes = Passes(module, params, some(x, i), names, b, all_of)
        values.append(passes.value)
        marks.append(passes.marks)
        axis, c = passes.value.dim() - 2, passes.value.shape[-1]
        before = (slice(None),) * axis
        found = passes.inputs()
        if whole:
            inputs = found
        else:
            inputs = inputs or [
                None if a is None else a.new_empty(*a.shape[:axis], n, *a.shape[axis + 1 :])
                for a in found
            ]
            for place, a in zip(inputs, found, strict=True):
                if a is not None:
                    place[(*before, i)] = a
        if not passes.places:
            signals = []
        elif whole and c <= passes.together:
            signals = passes.signals(slice(0, c))
        else:
            signals = signals or passes.empty(c, n)
            for k in blocks(c, passes.together):
                passes.signals(k, [v[(*before, k, i)] for v in signals])
    factors = passes.factors(inputs, signals)
    return Passed(_joined(values, axis), factors, together(marks))


def together(parts: list[Marks]) -> Marks:
    """Marks of examples after one another; `Misled` by layers that are called as often only for
    some."""
    first = parts[0]
    unlike = {k for m in parts for k in first.keys() | m.keys()
              if len(m.get(k, ())) != len(first.get(k, ()))}  # fmt: skip
    if unlike:
        raise Misled(unlike)
    lists = {k: zip(*(m[k] for m in parts), strict=True) for k in first}
    return {k: [None if any(m is None for m in v) else _joined([*v], -1) for v in calls]
            for k, calls in lists.items()}  # fmt: skip


def few_outputs(passes: Passes, group: int) -> Iterator[tuple[slice, Passed]]:
    """`structured` for `group` outputs after others, in memory that each leave to the next."""
    *_, n, c = passes.value.shape
    b = passes.empty(min(c, group), n)
    for k in blocks(c, group):
        part = [v[..., : k.stop - k.start, :, :, :] for v in b]
        if passes.places:
            passes.signals(k, part)
        factors = passes.factors(passes.inputs(), part)
        yield k, Passed(passes.value[..., k], factors, passes.marks)


def transient(passes: Passes) -> tuple[int, int, int]:
    """Numbers that `structured` holds beside the factors: those of the layers until the passes back
    are done, and those that a pass brings for an output; for how many outputs it does."""
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
    if not totals.requires_grad:
        return [z.new_zeros((*lead, *z.shape)) for z in places]
    options = dict(retain_graph=True, allow_unused=True, is_grads_batched=batched)
    found = torch.autograd.grad(totals, places, weights, **options)
    return [
        z.new_zeros((*lead, *z.shape)) if v is None else v
        for v, z in zip(found, places, strict=True)
    ]


def _share(name, layer, n, inputs, outputs, axis, dtype) -> Share:
    """The share of a layer from its calls: inputs (*s, n, ...) and outputs alike."""
    weight, bias = qualified(name, "weight"), qualified(name, "bias")
    bias = bias if getattr(layer, "bias", None) is not None else None
    shape, scale = layer.weight.shape, getattr(layer, "scale", 1.0)
    formed = [(weight, None, shape, 1.0, None)]
    formed += [(bias, None, layer.bias.shape, 1.0, None)] if bias else []
    ends = [(1, kind[2].numel()) for kind in formed]
    if isinstance(layer, _NORMS):
        return Share(formed, ends, _norm_signals(layer, inputs, dtype))
    if isinstance(layer, nn.Embedding):
        a = _joined([v.reshape(len(v), -1) for v in inputs], -1)

        def vectors(signals):
            b = _joined([z.reshape(*z.shape[:2], -1, shape[1]) for z in signals], -2)
            if layer.padding_idx is None:
                return b
            return b.masked_fill((a == layer.padding_idx).unsqueeze(-1), 0)

        factor, end = (weight, None, shape, 1.0, a), (a.shape[-1], shape[1])
        return Share([factor], [end], lambda given, into: [vectors(given)])
    inputs = [v.to(dtype) for v in inputs]
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


def _norm_signals(layer, inputs: list[Tensor], dtype: torch.dtype) -> Callable:
    """A normalisation's scale and shift: the signals, times the normalised inputs for the scale."""
    plain = {"weight": torch.ones_like(layer.weight)}
    if getattr(layer, "bias", None) is not None:
        plain["bias"] = torch.zeros_like(layer.bias)
    inputs = [x.to(torch.promote_types(x.dtype, layer.weight.dtype)) for x in inputs]
    with torch.no_grad():
        normal = [
            call(layer, {k: v.to(x) for k, v in plain.items()}, x).to(dtype) for x in inputs
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
    module, params: Params, x: Inputs, names: list[str], b: int, batched: bool, dtype: torch.dtype
) -> list[Factor]:
    """Rows of the parameters `names` by reverse mode, example by example."""
    if not names:
        return []
    if b:
        networks = (select(params, i) for i in range(b))
        rows = [general(module, p, x, names, 0, batched, dtype) for p in networks]
        empty = next(iter(params.values())).new_empty(0, 0)
        return list(stack_jacobians([Jacobian(empty, tuple(v)) for v in rows]).factors)

    def one(part: Params, xi: Inputs) -> Tensor:
        return evaluate(module, {**params, **part}, each(xi, lambda v: v.unsqueeze(0))).squeeze(0)

    part = {k: params[k].detach() for k in names}
    rows = None
    if batched:
        with suppress(Exception):  # what vmap cannot do: branches, some layers
            rows = vmap(jacrev(one), (None, 0), chunk_size=64)(part, x)
    if rows is None:
        single = (some(x, i) for i in range(count(x)))
        found = [_one_by_one(module, params, part, one, xi) for xi in single]
        rows = {k: torch.stack([r[k] for r in found]) for k in names}
    signals = {
        k: v.detach().to(dtype).reshape(*v.shape[:2], -1).transpose(0, 1).unsqueeze(-2)
        for k, v in rows.items()
    }
    return [Factor(k, None, part[k].shape, 1.0, None, b) for k, b in signals.items()]


def _one_by_one(module, params: Params, part: Params, one, xi: Inputs) -> Params:
    """Rows (c, ...) of one example, an output at a time."""
    given = leaves(part)

    def rows() -> list:
        f = one(given, xi)
        return [_gradients(fk, [*given.values()]) for fk in f.unbind()]

    with torch.enable_grad():
        found = within(module, {**params, **given}, rows)
    return {k: torch.stack([v.to_dense() for v in r])
            for k, r in zip(given, zip(*found, strict=True), strict=True)}  # fmt: skip
