"""The Jacobian of a network's outputs as an operator in factored form, never formed as a whole.

A linear layer z = s W a + b contributes to the row of an example the outer product of a *signal*
df/dz and its input s a (the bias: the signal alone). Row times row is then a product of two small
Gram matrices, and neither the Jacobian nor a per-example gradient is formed:
J J'^T = sum over layers of (B B'^T) * (A A'^T + 1), the identity of Novak et al. (2022), section 3.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tangents import checks
from tangents.functional import Params, kinds, require, tile_rows

OUTPUTS = {"full": 2, "diagonal": 1, "trace": 0}  # axes of a kernel that outputs have
TILE = 512  # rows of a tile: small enough for the cache, large enough for the matrix product
PANEL = 128  # rows at a time of a symmetric tile, whose upper half is not computed


@dataclass(frozen=True)
class Factor:
    """Columns of J: row (k, i) is s sum_q b_kiq a_iq^T over positions q; for a bias, sum_q b_kiq.

    Without `a` the row is b_ki itself, at one position. An `a` of integers (*s, n, q) holds the
    rows that an embedding looks up.
    """

    weight: str
    bias: str | None
    shape: tuple[int, ...]  # of the weight, to which the (o, i) outer product is reshaped
    scale: float  # s in z = s W a + b
    a: Tensor | None  # (*s, n, q, i)
    b: Float[Tensor, "*s c n q o"]

    def inputs(self, other: "Factor", i: slice, j: slice) -> Tensor | None:
        """What multiplies the products of signals, s s' A A'^T + 1 (*s, n q, m q'), for some
        examples i and others j."""
        if self.a is None:
            return None
        before = (slice(None),) * (self.b.dim() - 4)
        left, right = self.a[(*before, i)], other.a[(*before, j)]
        if not self.a.is_floating_point():
            return (left.flatten(-2).unsqueeze(-1) == right.flatten(-2).unsqueeze(-2)).to(self.b)
        pairs, same = [(left.flatten(-3, -2), right.flatten(-3, -2))], self is other and i == j
        return _product(pairs, same, self.scale * other.scale, float(self.bias is not None))

    def squares(self) -> Tensor:
        """The squared norm of each row, (*s, c, n)."""
        each = torch.linalg.vecdot(self.b, self.b).squeeze(-1)
        if self.b.shape[-2] > 1:
            looked_up = not self.a.is_floating_point()
            a = self.a.unsqueeze(-1)
            pairs = (a == a.mT).to(self.b) if looked_up else self.scale**2 * self.a @ self.a.mT
            pairs = pairs + 1 if self.bias else pairs
            return ((self.b @ self.b.mT) * pairs.unsqueeze(-4)).sum((-2, -1))
        if self.a is None or not self.a.is_floating_point():
            return each
        size = torch.linalg.vecdot(self.a, self.a).squeeze(-1) * self.scale**2
        return each * (size + (self.bias is not None)).unsqueeze(-2)


@dataclass(frozen=True)
class Jacobian:
    """The Jacobian J of n examples and c outputs at one set of parameters, in factored form.

    `value` (n, c) is the output itself. For a stack of b networks, all with a leading axis b.
    """

    value: Float[Tensor, "*s n c"]
    factors: tuple[Factor, ...]

    def gram(
        self, other: "Jacobian | None" = None, outputs: str = "full", out: Tensor | None = None
    ) -> Tensor:
        """J J'^T with the Jacobian at other inputs, J J^T without: (*s, n, m, c, c).

        The "diagonal" over outputs alone is (*s, n, m, c), the "trace" over them (*s, n, m). It is
        written to `out` if given. Raises ValueError for another choice of `outputs`, and for the
        Jacobian of another network.
        """
        require(outputs in OUTPUTS, f"outputs must be one of {', '.join(OUTPUTS)}: {outputs!r}")
        self._require_whole()
        if other is not None:
            checks.kind("other", other, Jacobian)
            other._require_whole()
        alike = other is None or self._kind() == other._kind()
        require(alike, "the two Jacobians are not of one network")
        second = other or self
        *s, n, c = self.value.shape
        m, full, trace = second.value.shape[-2], outputs == "full", outputs == "trace"
        shape = (*s, n, m, *[c] * OUTPUTS[outputs])
        if out is None:
            out = blank(self.value, shape, outputs)
        else:
            checks.alike(out=out, outputs=self.value)
            checks.shaped("out", out, *shape)
        found = _by_output(out, outputs)
        positions = max((f.b.shape[-2] for t in (self, second) for f in t.factors), default=1)
        size = max(1, tile_rows(self.value, TILE) // positions)  # the examples of a tile
        group, across = (c if trace else max(1, size // max(1, v)) for v in (n, m))  # and outputs
        pairs = list(zip(self.factors, second.factors, strict=True))

        def tile(k: slice, i: slice, p: slice, j: slice) -> Tensor:
            return found[..., k, i, p if full else slice(None), j]

        for i in blocks(n, size):
            for j in blocks(m if other else i.stop, size):
                inputs = [f.inputs(g, i, j) for f, g in pairs]
                for k in blocks(c, group):
                    for p in blocks(c, across) if full else [k]:
                        if other is None and i == j and p.start > k.start:
                            continue
                        for place, ((f, g), a) in enumerate(zip(pairs, inputs, strict=True)):
                            left, right = f.b[..., k, i, :, :], g.b[..., p, j, :, :]
                            same = other is None and i == j and k == p
                            product = _products(left, right, outputs, same)
                            _put(product, a, tile(k, i, p, j), add=place > 0)
                        if other is None and (i != j or k != p):
                            tile(p, j, k, i).copy_(tile(k, i, p, j).movedim((-2, -1), (-4, -3)))
        return out

    def _kind(self) -> tuple:
        """What the Jacobians of one network have in common at all inputs."""
        factors = [(f.weight, f.bias, f.shape, f.scale) for f in self.factors]
        return (*self.value.shape[:-2], self.value.shape[-1], self.value.dtype, factors)

    def diagonal(self) -> Float[Tensor, "*s n c"]:
        """|J_ik|^2 for each row."""
        return sum(f.squares() for f in self.factors).mT

    def jvp(self, v: Params) -> Float[Tensor, "*s n c"]:
        """J v, the change of the output per unit step along v, which has the parameters' shapes."""
        self._require_direction(v)
        total, v = 0, {k: t.to(self.value) for k, t in v.items()}
        for f in self.factors:
            *s, _, n, q, o = f.b.shape
            if f.a is None:
                z = v[f.weight].reshape(*s, 1, 1, 1, o)
            elif not f.a.is_floating_point():
                each = zip(v[f.weight], f.a, strict=True) if s else [(v[f.weight], f.a)]
                found = [table[ids] for table, ids in each]
                z = (torch.stack(found) if s else found[0]).unsqueeze(-4)
            else:
                matrix = v[f.weight].reshape(*s, o, f.a.shape[-1])
                z = f.a.flatten(-3, -2) @ (f.scale * matrix.mT)
                if f.bias is not None:
                    z = z + v[f.bias].unsqueeze(-2)
                z = z.view(*s, 1, n, q, o)
            total = total + torch.linalg.vecdot(f.b, z).sum(-1)
        return total.mT

    def vjp(self, u: Float[Tensor, "*s n c"]) -> Params:
        """J^T u, the gradient of <u, f>."""
        self._require_whole()
        checks.alike(u=u, outputs=self.value)
        checks.shaped("u", u, *self.value.shape)
        out = {}
        for f in self.factors:
            *s, c, n, q, o = f.b.shape
            weights = u.mT.unsqueeze(-1).unsqueeze(-1)
            signal = f.b.squeeze(-4) * weights.squeeze(-4) if c == 1 else (f.b * weights).sum(-4)
            signal = signal.reshape(*s, n * q, o)
            if f.a is None:
                out[f.weight] = signal.sum(-2).view((*s, *f.shape))
                continue
            if not f.a.is_floating_point():
                rows = signal.new_zeros(*s, *f.shape)
                each = zip(rows, f.a, signal, strict=True) if s else [(rows, f.a, signal)]
                for total, ids, one in each:
                    total.index_add_(0, ids.flatten(), one)
                out[f.weight] = rows
                continue
            product = (signal.mT @ f.a.flatten(-3, -2)).mul_(f.scale)
            out[f.weight] = product.view(*s, *f.shape)
            if f.bias is not None:
                out[f.bias] = signal.sum(-2)
        return out

    def ntk_vp(self, u: Float[Tensor, "*s n c"]) -> Float[Tensor, "*s n c"]:
        """Theta u = J J^T u, without the kernel."""
        return self.jvp(self.vjp(u))

    def left_multiply(self, root: Float[Tensor, "*s n c r"]) -> "Jacobian":
        """S^T J, with a matrix S (c, r) for each example: r outputs that mix the c outputs."""
        checks.alike(root=root, outputs=self.value)
        checks.shaped("root", root, *self.value.shape, *root.shape[-1:])
        factors = []
        for f in self.factors:
            *s, c, n, q, o = f.b.shape
            b = root.mT @ f.b.movedim(-4, -3).reshape(*s, n, c, q * o)
            factors.append(replace(f, b=b.unflatten(-1, (q, o)).movedim(-4, -3)))
        value = (root.mT @ self.value.unsqueeze(-1)).squeeze(-1)
        return Jacobian(value, tuple(factors))

    def _require_direction(self, v: Params) -> None:
        self._require_whole()
        kinds("a direction", v)
        names: set[str | None] = {None}
        for f in self.factors:
            *s, _, _, _, o = f.b.shape
            names |= {f.weight, f.bias}
            for name, shape in ((f.weight, f.shape), (f.bias, (o,))):
                if name is not None:
                    require(name in v, f"a direction lacks {name!r}")
                    checks.shaped(repr(name), v[name], *s, *shape)
        strange = next((name for name in v if name not in names), None)
        require(strange is None, f"a direction holds {strange!r}, which is no parameter")

    def _require_whole(self) -> None:
        """Factors, and each of the examples and outputs of the value."""
        checks.kind("value", self.value)
        shape = self.value.shape
        require(len(shape) > 1, f"value must be (*s, n, c), got {tuple(shape)}")
        require(len(self.factors) > 0, "the Jacobian has no factors: there is no parameter")
        *s, n, c = shape
        for f in self.factors:
            fits = f.b.shape[:-2] == (*s, c, n)
            fits = fits and (f.a is None or f.a.shape[: len(s) + 2] == (*s, n, f.b.shape[-2]))
            require(fits, f"the factor of {f.weight!r} is not of {n} examples and {c} outputs")

    def map(self, function: Callable, *others: "Jacobian") -> "Jacobian":
        """`function` of the value and of each factor's tensors (and of those of the others).

        Each has the leading axes of the value: the stack's, if any, and the examples'.
        """
        factors = []
        for f in zip(self.factors, *(o.factors for o in others), strict=True):
            a = None if f[0].a is None else function(*(g.a for g in f))
            b = function(*(g.b.transpose(-4, -3) for g in f)).transpose(-3, -4)
            factors.append(replace(f[0], a=a, b=b))
        return Jacobian(function(self.value, *(o.value for o in others)), tuple(factors))


def stack_jacobians(networks: list[Jacobian]) -> Jacobian:
    """The Jacobians of several networks of one kind on a leading axis."""
    require(len(networks) > 0, "there are no Jacobians")
    first = networks[0]
    alike = all(t._kind() == first._kind() and t.value.shape == first.value.shape for t in networks)
    require(alike, "the Jacobians are not of networks of one kind, at as many examples")
    first, *others = (t.map(lambda v: v.unsqueeze(0)) for t in networks)
    return first.map(lambda *v: torch.cat(v), *others)


def blank(like: Tensor, shape: tuple[int, ...], outputs: str) -> Tensor:
    """Room for a kernel of this shape, (*s, n, m), (*s, n, m, c) or (*s, n, m, c, c), output by
    output in memory, as `Jacobian.gram` goes through it."""
    if outputs == "trace":
        return like.new_empty(shape)
    if outputs == "diagonal":
        *s, n, m, c = shape
        return like.new_empty(*s, c, n, m).movedim(-3, -1)
    *s, n, m, c, _ = shape
    return like.new_empty(*s, c, n, c, m).movedim((-4, -2), (-2, -1))


def _by_output(kernel: Tensor, outputs: str) -> Tensor:
    """A kernel as (*s, k, n, l, m), one for outputs k and l that are summed or the same."""
    if outputs == "trace":
        return kernel.unsqueeze(-2).unsqueeze(-4)
    if outputs == "diagonal":
        return kernel.movedim(-1, -3).unsqueeze(-2)
    return kernel.movedim((-2, -1), (-4, -2))


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..n in order."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def _products(left: Tensor, right: Tensor, outputs: str, same: bool) -> Tensor:
    """Of the signals (*s, k, n, q, o) and (*s, l, m, p, o): for all outputs (*s, k n q, l m p), for
    each with itself (*s, k, n q, m p), summed over these (*s, n q, m p)."""
    if outputs == "full":
        return _product([(left.flatten(-4, -2), right.flatten(-4, -2))], same)
    left, right = left.flatten(-3, -2), right.flatten(-3, -2)
    if outputs == "diagonal":
        return _product([(left, right)], same)
    return _product(list(zip(left.unbind(-3), right.unbind(-3), strict=True)), same)


def _product(
    pairs: list[tuple[Tensor, Tensor]], same: bool, scale: float = 1.0, offset: float = 0.0
) -> Tensor:
    """offset + scale times the sum of L R^T over the pairs (L, R); `same`: all are pairs (L, L)."""
    *lead, n, _ = pairs[0][0].shape
    m, flat = pairs[0][1].shape[-2], (math.prod(lead),) if lead else ()
    found = pairs[0][0].new_full((*flat, n, m), offset)
    halved = same and found.device.type == "cpu"
    panels = list(blocks(n, PANEL)) if halved else [slice(None)]
    for left, right in pairs:
        if lead:
            left, right = left.flatten(0, -3), right.flatten(0, -3)
        for i in panels:
            j = slice(i.stop)
            add = found[..., i, j].baddbmm_ if lead else found[..., i, j].addmm_
            add(left[..., i, :], right[..., j, :].mT, alpha=scale)
    for i in panels[1:]:
        found[..., : i.start, i] = found[..., i, : i.start].mT
    return found.view(*lead, n, m)


def _put(product: Tensor, inputs: Tensor | None, tile: Tensor, add: bool) -> None:
    """Puts products of signals into a tile (*s, k, n, l, m), or adds them: times what stands on
    their inputs (*s, n q, m p), summed over positions q and p."""
    *s, n, outputs, m = tile.shape
    if inputs is None:
        product = product.view(tile.shape)
    else:
        inputs = inputs.unsqueeze(-2).unsqueeze(-4)
        nq, mp = inputs.shape[-3], inputs.shape[-1]
        product = product.view(*s, nq, outputs, mp)
        if (nq, mp) != (n, m):
            summed = product.mul_(inputs).unflatten(-1, (m, -1)).unflatten(-4, (n, -1))
            product, inputs = summed.sum((-4, -1)), None
    if inputs is None:
        tile.add_(product) if add else tile.copy_(product)
    elif add:
        tile.addcmul_(product, inputs)
    else:
        torch.mul(product, inputs, out=tile)
