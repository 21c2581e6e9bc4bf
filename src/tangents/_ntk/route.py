"""Which way the columns of a network's Jacobian come, found once for each kind of input.

Layers with a known structure contribute through factors of J (`_ntk.layers`), wherever their
gradient proves to agree with automatic differentiation; all else comes from the latter.

A route holds for the module as it is, see `signature`. What no attribute of a layer shows escapes
that: a global that its code reads, what an object that it holds changes of itself.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tangents._ntk.guard import Misled, buffers_aside, guarded, without_chance
from tangents._ntk.inputs import Inputs, count, each, joined, kind, some, tensors
from tangents._ntk.layers import (
    Marks,
    Passed,
    Passes,
    candidates,
    evaluate,
    few_outputs,
    general,
    leaves,
    marked,
    owners,
    promoted,
    qualified,
    structured,
    together,
    transient,
)
from tangents.factored import Factor, Jacobian, blocks, stack_jacobians
from tangents.functional import Params, hooked, require, select, stack, within

PROBED = 3  # examples on which a way is verified
SAMPLED = 4  # examples of each batch whose gradients are compared
COUPLED = "the output of one example depends on the others in its batch"
LONG = 4096  # entries of a row that fill the cache by themselves
KEPT = 16  # routes of one module
INTERNAL = vars(nn.Module()).keys() - {"training"}  # attributes of every module
TRANSIENT = 2**25  # bytes of what is only needed on the way, where it can be had in parts
TF32 = 2.0**-10  # rounding of a GPU's fast products of single precision

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
        n, first = count(x), tensors(x)[0]
        routes, barred = _ROUTES.setdefault(module, {}), _MISTRUSTED.get(module, ())
        types = tuple((k, v.dtype) for k, v in params.items())
        key = (kind(x), types, bool(b), signature(module), frozenset(barred))
        if key in routes:
            return routes[key]
        few = some(joined([some(x, slice(PROBED))] * PROBED), slice(PROBED))
        with without_chance(first.device), buffers_aside(module), _exact():
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


class Batch:
    """What is compared at each batch, of a network, or of the first finite one of a stack.

    Of all examples, in another order and in two groups or more: the outputs, and marks of what
    enters each structured layer; `Misled` by a layer whose rows are not the examples'. Of a few,
    J^T u of structured layers with automatic differentiation; of all where rows come by vmap.
    """

    def __init__(self, route: Route, module, params: Params, x: Inputs, b: int, passed, size: int):
        self.route, self.module, self.x, self.b, self.size = route, module, x, b, size
        self.params, self.all_params, self.network = params, params, None
        value, marks = passed.value, passed.marks
        if b:
            finite = value.isfinite().flatten(1).all(1)
            self.network = int(finite.int().argmax())
            self.params, value = select(params, self.network), value[self.network]
        self.value, n = value, len(value)
        self.finite = bool(value.isfinite().all())
        self.at = torch.linspace(n - 1, 0, min(n, SAMPLED), device=value.device).long()
        self.truth = _Truth(module, self.params, some(x, self.at))
        if not bool(self.truth.value.isfinite().all()):
            return  # nothing to compare
        self.largest, floor = self.truth.sizes()
        with torch.no_grad():
            f, again = self._rearranged(n)
        rows = value.isfinite().all(-1)
        if not self._near(value[rows], f[rows], floor):
            refuse(module, self.params, x, route.unit)
        wrong = {k for k in self.route.structured if not self._alike(marks[k], again.get(k, []))}
        if wrong:
            raise Misled(wrong)

    def _rearranged(self, n: int) -> tuple[Tensor, Marks]:
        """The outputs and marks of all examples, from the last to the first and in other groups."""
        layers = {k: v for k, v in owners(self.module).items() if k in self.route.structured}
        cut = min(self.size, -(-n // 3))
        groups = [slice(0, cut), *(slice(cut + i.start, cut + i.stop)
                                   for i in blocks(n - cut, self.size))]  # fmt: skip
        values, marks, order = [], [], torch.arange(n - 1, -1, -1, device=self.value.device)
        for i in groups:
            xi = some(self.x, order[i])
            with marked(layers, count(xi), 0) as found:
                values.append(_in_part(self.module, self.params, xi, self.x))
            marks.append(found)
        every = together(marks)
        turned = {k: [v if v is None else v.flip(-1) for v in calls] for k, calls in every.items()}
        return torch.cat(values).flip(0).to(self.value.dtype), turned

    def _alike(self, first: list, second: list) -> bool:
        if len(first) != len(second):
            return False
        for one, other in zip(first, second, strict=True):
            if one is None or other is None:
                return False
            one = one[self.network] if one.dim() > 1 else one
            finite = one.isfinite()
            if not self._near(one[finite], other[finite].to(one.dtype)):
                return False
        return True

    def _near(self, got: Tensor, want: Tensor, size: float = 0.0) -> bool:
        return _near(got, want, _unit(self.route.unit, want), size)

    def compare(self, k: slice, factors: list[Factor]) -> None:
        """`Misled` by the layers whose J^T u for the outputs k is another."""
        if not bool(self.truth.value.isfinite().all()):
            return
        found = Jacobian(self.value[:, k], tuple(factors))
        if self.b:
            found = Jacobian(self.value[:, k], tuple(
                replace(f, a=f.a if f.a is None else f.a[self.network], b=f.b[self.network])
                for f in factors
            ))  # fmt: skip
        part = found.map(lambda v: v[self.at])
        unit = _unit(self.route.unit, self.value)
        agreeing = self.truth.agreeing(part.value, part.factors, unit, self.largest, k)
        wrong = {name for f in factors for name in (f.weight, f.bias) if name} - agreeing
        if wrong:
            raise Misled(name.rpartition(".")[0] for name in wrong)

    def others(self) -> list[Factor]:
        """The factors of all other parameters, compared for all examples."""
        done = {qualified(k, p) for k in self.route.structured
                for p in owners(self.module)[k]._parameters}  # fmt: skip
        names = [k for k in self.params if k not in done]
        if not names:
            return []
        compared = self.finite and bool(self.truth.value.isfinite().all())
        truths = [
            (i, _Truth(self.module, self.params, some(self.x, i), names))
            for i in (blocks(len(self.value), self.size) if compared else ())
        ]
        for batched in (True, False) if self.route.batched else (False,):
            found = general(self.module, self.all_params, self.x, names, self.b, batched,
                            self.route.dtype)  # fmt: skip
            wrong = set()
            for i, truth in truths:
                part = Jacobian(self.value, tuple(
                    replace(f, b=f.b if not self.b else f.b[self.network]) for f in found
                )).map(lambda v, i=i: v[i])  # fmt: skip
                unit = _unit(self.route.unit, self.value)
                right = truth.agreeing(part.value, part.factors, unit, self.largest)
                wrong |= set(names) - right
            if not wrong:
                return found
        name = min(wrong)
        raise ValueError(f"the gradient of {name!r} is not what automatic differentiation gives for"
                         " some examples alone: is it coupled between them?")  # fmt: skip


def _in_part(module: nn.Module, params: Params, some_x: Inputs, x: Inputs) -> Tensor:
    """The outputs of some examples. ValueError where the module takes them all, and not these."""
    try:
        return evaluate(module, params, some_x)
    except Exception as error:
        try:
            evaluate(module, params, x)
        except Exception:
            raise error from None
        line = str(error).strip().split("\n")[0]
        few, all_of = count(some_x), count(x)
        raise ValueError(f"the module takes these {all_of} examples, and not {few} of them alone: "
                         f"{line}") from error  # fmt: skip


def refuse(module: nn.Module, params: Params, x: Inputs, unit: float) -> None:
    """ValueError for outputs that are not those of single examples."""
    with torch.no_grad():
        first, again = (evaluate(module, params, x) for _ in range(2))
    same = _near(first, again, unit)
    require(same, "the outputs differ from call to call: the module is no function of its inputs")
    raise ValueError(COUPLED)


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
    return got.shape == want.shape and _near(got, want, unit)


class _Truth:
    """What automatic differentiation says of u^T f at some inputs, u fixed, for the parameters
    `names` or all; each gradient by products of its rows with two vectors: that of a large layer is
    held once."""

    def __init__(self, module: nn.Module, params: Params, x: Inputs, names=None):
        self.module, self.params = module, params
        self.names = [*params] if names is None else names
        given = leaves({k: params[k] for k in self.names})
        self.leaves = {**params, **given}
        with torch.enable_grad():
            self.graph = evaluate(module, self.leaves, x)
        self.value = self.graph.detach()
        u = torch.linspace(0.5, 1.5, self.value.numel(), dtype=torch.float64)
        self.u = u.to(self.value).view_as(self.value)
        self.rows = {k: _direction(params[k]) for k in self.names}
        self._known: dict = {}

    def gradient(self, k: slice = slice(None)) -> Params:
        """For the outputs k."""
        if (k.start, k.stop) not in self._known:
            shown, f = {}, self.graph[:, k]

            def keep(name: str) -> Callable[[Tensor], None]:
                def hook(leaf: Tensor) -> None:
                    shown[name], leaf.grad = self.seen(name, leaf.grad), None

                return hook

            if f.requires_grad:
                given = {name: self.leaves[name] for name in self.names}
                handles = [v.register_post_accumulate_grad_hook(keep(k)) for k, v in given.items()]
                back = dict(inputs=[*given.values()], retain_graph=True)
                with hooked(handles), torch.enable_grad():
                    total = (f * self.u[:, k]).sum()
                    within(self.module, self.leaves, lambda: total.backward(**back))
            empty = {name: self.params[name].new_zeros(self.params[name].shape if rows is None else
                     (len(self.params[name]), rows.shape[1]))
                     for name, rows in self.rows.items()}  # fmt: skip
            self._known[k.start, k.stop] = empty | shown
        return self._known[k.start, k.stop]

    def sizes(self) -> tuple[float, float]:
        """Of the largest gradient, and of what outputs are sums of, for these may cancel."""
        largest = {k: v.abs().max().item() for k, v in self.gradient().items() if v.numel()}
        floor = (v * self.params[k].abs().max().item() for k, v in largest.items())
        return max(largest.values(), default=0.0), max(floor, default=0.0)

    def seen(self, name: str, gradient: Tensor) -> Tensor:
        rows, gradient = self.rows[name], gradient.to_dense()
        return gradient if rows is None else gradient.flatten(1) @ rows.to(gradient)

    def agreeing(
        self, value: Tensor, factors, unit: float, size: float = 0.0, k: slice = slice(None)
    ) -> set[str]:
        """The parameters whose factors say the same for the outputs k, to half the digits of their
        largest entry, or of a number `size`."""
        found, want, u = set(), self.gradient(k), self.u[:, k].to(value)
        for factor in factors:
            summed = factor.a is not None and factor.a.is_floating_point()
            if summed:
                a = factor.a @ self.rows[factor.weight].to(factor.a)
                factor = replace(factor, a=a, shape=(factor.shape[0], a.shape[-1]))
            for name, v in Jacobian(value, (factor,)).vjp(u).items():
                v = v if summed and name == factor.weight else self.seen(name, v)
                if _near(v, want[name].to(v), unit, size):
                    found.add(name)
        return found


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
        alone = torch.cat([_in_part(module, params, some(x, slice(i, i + 1)), x) for i in range(n)])
    unit = coarsest.unit
    try:
        truths = [(v, _Truth(module, params, v)) for v in (x, some(x, order))]
        gradients = [truth.gradient() for _, truth in truths]
    except RuntimeError as error:
        line = str(error).strip().split("\n")[0]
        raise ValueError(f"the module has no gradient by automatic differentiation: {line}") from (
            error
        )
    (_, truth), (_, turned) = truths
    require(bool(truth.value.isfinite().all()), "the output is not finite")
    for f in (truth.value, turned.value.flip(0)):
        if not _near(alone, f, _unit(unit, f)):
            refuse(module, params, x, unit)
    inside = {k for k, v in owners(module).items()
              if all(qualified(k, p) in params for p, v in v._parameters.items() if v is not None)}
    known, images = frozenset(candidates(module) & inside) - set(barred), _has_images(module, x)
    least = 0.01 * max((v.abs().max().item() for v in gradients[0].values() if v.numel()), default=0)

    def agreeing(v: Inputs, truth: _Truth, images: bool) -> set[str]:
        given = _channels_last(params, v) if images else (params, v)
        value, factors, _ = structured(module, *given, known, 0, n, all_of=False)
        return truth.agreeing(value, factors, _unit(unit, value), least)

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
    right = truth.agreeing(f.to(dtype), others, _unit(unit, f), least)
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
    )


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


def _unit(unit: float, like: Tensor) -> float:
    """The rounding unit, or that of a GPU's fast products where these are allowed."""
    fast = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return max(unit, TF32) if fast and like.is_cuda and unit > 1e-12 else unit


def _direction(v: Tensor) -> Tensor | None:
    """Two vectors to multiply the rows of a gradient with; None for one that has no rows."""
    if v.dim() < 2 or not v.numel():
        return None
    generator = Generator(v.device).manual_seed(v.numel())
    return torch.randn(v[0].numel(), 2, generator=generator, dtype=v.dtype, device=v.device)


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

    def near(v: Tensor) -> Tensor:
        if not v.is_floating_point() or not v.numel():
            return v
        wide = torch.promote_types(v.dtype, torch.float32)
        size = torch.linalg.vector_norm(v, 1, dtype=wide) / v.numel()
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype, device=v.device)
        return noise.mul_(torch.where(size > 0, 0.1 * size, 0.1).to(v)).add_(v)

    found = {k: near(v) for k, v in params.items()}, each(x, near)
    with torch.no_grad():
        finite = evaluate(module, *found).isfinite().all()
    return found if bool(finite) else (params, x)


def _near(got: Tensor, want: Tensor, unit: float, size: float = 0.0) -> bool:
    """Whether two tensors agree to half the digits of their largest entry, or of a number."""
    if got.shape != want.shape or not got.numel():
        return got.shape == want.shape
    wide = torch.promote_types(want.dtype, torch.float32)
    got, want = got.to(wide), want.to(wide)
    largest = torch.linalg.vector_norm(want, torch.inf).clamp(min=size)
    return bool(torch.dist(got, want, torch.inf) <= unit**0.5 * largest)
