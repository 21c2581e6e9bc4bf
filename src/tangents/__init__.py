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
ntk           the empirical tangent kernel of any module
stream        the same on disk, resumable, by one process or many
linearised    training of the tangent model, many steps at once
curvature     Hessian norms, Gauss-Newton products and steps
train         gradient flow of many networks at once
optimise      gradient descent, momentum and Adam, likewise
probes        what is measured on a network
experiments   the studies: a config, presets, a run function and claims
results       where finished runs are kept and published

All functions of networks take a ``torch.nn.Module`` and its parameters as a ``dict[str, Tensor]``;
device and dtype are those of the tensors handed in.
"""

__version__ = "0.1.0"
