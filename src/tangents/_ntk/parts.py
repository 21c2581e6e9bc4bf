"""The tangent kernel layer by layer, and what each layer's outputs say of the examples."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tangents._ntk.guard import buffers_aside
from tangents._ntk.layers import evaluate
from tangents._ntk.route import rerouted
from tangents._ntk.tiles import Tiles
from tangents.factored import Jacobian
from tangents.functional import Params, differentiable, hooked, require
from tangents.inputs import Inputs, count, each, some

MANY = 1000  # outputs beyond which a pass back for each is too much to start in silence


@dataclass(frozen=True)
class _Parts(Tiles):
    """The trace over outputs of each layer's part of a kernel, (n, n, l) in double precision."""

    layers: tuple[str, ...] = ()

    def empty(self, n: int, m: int) -> Tensor:
        like = super().empty(0, 0)
        return like.new_empty(len(self.layers), n, m, dtype=torch.float64).movedim(0, -1)

    def _tile(self, i: slice, j: slice, row: Jacobian | None, out: Tensor | None = None) -> Tensor:
        out = self.empty(i.stop - i.start, j.stop - j.start) if out is None else out
        if self.group:
            left, right = (self._in_groups(self.x1, k) for k in (i, j))
        else:
            left, right = [row], [None if i == j else self._jacobian(self.x1, j)]
        right = itertools.repeat(None) if i == j else right
        out.zero_()
        for t, u in zip(left, right, strict=False):
            for k, layer in enumerate(self.layers):
                out[..., k] += _part(t, layer).gram(u and _part(u, layer), "trace")
        return out


def _part(jacobian: Jacobian, layer: str) -> Jacobian:
    kept = tuple(f for f in jacobian.factors if owner(f.weight) == layer)
    return replace(jacobian, factors=kept)


def owner(parameter: str) -> str:
    """The layer that a parameter is of, by its path in the module; of a parametrised one, the layer
    that is."""
    return parameter.partition("parametrizations.")[0].rpartition(".")[0]


def by_layer(
    module: nn.Module,
    networks: Sequence[Params],
    x: Inputs,
    budget: float | None = None,
    sums: int | None = None,
) -> tuple[list[Tensor], float]:
    """What the parameters of each layer contribute to the trace over outputs of the kernel on
    x (n, ...), for each network (l, n, n) in double precision, in the order of their names; and the
    rounding unit of the coarsest numbers on the way. Of so many random `sums` of outputs, if given.

    Arguments and errors as for `ntk`; ValueError also for very many outputs that are not summed.
    """
    wanted = projected(module, networks[0], x, sums)
    prefix = "" if wanted is module else "module."
    found = [_parts(wanted, {prefix + k: v for k, v in p.items()}, x, budget) for p in networks]
    return [parts for parts, _ in found], found[0][1]


@rerouted
def _parts(module: nn.Module, params: Params, x: Inputs, budget: float | None):
    layers = tuple(dict.fromkeys(map(owner, params)))
    tiles = _Parts(**vars(Tiles.of(module, params, x, None, "trace", budget)), layers=layers).thin()
    out = tiles.computed()
    require(bool(out.isfinite().all()), f"the kernel is not finite in {tiles.route.dtype}")
    return out.movedim(-1, 0), tiles.route.unit


class Projected(nn.Module):
    """Random sums of a module's outputs, r of them: f (n, c) -> f u / sqrt(r), u of random signs.

    The trace of its kernel over outputs is on average that of the module's (Hutchinson 1990).
    """

    def __init__(self, module: nn.Module, signs: Tensor):
        super().__init__()
        self.module = module
        self.register_buffer("signs", signs / signs.shape[1] ** 0.5)
        self.train(module.training)

    def forward(self, x: Inputs) -> Tensor:
        return self.module(x).flatten(1) @ self.signs


def projected(module: nn.Module, params: Params, x: Inputs, sums: int | None) -> nn.Module:
    """The module, or so many sums of its outputs. ValueError for very many outputs that are not
    summed, and for no sum."""
    with torch.no_grad(), differentiable(module), buffers_aside(module):
        f = evaluate(module, params, some(x, slice(2)))
    c = f.shape[1]
    few = sums is not None or c <= MANY
    require(few, f"the network has {c} outputs an example, each a pass back: say how many random "
            "sums of them shall stand for all, as in sums=16")  # fmt: skip
    if sums is None or sums >= c:
        return module
    require(sums >= 1, f"sums must be at least 1, got {sums}")
    draws = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (c, sums), generator=draws).mul_(2).sub_(1)
    return Projected(module, signs.to(f))


@torch.no_grad()
def activations(
    module: nn.Module, params: Params, x: Inputs, layers: Iterable[str]
) -> dict[str, Tensor]:
    """Gram matrices (n, n) of what comes out of each of these layers, in all its calls; without
    those whose rows are not the examples, and that which gives the network's own outputs."""
    wanted = {k: v for k, v in module.named_modules() if k in set(layers)}
    first, f = _grams(module, params, x, wanted)
    again, _ = _grams(module, params, each(x, lambda v: v.flip(0)), wanted)
    known = (k for k in first if k in again and not _same(first[k], f))
    return {k: first[k] for k in known if _same(first[k], again[k].flip(0, 1))}


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-3 * a.abs().max())


def _grams(module: nn.Module, params: Params, x: Inputs, layers: dict[str, nn.Module]):
    """Those of layers that give rows for n examples at each call, and that of the outputs."""
    n, grams, strange = count(x), {}, set()

    def keep(name: str):
        def hook(layer, _, z):
            z = z[0] if isinstance(z, (tuple, list)) and z else z
            usual = isinstance(z, Tensor) and z.is_floating_point() and z.dim() > 1
            if usual and z.dim() > 2 and getattr(layer, "batch_first", True) is False:
                z = z.transpose(0, 1)
            if usual and len(z) == n:
                grams[name] = grams.get(name, 0) + _gram(z)
            else:
                strange.add(name)

        return hook

    with hooked(v.register_forward_hook(keep(k)) for k, v in layers.items()):
        f = evaluate(module, params, x)
    return {k: v for k, v in grams.items() if k not in strange}, _gram(f)


def _gram(z: Tensor) -> Tensor:
    rows = z.flatten(1).double()
    return rows @ rows.mT
