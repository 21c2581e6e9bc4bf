"""The empirical tangent kernel Theta(x, x') = J(x) J(x')^T of any network, J = df/dparameters.

`budget` bounds the memory that a kernel takes beside itself.
"""

from torch import Tensor, nn

from tangents._ntk.disk import ntk_on_disk
from tangents._ntk.guard import admitted
from tangents._ntk.inputs import Inputs
from tangents._ntk.route import Route, rerouted
from tangents._ntk.tiles import Tiles
from tangents.factored import Jacobian
from tangents.functional import Params, require

__all__ = ["jacobian", "ntk", "ntk_on_disk"]


@rerouted
def jacobian(module: nn.Module, params: Params, x: Inputs) -> Jacobian:
    """The factored Jacobian at x (n, ...): a pass forward, and passes back for all outputs.

    `module` maps (n, ...) to (n, c), each example by itself. For a stack of b networks, `params`
    have a leading axis b. Linear, convolutional, embedding and normalisation layers are
    structured, at several positions or in several calls too, if their structured gradient agrees
    with automatic differentiation; all other parameters take the general route. Raises ValueError
    for a module that is not a map of single examples.

    The way is found once for a module as it is (layers, modes, settings, hooks, functions), near
    the given weights, on three examples one by one and in two orders; a module that draws torch's
    random numbers is refused. Of every batch the outputs of four examples are compared with what
    they are by themselves, and, of known layers once for each size of batch, J^T u with automatic
    differentiation. What escapes: coupling that leaves these four as they are, rows that are
    reordered inside later batches alone, other sources of chance, globals that the module reads.
    """
    params, b = admitted(module, params, x=x)
    return Route.of(module, params, x, b).jacobian(module, params, x, b)


@rerouted
def ntk(
    module: nn.Module,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    outputs: str = "full",
    budget: float | None = None,
) -> Tensor:
    """The empirical tangent kernel Theta (n, m, c, c) between inputs x1 (n, ...) and x2 (m, ...).

    Without `x2`, between x1 and itself. `outputs`: "full"; the "diagonal" over outputs (n, m, c);
    their "trace" (n, m). For a stack of b networks with a leading axis b. Beside the result about
    `budget` bytes are used, by default a quarter of those free. Raises ValueError for what
    `jacobian` refuses, where a parameter, an input or an output is not finite, and where half
    precision does not hold the kernel. Source: Jacot et al. (2018), section 4; Novak et al. (2022),
    section 3.
    """
    tiles = Tiles.of(module, params, x1, x2, outputs, budget).thin()
    out = tiles.empty(*tiles.sides)
    for _ in tiles.fill(out):
        pass
    if out.dtype.itemsize < 4:  # whose numbers end early
        require(bool(out.isfinite().all()), f"the kernel is not finite in {out.dtype}")
    return out
