"""Arithmetic on dictionaries of parameters, and transformations of functions of them.

Parameters are a ``dict[str, Tensor]``, as in ``torch.func``. Many networks live on one
leading axis: in a *stack* of b networks every tensor has shape ``(b, ...)``, and everything
here that reduces, reduces within each network.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from tangents import checks
from tangents.checks import require
from tangents.inputs import taken

Params = dict[str, Tensor]
Function = Callable[[Params, Tensor], Tensor]

BUSY = 8  # times the rows that fit a processor's cache keep a GPU busy


def tile_rows(like: Tensor, cached: int) -> int:
    """Rows of a tile: `cached`, as many as a processor's cache holds, or what a GPU asks for."""
    return cached if like.device.type == "cpu" else BUSY * cached


def stack(networks: Sequence[Params]) -> Params:
    """The networks on one leading axis: every tensor (b, ...) for b networks of equal shapes.

    ValueError for none, and for networks that differ in names, shapes or types.
    """
    require(len(networks) > 0, "stack: got no network, at least one is needed")
    first, *others = (kinds(f"network {i}", each) for i, each in enumerate(networks))
    alike = all(v == first for v in others)
    require(alike, "stack: the networks must have the same names, shapes and types")
    return {name: torch.stack([p[name] for p in networks]) for name in networks[0]}


def kinds(name: str, params: Params) -> dict[str, tuple]:
    """Shape and type by the names of parameters. TypeError for what is no dict of tensors."""
    checks.kind(name, params, dict)
    for k, v in params.items():
        checks.kind(f"{k!r} of {name}", v)
    return {k: (v.shape, v.dtype) for k, v in params.items()}


def select(tensors: Params, index: Int[Tensor, " k"] | slice | int) -> Params:
    """The networks `index` of a stack; an integer drops the leading axis."""
    return {name: value[index] for name, value in tensors.items()}


def call(module: nn.Module, params: Params, x: Any, **options: object) -> Any:
    """The module at these parameters, its own left as they are, and used for names that `params`
    lack. A tensor that stands in several layers is one parameter, known by its first name. Source:
    `torch.func.functional_call`, which leaves plain tensors in a layer that has two names."""
    return within(module, params, lambda: module(x, **options))


def within(module: nn.Module, params: Params, body: Callable[[], Any]) -> Any:
    """`body()` while the module has these parameters, as for `call`. A pass back belongs inside
    where it may compute activations anew, as checkpoints do."""
    given, first = {}, {}
    for prefix, layer in module.named_modules():  # each once
        for k, p in layer._parameters.items():
            name = f"{prefix}.{k}" if prefix else k
            known = first.setdefault(id(p), name)
            if p is not None and known in params:
                given[f"module.{name}"] = params[known]
    whole = nn.Module()
    whole.module, whole.forward = module, body
    return torch.func.functional_call(whole, given, (), tie_weights=False)


QUIET = (  # what torch warns of on its way to derivatives
    "There is a performance drop", "TF32 acceleration", "`torch.jit.script`",
    "None of the inputs have requires_grad",
)  # fmt: skip


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """Attention and recurrent layers by operations that have every derivative, forward and second
    ones too, and that `vmap` takes; what functorch warns of on the way is not shown."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as done:
        done.enter_context(warnings.catch_warnings())
        for message in QUIET:
            warnings.filterwarnings("ignore", message)
        done.enter_context(sdpa_kernel(SDPBackend.MATH))
        done.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(layer, nn.RNNBase) for layer in module.modules()):
            for backend in (torch.backends.mkldnn, torch.backends.cudnn):
                done.enter_context(backend.flags(enabled=False))
        yield


def outputs(module: nn.Module, params: Params, x: Tensor) -> Float[Tensor, "b n *c"]:
    """The outputs of a stack of b networks: in one pass where the module takes a stack as it is, as
    those of `models` do; else network by network."""
    b = len(next(iter(params.values())))
    try:
        found = call(module, params, x)
        if found.dim() > 2 and found.shape[:2] == (b, len(x)):
            return found
    except (RuntimeError, ValueError, IndexError):  # torch's own layers know no stacks
        pass
    each = [call(module, select(params, i), x) for i in range(b)]
    return torch.stack(each)


def stacked(module: nn.Module, params: Params, partial: bool = False) -> int:
    """Length of the stack that the parameters of `module` are, 0 for those of a single network.

    Raises ValueError for a name that is missing, unless they may be `partial`, or none of the
    module's, and for another shape; of a part, for another type than that of the module's own.
    TypeError for what is no module, and for what is no dict of tensors.
    """
    checks.kind("module", module, nn.Module)
    kinds("params", params)
    own = dict(module.named_parameters(remove_duplicate=False))
    strange = next((name for name in params if name not in own), None)
    require(strange is None, f"params hold {strange!r}: accepted are {', '.join(own)}")
    sizes = set()
    cast = next((name for name in params if params[name].dtype != own[name].dtype), None)
    for name, p in module.named_parameters():
        if name not in params:
            fits = partial and (cast is None or not p.is_floating_point())
            types = f", and {cast!r} has another type than the module's own" if partial else ""
            require(fits, f"params lack {name!r}{types}")
            continue
        want, got = tuple(p.shape), tuple(params[name].shape)
        extra = len(got) - len(want)
        fits = extra in (0, 1) and got[extra:] == want
        require(fits, f"{name!r} must have shape {want}, got {got}")
        sizes.add((got[0] or None) if extra else 0)
    require(len(sizes) > 0, "params hold no parameter")
    require(len(sizes) == 1, "params must all be of one network, or all of one stack")
    require(None not in sizes, "params are a stack of 0 networks")
    return sizes.pop()


def together(module: nn.Module, partial: bool = False, **given: Params) -> int:
    """`stacked` of several that belong together, as weights and a direction: all of the same names
    and types, and one length. ValueError where they are not."""
    (name, first), *others = given.items()
    b = stacked(module, first, partial)
    for other, params in others:
        alike = {k: dtype for k, (_, dtype) in kinds(other, params).items()}
        alike = alike == {k: v.dtype for k, v in first.items()}
        require(alike, f"{other} must have the names and types of {name}")
        found = stacked(module, params, partial)
        require(found == b, f"{other} must be of as many networks as {name}: "
                f"{b or 'a single one'}, got {found or 'a single one'}")  # fmt: skip
    return b


def stacks(module: nn.Module, **given: Params) -> int:
    """`together`, of stacks alone."""
    b, name = together(module, **given), next(iter(given))
    require(b > 0, f"{name} must be a stack, with a leading axis of networks: see `stack`")
    return b


def axpy(scale: Float[Tensor, " b"], x: Params, y: Params) -> Params:
    """y + scale * x, each network of the stack with its own scale (b,)."""
    return {k: torch.addcmul(y[k], _column(scale, x[k]), x[k]) for k in y}


def where(mask: Tensor, yes: Params, no: Params) -> Params:
    """The networks of `yes` where the mask (b,) holds, of `no` elsewhere."""
    return {k: torch.where(_column(mask, no[k]), yes[k], no[k]) for k in no}


def inner(x: Params, y: Params) -> Float[Tensor, " b"]:
    """Euclidean inner product over all parameters, one number for each network: (b,)."""
    return sum(torch.linalg.vecdot(_rows(x[k]), _rows(y[k])) for k in x)


def norm(x: Params) -> Float[Tensor, " b"]:
    """Euclidean norm over all parameters, one number for each network: (b,)."""
    return inner(x, x).sqrt()


def difference(x: Params, y: Params) -> Params:
    """x - y, tensor by tensor."""
    return {k: x[k] - y[k] for k in x}


def flatten(x: Params) -> Float[Tensor, "b p"]:
    """All parameters of each network as one row, in the order of the dictionary."""
    return torch.cat([_rows(v) for v in x.values()], 1)


def unflatten(rows: Float[Tensor, "b p"], like: Params) -> Params:
    """The inverse of `flatten`: rows of p numbers in the shapes of `like`, a stack."""
    parts = rows.split([v[0].numel() for v in like.values()], 1)
    return {k: part.reshape(-1, *like[k].shape[1:]) for k, part in zip(like, parts, strict=True)}


def centre_and_scale(f: Function, params0: Params, alpha: float | Tensor) -> Function:
    """F(w, x) = alpha (f(w, x) - f(w0, x)), the predictor whose laziness alpha sets.

    `alpha` is a number, or one number a network, shape (b, 1, 1) for stacked outputs (b, n, c);
    ValueError for another shape, and where it is not positive. At w = w0 the predictor is exactly
    zero. Source: Chizat, Oyallon & Bach (2019), section 1; Geiger et al. (2020), eq. (2).
    """
    wanted = kinds("params0", params0)
    require(len(wanted) > 0, "params0 hold no parameter")
    checks.rates("alpha", alpha)
    if isinstance(alpha, Tensor) and alpha.dim() > 0:
        checks.shaped("alpha", alpha, len(next(iter(params0.values()))), 1, 1)

    def F(params: Params, x: Tensor) -> Tensor:
        fits = kinds("params", params) == wanted
        require(fits, "params must have the names, shapes and types of params0")
        return alpha * (f(params, x) - f(params0, x))

    return F


def linearise(module: nn.Module, params0: Params) -> Function:
    """f_lin(w, x) = f(w0, x) + D f(w0, x) [w - w0], the tangent model of a network at w0.

    One forward-mode pass a call, at any x; exact for a function that is affine in its parameters.
    Many calls at the same examples are cheaper by `empirical.jacobian`: J.value + J.jvp(w - w0).
    ValueError for weights w unlike w0, and inputs that the module does not take. Source: Lee et al.
    (2019), eq. (3).
    """
    stacked(module, params0, partial=True)

    def f_lin(params: Params, x: Any) -> Tensor:
        together(module, True, params0=params0, params=params)
        with taken(x):
            return _tangent(module, params0, params, x)

    return f_lin


def _tangent(module: nn.Module, params0: Params, params: Params, x: Any) -> Tensor:
    shift = difference(params, params0)
    with differentiable(module):
        value, slope = torch.func.jvp(lambda p: call(module, p, x), (params0,), (shift,))
    return value + slope


class Linearised(nn.Module):
    """`linearise` as a module, so that what trains a network trains its tangent model at w0.

    `params0` of one network or of a stack; the parameters, the weights w, bear the names that
    `named` gives them.
    """

    def __init__(self, module: nn.Module, params0: Params):
        super().__init__()
        stacked(module, params0, partial=True)
        self.module, self.params0 = module, params0

    def named(self, params: Params) -> Params:
        """Parameters of the network under the names that they have here."""
        return {f"module.{name}": value for name, value in params.items()}

    def forward(self, x: Tensor) -> Tensor:
        params = dict(self.module.named_parameters(remove_duplicate=False))
        return _tangent(self.module, self.params0, params, x)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Removes the hooks of these handles at the end, however it comes."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(v: Tensor) -> Tensor:
    return v.reshape(len(v), -1)  # of scalars too, which `flatten` refuses


def _column(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *[1] * (like.dim() - 1))
