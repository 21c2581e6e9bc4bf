"""A kernel in blocks, or output by output, so that a budget holds what is needed of J."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from tangents._ntk.guard import admitted
from tangents._ntk.route import Route
from tangents.factored import OUTPUTS, Jacobian, blank, blocks
from tangents.functional import Params, require
from tangents.inputs import Inputs, count, kind, some, tensors

THIN = 4  # the columns of a block are one in so many examples that the budget holds


@dataclass(frozen=True)
class Tiles:
    """A kernel in blocks of `rows` by `columns`, each of which can be computed by itself."""

    module: nn.Module
    params: Params
    x1: Inputs
    x2: Inputs | None
    outputs: str
    route: Route
    shape: tuple[int, ...]  # of the whole kernel
    axis: int  # of the rows
    budget: float  # bytes beside the result
    rows: int = 0
    columns: int = 0
    group: int = 0  # outputs at a time: the Jacobians of others are not held; 0: all at once

    @classmethod
    def of(cls, module, params, x1, x2, outputs, budget) -> "Tiles":
        """Arguments and errors as for `ntk`; not in blocks yet."""
        params, b = admitted(module, params, x1=x1, x2=x2)
        for name, values in {**params, "x1": x1, "x2": x2}.items():
            finite = values is None or all(map(_finite, tensors(values)))
            require(finite, f"{name} holds values that are not finite")
        alike = x2 is None or kind(x1) == kind(x2)
        require(alike, f"x1 and x2 must be of one kind, got {kind(x1)} and {alike or kind(x2)}")
        require(outputs in OUTPUTS, f"outputs must be one of {', '.join(OUTPUTS)}: {outputs!r}")
        budget = _free(tensors(x1)[0].device) / 4 if budget is None else float(budget)
        fits = 0 < budget < math.inf
        require(fits, f"the budget must be a number of bytes above 0, got {budget}")
        route = Route.of(module, params, x1, b)
        lead, n, m = (b,) if b else (), count(x1), count(x1 if x2 is None else x2)
        ends = (route.outputs,) * OUTPUTS[outputs]
        return cls(module, params, x1, x2, outputs, route, (*lead, n, m, *ends), len(lead), budget)

    def thin(self) -> "Tiles":
        """In blocks of many rows and few columns: the passes for these are made anew for each block
        of rows, whose Jacobian stays; they are the fewer the more rows it has."""
        n, m = self.sides
        tiles = self._for(n if self.x2 is None else n + m)
        held = tiles._held
        columns = held // 2 if tiles.group else min(m, held // THIN)
        alone = self.x2 is None and held >= n
        return tiles.in_blocks(n if alone else held - max(1, columns), columns)

    def square(self, most: int) -> "Tiles":
        """In square blocks of at most `most` rows; the budget holds such a block as well."""
        tiles, n = self._for(2 * most), math.prod(self.sides)
        each, entry = tiles._example, self.route.dtype.itemsize * math.prod(self.shape) / n
        size = int(0.75 * self.budget / (each + (each**2 + 0.75 * entry * self.budget) ** 0.5))
        return tiles.in_blocks(min(most, size), min(most, size))

    def in_blocks(self, rows: int, columns: int) -> "Tiles":
        """In blocks of these sizes."""
        return replace(self, rows=max(1, rows), columns=max(1, columns))

    def _for(self, examples: int) -> "Tiles":
        """With as many outputs at a time as let the budget hold so many examples."""
        route = self.route
        if self.outputs == "full" or route.outputs == 1:
            return self
        tried, group = [], route.together
        while group:
            tried.append(replace(self, group=group))
            group //= 2
        tried = tried if route.long else [self, *tried, self]  # long rows fill the cache alone
        return next((tiles for tiles in tried if tiles._held >= examples), tried[-1])

    @property
    def _held(self) -> int:
        """Examples whose rows of the Jacobian the budget holds; the rest of it is for the way."""
        return int(0.75 * self.budget / self._example)

    @property
    def _example(self) -> float:
        """Bytes of an example's row of the Jacobian, for all networks."""
        route, numbers = self.route, self.route.held
        if self.group:
            others = route.signals * (1 - self.group / route.outputs)
            numbers += route.transient + route.returned * self.group - others
        twice = 2 if self._stack and not route.stacks else 1  # networks are put together
        return twice * max(1, self._stack) * route.dtype.itemsize * numbers

    def places(self) -> list[tuple[slice, slice]]:
        """(rows, columns) of the blocks; of a symmetric kernel, all up to the diagonal."""
        n, m = self.sides
        found = []
        for i in blocks(n, self.rows):
            found += [(i, j) for j in blocks(i.start if self.x2 is None else m, self.columns)]
            found += [(i, i)] if self.x2 is None else []
        return found

    def computed(self) -> Tensor:
        """The whole kernel."""
        out = self.empty(*self.sides)
        for _ in self.fill(out):
            pass
        return out

    def fill(self, out: Tensor | np.ndarray, places=None) -> Iterator[tuple[slice, slice]]:
        """Computes these blocks, or all, into a kernel; yields each one's place when it is there.

        Blocks of one row stand after one another and share its Jacobian.
        """
        places = self.places() if places is None else places
        for i, beside in itertools.groupby(places, itemgetter(0)):
            row = None  # before the next one comes: the budget holds one
            row = None if self.group else self._jacobian(self.x1, i)
            for _, j in beside:
                place = out[self.at(i, j)]
                if isinstance(out, Tensor):
                    self._tile(i, j, row, place)
                else:
                    place[...] = self._tile(i, j, row).cpu().numpy()
                self._mirror(i, j, out)
                yield i, j

    def _tile(self, i: slice, j: slice, row: Jacobian | None, out: Tensor | None = None) -> Tensor:
        """Theta[i, j], written to `out` if given; `row` is the Jacobian of i, None in groups."""
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
        other = None if same else self._jacobian(others, j)
        return row.gram(other, self.outputs, out)

    def empty(self, n: int, m: int) -> Tensor:
        """Room for n rows and m columns, in the order in memory that suits the products."""
        b, ends = self.shape[: self.axis], self.shape[self.axis + 2 :]
        like = torch.empty(0, dtype=self.route.dtype, device=tensors(self.x1)[0].device)
        return blank(like, (*b, n, m, *ends), self.outputs)

    def at(self, i: slice, j: slice) -> tuple[slice, ...]:
        """Where a block stands in the kernel."""
        return (*[slice(None)] * self.axis, i, j)

    def _mirror(self, i: slice, j: slice, out) -> None:
        """Copies a block of a symmetric kernel to the other side of the diagonal."""
        if self.x2 is None and i != j:
            tile = out[self.at(i, j)].swapaxes(self.axis, self.axis + 1)
            out[self.at(j, i)] = tile.swapaxes(-1, -2) if self.outputs == "full" else tile

    def _jacobian(self, x: Inputs, i: slice) -> Jacobian:
        given = self.module, self.params, some(x, i), self._stack
        found = self.route.jacobian(*given, self.budget / 4)
        return _checked(found, i)

    def _in_groups(self, x: Inputs, i: slice) -> Iterator[Jacobian]:
        given = self.module, self.params, some(x, i), self._stack
        return (_checked(t, i) for t in self.route.in_groups(*given, self.group))

    @property
    def _stack(self) -> int:
        return self.shape[0] if self.axis else 0

    @property
    def sides(self) -> tuple[int, ...]:
        return self.shape[self.axis : self.axis + 2]


def _checked(found: Jacobian, i: slice) -> Jacobian:
    if not _finite(found.value):
        where = f"the output is not finite for the inputs {i.start} to {i.stop}"
        lost = ~found.value.isfinite().flatten(-2).all(-1)
        networks = lost.nonzero().flatten().tolist() if lost.dim() else []
        raise ValueError(where + (f", of the networks {networks}" if networks else ""))
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
