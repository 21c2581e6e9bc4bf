"""Which way the columns of a network's Jacobian come, found once for each kind of input.

Layers with a known structure contribute through factors of J (`_ntk.layers`), wherever their
gradient proves to agree with automatic differentiation; all else comes from the latter.

*What makes a route valid.* It holds for a module as it is, see `signature` (layers, modes,
settings, hooks, functions, buffers), for the names and types of the parameters, and for inputs of
one shape and type; anything else is a new route.

*What is probed*, once a route, near the given weights and on three examples near those given: that
nothing is drawn from torch's or NumPy's random numbers and no buffer is written into; the outputs
one by one and in both orders; of each layer of a known kind J^T u, in both orders, with automatic
differentiation. The coarsest type on the way, autocast's too, says how far numbers may differ: by
half its digits.

*What each batch is compared for*, see `compare.Batch`: all outputs with what each is alone, by
`vmap`, or for modules that it does not take in another order and other groups, four alone; what
enters each structured layer, example by example, by a number that a reordering changes; J^T u for
up to four examples, for all where rows come example by example; and again random numbers and
buffers. A structured layer that fails takes the general route from then on, and the
call begins anew; all else is refused. That costs one pass forward, and one back where rows come
example by example (`benchmarks/checks.py`).

*What escapes.* Differences below half the digits of the largest entry, of a gradient smaller than a
quarter of the largest one: of that quarter (in bfloat16 9 %; and rounding that a network blows up
to more than that is refused as coupling). Of a stack, networks but the first finite one.
Inputs of integers that are all equal. A module that changes what it does from call to call of one
batch without any of the above. Python's own random numbers, if no output changes in the passes that
are compared. A gradient that its author made differ from the derivative (a straight-through
estimator) is taken as automatic differentiation has it. Other threads that run the same module.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tangents._ntk.compare import Batch, Truth, alone, in_part, in_short, near, refuse, unit_of
from tangents._ntk.guard import buffers_aside, guarded, without_chance
from tangents._ntk.layers import (
    Passed,
    Passes,
    candidates,
    evaluate,
    few_outputs,
    general,
    owners,
    promoted,
    qualified,
    structured,
    transient,
)
from tangents.factored import Jacobian, stack_jacobians
from tangents.functional import Params, require, select, stack
from tangents.inputs import Inputs, count, each, joined, kind, some, taken, tensors

PROBED = 3  # examples on which a way is verified
LONG = 4096  # entries of a row that fill the cache by themselves
KEPT = 16  # routes of one module
INTERNAL = vars(nn.Module()).keys() - {"training"}  # attributes of every module
TRANSIENT = 2**25  # bytes of what is only needed on the way, where it can be had in parts

_ROUTES: WeakKeyDictionary = WeakKeyDictionary()
_MISTRUSTED: WeakKeyDictionary = WeakKeyDictionary()  # layers of a module that misled a route


def mistrust(module: nn.Module, layers: frozenset[str]) -> bool:
    """Takes the general route for these layers from now on; whether that is news."""
    known = _MISTRUSTED.setdefault(module, set())
    news = not layers <= known
    known |= layers
    return news


rerouted = guarded(mistrust)


class Route(NamedTuple):
    """Which way the columns of J come, found once for each kind of input."""

    structured: frozenset[str]  # layers whose structured gradient is automatic differentiation's
    outputs: int  # of the module
    dtype: torch.dtype  # of the Jacobian
    unit: float  # rounding of the coarsest numbers on the way
    held: float  # numbers in the factors of one example
    signals: float  # those of them that are an output's each
    transient: float  # numbers of one example beside them until the passes back are done
    returned: float  # and those that a pass back brings for each output, before they are placed
    together: int  # outputs that it brings
    long: bool  # whether there are long rows
    images: bool = False  # whether convolutions get their images channels last, as they like them
    batched: bool = True  # whether the general rows come right for all examples at once
    apart: bool = False  # whether `vmap` gives the outputs of each example alone
    stacks: bool = False  # whether the module takes a stack of networks as it is

    @classmethod
    def of(cls, module: nn.Module, params: Params, x: Inputs, b: int) -> "Route":
        """That of a module for inputs like x (n, ...). ValueError where it is no map of single
        examples, or draws random numbers."""
        for name, layer in module.named_modules():
            batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
            noise = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
            random = layer.training and (batch or noise)
            kind_of = type(layer).__name__
            require(
                not random, f"layer {name!r} ({kind_of}) is in training mode: call module.eval()"
            )
            if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
                rewrites = f"layer {name!r} ({kind_of}) rewrites its weights: max_norm is set"
                require(layer.max_norm is None, rewrites)
                weighs = f"layer {name!r} ({kind_of}) weighs gradients by the batch: "
                require(not layer.scale_grad_by_freq, weighs + "scale_grad_by_freq is set")
        first = tensors(x)[0]
        routes, barred = _ROUTES.setdefault(module, {}), _MISTRUSTED.get(module, ())
        types = tuple((k, v.dtype) for k, v in params.items())
        key = (kind(x), types, bool(b), signature(module), frozenset(barred))
        if key in routes:
            return routes[key]
        few = some(joined([some(x, slice(PROBED))] * PROBED), slice(PROBED))
        with taken(x), without_chance(first.device), buffers_aside(module), _exact():
            one = _finite_network(module, params, few) if b else params
            route = _verified(module, *_shaken(module, one, few), barred)
            if b:
                route = route._replace(stacks=_takes_stacks(module, one, few, route.unit))
        distinct = any(bool((v[0] != v[-1]).any()) for v in tensors(few))
        if distinct or any(v.is_floating_point() for v in tensors(x)):
            while len(routes) >= KEPT:  # a module that changes at each call
                routes.pop(next(iter(routes)))
            routes[key] = route  # of equal examples one cannot tell whether they are mixed
        return route

    def jacobian(
        self, module: nn.Module, params: Params, x: Inputs, b: int, budget: float = math.inf
    ) -> Jacobian:
        """The factored Jacobian at x (n, ...) of a network, of a stack of b if not zero; what is
        only needed on the way to it keeps to about `budget` bytes."""
        if b and not self.stacks:
            networks = (self.jacobian(module, select(params, i), x, 0, budget) for i in range(b))
            return stack_jacobians(list(networks))
        example = max(b, 1) * self.dtype.itemsize
        passing = self.transient + self.returned * self.together
        size = min(
            TRANSIENT / max(1, example * self.transient),
            budget / max(1, example * passing),
            count(x),
        )
        size = max(1, int(size))
        with without_chance(tensors(x)[0].device):
            given = self._as_liked(params, x, b)
            passed = structured(module, *given, self.structured, b, size)
            batch = Batch(self, module, params, x, b, passed, size)
            batch.compare(slice(None), passed.factors)
            return Jacobian(passed.value, (*passed.factors, *batch.others()))

    def in_groups(
        self, module: nn.Module, params: Params, x: Inputs, b: int, group: int
    ) -> Iterator[Jacobian]:
        """`jacobian` for `group` outputs after others, each to be used before the next."""
        if b and not self.stacks:
            networks = (self.in_groups(module, select(params, i), x, 0, group) for i in range(b))
            yield from (stack_jacobians([*t]) for t in zip(*networks, strict=True))
            return
        batch, device = None, tensors(x)[0].device
        with without_chance(device):
            passes = Passes(module, *self._as_liked(params, x, b), self.structured, b)
        parts = few_outputs(passes, group)
        while True:
            with without_chance(device):
                found = next(parts, None)
                if found is None:
                    return
                k, passed = found
                if batch is None:
                    whole = Passed(passes.value, [], passed.marks)
                    batch = Batch(self, module, params, x, b, whole, count(x))
                    others = batch.others()
                batch.compare(k, passed.factors)
            rest = (replace(v, b=v.b[..., k, :, :, :]) for v in others)
            yield Jacobian(passed.value, (*passed.factors, *rest))

    def _as_liked(self, params: Params, x: Inputs, b: int) -> tuple[Params, Inputs]:
        """In the order in memory that the layers are fastest with."""
        return _channels_last(params, x) if self.images and not b else (params, x)


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
        return id(value), None if value.is_inference() else value._version
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    return id(getattr(value, "__func__", value)), code


def _takes_stacks(module: nn.Module, params: Params, x: Inputs, unit: float) -> bool:
    """Whether two networks on a leading axis give what they give one by one."""
    pair = [_shaken(module, params, x, seed)[0] for seed in (1, 2)]
    if any(one is params for one in pair):  # of equal networks one cannot tell
        return False
    with torch.no_grad():
        want = torch.stack([evaluate(module, p, x) for p in pair])
        try:
            got = evaluate(module, stack(pair), x, 2)
        except Exception:  # whatever it is that the module cannot do
            return False
    return got.shape == want.shape and near(got, want, unit)


class _Coarsest(TorchDispatchMode):
    """The largest rounding unit of the numbers that operations give: autocast inside counts."""

    unit = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for v in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(v, Tensor) and v.is_floating_point():
                self.unit = max(self.unit, torch.finfo(v.dtype).eps)
        return out


def _verified(module: nn.Module, params: Params, x: Inputs, barred=()) -> Route:
    """Compares the ways at these parameters and inputs, in their order and in the opposite one."""
    n, order = count(x), torch.arange(count(x) - 1, -1, -1, device=tensors(x)[0].device)
    with torch.no_grad(), _Coarsest() as coarsest:
        single = (some(x, slice(i, i + 1)) for i in range(n))
        by_one = torch.cat([in_part(module, x, 1, evaluate, params, xi) for xi in single])
    unit = coarsest.unit
    try:
        truths = [(v, Truth(module, params, _watched(v))) for v in (x, some(x, order))]
        for _, truth in truths:
            truth.gradient()
    except RuntimeError as error:
        message = f"the module has no gradient by automatic differentiation: {in_short(error)}"
        raise ValueError(message) from error
    (_, truth), (_, turned) = truths
    require(bool(truth.value.isfinite().all()), "the output is not finite")
    require(not _reentrant(truth.graph), "a checkpoint inside has no gradient of its parameters: "
            "give it use_reentrant=False")  # fmt: skip
    largest, floor = truth.sizes()
    for f in (truth.value, turned.value.flip(0)):
        if not near(by_one, f, unit_of(unit, f), floor):
            refuse(module, params, x, unit)
    known = frozenset(candidates(module, params) - set(barred))
    images, least = _has_images(module, x), 0.01 * largest

    def agreeing(v: Inputs, truth: Truth, images: bool) -> set[str]:
        given = _channels_last(params, v) if images else (params, v)
        value, factors, _ = structured(module, *given, known, 0, n, all_of=False)
        return truth.agreeing(value, factors, unit_of(unit, value), least)

    try:
        right = set.intersection(*(agreeing(*v, images) for v in truths))
    except RuntimeError:  # of views that this order in memory does not admit
        if not images:
            raise
        images = False
        right = set.intersection(*(agreeing(*v, images) for v in truths))
    trusted = frozenset(
        name
        for name, layer in owners(module).items()
        if name in known and all(qualified(name, p) in right for p, _ in layer.named_parameters())
    )
    given = _channels_last(params, x) if images else (params, x)
    passes = Passes(module, *given, trusted)
    *beside, at_once = transient(passes)
    *_, factors, _ = structured(module, *given, trusted, 0, n)
    f, dtype = truth.value, promoted(truth.value, params)
    done = {name for factor in factors for name in (factor.weight, factor.bias)}
    names = [k for k in params if k not in done]
    others = general(module, params, x, names, 0, True, dtype)

    def numbers(values) -> float:
        return sum(v.nbytes for v in values if v is not None) / dtype.itemsize / n

    signals = [v.b for v in factors]
    right = truth.agreeing(f.to(dtype), others, unit_of(unit, f), least)
    return Route(
        structured=trusted,
        outputs=f.shape[-1],
        dtype=dtype,
        unit=unit,
        held=numbers(v for factor in (*factors, *others) for v in (factor.a, factor.b)),
        signals=numbers(signals),
        transient=beside[0] / n,
        returned=beside[1] / n,
        together=at_once,
        long=any(b.shape[-1] > LONG for b in signals),
        images=images,
        batched=right == set(names),
        apart=_apart(module, params, x, trusted, by_one, unit),
    )


def _apart(module, params: Params, x: Inputs, names, want: Tensor, unit: float) -> bool:
    """Whether `vmap` gives the outputs `want` that examples have one by one."""
    layers = {k: v for k, v in owners(module).items() if k in names}
    try:
        with torch.no_grad():
            f, _ = alone(module, params, x, layers, len(want))
    except Exception:  # whatever it is that vmap cannot do
        return False
    return near(f, want, unit_of(unit, want))


def _watched(x: Inputs) -> Inputs:
    """Inputs that have derivatives: a checkpoint that takes no gradient otherwise shows there."""
    return each(x, lambda v: v.detach().requires_grad_() if v.is_floating_point() else v)


def _reentrant(f: Tensor) -> bool:
    """Whether a reentrant checkpoint is on the way."""
    ahead, seen = [f.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if node.name().startswith("CheckpointFunction"):
                return True
            ahead += [following for following, _ in node.next_functions]
    return False


def _finite_network(module: nn.Module, params: Params, x: Inputs) -> Params:
    """The first of a stack whose outputs are finite. ValueError for none."""
    with torch.no_grad():
        for i in range(len(next(iter(params.values())))):
            one = select(params, i)
            if bool(evaluate(module, one, x).isfinite().all()):
                return one
    raise ValueError("the output is not finite, for any network of the stack")


@contextmanager
def _exact() -> Iterator[None]:
    """Without TF32, which has three digits."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _has_images(module: nn.Module, x: Inputs) -> bool:
    convolves = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    return convolves and any(v.dim() == 4 for v in tensors(x))


def _channels_last(params: Params, x: Inputs) -> tuple[Params, Inputs]:
    def last(v: Tensor) -> Tensor:
        return v.to(memory_format=torch.channels_last) if v.dim() == 4 else v

    return {k: last(v) for k, v in params.items()}, each(x, last)


def _shaken(module: nn.Module, params: Params, x: Inputs, seed: int = 0) -> tuple[Params, Inputs]:
    """Parameters and inputs near those given: these may be special, weights or outputs zero, two
    examples equal, so that a wrong way would come right for them. Where the output is not finite
    near them, as a square root's near zero, those given."""
    generator = Generator(tensors(x)[0].device).manual_seed(seed)

    def shaken(v: Tensor) -> Tensor:
        if not v.is_floating_point() or not v.numel():
            return v
        wide = torch.promote_types(v.dtype, torch.float32)
        size = torch.linalg.vector_norm(v, 1, dtype=wide) / v.numel()
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype, device=v.device)
        return noise.mul_(torch.where(size > 0, 0.1 * size, 0.1).to(v)).add_(v)

    found = {k: shaken(v) for k, v in params.items()}, each(x, shaken)
    with torch.no_grad():
        finite = evaluate(module, *found).isfinite().all()
    return found if bool(finite) else (params, x)
