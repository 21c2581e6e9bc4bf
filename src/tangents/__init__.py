"""Lazy or feature learning: training, tangent kernels, and the studies of the book.

Modules, from the bottom up; each imports only from those before it:

functional    arithmetic on dictionaries of parameters; centred, scaled and linearised predictors
losses        of a margin and of outputs, with their derivatives
datasets      real data, fetched and verified; the tasks made of them
models        networks in the NTK parametrisation
kernels       distances between kernels, and what a fixed kernel learns
lanczos       eigenvalues of operators that are known by their products
jacobian      the Jacobian as a linear operator in factored form
structure     what layers contribute to it
plan          which way it comes, for any module
ntk           the empirical tangent kernel of any module
stream        the same on disk, resumable, by one process or many
linearised    training of the tangent model, many steps at once
curvature     Hessian norms, Gauss-Newton products and steps
chain         passes through stacks of small networks, written out
train         gradient flow of many networks at once
optimise      gradient descent, momentum and Adam, likewise
probes        what is measured on a network
experiments   the studies: a config, presets, a run function and claims
results       where finished runs are kept and published

All functions of networks take a ``torch.nn.Module`` and its parameters as a ``dict[str, Tensor]``;
device and dtype are those of the tensors handed in.

On import the process is told to keep freed memory for what it needs next, see `_keep_freed`.
"""

import ctypes

__version__ = "0.1.0"

KEPT, BLOCK = 2**30, 2**25  # bytes


def _keep_freed() -> None:
    """Has the C library keep what is freed at the end of its memory, up to `KEPT` bytes.

    Each page that is given back must be fetched and cleared again, which takes longer than the work
    on it: a step of training stacked networks takes up to twice the time. Blocks of `BLOCK` bytes
    and more that do not fit into what is kept are fetched by themselves and do go back. This takes
    the place of settings in the environment (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_), such
    as dask's. Only glibc can be told; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mallopt(-1, KEPT)  # M_TRIM_THRESHOLD
    mallopt(-3, BLOCK)  # M_MMAP_THRESHOLD


_keep_freed()
