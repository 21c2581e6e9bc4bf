"""What is compared with automatic differentiation, at a route's verification and at each batch."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from tangents._ntk.guard import Misled
from tangents._ntk.inputs import Inputs, count, some
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

SAMPLED = 4  # examples of each batch whose gradients are compared
COUPLED = "the output of one example depends on the others in its batch"
TF32 = 2.0**-10  # rounding of a GPU's fast products of single precision


class Batch:
    """What is compared at each batch, of a network, or of the first finite one of a stack.

    Of all examples, in another order and in two groups or more: the outputs, and marks of what
    enters each structured layer; `Misled` by a layer whose rows are not the examples'. Of a few,
    J^T u of structured layers with automatic differentiation; of all where rows come by vmap.
    """

    def __init__(self, route, module, params: Params, x: Inputs, b: int, passed, size: int):
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
        self.truth = Truth(module, self.params, some(x, self.at))
        if not bool(self.truth.value.isfinite().all()):
            return  # nothing to compare
        self.largest, floor = self.truth.sizes()
        with torch.no_grad():
            f, again = self._rearranged(n)
        rows = (value.isfinite() & f.isfinite()).all(-1)
        if not self.near(value[rows], f[rows], floor):
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
                values.append(in_part(self.module, self.params, xi, self.x))
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
            if not self.near(one[finite], other[finite].to(one.dtype)):
                return False
        return True

    def near(self, got: Tensor, want: Tensor, size: float = 0.0) -> bool:
        return near(got, want, unit_of(self.route.unit, want), size)

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
        unit = unit_of(self.route.unit, self.value)
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
            (i, Truth(self.module, self.params, some(self.x, i), names))
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
                unit = unit_of(self.route.unit, self.value)
                right = truth.agreeing(part.value, part.factors, unit, self.largest)
                wrong |= set(names) - right
            if not wrong:
                return found
        name = min(wrong)
        raise ValueError(f"the gradient of {name!r} is not what automatic differentiation gives for"
                         " some examples alone: is it coupled between them?")  # fmt: skip


def in_part(module: nn.Module, params: Params, some_x: Inputs, x: Inputs) -> Tensor:
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


def near(got: Tensor, want: Tensor, unit: float, size: float = 0.0) -> bool:
    """Whether two tensors agree to half the digits of their largest entry, or of a number."""
    if got.shape != want.shape or not got.numel():
        return got.shape == want.shape
    wide = torch.promote_types(want.dtype, torch.float32)
    got, want = got.to(wide), want.to(wide)
    largest = torch.linalg.vector_norm(want, torch.inf).clamp(min=size)
    return bool(torch.dist(got, want, torch.inf) <= unit**0.5 * largest)
