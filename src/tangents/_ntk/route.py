"""Which way the columns of a network's Jacobian come, found once for each kind of input.

Layers with a known structure contribute through factors of J (`_ntk.layers`), wherever their
gradient proves to agree with automatic differentiation; all else comes from the latter.

A route holds for the module as it is, see `signature`. What no attribute of a layer shows escapes
that: a global that its code reads, what an object that it holds changes of itself.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

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
from tangents.functional import Params, require, select, stack

LONG = 4096  # entries of a row that fill the cache by themselves
KEPT = 16  # routes of one module
INTERNAL = vars(nn.Module()).keys() - {"training"}  # attributes of every module
TRANSIENT = 2**25  # bytes of what is only needed on the way, where it can be had in parts

_ROUTES: WeakKeyDictionary = WeakKeyDictionary()


class Route(NamedTuple):
    """Which way the columns of J come, found once for each kind of input."""

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
        require(len(x) > 0, "there are no inputs")
        routes = _ROUTES.setdefault(module, {})
        kinds = tuple(v.dtype for v in params.values())
        key = (x.shape[1:], x.dtype, kinds, bool(b), signature(module))
        if key in routes:
            return routes[key]
        two = x[:2] if len(x) > 1 else torch.cat([x, x])
        one = select(params, 0) if b else params
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # TF32 has three digits
        with exact:
            route = _verified(module, *_shaken(module, one, two))
            if b:
                route = route._replace(stacks=_takes_stacks(module, one, two))
        if x.is_floating_point() or bool((two[0] != two[1]).any()):
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
        return Jacobian(f, (*factors, *self._others(module, params, x, b, factors)))

    def in_groups(
        self, module: nn.Module, params: Params, x: Tensor, b: int, group: int
    ) -> Iterator[Jacobian]:
        """`jacobian` for `group` outputs after others, each to be used before the next."""
        if b and not self.stacks:
            each = (self.in_groups(module, select(params, i), x, 0, group) for i in range(b))
            yield from (stack_jacobians([*t]) for t in zip(*each, strict=True))
            return
        given, others = self._as_liked(params, x, b), None
        for k, f, factors in few_outputs(module, *given, self.structured, group):
            others = others or self._others(module, params, x, b, factors)
            some = (replace(v, b=v.b[..., k, :, :, :]) for v in others)
            yield Jacobian(f, (*factors, *some))

    def _as_liked(self, params: Params, x: Tensor, b: int) -> tuple[Params, Tensor]:
        """In the order in memory that the layers are fastest with."""
        return _channels_last(params, x) if self.images and not b else (params, x)

    def _others(self, module, params: Params, x: Tensor, b: int, factors) -> list[Factor]:
        """The factors of all other parameters."""
        done = {name for factor in factors for name in (factor.weight, factor.bias)}
        names = [k for k in params if k not in done]
        return general(module, params, x, names, b > 0, self.batched)


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
        want = torch.stack([functional_call(module, p, (x,)) for p in pair])
        try:
            got = functional_call(module, stack(pair), (x,))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
    return got.shape == want.shape and _near(got, want)


def _verified(module: nn.Module, params: Params, x: Tensor) -> Route:
    """Compares the ways at these parameters and inputs."""
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with torch.enable_grad():
        f = functional_call(module, leaves, (x,))
    single = f.dim() == 2 and len(f) == len(x)
    require(single, f"outputs must have shape (n, c), got {tuple(f.shape)} for n = {len(x)}")
    require(bool(f.isfinite().all()), "the output is not finite")
    with torch.no_grad():
        alone = functional_call(module, params, (x[:1],))
    message = "the output of one example depends on the others in its batch"
    require(_near(alone, f.detach()[:1]), message)
    u = torch.linspace(0.5, 1.5, f.numel(), dtype=f.dtype, device=f.device).view_as(f)
    rows = {k: _direction(v) for k, v in params.items()}

    def seen(k: str, gradient: Tensor) -> Tensor:
        return gradient if rows[k] is None else gradient.flatten(1) @ rows[k]

    def keep(k: str):  # each gradient by products with vectors: that of a large layer is held once
        def hook(leaf: Tensor) -> None:
            want[k], leaf.grad = seen(k, leaf.grad), None

        return hook

    want = {k: seen(k, v.new_zeros(()).expand(v.shape)) for k, v in params.items()}
    for k, leaf in leaves.items():
        leaf.register_post_accumulate_grad_hook(keep(k))
    with torch.enable_grad():
        (f * u).sum().backward(inputs=[*leaves.values()])

    def right(value: Tensor, factors) -> set[str]:
        agreeing = set()
        for factor in factors:
            summed = factor.a is not None and factor.a.is_floating_point()
            if summed:
                a = factor.a @ rows[factor.weight]
                factor = replace(factor, a=a, shape=(factor.shape[0], a.shape[-1]))
            for k, v in Jacobian(value, (factor,)).vjp(u).items():
                v = v if summed and k == factor.weight else seen(k, v)
                if _near(v, want[k]):
                    agreeing.add(k)
        return agreeing

    known, images = frozenset(candidates(module)), _has_images(module, x)
    try:
        given = _channels_last(params, x) if images else (params, x)
        agreeing = right(*structured(module, *given, known, len(x)))
    except RuntimeError:  # of views that this order in memory does not admit
        if not images:
            raise
        images, agreeing = False, right(*structured(module, params, x, known, len(x)))
    trusted = frozenset(
        name
        for name, layer in owners(module).items()
        if name in known
        and all(qualified(name, p) in agreeing for p, _ in layer.named_parameters())
    )
    *beside, together = transient(module, params, x, trusted)
    beside = (v / len(x) for v in beside)
    route = Route(trusted, f.shape[-1], f.dtype, 0.0, 0.0, *beside, together, False, images)
    whole = route.jacobian(module, params, x, 0)

    def numbers(tensors) -> float:
        return sum(v.nbytes for v in tensors if v is not None) / f.element_size() / len(x)

    each = [v.b for v in whole.factors if v.weight.rpartition(".")[0] in trusted]
    return route._replace(
        held=numbers(v for factor in whole.factors for v in (factor.a, factor.b)),
        signals=numbers(each),
        long=any(b.shape[-1] > LONG for b in each),
        batched=right(whole.value, whole.factors) == want.keys(),
    )


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
        finite = functional_call(module, found[0], (found[1],)).isfinite().all()
    return found if bool(finite) else (params, x)


def _near(got: Tensor, want: Tensor) -> bool:
    unit = torch.finfo(want.dtype).eps ** 0.5 * torch.linalg.vector_norm(want, torch.inf)
    return bool(torch.dist(got, want, torch.inf) <= unit)
