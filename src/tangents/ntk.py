"""The empirical tangent kernel Theta(x, x') = J(x) J(x')^T of any network, J = df/dparameters.

`budget` bounds the memory that a kernel takes beside itself: it comes in blocks, or in the order of
its outputs, so that no more of J is held at a time.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor, nn

from tangents.functional import Params, stacked
from tangents.jacobian import OUTPUTS, Tangent, blank, blocks
from tangents.plan import Plan

THIN = 4  # the columns of a block are one in so many examples that the budget holds


def tangent(module: nn.Module, params: Params, x: Tensor) -> Tangent:
    """The factored Jacobian at x (n, ...): a pass forward, and passes back for all outputs.

    `module` maps (n, ...) to (n, c), each example by itself. For a stack of b networks, `params`
    have a leading axis b. Linear, convolutional, embedding and normalisation layers are
    structured, at several positions or in several calls too, if their structured gradient agrees
    with automatic differentiation; all other parameters take the general route. Raises ValueError
    for a module that is not a map of single examples.
    """
    b = stacked(module, params)
    return Plan.of(module, params, x, b).jacobian(module, params, x, b)


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
    work = Work.of(module, params, x1, x2, outputs, budget).thin()
    out = work.empty(*work.sides)
    for i, j in work.places():
        work.tile(i, j, out[work.at(i, j)])
        work.mirror(i, j, out)
    return out


@dataclass
class Work:
    """A kernel in blocks of `rows` by `columns`, each of which can be computed by itself."""

    module: nn.Module
    params: Params
    x1: Tensor
    x2: Tensor | None
    outputs: str
    plan: Plan
    shape: tuple[int, ...]  # of the whole kernel
    axis: int  # of the rows
    budget: float  # bytes beside the result
    rows: int = 0
    columns: int = 0
    group: int = 0  # outputs at a time: the Jacobians of others are not held; 0: all at once
    row: tuple | None = None  # the last rows used, and their Jacobian

    @classmethod
    def of(cls, module, params, x1, x2, outputs, budget) -> "Work":
        """Arguments and errors as for `ntk`; not in blocks yet."""
        for name, values in {**params, "x1": x1, "x2": x2}.items():
            finite = values is None or _finite(values)
            _require(finite, f"{name} holds values that are not finite")
        other = "" if x2 is None else f", x2 has {tuple(x2.shape[1:])} and {x2.dtype}"
        alike = x2 is None or (x1.shape[1:], x1.dtype) == (x2.shape[1:], x2.dtype)
        _require(alike, f"x1 has inputs of {tuple(x1.shape[1:])} and {x1.dtype}{other}")
        _require(x2 is None or len(x2) > 0, "there are no inputs")
        _require(outputs in OUTPUTS, f"outputs must be one of {', '.join(OUTPUTS)}: {outputs!r}")
        budget = _free(x1.device) / 4 if budget is None else float(budget)
        _require(budget > 0, f"the budget must be a number of bytes above 0, got {budget}")
        b = stacked(module, params)
        plan = Plan.of(module, params, x1, b)
        lead, n, m = (b,) if b else (), len(x1), len(x1 if x2 is None else x2)
        ends = (plan.outputs,) * OUTPUTS[outputs]
        return cls(module, params, x1, x2, outputs, plan, (*lead, n, m, *ends), len(lead), budget)

    def thin(self) -> "Work":
        """In blocks of many rows and few columns: the passes for these are made anew for each block
        of rows, whose Jacobian stays; they are the fewer the more rows it has."""
        n, m = self.sides
        work = self._for(n if self.x2 is None else n + m)
        held = work._held
        columns = held // 2 if work.group else min(m, held // THIN)
        alone = self.x2 is None and held >= n
        return work.in_blocks(n if alone else held - max(1, columns), columns)

    def square(self, most: int) -> "Work":
        """In square blocks of at most `most` rows; the budget holds such a block as well."""
        work, n = self._for(2 * most), math.prod(self.sides)
        each, entry = work._example, self.plan.dtype.itemsize * math.prod(self.shape) / n
        size = int(0.75 * self.budget / (each + (each**2 + 0.75 * entry * self.budget) ** 0.5))
        return work.in_blocks(min(most, size), min(most, size))

    def in_blocks(self, rows: int, columns: int) -> "Work":
        """In blocks of these sizes."""
        return replace(self, rows=max(1, rows), columns=max(1, columns), row=None)

    def _for(self, examples: int) -> "Work":
        """With as many outputs at a time as let the budget hold so many examples."""
        plan = self.plan
        if self.outputs == "full" or plan.outputs == 1:
            return self
        tried, group = [], plan.together
        while group:
            tried.append(replace(self, group=group))
            group //= 2
        tried = tried if plan.long else [self, *tried, self]  # long rows fill the cache alone
        return next((work for work in tried if work._held >= examples), tried[-1])

    @property
    def _held(self) -> int:
        """Examples whose rows of the Jacobian the budget holds; the rest of it is for the way."""
        return int(0.75 * self.budget / self._example)

    @property
    def _example(self) -> float:
        """Bytes of an example's row of the Jacobian, for all networks."""
        plan, numbers = self.plan, self.plan.held
        if self.group:
            others = plan.signals * (1 - self.group / plan.outputs)
            numbers += plan.transient + plan.returned * self.group - others
        twice = 2 if self._stack and not plan.stacks else 1  # networks are put together
        return twice * max(1, self._stack) * plan.dtype.itemsize * numbers

    def places(self) -> list[tuple[slice, slice]]:
        """(rows, columns) of the blocks; of a symmetric kernel, all up to the diagonal."""
        n, m = self.sides
        found = []
        for i in blocks(n, self.rows):
            found += [(i, j) for j in blocks(i.start if self.x2 is None else m, self.columns)]
            found += [(i, i)] if self.x2 is None else []
        return found

    def tile(self, i: slice, j: slice, out: Tensor | None = None) -> Tensor:
        """Theta[i, j], written to `out` if given."""
        same, others = self.x2 is None and i == j, self.x1 if self.x2 is None else self.x2
        if self.group:
            out = self.empty(i.stop - i.start, j.stop - j.start) if out is None else out
            right = itertools.repeat(None) if same else self._in_groups(others, j)
            pairs, k = zip(self._in_groups(self.x1, i), right, strict=False), 0
            if self.outputs == "trace":
                out.zero_()
                for t, u in pairs:
                    out += t.gram(u, "trace")
            else:
                for t, u in pairs:
                    c = t.value.shape[-1]
                    t.gram(u, "diagonal", out[..., k : k + c])
                    k += c
            return out
        if self.row is None or self.row[0] != i:
            self.row = None
            self.row = i, self._jacobian(self.x1, i)
        other = None if same else self._jacobian(others, j)
        return self.row[1].gram(other, self.outputs, out)

    def empty(self, n: int, m: int) -> Tensor:
        """Room for n rows and m columns, in the order in memory that suits the products."""
        b, ends = self.shape[: self.axis], self.shape[self.axis + 2 :]
        like = torch.empty(0, dtype=self.plan.dtype, device=self.x1.device)
        return blank(like, (*b, n, m, *ends), self.outputs)

    def at(self, i: slice, j: slice) -> tuple[slice, ...]:
        """Where a block stands in the kernel."""
        return (*[slice(None)] * self.axis, i, j)

    def mirror(self, i: slice, j: slice, out) -> None:
        """Copies a block of a symmetric kernel to the other side of the diagonal."""
        if self.x2 is None and i != j:
            tile = out[self.at(i, j)].swapaxes(self.axis, self.axis + 1)
            out[self.at(j, i)] = tile.swapaxes(-1, -2) if self.outputs == "full" else tile

    def _jacobian(self, x: Tensor, i: slice) -> Tangent:
        given = self.module, self.params, x[i], self._stack
        found = self.plan.jacobian(*given, self.budget / 4)
        return _checked(found, i)

    def _in_groups(self, x: Tensor, i: slice) -> Iterator[Tangent]:
        given = self.module, self.params, x[i], self._stack
        return (_checked(t, i) for t in self.plan.in_groups(*given, self.group))

    @property
    def _stack(self) -> int:
        return self.shape[0] if self.axis else 0

    @property
    def sides(self) -> tuple[int, ...]:
        return self.shape[self.axis : self.axis + 2]


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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"ntk: {message}")
