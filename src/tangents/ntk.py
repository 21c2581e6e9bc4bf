"""The empirical tangent kernel Theta(x, x') = J(x) J(x')^T of any network, J = df/dparameters.

Layers with a known structure contribute through factors of J (`tangents.structure`), wherever their
gradient proves to agree with automatic differentiation; all else comes from the latter.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from tangents.functional import Params, select, stack, stacked
from tangents.jacobian import OUTPUTS, Factor, Tangent, blocks, stack_tangents
from tangents.structure import (
    candidates,
    few_outputs,
    general,
    owners,
    qualified,
    structured,
    transient,
)

LONG = 4096  # entries of a row that fill the cache by themselves
TRANSIENT = 2**25  # bytes of what is only needed on the way, where it can be had in parts


def tangent(module: nn.Module, params: Params, x: Tensor) -> Tangent:
    """The factored Jacobian at x (n, ...): a pass forward, and passes back for all outputs.

    `module` maps (n, ...) to (n, c), each example by itself. For a stack of b networks, `params`
    have a leading axis b. Linear, convolutional, embedding and normalisation layers are
    structured, at several positions or in several calls too, if their structured gradient agrees
    with automatic differentiation; all other parameters take the general route. Raises ValueError
    for a module that is not a map of single examples.
    """
    b = stacked(module, params)
    return _tangent(module, params, x, _plan(module, params, x, b), b)


def ntk(
    module: nn.Module,
    params: Params,
    x1: Tensor,
    x2: Tensor | None = None,
    outputs: str = "full",
    budget: float | None = None,
) -> Tensor:
    """The empirical tangent kernel Theta (n, m, c, c) between inputs x1 (n, ...) and x2 (m, ...).

    Without `x2`, between x1 and itself. `outputs`: "full"; the "diagonal" over outputs (n, m, c);
    their "trace" (n, m). For a stack of b networks with a leading axis b. Beside the result about
    `budget` bytes are used, by default a quarter of those free. Raises ValueError for what
    `tangent` refuses, and where a parameter, an input or an output is not finite. Source: Jacot et
    al. (2018), section 4; Novak et al. (2022), section 3.
    """
    work = Work.plan(module, params, x1, x2, outputs, budget)
    places = work.places()
    if len(places) == 1:
        return work.tile(*places[0])
    out = None
    for i, j in places:
        tile = work.tile(i, j)
        out = tile.new_empty(work.shape) if out is None else out
        work.put(tile, i, j, out)
    return out


@dataclass
class Work:
    """A kernel in blocks of `size` rows and columns, each of which can be computed by itself."""

    module: nn.Module
    params: Params
    x1: Tensor
    x2: Tensor | None
    outputs: str
    kind: "Plan"
    stream: bool  # whether the trace is summed output by output: long rows are not all held
    size: int
    shape: tuple[int, ...]  # of the whole kernel
    axis: int  # of the rows
    row: tuple | None = None  # the last rows used, and their Jacobian

    @classmethod
    def plan(cls, module, params, x1, x2, outputs, budget) -> "Work":
        """Arguments and errors as for `ntk`; blocks of a size that suits the budget."""
        for name, values in {**params, "x1": x1, "x2": x2}.items():
            finite = values is None or _finite(values)
            _require(finite, f"{name} holds values that are not finite")
        other = "" if x2 is None else f", x2 has {tuple(x2.shape[1:])} and {x2.dtype}"
        alike = x2 is None or (x1.shape[1:], x1.dtype) == (x2.shape[1:], x2.dtype)
        _require(alike, f"x1 has inputs of {tuple(x1.shape[1:])} and {x1.dtype}{other}")
        _require(x2 is None or len(x2) > 0, "there are no inputs")
        _require(outputs in OUTPUTS, f"outputs must be one of {', '.join(OUTPUTS)}: {outputs!r}")
        b = stacked(module, params)
        kind = _plan(module, params, x1, b)
        lead, n, m = (b,) if b else (), len(x1), len(x1 if x2 is None else x2)
        ends = (kind.outputs,) * {"full": 2, "diagonal": 1, "trace": 0}[outputs]
        shape, each = (*lead, n, m, *ends), math.prod(lead) * kind.unit
        budget = _free(x1.device) / 4 if budget is None else budget
        stream = outputs == "trace" and kind.long and kind.outputs > 1
        held = kind.held
        if stream:
            held += kind.transient - kind.signals * (1 - 1 / kind.outputs)
        row = 4 * each * held  # rows and columns, and as much on the way to them
        entry = 2 * each * math.prod(ends)
        size = int(2 * budget / (row + (row**2 + 4 * entry * budget) ** 0.5))
        return cls(module, params, x1, x2, outputs, kind, stream, max(1, size), shape, len(lead))

    def places(self) -> list[tuple[slice, slice]]:
        """(rows, columns) of the blocks: the lower triangle of a symmetric kernel."""
        n, m = self.shape[self.axis : self.axis + 2]
        rows, columns = blocks(n, self.size), list(blocks(m, self.size))
        return [(i, j) for i in rows for j in columns if self.x2 is not None or j.start <= i.start]

    def tile(self, i: slice, j: slice) -> Tensor:
        """Theta[i, j]."""
        same, others = self.x2 is None and i == j, self.x1 if self.x2 is None else self.x2
        if self.stream:
            left = self._few_outputs(self.x1, i)
            if same:
                return sum(t.gram(outputs="trace") for t in left)
            pairs = zip(left, self._few_outputs(others, j), strict=True)
            return sum(t.gram(u, "trace") for t, u in pairs)
        if self.row is None or self.row[0] != i:
            self.row = i, self._jacobian(self.x1, i)
        if same:
            return self.row[1].gram(outputs=self.outputs)
        return self.row[1].gram(self._jacobian(others, j), self.outputs)

    def put(self, tile, i: slice, j: slice, out) -> None:
        """Writes a block, and its mirror image if the kernel is symmetric, into `out`."""
        before = (slice(None),) * self.axis
        out[(*before, i, j)] = tile
        if self.x2 is None and i != j:
            tile = tile.swapaxes(self.axis, self.axis + 1)
            out[(*before, j, i)] = tile.swapaxes(-1, -2) if self.outputs == "full" else tile

    def _jacobian(self, x: Tensor, i: slice) -> Tangent:
        return _checked(_tangent(self.module, self.params, x[i], self.kind, self._stack), i)

    def _few_outputs(self, x: Tensor, i: slice) -> Iterator[Tangent]:
        found = _few_outputs(self.module, self.params, x[i], self.kind, self._stack)
        return (_checked(t, i) for t in found)

    @property
    def _stack(self) -> int:
        return self.shape[0] if self.axis else 0


def _checked(found: Tangent, i: slice) -> Tangent:
    message = f"the output is not finite for the inputs {i.start} to {i.stop}"
    _require(_finite(found.value), message)
    return found


def _finite(values: Tensor) -> bool:
    """Whether all are finite numbers; one pass over them."""
    if not values.is_floating_point() or not values.numel():
        return True
    return all(math.isfinite(v) for v in torch.stack(values.aminmax()).tolist())


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


_PLANS: WeakKeyDictionary = WeakKeyDictionary()


class Plan(NamedTuple):
    """Which way the columns of J come, found once for each kind of input."""

    structured: frozenset[str]  # layers whose structured gradient is automatic differentiation's
    outputs: int  # of the module
    unit: int  # bytes of a number
    held: float  # numbers in the factors of one example
    signals: float  # those of them that are an output's each
    transient: float  # numbers of one example beside them until the passes back are done
    long: bool  # whether there are long rows
    images: bool = False  # whether convolutions get their images channels last, as they like them
    batched: bool = True  # whether the general rows come right for all examples at once
    stacks: bool = False  # whether the module takes a stack of networks as it is


def _plan(module: nn.Module, params: Params, x: Tensor, b: int) -> Plan:
    for name, layer in module.named_modules():
        batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        noise = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        random = layer.training and (batch or noise)
        kind = type(layer).__name__
        _require(not random, f"layer {name!r} ({kind}) is in training mode: call module.eval()")
    _require(len(x) > 0, "there are no inputs")
    plans = _PLANS.setdefault(module, {})
    key = (x.shape[1:], x.dtype, bool(b))
    if key in plans:
        return plans[key]
    two = x[:2] if len(x) > 1 else torch.cat([x, x])
    one = select(params, 0) if b else params
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # it rounds to three digits
        plan = _verified(module, *_shaken(module, one, two))
        if b:
            plan = plan._replace(stacks=_takes_stacks(module, one, two))
    if x.is_floating_point() or bool((two[0] != two[1]).any()):
        plans[key] = plan  # of equal examples one cannot tell whether they are mixed
    return plan


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


def _verified(module: nn.Module, params: Params, x: Tensor) -> Plan:
    """Compares the ways at these parameters and inputs."""
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with torch.enable_grad():
        f = functional_call(module, leaves, (x,))
    single = f.dim() == 2 and len(f) == len(x)
    _require(single, f"outputs must have shape (n, c), got {tuple(f.shape)} for n = {len(x)}")
    _require(bool(f.isfinite().all()), "the output is not finite")
    with torch.no_grad():
        alone = functional_call(module, params, (x[:1],))
    message = "the output of one example depends on the others in its batch"
    _require(_near(alone, f.detach()[:1]), message)
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
            for k, v in Tangent(value, (factor,)).backward(u).items():
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
    beside = transient(module, params, x, trusted) / len(x)
    plan = Plan(trusted, f.shape[-1], f.element_size(), 0.0, 0.0, beside, False, images)
    whole = _tangent(module, params, x, plan, 0)

    def numbers(tensors) -> float:
        return sum(v.nbytes for v in tensors if v is not None) / f.element_size() / len(x)

    each = [v.b for v in whole.factors if v.weight.rpartition(".")[0] in trusted]
    return plan._replace(
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


def _tangent(module: nn.Module, params: Params, x: Tensor, plan: Plan, b: int) -> Tangent:
    if b and not plan.stacks:
        each = (_tangent(module, select(params, i), x, plan, 0) for i in range(b))
        return stack_tangents(list(each))
    size = int(TRANSIENT / max(1, max(b, 1) * plan.unit * plan.transient))
    given = _as_liked(params, x, plan, b)
    f, factors = structured(module, *given, plan.structured, max(1, size))
    return Tangent(f, (*factors, *_others(module, params, x, plan, b, factors)))


def _few_outputs(module, params: Params, x: Tensor, plan: Plan, b: int) -> Iterator[Tangent]:
    """`_tangent` for some outputs after others, each to be used before the next."""
    if b and not plan.stacks:
        each = (_few_outputs(module, select(params, i), x, plan, 0) for i in range(b))
        yield from (stack_tangents([*t]) for t in zip(*each, strict=True))
        return
    given, others = _as_liked(params, x, plan, b), None
    for k, f, factors in few_outputs(module, *given, plan.structured):
        others = others or _others(module, params, x, plan, b, factors)
        some = (replace(v, b=v.b[..., k, :, :, :]) for v in others)
        yield Tangent(f, (*factors, *some))


def _as_liked(params: Params, x: Tensor, plan: Plan, b: int) -> tuple[Params, Tensor]:
    """In the order in memory that the layers are fastest with."""
    return _channels_last(params, x) if plan.images and not b else (params, x)


def _others(module, params: Params, x: Tensor, plan: Plan, b: int, factors) -> list[Factor]:
    """The factors of all other parameters."""
    done = {name for factor in factors for name in (factor.weight, factor.bias)}
    names = [k for k in params if k not in done]
    return general(module, params, x, names, b > 0, plan.batched)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"ntk: {message}")
