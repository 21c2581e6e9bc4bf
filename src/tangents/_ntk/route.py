"""Which way the columns of a network's Jacobian come, found once for each kind of input.

Layers with a known structure contribute through factors of J (`_ntk.layers`), wherever their
gradient proves to agree with automatic differentiation; all else comes from the latter.

A route holds for the module as it is, see `signature`. What no attribute of a layer shows escapes
that: a global that its code reads, what an object that it holds changes of itself.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor, nn

from tangents._ntk.layers import (
    candidates,
    few_outputs,
    general,
    owners,
    qualified,
    structured,
    transient,
)
from tangents.factored import Factor, Jacobian, stack_jacobians
from tangents.functional import Params, call, require, select, stack

PROBED = 3  # examples on which a way is verified
SAMPLED = 4  # examples of each batch that are compared with themselves alone
COUPLED = "the output of one example depends on the others in its batch"
LONG = 4096  # entries of a row that fill the cache by themselves
KEPT = 16  # routes of one module
MANY = 10_000  # kinds of batches of one module that are remembered
INTERNAL = vars(nn.Module()).keys() - {"training"}  # attributes of every module
TRANSIENT = 2**25  # bytes of what is only needed on the way, where it can be had in parts

_ROUTES: WeakKeyDictionary = WeakKeyDictionary()
_COMPARED: WeakKeyDictionary = WeakKeyDictionary()  # kinds of batches of a module
_SERIAL = itertools.count()


class Route(NamedTuple):
    """Which way the columns of J come, found once for each kind of input."""

    serial: int  # of its verification

    structured: frozenset[str]  # layers whose structured gradient is automatic differentiation's
    outputs: int  # of the module
    dtype: torch.dtype  # of its outputs
    held: float  # numbers in the factors of one example
    signals: float  # those of them that are an output's each
    transient: float  # numbers of one example beside them until the passes back are done
    returned: float  # and those that a pass back brings for each output, before they are placed
    together: int  # outputs that it brings
    long: bool  # whether there are long rows
    images: bool = False  # whether convolutions get their images channels last, as they like them
    batched: bool = True  # whether the general rows come right for all examples at once
    stacks: bool = False  # whether the module takes a stack of networks as it is

    @classmethod
    def of(cls, module: nn.Module, params: Params, x: Tensor, b: int) -> "Route":
        """That of a module for inputs like x (n, ...). ValueError where it is no map of single
        examples, or draws random numbers."""
        for name, layer in module.named_modules():
            batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
            noise = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
            random = layer.training and (batch or noise)
            kind = type(layer).__name__
            require(not random, f"layer {name!r} ({kind}) is in training mode: call module.eval()")
            rewrites = isinstance(layer, nn.Embedding) and layer.max_norm is not None
            require(not rewrites, f"layer {name!r} ({kind}) rewrites its weights: max_norm is set")
        require(len(x) > 0, "there are no inputs")
        routes = _ROUTES.setdefault(module, {})
        kinds = tuple(v.dtype for v in params.values())
        key = (x.shape[1:], x.dtype, kinds, bool(b), signature(module))
        if key in routes:
            return routes[key]
        few = torch.cat([x[:PROBED]] * PROBED)[:PROBED]
        one = select(params, 0) if b else params
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 has three digits
        with exact:
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                before = _chance(x.device)
                call(module, one, few)
                same = all(map(torch.equal, before, _chance(x.device)))
            require(same, "the module draws random numbers: it is no function of its inputs")
            route = _verified(module, *_shaken(module, one, few))
            if b:
                route = route._replace(stacks=_takes_stacks(module, one, few))
        if x.is_floating_point() or bool((few[0] != few[-1]).any()):
            while len(routes) >= KEPT:  # a module that changes at each call
                routes.pop(next(iter(routes)))
            routes[key] = route  # of equal examples one cannot tell whether they are mixed
        return route

    def jacobian(
        self, module: nn.Module, params: Params, x: Tensor, b: int, budget: float = math.inf
    ) -> Jacobian:
        """The factored Jacobian at x (n, ...) of a network, of a stack of b if not zero; what is
        only needed on the way to it keeps to about `budget` bytes."""
        if b and not self.stacks:
            each = (self.jacobian(module, select(params, i), x, 0, budget) for i in range(b))
            return stack_jacobians(list(each))
        example = max(b, 1) * self.dtype.itemsize
        passing = self.transient + self.returned * self.together
        size = min(
            TRANSIENT / max(1, example * self.transient), budget / max(1, example * passing), len(x)
        )
        given = self._as_liked(params, x, b)
        f, factors = structured(module, *given, self.structured, max(1, int(size)))
        for batched in (True, False) if self.batched else (False,):
            others = self._others(module, params, x, b, factors, batched)
            found = Jacobian(f, (*factors, *others))
            wrong = self._wrong(module, params, x, b, found)
            if not (wrong and others):
                break
        return _right(found, wrong)

    def in_groups(
        self, module: nn.Module, params: Params, x: Tensor, b: int, group: int
    ) -> Iterator[Jacobian]:
        """`jacobian` for `group` outputs after others, each to be used before the next."""
        if b and not self.stacks:
            each = (self.in_groups(module, select(params, i), x, 0, group) for i in range(b))
            yield from (stack_jacobians([*t]) for t in zip(*each, strict=True))
            return
        given, others, batched = self._as_liked(params, x, b), None, self.batched
        for k, f, factors in few_outputs(module, *given, self.structured, group):
            while True:
                others = others or self._others(module, params, x, b, factors, batched)
                some = (replace(v, b=v.b[..., k, :, :, :]) for v in others)
                found = Jacobian(f, (*factors, *some))
                wrong = self._wrong(module, params, x, b, found, k)
                if not (wrong and others and batched):
                    break
                others, batched = None, False
            yield _right(found, wrong)

    def _wrong(
        self, module, params: Params, x: Tensor, b: int, found: Jacobian, k: slice = slice(None)
    ) -> set[str]:
        """Compares a few examples, from the last to the first, with what they are by themselves: of
        outputs k the values, or ValueError, and, of known layers once for each size of batch, J^T u
        with automatic differentiation. Returns the parameters in which they differ."""
        at = torch.linspace(len(x) - 1, 0, min(len(x), SAMPLED), device=x.device).long()
        if b:  # one network of the stack
            params, found = select(params, 0), found.map(lambda v: v[0])
        known, kind = _COMPARED.setdefault(module, set()), (self.serial, len(x), b, k.start)
        if kind in known:  # the gradient of such a batch was compared before
            with torch.no_grad():
                if _near(found.value[at], call(module, params, x[at])[:, k]):
                    return set()
        some, truth = found.map(lambda v: v[at]), _Gradient(module, params, x[at], k)
        if not bool(truth.value.isfinite().all()):
            return set()  # nothing to compare
        require(_near(some.value, truth.value, truth.size(params)), COUPLED)
        size = max((v.abs().max().item() for v in truth.want.values() if v.numel()), default=0.0)
        wrong = truth.want.keys() - truth.agreeing(some.value, some.factors, size)
        layers = {factor.weight.rpartition(".")[0] for factor in found.factors}
        # Rows that torch brings for all examples at once were seen to be wrong for some inputs only
        if not wrong and len(known) < MANY and layers <= self.structured:
            known.add(kind)
        return wrong

    def _as_liked(self, params: Params, x: Tensor, b: int) -> tuple[Params, Tensor]:
        """In the order in memory that the layers are fastest with."""
        return _channels_last(params, x) if self.images and not b else (params, x)

    def _others(self, module, params, x: Tensor, b: int, factors, batched: bool) -> list[Factor]:
        """The factors of all other parameters, `batched` for all examples at once."""
        done = {name for factor in factors for name in (factor.weight, factor.bias)}
        names = [k for k in params if k not in done]
        return general(module, params, x, names, b > 0, batched)


def _right(found: Jacobian, wrong: set[str]) -> Jacobian:
    require(not wrong, f"the gradient of {min(wrong, default='')!r} is not what automatic "
            "differentiation gives for some examples: are they reordered inside?")  # fmt: skip
    return found


def signature(module: nn.Module) -> tuple:
    """What of a module decides which way its Jacobian comes: equal before and after, if nothing of
    it has changed: its layers and their types, settings, modes and hooks, their functions, and
    buffers. Its parameters' values are no part of it. It keeps nothing of the module alive."""
    return tuple(
        (name, id(layer), type(layer), *layer._forward_hooks, None, *layer._forward_pre_hooks, None,
         *layer._parameters, *map(_setting, layer._buffers.values()), None,
         *((k, _setting(v)) for k, v in vars(layer).items() if k not in INTERNAL))
        for name, layer in module.named_modules(remove_duplicate=False)
    )  # fmt: skip


def _setting(value: object) -> object:
    """What tells whether an attribute is still what it was: a number, word or collection of such by
    its value, a buffer by its version, all else by its identity."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(_setting, value))
    if isinstance(value, dict):
        return tuple((k, _setting(v)) for k, v in value.items())
    if isinstance(value, Tensor):
        return id(value), value._version
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    return id(getattr(value, "__func__", value)), code


def _takes_stacks(module: nn.Module, params: Params, x: Tensor) -> bool:
    """Whether two networks on a leading axis give what they give one by one."""
    pair = [_shaken(module, params, x, seed)[0] for seed in (1, 2)]
    if any(one is params for one in pair):  # of equal networks one cannot tell
        return False
    with torch.no_grad():
        want = torch.stack([call(module, p, x) for p in pair])
        try:
            got = call(module, stack(pair), x)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
    return got.shape == want.shape and _near(got, want)


class _Gradient:
    """What automatic differentiation says of u^T f for the outputs k at some inputs, u fixed; each
    gradient by products of its rows with two vectors: that of a large layer is held once."""

    def __init__(self, module: nn.Module, params: Params, x: Tensor, k: slice = slice(None)):
        leaves = {name: v.detach().requires_grad_() for name, v in params.items()}
        with torch.enable_grad():
            f = call(module, leaves, x)
            single = f.dim() == 2 and len(f) == len(x)
            require(single, f"outputs must have shape (n, c), got {tuple(f.shape)}")
            f = f[:, k]
        self.value = f.detach()
        self.u = torch.linspace(0.5, 1.5, f.numel(), dtype=f.dtype, device=f.device).view_as(f)
        self.rows = {name: _direction(v) for name, v in params.items()}
        self.want = {name: v.new_zeros(v.shape if rows is None else (len(v), rows.shape[1]))
                     for (name, v), rows in zip(params.items(), self.rows.values(), strict=True)
                     }  # fmt: skip

        def keep(name: str):
            def hook(leaf: Tensor) -> None:
                self.want[name], leaf.grad = self.seen(name, leaf.grad), None

            return hook

        for name, leaf in leaves.items():
            leaf.register_post_accumulate_grad_hook(keep(name))
        if f.requires_grad:
            with torch.enable_grad():
                (f * self.u).sum().backward(inputs=[*leaves.values()])

    def size(self, params: Params) -> float:
        """Of what outputs are sums of, for these may cancel."""
        each = (v.abs().max() * params[k].abs().max() for k, v in self.want.items() if v.numel())
        return max((v.item() for v in each), default=0.0)

    def seen(self, name: str, gradient: Tensor) -> Tensor:
        rows = self.rows[name]
        return gradient if rows is None else gradient.flatten(1) @ rows

    def agreeing(self, value: Tensor, factors, size: float = 0.0) -> set[str]:
        """The parameters whose factors say the same, to half the digits of their largest entry, or
        of a number `size`."""
        found = set()
        for factor in factors:
            summed = factor.a is not None and factor.a.is_floating_point()
            if summed:
                a = factor.a @ self.rows[factor.weight]
                factor = replace(factor, a=a, shape=(factor.shape[0], a.shape[-1]))
            for k, v in Jacobian(value, (factor,)).vjp(self.u).items():
                v = v if summed and k == factor.weight else self.seen(k, v)
                if _near(v, self.want[k], size):
                    found.add(k)
        return found


def _verified(module: nn.Module, params: Params, x: Tensor) -> Route:
    """Compares the ways at these parameters and inputs, in their order and in the opposite one."""
    truths = [(v, _Gradient(module, params, v)) for v in (x, x.flip(0))]
    (_, truth), (_, turned) = truths
    require(bool(truth.value.isfinite().all()), "the output is not finite")
    with torch.no_grad():
        alone = torch.cat([call(module, params, v) for v in x.split(1)])
    for f in (truth.value, turned.value.flip(0)):
        require(_near(alone, f), COUPLED)
    known, images = frozenset(candidates(module)), _has_images(module, x)

    def agreeing(v: Tensor, truth: _Gradient, images: bool) -> set[str]:
        given = _channels_last(params, v) if images else (params, v)
        return truth.agreeing(*structured(module, *given, known, len(v)))

    try:
        right = set.intersection(*(agreeing(*each, images) for each in truths))
    except RuntimeError:  # of views that this order in memory does not admit
        if not images:
            raise
        images = False
        right = set.intersection(*(agreeing(*each, images) for each in truths))
    trusted = frozenset(
        name
        for name, layer in owners(module).items()
        if name in known and all(qualified(name, p) in right for p, _ in layer.named_parameters())
    )
    f = truth.value
    *beside, together = transient(module, params, x, trusted)
    beside = (v / len(x) for v in beside)
    kind = f.shape[-1], f.dtype, 0.0, 0.0, *beside, together, False, images
    route = Route(next(_SERIAL), trusted, *kind)
    given = _channels_last(params, x) if images else (params, x)
    _, factors = structured(module, *given, trusted, len(x))
    factors = (*factors, *route._others(module, params, x, 0, factors, True))

    def numbers(tensors) -> float:
        return sum(v.nbytes for v in tensors if v is not None) / f.element_size() / len(x)

    each = [v.b for v in factors if v.weight.rpartition(".")[0] in trusted]
    return route._replace(
        held=numbers(v for factor in factors for v in (factor.a, factor.b)),
        signals=numbers(each),
        long=any(b.shape[-1] > LONG for b in each),
        batched=truth.agreeing(f, factors) == truth.want.keys(),
    )


def _chance(device: torch.device) -> list[Tensor]:
    """The states of torch's random numbers, here and on a device."""
    of_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *of_device]


def _direction(v: Tensor) -> Tensor | None:
    """Two vectors to multiply the rows of a gradient with; None for one that has no rows."""
    if v.dim() < 2:
        return None
    generator = Generator(v.device).manual_seed(v.numel())
    return torch.randn(v[0].numel(), 2, generator=generator, dtype=v.dtype, device=v.device)


def _has_images(module: nn.Module, x: Tensor) -> bool:
    return x.dim() == 4 and any(isinstance(layer, nn.Conv2d) for layer in module.modules())


def _channels_last(params: Params, x: Tensor) -> tuple[Params, Tensor]:
    def last(v: Tensor) -> Tensor:
        return v.to(memory_format=torch.channels_last) if v.dim() == 4 else v

    return {k: last(v) for k, v in params.items()}, last(x)


def _shaken(module: nn.Module, params: Params, x: Tensor, seed: int = 0) -> tuple[Params, Tensor]:
    """Parameters and inputs near those given: these may be special, weights or outputs zero, two
    examples equal, so that a wrong way would come right for them. Where the output is not finite
    near them, as a square root's near zero, those given."""
    generator = Generator(x.device).manual_seed(seed)

    def near(v: Tensor) -> Tensor:
        if not v.is_floating_point():
            return v
        wide = torch.promote_types(v.dtype, torch.float32)
        size = torch.linalg.vector_norm(v, 1, dtype=wide) / v.numel()
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype, device=v.device)
        return noise.mul_(torch.where(size > 0, 0.1 * size, 0.1).to(v)).add_(v)

    found = {k: near(v) for k, v in params.items()}, near(x)
    with torch.no_grad():
        finite = call(module, *found).isfinite().all()
    return found if bool(finite) else (params, x)


def _near(got: Tensor, want: Tensor, size: float = 0.0) -> bool:
    """Whether two tensors agree to half the digits of their largest entry, or of a number."""
    unit = torch.linalg.vector_norm(want, torch.inf).clamp(min=size)
    return bool(torch.dist(got, want, torch.inf) <= torch.finfo(want.dtype).eps ** 0.5 * unit)
