"""The empirical tangent kernel Theta(x, x') = J(x) J(x')^T of any network, J = df/dparameters.

`budget` bounds the memory that a kernel takes beside itself.
"""

from torch import Tensor, nn

from tangents import checks
from tangents._ntk.disk import ntk_on_disk
from tangents._ntk.guard import admitted
from tangents._ntk.route import Route, rerouted
from tangents._ntk.tiles import Tiles
from tangents.factored import Jacobian
from tangents.functional import Params, require
from tangents.inputs import Inputs, tensors

__all__ = ["jacobian", "ntk", "ntk_on_disk"]


@rerouted
def jacobian(module: nn.Module, params: Params, x: Inputs) -> Jacobian:
    """The factored Jacobian at x (n, ...): a pass forward, and passes back for all outputs.

    `module` maps (n, ...) to (n, ...), each example by itself; outputs are flattened to (n, c). `x`
    is a tensor, or a dict, tuple or list of such with a common first axis, which the module gets as
    its one argument. `params` of one network, or of a stack of b with a leading axis b, may hold
    fewer names than the module: J has their columns, and all others keep the module's own values,
    as in `{k: v for k, v in params.items() if k.startswith("head.")}`. J is of the outputs' type or
    of the parameters', whichever holds more.

    Linear, convolutional, embedding and normalisation layers are structured, at several positions
    or in several calls too, where that is right; all other parameters take the general route. The
    result carries no graph: parameters that are the module's own, or plain tensors, are taken as
    they are, and whatever else asks for a derivative is refused. ValueError for this, and for what
    `ntk` says is refused.
    """
    params, b = admitted(module, params, x=x)
    for v in tensors(x):
        checks.finite(x=v)
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
    their "trace" (n, m). Modules, parameters and inputs as for `jacobian`; for a stack of b
    networks with a leading axis b. Beside the result about `budget` bytes are used, by default a
    quarter of those free. ValueError where a parameter, an input or an output is not finite, where
    half precision does not hold the kernel, and for a module that couples examples, draws random
    numbers or writes into its buffers. What is compared for that, when, and what escapes it:
    `tangents._ntk.route`. Source: Jacot et al. (2018), section 4; Novak et al. (2022), section 3.
    """
    out = Tiles.of(module, params, x1, x2, outputs, budget).thin().computed()
    if out.dtype.itemsize < 4:  # whose numbers end early
        require(bool(out.isfinite().all()), f"the kernel is not finite in {out.dtype}")
    return out
