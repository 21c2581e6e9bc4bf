"""Tangent kernels, linearised training and Gauss-Newton steps of any `torch.nn.Module`.

The names below are the package's face; each is imported when it is first asked for, and importing
the package does nothing else. Functions of networks take a module and its parameters, a
``dict[str, Tensor]`` of one network or, with a leading axis, of a stack; device and dtype are those
of the tensors handed in.

The engine is the modules at the top. Beside it stand `data` (real data sets and tasks), `lab` (what
a study is, how it is run, stored and judged), `studies` (one folder a chapter) and `pages`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tangents.curvature import gauss_newton, gauss_newton_product, output_hessian_norm
    from tangents.descent import descend
    from tangents.empirical import jacobian, ntk, ntk_on_disk
    from tangents.factored import Jacobian
    from tangents.features import NTKFeatures
    from tangents.functional import centre_and_scale, linearise, stack
    from tangents.infinite import fully_connected
    from tangents.linearised import krylov_spectrum, leap, spectrum

__version__ = "0.1.0"
__all__ = [
    "Jacobian",
    "NTKFeatures",
    "centre_and_scale",
    "descend",
    "fully_connected",
    "gauss_newton",
    "gauss_newton_product",
    "jacobian",
    "krylov_spectrum",
    "leap",
    "linearise",
    "ntk",
    "ntk_on_disk",
    "output_hessian_norm",
    "spectrum",
    "stack",
]
_MODULES = {
    "curvature": ("gauss_newton", "gauss_newton_product", "output_hessian_norm"),
    "descent": ("descend",),
    "empirical": ("jacobian", "ntk", "ntk_on_disk"),
    "factored": ("Jacobian",),
    "features": ("NTKFeatures",),
    "functional": ("centre_and_scale", "linearise", "stack"),
    "infinite": ("fully_connected",),
    "linearised": ("krylov_spectrum", "leap", "spectrum"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
