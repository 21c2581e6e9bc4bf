"""What is compared with automatic differentiation, at a route's verification and at each batch."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn
from torch.func import vmap

from tangents._ntk.guard import Misled
from tangents._ntk.layers import (
    Marks,
    evaluate,
    general,
    leaves,
    marked,
    owners,
    qualified,
    together,
)
from tangents.factored import Factor, Jacobian, blocks
from tangents.functional import Params, hooked, require, select, within
from tangents.inputs import Inputs, count, each, some

SAMPLED = 4  # examples of each batch whose gradients are compared
LEAST = 0.25  # of the largest gradient: smaller ones are compared with that, for they may cancel
COUPLED = "the output of one example depends on the others in its batch"
TF32 = 2.0**-10  # rounding of a GPU's fast products of single precision


class Batch:
    """What is compared at each batch, of a network, or of the first finite one of a stack.

    Of all examples the outputs, and marks of what enters each structured layer, with what they are
    alone, by `vmap`; where that cannot be, with what they are in other groups and another order,
    and a few alone. `Misled` by a layer whose rows are not the examples'. Of a few, J^T u of
    structured layers with automatic differentiation, and of all where rows come example by example.
    """

    def __init__(self, route, module, params: Params, x: Inputs, b: int, passed, size: int):
        self.route, self.module, self.x, self.b = route, module, x, b
        self.params, self.every, self.network = params, params, None
        value = passed.value
        if b:
            finite = value.isfinite().flatten(1).all(1)
            self.network = int(finite.int().argmax())
            self.params, value = select(params, self.network), value[self.network]
        self.value, self.unit = value, unit_of(route.unit, value)
        owned = owners(module)
        done = {qualified(k, p) for k in route.structured for p in owned[k]._parameters}
        self.rest = [k for k in params if k not in done]
        layers = {k: owned[k] for k in route.structured}
        groups = _groups(len(value), size, value.device, route.apart)
        self.truths: list[tuple[Tensor, Truth]] = []
        every = [*self._compared(groups, layers), *self._alone(groups[0], layers, size)]
        largest, floor = self.truths[0][1].sizes()
        self.least = LEAST * largest
        order, values, marks = zip(*every, strict=True)
        order, f = torch.cat(order), torch.cat(values).to(value.dtype)
        self.finite = bool(f.isfinite().all())
        rows = (value[order].isfinite() & f.isfinite()).all(-1)
        if not near(value[order][rows], f[rows], self.unit, floor):
            refuse(module, self.params, x, route.unit)
        again = together(list(marks))
        wrong = {k for k in layers if not self._alike(passed.marks[k], again.get(k, []), order)}
        if wrong:
            raise Misled(wrong)

    def _compared(self, groups: list[Tensor], layers: dict) -> Iterator[tuple]:
        """Examples, outputs and marks in groups, as far as they are needed. Into `truths` goes what
        automatic differentiation says: of the first group, and of all for the other parameters."""
        for i in groups:
            first, few = i is groups[0], len(i)
            if first or self.rest:
                xi, names = some(self.x, i), None if first else self.rest
                with marked(layers, few, 0) as found:
                    truth = in_part(self.module, self.x, few, Truth, self.params, xi, names)
                self.truths.append((i, truth))
                yield i, truth.value, found
            elif not self.route.apart:
                yield self._seen(i, layers)

    def _alone(self, few: Tensor, layers: dict, size: int) -> Iterator[tuple]:
        """The same of each example alone: of all by `vmap`, or of a few."""
        if self.route.apart:
            with torch.no_grad():
                f, found = alone(self.module, self.params, self.x, layers, size)
            yield torch.arange(len(f), device=f.device), f, found
        else:
            yield from (self._seen(j, layers) for j in few.split(1))

    def _seen(self, i: Tensor, layers: dict) -> tuple[Tensor, Tensor, Marks]:
        """Some examples, their outputs and marks."""
        with torch.no_grad(), marked(layers, len(i), 0) as found:
            f = in_part(self.module, self.x, len(i), evaluate, self.params, some(self.x, i))
        return i, f, found

    def _alike(self, first: list, second: list, order: Tensor) -> bool:
        if len(first) != len(second) or any(v is None for v in (*first, *second)):
            return False
        first = [(v[self.network] if v.dim() > 1 else v)[order] for v in first]
        pairs = zip(torch.stack(first), torch.stack(second), strict=True)
        finite = ((v, w.to(v), v.isfinite() & w.isfinite()) for v, w in pairs)
        return all(near(v[rows], w[rows], self.unit) for v, w, rows in finite)

    def _part(self, k: slice, factors, i: Tensor) -> Jacobian:
        """The outputs k of the examples i, of the one network."""
        value = self.value[:, k]
        found = Jacobian(value, tuple(factors))
        if self.b:
            found = Jacobian(value.expand(self.b, *value.shape), tuple(factors))
            found = found.map(lambda v: v[self.network])
        return found.map(lambda v: v[i])

    def compare(self, k: slice, factors: list[Factor]) -> None:
        """`Misled` by the layers whose J^T u for the outputs k is another."""
        i, truth = self.truths[0]
        if self.finite and factors:
            part = self._part(k, factors, i)
            right = truth.agreeing(part.value, part.factors, self.unit, self.least, k)
            wrong = {v for f in factors for v in (f.weight, f.bias) if v} - right
            if wrong:
                raise Misled(name.rpartition(".")[0] for name in wrong)

    def others(self) -> list[Factor]:
        """The factors of all other parameters, compared for all examples."""
        for batched in (True, False) if self.route.batched else (False,):
            given = self.module, self.every, self.x, self.rest, self.b, batched, self.route.dtype
            found = general(*given)
            wrong: set[str] = set()
            for i, truth in self.truths if self.finite else ():
                part = self._part(slice(None), found, i)
                right = truth.agreeing(part.value, part.factors, self.unit, self.least)
                wrong |= set(self.rest) - right
            if not wrong:
                return found
        raise ValueError(f"the gradient of {min(wrong)!r} is not what automatic differentiation "
                         "gives for some examples alone: is it coupled between them?")  # fmt: skip


def alone(
    module: nn.Module, params: Params, x: Inputs, layers: dict, size: int
) -> tuple[Tensor, Marks]:
    """The outputs of each example in a batch of its own, and marks of what enters layers."""

    def one(xi: Inputs) -> tuple[Tensor, Marks]:
        with marked(layers, 1, 0) as found:
            f = evaluate(module, params, each(xi, lambda v: v.unsqueeze(0)))
        return f.squeeze(0), {k: [v.squeeze(0) for v in calls] for k, calls in found.items()}

    return vmap(one, chunk_size=size)(x)


def _groups(n: int, size: int, device: torch.device, apart: bool) -> list[Tensor]:
    """The examples in groups: a few from all over, and the others, from the last to the first.
    None is like the whole batch, unless examples are seen `apart` as well."""
    few = torch.linspace(n - 1, 0, min(n if apart else -(-n // 2), SAMPLED), device=device).long()
    left = torch.ones(n, dtype=torch.bool, device=device)
    left[few] = False
    rest = left.nonzero().flatten().flip(0)
    return [few, *(rest[i] for i in blocks(len(rest), size))]


def in_part(module: nn.Module, x: Inputs, few: int, body: Callable, params: Params, *given):
    """`body(module, params, *given)` for a few examples of x. ValueError where the module takes x
    and not these."""
    try:
        return body(module, params, *given)
    except Misled:
        raise
    except Exception as error:
        try:
            with torch.no_grad():
                evaluate(module, params, x)
        except Exception:
            raise error from None
        raise ValueError(f"the module takes these {count(x)} examples, and not {few} of them alone:"
                         f" {in_short(error)}") from error  # fmt: skip


def in_short(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip().split("\n")[0] or type(error).__name__).split(". ")[0][:200]


def refuse(module: nn.Module, params: Params, x: Inputs, unit: float) -> None:
    """ValueError for outputs that are not those of single examples."""
    with torch.no_grad():
        first, again = (evaluate(module, params, x) for _ in range(2))
    same = near(first, again, unit)
    require(same, "the outputs differ from call to call: the module is no function of its inputs")
    raise ValueError(COUPLED)


class Truth:
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
        self.u[1::2] *= -1  # or rows that are mixed among like examples would add up to the same
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
        sizes = [(_largest(v), _largest(self.params[k]))
                 for k, v in self.gradient().items() if v.numel()]  # fmt: skip
        slopes, weights = (torch.stack(v) for v in zip(*sizes, strict=True)) if sizes else [
            torch.zeros(1)] * 2  # fmt: skip
        return slopes.max().item(), (slopes * weights).max().item()

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
                if near(v, want[name].to(v), unit, size):
                    found.add(name)
        return found


def unit_of(unit: float, like: Tensor) -> float:
    """The rounding unit, or that of a GPU's fast products where these are allowed."""
    fast = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return max(unit, TF32) if fast and like.is_cuda and unit > 1e-12 else unit


def _direction(v: Tensor) -> Tensor | None:
    """Two vectors to multiply the rows of a gradient with; None for one that has no rows."""
    if v.dim() < 2 or not v.numel():
        return None
    generator = Generator(v.device).manual_seed(v.numel())
    return torch.randn(v[0].numel(), 2, generator=generator, dtype=v.dtype, device=v.device)


def _largest(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, torch.inf).double()


def near(got: Tensor, want: Tensor, unit: float, size: float = 0.0) -> bool:
    """Whether two tensors agree to half the digits of their largest entry, or of a number."""
    if got.shape != want.shape or not got.numel():
        return got.shape == want.shape
    wide = torch.promote_types(want.dtype, torch.float32)
    got, want = got.to(wide), want.to(wide)
    largest = torch.linalg.vector_norm(want, torch.inf).clamp(min=size)
    return bool(torch.dist(got, want, torch.inf) <= unit**0.5 * largest)
